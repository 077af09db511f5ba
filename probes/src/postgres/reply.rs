//! Replies: what a server answers, until ReadyForQuery ends a cycle.

use core::hint::black_box;

use super::{
    FNV_OFFSET, Phase, Stream, Wire, cycle,
    frame::{Frame, Mode, RUN, Source, frame, next_of_run, skip, take_terminator},
    message::{Effects, Step},
    opening::is_reply,
    push_hash, push_sqlstate, sqlstate_of,
};

#[inline(always)]
pub(super) fn step<S: Source, E: Effects>(
    wire: &mut Wire,
    begun_ns: u64,
    ended_ns: u64,
    source: &mut S,
    fx: &mut E,
) -> Step {
    if wire.phase == Phase::AskedEncryption as u8 {
        return answer_encryption(wire, source);
    }
    let between = wire.down.mode == Mode::Header as u8 && wire.down.have == 0;
    let frame = frame(&mut wire.down, source);
    // What the server sends on its own account is no reply.
    if between && !matches!(wire.down.tag, b'A' | b'N' | b'S') && !matches!(frame, Frame::Unreadable) {
        let tag = wire.down.tag;
        cycle::first_byte(wire, fx, begun_ns, tag);
    }
    match frame {
        Frame::Unreadable => return Step::Done,
        Frame::Nothing => {}
        Frame::Begin => {
            let (tag, length) = (wire.down.tag, wire.down.number);
            if !is_reply(tag, length) || wire.phase != Phase::Confirmed as u8 && !confirm(wire) {
                return Step::Broken;
            }
            wire.down.left = length - 4;
            wire.down.have = 0;
            wire.down.number = 0;
            wire.down.name = FNV_OFFSET;
            wire.down.mode = match tag {
                b'C' => Mode::CommandTag,
                b'Z' => Mode::Status,
                b'E' => Mode::ErrorField,
                _ => Mode::Skip,
            } as u8;
            if tag == b'Z'
                && let Some(status) = source.byte_at(0)
            {
                source.advance(1);
                wire.down.left = 0;
                wire.down.note = status;
            }
        }
        Frame::Byte(byte) => byte_of_body(wire, byte),
    }
    run(wire, source);
    if wire.down.mode == Mode::Skip as u8 {
        skip(&mut wire.down, source);
    }
    if wire.down.left == 0 && wire.down.mode != Mode::Header as u8 {
        end(wire, fx, ended_ns);
    }
    Step::More
}

/// A valid reply to what may be a request. Nobody answers half a start-up packet; such a one is rather another's zero byte.
#[inline(never)]
fn confirm(wire: &mut Wire) -> bool {
    let half = matches!(Mode::from_u8(wire.up.mode), Some(Mode::Startup | Mode::StartupKey | Mode::StartupValue));
    if !half {
        wire.phase = Phase::Confirmed as u8;
    }
    !half
}

#[inline(always)]
fn run<S: Source>(wire: &mut Wire, source: &mut S) {
    if wire.down.mode != Mode::CommandTag as u8 {
        return;
    }
    for _ in 0..black_box(RUN) {
        let Some(byte) = next_of_run(&mut wire.down, source) else { break };
        push_tag(&mut wire.down, byte);
    }
    take_terminator(&mut wire.down, source);
}

/// The answer to SSLRequest or GSSENCRequest is one byte without a header.
#[inline(always)]
fn answer_encryption<S: Source>(wire: &mut Wire, source: &mut S) -> Step {
    let Some(byte) = source.byte_at(0) else { return Step::Done };
    match byte {
        b'S' | b'G' => {
            wire.phase = Phase::Opaque as u8;
            wire.down.note = byte;
            Step::Done
        }
        b'N' => {
            source.advance(1);
            wire.phase = Phase::Candidate as u8;
            wire.up.mode = Mode::Startup as u8;
            wire.up.left = 8;
            wire.up.have = 0;
            wire.up.number = 0;
            Step::More
        }
        // A server that does not know the request answers with an error message.
        b'E' => {
            wire.phase = Phase::Candidate as u8;
            Step::More
        }
        _ => Step::Broken,
    }
}

/// A byte of a command tag: the last number in it is the count of rows.
#[inline(always)]
fn push_tag(stream: &mut Stream, byte: u8) {
    stream.name = push_hash(stream.name, byte);
    stream.number = match byte {
        b'0'..=b'9' => stream.number.saturating_mul(10).saturating_add((byte - b'0') as u32),
        _ => 0,
    };
}

/// A byte of a reply's body that matters.
#[inline(always)]
fn byte_of_body(wire: &mut Wire, byte: u8) {
    let stream = &mut wire.down;
    match Mode::from_u8(stream.mode) {
        Some(Mode::CommandTag) => {
            if byte == 0 {
                stream.mode = Mode::Skip as u8;
                return;
            }
            push_tag(stream, byte);
        }
        Some(Mode::Status) => {
            stream.note = byte;
            stream.mode = Mode::Skip as u8;
        }
        Some(Mode::ErrorField) => {
            stream.mode = match byte {
                b'C' => Mode::ErrorCode,
                0 => Mode::Skip,
                _ => Mode::ErrorSkip,
            } as u8;
        }
        Some(Mode::ErrorSkip) => {
            if byte == 0 {
                stream.mode = Mode::ErrorField as u8;
            }
        }
        Some(Mode::ErrorCode) => {
            if byte == 0 {
                stream.mode = Mode::Skip as u8;
            } else {
                stream.number = push_sqlstate(stream.number, byte);
            }
        }
        _ => stream.mode = Mode::Skip as u8,
    }
}

/// The last byte of a reply was seen.
#[inline(always)]
fn end<E: Effects>(wire: &mut Wire, fx: &mut E, ended_ns: u64) {
    let (tag, number, name, note) = (wire.down.tag, wire.down.number, wire.down.name, wire.down.note);
    wire.down.mode = Mode::Header as u8;
    wire.down.have = 0;
    match tag {
        b'1' => cycle::parsed(wire),
        b'C' => cycle::completed(wire, fx, name, number, ended_ns),
        b'I' | b's' => cycle::passed(wire, fx, ended_ns),
        b'E' => cycle::failed(wire, fx, number, ended_ns),
        b'W' => cycle::copies_both(wire),
        _ => {}
    }
    // A server that goes tells so in place of ReadyForQuery, and what was under way has ended with that. In one place, because each
    // further one doubles the verifier's walk.
    let goes = tag == b'E' && wire.is_active() && !wire.is_logging_in() && is_last_word(number);
    if tag == b'Z' || goes {
        cycle::ready(wire, fx, if goes { b'I' } else { note }, ended_ns);
    }
}

/// Whether a session ends with an error of this code, whatever was under way (PostgreSQL 17, `src/backend/tcop/postgres.c`,
/// `ProcessInterrupts` and `quickdie`).
#[inline(always)]
fn is_last_word(sqlstate: u32) -> bool {
    const ADMIN_SHUTDOWN: u32 = sqlstate_of(b"57P01");
    const CRASH_SHUTDOWN: u32 = sqlstate_of(b"57P02");
    const DATABASE_DROPPED: u32 = sqlstate_of(b"57P04");
    const TRANSACTION_TIMEOUT: u32 = sqlstate_of(b"25P04");
    matches!(sqlstate, ADMIN_SHUTDOWN | CRASH_SHUTDOWN | DATABASE_DROPPED | TRANSACTION_TIMEOUT)
}
