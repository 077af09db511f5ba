//! Processes by service: CPU, memory, descriptors, I/O, faults, context switches. One pass over procfs; who is
//! which service is asked of whoever knows.
//!
//! Counters of a service stay monotonic although its processes come and go: each process's last reading is kept,
//! and what it gained since is added to its service. A process that was there before the first pass adds only
//! what it gains from then on, so that a restart of the agent does not look like a burst; a later one adds its
//! whole life. What a process does between its last pass and its end is not seen here.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use procfs::{
    FromReadSI, KernelStats, ProcError, ProcResult, current_system_info,
    process::{Io, LimitValue, Process, Stat, all_processes_with_root},
    ticks_per_second,
};

use super::{
    Patience, Problem, group, malformed,
    memory_limit::memory_limit,
    process_status::{Status, has_ended},
    push,
    services::is_kernel_thread,
};
use crate::model::{
    catalog::{host, steth::SERVICE_MEMORY_LIMIT},
    metric::Metric,
    service::{KERNEL, Services},
    snapshot::Series,
};

/// A service without processes is forgotten after this many passes: its counters start anew if it comes back.
const FORGET_AFTER_PASSES: u64 = 600;

/// Reads all processes, by service.
pub struct Processes {
    proc: PathBuf,
    buffer: Vec<u8>,
    pass: u64,
    boot_unix_seconds: Option<u64>,
    seen: HashMap<(i32, u64), Seen>,
    groups: HashMap<Arc<str>, Group>,
    patience: Patience,
}

/// What one process had counted when it was last seen.
struct Seen {
    counters: Counters,
    pass: u64,
    files_limit: u64,
    memory_limit: Option<u64>,
    limits_pass: u64,
}

/// Limits hardly ever change, and the kernel takes long to write that of open files out: they are read again after this many
/// passes.
const LIMITS_PASSES: u64 = 30;

/// All that only grows. The order is that of [`COUNTERS`].
type Counters = [u64; COUNTERS.len()];

/// The metric, its second label, and what one unit is worth.
static COUNTERS: [(&Metric, Option<&str>, Unit); 8] = [
    (&host::PROCESS_CPU_SECONDS, Some("user"), Unit::Tick),
    (&host::PROCESS_CPU_SECONDS, Some("system"), Unit::Tick),
    (&host::PROCESS_MAJOR_FAULTS, None, Unit::One),
    (&host::PROCESS_MINOR_FAULTS, None, Unit::One),
    (&host::PROCESS_CONTEXT_SWITCHES, Some("voluntary"), Unit::One),
    (&host::PROCESS_CONTEXT_SWITCHES, Some("nonvoluntary"), Unit::One),
    (&host::PROCESS_READ_BYTES, None, Unit::One),
    (&host::PROCESS_WRITE_BYTES, None, Unit::One),
];

/// A state of `/proc/PID/stat`.
const UNINTERRUPTIBLE: char = 'D';

/// Where control groups are mounted.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

enum Unit {
    One,
    Tick,
}

/// process-exporter's names of the states, in the order of [`Group::states`].
const STATES: [&str; 5] = ["Running", "Sleeping", "Waiting", "Zombie", "Other"];

/// One service.
#[derive(Default)]
struct Group {
    counters: Counters,
    last_pass: u64,
    now: Gauges,
}

/// What a service has at this moment; starts from nothing at each pass.
#[derive(Default)]
struct Gauges {
    processes: u64,
    threads: u64,
    states: [u64; STATES.len()],
    resident_bytes: u64,
    virtual_bytes: u64,
    swapped_bytes: u64,
    open_files: u64,
    worst_files_ratio: f64,
    oldest_start_ticks: Option<u64>,
    memory_limit: Option<u64>,
}

/// One process at one moment.
struct Reading {
    stat: Stat,
    counters: Counters,
    resident_bytes: u64,
    swapped_bytes: u64,
    open_files: u64,
    files_limit: u64,
    memory_limit: Option<u64>,
    was_denied: bool,
}

impl Processes {
    /// Reads the processes of the procfs that is mounted there.
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        Self {
            proc: proc.into(),
            buffer: Vec::new(),
            pass: 0,
            boot_unix_seconds: None,
            seen: HashMap::new(),
            groups: HashMap::new(),
            patience: Patience::default(),
        }
    }

    /// Reads all processes: the series of all services, those of one metric together, and what could not be read.
    /// A process that ends while it is read is left out; that is no problem.
    pub fn read(&mut self, services: &mut dyn Services) -> (Vec<Series>, Vec<Problem>) {
        let mut problems = Vec::new();
        match all_processes_with_root(&self.proc) {
            Ok(processes) => {
                self.pass += 1;
                let mut denied_count = 0;
                for process in processes {
                    match process.and_then(|process| self.reading(&process)) {
                        Ok(reading) => {
                            denied_count += usize::from(reading.was_denied);
                            self.add(&reading, services);
                        }
                        Err(error) if has_ended(&error) => {}
                        Err(ProcError::PermissionDenied(_)) => denied_count += 1,
                        Err(error) => problems.push(malformed(&self.proc, error)),
                    }
                }
                if denied_count > 0 {
                    let is_root = Process::myself().and_then(|own| own.status()).is_ok_and(|status| status.euid == 0);
                    problems.push(Problem::ProcessesDenied { count: denied_count, is_root });
                }
            }
            Err(error) => problems.push(malformed(&self.proc, error)),
        }
        self.forget();
        let mut out = Vec::new();
        self.push(&mut out);
        group(&mut out);
        (out, problems)
    }

    fn reading(&mut self, process: &Process) -> ProcResult<Reading> {
        let stat = process.stat()?;
        let mut reading = Reading {
            counters: [stat.utime, stat.stime, stat.majflt, stat.minflt, 0, 0, 0, 0],
            stat,
            resident_bytes: 0,
            swapped_bytes: 0,
            open_files: 0,
            files_limit: 0,
            memory_limit: None,
            was_denied: false,
        };
        let status = Status::read(process, &mut self.buffer)?;
        reading.resident_bytes = status.resident_bytes;
        reading.swapped_bytes = status.swapped_bytes;
        reading.counters[4] = status.voluntary_switches;
        reading.counters[5] = status.nonvoluntary_switches;
        // Kernel threads and the dead have no descriptors and read and write nothing.
        if !is_kernel_thread(&reading.stat) && reading.stat.state != 'Z' {
            if let Some(answer) = self.io(process, reading.stat.state)
                && let Some(io) = reading.unless_denied(answer)?
            {
                reading.counters[6] = io.read_bytes;
                reading.counters[7] = io.write_bytes;
            }
            if let Some(count) = reading.unless_denied(process.fd_count())? {
                reading.open_files = count as u64;
            }
            self.limits(process, &mut reading)?;
        }
        Ok(reading)
    }

    /// What it has read and written; none if it does not answer. Who is in the middle of an exec holds this back (Linux,
    /// fs/proc/base.c, `do_io_accounting`), and may wait there for a file system that hangs.
    fn io(&mut self, process: &Process, state: char) -> Option<ProcResult<Io>> {
        if state != UNINTERRUPTIBLE {
            return Some(process.io());
        }
        let folder = self.proc.join(process.pid.to_string());
        self.patience.ask(process.pid.unsigned_abs(), move || Process::new_with_root(folder)?.io())
    }

    /// The soft limit of open files, 0 if there is none or it may not be read, and that of memory.
    fn limits(&self, process: &Process, reading: &mut Reading) -> ProcResult<()> {
        let seen = self.seen.get(&(reading.stat.pid, reading.stat.starttime));
        if let Some(seen) = seen.filter(|seen| self.pass - seen.limits_pass < LIMITS_PASSES) {
            (reading.files_limit, reading.memory_limit) = (seen.files_limit, seen.memory_limit);
            return Ok(());
        }
        let limits = reading.unless_denied(process.limits())?;
        reading.files_limit = match limits.map(|limits| limits.max_open_files.soft_limit) {
            Some(LimitValue::Value(limit)) => limit,
            Some(LimitValue::Unlimited) | None => 0,
        };
        reading.memory_limit = memory_limit(&self.proc.join(reading.stat.pid.to_string()), Path::new(CONTROL_GROUPS));
        Ok(())
    }

    fn add(&mut self, reading: &Reading, services: &mut dyn Services) {
        let stat = &reading.stat;
        let service =
            if is_kernel_thread(stat) { Some(KERNEL.into()) } else { services.service_of(stat.pid, stat.starttime) };
        let Some(service) = service else { return };
        let group = self.groups.entry(service).or_default();
        if group.last_pass != self.pass {
            group.last_pass = self.pass;
            group.now = Gauges::default();
        }
        group.now.add(reading);
        let is_first_pass = self.pass == 1;
        let seen = self.seen.entry((stat.pid, stat.starttime)).or_insert_with(|| Seen {
            counters: if is_first_pass { reading.counters } else { Counters::default() },
            pass: 0,
            files_limit: 0,
            memory_limit: None,
            limits_pass: self.pass,
        });
        if seen.pass == 0 || self.pass - seen.limits_pass >= LIMITS_PASSES {
            seen.limits_pass = self.pass;
        }
        (seen.files_limit, seen.memory_limit) = (reading.files_limit, reading.memory_limit);
        seen.pass = self.pass;
        for ((total, before), now) in group.counters.iter_mut().zip(&mut seen.counters).zip(reading.counters) {
            // A file that was denied or had ended reads as zero: then nothing was gained.
            *total += now.saturating_sub(*before);
            *before = now.max(*before);
        }
    }

    fn forget(&mut self) {
        let pass = self.pass;
        self.seen.retain(|_, seen| seen.pass == pass);
        self.groups.retain(|_, group| pass - group.last_pass <= FORGET_AFTER_PASSES);
        for group in self.groups.values_mut().filter(|group| group.last_pass != pass) {
            group.now = Gauges::default();
        }
    }

    fn push(&mut self, out: &mut Vec<Series>) {
        let ticks = ticks_per_second() as f64;
        let boot = *self.boot_unix_seconds.get_or_insert_with(|| boot_unix_seconds(&self.proc));
        out.reserve(self.groups.len() * (COUNTERS.len() + STATES.len() + 9));
        for (service, Group { counters, now, .. }) in &self.groups {
            for ((metric, label, unit), value) in COUNTERS.iter().zip(counters) {
                let value = *value as f64 / if matches!(unit, Unit::Tick) { ticks } else { 1.0 };
                match label {
                    Some(label) => push(out, metric, &[service, label], value),
                    None => push(out, metric, &[service], value),
                }
            }
            for (state, count) in STATES.iter().zip(now.states) {
                push(out, &host::PROCESS_STATES, &[service, state], count as f64);
            }
            for (kind, bytes) in
                [("resident", now.resident_bytes), ("virtual", now.virtual_bytes), ("swapped", now.swapped_bytes)]
            {
                push(out, &host::PROCESS_MEMORY, &[service, kind], bytes as f64);
            }
            let started = now.oldest_start_ticks.map_or(0.0, |start| boot as f64 + start as f64 / ticks);
            for (metric, value) in [
                (&host::PROCESS_COUNT, now.processes as f64),
                (&host::PROCESS_THREADS, now.threads as f64),
                (&host::PROCESS_OPEN_FILES, now.open_files as f64),
                (&host::PROCESS_WORST_FILES_RATIO, now.worst_files_ratio),
                (&host::PROCESS_OLDEST_START, started),
            ] {
                push(out, metric, &[service], value);
            }
            if let Some(limit) = now.memory_limit {
                push(out, &SERVICE_MEMORY_LIMIT, &[service], limit as f64);
            }
        }
    }
}

impl Gauges {
    fn add(&mut self, reading: &Reading) {
        let stat = &reading.stat;
        self.processes += 1;
        self.threads += u64::try_from(stat.num_threads).unwrap_or(0);
        let state = match stat.state {
            'R' => 0,
            'S' => 1,
            'D' => 2,
            'Z' => 3,
            _ => 4,
        };
        self.states[state] += 1;
        self.resident_bytes += reading.resident_bytes;
        self.virtual_bytes += stat.vsize;
        self.swapped_bytes += reading.swapped_bytes;
        self.open_files += reading.open_files;
        if reading.files_limit > 0 {
            self.worst_files_ratio = self.worst_files_ratio.max(reading.open_files as f64 / reading.files_limit as f64);
        }
        self.memory_limit = self.memory_limit.into_iter().chain(reading.memory_limit).min();
        self.oldest_start_ticks = Some(self.oldest_start_ticks.unwrap_or(u64::MAX).min(stat.starttime));
    }
}

impl Reading {
    /// Passes on what was read; what this user may not read is noted, and read as nothing.
    fn unless_denied<T>(&mut self, result: ProcResult<T>) -> ProcResult<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(ProcError::PermissionDenied(_)) => {
                self.was_denied = true;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn boot_unix_seconds(proc: &Path) -> u64 {
    KernelStats::from_file(proc.join("stat"), current_system_info()).map_or(0, |stat| stat.btime)
}

#[cfg(test)]
mod tests;
