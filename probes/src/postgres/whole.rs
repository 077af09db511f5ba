//! The messages that nearly all traffic consists of, taken whole where all of one lies in the window: the short way of
//! what [`step`](super::step) does for every message in pieces. Decides nothing of its own; what it does not take, `step`
//! takes from the same place.

use super::{
    FNV_OFFSET, Phase, Wire, cycle,
    frame::{Mode, Source},
    message::Effects,
    push_hash,
};

/// Longest name of a prepared statement, and most digits of a count of rows, that are taken here.
const SHORT: u32 = 16;

/// Takes the next message if it is a frequent one and lies whole in the window. False leaves all as it was.
#[inline(always)]
pub fn whole<S: Source, E: Effects>(
    wire: &mut Wire,
    up: bool,
    begun_ns: u64,
    ended_ns: u64,
    source: &mut S,
    fx: &mut E,
) -> bool {
    if wire.phase != Phase::Confirmed as u8 {
        return false;
    }
    let stream = if up { &wire.up } else { &wire.down };
    if stream.mode != Mode::Header as u8 || stream.have != 0 {
        return false;
    }
    let Some((tag, length)) = source.whole() else { return false };
    let taken = if up {
        request(wire, tag, length, begun_ns, source, fx)
    } else {
        reply(wire, tag, length, begun_ns, ended_ns, source, fx)
    };
    if taken {
        source.advance(length + 1);
    }
    taken
}

/// Bind, Describe, Execute and Sync of one that uses the unnamed portal.
#[inline(always)]
fn request<S: Source, E: Effects>(
    wire: &mut Wire,
    tag: u8,
    length: u32,
    begun_ns: u64,
    source: &S,
    fx: &mut E,
) -> bool {
    let mut name = FNV_OFFSET;
    match tag {
        // Two names and three counts.
        b'B' if length >= 12 && source.window(5) == 0 => {
            let mut at = 6;
            loop {
                let byte = source.window(at);
                at += 1;
                if byte == 0 {
                    break;
                }
                if at > 6 + SHORT || at > length {
                    return false;
                }
                name = push_hash(name, byte);
            }
        }
        // The unnamed portal and a limit of rows.
        b'E' if length == 9 && source.window(5) == 0 => {}
        b'D' if length >= 6 => {}
        b'S' if length == 4 => {}
        _ => return false,
    }
    wire.up_mark_ns = begun_ns;
    wire.up.tag = tag;
    if wire.open != cycle::OPEN {
        cycle::begin(wire, fx, begun_ns);
    }
    match tag {
        b'B' => {
            wire.parse_name = 0;
            wire.portal = if name == FNV_OFFSET { wire.unnamed } else { fx.prepared(name) };
            let portal = wire.portal;
            cycle::bind(wire, name, portal);
        }
        b'E' => {
            let portal = wire.portal;
            cycle::execute(wire, fx, portal);
        }
        b'S' => cycle::close(wire, fx, false),
        _ => {}
    }
    true
}

/// The replies to those, rows that are short, the tag of a statement that counts rows, and ReadyForQuery.
#[inline(always)]
fn reply<S: Source, E: Effects>(
    wire: &mut Wire,
    tag: u8,
    length: u32,
    begun_ns: u64,
    ended_ns: u64,
    source: &S,
    fx: &mut E,
) -> bool {
    let mut rows = 0;
    match tag {
        b'1' | b'2' | b'3' | b'n' if length == 4 => {}
        b'D' | b'T' if length > 4 => {}
        b'C' if length > 5 => match rows_of(length, source) {
            Some(count) => rows = count,
            None => return false,
        },
        b'Z' if length == 5 => {}
        _ => return false,
    }
    wire.down.tag = tag;
    cycle::first_byte(wire, fx, begun_ns, tag);
    match tag {
        b'1' => cycle::parsed(wire),
        b'C' => cycle::completed(wire, fx, NO_TAG, rows, ended_ns),
        b'Z' => {
            wire.down.note = source.window(5);
            let status = wire.down.note;
            cycle::ready(wire, fx, status, ended_ns);
        }
        _ => {}
    }
    true
}

/// The hash of no tag: one that ends with a number neither begins nor ends a transaction.
const NO_TAG: u64 = 0;

/// The count of rows that a command tag ends with, if it does.
#[inline(always)]
fn rows_of<S: Source>(length: u32, source: &S) -> Option<u32> {
    if source.window(length) != 0 {
        return None;
    }
    let (mut rows, mut unit) = (0u64, 1u64);
    for back in 1..SHORT {
        if back + 5 > length {
            return None;
        }
        let byte = source.window(length - back);
        if !byte.is_ascii_digit() {
            let rows = if rows > u32::MAX as u64 { u32::MAX } else { rows as u32 };
            return if back == 1 { None } else { Some(rows) };
        }
        rows += (byte - b'0') as u64 * unit;
        unit *= 10;
    }
    None
}
