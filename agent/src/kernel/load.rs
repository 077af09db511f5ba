//! Loads the kernel programs and attaches each to its hook. A probe that this kernel cannot run is reported and the rest
//! goes on.

use std::{collections::BTreeMap, io, path::PathBuf};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Map, MapData, MapError, RingBuf},
    programs::{BtfTracePoint, Iter, ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use steth_probes::{
    catalog::{Feature, PROBES, Probe},
    limits,
    offsets::{ABSENT, Settings},
    record::bytes_of,
    watch::Watch,
};
use thiserror::Error;

use super::{
    btf::{BtfError, KernelTypes},
    tables::Table,
};
use crate::model::probe::{ProbeState, ProbeStatus};

/// The program that the agent runs for each listener.
const LISTENER_DROPS: &str = "listener_drops";

/// The kernel programs, as they were built with this agent.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steth-ebpf.o"));

/// What to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the kernel's type information is.
    pub btf: PathBuf,
    /// Features that are wanted.
    pub features: Vec<Feature>,
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
    /// Which Postgres cycles are told one by one from the start.
    pub watch: Watch,
}

/// Why no probe can run.
#[derive(Debug, Error)]
pub enum LoadError {
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
    ebpf: Ebpf,
    probes: Vec<(&'static Probe, ProbeState)>,
    settings: Settings,
    /// Of the rings, once they are given away; they never change.
    ring_memory_bytes: BTreeMap<String, u64>,
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
    /// Which Postgres cycles are told one by one.
    pub watch: Table,
    /// What is kept of each service for that.
    pub service_watches: Table,
    /// Number of copies in maps that are kept per CPU.
    pub cpus: usize,
}

/// Memory that is shared out among maps at load, by what each entry costs.
struct Sizes {
    histograms: u32,
    connections: u32,
    wires: u32,
    prepared: u32,
}

impl Sizes {
    /// Shares of the budget. What is left over goes to the smaller maps and the kernel's own bookkeeping.
    fn within(memory_bytes: u64, cpus: u64) -> Self {
        let share = |percent: u64, entry_bytes: u64, most: u32| {
            let entries = memory_bytes / 100 * percent / entry_bytes;
            u32::try_from(entries).unwrap_or(most).clamp(64, most)
        };
        Self {
            histograms: share(30, 1_176 * cpus, limits::HISTOGRAMS),
            connections: share(20, 200, limits::CONNECTIONS),
            wires: share(22, 700, limits::WIRES),
            prepared: share(8, 88, limits::PREPARED),
        }
    }
}

impl Kernel {
    /// Loads all programs of the wanted features and attaches them.
    ///
    /// # Errors
    /// If no program can be loaded at all. A single probe that fails is no error: see [`Kernel::statuses`].
    pub fn load(options: &Options) -> Result<Self, LoadError> {
        let types = KernelTypes::read(&options.btf)?;
        let offsets = types.offsets()?;
        let sizes = Sizes::within(options.memory_bytes, possible_cpus() as u64);
        let on = |feature| u32::from(options.features.contains(&feature));
        let settings = Settings {
            syscalls: on(Feature::Syscalls),
            sockets: on(Feature::Sockets),
            tcp: on(Feature::Tcp),
            postgres: on(Feature::Postgres),
            pids_controller: types.enumerator("cgroup_subsys_id", "pids_cgrp_id").unwrap_or(ABSENT),
            histograms: sizes.histograms,
            services: options.services,
            peers: options.peers,
            statements: options.statements,
            databases: limits::DATABASES,
        };
        let mut ebpf = EbpfLoader::new()
            .allow_unsupported_maps()
            .override_global("OFFSETS", bytes_of(&offsets), true)
            .override_global("SETTINGS", bytes_of(&settings), true)
            .map_max_entries("HISTOGRAMS", sizes.histograms)
            .map_max_entries("HISTOGRAM_SLOTS", sizes.histograms)
            .map_max_entries("CONNECTIONS", sizes.connections)
            .map_max_entries("WIRES", sizes.wires)
            .map_max_entries("PREPARED", sizes.prepared)
            .map_max_entries("SERVICES", options.services)
            .map_max_entries("SERVICE_ROWS", options.services)
            .map_max_entries("SERVICE_WATCHES", options.services)
            .map_max_entries("PEERS", options.peers)
            .map_max_entries("STATEMENTS", options.statements)
            .map_max_entries("RECORDS", options.ring_bytes)
            .map_max_entries("TRACE", options.ring_bytes)
            .load(OBJECT)?;
        // Before anything runs: of zeros, each cycle would be slow.
        table(&ebpf, "WATCH", 1)?.put(&0u32, &options.watch)?;
        let btf = Btf::parse_file(&options.btf, aya::Endianness::default())
            .map_err(|source| LoadError::Object(source.into()))?;
        let probes = PROBES.iter().map(|probe| (probe, attach(&mut ebpf, &btf, probe, options))).collect();
        if let Err(error) = seed(&mut ebpf, &btf) {
            tracing::warn!("sockets that were open before are met at their first use only: {error}");
        }
        let mut kernel = Self { ebpf, probes, settings, ring_memory_bytes: BTreeMap::new() };
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
            watch: table("WATCH", 1)?,
            service_watches: table("SERVICE_WATCHES", 1)?,
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

    fn ring(&mut self, name: &'static str) -> Result<RingBuf<MapData>, LoadError> {
        let map = self.ebpf.take_map(name).ok_or(LoadError::NoMap(name))?;
        self.ring_memory_bytes.extend(map_data(&map).and_then(memory_of).map(|bytes| (name.to_owned(), bytes)));
        Ok(RingBuf::try_from(map)?)
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

    /// What became of each probe, with its cost so far.
    pub fn statuses(&self) -> Vec<ProbeStatus> {
        self.probes.iter().map(|(probe, state)| self.status(probe, state)).collect()
    }

    fn status(&self, probe: &Probe, state: &ProbeState) -> ProbeStatus {
        let info = self.ebpf.program(probe.name).and_then(|program| program.info().ok());
        ProbeStatus {
            name: probe.name.into(),
            hook: hook(probe),
            state: state.clone(),
            lost: probe.lost.into(),
            memory_bytes: info.as_ref().and_then(|info| info.memory_locked().ok()).unwrap_or(0).into(),
            runs: info.as_ref().map_or(0, |info| info.run_count()),
            run_ns: info.as_ref().map_or(0, |info| info.run_time().as_nanos().try_into().unwrap_or(u64::MAX)),
        }
    }

    /// Memory that each map takes, by its name, as the kernel accounts it.
    pub fn map_memory(&self) -> BTreeMap<String, u64> {
        let maps = self.ebpf.maps().filter_map(|(name, map)| Some((name.to_owned(), memory_of(map_data(map)?)?)));
        maps.chain(self.ring_memory_bytes.clone()).collect()
    }

    /// Room in the histogram map.
    pub fn histogram_limit(&self) -> u32 {
        self.settings.histograms
    }
}

/// What users call the hook.
pub fn hook(probe: &Probe) -> String {
    format!("tp_btf/{}", probe.tracepoint)
}

fn attach(ebpf: &mut Ebpf, btf: &Btf, probe: &Probe, options: &Options) -> ProbeState {
    let wanted = probe.feature == Feature::Identity
        || options.features.contains(&probe.feature)
        // Sockets and Postgres hang on the system calls' programs.
        || (probe.feature == Feature::Syscalls && !options.features.is_empty());
    if !wanted {
        return ProbeState::Off;
    }
    match try_attach(ebpf, btf, probe) {
        Ok(()) => ProbeState::Attached,
        Err(error) => ProbeState::Unavailable { reason: reason(&error, probe) },
    }
}

fn try_attach(ebpf: &mut Ebpf, btf: &Btf, probe: &Probe) -> Result<(), ProgramError> {
    let program = ebpf.program_mut(probe.name).ok_or(ProgramError::NotLoaded)?;
    let program: &mut BtfTracePoint = program.try_into()?;
    program.load(probe.tracepoint, btf)?;
    program.attach()?;
    Ok(())
}

/// Goes through all open files once, so that sockets and services from before the agent are known.
fn seed(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), Box<dyn std::error::Error>> {
    let program: &mut Iter = ebpf.program_mut("seed").ok_or(ProgramError::NotLoaded)?.try_into()?;
    program.load("task_file", btf)?;
    let link = program.attach()?;
    let mut file = program.take_link(link)?.into_file()?;
    // The program writes nothing; reading runs it.
    io::copy(&mut file, &mut io::sink())?;
    Ok(())
}

fn reason(error: &ProgramError, probe: &Probe) -> String {
    match error {
        ProgramError::Btf(_) => {
            format!("this kernel has no tracepoint {} (Linux {})", probe.tracepoint, probe.since)
        }
        // The last line says what was refused; the rest is the verifier's whole walk.
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let words = log.lines().rev().find(|line| !line.is_empty() && !line.starts_with("processed"));
            format!("the verifier refused it: {io_error}: {}", words.unwrap_or_default())
        }
        other => other.to_string(),
    }
}

fn table(ebpf: &Ebpf, name: &'static str, copies: usize) -> Result<Table, LoadError> {
    let map = ebpf.map(name).ok_or(LoadError::NoMap(name))?;
    Ok(Table::new(map_data(map).ok_or(LoadError::NoMap(name))?, copies)?)
}

fn map_data(map: &Map) -> Option<&MapData> {
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

/// The kernel tells a map's memory only in its descriptor's information file.
fn memory_of(map: &MapData) -> Option<u64> {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
}

fn possible_cpus() -> usize {
    aya::util::nr_cpus().unwrap_or(1)
}
