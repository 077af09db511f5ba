//! The wall split, measured: threads that leave a CPU or come back.
//!
//! How long a thread was in a run queue behind a wait is told by the kernel's own account of it, which is complete as soon as
//! the thread runs. So nothing needs to look at wake-ups.

mod requests;

use core::arch::asm;

use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_ns, bpf_task_pt_regs},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use steth_probes::{
    cell::{CellKey, HistogramKind},
    identity::TaskState,
    record::clear,
    syscalls::COMPAT,
    wall::{
        DEAD, LOOKS, Leaving, PENDING_NS, RequestWall, THREAD_STATES, ThreadWall, Waits, WallState, of_event,
        of_request, of_thread, part, waits_for,
    },
};

use crate::{
    cells::{add, observe_slot_shared, slot_of},
    identity::stamp,
    kernel::{Address, Known, offset, read_user, setting},
    maps::{BACKENDS, CLOCK_AHEAD, SAMPLING, SERVICE_ROWS, SERVICE_WALLS},
    profile::{self, Task},
};

pub use requests::{request_begins, request_ended, worker_ends};
use requests::{request_of, works_for};

/// `PF_KTHREAD` of the kernel's `include/linux/sched.h`: a thread of the kernel, or nobody.
const OF_KERNEL: u32 = 0x0020_0000;
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;

/// Saved user registers: see `syscalls::regs`.
mod regs {
    pub const DI: u32 = 112;
    pub const SI: u32 = 104;
    pub const ORIG_AX: u32 = 120;
    pub const CS: u32 = 136;
    pub const CS_32: u64 = 0x23;
}

/// A thread leaves a CPU, and another takes it.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let (leaving, coming) = (Known(ctx.arg::<*const u8>(1)), Known(ctx.arg::<*const u8>(2)));
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if setting!(wall) != 0 {
        let (is_preempted, task_state): (u64, u64) = (ctx.arg(0), ctx.arg(3));
        leaves(leaving, is_preempted & 0xFF != 0, task_state as u32, now_ns);
        comes(coming, now_ns);
    }
    if setting!(profiles) != 0
        && let Some(sampling) = SAMPLING.get(0)
        && sampling.waits != 0
    {
        profile::switched(sampling, leaving, coming, now_ns);
    }
    0
}

#[inline(always)]
fn is_of_kernel(task: Known) -> bool {
    task.load::<u32>(offset!(task_flags)) & OF_KERNEL != 0
}

#[inline(always)]
fn leaves(task: Known, is_preempted: bool, task_state: u32, now_ns: u64) -> Option<()> {
    if is_of_kernel(task) {
        return None;
    }
    let state = stamp(task)?;
    compare_clocks(task, &state.wall);
    if state.wall.looks != 0 {
        works_for(task, state);
    }
    let mut request = request_of(task, state);
    settle(task, state, request.as_deref_mut(), now_ns);
    state.wall.on_cpu = 0;
    state.wall.event = 0;
    if is_preempted || task_state == 0 {
        state.wall.state = WallState::RunQueue as u8;
    } else if task_state & DEAD != 0 {
        flush(state);
    } else {
        find_out(task, &mut state.wall, request, task_state);
    }
    None
}

#[inline(always)]
fn comes(task: Known, now_ns: u64) -> Option<()> {
    if is_of_kernel(task) {
        return None;
    }
    let wall = &mut stamp(task)?.wall;
    let (at_ns, told_ns) = (wall.at_ns, exchange(&mut wall.told_ns, now_ns));
    wall.at_ns = now_ns;
    if at_ns != 0 {
        wall.away.ns = now_ns.saturating_sub(at_ns);
        wall.away.told_ns = now_ns.saturating_sub(told_ns);
        if wall.on_cpu != 0 {
            // It left unseen.
            wall.state = WallState::Unknown as u8;
            wall.event = 0;
        }
    }
    wall.on_cpu = 1;
    None
}

/// What the two clocks may differ by before that is noted: all CPUs read that place.
const CLOCKS_DIFFER_NS: u64 = 20_000;

/// Notes how far the clock of run queues is behind, by a thread that leaves its CPU and was seen to come.
#[inline(always)]
fn compare_clocks(task: Known, wall: &ThreadWall) -> Option<()> {
    if wall.on_cpu == 0 || wall.away.ns == 0 {
        // It came unseen, or has had its time accounted for since.
        return None;
    }
    let ahead = CLOCK_AHEAD.get_ptr_mut(0)?;
    let ahead_ns = wall.at_ns.wrapping_sub(task.load(offset!(task_arrived)));
    // SAFETY: a map value. Racing writers write what is nearly the same.
    unsafe {
        if ahead_ns.wrapping_sub(*ahead).wrapping_add(CLOCKS_DIFFER_NS) > 2 * CLOCKS_DIFFER_NS {
            *ahead = ahead_ns;
        }
    }
    None
}

/// A thread runs that was not seen to come to its CPU: some kernels do not tell when certain threads leave theirs, and so nothing
/// of whoever follows them. When it came is then taken from the kernel's own account.
#[inline(never)]
fn came_unseen(task: Known, wall: &mut ThreadWall, now_ns: u64) -> Option<()> {
    let (at_ns, told_ns) = (wall.at_ns, wall.told_ns);
    if at_ns == 0 || at_ns >= now_ns {
        return None;
    }
    // SAFETY: a map value, copied at once.
    let ahead_ns = unsafe { *CLOCK_AHEAD.get_ptr(0)? };
    let came_ns = task.load::<u64>(offset!(task_arrived)).wrapping_add(ahead_ns).clamp(at_ns, now_ns);
    // What its service was told meanwhile stays told.
    let is_told = told_ns >= came_ns || compare_exchange(&mut wall.told_ns, told_ns, came_ns) != told_ns;
    wall.away.ns = came_ns - at_ns;
    wall.away.told_ns = if is_told { 0 } else { came_ns - told_ns };
    wall.at_ns = came_ns;
    wall.on_cpu = 1;
    None
}

/// Accounts for the time of a thread that runs until now: its last wait, and what it has run since.
#[inline(never)]
fn settle(task: Known, state: &mut TaskState, request: Option<&mut RequestWall>, now_ns: u64) -> Option<()> {
    let queued_ns: u64 = task.load(offset!(task_queued));
    let wall = &mut state.wall;
    if wall.on_cpu == 0 {
        came_unseen(task, wall, now_ns);
    }
    let told_ns = exchange(&mut wall.told_ns, now_ns);
    let (at_ns, was_queued_ns, was) = (wall.at_ns, queued_ns.wrapping_sub(wall.queued_ns), wall.state);
    let (away_ns, away_told_ns) = (wall.away.ns, wall.away.told_ns);
    // When it came is not known if it is not known to run.
    let now = if wall.on_cpu != 0 { WallState::OnCpu } else { WallState::Unknown } as usize;
    wall.at_ns = if at_ns > now_ns { at_ns } else { now_ns };
    wall.queued_ns = queued_ns;
    clear(&mut wall.away);
    if at_ns == 0 {
        return None;
    }
    let ran_ns = now_ns.saturating_sub(at_ns);
    if let Some(request) = request {
        let (waited_ns, queue_ns) = part(away_ns, was_queued_ns);
        request.ns[now & 15] += ran_ns;
        request.ns[WallState::RunQueue as usize] += queue_ns;
        request.ns[was as usize & 15] += waited_ns;
        if wall.event != 0 && waited_ns != 0 {
            request.waited(wall.event, waited_ns);
        }
    }
    spend(state, now, now_ns.saturating_sub(told_ns));
    if away_ns != 0 {
        let (waited_ns, queue_ns) = part(away_told_ns, was_queued_ns);
        spend(state, WallState::RunQueue as usize, queue_ns);
        spend(state, of_thread(was) as usize, waited_ns);
        queued(state.service, part(away_ns, was_queued_ns).1);
    }
    None
}

/// Observes a wait in a run queue.
#[inline(always)]
fn queued(service: u32, ns: u64) -> Option<()> {
    let row = SERVICE_ROWS.get_ptr_mut(service)?;
    // SAFETY: a map value.
    let (excluded, mut slot) = unsafe { ((*row).excluded, (*row).run_queue_slot) };
    if excluded != 0 {
        return None;
    }
    if slot == 0 {
        slot = slot_of(&CellKey { kind: HistogramKind::RunQueue as u8, sub: 0, service: service as u16, a: 0, b: 0 });
        // SAFETY: a map value. Racing writers write the same number.
        unsafe { (*row).run_queue_slot = slot };
    }
    observe_slot_shared(slot, ns);
    None
}

/// Keeps for the service what a thread of it spent, or tells it what has come together.
#[inline(always)]
fn spend(state: &mut TaskState, at: usize, ns: u64) {
    if at >= THREAD_STATES {
        return; // Never so.
    }
    let pending_ns = state.wall.pending[at] as u64 + ns;
    if pending_ns < PENDING_NS {
        state.wall.pending[at] = pending_ns as u32;
    } else {
        state.wall.pending[at] = 0;
        tell(state.service, at, pending_ns);
    }
}

/// Tells a service what its threads spent. Those of all CPUs add to the same cells, so it is done seldom.
#[inline(never)]
fn tell(service: u32, at: usize, ns: u64) -> Option<()> {
    if at >= THREAD_STATES || SERVICE_ROWS.get(service)?.excluded != 0 {
        return None;
    }
    let cell = SERVICE_WALLS.get_ptr_mut(service)?;
    // SAFETY: a map value; `at` was checked.
    add(unsafe { (&raw mut (*cell).ns).cast::<u64>().add(at) }, ns);
    None
}

/// Tells a service all that a thread of it spent so far: the thread ends, or goes over to another.
#[inline(never)]
pub fn flush(state: &mut TaskState) {
    for at in 0..THREAD_STATES {
        let ns = state.wall.pending[at];
        if ns != 0 {
            state.wall.pending[at] = 0;
            tell(state.service, at, ns as u64);
        }
    }
}

/// A thread is made: until it runs for the first time it is in a run queue.
#[inline(always)]
pub fn begin(state: &mut TaskState) {
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    state.wall.at_ns = now_ns;
    state.wall.told_ns = now_ns;
    state.wall.state = WallState::RunQueue as u8;
    if BACKENDS.get_ptr(&state.service).is_some() {
        state.wall.looks = LOOKS;
    }
}

/// Finds out what a thread waits for that is about to leave its CPU, or has left it.
#[inline(never)]
fn find_out(task: Known, wall: &mut ThreadWall, request: Option<&mut RequestWall>, task_state: u32) -> Option<()> {
    if let Some(request) = request
        && request.event_address != 0
        && let Some(event) = read_user::<u64>(request.event_address).and_then(read_user::<u32>)
        && let Some(state) = of_event(event)
    {
        wall.event = event;
        wall.state = state as u8;
        return None;
    }
    // SAFETY: the verifier checks that this is a task; its registers lie at the end of its stack.
    let saved = Known(unsafe { bpf_task_pt_regs(task.0.cast_mut().cast()) } as *const u8);
    let call: i64 = saved.load(regs::ORIG_AX);
    let leaving = Leaving {
        call: if call < 0 {
            None
        } else if saved.load::<u64>(regs::CS) == regs::CS_32 {
            Some(COMPAT)
        } else {
            Some(call as u32)
        },
        arguments: [saved.load(regs::DI), saved.load(regs::SI)],
        task_state,
        waits_for_device: match setting!(device_bit) {
            0 => None,
            bit => Some(task.load::<u8>(offset!(task_device)) as u32 & bit != 0),
        },
    };
    let state = match waits_for(&leaving) {
        Waits::For(state) => state,
        Waits::ForDescriptor => match is_socket(task, saved.load::<u64>(regs::DI) as u32) {
            Some(true) => WallState::Network,
            _ => WallState::Other,
        },
    };
    wall.state = if wall.serves != 0 { of_request(state) } else { state } as u8;
    None
}

#[inline(always)]
fn is_socket(task: Known, descriptor: u32) -> Option<bool> {
    let table = task.follow(offset!(task_files))?.follow(offset!(files_table))?;
    if descriptor >= table.load::<u32>(offset!(table_size)) {
        return None;
    }
    let slots: u64 = table.load(offset!(table_slots));
    let inode = Address(slots + descriptor as u64 * 8).follow(0)?.follow(offset!(file_inode))?;
    Some(inode.read::<u16>(offset!(inode_mode))? & S_IFMT == S_IFSOCK)
}

/// Runs once for each thread before figures are read (Linux 5.8): tells its service how long it has waited, or run, so far.
#[unsafe(link_section = "iter/task")]
#[unsafe(no_mangle)]
pub extern "C" fn wall_so_far(ctx: *const Task) -> i32 {
    if let Some(task) = Task::known(ctx) {
        so_far(task);
    }
    0
}

#[inline(always)]
fn so_far(task: Known) -> Option<()> {
    if is_of_kernel(task) {
        return None;
    }
    let state = stamp(task)?;
    let wall = &mut state.wall;
    let told_ns = wall.told_ns;
    let task_state: u32 = task.load(offset!(task_state));
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if wall.at_ns == 0 {
        // It was there before, and did nothing since.
        wall.queued_ns = task.load(offset!(task_queued));
        wall.on_cpu = (task.load::<u32>(offset!(task_on_cpu)) != 0) as u8;
        if wall.on_cpu == 0 {
            find_out(task, wall, None, task_state);
        }
        wall.told_ns = now_ns;
        wall.at_ns = now_ns;
        return None;
    }
    let at = if wall.on_cpu != 0 { WallState::OnCpu as u8 } else { of_thread(wall.state) };
    // Of one that is about to come back it is not known since when it is in a run queue.
    if wall.on_cpu == 0 && task_state == 0 && at != WallState::RunQueue as u8 || now_ns <= told_ns {
        return None;
    }
    // Whoever changes it first, this program or the thread's next switch, tells of the time up to then.
    if compare_exchange(&mut wall.told_ns, told_ns, now_ns) == told_ns {
        tell(state.service, at as usize, now_ns - told_ns);
    }
    None
}

#[inline(always)]
fn exchange(place: &mut u64, mut value: u64) -> u64 {
    // SAFETY: the verifier checks that the pointer leads into a map value.
    unsafe {
        asm!("{value} = xchg_64({place} + 0, {value})",
             place = in(reg) core::ptr::from_mut(place), value = inout(reg) value)
    };
    value
}

/// Stores `value` if `old` is there; returns what was there.
#[inline(always)]
fn compare_exchange(place: &mut u64, old: u64, value: u64) -> u64 {
    let mut found = old;
    // SAFETY: as above.
    unsafe {
        asm!("r0 = cmpxchg_64({place} + 0, r0, {value})",
             place = in(reg) core::ptr::from_mut(place), value = in(reg) value, inout("r0") found)
    };
    found
}
