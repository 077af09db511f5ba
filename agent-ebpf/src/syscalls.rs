//! System calls: one program at entry and one at exit serve every feature that looks at calls.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext,
};
use steth_probes::{
    cell::{CellKey, CounterKind, HistogramKind},
    histogram::bucket_of,
    identity::{CALL_UNIT_NS, ServiceRow, TaskState},
    limits::SYSCALLS,
    socket::Connection,
    syscalls::{COMPAT, MMAP, OTHER, SocketCall},
};

use crate::{
    cells::{count, observe_bucket, slot_of, tally_slot},
    identity::current_state,
    kernel::{Known, setting},
    maps::{SERVICE_ROWS, TASKS},
    postgres, socket, tls, trace,
};

/// Saved user registers: `struct pt_regs` of x86-64 is part of the system call interface and does not change.
mod regs {
    pub const DI: u32 = 112;
    pub const SI: u32 = 104;
    pub const DX: u32 = 96;
    pub const R10: u32 = 56;
    pub const R8: u32 = 72;
    pub const CS: u32 = 136;
    /// `__USER32_CS`: the call came through the 32-bit entry.
    pub const CS_32: u64 = 0x23;
}

/// Errors are the last 4095 values: `MAX_ERRNO`.
const MAX_ERRNO: i64 = 4095;

const EAGAIN: i64 = 11;

/// A system call begins.
#[btf_tracepoint(function = "sys_enter")]
pub fn sys_enter(ctx: BtfTracePointContext) -> i32 {
    try_enter(&ctx);
    0
}

#[inline(always)]
fn try_enter(ctx: &BtfTracePointContext) -> Option<()> {
    let state = current_state()?;
    if SERVICE_ROWS.get(state.service)?.excluded != 0 {
        return None;
    }
    let number: u64 = ctx.arg(1);
    let regs = Known(ctx.arg::<*const u8>(0));
    state.syscall = if regs.load::<u64>(regs::CS) == regs::CS_32 {
        COMPAT
    } else if number < OTHER as u64 {
        number as u32
    } else {
        OTHER
    };
    // SAFETY: a helper without arguments.
    state.entered_ns = unsafe { bpf_ktime_get_ns() };
    None
}

/// A system call ends.
#[btf_tracepoint(function = "sys_exit")]
pub fn sys_exit(ctx: BtfTracePointContext) -> i32 {
    if let Some(connection) = try_exit(ctx.as_ptr()) {
        // Last of all, and from here: what is called from two places the verifier goes through twice, and the stack of what
        // went before is free again. Before Linux 6.13 all calls under way have 512 bytes together.
        postgres::walk_here(connection);
    }
    0
}

/// What there is to [walk](postgres::walk_here).
#[inline(never)]
fn try_exit(ctx: *mut c_void) -> Option<&'static mut Connection> {
    let ctx = BtfTracePointContext::new(ctx);
    let state = TASKS.get(Known::current())?;
    let entered_ns = state.entered_ns;
    if entered_ns == 0 {
        return None;
    }
    state.entered_ns = 0;
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let ns = now_ns - entered_ns;
    state.call_units = (ns / CALL_UNIT_NS).min(u32::MAX as u64) as u32;
    let bucket = bucket_of(ns);
    let syscall = state.syscall;
    let result: i64 = ctx.arg(1);
    trace::call(state, ns, now_ns, result);
    let row = SERVICE_ROWS.get_ptr_mut(state.service)?;
    if setting!(syscalls) != 0 {
        let slot = syscall_slot(row, state, syscall)?;
        observe_bucket(slot, ns, bucket);
        if result == -EAGAIN {
            // So common on sockets that do not block that it has its place in the cell.
            tally_slot(slot, [1, 0]);
        } else if result < 0 && result >= -MAX_ERRNO {
            failed(state.service, syscall, -result as u32);
        }
    }
    if setting!(tls) != 0 && syscall == MMAP {
        let regs = Known(ctx.arg::<*const u8>(0));
        tls::mapped(regs.load::<u64>(regs::R8) as u32, regs.load(regs::DX), state.service, now_ns);
    }
    if setting!(sockets) != 0 {
        if let Some(call) = SocketCall::of(syscall) {
            let regs = Known(ctx.arg::<*const u8>(0));
            let args = socket::Call {
                call,
                syscall,
                descriptor: regs.load::<u64>(regs::DI) as u32,
                buffer: regs.load(regs::SI),
                length: regs.load(regs::DX),
                flags: regs.load::<u64>(regs::R10) as u32,
                result,
                entered_ns,
                now_ns,
                service: state.service,
            };
            return socket::exit(&args, row, state, ns, bucket);
        }
    }
    None
}

/// Apart, because it is rare.
#[inline(never)]
fn failed(service: u32, syscall: u32, errno: u32) {
    count(CounterKind::SyscallError, 0, service, syscall, errno, 1);
}

#[inline(always)]
fn syscall_slot(row: *mut ServiceRow, state: &TaskState, syscall: u32) -> Option<u32> {
    let at = syscall as usize;
    if at >= SYSCALLS {
        return None;
    }
    // SAFETY: a map value; `at` was checked. Racing writers write the same number.
    let slot = unsafe { (&raw mut (*row).syscall_slots).cast::<u32>().add(at) };
    // SAFETY: as above.
    let known = unsafe { slot.read_volatile() };
    if known != 0 {
        return Some(known);
    }
    let key = CellKey { kind: HistogramKind::Syscall as u8, sub: 0, service: state.service as u16, a: syscall, b: 0 };
    let fresh = slot_of(&key);
    // SAFETY: as above.
    unsafe { slot.write_volatile(fresh) };
    Some(fresh)
}
