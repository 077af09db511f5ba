//! bpftrace, to compare with: where it is installed and works, which no one needs to have.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::{
    interrupt,
    process::{self, Process},
};
use crate::workspace;

/// Programs that do nothing, at every syscall's begin and end: what no tracer at these hooks can undercut.
pub const EMPTY: &str = "tracepoint:raw_syscalls:sys_enter { } tracepoint:raw_syscalls:sys_exit { }";
/// One histogram of the duration of all syscalls.
pub const HISTOGRAM: &str = "tracepoint:raw_syscalls:sys_enter { @start[tid] = nsecs; } \
                             tracepoint:raw_syscalls:sys_exit /@start[tid]/ \
                             { @ns = hist(nsecs - @start[tid]); delete(@start[tid]); }";

/// It finds tracepoints only in a mounted tracefs, and some versions only under debugfs: both are mounted for it
/// alone, in a mount namespace that ends with it.
const START: &str = "[ -e /sys/kernel/tracing/events ] || mount -t tracefs none /sys/kernel/tracing\n\
                     [ -e /sys/kernel/debug/tracing/events ] || mount -t debugfs none /sys/kernel/debug\n\
                     exec bpftrace -e \"$1\"";
/// It speaks when its programs run.
const SIGN: &str = " interval:ms:200 { printf(\"runs\\n\"); }";

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A running bpftrace; stopped when dropped.
pub struct Bpftrace {
    process: Process,
    _folder: TempDir,
}

impl Bpftrace {
    /// Why it cannot be compared with here.
    pub fn missing() -> Option<String> {
        if workspace::output_of(std::process::Command::new("bpftrace").arg("--version")).is_none() {
            return Some("bpftrace is not installed".to_owned());
        }
        Self::start(EMPTY).err().map(|error| format!("bpftrace does not run here: {error:#}"))
    }

    /// Starts a script and waits until it runs.
    ///
    /// # Errors
    /// It ends early or does not run in time.
    pub fn start(script: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("steth-bench-").tempdir()?;
        let (said, complaints) = (folder.path().join("stdout"), folder.path().join("stderr"));
        let mut command = process::command("unshare", None, None);
        command.args(["--mount", "sh", "-c", START, "sh", &format!("{script}{SIGN}")]);
        command.stdout(fs::File::create(&said)?).stderr(fs::File::create(&complaints)?);
        let mut process = Process::start(&mut command)?;
        let started = Instant::now();
        while !fs::read_to_string(&said).context("what bpftrace says")?.contains("runs\n") {
            if !process.is_running() {
                let complaint = fs::read_to_string(&complaints).unwrap_or_default();
                bail!("it ended: {}", complaint.lines().last().unwrap_or_default());
            }
            if started.elapsed() > START_LIMIT {
                bail!("it does not run after {} s", START_LIMIT.as_secs());
            }
            interrupt::sleep(Duration::from_millis(20))?;
        }
        Ok(Self { process, _folder: folder })
    }
}

impl Drop for Bpftrace {
    fn drop(&mut self) {
        self.process.stop("INT", STOP_LIMIT);
    }
}
