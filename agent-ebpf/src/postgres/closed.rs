//! The end of a conversation. What is still under way then has failed: it is counted here if its process did not read to the end
//! itself, which tells more of it.

use steth_probes::{
    cell::{CounterKind, HistogramKind, Loss, Role},
    postgres::{CONNECTION_FAILURE, CYCLES, Cycle, STATEMENT_OTHER, Wire},
    socket::Protocol,
};

use crate::{
    cells::{count, lost_several, observe},
    kernel::{Address, offset},
    maps::WIRES,
    socket,
    tcp::RCV_SHUTDOWN,
};

/// A TCP connection is closed.
#[inline(never)]
pub fn closed(sock: Address, now_ns: u64) -> Option<()> {
    let connection = socket::known(sock)?;
    let protocol = Protocol::from_u8(connection.protocol)?;
    // Else what stands under its address is another's, which was forgotten for lack of room.
    if matches!(protocol, Protocol::Postgres | Protocol::PostgresTls)
        && let Some(entry) = WIRES.get_ptr_mut(&sock.0)
    {
        // SAFETY: a map value that lives as long as the program runs.
        let wire = unsafe { &mut (*entry).wire };
        if wire.role == Role::Client as u8 && has_unread(sock) {
            return replaced(sock);
        }
        if wire.unanswered() != 0 {
            count_unanswered(connection.service, wire, now_ns);
        }
    }
    let _ = WIRES.remove(&sock.0);
    None
}

/// Whether bytes have come that the process has not read, and may yet: after a reset, the answer that came before it.
#[inline(always)]
fn has_unread(sock: Address) -> bool {
    let (Some(received), Some(copied), Some(halves)) = (
        sock.read::<u32>(offset!(tcp_received)),
        sock.read::<u32>(offset!(tcp_copied)),
        sock.read::<u8>(offset!(sock_shutdown)),
    ) else {
        return false;
    };
    // The peer's FIN counts for a byte.
    received.wrapping_sub(copied) > (halves & RCV_SHUTDOWN) as u32
}

/// Of what is under way on a socket nothing more will be known: another one has taken its address.
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
fn count_unanswered(service: u32, wire: &Wire, now_ns: u64) {
    for nth in 0..CYCLES {
        if nth >= wire.cycle_count as usize {
            break;
        }
        let cycle = &wire.cycles[(wire.cycle_first as usize + nth) % CYCLES];
        if cycle.is_unanswered() {
            count_cycle(service, wire, cycle, nth == 0 && wire.failed != 0, now_ns);
        }
    }
    if wire.put_off != 0 {
        lost_several(Loss::CycleEndUnseen, wire.put_off as u64);
    }
}

/// Nothing is told of it one by one: there may be no work space here.
#[inline(never)]
fn count_cycle(service: u32, wire: &Wire, cycle: &Cycle, told: bool, now_ns: u64) {
    let statement = if cycle.mixed == 0 { cycle.statement } else { STATEMENT_OTHER };
    let (role, database) = (wire.role, wire.database);
    let ns = now_ns.saturating_sub(cycle.begun_ns);
    let first_byte_ns = if cycle.first_byte_ns == 0 { ns } else { cycle.first_byte_ns.saturating_sub(cycle.begun_ns) };
    observe(HistogramKind::PostgresQuery, role, service, database, statement, ns);
    observe(HistogramKind::PostgresFirstByte, role, service, database, statement, first_byte_ns);
    count(CounterKind::PostgresFailed, role, service, database, statement, 1);
    if !told {
        count(CounterKind::PostgresError, role, service, database, CONNECTION_FAILURE, 1);
    }
}
