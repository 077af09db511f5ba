//! Profiles: stacks taken by the clock of each CPU, and of threads that waited.
//!
//! A waiting thread's own stack cannot be read by whoever runs in its place, so it is told in two parts: the kernel's part when
//! the wait ends, the thread's own when the system call that it waited in returns; it is still the same then. Who leaves the
//! CPU outside of a system call (because another's turn has come, or a page must be fetched) tells its stack as it leaves.

mod mappings;
mod python;
mod sample;
mod world;

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_get_prandom_u32, bpf_get_stack, bpf_get_task_stack, bpf_ktime_get_ns},
    macros::{btf_tracepoint, perf_event},
    programs::{BtfTracePointContext, PerfEventContext},
};
pub use sample::Space;
use sample::Taking;
use steth_probes::{
    identity::{CALL_UNIT_NS, TaskState},
    profile::{SampleKind, Sampling, TARGET_PROCESS, TARGET_SERVICE, Target, ticks_ns, weigh},
};

use crate::{
    identity::{self, stamp},
    kernel::{Known, offset, setting},
    maps::{CLOCKS_TOLD, PROFILE_SPACES, SAMPLING, TARGETS, TASKS, WIRES},
};

/// Which work space programs of one kind use: they do not interrupt each other, but others.
const OF_CLOCKS: u32 = 0;
const OF_SWITCHES: u32 = 1;
const OF_RETURNS: u32 = 2;
/// Of passes over threads.
const OF_STILL: u32 = 3;
/// Of passes over what processes have mapped, one of which may take as long as it likes.
const OF_FILES: u32 = 4;
/// Work spaces of a CPU.
pub const SPACES: u32 = 5;

/// The clock that always runs.
#[perf_event]
pub fn profile_always(ctx: PerfEventContext) -> i32 {
    on_cpu(&ctx, SampleKind::Always);
    0
}

/// The clock that runs on demand.
#[perf_event]
pub fn profile_demand(ctx: PerfEventContext) -> i32 {
    on_cpu(&ctx, SampleKind::Demand);
    0
}

#[inline(always)]
fn on_cpu(ctx: &PerfEventContext, kind: SampleKind) -> Option<()> {
    let task = Known::current();
    let sampling = SAMPLING.get(0)?;
    let is_always = kind as u32 == SampleKind::Always as u32;
    let period_ns = if is_always { sampling.always_ns } else { sampling.demand_ns };
    let told = CLOCKS_TOLD.get_ptr_mut(!is_always as u32)?;
    let thread = task.load::<u32>(offset!(task_pid));
    let ran_ns = task.load::<u64>(offset!(task_ran));
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: a map value of this CPU and this clock.
    let weight_ns = ticks_ns(period_ns, sampling.epoch_ns, now_ns, thread, ran_ns, unsafe { &mut *told });
    if weight_ns == 0 || thread == 0 {
        return None; // Its time is told, or nobody runs.
    }
    let (service, sock) = match TASKS.get(task) {
        Some(state) => (state.service, state.sock),
        None => (identity::interrupted(task), 0),
    };
    if !is_wanted(sampling, kind.bit(), task, service) {
        return None;
    }
    let mut taking = Taking::begin(OF_CLOCKS, kind, task, service, sock)?;
    taking.set_weight(weight_ns);
    let (room, bytes) = taking.kernel_frames();
    // SAFETY: the verifier checks the room.
    taking.set_kernel_frames(unsafe { bpf_get_stack(ctx.as_ptr(), room, bytes, 0) });
    taking.walk_or_rest(task);
    taking.send();
    None
}

/// A thread leaves a CPU, and another takes it, while waits are looked at.
#[inline(always)]
pub fn switched(sampling: &Sampling, leaving: Known, coming: Known, now_ns: u64) {
    leaves(sampling, leaving, now_ns);
    comes_back(sampling, coming, now_ns);
}

/// What [`TaskState::away`] says of a thread that is off its CPU.
const NOT_WANTED: u32 = 1;
/// In a system call.
const IN_CALL: u32 = 2;
/// In none; its stack was told.
const TOLD: u32 = 3;

#[inline(always)]
fn leaves(sampling: &Sampling, task: Known, now_ns: u64) -> Option<()> {
    task.follow(offset!(task_mm))?; // Else a thread of the kernel, or nobody.
    let state = stamp(task)?;
    if state.away_epoch_ns != sampling.epoch_ns {
        state.away_epoch_ns = sampling.epoch_ns;
        begin_anew(sampling, state);
        state.away = if is_wanted(sampling, SampleKind::WAITS, task, state.service) { 0 } else { NOT_WANTED };
    }
    if state.away == NOT_WANTED {
        return None;
    }
    state.left_ns = now_ns;
    if sample::call_of(task).is_some() {
        state.away = IN_CALL;
        return None;
    }
    state.away = TOLD;
    let mut taking = Taking::begin(OF_SWITCHES, SampleKind::Leaves, task, state.service, state.sock)?;
    taking.walk(task);
    taking.send();
    None
}

#[inline(always)]
fn comes_back(sampling: &Sampling, task: Known, now_ns: u64) -> Option<()> {
    task.follow(offset!(task_mm))?;
    let Some(state) = TASKS.get(task) else { return came_from_before(sampling, task, now_ns) };
    if state.away_epoch_ns != sampling.epoch_ns {
        return came_from_before(sampling, task, now_ns);
    }
    let away = state.away;
    if away == NOT_WANTED || state.left_ns == 0 {
        return None;
    }
    let ns = now_ns - state.left_ns;
    state.left_ns = 0;
    if away == TOLD {
        return tell_wait(OF_SWITCHES, SampleKind::Back, task, state, ns);
    }
    waited(sampling, task, state, ns)
}

/// A wait in a system call is over.
#[inline(always)]
fn waited(sampling: &Sampling, task: Known, state: &mut TaskState, ns: u64) -> Option<()> {
    // SAFETY: a helper without arguments.
    let draw = || unsafe { bpf_get_prandom_u32() } as u64;
    let weight_ns = weigh(ns, sampling.interval_ns, &mut state.waited_ns, &mut state.point_ns, draw);
    if weight_ns == 0 {
        return None;
    }
    state.follows = 1;
    tell_wait(OF_SWITCHES, SampleKind::WaitInCall, task, state, weight_ns)
}

/// Nothing of this sampling has been told of a thread yet.
#[inline(always)]
fn begin_anew(sampling: &Sampling, state: &mut TaskState) {
    state.follows = 0;
    state.waited_ns = 0;
    // SAFETY: a helper without arguments.
    let lot = unsafe { bpf_get_prandom_u32() } as u64;
    state.point_ns = lot.checked_rem(sampling.interval_ns).unwrap_or(0);
}

/// A thread that had left before anybody looked.
#[inline(never)]
fn came_from_before(sampling: &Sampling, task: Known, now_ns: u64) -> Option<()> {
    let state = stamp(task)?;
    state.away_epoch_ns = sampling.epoch_ns;
    begin_anew(sampling, state);
    state.left_ns = 0;
    if !is_wanted(sampling, SampleKind::WAITS, task, state.service) {
        state.away = NOT_WANTED;
        return None;
    }
    state.away = 0;
    // Or is new.
    let forked_ns: u64 = task.load(offset!(task_start));
    let ns = now_ns.saturating_sub(forked_ns.max(sampling.epoch_ns));
    if sample::call_of(task).is_some() {
        return waited(sampling, task, state, ns);
    }
    tell_wait(OF_SWITCHES, SampleKind::WaitBefore, task, state, ns)
}

/// Tells how long a thread waited that comes back now, and where in the kernel.
#[inline(never)]
fn tell_wait(space: u32, kind: SampleKind, task: Known, state: &mut TaskState, ns: u64) -> Option<()> {
    let mut taking = Taking::begin(space, kind, task, state.service, state.sock)?;
    taking.set_weight(ns);
    let (room, bytes) = taking.kernel_frames();
    // SAFETY: the verifier checks the room and that `task` is a task.
    taking.set_kernel_frames(unsafe { bpf_get_task_stack(task.0.cast_mut().cast(), room, bytes, 0) });
    taking.send();
    None
}

/// A system call returns; attached after the program that times them, as long as waits, long calls or long requests are looked at.
#[btf_tracepoint(function = "sys_exit")]
pub fn profile_return(_ctx: BtfTracePointContext) -> i32 {
    returns();
    0
}

#[inline(always)]
fn returns() -> Option<()> {
    let task = Known::current();
    let state = TASKS.get(task)?;
    let (follows, call_ns) = (state.follows != 0, state.call_units as u64 * CALL_UNIT_NS);
    state.follows = 0;
    state.call_units = 0;
    let is_long = call_ns != 0 && is_long(task, state, call_ns);
    let long_request = long_request(task, state);
    if !follows && !is_long && long_request.is_none() {
        return None;
    }
    let mut taking = Taking::begin(OF_RETURNS, SampleKind::CallReturns, task, state.service, state.sock)?;
    taking.walk(task);
    if follows {
        taking.send();
    }
    if is_long {
        taking.set_long_call(state.syscall, call_ns);
        taking.send();
    }
    if let Some((begun_ns, ns)) = long_request {
        taking.set_long_request(state, begun_ns, ns);
        taking.send();
    }
    None
}

/// The request that has ended with this call on the socket which the thread used last, if that is to be told.
#[inline(always)]
fn long_request(task: Known, state: &TaskState) -> Option<(u64, u64)> {
    let sampling = SAMPLING.get(0)?;
    if setting!(postgres) == 0
        || state.sock == 0
        || !is_wanted(sampling, SampleKind::LongRequest.bit(), task, state.service)
    {
        return None;
    }
    let entry = WIRES.get_ptr_mut(&state.sock)?;
    // SAFETY: a map value; who changes it meanwhile makes the sample's request unknown at worst.
    let (begun_ns, ns) = unsafe { (*entry).wire.take_ended(sampling.epoch_ns)? };
    if ns < sampling.long_request_ns { None } else { Some((begun_ns, ns)) }
}

#[inline(always)]
fn is_long(task: Known, state: &TaskState, call_ns: u64) -> bool {
    SAMPLING.get(0).is_some_and(|sampling| {
        call_ns >= sampling.long_call_ns && is_wanted(sampling, SampleKind::LongCall.bit(), task, state.service)
    })
}

/// `struct bpf_iter__task` of the kernel's `kernel/bpf/task_iter.c`.
#[repr(C)]
pub struct Task {
    meta: u64,
    task: *const u8,
}

impl Task {
    /// The thread that it is the turn of; none at the end.
    #[inline(always)]
    pub fn known(context: *const Self) -> Option<Known> {
        // SAFETY: the kernel hands over this context; the pointer is null at the end.
        let task = unsafe { (*context).task };
        (!task.is_null()).then_some(Known(task))
    }
}

/// Runs once for each thread when sampling of waits ends (Linux 5.8): tells of those that wait still.
#[unsafe(link_section = "iter/task")]
#[unsafe(no_mangle)]
pub extern "C" fn profile_still(ctx: *const Task) -> i32 {
    if let Some(task) = Task::known(ctx) {
        waits_still(task);
    }
    0
}

#[inline(always)]
fn waits_still(task: Known) -> Option<()> {
    task.follow(offset!(task_mm))?;
    let sampling = SAMPLING.get(0)?;
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if task.load::<u32>(offset!(task_on_cpu)) != 0 {
        return None;
    }
    let state = stamp(task)?;
    let ns = if state.away_epoch_ns != sampling.epoch_ns {
        // It has not moved since before anybody looked.
        if !is_wanted(sampling, SampleKind::WAITS, task, state.service) {
            return None;
        }
        let forked_ns: u64 = task.load(offset!(task_start));
        now_ns.saturating_sub(forked_ns.max(sampling.epoch_ns))
    } else if state.away == NOT_WANTED || state.left_ns == 0 {
        return None;
    } else {
        now_ns.saturating_sub(state.left_ns)
    };
    // From here on it begins anew.
    state.left_ns = now_ns;
    if state.away_epoch_ns == sampling.epoch_ns && state.away == TOLD {
        state.left_ns = 0;
        return tell_wait(OF_STILL, SampleKind::Back, task, state, ns);
    }
    state.away_epoch_ns = sampling.epoch_ns;
    state.away = IN_CALL;
    let mut taking = Taking::begin(OF_STILL, SampleKind::Still, task, state.service, state.sock)?;
    taking.set_weight(ns);
    let (room, bytes) = taking.kernel_frames();
    // SAFETY: as in `tell_wait`.
    taking.set_kernel_frames(unsafe { bpf_get_task_stack(task.0.cast_mut().cast(), room, bytes, 0) });
    taking.registers(task);
    taking.send();
    None
}

/// `struct bpf_iter__task_vma` of the kernel's `kernel/bpf/task_iter.c`.
#[repr(C)]
pub struct TaskMapping {
    meta: u64,
    task: *const u8,
    mapping: *const u8,
}

/// Runs once for each mapping of each process when sampling begins (Linux 5.13): asks for the unwind tables of those whose
/// samples are wanted, so that already their first ones are whole.
#[unsafe(link_section = "iter/task_vma")]
#[unsafe(no_mangle)]
pub extern "C" fn profile_files(ctx: *const TaskMapping) -> i32 {
    // SAFETY: the kernel hands over this context; both pointers may be null.
    let (task, mapping) = unsafe { ((*ctx).task, (*ctx).mapping) };
    if !task.is_null() && !mapping.is_null() {
        meet(Known(task), Known(mapping));
    }
    0
}

#[inline(always)]
fn meet(task: Known, mapping: Known) -> Option<()> {
    let sampling = SAMPLING.get(0)?;
    let state = stamp(task)?;
    // The clock that always runs meets files as their code is run: to go through those of the whole host costs seconds.
    let asked = sampling.any & !SampleKind::Always.bit();
    if !is_wanted(sampling, asked, task, state.service) {
        return None;
    }
    let space = PROFILE_SPACES.get_ptr_mut(OF_FILES)?;
    // SAFETY: a map value of this CPU; of these passes there is one at a time.
    unsafe { (*space).world.meet_mapping(task, mapping) }
}

/// Whether samples of a kind are taken of a task.
#[inline(always)]
fn is_wanted(sampling: &Sampling, bit: u32, task: Known, service: u32) -> bool {
    if sampling.any & bit == 0 {
        return false;
    }
    if sampling.all & bit != 0 {
        return true;
    }
    let process = Target { what: TARGET_PROCESS, number: task.load(offset!(task_tgid)) };
    let service = Target { what: TARGET_SERVICE, number: service };
    wants(&process, bit) || wants(&service, bit)
}

#[inline(always)]
fn wants(target: &Target, bit: u32) -> bool {
    // SAFETY: the value is copied at once.
    unsafe { TARGETS.get(target) }.is_some_and(|bits| *bits & bit != 0)
}
