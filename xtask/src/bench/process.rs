//! A child process that ends with its owner, pinned to a processor. Knows pipes and limits, not what the program is.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    io::Read,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::interrupt;
use crate::workspace;

/// USER_HZ, in which times are told on every architecture that we run on (proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used.
pub struct Times {
    /// User and system time of all its threads, ended ones too, in hundredths.
    pub cpu_seconds: f64,
    /// It has ended, and nobody has asked how.
    pub ended: bool,
}

/// User and system time of the threads of a process that bear this name, in hundredths.
///
/// # Errors
/// The process is gone.
pub fn thread_seconds(pid: u32, name: &str) -> Result<f64> {
    let folder = format!("/proc/{pid}/task");
    let mut seconds = 0.0;
    for thread in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        let thread = thread?.path();
        let of = |file: &str| fs::read_to_string(thread.join(file)).unwrap_or_default();
        if of("comm").trim_end() == name {
            seconds += seconds_of(&of("stat"));
        }
    }
    Ok(seconds)
}

/// Time on a CPU of the threads that a process has now, to the nanosecond (first field of /proc/PID/task/TID/schedstat). For what is
/// short against a hundredth of a second, by thread.
///
/// # Errors
/// The process is gone, or the kernel does not tell (CONFIG_SCHED_INFO).
pub fn exact_cpu_times(pid: u32) -> Result<Exact> {
    let folder = format!("/proc/{pid}/task");
    let mut exact = Exact::default();
    for thread in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        let thread = thread?;
        let file = thread.path().join("schedstat");
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let first = text.split_whitespace().next().and_then(|field| field.parse::<f64>().ok());
        let ns = first.with_context(|| format!("{} says no time", file.display()))?;
        exact.0.insert(thread.file_name(), ns / 1e9);
    }
    ensure!(!exact.0.is_empty(), "this kernel has no {folder}/*/schedstat");
    Ok(exact)
}

/// Seconds on a CPU by thread.
#[derive(Debug, Default)]
pub struct Exact(BTreeMap<OsString, f64>);

impl Exact {
    /// What threads that are there now have used since. What one did last that has ended meanwhile is missing.
    pub fn since(&self, before: &Self) -> f64 {
        self.0.iter().map(|(thread, now)| now - before.0.get(thread).unwrap_or(&0.0)).sum()
    }
}

/// Fields 3, 14 and 15 of proc(5), which can be read until someone has waited for the process.
///
/// # Errors
/// It is gone.
pub fn times(pid: u32) -> Result<Times> {
    let file = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    // The name may hold blanks and brackets: count from its last bracket.
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace().collect();
    Ok(Times { cpu_seconds: seconds_of(&text), ended: fields.first() == Some(&"Z") })
}

/// Fields 14 and 15 of proc(5).
fn seconds_of(stat: &str) -> f64 {
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// A line of /proc/PID/status that tells memory, such as `VmRSS`.
///
/// # Errors
/// It is gone.
pub fn memory_mib(pid: u32, key: &str) -> Result<f64> {
    let file = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = line.and_then(|value| value.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kib.with_context(|| format!("no {key} in {file}"))? / 1024.0)
}

/// Resident memory of the kernel's maps that it has mapped, which count as the kernel's as well; of a ring buffer twice, as it is
/// mapped.
///
/// # Errors
/// It is gone.
pub fn mapped_maps_mib(pid: u32) -> Result<f64> {
    let file = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let (mut is_map, mut kib) = (false, 0.0);
    for line in text.lines() {
        match line.strip_prefix("Rss:") {
            Some(value) if is_map => kib += value.trim().trim_end_matches(" kB").parse::<f64>()?,
            Some(_) => {}
            // The line that begins a mapping has its addresses first, and no name with a colon.
            None if line.split(' ').next().is_some_and(|first| first.contains('-')) => {
                is_map = line.ends_with("anon_inode:bpf-map");
            }
            None => {}
        }
    }
    Ok(kib / 1024.0)
}

/// A user that a program is run as.
#[derive(Clone, Copy)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// A command that the kernel kills when xtask ends in whatever way. `setpriv` and `taskset` (util-linux) become the
/// program: its process id and name are what they would be without them.
pub fn command(program: impl AsRef<OsStr>, cpu: Option<usize>, user: Option<User>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some(User { uid, gid }) = user {
        command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]);
    }
    command.arg("--");
    if let Some(cpu) = cpu {
        command.args(["taskset", "--cpu-list", &cpu.to_string()]);
    }
    command.arg(program).stdin(Stdio::null());
    command
}

/// A running child; killed when dropped.
pub struct Process {
    shown: String,
    child: Child,
}

impl Process {
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let shown = workspace::command_line(command);
        let child = command.spawn().with_context(|| format!("cannot start: {shown}"))?;
        Ok(Self { shown, child })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The process itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal by its name; `Child::kill` knows only SIGKILL.
    pub fn signal(&self, name: &str) {
        let _ = Command::new("kill").args(["-s", name, &self.id().to_string()]).status();
    }

    /// Asks it to end and waits; says whether it did.
    pub fn stop(&mut self, signal: &str, limit: Duration) -> bool {
        self.signal(signal);
        let asked = Instant::now();
        while self.is_running() {
            if asked.elapsed() > limit {
                return false;
            }
            thread::sleep(interrupt::PAUSE);
        }
        true
    }

    /// Waits for success.
    ///
    /// # Errors
    /// It fails, takes longer than `limit`, or a signal came.
    pub fn wait(&mut self, limit: Duration) -> Result<()> {
        let started = Instant::now();
        let status = loop {
            interrupt::check()?;
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if started.elapsed() > limit {
                bail!("not done after {} s: {}", limit.as_secs(), self.shown);
            }
            thread::sleep(interrupt::PAUSE);
        };
        if !status.success() {
            interrupt::check()?;
            let mut complaint = String::new();
            if let Some(mut stderr) = self.child.stderr.take() {
                let _ = stderr.read_to_string(&mut complaint);
            }
            bail!("failed ({status}): {}\n{}", self.shown, complaint.trim_end());
        }
        Ok(())
    }

    /// Waits for success, looking at it every now and then; returns the CPU time that it took.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_watched(&mut self, limit: Duration, mut look: impl FnMut(u32)) -> Result<f64> {
        let started = Instant::now();
        let cpu_seconds = loop {
            interrupt::check()?;
            look(self.id());
            let Times { cpu_seconds, ended } = times(self.id())?;
            if ended {
                break cpu_seconds;
            }
            if started.elapsed() > limit {
                bail!("not done after {} s: {}", limit.as_secs(), self.shown);
            }
            thread::sleep(Duration::from_millis(50));
        };
        self.wait(limit)?;
        Ok(cpu_seconds)
    }

    /// Waits for success and returns what it printed on a piped standard output, up to what a pipe holds.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn output(&mut self, limit: Duration) -> Result<String> {
        self.wait(limit)?;
        let mut text = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut text).with_context(|| format!("reading from: {}", self.shown))?;
        }
        Ok(text)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program that prints less than a pipe holds (64 KiB) to its end, and returns its standard output.
///
/// # Errors
/// It fails, takes longer than `limit`, or a signal came.
pub fn output(command: &mut Command, limit: Duration) -> Result<String> {
    Process::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?.output(limit)
}
