//! The HTTP sink: one listener for metrics and API, bounded in connections, time and bytes. Does not know how
//! snapshots are made or written.

mod accept;
mod alerts;
mod audit;
mod connection;
mod findings;
mod flame;
mod guard;
mod posted;
mod postgres;
mod problem;
mod rate;
mod routes;
mod seats;
mod settings;
#[cfg(test)]
mod tests;
mod tls;
mod trace;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::body::Bytes;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    config::Config,
    model::{
        profile::{Draw, KnowsFormat},
        query::Desk,
        snapshot::{Series, Snapshot, SnapshotHandle},
    },
};

pub use flame::Tickets;
pub use guard::Guard;
pub use routes::PATHS;

/// How a snapshot becomes the answer to a scrape.
pub type Render = Arc<dyn Fn(&Arc<Snapshot>) -> Bytes + Send + Sync>;

/// One way to write a snapshot for `/metrics`.
#[derive(Clone)]
pub struct Exposition {
    /// The media type, with its version.
    pub media_type: &'static str,
    /// How it is written.
    pub render: Render,
}

/// What is served.
#[derive(Clone)]
pub struct Content {
    /// Where snapshots come from.
    pub snapshots: SnapshotHandle,
    /// Where questions are asked that no snapshot answers.
    pub desk: Desk,
    /// How they are written for `/metrics`; the first way is for who has no preference.
    pub expositions: Arc<[Exposition]>,
    /// Draws profiles.
    pub draw: Draw,
    /// Tells misspelt formats before a profile is taken.
    pub knows_format: KnowsFormat,
    /// Profiles that can be ended early.
    pub tickets: Tickets,
}

/// What clients may use up.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at a time; further ones wait to be accepted.
    pub connections: usize,
    /// For sending a request, for waiting on a keep-alive connection, for taking the answer.
    pub timeout: Duration,
}

/// A listener that is bound and not yet served.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

/// A listener that is served.
pub struct Server {
    guard: Arc<Guard>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

/// Why an address cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Someone else listens there.
    #[error(
        "cannot listen on {address}: the port is taken. To see who has it: ss -ltnp 'sport = :{}'. To use another: --listen \
         {}:PORT, or the key `listen`", .address.port(), host(.address)
    )]
    Taken {
        /// The address.
        address: SocketAddr,
    },
    /// The system refuses for another reason.
    #[error("cannot listen on {address}: {source}. To use another address: --listen ADDRESS:PORT, or the key `listen`")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be known who may come.
    #[error("{0}")]
    Access(String),
}

/// Takes an address; port 0 takes any free port.
///
/// # Errors
/// When the address is taken, or not ours to take.
pub async fn bind(address: SocketAddr) -> Result<Bound, ServeError> {
    let listen = async {
        let listener = TcpListener::bind(address).await?;
        Ok(Bound { address: listener.local_addr()?, listener })
    };
    listen.await.map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::Taken { address },
        _ => ServeError::Refused { address, source },
    })
}

impl Bound {
    /// The address, with the port that was really taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to answer whom the guard admits.
    pub fn serve(self, content: Content, bounds: Bounds, guard: Guard) -> Server {
        let guard = Arc::new(guard);
        let (stop, stopped) = watch::channel(false);
        let router = routes::router(content, bounds.timeout, Arc::clone(&guard));
        let accepting = connection::accept(self.listener, router, bounds, Arc::clone(&guard), stopped);
        Server { guard, stop, accepting: tokio::spawn(accepting) }
    }
}

impl Server {
    /// Takes over what may change: certificates, tokens, rates. Connections that stand keep their certificate.
    pub fn reload(&self, config: &Config) {
        self.guard.reload(config);
    }

    /// Its own figures.
    pub fn series(&self) -> Vec<Series> {
        self.guard.series()
    }

    /// Accepts nothing more, lets requests in progress end for up to `patience`, then drops them.
    pub async fn stop(self, patience: Duration) {
        self.stop.send_replace(true);
        let mut accepting = self.accepting;
        if tokio::time::timeout(patience, &mut accepting).await.is_err() {
            accepting.abort();
        }
    }
}

/// The address as it stands before a port.
fn host(address: &SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}
