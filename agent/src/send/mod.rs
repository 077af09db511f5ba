//! What leaves the host by itself: windows, single events and profiles to the destinations of `[send.to]`, through outages, by
//! one client for all of HTTP. Does not know how any of it is made.

pub mod backoff;
mod encoder;
mod ended;
mod figures;
pub mod http;
mod logs;
mod message;
mod otlp;
mod profiles;
mod remote_write;
mod sink;
pub mod spool;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc::error::TrySendError, oneshot};

use self::{
    encoder::Input,
    figures::Figures,
    sink::{Sink, Source},
};
use crate::{
    config::{
        self,
        destination::{Destination, Protocol},
    },
    model::{
        news::{Batch, WrittenPiece},
        snapshot::{Series, SnapshotHandle},
    },
};

/// Batches and pieces that wait for a destination's thread, which only a disk can hold up.
const WAITING: usize = 64;

/// Tells destinations of what they cannot ask for. Clones tell the same.
#[derive(Clone, Debug, Default)]
pub struct Tellers(Vec<Teller>);

#[derive(Clone, Debug)]
struct Teller {
    queue: tokio::sync::mpsc::Sender<Input>,
    figures: Arc<Figures>,
}

impl Tellers {
    /// Whether there is anybody to be told.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Things happened.
    pub fn news(&self, batch: &Batch) {
        self.tell(&Input::News(Arc::clone(batch)));
    }

    /// A piece of the profile is finished.
    pub fn piece(&self, piece: &WrittenPiece) {
        self.tell(&Input::Piece(Arc::clone(piece)));
    }

    /// So many things could not be told.
    pub fn missed(&self, count: u64) {
        self.0.iter().for_each(|teller| teller.figures.lock().behind += count);
    }

    /// Never waits.
    fn tell(&self, input: &Input) {
        for teller in &self.0 {
            if let Err(TrySendError::Full(_)) = teller.queue.try_send(input.clone()) {
                teller.figures.lock().behind += 1;
            }
        }
    }
}

/// All destinations, each on a thread of its own.
#[derive(Debug, Default)]
pub struct Senders {
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    name: String,
    protocol: Protocol,
    figures: Arc<Figures>,
    told: Option<Teller>,
    stop: oneshot::Sender<()>,
    ended: mpsc::Receiver<()>,
}

impl Senders {
    /// Begins to send to all that are configured. One that cannot begin is told, and the rest goes on.
    pub fn start(config: &config::Send, snapshots: &SnapshotHandle) -> Self {
        let mut running = Vec::new();
        for (name, destination) in &config.to {
            match start(name, destination, config, snapshots) {
                Ok(started) => running.push(started),
                Err(error) => tracing::error!("send.to.{name}: cannot start its thread: {error}"),
            }
        }
        Self { running }
    }

    /// Tells those that take single events.
    pub fn of_news(&self) -> Tellers {
        self.tellers(|protocol| protocol == Protocol::OtlpLogs)
    }

    /// Tells those that take profiles.
    pub fn of_pieces(&self) -> Tellers {
        self.tellers(|protocol| matches!(protocol, Protocol::Pyroscope | Protocol::Parca))
    }

    fn tellers(&self, wanted: impl Fn(Protocol) -> bool) -> Tellers {
        let wanted = self.running.iter().filter(|running| wanted(running.protocol));
        Tellers(wanted.filter_map(|running| running.told.clone()).collect())
    }

    /// What became of all that was sent.
    pub fn series(&self) -> Vec<Series> {
        self.running.iter().flat_map(|running| running.figures.series(&running.name)).collect()
    }

    /// Ends. What has not arrived by now stays in the spools; a thread that hangs is waited for until `late`. What was told is
    /// kept first, if all other tellers are gone.
    pub fn stop(self, late: Instant) {
        let ended: Vec<_> = self
            .running
            .into_iter()
            .map(|Running { told, stop, ended, .. }| match told {
                // It ends when it has taken all that it was told.
                Some(teller) => {
                    drop(teller);
                    (Some(stop), ended)
                }
                None => {
                    // It fails where the thread has ended.
                    let _ = stop.send(());
                    (None, ended)
                }
            })
            .collect();
        for (_stop, ended) in ended {
            // Nothing is ever sent through it; it closes.
            let _ = ended.recv_timeout(late.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        }
    }
}

fn start(
    name: &str,
    destination: &Destination,
    config: &config::Send,
    snapshots: &SnapshotHandle,
) -> io::Result<Running> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = Arc::new(Figures::default());
    let (stop, stopped) = oneshot::channel();
    let (alive, ended) = mpsc::channel();
    let (folder, shared, snapshots) = (config.folder.join(name), Arc::clone(&figures), snapshots.clone());
    let (name, destination) = (name.to_owned(), destination.clone());
    let protocol = destination.protocol;
    let (told, queue) = match protocol {
        Protocol::RemoteWrite | Protocol::RemoteWrite2 | Protocol::Otlp => (None, None),
        Protocol::OtlpLogs | Protocol::Pyroscope | Protocol::Parca => {
            let (queue, taken) = tokio::sync::mpsc::channel(WAITING);
            (Some(Teller { queue, figures: Arc::clone(&figures) }), Some(taken))
        }
    };
    let work = {
        let name = name.clone();
        move || {
            // Opening reads what was left, which may take as long as a disk takes.
            let sink = Sink::open(&name, &destination, folder, shared);
            runtime.block_on(async {
                let source = match queue {
                    Some(queue) => Source::Told(queue),
                    None => Source::windows(snapshots, destination.every),
                };
                tokio::select! {
                    _ = stopped => {}
                    () = sink.run(source) => {}
                }
            });
            // Names that are being looked up are waited for otherwise.
            runtime.shutdown_background();
            drop(alive);
        }
    };
    thread::Builder::new().name("steth-send".into()).spawn(work)?;
    Ok(Running { name, protocol, figures, told, stop, ended })
}
