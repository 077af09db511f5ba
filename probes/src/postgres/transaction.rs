//! Transactions: when they begin and how they end, by the tags of the commands that a cycle completed and the state that
//! ReadyForQuery reports.

use super::{Effects, Wire, cycle::oldest, hash_name};
use crate::cell::TransactionOutcome;

// Bits of `Wire::command`: what was completed in the current cycle.
const BEGUN: u8 = 1;
const COMMITTED: u8 = 2;
const ROLLED_BACK: u8 = 4;
const ENDED: u8 = COMMITTED | ROLLED_BACK;

const TAG_BEGIN: u64 = hash_name(b"BEGIN");
const TAG_START: u64 = hash_name(b"START TRANSACTION");
const TAG_COMMIT: u64 = hash_name(b"COMMIT");
const TAG_ROLLBACK: u64 = hash_name(b"ROLLBACK");
const TAG_PREPARE: u64 = hash_name(b"PREPARE TRANSACTION");
const TAG_SAVEPOINT: u64 = hash_name(b"SAVEPOINT");
const TAG_DEALLOCATE: u64 = hash_name(b"DEALLOCATE");
const TAG_DEALLOCATE_ALL: u64 = hash_name(b"DEALLOCATE ALL");
const TAG_DISCARD: u64 = hash_name(b"DISCARD ALL");

/// Follows a tag that may have begun or ended a transaction, or made names free; `tag` is its hash.
#[inline(never)]
pub(super) fn follow_tag<E: Effects>(wire: &mut Wire, fx: &mut E, tag: u64, now_ns: u64) {
    settle(wire, fx, now_ns);
    match tag {
        TAG_BEGIN | TAG_START => {
            wire.command |= BEGUN;
            wire.savepoint = 0;
        }
        TAG_COMMIT | TAG_PREPARE => wire.command = wire.command & !ROLLED_BACK | COMMITTED,
        TAG_ROLLBACK => wire.command = wire.command & !COMMITTED | ROLLED_BACK,
        TAG_SAVEPOINT => wire.savepoint = 1,
        TAG_DEALLOCATE | TAG_DEALLOCATE_ALL if wire.freed > 0 => wire.freed -= 1,
        // What became free was not seen when it was asked for: no name is trusted any more.
        TAG_DEALLOCATE | TAG_DEALLOCATE_ALL | TAG_DISCARD => fx.forget_all(),
        _ => {}
    }
}

/// What follows the end of a transaction in one cycle belongs to the next transaction. ROLLBACK may have been one to a
/// savepoint, if there is one.
#[inline(always)]
pub(super) fn settle<E: Effects>(wire: &mut Wire, fx: &mut E, now_ns: u64) {
    let ended = wire.command & ENDED;
    if ended == 0 || ended == ROLLED_BACK && wire.savepoint != 0 {
        return;
    }
    if let Some(at) = oldest(wire) {
        let begun_ns = wire.cycles[at].begun_ns;
        if let Some(since_ns) = begun(wire, begun_ns) {
            let outcome = if ended == ROLLED_BACK { TransactionOutcome::Rollback } else { TransactionOutcome::Commit };
            fx.transaction(wire, outcome, now_ns.saturating_sub(since_ns));
        }
        wire.transaction_ns = now_ns;
    }
    wire.command = 0;
}

/// When the transaction under way began, if that was seen. A cycle that found none open is one of its own.
#[inline(always)]
fn begun(wire: &Wire, begun_ns: u64) -> Option<u64> {
    if wire.transaction_ns != 0 {
        return Some(wire.transaction_ns);
    }
    let (before, command) = (wire.transaction, wire.command);
    let whole = before == b'I' || before == 0 && (command & BEGUN != 0 || command == 0);
    if whole { Some(begun_ns) } else { None }
}

/// Follows the transaction state that ReadyForQuery reports. One whose beginning was not seen is not counted: nobody knows
/// how long it took.
#[inline(always)]
pub(super) fn ready<E: Effects>(wire: &mut Wire, fx: &mut E, status: u8, begun_ns: u64, now_ns: u64) {
    let (before, command) = (wire.transaction, wire.command);
    let since_ns = if status != b'I' {
        let since_ns = wire.transaction_ns;
        // COMMIT AND CHAIN, or COMMIT and BEGIN in one cycle. ROLLBACK alone may be that of a savepoint.
        let next = command & COMMITTED != 0 || command == ROLLED_BACK | BEGUN;
        if since_ns != 0 && !next {
            return;
        }
        wire.transaction_ns = if next || before == b'I' || command & BEGUN != 0 { begun_ns } else { 0 };
        if since_ns == 0 {
            return;
        }
        since_ns
    } else {
        let since_ns = begun(wire, begun_ns);
        wire.transaction_ns = 0;
        let Some(since_ns) = since_ns else { return };
        since_ns
    };
    let rolled_back = command & ROLLED_BACK != 0 || command & COMMITTED == 0 && wire.failed != 0;
    let outcome = if rolled_back { TransactionOutcome::Rollback } else { TransactionOutcome::Commit };
    fx.transaction(wire, outcome, now_ns.saturating_sub(since_ns));
}
