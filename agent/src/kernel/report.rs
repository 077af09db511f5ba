//! What became of each probe, in words, and what all of it takes.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    maps::MapData,
    programs::ProgramError,
    sys::{Stats, enable_stats},
    util::online_cpus,
};
use steth_probes::catalog::{LibraryProbe, Probe};

use super::{
    load::{Kernel, map_data},
    missed::runs_missed,
};
use crate::model::probe::{ProbeState, ProbeStatus};

impl Kernel {
    /// What became of each probe, with its cost so far.
    pub fn statuses(&self) -> Vec<ProbeStatus> {
        let probes = self.probes.iter().map(|(probe, state)| {
            let lost = match state {
                ProbeState::Partial { .. } => self.lost.get(probe.name).map_or("", String::as_str),
                _ => probe.lost,
            };
            self.status(probe.name, hook(probe), state, lost)
        });
        let library = self.library_probes.iter().map(|(probe, state)| {
            let state = match state {
                ProbeState::Attached => self.library.state(),
                other => other.clone(),
            };
            self.status(probe.name, library_hook(probe), &state, probe.lost)
        });
        let profiles = self
            .profile_probes
            .iter()
            .map(|(probe, state)| self.status(probe.name, probe.hook.into(), state, probe.lost));
        probes.chain(library).chain(profiles).collect()
    }

    fn status(&self, name: &str, hook: String, state: &ProbeState, lost: &str) -> ProbeStatus {
        let program = self.ebpf.program(name);
        let info = program.and_then(|program| program.info().ok());
        ProbeStatus {
            name: name.into(),
            hook,
            state: state.clone(),
            lost: lost.into(),
            memory_bytes: info.as_ref().and_then(|info| info.memory_locked().ok()).unwrap_or(0).into(),
            runs: info.as_ref().map_or(0, |info| info.run_count()),
            run_ns: info.as_ref().map_or(0, |info| info.run_time().as_nanos().try_into().unwrap_or(u64::MAX)),
            missed: program
                .and_then(|program| program.fd().ok())
                .and_then(|fd| runs_missed(fd.as_fd()).ok())
                .unwrap_or(0),
        }
    }

    /// Memory that each map takes, by its name, as the kernel accounts it.
    pub fn map_memory(&self) -> BTreeMap<String, u64> {
        let maps = self.ebpf.maps().filter_map(|(name, map)| Some((name.to_owned(), memory_of(map_data(map)?)?)));
        maps.chain(self.ring_memory_bytes.clone()).collect()
    }
}

/// While it is held, the kernel counts runs and time of all programs, which costs each run two looks at the clock (Linux 5.8).
#[derive(Debug)]
pub struct Measuring {
    _enabled: OwnedFd,
}

impl Measuring {
    /// Begins.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN, and before Linux 5.8.
    pub fn begin() -> Result<Self, String> {
        let enabled = enable_stats(Stats::RunTime);
        enabled.map(|enabled| Self { _enabled: enabled }).map_err(|error| error.to_string())
    }
}

/// CPUs that run.
pub fn cpus() -> usize {
    online_cpus().map_or(1, |cpus| cpus.len().max(1))
}

/// What users call the hook.
pub fn hook(probe: &Probe) -> String {
    format!("tp_btf/{}", probe.tracepoint)
}

/// As [`hook`], for a probe in user space.
pub fn library_hook(probe: &LibraryProbe) -> String {
    let kind = if probe.at_return { "uretprobe" } else { "uprobe" };
    match probe.functions {
        [one] => format!("{kind}/{one}"),
        several => format!("{kind}/{},…", several.first().unwrap_or(&"")),
    }
}

/// Why a probe does not run.
pub(super) fn reason(error: &ProgramError, probe: &Probe) -> String {
    match error {
        ProgramError::Btf(_) => {
            format!("this kernel has no tracepoint {} (Linux {})", probe.tracepoint, probe.since)
        }
        other => refusal(other),
    }
}

/// What a program was refused for, in a line.
pub(super) fn refusal(error: &ProgramError) -> String {
    match error {
        // The last line says what was refused; the rest is the verifier's whole walk.
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let told = |line: &&str| {
                !line.is_empty()
                    && !["processed", "stack depth", "verification time"].iter().any(|no| line.starts_with(no))
            };
            let words = log.lines().rev().find(told);
            format!("the verifier refused it: {io_error}: {}", words.unwrap_or_default())
        }
        other => other.to_string(),
    }
}

/// The kernel tells a map's memory only in its descriptor's information file.
pub(super) fn memory_of(map: &MapData) -> Option<u64> {
    use std::os::fd::AsRawFd as _;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
}
