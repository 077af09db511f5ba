//! What the requests of servers spend: which thread serves one, and what went by from its beginning to its end.

use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_user};
use steth_probes::{
    cell::Loss,
    identity::TaskState,
    message::{Header, Kind, Worker},
    wall::{RequestWall, Split, WORKER_NAME, leader_of},
};

use super::settle;
use crate::{
    cells::{lost, send},
    kernel::{Known, offset, read_user},
    maps::{BACKENDS, REQUEST_WALLS, TASKS, WIRES},
};

/// What the request spent so far that a thread serves, if it serves one.
#[inline(always)]
pub fn request_of(task: Known, state: &TaskState) -> Option<&'static mut RequestWall> {
    if state.wall.serves == 0 {
        return None;
    }
    REQUEST_WALLS.get(task)
}

/// Whether a new process of a Postgres cluster is a parallel worker: then what it spends is counted from here on as if it served a
/// request.
#[inline(never)]
pub fn works_for(task: Known, state: &mut TaskState) -> Option<()> {
    state.wall.looks = state.wall.looks.wrapping_sub(1);
    // SAFETY: the value is copied at once.
    let backends = unsafe { BACKENDS.get(&state.service) }.copied()?;
    let entry: u64 = read_user(backends.worker_address)?;
    if entry == 0 {
        // It may not have got that far.
        return None;
    }
    state.wall.looks = 0;
    let mut name = [0; WORKER_NAME];
    // SAFETY: the helper writes at most the array's length. The name stands first (`src/include/postmaster/bgworker.h`).
    let read = unsafe { bpf_probe_read_user(name.as_mut_ptr().cast(), WORKER_NAME as u32, entry as *const _) };
    let leader = leader_of(&name);
    if read != 0 || leader == 0 {
        return None;
    }
    let Some(request) = REQUEST_WALLS.get_or_zero(task) else {
        lost(Loss::TaskStateFailed);
        return None;
    };
    request.sock = 0;
    request.shared = 0;
    request.leader = leader;
    request.event_address = backends.event_address;
    // With the wait that it came from, which is told next.
    request.begin(state.wall.at_ns.saturating_sub(state.wall.away.ns));
    state.wall.serves = 1;
    None
}

/// A thread ends that served: if it is a parallel worker of Postgres, what it spent is told. Whoever it worked for waits until it
/// has ended, so this is told before the request is.
#[inline(never)]
pub fn worker_ends(task: Known, state: &mut TaskState) -> Option<()> {
    let request = REQUEST_WALLS.get(task)?;
    if request.sock != 0 || request.leader == 0 {
        return None;
    }
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    settle(task, state, Some(request), now_ns);
    // It stays on its CPU a little longer: that is its service's.
    state.wall.on_cpu = 1;
    state.wall.serves = 0;
    let mut record = Worker {
        header: Header { kind: Kind::Worker as u32, text_len: 0, at_ns: now_ns },
        begun_ns: request.since_ns,
        service: state.service,
        pid: task.load(offset!(task_tgid)),
        leader: request.leader,
        ..Worker::zeroed()
    };
    split_of(request, record.begun_ns, now_ns.saturating_sub(record.begun_ns), &mut record.split);
    send((&raw const record).cast(), size_of::<Worker>() as u64);
    None
}

/// A request may begin: the thread that runs now has read from a socket that nothing was under way on.
#[inline(never)]
pub fn request_begins(sock: u64, service: u32, now_ns: u64) -> Option<()> {
    let task = Known::current();
    let state = TASKS.get(task)?;
    let Some(request) = REQUEST_WALLS.get_or_zero(task) else {
        lost(Loss::TaskStateFailed);
        return None;
    };
    if request.sock != sock {
        // Whoever serves several connections at a time works for one while another waits.
        request.shared = (request.sock != 0 && WIRES.get_ptr(&request.sock).is_some()) as u32;
        request.sock = sock;
        request.leader = 0;
        request.event_address = 0;
    }
    if request.event_address == 0 {
        // SAFETY: the value is copied at once.
        request.event_address = unsafe { BACKENDS.get(&service) }.map_or(0, |backends| backends.event_address);
    }
    state.wall.serves = 0;
    settle(task, state, None, now_ns);
    state.wall.on_cpu = 1;
    request.begin(now_ns);
    state.wall.serves = 1;
    None
}

/// A request has ended: what its time went by with. `more` is whether another one is under way on the connection.
#[inline(always)]
pub fn request_ended(sock: u64, begun_ns: u64, duration_ns: u64, more: bool, split: &mut Split) {
    let now_ns = begun_ns + duration_ns;
    if request_split(sock, begun_ns, now_ns, more, split).is_none() {
        split.unknown(duration_ns);
    }
}

#[inline(always)]
fn request_split(sock: u64, begun_ns: u64, now_ns: u64, more: bool, split: &mut Split) -> Option<()> {
    let task = Known::current();
    let state = TASKS.get(task)?;
    let request = REQUEST_WALLS.get(task)?;
    if request.sock != sock || state.wall.serves == 0 {
        return None;
    }
    settle(task, state, Some(request), now_ns);
    split_of(request, begun_ns, now_ns - begun_ns, split);
    if more {
        request.begin(now_ns);
    } else {
        state.wall.serves = 0;
    }
    Some(())
}

/// Apart, so that its stack is its own: before Linux 6.13 all calls under way have 512 bytes together.
#[inline(never)]
fn split_of(request: &mut RequestWall, begun_ns: u64, duration_ns: u64, split: &mut Split) {
    request.split(begun_ns, duration_ns, split);
}
