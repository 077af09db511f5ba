//! The kernel as a source: cells and records in, totals and names out.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use steth_probes::{catalog::Feature, cell::Family, socket::tcp_state};

use super::{clusters::Clusters, tls::TlsFiles};
use crate::{
    aggregate::{Limits, Names, StatementName, Totals},
    config::Config,
    host::{self, KernelServices},
    ingest::{Cells, Records},
    kernel::{self, Kernel, LoadError},
    model::{
        catalog::kernel as catalog,
        event::{ConnectionSeen, PeerSeen, Reading, Record, ServiceSeen},
        probe::{ProbeState, ProbeStatus},
        snapshot::Series,
    },
    postgres,
};

/// How often the kernel is asked what its maps take; most of them never change.
const MEMORY_INTERVAL: Duration = Duration::from_secs(60);

/// Loaded probes with all that follows from them.
pub struct Probes {
    kernel: Kernel,
    cells: Cells,
    records: Records,
    totals: Totals,
    names: Names,
    services: KernelServices,
    tls: TlsFiles,
    exclude: Vec<String>,
    /// Numbers of the services that are left out.
    left_out: HashSet<u32>,
    memory: BTreeMap<String, u64>,
    memory_read: Instant,
    passes: Passes,
    clusters: Clusters,
}

/// When all open files are gone over, for sockets that have ended.
struct Passes {
    interval: Duration,
    last: Instant,
    /// Whether that fails has been said.
    failing: bool,
}

/// Loads what the configuration asks for.
///
/// # Errors
/// If no probe can run.
pub fn load(config: &Config) -> Result<Kernel, LoadError> {
    let wanted = [
        (config.probes.syscalls, Feature::Syscalls),
        (config.probes.tcp, Feature::Tcp),
        (config.probes.sockets, Feature::Sockets),
        (config.probes.postgres, Feature::Postgres),
        (config.probes.postgres && config.probes.tls, Feature::Tls),
    ];
    Kernel::load(&kernel::Options {
        btf: config.kernel.btf.clone(),
        features: wanted.into_iter().filter(|(on, _)| *on).map(|(_, feature)| feature).collect(),
        without: config.kernel.without.clone(),
        memory_bytes: config.kernel.memory_bytes,
        ring_bytes: count(config.kernel.ring_bytes),
        services: count(config.limits.services as u64),
        peers: count(config.limits.peers as u64),
        statements: count(config.limits.queries as u64),
    })
}

fn count(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The limits of what is shown.
pub fn limits(config: &Config) -> Limits {
    Limits {
        services: config.limits.shown_services,
        syscalls: config.limits.shown_syscalls,
        peers: config.limits.shown_peers,
        queries: config.limits.shown_queries,
    }
}

impl Probes {
    /// Begins to read.
    ///
    /// # Errors
    /// If the maps cannot be read.
    pub fn new(mut kernel: Kernel, config: &Config) -> Result<Self, LoadError> {
        let mut cells = Cells::new(kernel.tables()?);
        // First, so that what is seen behind TLS has its statements from the beginning.
        let mut clusters = Clusters::default();
        match cells.services() {
            Ok(services) => clusters.look(&cells, &services),
            Err(error) => tracing::warn!("cannot read the services that were met: {error}"),
        }
        let tls = TlsFiles::start(&mut kernel, &cells);
        Ok(Self {
            cells,
            tls,
            records: Records::new(kernel.records()?),
            totals: Totals::new(limits(config)),
            names: Names::default(),
            services: KernelServices::new("/proc"),
            exclude: config.probes.exclude_services.clone(),
            left_out: HashSet::new(),
            memory: kernel.map_memory(),
            memory_read: Instant::now(),
            passes: Passes { interval: config.kernel.open_files_interval, last: Instant::now(), failing: false },
            clusters,
            kernel,
        })
    }

    /// What became of each probe.
    pub fn statuses(&self) -> Vec<ProbeStatus> {
        self.kernel.statuses()
    }

    /// Memory of all programs and maps together.
    pub fn kernel_memory_bytes(&self) -> u64 {
        let programs: u64 = self.statuses().iter().map(|probe| probe.memory_bytes).sum();
        self.memory.values().sum::<u64>() + programs
    }

    /// Shows more or less from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.totals.set_limits(limits);
    }

    /// Empties the ring.
    pub fn drain(&mut self) {
        let mut strangers = false;
        let (mut run, mut mapped) = (HashSet::new(), HashSet::new());
        for record in self.records.drain() {
            match record {
                Record::Statement { statement, text, cut } => {
                    let known = postgres::statement(&text, cut);
                    let name = StatementName {
                        fingerprint: known.fingerprint.to_string(),
                        operation: known.operation.name(),
                        summary: known.summary,
                    };
                    self.names.set_statement(statement, name);
                }
                Record::Database { database, name } => self.names.set_database(database, name),
                Record::Batch { statement, hash } => {
                    let name = StatementName {
                        fingerprint: format!("{hash:016x}"),
                        operation: "BATCH",
                        summary: "BATCH".into(),
                    };
                    self.names.set_statement(statement, name);
                }
                Record::Exec { pid, service } => {
                    tracing::trace!(pid, service, "exec");
                    run.insert(pid);
                    strangers |= service != 0 && !self.names.has_service(service);
                }
                Record::Mapped { pid } => drop(mapped.insert(pid)),
            }
        }
        self.tls.changed(&mut self.kernel, &self.cells, &mapped, &run);
        // A service is best named, or left out, while its first process lives.
        if strangers {
            match self.cells.services() {
                Ok(services) => self.name_services(&services),
                Err(error) => tracing::warn!("cannot read the services that were met: {error}"),
            }
        }
    }

    /// Forgets, when it is time, sockets whose end the kernel did not tell.
    pub fn forget_ended_sockets(&mut self) {
        if self.passes.last.elapsed() < self.passes.interval {
            return;
        }
        self.passes.last = Instant::now();
        let kernel = &mut self.kernel;
        let forgotten = self.cells.forget_ended(|| kernel.pass_over_open_files().map_err(io::Error::other));
        if let Err(error) = &forgotten
            && !self.passes.failing
        {
            tracing::warn!("sockets that have ended are forgotten only for lack of room: {error}");
        }
        self.passes.failing = forgotten.is_err();
    }

    /// Reads all cells and gives the series of this moment, with the services that were met.
    pub fn read(&mut self) -> Vec<Series> {
        let kernel = &self.kernel;
        match self.cells.read(|listeners| kernel.count_listener_drops(listeners)) {
            Ok(mut reading) => {
                forget_closed_unix(&mut reading.connections);
                self.name_services(&reading.services);
                self.name_peers(&reading);
                // After peers are named: a listener that is left out names its callers' peer all the same.
                reading.connections.retain(|connection| !self.left_out.contains(&connection.service));
                // A cell may bear the number of a statement whose text came after the last look at the ring.
                self.drain();
                self.tls.sweep(&mut self.kernel, &self.cells);
                self.totals.absorb(reading);
            }
            Err(error) => tracing::warn!("cannot read the kernel's cells: {error}; the last figures stay"),
        }
        let mut series = self.totals.series(&self.names);
        self.own_series(&mut series);
        series
    }

    /// Names of the services that were met.
    pub fn services(&self) -> Vec<String> {
        let mut names: Vec<String> = self.names.services().map(|(_, name)| name.to_string()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn name_services(&mut self, services: &[ServiceSeen]) {
        for service in services {
            if self.names.has_service(service.number) {
                continue;
            }
            let name = self.services.name(service);
            if self.exclude.iter().any(|excluded| **excluded == *name) {
                match self.cells.exclude(service.number, true) {
                    Ok(()) => _ = self.left_out.insert(service.number),
                    Err(error) => tracing::warn!("cannot leave out service {name}: {error}"),
                }
            }
            self.names.set_service(service.number, name);
        }
        self.clusters.look(&self.cells, services);
    }

    fn name_peers(&mut self, reading: &Reading) {
        for peer in &reading.peers {
            if !self.names.has_peer(peer.number) {
                self.names.set_peer(peer.number, self.peer_name(peer, reading));
            }
        }
    }

    /// A peer on this host that listens is known by its service, any other by its address.
    fn peer_name(&self, peer: &PeerSeen, reading: &Reading) -> String {
        let Some(port) = peer.port else { return peer.address.to_string() };
        let listener = || {
            let found = reading.connections.iter().find(|connection| {
                connection.tcp_state == Some(tcp_state::LISTEN) && connection.port == port && connection.service != 0
            });
            found.and_then(|connection| self.names.service_name(connection.service))
        };
        match peer.address.is_loopback().then(listener).flatten() {
            Some(service) => service.to_owned(),
            None => match peer.address {
                IpAddr::V4(address) => format!("{address}:{port}"),
                IpAddr::V6(address) => format!("[{address}]:{port}"),
            },
        }
    }

    fn own_series(&mut self, series: &mut Vec<Series>) {
        for probe in self.kernel.statuses() {
            let attached = f64::from(matches!(probe.state, ProbeState::Attached | ProbeState::Partial { .. }));
            let labels = vec![probe.name];
            series.push(Series::number(&catalog::PROBE_MISSED, labels.clone(), probe.missed as f64));
            series.push(Series::number(&catalog::PROBE_ATTACHED, labels.clone(), attached));
            series.push(Series::number(&catalog::PROBE_RUNS, labels.clone(), probe.runs as f64));
            series.push(Series::number(&catalog::PROBE_RUN_SECONDS, labels, probe.run_ns as f64 / 1e9));
        }
        if self.memory_read.elapsed() >= MEMORY_INTERVAL {
            self.memory = self.kernel.map_memory();
            self.memory_read = Instant::now();
        }
        for (map, bytes) in &self.memory {
            series.push(Series::number(&catalog::KERNEL_MEMORY, vec![map.to_lowercase()], *bytes as f64));
        }
        let lost = |map: &str, reason: &str, total: u64| {
            Series::number(&catalog::RECORDS_LOST, vec![map.into(), reason.into()], total as f64)
        };
        series.push(Series::number(&catalog::SOCKETS_ENDED, vec![], self.cells.ended_sockets() as f64));
        series.push(lost("records", "malformed", self.records.malformed()));
        series.push(lost("records", "piece_missing", self.records.abandoned()));
    }
}

/// The kernel tells of no unix socket's end, so those that Postgres was spoken on are looked up.
fn forget_closed_unix(connections: &mut Vec<ConnectionSeen>) {
    let asked = |connection: &ConnectionSeen| connection.family == Family::Unix && connection.postgres.is_some();
    if connections.iter().any(asked)
        && let Some(open) = host::unix_inodes()
    {
        connections.retain(|connection| !asked(connection) || open.contains(&connection.inode));
    }
}
