//! The table of contents of the program: sources, stages and sinks, in order. Knows all of them; none knows it.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use procfs::{WithCurrentSystemInfo, process::Process};
use tokio::sync::mpsc;

use crate::{
    config::Config,
    export::prometheus::{CONTENT_TYPE, Exporter},
    model::{
        catalog::steth::{AGENT_CPU, AGENT_RESIDENT, BUILD_INFO},
        probe::{Btf, HostAbility, Lockdown, Privileges, ProbeStatus},
        snapshot::{Series, Snapshot, SnapshotPublisher, handle_and_publisher},
    },
    serve::{self, Bounds, Content, ServeError, Server},
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
#[derive(Debug)]
pub struct Pipeline {
    config: Config,
    examination: Examination,
    address: SocketAddr,
    server: Server,
    snapshots: SnapshotPublisher,
    taken: Instant,
}

/// Finds out what this host allows, without leaving anything behind.
pub fn examine(config: &Config) -> Examination {
    Examination { ability: ability(&config.kernel.btf), probes: Vec::new() }
}

/// Binds, opens the sources, takes the first snapshot, starts the sinks.
///
/// # Errors
/// When the address is taken, or when nothing can be measured.
pub async fn start(config: Config) -> Result<Pipeline, StartError> {
    // First: a taken port must not cost the host a load of all probes.
    let bound = serve::bind(config.listen).await?;
    let address = bound.address();

    let examination = examine(&config);
    if !examination.ability.probes_can_run() && !config.host.node && !config.host.processes {
        let lacking = examination.ability.findings().into_iter().find(|finding| !finding.advice.is_empty());
        let reason = lacking.map(|finding| format!("{}: {}; {}", finding.name, finding.found, finding.advice));
        let reason = format!("{}, and host metrics are switched off in [host]", reason.unwrap_or_default());
        return Err(StartError::NothingToMeasure { reason });
    }

    let (handle, snapshots) = handle_and_publisher();
    snapshots.publish(Arc::new(snapshot(&examination)));
    let taken = Instant::now();

    let exporter = Exporter::default();
    let content = Content {
        snapshots: handle,
        exposition: Arc::new(move |snapshot| exporter.text(snapshot).map_err(|error| error.to_string())),
        exposition_type: CONTENT_TYPE,
    };
    let bounds = Bounds { connections: config.http.connections, timeout: config.http.timeout };
    let server = bound.serve(content, bounds);
    Ok(Pipeline { config, examination, address, server, snapshots, taken })
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
        loop {
            tokio::select! {
                Some(request) = self.snapshots.requested() => request.answer(self.fresh_snapshot()),
                command = commands.recv() => match command {
                    Some(Command::Reload(config)) => self.config = *config,
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
                let fresh = Arc::new(snapshot(&self.examination));
                self.taken = Instant::now();
                self.snapshots.publish(Arc::clone(&fresh));
                fresh
            }
        }
    }
}

fn snapshot(examination: &Examination) -> Snapshot {
    let mut series = vec![Series::number(&BUILD_INFO, vec![env!("CARGO_PKG_VERSION").into()], 1.0)];
    if let Ok(stat) = Process::myself().and_then(|process| process.stat()) {
        let cpu_seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        series.push(Series::number(&AGENT_CPU, vec![], cpu_seconds));
        series.push(Series::number(&AGENT_RESIDENT, vec![], stat.rss_bytes().get() as f64));
    }
    let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    Snapshot {
        at_unix_ms: since_epoch.as_millis().try_into().unwrap_or(u64::MAX),
        series,
        probes: examination.probes.clone(),
        ..Snapshot::default()
    }
}

/// What /proc and /sys tell without loading anything.
fn ability(btf: &Path) -> HostAbility {
    let word = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_string());
    HostAbility {
        kernel_release: word("/proc/sys/kernel/osrelease").unwrap_or_default(),
        architecture: std::env::consts::ARCH.into(),
        btf: match std::fs::File::open(btf).and_then(|file| file.metadata()) {
            Ok(attributes) => Btf::Found { path: btf.into(), size_bytes: attributes.len() },
            Err(error) => Btf::Missing { path: btf.into(), reason: error.to_string() },
        },
        privileges: privileges(),
        lockdown: match word("/sys/kernel/security/lockdown") {
            Ok(modes) if modes.contains("[confidentiality]") => Lockdown::Confidentiality,
            Ok(modes) if modes.contains("[integrity]") => Lockdown::Integrity,
            _ => Lockdown::Off,
        },
        bpf_stats: word("/proc/sys/kernel/bpf_stats_enabled").ok().map(|value| value != "0"),
    }
}

fn privileges() -> Privileges {
    // include/uapi/linux/capability.h. CAP_SYS_ADMIN stands for both of the others, which are of Linux 5.8.
    const SYS_ADMIN: u64 = 1 << 21;
    const NEEDED: [(u64, &str); 2] = [(1 << 38, "CAP_PERFMON"), (1 << 39, "CAP_BPF")];
    let status = Process::myself().and_then(|process| process.status());
    let (uid, held) = status.map_or((u32::MAX, 0), |status| (status.euid, status.capeff));
    let missing = NEEDED.iter().filter(|(bit, _)| held & (bit | SYS_ADMIN) == 0);
    Privileges { uid, missing_capabilities: missing.map(|(_, name)| *name).collect() }
}
