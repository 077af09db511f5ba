//! What is under way on a connection: cycles from their first byte to ReadyForQuery, and the statements in them,
//! matched with their replies in order.

use super::{CYCLES, Effects, FNV_OFFSET, PARSES, STATEMENT_UNKNOWN, STATEMENTS, Wire, hash_name};
use crate::{
    cell::{Loss, TransactionOutcome},
    record::clear,
};

// What `Wire::open` says of the newest request.
/// It has ended with a simple query or a function call, or there is none.
const CLOSED: u8 = 0;
/// Its Sync has not been sent yet.
pub(super) const OPEN: u8 = 1;
/// It has ended with Sync.
const SYNCED: u8 = 2;

// Bits of `Cycle::loose`.
/// Replies may outnumber the queue's entries: a simple query, or there was no room in the queue.
const LOOSE_STATEMENTS: u8 = 1;
/// There was no room for one of its Parse messages.
const LOOSE_PARSES: u8 = 2;

// Bits of `Wire::command`: what was completed in the current cycle.
const BEGUN: u8 = 1;
const COMMITTED: u8 = 2;
const ROLLED_BACK: u8 = 4;

const TAG_BEGIN: u64 = hash_name(b"BEGIN");
const TAG_START: u64 = hash_name(b"START TRANSACTION");
const TAG_COMMIT: u64 = hash_name(b"COMMIT");
const TAG_ROLLBACK: u64 = hash_name(b"ROLLBACK");

/// Index of the oldest cycle, if there is one.
#[inline(always)]
fn oldest(wire: &Wire) -> Option<usize> {
    if wire.cycle_count == 0 { None } else { Some(wire.cycle_first as usize % CYCLES) }
}

/// Index of the newest cycle, if there is one and it found room.
#[inline(always)]
fn newest(wire: &Wire) -> Option<usize> {
    if wire.cycle_count == 0 || wire.cycles_untracked > 0 {
        return None;
    }
    Some((wire.cycle_first as usize + wire.cycle_count as usize + CYCLES - 1) % CYCLES)
}

/// A request begins.
#[inline(always)]
pub(super) fn begin<E: Effects>(wire: &mut Wire, fx: &mut E, begun_ns: u64) {
    wire.open = OPEN;
    if wire.cycle_count as usize >= CYCLES || wire.cycles_untracked > 0 {
        wire.cycles_untracked = wire.cycles_untracked.saturating_add(1);
        fx.lost(Loss::PipelineTooDeep);
        return;
    }
    let at = (wire.cycle_first as usize + wire.cycle_count as usize) % CYCLES;
    clear(&mut wire.cycles[at]);
    wire.cycles[at].begun_ns = begun_ns;
    wire.cycle_count += 1;
}

/// A statement is to be executed: by Execute, or by a simple query (`simple`).
#[inline(always)]
pub(super) fn execute<E: Effects>(wire: &mut Wire, fx: &mut E, statement: u32, simple: bool) {
    let Some(at) = newest(wire) else { return };
    let last = wire.last;
    wire.last = statement;
    let cycle = &mut wire.cycles[at];
    if cycle.executions == 0 {
        cycle.statement = statement;
    } else if statement != last {
        // Repetitions do not count, or batches that differ only in length would all have their own number.
        let start = if cycle.mixed == 0 { FNV_OFFSET ^ cycle.statement as u64 } else { cycle.mixed };
        cycle.mixed = super::push_word(start, statement);
    }
    cycle.executions = cycle.executions.saturating_add(1);
    if simple {
        cycle.loose |= LOOSE_STATEMENTS;
        return;
    }
    // What found no room once must not find it later: the queue keeps the order of the replies.
    if wire.queue_count as usize >= STATEMENTS || cycle.loose & LOOSE_STATEMENTS != 0 {
        cycle.loose |= LOOSE_STATEMENTS;
        if cycle.mixed != 0 {
            fx.lost(Loss::PipelineTooDeep);
        }
        return;
    }
    cycle.entries += 1;
    let end = (wire.queue_first as usize + wire.queue_count as usize) % STATEMENTS;
    wire.queue[end] = statement;
    wire.queue_count += 1;
}

/// A statement is to be prepared under a name, 0 for the unnamed one. False if there is no room to see whether the
/// server agrees.
#[inline(always)]
pub(super) fn parse(wire: &mut Wire, name: u64, statement: u32) -> bool {
    let Some(at) = newest(wire) else { return false };
    let cycle = &mut wire.cycles[at];
    if cycle.executions == 0 {
        cycle.statement = statement;
    }
    if wire.parse_count as usize >= PARSES || cycle.loose & LOOSE_PARSES != 0 {
        cycle.loose |= LOOSE_PARSES;
        return false;
    }
    cycle.parses += 1;
    let end = (wire.parse_first as usize + wire.parse_count as usize) % PARSES;
    wire.parses[end] = name;
    wire.parse_count += 1;
    true
}

/// A request is complete: Sync, or the end of a simple query.
#[inline(always)]
pub(super) fn close<E: Effects>(wire: &mut Wire, fx: &mut E, simple: bool) {
    wire.open = if simple { CLOSED } else { SYNCED };
    if wire.early != 0 {
        wire.early = 0;
        // Its ReadyForQuery was read by one thread before the write that asked for it had returned in another.
        // Left under way, it would be taken for the next one for good.
        if let Some(at) = newest(wire)
            && wire.cycle_count == 1
            && wire.cycles[at].begun_ns < wire.idle_ns
        {
            fx.lost(Loss::PostgresOutOfStep);
            wire.cycle_count = 0;
            wire.queue_count = 0;
            wire.parse_count = 0;
        }
    }
}

/// CopyDone or CopyFail. While a server takes COPY data it ignores Sync, so one that closed the request before its data
/// was none, and another will follow (PostgreSQL manual, "COPY Operations").
#[inline(always)]
pub(super) fn copied(wire: &mut Wire) {
    if wire.open == SYNCED {
        wire.open = OPEN;
    }
}

/// The statement that the next reply belongs to.
#[inline(always)]
fn answered(wire: &mut Wire) -> u32 {
    let Some(at) = oldest(wire) else { return STATEMENT_UNKNOWN };
    let cycle = &mut wire.cycles[at];
    if cycle.entries > 0 {
        cycle.entries -= 1;
        let statement = wire.queue[wire.queue_first as usize % STATEMENTS];
        wire.queue_first = ((wire.queue_first as usize + 1) % STATEMENTS) as u8;
        wire.queue_count = wire.queue_count.saturating_sub(1);
        return statement;
    }
    if cycle.loose & LOOSE_STATEMENTS != 0 && cycle.mixed == 0 { cycle.statement } else { STATEMENT_UNKNOWN }
}

/// The first byte of a reply to the oldest cycle was seen.
#[inline(always)]
pub(super) fn first_byte(wire: &mut Wire, at_ns: u64) {
    if let Some(at) = oldest(wire) {
        let cycle = &mut wire.cycles[at];
        if cycle.first_byte_ns == 0 {
            cycle.first_byte_ns = at_ns;
        }
    }
}

/// CommandComplete: a statement ended well; `tag` is the hash of its tag.
#[inline(always)]
pub(super) fn completed<E: Effects>(wire: &mut Wire, fx: &mut E, tag: u64, rows: u32) {
    match tag {
        TAG_BEGIN | TAG_START => wire.command |= BEGUN,
        TAG_COMMIT => wire.command = wire.command & !ROLLED_BACK | COMMITTED,
        TAG_ROLLBACK => wire.command = wire.command & !COMMITTED | ROLLED_BACK,
        _ => {}
    }
    let statement = answered(wire);
    fx.statement_done(wire, statement, rows);
}

/// EmptyQueryResponse or PortalSuspended: the reply to one Execute, but no statement ended.
#[inline(always)]
pub(super) fn passed(wire: &mut Wire) {
    answered(wire);
}

/// ParseComplete: the oldest Parse message was obeyed.
#[inline(always)]
pub(super) fn parsed(wire: &mut Wire) {
    if let Some(at) = oldest(wire)
        && wire.cycles[at].parses > 0
    {
        wire.cycles[at].parses -= 1;
        drop_parse(wire);
    }
}

#[inline(always)]
fn drop_parse(wire: &mut Wire) {
    wire.parse_first = ((wire.parse_first as usize + 1) % PARSES) as u8;
    wire.parse_count = wire.parse_count.saturating_sub(1);
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
    if let Some(at) = oldest(wire) {
        let cycle = wire.cycles[at];
        wire.cycle_first = ((wire.cycle_first as usize + 1) % CYCLES) as u8;
        wire.cycle_count -= 1;
        // What the server has not answered by now it has skipped.
        wire.queue_first = ((wire.queue_first as usize + cycle.entries as usize) % STATEMENTS) as u8;
        wire.queue_count = wire.queue_count.saturating_sub(cycle.entries);
        for nth in 0..PARSES {
            if nth >= cycle.parses as usize {
                break;
            }
            let name = wire.parses[wire.parse_first as usize % PARSES];
            drop_parse(wire);
            if name == 0 {
                wire.unnamed = STATEMENT_UNKNOWN;
            } else {
                fx.forget(name);
            }
        }
        if cycle.loose & LOOSE_PARSES != 0 && wire.failed != 0 {
            wire.unnamed = STATEMENT_UNKNOWN;
        }
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
        } else if wire.failed != 0 {
            fx.refused(wire, cycle.statement, now_ns.saturating_sub(cycle.begun_ns));
        }
    } else if wire.cycles_untracked > 0 {
        wire.cycles_untracked -= 1;
        if wire.failed != 0 {
            wire.unnamed = STATEMENT_UNKNOWN;
        }
        if status == b'I' {
            wire.transaction_ns = 0;
        }
    } else if wire.is_logging_in() {
        fx.connected(wire, now_ns.saturating_sub(wire.idle_ns));
    } else if wire.transaction != 0 {
        wire.early = 1;
    }
    wire.transaction = status;
    wire.failed = 0;
    wire.command = 0;
    if !wire.is_active() {
        wire.idle_ns = now_ns;
        wire.queue_count = 0;
        wire.parse_count = 0;
        // The rings begin anew, so that a quiet connection always touches the same lines of memory.
        wire.cycle_first = 0;
        wire.queue_first = 0;
        wire.parse_first = 0;
        if wire.open != OPEN {
            wire.open = CLOSED;
        }
    }
}

/// Follows the transaction state that ReadyForQuery reports. A cycle that leaves no transaction open, and found none,
/// was a transaction of its own. One whose beginning was not seen is not counted: nobody knows how long it took.
#[inline(always)]
fn transaction<E: Effects>(wire: &mut Wire, fx: &mut E, status: u8, begun_ns: u64, now_ns: u64) {
    let (before, command) = (wire.transaction, wire.command);
    let mut since_ns = wire.transaction_ns;
    if status != b'I' {
        // COMMIT AND CHAIN, or COMMIT and BEGIN in one cycle. ROLLBACK alone may be that of a savepoint.
        let next = command & COMMITTED != 0 || command == ROLLED_BACK | BEGUN;
        if since_ns != 0 && !next {
            return;
        }
        wire.transaction_ns = if next || before == b'I' || command & BEGUN != 0 { begun_ns } else { 0 };
        if since_ns == 0 {
            return;
        }
    } else {
        wire.transaction_ns = 0;
        if since_ns == 0 {
            let whole = before == b'I' || before == 0 && (command & BEGUN != 0 || command == 0);
            if !whole {
                return;
            }
            since_ns = begun_ns;
        }
    }
    let rolled_back = command & ROLLED_BACK != 0 || command & COMMITTED == 0 && wire.failed != 0;
    let outcome = if rolled_back { TransactionOutcome::Rollback } else { TransactionOutcome::Commit };
    fx.transaction(wire, outcome, now_ns.saturating_sub(since_ns));
}
