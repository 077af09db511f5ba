//! The configuration: what was typed (file, environment, flags) becomes what is valid, in one step, or a list of
//! everything that is wrong with it. Knows no stage.

pub mod alerts;
pub mod complaint;
pub mod destination;
pub mod endpoint;
pub mod keys;
pub mod moment;
mod read;
#[cfg(test)]
mod tests;
pub mod tokens;
pub mod value;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

pub use alerts::Alerts;
pub use complaint::{Complaint, Complaints, Place};
pub use destination::Destinations;
pub use endpoint::Endpoint;
pub use read::Given;

use keys::{COLLECTORS, Change, KEYS};
use value::Typed;

/// Read when there is no `--config`, if it exists.
pub const DEFAULT_PATH: &str = "/etc/steth/steth.toml";

/// The file that packages install: every key, its default and its reason.
pub const SHIPPED: &str = include_str!("../../../packaging/steth.toml");

/// A valid configuration. The shipped file tells what each key is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The one address that is served; another than loopback only with TLS and tokens.
    pub listen: SocketAddr,
    /// The agent as a process.
    pub run: Run,
    /// How long cells are added up.
    pub window: Window,
    /// The HTTP listener: its bounds, and who may ask for what.
    pub http: Http,
    /// What is written down of those who ask.
    pub audit: Audit,
    /// What steth itself may cost.
    pub budget: Budget,
    /// What is taken from the kernel, and its budget.
    pub kernel: Kernel,
    /// Which probes are wanted.
    pub probes: Probes,
    /// What is told of Postgres beyond figures.
    pub postgres: Postgres,
    /// Profiles.
    pub profile: Profile,
    /// What is kept of the past to find what is unusual.
    pub correlate: Correlate,
    /// What is sent elsewhere.
    pub send: Send,
    /// What people are told of.
    pub alerts: Alerts,
    /// Bounds on what is told apart and shown.
    pub limits: Limits,
    /// What is read from /proc and /sys.
    pub host: Host,
    /// The agent's own log.
    pub log: Log,
}

/// `[run]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Held while the agent runs, so that there is one on a host.
    pub lock: PathBuf,
}

/// `[window]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The oldest that a served snapshot may be.
    pub live: Duration,
    /// How far apart kept windows are; a whole number of live ones.
    pub kept: Duration,
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// Most connections served at a time; more wait. A peer that is not this host has at most half of them.
    pub connections: usize,
    /// How long a client may take to send a request or to take the answer.
    pub timeout: Duration,
    /// Our certificate with those between it and the authority (PEM); with it TLS is spoken.
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM).
    pub key: Option<PathBuf>,
    /// Certificates (PEM) of which one must have signed that of each client.
    pub client_ca: Option<PathBuf>,
    /// Who may ask for what.
    pub tokens: Option<PathBuf>,
    /// Requests a second of each token, or of each peer that has none.
    pub rate: usize,
}

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Which requests are written down.
    pub what: Audited,
    /// Where.
    pub folder: PathBuf,
    /// How much the files may take together.
    pub kept_bytes: u64,
}

/// Which requests are written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audited {
    /// All of them.
    #[default]
    All,
    /// Those that change something, and those that were refused.
    Changes,
    /// None.
    None,
}

impl Audited {
    /// In the order of the words of `audit.what`.
    pub const ALL: &[Self] = &[Self::All, Self::Changes, Self::None];
}

/// `[budget]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Whether it is kept.
    pub enabled: bool,
    /// Share of the host's CPU time, in millionths, that steth takes no more than for long.
    pub soft: u32,
    /// Share that it takes no more than even for a short time.
    pub hard: u32,
    /// Resident memory of the agent.
    pub memory_bytes: u64,
    /// How often cost is looked at.
    pub interval: Duration,
}

/// `[kernel]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The running kernel's type information.
    pub btf: PathBuf,
    /// Probes that are left alone.
    pub without: Vec<String>,
    /// Budget for all maps together.
    pub memory_bytes: u64,
    /// Each of the two rings that records cross; a power of two.
    pub ring_bytes: u64,
    /// How often the ring is emptied.
    pub ring_interval: Duration,
    /// How often all open files are gone over for sockets that have ended.
    pub open_files_interval: Duration,
    /// How long programs run at least before they are loaded anew for want of numbers of services.
    pub renew_interval: Duration,
}

/// `[probes]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probes {
    /// Every syscall of every service.
    pub syscalls: bool,
    /// TCP connections.
    pub tcp: bool,
    /// Reads and writes on sockets.
    pub sockets: bool,
    /// Postgres queries on the wire.
    pub postgres: bool,
    /// Postgres queries behind TLS.
    pub tls: bool,
    /// What wall time is spent with.
    pub wall: bool,
    /// Profiles.
    pub profiles: bool,
    /// Services that are filtered out of syscall tracing in the kernel.
    pub exclude_services: Vec<String>,
    /// Whether the agent's own processes are in the figures.
    pub own: bool,
}

/// `[postgres]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgres {
    /// From here on a query is kept as a record of its own, as one that failed is.
    pub slow_query: Duration,
    /// How many of a service's slow and failed queries are kept per second.
    pub slow_rate: usize,
    /// How many are held in all.
    pub kept_queries: usize,
    /// How often a statement comes in one transaction or burst of requests before that is told.
    pub n_plus_one: usize,
    /// Outside of a transaction a longer pause than this parts two bursts.
    pub n_plus_one_gap: Duration,
    /// How many connections a service may keep, by its name.
    pub pools: BTreeMap<String, usize>,
}

/// `[profile]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// How often in a second, on each CPU, the clock ticks that always runs; 0 for never.
    pub hertz: usize,
    /// Budget for unwind tables and samples in the kernel.
    pub memory_bytes: u64,
    /// How much time one piece of the profiles of the past covers.
    pub piece: Duration,
    /// Where the pieces are kept.
    pub folder: PathBuf,
    /// Budget for the pieces.
    pub kept_bytes: u64,
}

/// `[correlate]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correlate {
    /// Whether the past is kept at all.
    pub enabled: bool,
    /// How many windows of it.
    pub windows: usize,
}

/// `[send]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// Where waits what cannot be sent yet.
    pub folder: PathBuf,
    /// To whom.
    pub to: Destinations,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Services told apart in the kernel.
    pub services: usize,
    /// TCP peers told apart.
    pub peers: usize,
    /// Postgres statements told apart.
    pub queries: usize,
    /// Services with series of their own; the rest are summed under `other`.
    pub shown_services: usize,
    /// Syscalls of one service with series of their own.
    pub shown_syscalls: usize,
    /// Peers of one service with series of their own.
    pub shown_peers: usize,
    /// Statements with series of their own.
    pub shown_queries: usize,
}

/// `[host]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The `node_…` families.
    pub node: bool,
    /// The `namedprocess_namegroup_…` families.
    pub processes: bool,
    /// Which of [`COLLECTORS`] the `node_…` families come from.
    pub collectors: Vec<String>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least that is logged.
    pub level: LogLevel,
    /// For people or for machines.
    pub format: LogFormat,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Someone must act.
    Error,
    /// Something is degraded.
    Warn,
    /// Life cycle.
    #[default]
    Info,
    /// For whoever works on steth.
    Debug,
    /// Single events.
    Trace,
}

/// How it is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// An object a line.
    Json,
}

impl LogLevel {
    /// In the order of the words of `log.level`.
    pub const ALL: &[Self] = &[Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];
}

impl LogFormat {
    /// In the order of the words of `log.format`.
    pub const ALL: &[Self] = &[Self::Text, Self::Json];
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 9464).into(),
            run: Run { lock: "/run/steth/lock".into() },
            window: Window { live: Duration::from_secs(1), kept: Duration::from_secs(10) },
            http: Http {
                connections: 64,
                timeout: Duration::from_secs(10),
                certificate: None,
                key: None,
                client_ca: None,
                tokens: None,
                rate: 500,
            },
            audit: Audit { what: Audited::All, folder: "/var/lib/steth/audit".into(), kept_bytes: 16 << 20 },
            budget: Budget {
                enabled: true,
                soft: 10_000,
                hard: 20_000,
                memory_bytes: 256 << 20,
                interval: Duration::from_secs(10),
            },
            kernel: Kernel {
                btf: "/sys/kernel/btf/vmlinux".into(),
                without: Vec::new(),
                memory_bytes: 32 << 20,
                ring_bytes: 1 << 20,
                ring_interval: Duration::from_millis(100),
                open_files_interval: Duration::from_secs(30),
                renew_interval: Duration::from_secs(3_600),
            },
            probes: Probes {
                syscalls: true,
                tcp: true,
                sockets: true,
                postgres: true,
                tls: true,
                wall: true,
                profiles: true,
                exclude_services: Vec::new(),
                own: false,
            },
            postgres: Postgres {
                slow_query: Duration::from_millis(100),
                slow_rate: 20,
                kept_queries: 1000,
                n_plus_one: 10,
                n_plus_one_gap: Duration::from_millis(50),
                pools: BTreeMap::new(),
            },
            profile: Profile {
                hertz: 19,
                memory_bytes: 12 << 20,
                piece: Duration::from_secs(600),
                folder: "/var/lib/steth/profiles".into(),
                kept_bytes: 256 << 20,
            },
            correlate: Correlate { enabled: true, windows: 360 },
            send: Send { folder: "/var/lib/steth/send".into(), to: Destinations::new() },
            alerts: Alerts::default(),
            limits: Limits {
                services: 1024,
                peers: 1024,
                queries: 1000,
                shown_services: 100,
                shown_syscalls: 50,
                shown_peers: 20,
                shown_queries: 200,
            },
            host: Host {
                node: true,
                processes: true,
                collectors: COLLECTORS.iter().map(|name| name.to_string()).collect(),
            },
            log: Log { level: LogLevel::Info, format: LogFormat::Text },
        }
    }
}

impl Config {
    /// What a running agent with this configuration makes of a new one: the keys that can change live are taken
    /// over, the others stay. Returns the new configuration and the changed keys that wait for a restart.
    pub fn reloaded(&self, new: &Self) -> (Self, Vec<&'static str>) {
        let mut next = self.clone();
        let mut waiting = Vec::new();
        for key in KEYS.iter().filter(|key| key.shape.show(self) != key.shape.show(new)) {
            match key.change {
                Change::Restart => waiting.push(key.path),
                Change::Reload => {
                    let shown = key.shape.show(new);
                    let stored = toml::de::DeValue::parse(&shown)
                        .map_err(|error| error.to_string())
                        .and_then(|value| key.shape.store(&mut next, Typed::Toml(value.get_ref())));
                    debug_assert_eq!(stored, Ok(()), "{} cannot read what it shows", key.path);
                }
            }
        }
        // The files may have changed though their names have not.
        next.alerts.book = Arc::clone(&new.alerts.book);
        next.alerts.left_out.clone_from(&new.alerts.left_out);
        (next, waiting)
    }
}

impl Config {
    /// The same, if nothing of it is left out: for whoever is there to correct it.
    ///
    /// # Errors
    /// What is wrong with rules and channels for alerts. An agent that starts goes on without them.
    pub fn whole(self) -> Result<Self, Complaints> {
        if self.alerts.left_out.is_empty() { Ok(self) } else { Err(Complaints(self.alerts.left_out)) }
    }

    /// This configuration with one key changed, as it is typed in an environment variable.
    ///
    /// # Errors
    /// What is wrong with it, and what is allowed.
    pub fn with(&self, key: &str, typed: &str) -> Result<Self, Complaints> {
        read::with(self, key, typed)
    }

    /// Whether probes must be loaded anew for what `other` asks for.
    pub fn needs_other_probes_than(&self, other: &Self) -> bool {
        self.probes != other.probes || self.kernel.without != other.kernel.without
    }
}

impl Host {
    /// Whether the collector of this name is wanted.
    pub fn collects(&self, collector: &str) -> bool {
        self.node && self.collectors.iter().any(|name| name == collector)
    }
}
