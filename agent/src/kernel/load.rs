//! Loads the kernel programs and attaches each to its hook. A probe that this kernel cannot run is reported and the rest
//! goes on.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    panic::resume_unwind,
    path::PathBuf,
    thread::{self, JoinHandle},
};

use aya::{
    Btf, Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Map, MapData, MapError, RingBuf},
    programs::{BtfTracePoint, Iter, Program, ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use steth_probes::{
    catalog::{Feature, LIBRARY_PROBES, LibraryProbe, PROBES, PROFILE_PROBES, Probe, ProfileProbe, SWITCH},
    limits,
    offsets::{ABSENT, Settings},
    record::bytes_of,
    watch::Watch,
};
use thiserror::Error;

use super::{
    btf::{BtfError, KernelTypes},
    lacks::Lacks,
    pass,
    report::{memory_of, reason},
    sampling::Running,
    sizes::{self, Ends, Sizes, Wanted},
    tables::Table,
    tls::{Attached, Found, Library, Looked},
};
use crate::model::probe::{Finding, ProbeState};

/// The program that goes through all threads before figures are read.
const WALL_SO_FAR: &str = "wall_so_far";
/// The program that the agent runs for each listener.
const LISTENER_DROPS: &str = "listener_drops";

/// The bit that says whether a thread waits for a device.
const DEVICE: (&str, &str) = ("task_struct", "in_iowait");

/// The kernel programs, as they were built with this agent.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steth-ebpf.o"));

/// What to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the kernel's type information is.
    pub btf: PathBuf,
    /// Features that are wanted.
    pub features: Vec<Feature>,
    /// Names of probes that are left alone.
    pub without: Vec<String>,
    /// Bytes that all maps together may take.
    pub memory_bytes: u64,
    /// Bytes of each ring buffer.
    pub ring_bytes: u32,
    /// Services that are told apart.
    pub services: u32,
    /// Peers that are told apart.
    pub peers: u32,
    /// Statements that are told apart.
    pub statements: u32,
    /// Bytes that unwind tables and all else of profiles may take, beside those of the others.
    pub profile_memory_bytes: u64,
    /// Which Postgres cycles are told one by one from the start.
    pub watch: Watch,
}

/// Why no probe can run.
#[derive(Debug, Error)]
pub enum LoadError {
    /// This host or user lacks what all of it needs.
    #[error("no kernel program can run: {}: {}; {}", .0.name, .0.found, .0.advice)]
    Impossible(Finding),
    /// Offsets.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The object was refused as a whole: its maps, or its relocation.
    #[error("the kernel refused steth's maps: {0}")]
    Object(#[from] aya::EbpfError),
    /// The object has not what this agent expects: it was built from other sources.
    #[error("the embedded kernel object has no map {0}")]
    NoMap(&'static str),
    /// A map cannot be used.
    #[error("cannot use a kernel map: {0}")]
    Map(#[from] MapError),
    /// A map cannot be read.
    #[error("cannot read a kernel map: {0}")]
    Read(#[from] io::Error),
}

/// The loaded programs and their maps; dropping it detaches and frees all.
#[derive(Debug)]
pub struct Kernel {
    pub(super) ebpf: Ebpf,
    pub(super) probes: Vec<(&'static Probe, ProbeState)>,
    /// What is lost of probes that do only part of their work.
    pub(super) lost: BTreeMap<&'static str, String>,
    pub(super) library_probes: Vec<(&'static LibraryProbe, ProbeState)>,
    pub(super) library: Library,
    settings: Settings,
    pub(super) profile_probes: Vec<(&'static ProfileProbe, ProbeState)>,
    pub(super) running: Running,
    unwind_rows: u32,
    /// Of the rings, once they are given away; they never change.
    pub(super) ring_memory_bytes: BTreeMap<String, u64>,
}

/// The maps that user space reads.
#[derive(Debug)]
pub struct Tables {
    /// Services by key.
    pub services: Table,
    /// Rows of services.
    pub service_rows: Table,
    /// Histogram slots by cell.
    pub histogram_slots: Table,
    /// Histograms by slot.
    pub histograms: Table,
    /// Counters by cell.
    pub counters: Table,
    /// Losses by reason.
    pub losses: Table,
    /// Sockets.
    pub connections: Table,
    /// Peers by key.
    pub peers: Table,
    /// Postgres conversations.
    pub wires: Table,
    /// Numbers that were given out.
    pub numbers: Table,
    /// Where the processes of Postgres clusters note what they run.
    pub backends: Table,
    /// Files of code that were looked at.
    pub code_files: Table,
    /// Which Postgres cycles are told one by one.
    pub watch: Table,
    /// What is kept of each service for that.
    pub service_watches: Table,
    /// What the threads of services spent.
    pub service_walls: Table,
    /// What requests of statements spent.
    pub statement_walls: Table,
    /// Number of copies in maps that are kept per CPU.
    pub cpus: usize,
}

impl Kernel {
    /// Loads all programs of the wanted features and attaches them.
    ///
    /// # Errors
    /// If no program can be loaded at all. A single probe that fails is no error: see [`Kernel::statuses`].
    pub fn load(options: &Options) -> Result<Self, LoadError> {
        // Each reads all types of the kernel, which takes longer than to verify most programs: side by side.
        let path = options.btf.clone();
        let btf = thread::spawn(move || Btf::parse_file(path, aya::Endianness::default()));
        let loader = thread::spawn(EbpfLoader::new);
        let types = KernelTypes::read(&options.btf)?;
        let offsets = types.offsets();
        let lacks = Lacks::of(&offsets);
        let mut features = lacks.leave(&options.features);
        features.retain(|feature| *feature != Feature::Wall || !options.without.iter().any(|name| name == SWITCH));
        let sizes = Sizes::within(&Wanted {
            memory_bytes: options.memory_bytes,
            cpus: possible_cpus() as u64,
            ring_bytes: options.ring_bytes,
            services: options.services,
            peers: options.peers,
            statements: options.statements,
        });
        let (histograms, counters) = (
            Ends::within(sizes.histograms, &features),
            Ends::within(limits::COUNTERS - limits::COUNTERS_OTHER, &features),
        );
        let on = |feature| u32::from(features.contains(&feature));
        let settings = Settings {
            syscalls: on(Feature::Syscalls),
            sockets: on(Feature::Sockets),
            tcp: on(Feature::Tcp),
            postgres: on(Feature::Postgres),
            tls: on(Feature::Tls),
            profiles: on(Feature::Profiles),
            wall: on(Feature::Wall),
            device_bit: types.bit(DEVICE.0, DEVICE.1).unwrap_or(0),
            pids_controller: types.enumerator("cgroup_subsys_id", "pids_cgrp_id").unwrap_or(ABSENT),
            histograms_calls: histograms.calls,
            histograms_tcp: histograms.tcp,
            histograms_postgres: histograms.postgres,
            histograms: sizes.histograms,
            counters_calls: counters.calls,
            counters_tcp: counters.tcp - counters.calls,
            counters_postgres: counters.postgres - counters.tcp,
            counters_common: limits::COUNTERS - limits::COUNTERS_OTHER - counters.postgres,
            services: options.services,
            peers: options.peers,
            statements: options.statements,
            databases: limits::DATABASES,
        };
        let profile = features.contains(&Feature::Profiles);
        let unwind_rows = sizes::unwind_rows(options.profile_memory_bytes, possible_cpus() as u64);
        let mut loader = joined(loader);
        let mut ebpf = loader
            // A refusal in words, without the walk that led to it: until Linux 6.4 a walk that outgrows its buffer is refused for
            // that, and each longer buffer costs the whole verification once more.
            .verifier_log_level(VerifierLogLevel::STATS)
            .allow_unsupported_maps()
            .override_global("OFFSETS", bytes_of(&offsets), true)
            .override_global("SETTINGS", bytes_of(&settings), true)
            .map_max_entries("HISTOGRAMS", sizes.histograms)
            .map_max_entries("HISTOGRAM_SLOTS", sizes.histograms)
            .map_max_entries("CONNECTIONS", sizes.connections)
            .map_max_entries("WIRES", sizes.wires)
            .map_max_entries("SSLS", if settings.tls == 0 { 1 } else { sizes.ssls })
            .map_max_entries("CODE_FILES", if settings.tls == 0 { 1 } else { limits::CODE_FILES })
            .map_max_entries("PREPARED", sizes.prepared)
            .map_max_entries("SERVICES", options.services)
            .map_max_entries("SERVICE_ROWS", options.services)
            .map_max_entries("SERVICE_WATCHES", options.services)
            .map_max_entries("SERVICE_WALLS", if settings.wall == 0 { 1 } else { options.services })
            .map_max_entries(
                "STATEMENT_WALLS",
                if settings.wall == 0 || settings.postgres == 0 { 1 } else { sizes.walls },
            )
            .map_max_entries("PEERS", options.peers)
            .map_max_entries("STATEMENTS", options.statements)
            .map_max_entries("RECORDS", options.ring_bytes)
            .map_max_entries("TRACE", options.ring_bytes)
            .map_max_entries("SAMPLES", if profile { limits::SAMPLES_BYTES } else { limits::LEAST_RING_BYTES })
            .map_max_entries("PYTHONS", if profile { limits::PYTHONS } else { 1 })
            .map_max_entries("UNWIND_ROWS", if profile { unwind_rows } else { 1 })
            .map_max_entries("UNWIND_PAGES", if profile { unwind_rows / 8 } else { 1 })
            .map_max_entries("UNWIND_FILES", if profile { limits::UNWIND_FILES } else { 1 })
            .load(OBJECT)?;
        // Before anything runs: of zeros, each cycle would be slow.
        table(&ebpf, "WATCH", 1)?.put(&0u32, &options.watch)?;
        let btf = joined(btf).map_err(|source| LoadError::Object(source.into()))?;
        let mut programs: HashMap<&str, &mut Program> = ebpf.programs_mut().collect();
        let library = LIBRARY_PROBES.iter().map(|probe| (probe, programs.remove(probe.name))).collect::<Vec<_>>();
        // One after the other: for `sys_exit` the verifier needs 190 MiB for a moment, for `tls_return` nearly as much (Linux 6.18).
        let probes =
            PROBES.iter().map(|probe| (probe, attach(programs.remove(probe.name), &btf, probe, &lacks, options)));
        let probes = probes.collect();
        let library_probes = Library::load(library, &lacks, &options.features);
        let lost = PROBES.iter().filter_map(|probe| Some((probe.name, lacks.curtail(probe, &options.features)?.1)));
        let lost = lost.collect();
        let library = Library::default();
        let mut kernel = Self {
            ebpf,
            probes,
            lost,
            library_probes,
            library,
            settings,
            profile_probes: Vec::new(),
            running: Running::default(),
            unwind_rows: if profile { unwind_rows } else { 1 },
            ring_memory_bytes: BTreeMap::new(),
        };
        let refused = match options.features.contains(&Feature::Profiles) {
            true => lacks.refuse(Feature::Profiles).map(|reason| ProbeState::Unavailable { reason }),
            false => Some(ProbeState::Off),
        };
        match refused {
            None => kernel.load_sampling(&btf, &options.without),
            Some(state) => kernel.profile_probes.extend(PROFILE_PROBES.iter().map(|probe| (probe, state.clone()))),
        }
        if kernel.splits_wall()
            && let Err(error) = kernel
                .program::<Iter>(WALL_SO_FAR)
                .and_then(|it| it.load("task", &btf))
                .and_then(|()| kernel.settle_wall())
        {
            tracing::warn!("waits are counted only when they end: {error}");
        }
        if let Err(error) = kernel.load_seed(&btf).and_then(|()| kernel.pass_over_open_files()) {
            tracing::warn!("sockets that were open before are met at their first use only: {error}");
        }
        if let Err(error) = kernel.load_listener_drops() {
            tracing::warn!("listen overflows are off: {error}");
        }
        Ok(kernel)
    }

    /// The maps to read from. To be called once.
    ///
    /// # Errors
    /// If a map is missing or cannot be described.
    pub fn tables(&mut self) -> Result<Tables, LoadError> {
        let cpus = possible_cpus();
        let table = |name, copies| table(&self.ebpf, name, copies);
        Ok(Tables {
            services: table("SERVICES", 1)?,
            service_rows: table("SERVICE_ROWS", 1)?,
            histogram_slots: table("HISTOGRAM_SLOTS", 1)?,
            histograms: table("HISTOGRAMS", cpus)?,
            counters: table("COUNTERS", cpus)?,
            losses: table("LOSSES_BY_REASON", cpus)?,
            connections: table("CONNECTIONS", 1)?,
            peers: table("PEERS", 1)?,
            wires: table("WIRES", 1)?,
            numbers: table("NUMBERS", 1)?,
            backends: table("BACKENDS", 1)?,
            code_files: table("CODE_FILES", 1)?,
            watch: table("WATCH", 1)?,
            service_watches: table("SERVICE_WATCHES", 1)?,
            service_walls: table("SERVICE_WALLS", 1)?,
            statement_walls: table("STATEMENT_WALLS", cpus)?,
            cpus,
        })
    }

    /// The ring of records. To be called once.
    ///
    /// # Errors
    /// If it cannot be mapped.
    pub fn records(&mut self) -> Result<RingBuf<MapData>, LoadError> {
        self.ring("RECORDS")
    }

    /// The ring of traced cycles. To be called once.
    ///
    /// # Errors
    /// If it cannot be mapped.
    pub fn traces(&mut self) -> Result<RingBuf<MapData>, LoadError> {
        self.ring("TRACE")
    }

    pub(super) fn ring(&mut self, name: &'static str) -> Result<RingBuf<MapData>, LoadError> {
        let map = self.ebpf.take_map(name).ok_or(LoadError::NoMap(name))?;
        self.ring_memory_bytes.extend(map_data(&map).and_then(memory_of).map(|bytes| (name.to_owned(), bytes)));
        Ok(RingBuf::try_from(map)?)
    }

    fn load_seed(&mut self, btf: &Btf) -> Result<(), ProgramError> {
        self.open_files()?.load("task_file", btf)
    }

    /// Goes through all open files once: the first time, so that sockets and services from before the agent are known; later,
    /// so that those which are still open bear the number of the pass.
    ///
    /// # Errors
    /// If the program was refused, or cannot be run.
    pub fn pass_over_open_files(&mut self) -> Result<(), ProgramError> {
        pass::run(self.open_files()?)
    }

    fn open_files(&mut self) -> Result<&mut Iter, ProgramError> {
        self.ebpf.program_mut("seed").ok_or(ProgramError::NotLoaded)?.try_into()
    }

    /// Whether Postgres is looked for in what sockets carry.
    pub fn sees_postgres(&self) -> bool {
        self.settings.postgres != 0
    }

    /// Whether it is told what wall time is spent with.
    pub fn splits_wall(&self) -> bool {
        self.settings.wall != 0
            && self.probes.iter().any(|(probe, state)| probe.name == SWITCH && *state == ProbeState::Attached)
    }

    /// Has it told what threads have waited, or run, so far: else that is told only when it ends.
    ///
    /// # Errors
    /// If the program was refused, or cannot be run.
    pub fn settle_wall(&mut self) -> Result<(), ProgramError> {
        pass::run(self.program::<Iter>(WALL_SO_FAR)?)
    }

    fn load_listener_drops(&mut self) -> Result<(), ProgramError> {
        let program: &mut RawTracePoint =
            self.ebpf.program_mut(LISTENER_DROPS).ok_or(ProgramError::NotLoaded)?.try_into()?;
        program.load()
    }

    /// Brings the counts of what these listeners dropped up to date. A socket is named by its address.
    pub fn count_listener_drops(&self, listeners: impl IntoIterator<Item = u64>) {
        let program: Option<&RawTracePoint> =
            self.ebpf.program(LISTENER_DROPS).and_then(|program| program.try_into().ok());
        let Some(program) = program else { return };
        for listener in listeners {
            let mut options = RawTracePointRunOptions::default();
            options.args[0] = listener;
            if let Err(error) = program.test_run(options) {
                tracing::debug!("cannot look at a listener: {error}");
            }
        }
    }

    /// Whether the probes of OpenSSL can be attached to files.
    pub fn follows_tls(&self) -> bool {
        self.library_probes.iter().all(|(_, state)| *state == ProbeState::Attached)
    }

    /// Attaches the probes of OpenSSL to a file that holds it.
    pub fn follow(&mut self, found: Found) -> Looked {
        self.library.attach(&mut self.ebpf, found)
    }

    /// Leaves a file alone again.
    pub fn leave(&mut self, attached: Attached) {
        self.library.leave(&mut self.ebpf, attached);
    }

    /// Room for rows of unwind tables.
    pub fn unwind_rows(&self) -> u32 {
        self.unwind_rows
    }

    /// Room in the histogram map.
    pub fn histogram_limit(&self) -> u32 {
        self.settings.histograms
    }
}

fn attach(program: Option<&mut Program>, btf: &Btf, probe: &Probe, lacks: &Lacks, options: &Options) -> ProbeState {
    let wanted = probe.feature == Feature::Identity
        || options.features.contains(&probe.feature)
        // Sockets and Postgres hang on the system calls' programs.
        || (probe.feature == Feature::Syscalls && !options.features.is_empty());
    let is_switch = probe.name == SWITCH;
    let for_profiles = is_switch && options.features.contains(&Feature::Profiles);
    if !(wanted || for_profiles) || options.without.iter().any(|name| name == probe.name) {
        return ProbeState::Off;
    }
    // It is attached all the time for wall time; for profiles when somebody asks.
    let for_profiles = for_profiles && lacks.refuse(Feature::Profiles).is_none();
    let refused = lacks.stop(probe).or_else(|| lacks.refuse(probe.feature).filter(|_| is_switch));
    if let Some(reason) = refused.clone().filter(|_| !for_profiles) {
        return ProbeState::Unavailable { reason };
    }
    let program = match load(program, btf, probe) {
        Ok(program) => program,
        Err(error) => return ProbeState::Unavailable { reason: reason(&error, probe) },
    };
    if !wanted {
        return ProbeState::Ready;
    }
    if let Some(reason) = refused {
        return ProbeState::Partial { reason };
    }
    match program.attach() {
        Ok(_) => match lacks.curtail(probe, &options.features) {
            Some((reason, _)) => ProbeState::Partial { reason },
            None => ProbeState::Attached,
        },
        Err(error) => ProbeState::Unavailable { reason: reason(&error, probe) },
    }
}

fn load<'a>(program: Option<&'a mut Program>, btf: &Btf, probe: &Probe) -> Result<&'a mut BtfTracePoint, ProgramError> {
    let program: &mut BtfTracePoint = program.ok_or(ProgramError::NotLoaded)?.try_into()?;
    program.load(probe.tracepoint, btf)?;
    Ok(program)
}

/// What a thread has come to; its panic goes on here.
fn joined<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

pub(super) fn table(ebpf: &Ebpf, name: &'static str, copies: usize) -> Result<Table, LoadError> {
    let map = ebpf.map(name).ok_or(LoadError::NoMap(name))?;
    Ok(Table::new(map_data(map).ok_or(LoadError::NoMap(name))?, copies)?)
}

pub(super) fn map_data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::RingBuf(data)
        | Map::Unsupported(data) => Some(data),
        _ => None,
    }
}

fn possible_cpus() -> usize {
    aya::util::nr_cpus().unwrap_or(1)
}
