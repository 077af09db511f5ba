//! Single system calls, TCP events and executions for whoever traces them. Nothing is told, and next to nothing paid, while
//! nobody does.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::generated::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_ktime_get_ns, bpf_probe_read_user,
        bpf_ringbuf_reserve, bpf_ringbuf_submit,
    },
};
use steth_probes::{
    cell::Loss,
    identity::TaskState,
    message::{ARGUMENTS, Call, Execution, Header, Kind, Tcp, TcpEvent},
    socket::Connection,
};

use crate::{
    cells::{lost, trace},
    kernel::{Known, offset, opaque},
    maps::{SERVICE_ROWS, SERVICE_WATCHES, TRACE, WATCH},
};

/// A system call has ended.
#[inline(always)]
pub fn call(state: &TaskState, ns: u64, now_ns: u64, result: i64) {
    if WATCH.get(0).is_some_and(|watch| ns >= watch.calls_ns) {
        tell_call(state, ns, now_ns, result);
    }
}

#[inline(never)]
fn tell_call(state: &TaskState, ns: u64, now_ns: u64, result: i64) -> Option<()> {
    let watch = WATCH.get(0)?;
    // SAFETY: a helper without arguments.
    let pid_tgid = unsafe { bpf_get_current_pid_tgid() };
    let pid = (pid_tgid >> 32) as u32;
    if watch.calls_pid != 0 && watch.calls_pid != pid
        || watch.calls_by_service != 0 && SERVICE_WATCHES.get(state.service)?.traced == 0
    {
        return None;
    }
    let mut record = Call {
        header: Header { kind: Kind::Call as u32, text_len: 0, at_ns: now_ns },
        ns,
        result,
        syscall: state.syscall,
        service: state.service,
        pid,
        tid: pid_tgid as u32,
        thread: [0; 16],
    };
    // SAFETY: the helper writes at most the array's length.
    unsafe { bpf_get_current_comm(record.thread.as_mut_ptr().cast(), record.thread.len() as u32) };
    trace((&raw const record).cast(), size_of::<Call>() as u64);
    None
}

/// Whether anybody traces TCP.
#[inline(always)]
pub fn tells_tcp() -> bool {
    WATCH.get(0).is_some_and(|watch| watch.tcp != 0)
}

/// Something happened to a connection.
#[inline(always)]
pub fn tcp(event: TcpEvent, connection: &Connection, ns: u64) {
    if tells_tcp() {
        tell_tcp(event as u8, connection, ns);
    }
}

/// Something happened to a connection of which no more is known than this. Who calls it has asked [`tells_tcp`].
#[inline(never)]
pub fn tcp_of_ends(event: TcpEvent, service: u32, peer: u32) {
    let record = Tcp {
        // SAFETY: a helper without arguments.
        header: Header { kind: Kind::Tcp as u32, text_len: 0, at_ns: unsafe { bpf_ktime_get_ns() } },
        service,
        peer,
        event: event as u8,
        family: u8::MAX,
        ..Tcp::zeroed()
    };
    trace((&raw const record).cast(), size_of::<Tcp>() as u64);
}

#[inline(never)]
fn tell_tcp(event: u8, connection: &Connection, ns: u64) {
    let record = Tcp {
        // SAFETY: a helper without arguments.
        header: Header { kind: Kind::Tcp as u32, text_len: 0, at_ns: unsafe { bpf_ktime_get_ns() } },
        ns,
        received_bytes: connection.received_counted + connection.received_bytes,
        sent_bytes: connection.sent_counted + connection.sent_bytes,
        service: connection.service,
        peer: connection.peer,
        pid: connection.pid,
        port: connection.port,
        event,
        family: connection.family,
    };
    trace((&raw const record).cast(), size_of::<Tcp>() as u64);
}

/// The current process begins to run an executable.
#[inline(always)]
pub fn execution(task: Known, service: u32) {
    if WATCH.get(0).is_some_and(|watch| watch.executions != 0) {
        tell_execution(task, service);
    }
}

#[inline(never)]
fn tell_execution(task: Known, service: u32) -> Option<()> {
    if SERVICE_ROWS.get(service).is_some_and(|row| row.excluded != 0) {
        return None;
    }
    let (mm, leader) = (task.follow(offset!(task_mm))?, task.follow(offset!(task_group_leader))?);
    let parent = leader.follow(offset!(task_real_parent))?.load(offset!(task_tgid));
    let start: u64 = mm.load(offset!(mm_arg_start));
    let whole = mm.load::<u64>(offset!(mm_arg_end)).wrapping_sub(start);
    // SAFETY: a helper; the verifier checks what is done with the room.
    let place = unsafe { bpf_ringbuf_reserve((&raw const TRACE).cast_mut().cast(), size_of::<Execution>() as u64, 0) };
    let place = place.cast::<Execution>();
    if place.is_null() {
        lost(Loss::TraceFull);
        return None;
    }
    let mut size = opaque(whole) as u32;
    if size > ARGUMENTS as u32 {
        size = ARGUMENTS as u32;
    }
    // SAFETY: the room was reserved and is this program's alone; helpers, of which one writes at most the array's length and
    // the last gives the room away.
    unsafe {
        let read = bpf_probe_read_user((&raw mut (*place).arguments).cast(), size, start as *const c_void);
        (*place).header = Header {
            kind: Kind::Execution as u32,
            text_len: if read == 0 { size } else { 0 },
            at_ns: bpf_ktime_get_ns(),
        };
        (*place).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*place).parent = parent;
        (*place).uid = bpf_get_current_uid_gid() as u32;
        (*place).service = service;
        (*place).whole = whole;
        bpf_ringbuf_submit(place.cast(), BPF_RB_NO_WAKEUP as u64);
    }
    None
}
