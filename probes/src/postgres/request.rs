//! Requests: what a client sends, and where its first byte begins a cycle.

use core::hint::black_box;

use super::{
    FNV_OFFSET, NAME_LEN, Phase, STATEMENT_UNKNOWN, TEXT_LEN, Wire, cycle,
    frame::{Frame, Mode, RUN, Source, frame, next_of_run, skip, take_empty_name, take_terminator},
    hash_name,
    message::{Effects, Step},
    opening::{self, is_request_tag},
    push_hash,
};
use crate::shape::Shape;

const DATABASE: u64 = hash_name(b"database");
const USER: u64 = hash_name(b"user");
/// Portals share the table of prepared statements under salted names.
const PORTAL_SALT: u64 = 0x5EED_0F0B_1E55_0A11;

const FIELD_DATABASE: u8 = 1;
const FIELD_USER: u8 = 2;

#[inline(always)]
pub(super) fn step<S: Source, E: Effects>(wire: &mut Wire, begun_ns: u64, source: &mut S, fx: &mut E) -> Step {
    if wire.up.mode == Mode::Header as u8 && wire.up.have == 0 {
        wire.up_mark_ns = begun_ns;
    }
    match frame(&mut wire.up, source) {
        Frame::Unreadable => return Step::Done,
        Frame::Nothing => {}
        Frame::Begin => {
            let (tag, length) = (wire.up.tag, wire.up.number);
            let bare = matches!(tag, b'S' | b'H' | b'X' | b'c');
            let longest = match wire.phase {
                phase if phase == Phase::Candidate as u8 => opening::OPENING_MAX,
                _ => opening::MESSAGE_MAX,
            };
            if !is_request_tag(tag) || !(4..=longest).contains(&length) || (bare && length != 4) {
                return Step::Broken;
            }
            wire.up.left = length - 4;
            begin(wire, fx);
            match Mode::from_u8(wire.up.mode) {
                Some(Mode::Text) => fx.text_begins(source),
                // Nearly all clients use the unnamed portal.
                Some(Mode::BindPortal) if take_empty_name(&mut wire.up, source) => {
                    wire.parse_name = 0;
                    wire.up.mode = Mode::BindStatement as u8;
                }
                _ => {}
            }
        }
        Frame::Byte(byte) => {
            let before = wire.up.mode;
            if before == Mode::Startup as u8 && wire.idle_ns == 0 {
                wire.idle_ns = begun_ns;
            }
            if !byte_of_body(wire, byte, fx) {
                return Step::Broken;
            }
            if wire.up.mode == Mode::Text as u8 && before != Mode::Text as u8 {
                fx.text_begins(source);
            }
        }
    }
    run(wire, source);
    if wire.up.mode == Mode::Skip as u8 {
        skip(&mut wire.up, source);
    }
    if wire.up.left == 0 && wire.up.mode != Mode::Header as u8 {
        end(wire, fx);
    }
    Step::More
}

#[inline(always)]
fn run<S: Source>(wire: &mut Wire, source: &mut S) {
    match Mode::from_u8(wire.up.mode) {
        Some(Mode::Text) => {
            for _ in 0..black_box(RUN) {
                if wire.up.text_len >= TEXT_LEN {
                    return;
                }
                let Some(byte) = next_of_run(&mut wire.up, source) else { break };
                wire.shape.push(byte);
                wire.up.text_len += 1;
            }
            take_terminator(&mut wire.up, source);
        }
        Some(Mode::ParseName | Mode::BindPortal | Mode::BindStatement | Mode::ExecutePortal | Mode::StartupKey) => {
            for _ in 0..black_box(RUN) {
                let Some(byte) = next_of_run(&mut wire.up, source) else { return };
                wire.up.name = push_hash(wire.up.name, byte);
            }
        }
        _ => {}
    }
}

/// The header of a request is complete.
#[inline(always)]
fn begin<E: Effects>(wire: &mut Wire, fx: &mut E) {
    let tag = wire.up.tag;
    if wire.open != cycle::OPEN && matches!(tag, b'Q' | b'P' | b'B' | b'E' | b'D' | b'C' | b'F' | b'S') {
        let mark = wire.up_mark_ns;
        cycle::begin(wire, fx, mark);
    }
    let stream = &mut wire.up;
    stream.have = 0;
    stream.number = 0;
    stream.text_len = 0;
    stream.name = FNV_OFFSET;
    stream.mode = match tag {
        b'Q' => Mode::Text,
        b'P' => Mode::ParseName,
        b'B' => Mode::BindPortal,
        b'E' => Mode::ExecutePortal,
        b'C' => Mode::CloseKind,
        _ => Mode::Skip,
    } as u8;
    if tag == b'Q' {
        wire.shape = Shape::new();
    }
}

/// A byte of a request's body that matters. False if it makes no sense.
#[inline(always)]
fn byte_of_body<E: Effects>(wire: &mut Wire, byte: u8, fx: &mut E) -> bool {
    match Mode::from_u8(wire.up.mode) {
        Some(Mode::Text) => {
            if byte == 0 {
                end_text(wire, fx, false);
                return true;
            }
            if wire.up.text_len >= TEXT_LEN {
                end_text(wire, fx, true);
                return true;
            }
            wire.shape.push(byte);
            wire.up.text_len += 1;
        }
        Some(Mode::Startup) => return byte_startup(wire, byte),
        Some(Mode::StartupKey) => {
            if byte != 0 {
                wire.up.name = push_hash(wire.up.name, byte);
                return true;
            }
            // `have` remembers that the database was named; without it the user's name stands for it.
            wire.up.note = match wire.up.name {
                DATABASE => FIELD_DATABASE,
                USER => FIELD_USER,
                FNV_OFFSET => {
                    wire.up.mode = Mode::Skip as u8;
                    return true;
                }
                _ => 0,
            };
            if wire.up.note != 0 {
                if wire.up.note == FIELD_USER && wire.up.have != 0 {
                    wire.database = fx.database(&wire.text, wire.text_len);
                }
                wire.text_len = 0;
                wire.text = [0; NAME_LEN];
            }
            wire.up.mode = Mode::StartupValue as u8;
        }
        Some(Mode::StartupValue) => {
            if byte == 0 {
                match wire.up.note {
                    FIELD_DATABASE => wire.up.have = 1,
                    FIELD_USER => {
                        wire.user = fx.database(&wire.text, wire.text_len);
                        if wire.up.have != 0 {
                            wire.text_len = 0;
                        }
                    }
                    _ => {}
                }
                wire.up.name = FNV_OFFSET;
                wire.up.mode = Mode::StartupKey as u8;
            } else if wire.up.note != 0 && (wire.text_len as usize) < NAME_LEN - 1 {
                wire.text[wire.text_len as usize % NAME_LEN] = byte;
                wire.text_len += 1;
            }
        }
        Some(Mode::CloseKind) => {
            wire.up.note = byte;
            wire.up.mode = Mode::CloseName as u8;
        }
        Some(_) => {
            if byte != 0 {
                wire.up.name = push_hash(wire.up.name, byte);
            } else {
                end_name(wire, fx);
            }
        }
        None => return false,
    }
    true
}

/// Length and code of a start-up packet, byte by byte: `have` counts them.
#[inline(always)]
fn byte_startup(wire: &mut Wire, byte: u8) -> bool {
    let stream = &mut wire.up;
    stream.have += 1;
    stream.number = stream.number << 8 | byte as u32;
    if stream.have == 4 {
        // The length is put aside in `name` while the code is read.
        stream.name = stream.number as u64;
        return (8..=opening::STARTUP_MAX).contains(&stream.number);
    }
    if stream.have < 8 {
        stream.left = 8;
        return true;
    }
    let (length, code) = (stream.name as u32, stream.number);
    stream.have = 0;
    stream.tag = 0;
    stream.left = length.saturating_sub(8);
    stream.name = FNV_OFFSET;
    match code {
        opening::CANCEL => {
            stream.mode = Mode::Skip as u8;
            wire.phase = Phase::Cancel as u8;
        }
        opening::SSL | opening::GSS => {
            stream.mode = Mode::Skip as u8;
            wire.phase = Phase::AskedEncryption as u8;
        }
        _ if code >> 16 == opening::MAJOR_3 => stream.mode = Mode::StartupKey as u8,
        _ => return false,
    }
    true
}

/// A name ended with its zero byte.
#[inline(always)]
fn end_name<E: Effects>(wire: &mut Wire, fx: &mut E) {
    let name = wire.up.name;
    let unnamed = name == FNV_OFFSET;
    wire.up.name = FNV_OFFSET;
    match Mode::from_u8(wire.up.mode) {
        Some(Mode::ParseName) => {
            wire.parse_name = if unnamed { 0 } else { name };
            wire.shape = Shape::new();
            wire.up.mode = Mode::Text as u8;
        }
        Some(Mode::BindPortal) => {
            wire.parse_name = if unnamed { 0 } else { name ^ PORTAL_SALT };
            wire.up.mode = Mode::BindStatement as u8;
        }
        Some(Mode::BindStatement) => {
            let statement = if unnamed { wire.unnamed } else { fx.prepared(name) };
            if wire.parse_name == 0 {
                wire.portal = statement;
            } else {
                fx.prepare(wire.parse_name, statement);
            }
            wire.up.mode = Mode::Skip as u8;
        }
        Some(Mode::ExecutePortal) => {
            let statement = if unnamed { wire.portal } else { fx.prepared(name ^ PORTAL_SALT) };
            cycle::execute(wire, fx, statement, false);
            wire.up.mode = Mode::Skip as u8;
        }
        Some(Mode::CloseName) => {
            match (wire.up.note, unnamed) {
                (b'S', true) => wire.unnamed = STATEMENT_UNKNOWN,
                (b'S', false) => fx.forget(name),
                (_, true) => wire.portal = STATEMENT_UNKNOWN,
                (_, false) => fx.forget(name ^ PORTAL_SALT),
            }
            wire.up.mode = Mode::Skip as u8;
        }
        _ => wire.up.mode = Mode::Skip as u8,
    }
}

/// A statement's text ended, or as much of it as is looked at.
#[inline(always)]
fn end_text<E: Effects>(wire: &mut Wire, fx: &mut E, cut: bool) {
    let statement = fx.statement(wire.shape.finish(), wire.up.text_len, cut);
    wire.up.mode = Mode::Skip as u8;
    if wire.up.tag == b'Q' {
        cycle::execute(wire, fx, statement, true);
        return;
    }
    let name = wire.parse_name;
    let watched = cycle::parse(wire, name, statement);
    if name == 0 {
        wire.unnamed = statement;
    } else if watched {
        fx.prepare(name, statement);
    } else {
        // Whether the name is this statement's will not be seen; another's it is no more, or will be again.
        fx.forget(name);
    }
}

/// The last byte of a request was seen.
#[inline(always)]
fn end<E: Effects>(wire: &mut Wire, fx: &mut E) {
    let tag = wire.up.tag;
    if wire.up.mode == Mode::Text as u8 {
        end_text(wire, fx, false);
    }
    if tag == b'F' {
        cycle::execute(wire, fx, STATEMENT_UNKNOWN, true);
    }
    match tag {
        b'Q' | b'F' => cycle::close(wire, fx, true),
        b'S' => cycle::close(wire, fx, false),
        b'X' => fx.closing(wire),
        b'c' | b'f' => cycle::copied(wire),
        _ => {}
    }
    if tag == 0 && wire.text_len > 0 {
        wire.database = fx.database(&wire.text, wire.text_len);
    }
    wire.up.mode = Mode::Header as u8;
    wire.up.have = 0;
}
