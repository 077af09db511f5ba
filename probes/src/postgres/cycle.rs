//! What is under way on a connection: cycles from their first byte to ReadyForQuery, and the statements in them,
//! matched with their replies in order.

use super::{CYCLES, Cycle, Effects, FNV_OFFSET, PARSES, STATEMENT_UNKNOWN, STATEMENTS, Wire, deep, transaction};
use crate::{
    cell::{Loss, Role},
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
/// Replies may outnumber the queue's entries: there was no room in the queue.
const LOOSE_STATEMENTS: u8 = 1;
/// There was no room for one of its Parse messages.
const LOOSE_PARSES: u8 = 2;
/// It became a stream of replication, whose end the server tells twice (PostgreSQL 15, `exec_replication_command`).
pub(super) const COPIES_BOTH: u8 = 4;
/// Statements of it were not looked at.
const UNSEEN: u8 = 8;
/// It binds a named portal.
const BINDS_PORTAL: u8 = 16;

/// Stands for the number of a statement: the reply belongs to none.
const NONE: u32 = u32::MAX;

/// Index of the oldest cycle, if there is one.
#[inline(always)]
pub(super) fn oldest(wire: &Wire) -> Option<usize> {
    if wire.cycle_count == 0 { None } else { Some(wire.cycle_first as usize % CYCLES) }
}

/// Index of the newest cycle, if there is one and it found room.
#[inline(always)]
pub(super) fn newest(wire: &Wire) -> Option<usize> {
    if wire.cycle_count == 0 || wire.cycles_untracked > 0 {
        return None;
    }
    Some((wire.cycle_first as usize + wire.cycle_count as usize + CYCLES - 1) % CYCLES)
}

/// A request begins.
#[inline(always)]
pub(super) fn begin<E: Effects>(wire: &mut Wire, fx: &mut E, begun_ns: u64) {
    wire.open = OPEN;
    wire.binds = 0;
    wire.bound = 0;
    if (wire.cycle_count as usize >= CYCLES || wire.cycles_untracked > 0) && !deep::put_off(wire, fx) {
        wire.cycles_untracked = wire.cycles_untracked.saturating_add(1);
        fx.lost(Loss::PipelineTooDeep);
        return;
    }
    let at = (wire.cycle_first as usize + wire.cycle_count as usize) % CYCLES;
    clear(&mut wire.cycles[at]);
    wire.cycles[at].begun_ns = begun_ns;
    wire.cycle_count += 1;
}

/// The start-up packet is complete. Its answer ends with ReadyForQuery, as that to a request.
#[inline(never)]
pub(super) fn greet<E: Effects>(wire: &mut Wire, fx: &mut E) {
    let mark = wire.up_mark_ns;
    begin(wire, fx, mark);
    wire.open = CLOSED;
    wire.greeting = 1;
}

/// A Bind of a statement, by its name; the hash of an empty name is that of the unnamed one.
#[inline(always)]
pub(super) fn bind(wire: &mut Wire, name: u64, statement: u32) {
    // One behind an Execute is noted in its place.
    wire.binds = if asks(wire) { u8::MAX } else { wire.binds.saturating_add(1) };
    wire.bound = if statement == STATEMENT_UNKNOWN { name } else { 0 };
}

/// Whether the newest request has asked for a statement.
#[inline(always)]
pub(super) fn asks(wire: &Wire) -> bool {
    newest(wire).is_some_and(|at| wire.cycles[at].executions != 0)
}

/// Whether another statement would be the last in the queue.
#[inline(always)]
pub(super) fn is_full(wire: &Wire) -> bool {
    wire.queue_count as usize + 1 >= STATEMENTS
}

/// A statement is to be executed: by Execute, or by a simple query.
#[inline(always)]
pub(super) fn execute<E: Effects>(wire: &mut Wire, fx: &mut E, statement: u32) {
    let Some(at) = newest(wire) else { return };
    let last = wire.last;
    wire.last = statement;
    let cycle = &mut wire.cycles[at];
    if cycle.executions == 0 {
        cycle.statement = statement;
    } else if statement != last {
        // Repetitions do not count, or batches that differ only in length would all have their own number.
        cycle.mixed = mix(cycle, statement);
    }
    cycle.executions = cycle.executions.saturating_add(1);
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
    wire.parsed[end] = statement;
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
    if cycle.entries == 0 {
        return answered_loosely(cycle);
    }
    cycle.entries -= 1;
    let statement = wire.queue[wire.queue_first as usize % STATEMENTS];
    wire.queue_first = ((wire.queue_first as usize + 1) % STATEMENTS) as u8;
    wire.queue_count = wire.queue_count.saturating_sub(1);
    statement
}

#[inline(never)]
fn answered_loosely(cycle: &mut Cycle) -> u32 {
    if cycle.loose & COPIES_BOTH != 0 {
        return NONE;
    }
    if cycle.loose & UNSEEN != 0 {
        cycle.mixed = mix(cycle, STATEMENT_UNKNOWN);
        return STATEMENT_UNKNOWN;
    }
    if cycle.loose & LOOSE_STATEMENTS != 0 && cycle.mixed == 0 { cycle.statement } else { STATEMENT_UNKNOWN }
}

/// The hash of a cycle's statements with one more.
#[inline(always)]
fn mix(cycle: &Cycle, statement: u32) -> u64 {
    let start = if cycle.mixed == 0 { FNV_OFFSET ^ cycle.statement as u64 } else { cycle.mixed };
    super::push_word(start, statement)
}

/// A named portal is to be bound.
#[inline(never)]
pub(super) fn binds_portal(wire: &mut Wire) {
    if let Some(at) = newest(wire) {
        wire.cycles[at].loose |= BINDS_PORTAL;
    }
}

/// The rest of a simple query's text is not looked at, because the queue is full or its last statement too long.
#[inline(never)]
pub(super) fn leave_rest<E: Effects>(wire: &mut Wire, fx: &mut E, full: bool) {
    if full {
        fx.lost(Loss::PipelineTooDeep);
    }
    if let Some(at) = newest(wire) {
        wire.cycles[at].loose |= UNSEEN;
    }
}

/// CopyBothResponse.
#[inline(never)]
pub(super) fn copies_both(wire: &mut Wire) {
    if let Some(at) = oldest(wire) {
        wire.cycles[at].loose |= COPIES_BOTH;
    }
}

/// The first byte of a reply to the oldest cycle was seen, of a message of this type.
#[inline(always)]
pub(super) fn first_byte<E: Effects>(wire: &mut Wire, fx: &mut E, at_ns: u64, tag: u8) {
    if let Some(at) = oldest(wire) {
        let cycle = &mut wire.cycles[at];
        if cycle.first_byte_ns == 0 {
            cycle.first_byte_ns = at_ns;
            // After an error the process may still note what it ran before.
            if cycle.statement == STATEMENT_UNKNOWN && wire.role == Role::Server as u8 && tag != b'E' {
                recall(wire, fx);
            }
        }
    }
}

/// A server answers a statement whose text was never seen: its own process has noted it, if it runs one statement alone.
/// It does so for each Parse, Bind and Execute (PostgreSQL, `pgstat_report_activity` in `tcop/postgres.c`), and for a
/// simple query, but not for a function call.
#[inline(never)]
fn recall<E: Effects>(wire: &mut Wire, fx: &mut E) {
    let Some(at) = newest(wire) else { return };
    let cycle = &wire.cycles[at];
    let alone = wire.cycle_count == 1 && cycle.executions == 1 && wire.binds <= 1;
    if !alone || cycle.parses != 0 || cycle.loose != 0 || wire.open == CLOSED {
        return;
    }
    let statement = fx.noted();
    if statement == STATEMENT_UNKNOWN {
        return;
    }
    wire.cycles[at].statement = statement;
    wire.last = statement;
    if wire.queue_count == 1 {
        wire.queue[wire.queue_first as usize % STATEMENTS] = statement;
    }
    if wire.bound == FNV_OFFSET {
        wire.unnamed = statement;
    } else if wire.bound != 0 {
        fx.prepare(wire.bound, statement);
    }
}

/// CommandComplete: a statement ended well; `tag` is the hash of its tag.
#[inline(always)]
pub(super) fn completed<E: Effects>(wire: &mut Wire, fx: &mut E, tag: u64, rows: u32, now_ns: u64) {
    // A tag with a count of rows does nothing to transactions and names, unless it follows one that did.
    if rows == 0 || wire.command != 0 {
        transaction::follow_tag(wire, fx, tag, now_ns);
    }
    let statement = answered(wire);
    if statement != NONE {
        fx.statement_done(wire, statement, rows);
    }
}

/// EmptyQueryResponse or PortalSuspended: the reply to one Execute, but no statement ended.
#[inline(never)]
pub(super) fn passed<E: Effects>(wire: &mut Wire, fx: &mut E, now_ns: u64) {
    transaction::settle(wire, fx, now_ns);
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
#[inline(never)]
pub(super) fn failed<E: Effects>(wire: &mut Wire, fx: &mut E, sqlstate: u32, now_ns: u64) {
    if wire.is_logging_in() && wire.database == 0 {
        // Anybody may name a database or a user; only those with whom somebody was let in before have a number.
        identify(wire, fx, false);
    }
    transaction::settle(wire, fx, now_ns);
    if oldest(wire).is_some_and(|at| wire.cycles[at].loose & BINDS_PORTAL != 0) {
        // The Bind may have been refused, and the name still stand for an older one.
        wire.portals = wire.portals.wrapping_add(1);
    }
    fx.error(wire, sqlstate);
    wire.failed = 1;
}

/// The server has skipped these Parse messages: what they would have prepared is not there. Apart, because it is rare.
#[inline(never)]
fn skip_parses<E: Effects>(wire: &mut Wire, fx: &mut E, parses: u8) {
    for nth in 0..PARSES {
        if nth >= parses as usize {
            break;
        }
        refuse(wire, fx);
    }
}

/// The oldest Parse message was not obeyed: what was bound to its name since then was another statement, if any.
#[inline(never)]
fn refuse<E: Effects>(wire: &mut Wire, fx: &mut E) {
    let at = wire.parse_first as usize % PARSES;
    let (name, statement) = (wire.parses[at], wire.parsed[at]);
    drop_parse(wire);
    let mut again = false;
    for nth in 0..PARSES {
        let at = (wire.parse_first as usize + nth) % PARSES;
        again |= nth < wire.parse_count as usize && wire.parses[at] == name;
    }
    // A later Parse message under way that bears the name too decides what it stands for.
    if !again && name == 0 {
        wire.unnamed = STATEMENT_UNKNOWN;
    } else if !again {
        fx.forget(name);
    }
    wire.portals = wire.portals.wrapping_add(1);
    if wire.portal == statement {
        wire.portal = STATEMENT_UNKNOWN;
    }
    for entry in &mut wire.queue {
        if *entry == statement {
            *entry = STATEMENT_UNKNOWN;
        }
    }
    for cycle in &mut wire.cycles {
        if cycle.statement == statement {
            cycle.statement = STATEMENT_UNKNOWN;
        }
    }
    deep::doubt(wire, statement);
}

/// The first ReadyForQuery of a session: the database has let its client in.
#[inline(never)]
fn greeted<E: Effects>(wire: &mut Wire, fx: &mut E, begun_ns: u64, now_ns: u64) {
    identify(wire, fx, true);
    wire.greeting = 0;
    fx.connected(wire, now_ns.saturating_sub(begun_ns));
}

/// Looks up the numbers of the user and the database that a start-up packet names. Without a database, the user's name
/// stands for it (PostgreSQL 15, `ProcessStartupPacket`).
#[inline(always)]
fn identify<E: Effects>(wire: &mut Wire, fx: &mut E, new: bool) {
    if wire.user_len > 0 {
        wire.user = fx.database(&wire.user_text, wire.user_len, new);
    }
    wire.database = if wire.text_len > 0 { fx.database(&wire.text, wire.text_len, new) } else { wire.user };
}

/// ReadyForQuery: the oldest cycle ends.
#[inline(always)]
pub(super) fn ready<E: Effects>(wire: &mut Wire, fx: &mut E, status: u8, now_ns: u64) {
    if let Some(at) = oldest(wire) {
        let cycle = &wire.cycles[at];
        // One by one: a copy of the whole would have to wait for its bytes just written.
        let (entries, parses, loose, executions) = (cycle.entries, cycle.parses, cycle.loose, cycle.executions);
        let (begun_ns, first_byte_ns, mixed, statement) =
            (cycle.begun_ns, cycle.first_byte_ns, cycle.mixed, cycle.statement);
        wire.cycle_first = ((wire.cycle_first as usize + 1) % CYCLES) as u8;
        wire.cycle_count -= 1;
        // What the server has not answered by now it has skipped.
        wire.queue_first = ((wire.queue_first as usize + entries as usize) % STATEMENTS) as u8;
        wire.queue_count = wire.queue_count.saturating_sub(entries);
        if parses > 0 {
            skip_parses(wire, fx, parses);
        }
        if loose & LOOSE_PARSES != 0 && wire.failed != 0 {
            wire.unnamed = STATEMENT_UNKNOWN;
        }
        if executions > 0 {
            let statement = if mixed != 0 { fx.batch(mixed) } else { statement };
            let first_byte_ns = if first_byte_ns == 0 { now_ns } else { first_byte_ns };
            fx.query(wire, statement, now_ns.saturating_sub(begun_ns), first_byte_ns.saturating_sub(begun_ns));
            transaction::ready(wire, fx, status, begun_ns, now_ns);
        } else if wire.greeting != 0 {
            greeted(wire, fx, begun_ns, now_ns);
        } else if wire.failed != 0 {
            fx.refused(wire, statement, now_ns.saturating_sub(begun_ns));
        } else if wire.open == OPEN && !wire.is_active() {
            // The write that ends this request began before, but has not returned yet.
            fx.lost(Loss::PostgresOutOfStep);
        }
        if wire.put_off > 0 {
            deep::take_up(wire, fx);
        }
    } else if wire.cycles_untracked > 0 {
        wire.cycles_untracked -= 1;
        if wire.failed != 0 {
            wire.unnamed = STATEMENT_UNKNOWN;
        }
        if status == b'I' {
            wire.transaction_ns = 0;
        }
    } else {
        wire.early = 1;
    }
    wire.transaction = status;
    wire.failed = 0;
    wire.command = 0;
    if !wire.is_active() {
        wire.idle_ns = now_ns;
        wire.queue_count = 0;
        wire.parse_count = 0;
        wire.freed = 0;
        // The rings begin anew, so that a quiet connection always touches the same lines of memory.
        wire.cycle_first = 0;
        wire.queue_first = 0;
        wire.parse_first = 0;
        if wire.open != OPEN {
            wire.open = CLOSED;
        }
    }
}
