//! The end of a conversation. What is still under way then has failed: it is counted here if its process did not read to the end
//! itself, which tells more of it.

use steth_probes::{
    cell::{CounterKind, HistogramKind, Loss},
    postgres::{CONNECTION_FAILURE, CYCLES, Cycle, Wire, WireEntry},
};

use crate::{
    cells::{count, lost_several, observe},
    kernel::Address,
    maps::WIRES,
    socket,
};

/// Forgets the conversation of a socket.
#[inline(never)]
pub fn closed(sock: Address, now_ns: u64) -> Option<()> {
    let entry = WIRES.get_ptr_mut(&sock.0)?;
    // SAFETY: a map value that lives as long as the program runs.
    let entry = unsafe { &mut *entry };
    if entry.wire.unanswered() != 0 {
        count_unanswered(sock, entry, now_ns);
    }
    let _ = WIRES.remove(&sock.0);
    None
}

/// Another socket has taken this one's address: of what was under way on it nothing more will be known.
#[inline(never)]
pub fn replaced(sock: Address) -> Option<()> {
    let entry = WIRES.get_ptr(&sock.0)?;
    // SAFETY: a map value that lives as long as the program runs.
    let unanswered = unsafe { &(*entry).wire }.unanswered();
    if unanswered != 0 {
        lost_several(Loss::CycleEndUnseen, unanswered as u64);
    }
    let _ = WIRES.remove(&sock.0);
    None
}

#[inline(always)]
fn count_unanswered(sock: Address, entry: &mut WireEntry, now_ns: u64) -> Option<()> {
    let service = socket::known(sock)?.service;
    let wire = &mut entry.wire;
    for nth in 0..CYCLES {
        if nth >= wire.cycle_count as usize {
            break;
        }
        let cycle = &wire.cycles[(wire.cycle_first as usize + nth) % CYCLES];
        if cycle.executions != 0 {
            count_cycle(service, wire, cycle, nth == 0 && wire.failed != 0, now_ns);
        }
    }
    let rest = wire.put_off.saturating_add(wire.cycles_untracked);
    if rest != 0 {
        lost_several(Loss::PipelineTooDeep, rest as u64);
    }
    None
}

/// Nothing is told of it one by one: there may be no work space here.
#[inline(never)]
fn count_cycle(service: u32, wire: &Wire, cycle: &Cycle, told: bool, now_ns: u64) {
    let (role, database, statement) = (wire.role, wire.database, cycle.statement);
    let ns = now_ns.saturating_sub(cycle.begun_ns);
    let first_byte_ns = if cycle.first_byte_ns == 0 { ns } else { cycle.first_byte_ns.saturating_sub(cycle.begun_ns) };
    observe(HistogramKind::PostgresQuery, role, service, database, statement, ns);
    observe(HistogramKind::PostgresFirstByte, role, service, database, statement, first_byte_ns);
    count(CounterKind::PostgresFailed, role, service, database, statement, 1);
    if !told {
        count(CounterKind::PostgresError, role, service, database, CONNECTION_FAILURE, 1);
    }
}
