//! What leaves the host by itself: each window to each destination of `[send.to]`, through outages, by one client for all of
//! HTTP. Does not know how snapshots are made.

pub mod backoff;
mod ended;
mod figures;
pub mod http;
mod message;
mod otlp;
mod remote_write;
mod semantic;
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

use tokio::sync::oneshot;

use self::{figures::Figures, sink::Sink};
use crate::{
    config,
    model::snapshot::{Series, SnapshotHandle},
};

/// All destinations, each on a thread of its own.
#[derive(Debug, Default)]
pub struct Senders {
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    name: String,
    figures: Arc<Figures>,
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

    /// What became of all that was sent.
    pub fn series(&self) -> Vec<Series> {
        self.running.iter().flat_map(|running| running.figures.series(&running.name)).collect()
    }

    /// Ends. What has not arrived by now stays in the spools; a thread that hangs is waited for until `late`.
    pub fn stop(self, late: Instant) {
        let ended: Vec<_> = self
            .running
            .into_iter()
            .map(|running| {
                // It fails where the thread has ended.
                let _ = running.stop.send(());
                running.ended
            })
            .collect();
        for ended in ended {
            // Nothing is ever sent through it; it closes.
            let _ = ended.recv_timeout(late.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        }
    }
}

fn start(
    name: &str,
    destination: &config::destination::Destination,
    config: &config::Send,
    snapshots: &SnapshotHandle,
) -> io::Result<Running> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = Arc::new(Figures::default());
    let (stop, stopped) = oneshot::channel();
    let (alive, ended) = mpsc::channel();
    let (folder, shared, snapshots) = (config.folder.join(name), Arc::clone(&figures), snapshots.clone());
    let (name, destination) = (name.to_owned(), destination.clone());
    let work = {
        let name = name.clone();
        move || {
            // Opening reads what was left, which may take as long as a disk takes.
            let sink = Sink::open(&name, &destination, folder, shared);
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = sink.run(snapshots) => {}
                }
            });
            // Names that are being looked up are waited for otherwise.
            runtime.shutdown_background();
            drop(alive);
        }
    };
    thread::Builder::new().name("steth-send".into()).spawn(work)?;
    Ok(Running { name, figures, stop, ended })
}
