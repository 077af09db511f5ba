//! More requests under way than have a place with their connection: those between the first ones and the newest are put off to a
//! map, in order, and taken up again as the first ones end.

use super::{CYCLES, Effects, PARSES, PUT_OFF, STATEMENT_UNKNOWN, Wire, cycle::newest};
use crate::cell::Loss;

/// Makes room in the ring: its newest cycle, which is complete, is kept elsewhere until those before it have ended. False if
/// there is no room there.
#[inline(never)]
pub(super) fn put_off<E: Effects>(wire: &mut Wire, fx: &mut E) -> bool {
    let Some(at) = newest(wire) else { return false };
    let number = wire.put_off_first.wrapping_add(wire.put_off);
    if wire.put_off >= PUT_OFF || !fx.put_off(number, &wire.cycles[at]) {
        return false;
    }
    wire.put_off += 1;
    wire.cycle_count -= 1;
    true
}

/// A cycle of the ring has ended: the oldest of those that were put off gets its place, before the newest.
#[inline(never)]
pub(super) fn take_up<E: Effects>(wire: &mut Wire, fx: &mut E) {
    let Some(mut cycle) = fx.take_up(wire.put_off_first) else {
        give_up(wire, fx);
        return;
    };
    if wire.doubted == u32::MAX || cycle.statement == wire.doubted {
        cycle.statement = STATEMENT_UNKNOWN;
    }
    wire.put_off_first = wire.put_off_first.wrapping_add(1);
    wire.put_off -= 1;
    if wire.put_off == 0 {
        wire.doubted = STATEMENT_UNKNOWN;
    }
    let newest = (wire.cycle_first as usize + wire.cycle_count as usize + CYCLES - 1) % CYCLES;
    wire.cycles[(newest + 1) % CYCLES] = wire.cycles[newest];
    wire.cycles[newest] = cycle;
    wire.cycle_count += 1;
}

/// What the ring holds cannot be told from what is missing any more: all that is under way is left to its end.
#[inline(never)]
fn give_up<E: Effects>(wire: &mut Wire, fx: &mut E) {
    let cycles = wire.put_off.saturating_add(wire.cycle_count as u32);
    fx.lost_several(Loss::PipelineTooDeep, cycles);
    wire.cycles_untracked = cycles;
    wire.put_off = 0;
    wire.doubted = STATEMENT_UNKNOWN;
    wire.cycle_count = 0;
    wire.queue_count = 0;
    // Whether the server obeys these will not be seen.
    for nth in 0..PARSES {
        if nth >= wire.parse_count as usize {
            break;
        }
        let name = wire.parses[(wire.parse_first as usize + nth) % PARSES];
        if name != 0 {
            fx.forget(name);
        }
    }
    wire.parse_count = 0;
    wire.unnamed = STATEMENT_UNKNOWN;
}

/// A statement was refused: cycles that are put off, and cannot be looked at, may be of it.
#[inline(always)]
pub(super) fn doubt(wire: &mut Wire, statement: u32) {
    if wire.put_off > 0 && wire.doubted != statement {
        wire.doubted = if wire.doubted == STATEMENT_UNKNOWN { statement } else { u32::MAX };
    }
}
