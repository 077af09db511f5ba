//! The programs that take samples: their clocks, their hooks, and the maps that steer them. All of it comes and goes while
//! the agent runs.

use std::{io, os::fd::OwnedFd};

use aya::{
    Btf,
    maps::{MapData, RingBuf},
    programs::{
        BtfTracePoint, Iter, PerfEvent, Program, ProgramError,
        perf_event::{PerfEventConfig, PerfEventLink, PerfEventScope, SamplePolicy, SoftwareEvent},
        tp_btf::BtfTracePointLink,
    },
    util::online_cpus,
};
use steth_probes::{
    catalog::{PROFILE_PROBES, SWITCH},
    profile::{SLOT_NUMBER, Sampling, Target, UnwindFile},
    python,
    record::read,
    tls::CodeFile,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    load::{Kernel, LoadError, map_data, table},
    pass,
    report::refusal,
    tables::{Table, Written},
};
use crate::model::{probe::ProbeState, profile::Kind};

/// The program that looks at system calls as they return.
const RETURN: &str = "profile_return";
/// The programs that look at waits, in the order in which they are attached.
const WAITS: [&str; 2] = [RETURN, SWITCH];

/// The one that asks for unwind tables.
const FILES: &str = "profile_files";
/// The one that tells of threads which wait while it ends.
const STILL: &str = "profile_still";

/// The clocks.
const CLOCKS: [&str; 2] = ["profile_always", "profile_demand"];

/// Which clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The one that always runs.
    Always,
    /// The one for whoever asks.
    Demand,
}

/// What is needed for profiles of a kind on demand.
const fn needed(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Cpu => &[CLOCKS[1]],
        Kind::OffCpu => &WAITS,
        Kind::Wall => &[CLOCKS[1], RETURN, SWITCH],
        Kind::Syscalls | Kind::Queries => &[RETURN],
    }
}

/// Probes that only profiles of other kinds need, or those of the past. To verify them would take longer than all the rest.
pub fn not_needed(kind: Kind) -> impl Iterator<Item = &'static str> {
    CLOCKS.into_iter().chain(WAITS).filter(move |name| !needed(kind).contains(name))
}

impl Clock {
    const fn program(self) -> &'static str {
        match self {
            Self::Always => "profile_always",
            Self::Demand => "profile_demand",
        }
    }
}

/// What is attached for sampling; dropping it detaches.
#[derive(Debug, Default)]
pub(super) struct Running {
    always: Vec<PerfEventLink>,
    demand: Vec<PerfEventLink>,
    /// With the names of their programs.
    tracepoints: Vec<(&'static str, BtfTracePointLink)>,
}

/// Steers the programs that take samples.
#[derive(Debug)]
pub struct Sampler {
    sampling: Table,
    targets: Table,
    pythons: Table,
    files: Table,
    numbers: Table,
    rows: Written,
    pages: Written,
    told: Vec<Target>,
}

impl Kernel {
    /// What steers sampling, and the ring of samples. To be called once.
    ///
    /// # Errors
    /// If a map is missing, or the ring cannot be mapped.
    pub fn sampler(&mut self) -> Result<(Sampler, RingBuf<MapData>), LoadError> {
        let table = |name| table(&self.ebpf, name, 1);
        let written = |name| -> Result<Written, LoadError> {
            let map = self.ebpf.map(name).and_then(map_data).ok_or(LoadError::NoMap(name))?;
            Ok(Written::new(map)?)
        };
        let sampler = Sampler {
            sampling: table("SAMPLING")?,
            targets: table("TARGETS")?,
            pythons: table("PYTHONS")?,
            files: table("UNWIND_FILES")?,
            numbers: table("NUMBERS")?,
            rows: written("UNWIND_ROWS")?,
            pages: written("UNWIND_PAGES")?,
            told: Vec::new(),
        };
        Ok((sampler, self.ring("SAMPLES")?))
    }

    /// Why no profile of this kind can be taken, if so.
    pub fn cannot_sample(&self, kind: Kind) -> Option<String> {
        let needed = needed(kind);
        let of_profiles = self.profile_probes.iter().map(|(probe, state)| (probe.name, state));
        let all = of_profiles.chain(self.probes.iter().map(|(probe, state)| (probe.name, state)));
        let lacking = all.filter(|(name, _)| needed.contains(name)).find_map(|(name, state)| match state {
            ProbeState::Off if name == SWITCH => Some(format!("{name} is switched off (`kernel.without`)")),
            ProbeState::Off => Some("they are switched off (`probes.profiles`)".to_owned()),
            ProbeState::Unavailable { reason } => Some(format!("{name}: {reason}")),
            _ => None,
        });
        let runs = |state: &ProbeState| matches!(state, ProbeState::Attached | ProbeState::Partial { .. });
        let is_timed = || self.probes.iter().any(|(probe, state)| probe.name == "sys_exit" && runs(state));
        let untimed = || Some("system calls are not timed; steth doctor says why".to_owned());
        lacking.or_else(|| if matches!(kind, Kind::Syscalls | Kind::Queries) && !is_timed() { untimed() } else { None })
    }

    /// Loads what takes samples, without letting it run. What the kernel refuses is said by [`Kernel::statuses`].
    pub(super) fn load_sampling(&mut self, btf: &Btf, without: &[String]) {
        let files = self.program::<Iter>(FILES).and_then(|it| it.load("task_vma", btf));
        if let Err(error) = files {
            tracing::warn!("the first stacks of a profile lack what unwind tables tell: {}", refusal(&error));
        }
        for probe in PROFILE_PROBES {
            if without.iter().any(|name| name == probe.name) {
                self.profile_probes.push((probe, ProbeState::Off));
                continue;
            }
            let loaded = match probe.tracepoint {
                Some(tracepoint) => self.program::<BtfTracePoint>(probe.name).and_then(|it| it.load(tracepoint, btf)),
                None => self.program::<PerfEvent>(probe.name).and_then(PerfEvent::load),
            };
            let loaded = loaded.and_then(|()| match probe.name {
                "profile_return" => self.program::<Iter>(STILL)?.load("task", btf),
                _ => Ok(()),
            });
            let state = match loaded {
                Ok(()) => ProbeState::Ready,
                Err(error) => ProbeState::Unavailable { reason: refusal(&error) },
            };
            self.profile_probes.push((probe, state));
        }
    }

    /// Lets a clock tick this often in a second, on each CPU.
    ///
    /// # Errors
    /// If the verifier refused the program, or the kernel refuses the clock.
    pub fn start_clock(&mut self, clock: Clock, hertz: u32) -> Result<(), ProgramError> {
        self.stop_clock(clock);
        let program: &mut PerfEvent = self.program(clock.program())?;
        let mut links = Vec::new();
        for cpu in online_cpus().map_err(|(_, error)| error)? {
            let link = program.attach(
                PerfEventConfig::Software(SoftwareEvent::CpuClock),
                PerfEventScope::AllProcessesOneCpu { cpu },
                SamplePolicy::Frequency(hertz.into()),
                false,
            )?;
            links.push(program.take_link(link)?);
        }
        *self.links(clock) = links;
        self.set_state(&[clock.program()], &ProbeState::Attached);
        Ok(())
    }

    /// Stops a clock.
    pub fn stop_clock(&mut self, clock: Clock) {
        if !std::mem::take(self.links(clock)).is_empty() {
            self.set_state(&[clock.program()], &ProbeState::Ready);
        }
    }

    fn links(&mut self, clock: Clock) -> &mut Vec<PerfEventLink> {
        match clock {
            Clock::Always => &mut self.running.always,
            Clock::Demand => &mut self.running.demand,
        }
    }

    /// Looks at threads that wait, and at long system calls, or no longer does.
    ///
    /// # Errors
    /// If the verifier refused a program.
    pub fn look_at(&mut self, waits: bool, long_ones: bool) -> Result<(), ProgramError> {
        for (name, wanted) in [(RETURN, waits || long_ones), (SWITCH, waits)] {
            // What splits wall time is there already.
            if name == SWITCH && self.splits_wall() {
                continue;
            }
            let at = self.running.tracepoints.iter().position(|(running, _)| *running == name);
            match (at, wanted) {
                (None, true) => {
                    let program: &mut BtfTracePoint = self.program(name)?;
                    let link = program.attach()?;
                    let link = program.take_link(link)?;
                    self.running.tracepoints.push((name, link));
                    self.set_state(&[name], &ProbeState::Attached);
                }
                (Some(at), false) => {
                    self.running.tracepoints.swap_remove(at);
                    self.set_state(&[name], &ProbeState::Ready);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Has the files told that wanted processes run and that have no unwind table yet. What is not told in time is told later, or
    /// with the first sample.
    ///
    /// # Errors
    /// If the kernel refuses to go through its mappings.
    pub fn tell_files(&mut self) -> Result<(), ProgramError> {
        pass::run_over_mappings(self.program::<Iter>(FILES)?)
    }

    /// Has those told that wait still.
    ///
    /// # Errors
    /// If the kernel refuses to go through its threads.
    pub fn tell_waiting(&mut self) -> Result<(), ProgramError> {
        pass::run(self.program::<Iter>(STILL)?)
    }

    fn set_state(&mut self, names: &[&str], state: &ProbeState) {
        for (probe, old) in &mut self.probes {
            // What it cannot do stays so.
            if names.contains(&probe.name) && !matches!(old, ProbeState::Partial { .. }) {
                *old = state.clone();
            }
        }
        for (probe, old) in &mut self.profile_probes {
            if names.contains(&probe.name) {
                *old = state.clone();
            }
        }
    }

    pub(super) fn program<'a, T>(&'a mut self, name: &str) -> Result<&'a mut T, ProgramError>
    where
        &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        self.ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
    }
}

impl Sampler {
    /// Says what is sampled, and whose.
    ///
    /// # Errors
    /// If the kernel refuses: more targets than there is room for.
    pub fn set(&mut self, sampling: &Sampling, targets: &[(Target, u32)]) -> io::Result<()> {
        for (target, kinds) in targets {
            self.targets.put(target, kinds)?;
        }
        for old in std::mem::take(&mut self.told) {
            if !targets.iter().any(|(target, _)| *target == old) {
                self.targets.remove(&old)?;
            }
        }
        self.told = targets.iter().map(|(target, _)| *target).collect();
        self.sampling.put(&0u32, sampling)
    }

    /// Says where the frames of Python are found in a process.
    ///
    /// # Errors
    /// If the kernel refuses: more processes than there is room for.
    pub fn set_python(&self, pid: u32, process: &python::Process) -> io::Result<()> {
        self.pythons.put(&pid, process)
    }

    /// A process is gone, or runs something else.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn forget_python(&self, pid: u32) -> io::Result<()> {
        self.pythons.remove(&pid)?;
        Ok(())
    }

    /// Says what is known of a file of code.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_file(&self, code: &CodeFile, file: &UnwindFile) -> io::Result<()> {
        self.files.put(code, file)
    }

    /// What is known of a file was wrong or took too much room.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn forget_file(&self, code: &CodeFile) -> io::Result<()> {
        self.files.remove(code)?;
        Ok(())
    }

    /// Slots that are given out to files of code, out of [`steth_probes::profile::KERNEL_SLOTS`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn slots(&mut self) -> io::Result<u32> {
        let mut given = 0;
        self.numbers.visit_range(SLOT_NUMBER..SLOT_NUMBER + 1, |_, value| given = read(value).unwrap_or(given))?;
        Ok(given)
    }

    /// Forgets all files of code, so that their slots may be given out anew.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn forget_files(&mut self) -> io::Result<()> {
        for (code, _) in self.files()? {
            self.forget_file(&code)?;
        }
        self.numbers.put(&SLOT_NUMBER, &0u32)
    }

    /// Writes rows of an unwind table.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn write_rows(&self, first: u32, rows: &[u64]) -> io::Result<()> {
        self.rows.put(first, rows)
    }

    /// Writes the pages of one.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn write_pages(&self, first: u32, pages: &[u32]) -> io::Result<()> {
        self.pages.put(first, pages)
    }

    /// When each file was last used, in clock ticks of the walker; for deciding which one has to go.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn files(&mut self) -> io::Result<Vec<(CodeFile, UnwindFile)>> {
        let mut files = Vec::new();
        self.files.visit(u32::MAX, |key, value| {
            files.extend(read(key).zip(read(value)));
        })?;
        Ok(files)
    }
}

/// A ring that can be waited for until the kernel says that it is to be read. For where tokio runs.
///
/// # Errors
/// If the kernel refuses.
pub fn awaited(ring: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is open, and the same, as long as it is owned.
    let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    Ok(registered?)
}
