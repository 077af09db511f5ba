//! All sources of a snapshot: the kernel's probes, the host's files, the agent itself.

use std::{
    collections::HashSet,
    sync::Arc,
    thread,
    time::{Instant, SystemTime},
};

use procfs::{WithCurrentSystemInfo as _, process::Process};
use steth_probes::catalog::{LIBRARY_PROBES, PROBES, PROFILE_PROBES};

use super::{
    Examination,
    past::{Keeper, OnPiece},
    probes::{self, Probes},
    slow,
};
use crate::{
    config::Config,
    host::{self, Family, Problem, ProcServices, Processes},
    kernel::{LoadError, ability::ability, report},
    model::{
        catalog::steth::{AGENT_CPU, AGENT_RESIDENT, BUILD_INFO},
        probe::{ProbeState, ProbeStatus},
        snapshot::{Series, ServiceInfo, ServiceKind, Snapshot},
    },
};

/// What snapshots are made from.
pub struct Sources {
    probes: Option<Probes>,
    /// What became of probes that could not even be loaded.
    unloaded: Vec<ProbeStatus>,
    reader: Option<host::Reader>,
    processes: Option<(Processes, ProcServices)>,
    known_problems: HashSet<String>,
    opening: Option<Opening>,
    /// What was last taken over, and since when the probes run.
    config: Config,
    loaded: Instant,
    /// Who is told of finished pieces of the profile, whichever probes they come from.
    told: Option<OnPiece>,
}

/// Probes that are being loaded anew.
struct Opening {
    work: thread::JoinHandle<Result<Probes, String>>,
    /// What they are loaded for, and what is wanted by now.
    loaded: Config,
    wanted: Config,
}

impl Sources {
    /// Opens what the configuration asks for and this host allows.
    pub fn open(config: &Config) -> (Self, Examination) {
        let ability = ability(&config.kernel.btf);
        let (probes, statuses) = match open(config, ability.probes_can_run()) {
            Ok(probes) => {
                let statuses = probes.statuses();
                (Some(probes), statuses)
            }
            Err(reason) => (None, unavailable(&reason)),
        };
        let mut sources = Self {
            unloaded: if probes.is_none() { statuses.clone() } else { Vec::new() },
            probes,
            reader: None,
            processes: None,
            known_problems: HashSet::new(),
            opening: None,
            config: config.clone(),
            loaded: Instant::now(),
            told: None,
        };
        sources.open_host(config);
        let kernel_memory_bytes = sources.probes.as_ref().map_or(0, Probes::kernel_memory_bytes);
        (sources, Examination { ability, probes: statuses, kernel_memory_bytes })
    }

    /// Takes over what may change while the agent runs.
    pub fn reload(&mut self, before: &Config, config: &Config) {
        self.open_host(config);
        self.config = config.clone();
        if config.needs_other_probes_than(before) || self.opening.is_some() {
            self.reopen_probes(config);
        } else if let Some(probes) = &mut self.probes {
            probes.reload(config);
        }
    }

    /// Other features are other programs: what is off is not in them, and costs nothing. Figures begin anew, as after a
    /// restart. The verifier takes a second or more, on a thread of its own; until then those that run go on.
    fn reopen_probes(&mut self, config: &Config) {
        if let Some(opening) = &mut self.opening {
            opening.wanted = config.clone();
            return;
        }
        let (taken, can_run) = (config.clone(), ability(&config.kernel.btf).probes_can_run());
        match thread::Builder::new().name("steth-opening".into()).spawn(move || open(&taken, can_run)) {
            Ok(work) => self.opening = Some(Opening { work, loaded: config.clone(), wanted: config.clone() }),
            Err(error) => tracing::error!("the probes cannot be loaded anew, those that run go on: {error}"),
        }
    }

    /// Takes over probes that were loaded anew, when they are ready.
    fn take_over(&mut self) {
        let Some(opening) = self.opening.take_if(|opening| opening.work.is_finished()) else { return };
        let Opening { work, loaded, wanted } = opening;
        match work.join().unwrap_or_else(|_| Err("it panicked".into())) {
            Ok(mut probes) => {
                probes.reload(&wanted);
                self.told.iter().for_each(|told| probes.tell_pieces(Arc::clone(told)));
                self.unloaded = Vec::new();
                self.loaded = Instant::now();
                if let Some(mut old) = self.probes.replace(probes) {
                    old.end_traces();
                    // To let go of uprobes takes the kernel its time.
                    Keeper::finish_apart(old.end_pieces(), old);
                }
            }
            // What costs too much, or is not wanted, is better than nothing; /api/v1/probes says what runs.
            Err(reason) if self.probes.is_some() => {
                tracing::error!("the probes cannot be loaded anew, those that run go on: {reason}");
            }
            Err(reason) => {
                tracing::error!("the probes cannot be loaded anew: {reason}");
                self.unloaded = unavailable(&reason);
            }
        }
        // Somebody changed their mind meanwhile.
        if wanted.needs_other_probes_than(&loaded) {
            self.reopen_probes(&wanted);
        }
    }

    /// Gives numbers back that are taken in vain, when nearly all are: only the programs' end does that.
    fn renew(&mut self) {
        let long = self.loaded.elapsed() >= self.config.kernel.renew_interval && self.opening.is_none();
        if let Some(probes) = &self.probes
            && long
            && !probes.is_busy()
            && let Some(what) = probes.crowded(&self.config.limits)
        {
            tracing::info!("nearly all numbers of {what} are taken, most in vain: the probes are loaded anew");
            // Not again at once if it fails.
            self.loaded = Instant::now();
            self.reopen_probes(&self.config.clone());
        }
    }

    /// Who is told when a piece of the profile is finished.
    pub fn tell_pieces(&mut self, told: OnPiece) {
        self.probes.iter_mut().for_each(|probes| probes.tell_pieces(Arc::clone(&told)));
        self.told = Some(told);
    }

    /// Whether probes are being loaded anew.
    pub fn is_opening(&self) -> bool {
        self.opening.is_some()
    }

    /// The kernel's probes, if any run.
    pub fn probes(&mut self) -> Option<&mut Probes> {
        self.probes.as_mut()
    }

    /// Empties the ring of records, and does what is due.
    pub fn drain(&mut self) {
        self.take_over();
        self.renew();
        if let Some(probes) = &mut self.probes {
            slow::step("taking records", || probes.drain());
            slow::step("gathering names", || probes.gather());
            slow::step("forgetting sockets", || probes.forget_ended_sockets());
        }
    }

    /// Reads everything.
    pub fn snapshot(&mut self) -> Snapshot {
        let mut series = own_series();
        let (mut services, mut exemplars) = (Vec::new(), Vec::new());
        let mut statuses = self.unloaded.clone();
        let Self { probes, reader, processes, .. } = self;
        // Most of the time goes into system calls; two cores halve it.
        let (host, problems) = thread::scope(|scope| {
            let host = scope.spawn(|| slow::step("reading /proc", || read_host(reader.as_mut(), processes.as_mut())));
            if let Some(probes) = probes {
                series.extend(slow::step("reading kernel maps", || probes.read()));
                services = probes.services();
                exemplars = probes.exemplars();
                statuses = probes.statuses();
            }
            host.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        series.extend(host);
        self.report(&problems);
        let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Snapshot {
            at_unix_ms: since_epoch.as_millis().try_into().unwrap_or(u64::MAX),
            series,
            probes: statuses,
            services: services.into_iter().map(service_info).collect(),
            exemplars,
            ..Snapshot::default()
        }
    }

    fn open_host(&mut self, config: &Config) {
        let families: Vec<Family> =
            Family::ALL.iter().copied().filter(|family| config.host.collects(family.name())).collect();
        // A new reader costs nothing but the memory of what was silent before.
        self.reader =
            (!families.is_empty()).then(|| host::Reader::new(host::Options { families, ..host::Options::default() }));
        match (config.host.processes, &self.processes) {
            (true, None) => self.processes = Some((Processes::new("/proc"), ProcServices::new("/proc"))),
            (false, Some(_)) => self.processes = None,
            _ => {}
        }
    }

    /// Says each problem once while it lasts.
    fn report(&mut self, problems: &[Problem]) {
        let now: HashSet<String> = problems.iter().map(ToString::to_string).collect();
        for problem in problems {
            let text = problem.to_string();
            if self.known_problems.contains(&text) {
                continue;
            }
            match problem {
                Problem::Absent { .. } => tracing::info!("{text}"),
                _ => tracing::warn!("{text}"),
            }
        }
        self.known_problems = now;
    }
}

fn read_host(
    reader: Option<&mut host::Reader>,
    processes: Option<&mut (Processes, ProcServices)>,
) -> (Vec<Series>, Vec<Problem>) {
    let (mut series, mut problems) = reader.map(host::Reader::read).unwrap_or_default();
    if let Some((processes, names)) = processes {
        let (more, met) = processes.read(names);
        series.extend(more);
        problems.extend(met);
    }
    (series, problems)
}

fn open(config: &Config, can_run: bool) -> Result<Probes, String> {
    if !can_run {
        return Err("this host does not allow any probe; see above".into());
    }
    let load = || -> Result<Probes, LoadError> { Probes::new(probes::load(config)?, config) };
    load().map_err(|error| error.to_string())
}

fn unavailable(reason: &str) -> Vec<ProbeStatus> {
    let state = || ProbeState::Unavailable { reason: reason.to_owned() };
    let status = |name: &str, hook: String, lost: &str| ProbeStatus {
        name: name.into(),
        hook,
        state: state(),
        lost: lost.into(),
        memory_bytes: 0,
        runs: 0,
        run_ns: 0,
        missed: 0,
    };
    let probes = PROBES.iter().map(|probe| status(probe.name, report::hook(probe), probe.lost));
    let library = LIBRARY_PROBES.iter().map(|probe| status(probe.name, report::library_hook(probe), probe.lost));
    let profiles = PROFILE_PROBES.iter().map(|probe| status(probe.name, probe.hook.into(), probe.lost));
    probes.chain(library).chain(profiles).collect()
}

fn own_series() -> Vec<Series> {
    let mut series = vec![Series::number(&BUILD_INFO, vec![env!("CARGO_PKG_VERSION").into()], 1.0)];
    if let Ok(stat) = Process::myself().and_then(|process| process.stat()) {
        let cpu_seconds = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        series.push(Series::number(&AGENT_CPU, vec![], cpu_seconds));
        series.push(Series::number(&AGENT_RESIDENT, vec![], stat.rss_bytes().get() as f64));
    }
    series
}

fn service_info(name: String) -> ServiceInfo {
    let kind = ServiceKind::of(&name);
    ServiceInfo { name, kind, pids: Vec::new() }
}
