//! The catalog of configuration keys: name, type, range, place in [`Config`](super::Config), and whether a running
//! agent can change it. The reason for each key stands in the shipped file, `packaging/steth.toml`.

use std::time::Duration;

use steth_probes::catalog::NAMES;

use super::{Audited, LogFormat, LogLevel, value::Shape};

/// One key.
pub struct Key {
    /// Section and name, as in `window.live`.
    pub path: &'static str,
    /// Type, range and place.
    pub shape: Shape,
    /// What a change needs.
    pub change: Change,
}

/// What it takes for a changed key to have effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// SIGHUP.
    Reload,
    /// A new start: the value is built into what was loaded or bound at the start.
    Restart,
}

/// The parts of the host that can be read, by the names that node_exporter gives its collectors.
pub const COLLECTORS: &[&str] = &[
    "cpu",
    "diskstats",
    "entropy",
    "filefd",
    "filesystem",
    "loadavg",
    "meminfo",
    "netclass",
    "netdev",
    "netstat",
    "pressure",
    "schedstat",
    "sockstat",
    "stat",
    "time",
    "uname",
    "vmstat",
];

/// All keys, in the order of the shipped file.
pub const KEYS: &[Key] = &[
    key("listen", Shape::Address(|c| &mut c.listen), Change::Restart),
    key("run.lock", Shape::Path(|c| &mut c.run.lock), Change::Restart),
    key("window.live", Shape::Duration(ms(100)..=ms(60_000), |c| &mut c.window.live), Change::Reload),
    key("window.kept", Shape::Duration(ms(1_000)..=ms(600_000), |c| &mut c.window.kept), Change::Restart),
    key("http.connections", Shape::Count(1..=1_024, |c| &mut c.http.connections), Change::Restart),
    key("http.timeout", Shape::Duration(ms(100)..=ms(60_000), |c| &mut c.http.timeout), Change::Restart),
    key("http.certificate", Shape::MaybePath(|c| &mut c.http.certificate), Change::Reload),
    key("http.key", Shape::MaybePath(|c| &mut c.http.key), Change::Reload),
    key("http.client_ca", Shape::MaybePath(|c| &mut c.http.client_ca), Change::Reload),
    key("http.tokens", Shape::MaybePath(|c| &mut c.http.tokens), Change::Reload),
    key("http.rate", Shape::Count(1..=1_000_000, |c| &mut c.http.rate), Change::Reload),
    key(
        "audit.what",
        Shape::Word(
            &["all", "changes", "none"],
            |c, word| c.audit.what = Audited::ALL.get(word).copied().unwrap_or_default(),
            |c| Audited::ALL.iter().position(|what| *what == c.audit.what).unwrap_or_default(),
        ),
        Change::Reload,
    ),
    key("audit.folder", Shape::Path(|c| &mut c.audit.folder), Change::Restart),
    key("audit.kept", Shape::Size(64 << 10..=1 << 40, |c| &mut c.audit.kept_bytes), Change::Restart),
    key("budget.enabled", Shape::Switch(|c| &mut c.budget.enabled), Change::Reload),
    key("budget.soft", Shape::Share(10..=1_000_000, |c| &mut c.budget.soft), Change::Reload),
    key("budget.hard", Shape::Share(10..=1_000_000, |c| &mut c.budget.hard), Change::Reload),
    key("budget.memory", Shape::Size(16 << 20..=1 << 40, |c| &mut c.budget.memory_bytes), Change::Reload),
    key("budget.interval", Shape::Duration(ms(500)..=ms(600_000), |c| &mut c.budget.interval), Change::Reload),
    key("kernel.btf", Shape::Path(|c| &mut c.kernel.btf), Change::Restart),
    key("kernel.without", Shape::Subset(NAMES, |c| &mut c.kernel.without), Change::Reload),
    key("kernel.memory", Shape::Size(4 << 20..=1 << 30, |c| &mut c.kernel.memory_bytes), Change::Restart),
    key("kernel.ring", Shape::Size(64 << 10..=64 << 20, |c| &mut c.kernel.ring_bytes), Change::Restart),
    key("kernel.ring_interval", Shape::Duration(ms(10)..=ms(1_000), |c| &mut c.kernel.ring_interval), Change::Restart),
    key(
        "kernel.open_files_interval",
        Shape::Duration(ms(1_000)..=ms(3_600_000), |c| &mut c.kernel.open_files_interval),
        Change::Restart,
    ),
    key(
        "kernel.renew_interval",
        Shape::Duration(ms(1_000)..=ms(86_400_000), |c| &mut c.kernel.renew_interval),
        Change::Reload,
    ),
    key("probes.syscalls", Shape::Switch(|c| &mut c.probes.syscalls), Change::Reload),
    key("probes.tcp", Shape::Switch(|c| &mut c.probes.tcp), Change::Reload),
    key("probes.sockets", Shape::Switch(|c| &mut c.probes.sockets), Change::Reload),
    key("probes.postgres", Shape::Switch(|c| &mut c.probes.postgres), Change::Reload),
    key("probes.tls", Shape::Switch(|c| &mut c.probes.tls), Change::Reload),
    key("probes.wall", Shape::Switch(|c| &mut c.probes.wall), Change::Reload),
    key("probes.profiles", Shape::Switch(|c| &mut c.probes.profiles), Change::Reload),
    key("probes.exclude_services", Shape::Names(|c| &mut c.probes.exclude_services), Change::Reload),
    key("probes.own", Shape::Switch(|c| &mut c.probes.own), Change::Reload),
    key("postgres.slow_query", Shape::Duration(ms(1)..=ms(3_600_000), |c| &mut c.postgres.slow_query), Change::Reload),
    key("postgres.slow_rate", Shape::Count(1..=10_000, |c| &mut c.postgres.slow_rate), Change::Reload),
    key("postgres.kept_queries", Shape::Count(1..=100_000, |c| &mut c.postgres.kept_queries), Change::Reload),
    key("postgres.n_plus_one", Shape::Count(2..=1_000_000, |c| &mut c.postgres.n_plus_one), Change::Reload),
    key(
        "postgres.n_plus_one_gap",
        Shape::Duration(ms(1)..=ms(60_000), |c| &mut c.postgres.n_plus_one_gap),
        Change::Reload,
    ),
    key("postgres.pools", Shape::Sizes(1..=100_000, |c| &mut c.postgres.pools), Change::Reload),
    key("profile.hertz", Shape::Count(0..=199, |c| &mut c.profile.hertz), Change::Reload),
    key("profile.memory", Shape::Size(4 << 20..=1 << 30, |c| &mut c.profile.memory_bytes), Change::Restart),
    key("profile.piece", Shape::Duration(ms(1_000)..=ms(3_600_000), |c| &mut c.profile.piece), Change::Restart),
    key("profile.folder", Shape::Path(|c| &mut c.profile.folder), Change::Restart),
    key("profile.kept", Shape::Size(1 << 20..=1 << 40, |c| &mut c.profile.kept_bytes), Change::Restart),
    key("correlate.enabled", Shape::Switch(|c| &mut c.correlate.enabled), Change::Reload),
    key("correlate.windows", Shape::Count(60..=8_640, |c| &mut c.correlate.windows), Change::Restart),
    key("send.folder", Shape::Path(|c| &mut c.send.folder), Change::Restart),
    key("send.to", Shape::Destinations(|c| &mut c.send.to), Change::Restart),
    key("alerts.enabled", Shape::Switch(|c| &mut c.alerts.enabled), Change::Restart),
    key("alerts.files", Shape::Names(|c| &mut c.alerts.files), Change::Reload),
    key("alerts.defaults", Shape::Switch(|c| &mut c.alerts.defaults), Change::Reload),
    key("alerts.without", Shape::Names(|c| &mut c.alerts.without), Change::Reload),
    key("alerts.folder", Shape::Path(|c| &mut c.alerts.folder), Change::Restart),
    key("alerts.throttle", Shape::Duration(ms(0)..=ms(3_600_000), |c| &mut c.alerts.throttle), Change::Reload),
    key("alerts.repeat", Shape::Duration(ms(60_000)..=ms(604_800_000), |c| &mut c.alerts.repeat), Change::Reload),
    key("limits.services", Shape::Count(16..=16_384, |c| &mut c.limits.services), Change::Restart),
    key("limits.peers", Shape::Count(16..=16_384, |c| &mut c.limits.peers), Change::Restart),
    key("limits.queries", Shape::Count(16..=100_000, |c| &mut c.limits.queries), Change::Restart),
    key("limits.shown_services", Shape::Count(1..=16_384, |c| &mut c.limits.shown_services), Change::Reload),
    key("limits.shown_syscalls", Shape::Count(1..=512, |c| &mut c.limits.shown_syscalls), Change::Reload),
    key("limits.shown_peers", Shape::Count(1..=16_384, |c| &mut c.limits.shown_peers), Change::Reload),
    key("limits.shown_queries", Shape::Count(1..=100_000, |c| &mut c.limits.shown_queries), Change::Reload),
    key("host.node", Shape::Switch(|c| &mut c.host.node), Change::Reload),
    key("host.processes", Shape::Switch(|c| &mut c.host.processes), Change::Reload),
    key("host.collectors", Shape::Subset(COLLECTORS, |c| &mut c.host.collectors), Change::Reload),
    key(
        "log.level",
        Shape::Word(
            &["error", "warn", "info", "debug", "trace"],
            |c, word| c.log.level = LogLevel::ALL.get(word).copied().unwrap_or_default(),
            |c| LogLevel::ALL.iter().position(|level| *level == c.log.level).unwrap_or_default(),
        ),
        Change::Reload,
    ),
    key(
        "log.format",
        Shape::Word(
            &["text", "json"],
            |c, word| c.log.format = LogFormat::ALL.get(word).copied().unwrap_or_default(),
            |c| LogFormat::ALL.iter().position(|format| *format == c.log.format).unwrap_or_default(),
        ),
        Change::Restart,
    ),
];

impl Key {
    /// The section, empty at the top of the file, and the name.
    pub fn section_and_name(&self) -> (&'static str, &'static str) {
        self.path.rsplit_once('.').unwrap_or(("", self.path))
    }

    /// Whether it can be changed by a request: while the agent runs, and without naming files, which only who may write
    /// the configuration may have the agent read.
    pub fn is_settable(&self) -> bool {
        let names_files = matches!(self.shape, Shape::Path(_) | Shape::MaybePath(_) | Shape::Destinations(_));
        // The log is set up before all else, and out of reach of requests. Whoever has an admin's token, rightly or not, does not
        // choose whether what is done with it is written down.
        let only_in_file = ["alerts.files", "log.level", "audit.what"];
        self.change == Change::Reload && !names_files && !only_in_file.contains(&self.path)
    }

    /// The environment variable that overrides the file, as in `STETH_WINDOW_LIVE`.
    pub fn variable(&self) -> String {
        format!("STETH_{}", self.path.replace('.', "_").to_uppercase())
    }
}

const fn key(path: &'static str, shape: Shape, change: Change) -> Key {
    Key { path, shape, change }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
