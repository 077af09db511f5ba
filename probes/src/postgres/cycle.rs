//! What is under way on a connection: cycles from their first byte to ReadyForQuery, and the statements in them,
//! matched with their replies in order.

use super::{CYCLES, Cycle, Effects, FNV_OFFSET, STATEMENT_UNKNOWN, STATEMENTS, Wire};
use crate::cell::{Loss, TransactionOutcome};

/// In the queue: the end of a request; a ReadyForQuery answers it.
const SYNC: u32 = u32::MAX;
/// In the queue: a simple query, which any number of commands may answer.
const SIMPLE: u32 = 1 << 31;

/// A request begins.
#[inline(always)]
pub(super) fn begin<E: Effects>(wire: &mut Wire, fx: &mut E, begun_ns: u64) {
    wire.open = 1;
    if wire.cycle_count as usize >= CYCLES || wire.cycles_untracked > 0 {
        wire.cycles_untracked = wire.cycles_untracked.saturating_add(1);
        fx.lost(Loss::PipelineTooDeep);
        return;
    }
    let at = (wire.cycle_first as usize + wire.cycle_count as usize) % CYCLES;
    wire.cycles[at] = Cycle { begun_ns, first_byte_ns: 0, mixed: 0, statement: STATEMENT_UNKNOWN, executions: 0 };
    wire.cycle_count += 1;
}

/// A statement is to be executed: by Execute, or by a simple query (`simple`).
#[inline(always)]
pub(super) fn execute<E: Effects>(wire: &mut Wire, fx: &mut E, statement: u32, simple: bool) {
    if wire.cycles_untracked == 0 && wire.cycle_count > 0 {
        let at = (wire.cycle_first as usize + wire.cycle_count as usize + CYCLES - 1) % CYCLES;
        let cycle = &mut wire.cycles[at];
        if cycle.executions == 0 {
            cycle.statement = statement;
        } else if cycle.statement != statement || cycle.mixed != 0 {
            let start = if cycle.mixed == 0 { FNV_OFFSET ^ cycle.statement as u64 } else { cycle.mixed };
            cycle.mixed = super::push_word(start, statement);
        }
        cycle.executions = cycle.executions.saturating_add(1);
    }
    enqueue(wire, fx, if simple { statement | SIMPLE } else { statement });
}

/// A request is complete: Sync, or the end of a simple query.
#[inline(always)]
pub(super) fn close<E: Effects>(wire: &mut Wire, fx: &mut E) {
    wire.open = 0;
    enqueue(wire, fx, SYNC);
}

#[inline(always)]
fn enqueue<E: Effects>(wire: &mut Wire, fx: &mut E, entry: u32) {
    if wire.queue_count as usize >= STATEMENTS {
        wire.blurred = 1;
        fx.lost(Loss::PipelineTooDeep);
        return;
    }
    let at = (wire.queue_first as usize + wire.queue_count as usize) % STATEMENTS;
    wire.queue[at] = entry;
    wire.queue_count += 1;
}

#[inline(always)]
fn front(wire: &Wire) -> Option<u32> {
    if wire.queue_count == 0 || wire.blurred != 0 {
        return None;
    }
    Some(wire.queue[wire.queue_first as usize % STATEMENTS])
}

#[inline(always)]
fn drop_front(wire: &mut Wire) {
    wire.queue_first = ((wire.queue_first as usize + 1) % STATEMENTS) as u8;
    wire.queue_count = wire.queue_count.saturating_sub(1);
}

/// The statement that the next reply belongs to; takes it off the queue unless more replies may follow.
#[inline(always)]
fn answered(wire: &mut Wire) -> u32 {
    match front(wire) {
        Some(SYNC) | None => STATEMENT_UNKNOWN,
        Some(simple) if simple & SIMPLE != 0 => simple & !SIMPLE,
        Some(statement) => {
            drop_front(wire);
            statement
        }
    }
}

/// The first byte of a reply to the oldest cycle was seen.
#[inline(always)]
pub(super) fn first_byte(wire: &mut Wire, at_ns: u64) {
    if wire.cycle_count > 0 {
        let cycle = &mut wire.cycles[wire.cycle_first as usize % CYCLES];
        if cycle.first_byte_ns == 0 {
            cycle.first_byte_ns = at_ns;
        }
    }
}

/// CommandComplete: a statement ended well.
#[inline(always)]
pub(super) fn completed<E: Effects>(wire: &mut Wire, fx: &mut E, rows: u32) {
    let statement = answered(wire);
    fx.statement_done(wire, statement, rows);
}

/// EmptyQueryResponse or PortalSuspended: the reply to one Execute, but no statement ended.
#[inline(always)]
pub(super) fn passed(wire: &mut Wire) {
    answered(wire);
}

/// ErrorResponse: the server skips everything up to the next Sync.
#[inline(always)]
pub(super) fn failed<E: Effects>(wire: &mut Wire, fx: &mut E, sqlstate: u32) {
    fx.error(wire, sqlstate);
    wire.failed = 1;
}

/// ReadyForQuery: the oldest cycle ends.
#[inline(always)]
pub(super) fn ready<E: Effects>(wire: &mut Wire, fx: &mut E, status: u8, now_ns: u64) {
    // The queue up to and with the mark of this cycle's end.
    for _ in 0..STATEMENTS {
        match front(wire) {
            None => break,
            Some(entry) => {
                drop_front(wire);
                if entry == SYNC {
                    break;
                }
            }
        }
    }
    if wire.cycle_count > 0 {
        let cycle = wire.cycles[wire.cycle_first as usize % CYCLES];
        wire.cycle_first = ((wire.cycle_first as usize + 1) % CYCLES) as u8;
        wire.cycle_count -= 1;
        if cycle.executions > 0 {
            let statement = if cycle.mixed != 0 { fx.batch(cycle.mixed) } else { cycle.statement };
            let first_byte_ns = if cycle.first_byte_ns == 0 { now_ns } else { cycle.first_byte_ns };
            fx.query(
                wire,
                statement,
                now_ns.saturating_sub(cycle.begun_ns),
                first_byte_ns.saturating_sub(cycle.begun_ns),
            );
            transaction(wire, fx, status, cycle.begun_ns, now_ns);
        }
    } else if wire.cycles_untracked > 0 {
        wire.cycles_untracked -= 1;
    }
    wire.transaction = status;
    wire.failed = 0;
    wire.command = 0;
    if !wire.is_active() {
        wire.idle_ns = now_ns;
        wire.queue_count = 0;
        wire.blurred = 0;
    }
}

/// Follows the transaction state that ReadyForQuery reports. A cycle that leaves no transaction open, and found none,
/// was a transaction of its own.
#[inline(always)]
fn transaction<E: Effects>(wire: &mut Wire, fx: &mut E, status: u8, begun_ns: u64, now_ns: u64) {
    if status != b'I' {
        if wire.transaction_ns == 0 {
            wire.transaction_ns = begun_ns;
        }
        return;
    }
    let (since_ns, rolled_back) = if wire.transaction_ns != 0 {
        (wire.transaction_ns, wire.command == b'R' || wire.failed != 0)
    } else {
        (begun_ns, wire.failed != 0)
    };
    wire.transaction_ns = 0;
    let outcome = if rolled_back { TransactionOutcome::Rollback } else { TransactionOutcome::Commit };
    fx.transaction(wire, outcome, now_ns.saturating_sub(since_ns));
}
