//! Who did it: stamps a service's number on each task, at fork, at exec, and at the first call of a task that was there
//! before. And what is to be told of one that ends, or is to read its configuration again.

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_kernel_str},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use steth_probes::{
    cell::Loss,
    identity::{HANGUP, ServiceEntry, ServiceKey, TaskState, is_crash},
    message::{Exec, Header, Kind, Signal},
    offsets::ABSENT,
};

use crate::{
    cells::{Numbers, lost, next_number, send},
    kernel::{Known, offset, setting},
    maps::{SERVICE_ROWS, SERVICES, TASKS},
    trace, wall,
};

/// A control group's number in the root of the unified hierarchy.
const ROOT_CGROUP: u64 = 1;

/// A child inherits its parent's service.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let (parent, child) = (Known(ctx.arg::<*const u8>(0)), Known(ctx.arg::<*const u8>(1)));
    let service = match TASKS.get(parent) {
        Some(state) => state.service,
        None => service_of(parent),
    };
    let mut state = TaskState::new(service);
    if setting!(wall) != 0 {
        wall::begin(&mut state);
    }
    if TASKS.get_or_insert(child, &mut state).is_none() {
        lost(Loss::TaskStateFailed);
    }
    0
}

/// A process that runs another executable may be of another service.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let task = Known(ctx.arg::<*const u8>(0));
    let service = service_of(task);
    let mut fresh = TaskState::new(service);
    match TASKS.get_or_insert(task, &mut fresh) {
        Some(state) => {
            if setting!(wall) != 0 {
                wall::flush(state);
            }
            state.service = service;
            if SERVICE_ROWS.get(service).is_some_and(|row| row.excluded != 0) {
                // The execve that began in another service.
                state.entered_ns = 0;
            }
        }
        None => lost(Loss::TaskStateFailed),
    }
    report_exec(ctx.tgid(), service);
    trace::execution(task, service);
    0
}

/// A thread ends.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    let task = Known(ctx.arg::<*const u8>(0));
    if setting!(wall) != 0
        && let Some(state) = TASKS.get(task)
        && state.wall.serves != 0
    {
        wall::worker_ends(task, state);
    }
    let signal = task.load::<u32>(offset!(task_exit_code)) & SIGNAL;
    // SAFETY: a helper without arguments.
    let (pid, tid) = unsafe { (bpf_get_current_pid_tgid() >> 32, bpf_get_current_pid_tgid() as u32) };
    // All threads of a process end by the same signal; its first one tells.
    if is_crash(signal) && pid as u32 == tid {
        report_signal(task, Met { pid: pid as u32, signal, ended: 1, out_of_memory: is_victim(task) as u32 });
    }
    0
}

/// Whether the kernel chose to end a process for lack of memory.
#[inline(always)]
fn is_victim(task: Known) -> bool {
    if offset!(task_signal) == ABSENT || offset!(signal_victim) == ABSENT {
        return false;
    }
    task.follow(offset!(task_signal)).is_some_and(|shared| shared.load::<u64>(offset!(signal_victim)) != 0)
}

/// The signal in what `wait` tells of a process; above it stands whether memory was dumped.
const SIGNAL: u32 = 0x7F;

/// A signal is sent: seen here and not where it arrives, because who reads signals from a descriptor (signalfd) or waits for them
/// (sigwait) has none delivered.
#[btf_tracepoint(function = "signal_generate")]
pub fn signal_generate(ctx: BtfTracePointContext) -> i32 {
    let (signal, result): (u64, u64) = (ctx.arg(0), ctx.arg(4));
    if signal as u32 == HANGUP && result as u32 == DELIVERED {
        let task = Known(ctx.arg::<*const u8>(2));
        if takes_hangup(task) {
            let pid = task.load(offset!(task_tgid));
            report_signal(task, Met { pid, signal: HANGUP, ended: 0, out_of_memory: 0 });
        }
    }
    0
}

/// `TRACE_SIGNAL_DELIVERED` (Linux, include/trace/events/signal.h): neither ignored nor under way already.
const DELIVERED: u32 = 0;

/// Whether a process has a function for SIGHUP, or holds it back to ask for it.
#[inline(always)]
fn takes_hangup(task: Known) -> bool {
    // While a thread waits for signals that it holds back, they are let through (Linux, kernel/signal.c, `do_sigtimedwait`).
    let blocked = task.load::<u64>(offset!(task_blocked)) | task.load::<u64>(offset!(task_really_blocked));
    // The signal's bit in the kernel's set.
    if blocked & 1 << (HANGUP - 1) != 0 {
        return true;
    }
    // 0 and 1 are to end, and to do nothing.
    task.follow(offset!(task_handlers)).is_some_and(|all| all.load::<u64>(offset!(handlers_actions)) > 1)
}

/// A signal, and what it did.
struct Met {
    pid: u32,
    signal: u32,
    ended: u32,
    out_of_memory: u32,
}

#[inline(always)]
fn report_signal(task: Known, met: Met) -> Option<()> {
    let service = TASKS.get(task).map_or(0, |state| state.service);
    if SERVICE_ROWS.get(service).is_some_and(|row| row.excluded != 0) {
        return None;
    }
    // SAFETY: a helper without arguments.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    let header = Header { kind: Kind::Signal as u32, text_len: 0, at_ns };
    let Met { pid, signal, ended, out_of_memory } = met;
    let record = Signal { header, pid, service, signal, ended, out_of_memory, _pad: [0; 4] };
    send((&raw const record).cast(), size_of::<Signal>() as u64);
    None
}

/// Tells user space, so that it can read the process' command line while it lives.
#[inline(always)]
fn report_exec(pid: u32, service: u32) {
    // SAFETY: a helper without arguments.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    let record = Exec { header: Header { kind: Kind::Exec as u32, text_len: 0, at_ns }, pid, service };
    send((&raw const record).cast(), size_of::<Exec>() as u64);
}

/// The state of the task that runs now; made anew for one that was there before the agent.
#[inline(always)]
pub fn current_state() -> Option<&'static mut TaskState> {
    stamp(Known::current())
}

/// Gives a task its service if it has none yet.
#[inline(always)]
pub fn stamp(task: Known) -> Option<&'static mut TaskState> {
    match TASKS.get(task) {
        Some(state) => Some(state),
        None => stamp_new(task),
    }
}

/// Apart, because it is rare, and for its stack: Linux 6.1 counts that of all calls under way in steps of 32 bytes.
#[inline(never)]
fn stamp_new(task: Known) -> Option<&'static mut TaskState> {
    let mut state = TaskState::new(service_of(task));
    let stamped = TASKS.get_or_insert(task, &mut state);
    if stamped.is_none() {
        lost(Loss::TaskStateFailed);
    }
    stamped
}

/// The service of the running task, for a clock that may have interrupted another program: up to Linux 6.1 the kernel has no state of
/// any task for who interrupts one that is just looking for it (kernel/bpf/bpf_task_storage.c, bpf_task_storage_trylock), which is
/// no loss here.
#[inline(never)]
pub fn interrupted(task: Known) -> u32 {
    let mut state = TaskState::new(service_of(task));
    let _ = TASKS.get_or_insert(task, &mut state);
    state.service
}

/// The number of the service that a task belongs to, given out if it is new; 0 if there is no room.
#[inline(always)]
fn service_of(task: Known) -> u32 {
    let mut key = ServiceKey::zeroed();
    fill_key(task, &mut key);
    // SAFETY: the value is copied at once.
    if let Some(entry) = unsafe { SERVICES.get(&key) } {
        return entry.service;
    }
    let Some(service) = next_number(Numbers::Services, 1, setting!(services)) else {
        lost(Loss::ServicesFull);
        return 0;
    };
    let entry = ServiceEntry { service };
    if SERVICES.insert(&key, &entry, BPF_NOEXIST.into()).is_ok() {
        return service;
    }
    // SAFETY: as above. Another CPU was faster; the number just taken stays unused.
    unsafe { SERVICES.get(&key) }.map_or(0, |entry| entry.service)
}

#[inline(always)]
fn fill_key(task: Known, key: &mut ServiceKey) -> Option<()> {
    let leader = task.follow(offset!(task_group_leader))?;
    cgroup(task, key);
    let dentry = executable(leader)?;
    let name: u64 = dentry.load(offset!(dentry_name));
    // SAFETY: the helper writes at most the array's length.
    unsafe { bpf_probe_read_kernel_str(key.exe.as_mut_ptr().cast(), key.exe.len() as u32, name as *const _) };
    if key.exe[..9] == *b"postgres\0" {
        // Backends are children of the postmaster and run the same executable.
        let parent = leader.follow(offset!(task_real_parent))?;
        let postmaster = match executable(parent) {
            Some(other) if other.address() == dentry.address() => parent,
            _ => leader,
        };
        key.cluster_pid = postmaster.load(offset!(task_tgid));
    }
    Some(())
}

/// Directory entry of the file that a process runs; kernel threads run none.
#[inline(always)]
fn executable(task: Known) -> Option<Known> {
    task.follow(offset!(task_mm))?.follow(offset!(mm_exe_file))?.follow(offset!(file_dentry))
}

/// The control group: in the unified hierarchy, or, where a process stands in its root, that of the `pids` controller.
#[inline(always)]
fn cgroup(task: Known, key: &mut ServiceKey) -> Option<()> {
    let set = task.follow(offset!(task_cgroups))?;
    let unified = set.follow(offset!(cset_unified))?;
    key.cgroup = unified.follow(offset!(cgroup_node))?.load(offset!(node_id));
    let controller = setting!(pids_controller);
    if key.cgroup == ROOT_CGROUP && controller != ABSENT {
        let state = set.follow(offset!(cset_subsystems) + controller * 8)?;
        let group = state.follow(offset!(css_cgroup))?;
        if group.load::<i32>(offset!(cgroup_level)) > 0 {
            key.cgroup = group.follow(offset!(cgroup_node))?.load(offset!(node_id));
            key.cgroup_v1 = 1;
        }
    }
    Some(())
}
