//! bpftrace, to compare with: where it is installed and works, which no one needs to have.

use anyhow::Result;

use super::{
    process,
    tool::{Sign, Tool, ensure_installed},
};

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

/// Why it cannot be compared with here.
pub fn missing() -> Option<String> {
    start(EMPTY).err().map(|error| format!("bpftrace: {error:#}"))
}

/// Starts a script and waits until it runs.
///
/// # Errors
/// It is not installed, ends early or does not run in time.
pub fn start(script: &str) -> Result<Tool> {
    ensure_installed("bpftrace", "bpftrace")?;
    let mut command = process::command("unshare", None, None);
    command.args(["--mount", "sh", "-c", START, "sh", &format!("{script}{SIGN}")]);
    Tool::run(&mut command, Sign::Says("runs\n"))
}
