//! The kernel as a source: cells and records in, totals and names out.

mod loading;
mod naming;
mod telling;

use std::{
    collections::{BTreeMap, HashSet},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use steth_probes::{
    cell::{Family, Loss},
    watch::Watch,
};

use super::{
    builds::Builds,
    clock,
    clusters::Clusters,
    connections::{self, Bounds},
    news::Untold,
    past::{Keeper, OnPiece},
    profiles::Profiles,
    signals::Signals,
    tls::TlsFiles,
    trace::{self, Told},
    wakes::Due,
};
use crate::{
    aggregate::{Names, StatementName, Totals},
    config::{self, Config},
    host::{self, KernelServices},
    ingest::{Cells, Records, Traces},
    kernel::{Kernel, LoadError},
    model::{
        catalog::kernel as catalog,
        event::{ConnectionSeen, Record},
        finding::Event,
        probe::{ProbeState, ProbeStatus},
        query::{Connections, Filter, Repeats, Selection, SlowQueries, Statements},
        sample::{PastRequest, ProfileRefused, ProfileRequest},
        snapshot::{Exemplar, Series},
    },
    postgres,
};

use loading::profiles;
pub use loading::{limits, load};

const PROC: &str = "/proc";
/// How often the kernel is asked what its maps take, and servers' files what they are set to; most of that never changes.
const MEMORY_INTERVAL: Duration = Duration::from_secs(60);

/// Loaded probes with all that follows from them.
pub struct Probes {
    kernel: Kernel,
    cells: Cells,
    records: Records,
    traces: Traces,
    told: Told,
    watch: Watch,
    totals: Totals,
    names: Names,
    services: KernelServices,
    tls: TlsFiles,
    exclude: Vec<String>,
    /// Whether the agent's own service is left out.
    leaves_own_out: bool,
    /// Numbers of the services that are left out.
    left_out: HashSet<u32>,
    /// Those of them that are the agent's own.
    own: HashSet<u32>,
    /// How many services were there from the beginning, and were met by now.
    met: (usize, usize),
    /// Postmasters by the numbers of their services, and what their servers are set to.
    postmasters: BTreeMap<u32, (u32, Option<u32>)>,
    pools: BTreeMap<String, usize>,
    memory: BTreeMap<String, u64>,
    memory_read: Instant,
    passes: Passes,
    clusters: Clusters,
    builds: Builds,
    signals: Signals,
    profiles: Result<Profiles, String>,
    sampling: Due,
}

/// How far apart samples are taken at least, whoever wakes.
const SAMPLES_APART: Duration = Duration::from_millis(5);

/// When all open files are gone over, for sockets that have ended.
struct Passes {
    interval: Duration,
    last: Instant,
    /// Whether that fails has been said.
    failing: bool,
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
        let mut met = (0, 0);
        match cells.services() {
            Ok(services) => {
                clusters.look(&cells, &services);
                met = (services.len(), services.len());
            }
            Err(error) => tracing::warn!("cannot read the services that were met: {error}"),
        }
        let tls = TlsFiles::start(&mut kernel, &cells);
        Ok(Self {
            cells,
            tls,
            records: Records::new(kernel.records()?),
            traces: Traces::new(kernel.traces()?),
            told: Told::new(config),
            watch: trace::watch(config),
            totals: Totals::new(limits(config)),
            names: Names::default(),
            services: KernelServices::new(PROC),
            exclude: config.probes.exclude_services.clone(),
            leaves_own_out: !config.probes.own,
            left_out: HashSet::new(),
            own: HashSet::new(),
            met,
            postmasters: BTreeMap::new(),
            pools: config.postgres.pools.clone(),
            memory: kernel.map_memory(),
            memory_read: Instant::now(),
            passes: Passes { interval: config.kernel.open_files_interval, last: Instant::now(), failing: false },
            clusters,
            builds: Builds::begin(PROC.as_ref()),
            signals: Signals::default(),
            profiles: profiles(&mut kernel, config),
            sampling: Due { earliest: Instant::now(), latest: Instant::now(), wakes: None },
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

    /// Takes over what may change.
    pub fn reload(&mut self, config: &Config) {
        self.totals.set_limits(limits(config));
        self.watch = trace::watch(config);
        self.told.reload(config);
        self.pools = config.postgres.pools.clone();
        self.set_watch();
        if let Ok(profiles) = &mut self.profiles {
            profiles.set_hertz(&mut self.kernel, config, &self.names);
        }
    }

    /// The statements of a selection, as of the last reading.
    pub fn statements(&self, selection: &Selection) -> Statements {
        self.totals.statements(&self.names, selection)
    }

    /// The window under way ends here.
    pub fn close_window(&mut self) {
        self.totals.close_window();
    }

    /// Slow and failed cycles.
    pub fn slow(&mut self, filter: &Filter, limit: usize) -> SlowQueries {
        self.drain_named();
        let suppressed = self.lost(Loss::QueriesSuppressed);
        self.told.slow(&self.names, filter, limit, suppressed)
    }

    /// Slow and failed cycles since this was last asked.
    pub fn untold(&mut self) -> Untold {
        self.drain_named();
        self.told.untold(&self.names)
    }

    /// Who is told when a piece of the profile is finished.
    pub fn tell_pieces(&mut self, told: OnPiece) {
        if let Ok(profiles) = &mut self.profiles {
            profiles.tell_pieces(told);
        }
    }

    /// Statements that came again and again.
    pub fn repeats(&mut self, selection: &Selection) -> Repeats {
        self.drain_named();
        self.told.repeats(&self.names, selection)
    }

    /// The open Postgres connections, as of the last reading. Whose they are is looked up in all processes' open files.
    pub fn connections(&self, selection: &Selection) -> Connections {
        let found = connections::selected(self.totals.open_connections(), &self.names, selection);
        let holders = host::socket_holders(PROC.as_ref(), &connections::client_inodes(&found));
        let bounds = Bounds { servers: self.servers(), pools: &self.pools };
        connections::grouped(&found, &self.names, &holders, &bounds, selection.limit)
    }

    /// What nearly all numbers are taken of, in vain: by services that were not there when this began, so that most, as a rule, have
    /// gone; or by texts of few statements, such as lists of many lengths.
    pub fn crowded(&self, limits: &config::Limits) -> Option<&'static str> {
        let is_nearly = |count: usize, limit: usize| count > limit / 16 * 15;
        let (first, now) = self.met;
        if is_nearly(now, limits.services) && first <= limits.services / 2 {
            return Some("services");
        }
        let texts = self.names.statement_count();
        (is_nearly(texts, limits.queries) && self.names.fingerprint_count() <= texts / 2).then_some("statements")
    }

    /// Whether somebody is told of something just now.
    pub fn is_busy(&self) -> bool {
        self.is_traced() || self.is_profiled()
    }

    /// Someone wants a profile.
    pub fn profile(&mut self, request: ProfileRequest) {
        let lost = self.lost(Loss::SamplesFull);
        match &mut self.profiles {
            Ok(profiles) => {
                profiles.begin(request, &mut self.kernel, &self.names, lost);
                self.sampling.latest = Instant::now();
                if self.sampling.wakes.is_none() {
                    let wakes = profiles.wakes().inspect_err(|error| tracing::debug!("samples wake nobody: {error}"));
                    self.sampling.wakes = wakes.ok().map(Arc::new);
                }
            }
            Err(why) => drop(request.answer.send(Err(ProfileRefused::Impossible(why.clone())))),
        }
        self.watch_slow();
    }

    /// Whether someone waits for a profile.
    pub fn is_profiled(&self) -> bool {
        self.profiles.as_ref().is_ok_and(Profiles::is_busy)
    }

    /// When samples are to be taken next, while someone waits for a profile.
    pub fn sampling(&self) -> Option<Due> {
        self.is_profiled().then(|| self.sampling.clone())
    }

    /// Takes what samples there are.
    pub fn sample(&mut self) {
        if self.told.is_heard() {
            self.tell();
        }
        let lost = self.lost(Loss::SamplesFull);
        if let Ok(profiles) = &mut self.profiles {
            profiles.tick(&mut self.kernel, &self.names, lost);
            let now = Instant::now();
            (self.sampling.earliest, self.sampling.latest) = (now + SAMPLES_APART, now + profiles.pause());
        }
        self.watch_slow();
    }

    /// Takes samples of the clock that always runs.
    pub fn gather(&mut self) {
        if let Ok(profiles) = &mut self.profiles {
            profiles.gather(&self.names);
        }
    }

    /// Someone wants a profile of the past. Gives the request back if only files can tell.
    pub fn past(&mut self, request: PastRequest) -> Option<PastRequest> {
        match &mut self.profiles {
            Ok(profiles) => profiles.past(request, &self.names),
            Err(_) => Some(request),
        }
    }

    /// The last piece of a profile ends here. Returns who writes it.
    pub fn end_pieces(&mut self) -> Option<Keeper> {
        self.profiles.as_mut().ok()?.end_pieces(&self.names)
    }

    /// Has the kernel tell of as many cycles as profiles of slow requests need.
    fn watch_slow(&mut self) {
        let slow = self.profiles.as_ref().ok().and_then(Profiles::slow);
        if self.told.sample(slow) {
            self.set_watch();
        }
    }

    fn lost(&mut self, loss: Loss) -> u64 {
        self.cells.lost(loss).unwrap_or_default()
    }

    /// Empties the ring.
    pub fn drain(&mut self) {
        let mut strangers = false;
        let (mut run, mut mapped) = (HashSet::new(), HashSet::new());
        let mut executed = BTreeMap::new();
        let mut signals = Vec::new();
        for record in self.records.drain() {
            match record {
                Record::Statement { statement, text, cut } => {
                    let known = postgres::statement(&text, cut);
                    let name = StatementName {
                        fingerprint: known.fingerprint.to_string(),
                        operation: known.operation.name(),
                        summary: known.summary,
                        text: known.text,
                    };
                    self.names.set_statement(statement, name);
                }
                Record::Database { database, name } => self.names.set_database(database, name),
                Record::Batch { statement, hash } => {
                    let name = StatementName {
                        fingerprint: format!("{hash:016x}"),
                        operation: "BATCH",
                        summary: "BATCH".into(),
                        text: String::new(),
                    };
                    self.names.set_statement(statement, name);
                }
                Record::Exec { pid, service } => {
                    tracing::trace!(pid, service, "exec");
                    run.insert(pid);
                    executed.insert(service, pid);
                    strangers |= service != 0 && !self.names.has_service(service);
                }
                Record::Mapped { pid } => drop(mapped.insert(pid)),
                Record::Signal(seen) => {
                    strangers |= seen.service != 0 && !self.names.has_service(seen.service);
                    signals.push(seen);
                }
                Record::Query(query) => self.told.keep(*query),
                Record::Worker(worker) => {
                    self.totals.worker_ended(&worker);
                    self.told.worker_ended(*worker);
                }
                Record::Repeated(repeat) => self.told.keep_repeat(repeat),
            }
        }
        self.tls.changed(&mut self.kernel, &self.cells, &mapped, &run);
        // A service is best named, or left out, while its first process lives.
        if strangers {
            self.name_new_services();
        }
        for seen in signals.into_iter().filter(|seen| !self.left_out.contains(&seen.service)) {
            self.signals.met(seen, self.names.service_name(seen.service));
        }
        for (service, pid) in executed {
            if let Some(name) = self.names.service_name(service) {
                self.builds.executed(PROC.as_ref(), pid, name);
            }
        }
    }

    /// What happened to services since this was asked last: they run another build than before, crashed, or were told to read
    /// their configuration again.
    pub fn events(&mut self) -> Vec<Event> {
        let mut events = self.builds.told();
        events.extend(self.signals.told());
        events
    }

    fn name_new_services(&mut self) {
        match self.cells.services() {
            Ok(services) => self.name_services(&services),
            Err(error) => tracing::warn!("cannot read the services that were met: {error}"),
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
        if self.kernel.splits_wall()
            && let Err(error) = self.kernel.settle_wall()
        {
            tracing::debug!("waits are counted only when they end: {error}");
        }
        let kernel = &self.kernel;
        match self.cells.read(|listeners| kernel.count_listener_drops(listeners)) {
            Ok(mut reading) => {
                forget_closed_unix(&mut reading.connections);
                self.met.1 = reading.services.len();
                self.name_services(&reading.services);
                self.name_peers(&reading);
                // After peers are named: a listener that is left out names its callers' peer all the same.
                reading.connections.retain(|connection| !self.left_out.contains(&connection.service));
                // What the agent did before it had a name.
                reading.leave_out(|service| self.own.contains(&service));
                // A cell may bear the number of a statement whose text came after the last look at the ring.
                self.drain();
                let mapped = self.tls.sweep(&mut self.kernel, &self.cells, self.profiles.is_ok());
                if let (Some(mapped), Ok(profiles)) = (mapped, &mut self.profiles) {
                    profiles.let_go(&mapped);
                }
                self.totals.absorb(reading);
            }
            Err(error) => tracing::warn!("cannot read the kernel's cells: {error}; the last figures stay"),
        }
        let mut series = self.totals.series(&self.names);
        self.own_series(&mut series);
        self.bounds(&mut series);
        series
    }

    /// The kept slow cycles that stand for their buckets.
    pub fn exemplars(&self) -> Vec<Exemplar> {
        self.totals.exemplars(&self.names, self.told.kept(), clock::unix_ns())
    }

    /// Names of the services that were met.
    pub fn services(&self) -> Vec<String> {
        let mut names: Vec<String> = self.names.services().map(|(_, name)| name.to_string()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// How many connections there may be: by each server's own setting, and by what is configured for pools.
    fn bounds(&self, series: &mut Vec<Series>) {
        for (service, most) in self.servers() {
            series.push(Series::number(&catalog::POSTGRES_MAX_CONNECTIONS, vec![service.into()], most.into()));
        }
        for (service, size) in &self.pools {
            series.push(Series::number(&catalog::POSTGRES_POOL_SIZE, vec![service.clone()], *size as f64));
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
            for (postmaster, most) in self.postmasters.values_mut() {
                *most = self.clusters.max_connections(*postmaster);
            }
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
        series.push(lost("trace", "malformed", self.traces.malformed()));
        series.push(lost("signals", "no_room", self.signals.lost()));
        let lost_pieces = self.profiles.as_ref().map_or(0, Profiles::lost_pieces);
        series.push(lost("pieces", "not_written", lost_pieces));
        if let Ok(profiles) = &self.profiles {
            let malformed = profiles.series(series);
            series.push(lost("samples", "malformed", malformed));
        }
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
