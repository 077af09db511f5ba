//! The table of contents of the program: sources, stages and sinks, in order. Knows all of them; none knows it.

mod clusters;
mod probes;
mod sources;
mod tls;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use sources::Sources;
use tokio::{sync::mpsc, time::MissedTickBehavior};

use crate::{
    config::Config,
    export::prometheus::{Exporter, Format},
    model::{
        probe::{HostAbility, ProbeStatus},
        snapshot::{Snapshot, SnapshotPublisher, handle_and_publisher},
    },
    serve::{self, Bounds, Content, Exposition, ServeError, Server},
};

/// Requests in progress may take this long to end; the whole agent ends within 2 s.
const STOP_PATIENCE: Duration = Duration::from_millis(1_000);

/// A request from a person, through the command line or a signal.
#[derive(Debug)]
pub enum Command {
    /// Take over what can change live.
    Reload(Box<Config>),
    /// End cleanly.
    Stop,
}

/// What this host allows, and what became of every probe.
#[derive(Clone, Debug)]
pub struct Examination {
    /// Kernel, user and machine.
    pub ability: HostAbility,
    /// Every probe, in the order of the catalog.
    pub probes: Vec<ProbeStatus>,
    /// What programs and maps take together.
    pub kernel_memory_bytes: u64,
}

/// Why the pipeline cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The listener.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Neither a probe nor a host metric can be had.
    #[error("nothing can be measured: {reason}")]
    NothingToMeasure {
        /// What is missing.
        reason: String,
    },
}

/// A pipeline whose first snapshot is taken and whose sinks answer.
pub struct Pipeline {
    config: Config,
    sources: Sources,
    examination: Examination,
    address: SocketAddr,
    server: Server,
    snapshots: SnapshotPublisher,
    taken: Instant,
}

/// Finds out what this host allows, without leaving anything behind.
pub fn examine(config: &Config) -> Examination {
    Sources::open(config).1
}

/// Binds, opens the sources, takes the first snapshot, starts the sinks.
///
/// # Errors
/// When the address is taken, or when nothing can be measured.
pub async fn start(config: Config) -> Result<Pipeline, StartError> {
    // First: a taken port must not cost the host a load of all probes.
    let bound = serve::bind(config.listen).await?;
    let address = bound.address();

    let (mut sources, examination) = Sources::open(&config);
    if !examination.ability.probes_can_run() && !config.host.node && !config.host.processes {
        let lacking = examination.ability.findings().into_iter().find(|finding| !finding.advice.is_empty());
        let reason = lacking.map(|finding| format!("{}: {}; {}", finding.name, finding.found, finding.advice));
        let reason = format!("{}, and host metrics are switched off in [host]", reason.unwrap_or_default());
        return Err(StartError::NothingToMeasure { reason });
    }

    let (handle, snapshots) = handle_and_publisher();
    snapshots.publish(Arc::new(sources.snapshot()));
    let taken = Instant::now();

    let exporter = Arc::new(Exporter::default());
    let expositions = Format::ALL.map(|format| {
        let exporter = Arc::clone(&exporter);
        Exposition {
            media_type: format.media_type(),
            render: Arc::new(move |snapshot| exporter.text(snapshot, format)),
        }
    });
    let content = Content { snapshots: handle, expositions: expositions.into() };
    let bounds = Bounds { connections: config.http.connections, timeout: config.http.timeout };
    let server = bound.serve(content, bounds);
    Ok(Pipeline { config, sources, examination, address, server, snapshots, taken })
}

impl Pipeline {
    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was found at the start.
    pub fn examination(&self) -> &Examination {
        &self.examination
    }

    /// Works until a command, or the loss of all who could give one, stops it.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut ring = tokio::time::interval(self.config.kernel.ring_interval);
        let mut kept = tokio::time::interval(self.config.window.kept);
        ring.set_missed_tick_behavior(MissedTickBehavior::Delay);
        kept.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(request) = self.snapshots.requested() => request.answer(self.fresh_snapshot()),
                _ = ring.tick() => self.sources.drain(),
                // Cells wrap, and names are only to be found while their processes live: look even if nobody asks.
                _ = kept.tick() => drop(self.fresh_snapshot()),
                command = commands.recv() => match command {
                    Some(Command::Reload(config)) => {
                        self.sources.reload(&config);
                        self.config = *config;
                    }
                    Some(Command::Stop) | None => break,
                },
            }
        }
        self.server.stop(STOP_PATIENCE).await;
    }

    fn fresh_snapshot(&mut self) -> Arc<Snapshot> {
        match self.snapshots.latest() {
            Some(latest) if self.taken.elapsed() < self.config.window.live => latest,
            _ => {
                let fresh = Arc::new(self.sources.snapshot());
                self.taken = Instant::now();
                self.snapshots.publish(Arc::clone(&fresh));
                fresh
            }
        }
    }
}
