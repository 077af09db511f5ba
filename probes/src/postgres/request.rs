//! Requests: what a client sends, and where its first byte begins a cycle.

use core::hint::black_box;

use super::{
    FNV_OFFSET, NAME_LEN, Phase, STATEMENT_UNKNOWN, TEXT_LEN, Wire, cycle,
    frame::{
        Frame, Mode, RUN, Source, frame, next_of_run, peek_of_run, skip, take_empty_name, take_of_run, take_terminator,
    },
    hash_name,
    message::{Effects, Step},
    opening::{self, is_request_tag},
    push_hash,
};
use crate::shape::{ALL_NAMES, Shape, Taken};

const DATABASE: u64 = hash_name(b"database");
const USER: u64 = hash_name(b"user");
/// Portals share the table of prepared statements under salted names.
const PORTAL_SALT: u64 = 0x5EED_0F0B_1E55_0A11;

const FIELD_DATABASE: u8 = 1;
const FIELD_USER: u8 = 2;

/// Stands for the number of a statement: none is to be executed.
const NONE: u32 = u32::MAX;

/// What a byte of a request's body led to.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Found {
    Nothing,
    /// It makes no sense.
    Broken,
    /// A name ended.
    Name,
    /// The statement's text begins behind it.
    TextBegins,
    /// A statement's text ended: with its semicolon, with the whole text, or because no more is looked at.
    Semicolon,
    TextEnds,
    Cut,
}

#[inline(always)]
pub(super) fn step<S: Source, E: Effects>(wire: &mut Wire, begun_ns: u64, source: &mut S, fx: &mut E) -> Step {
    // A start-up packet has no header; its first byte, or that of what asked for encryption before, is the first of all.
    if wire.up.mode == Mode::Header as u8 && wire.up.have == 0 || wire.up_mark_ns == 0 {
        wire.up_mark_ns = begun_ns;
    }
    let mut asked = NONE;
    let mut found = Found::Nothing;
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
                _ if tag == b'F' => asked = STATEMENT_UNKNOWN,
                _ => {}
            }
        }
        Frame::Byte(byte) => {
            found = byte_of_body(wire, byte);
            match found {
                Found::Broken => return Step::Broken,
                Found::Name => {
                    asked = end_name(wire, fx);
                    if wire.up.mode == Mode::Text as u8 {
                        fx.text_begins(source);
                    }
                }
                Found::TextBegins => fx.text_begins(source),
                _ => {}
            }
        }
    }
    if !matches!(found, Found::Semicolon | Found::TextEnds | Found::Cut) {
        run(wire, source);
        if wire.up.left == 0 && wire.up.mode == Mode::Text as u8 {
            found = Found::TextEnds;
        }
    }
    if matches!(found, Found::Semicolon | Found::TextEnds | Found::Cut) {
        asked = end_text(wire, fx, found);
        fx.text_begins(source);
    }
    if asked != NONE {
        cycle::execute(wire, fx, asked);
    }
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
            if wire.shape.is_careful() {
                return;
            }
            for _ in 0..black_box(RUN) {
                if wire.up.text_len >= TEXT_LEN {
                    return;
                }
                let Some(byte) = peek_of_run(&wire.up, source) else { break };
                if !wire.shape.push(byte) {
                    return;
                }
                take_of_run(&mut wire.up, source);
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
        // A simple query puts an end to both (manual, "Extended Query").
        wire.unnamed = STATEMENT_UNKNOWN;
        wire.portal = STATEMENT_UNKNOWN;
    }
}

/// A byte of a request's body that matters.
#[inline(always)]
fn byte_of_body(wire: &mut Wire, byte: u8) -> Found {
    match Mode::from_u8(wire.up.mode) {
        Some(Mode::Text) => {
            if byte == 0 {
                return Found::TextEnds;
            }
            if wire.up.text_len >= TEXT_LEN {
                return Found::Cut;
            }
            match wire.shape.take(byte) {
                Taken::Text => wire.up.text_len += 1,
                Taken::Blank => {
                    wire.up.text_len = 0;
                    return Found::TextBegins;
                }
                Taken::Semicolon => return Found::Semicolon,
            }
        }
        Some(Mode::Startup | Mode::StartupKey | Mode::StartupValue) => {
            return if byte_of_startup(wire, byte) { Found::Nothing } else { Found::Broken };
        }
        Some(Mode::CloseKind) => {
            wire.up.note = byte;
            wire.up.mode = Mode::CloseName as u8;
        }
        Some(_) if byte == 0 => return Found::Name,
        Some(_) => wire.up.name = push_hash(wire.up.name, byte),
        None => return Found::Broken,
    }
    Found::Nothing
}

/// A byte of a start-up packet. False if it makes no sense.
#[inline(never)]
fn byte_of_startup(wire: &mut Wire, byte: u8) -> bool {
    match Mode::from_u8(wire.up.mode) {
        Some(Mode::StartupKey) => {
            if byte != 0 {
                wire.up.name = push_hash(wire.up.name, byte);
                return true;
            }
            wire.up.note = match wire.up.name {
                DATABASE => FIELD_DATABASE,
                USER => FIELD_USER,
                FNV_OFFSET => {
                    wire.up.mode = Mode::Skip as u8;
                    return true;
                }
                _ => 0,
            };
            // Of several with one name the last one counts; an empty one is as good as none.
            match wire.up.note {
                FIELD_DATABASE => {
                    wire.text_len = 0;
                    wire.text = [0; NAME_LEN];
                }
                FIELD_USER => {
                    wire.user_len = 0;
                    wire.user_text = [0; NAME_LEN];
                }
                _ => {}
            }
            wire.up.mode = Mode::StartupValue as u8;
            true
        }
        Some(Mode::StartupValue) => {
            if byte == 0 {
                wire.up.name = FNV_OFFSET;
                wire.up.mode = Mode::StartupKey as u8;
                return true;
            }
            match wire.up.note {
                FIELD_DATABASE => push_name(&mut wire.text, &mut wire.text_len, byte),
                FIELD_USER => push_name(&mut wire.user_text, &mut wire.user_len, byte),
                _ => {}
            }
            true
        }
        _ => byte_startup(wire, byte),
    }
}

#[inline(always)]
fn push_name(name: &mut [u8; NAME_LEN], length: &mut u8, byte: u8) {
    if (*length as usize) < NAME_LEN - 1 {
        name[*length as usize % NAME_LEN] = byte;
        *length += 1;
    }
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

/// A name ended with its zero byte. Returns the statement that is to be executed, if one is.
#[inline(always)]
fn end_name<E: Effects>(wire: &mut Wire, fx: &mut E) -> u32 {
    let name = wire.up.name;
    let unnamed = name == FNV_OFFSET;
    wire.up.name = FNV_OFFSET;
    let mode = Mode::from_u8(wire.up.mode);
    wire.up.mode = Mode::Skip as u8;
    match mode {
        Some(Mode::ParseName) => {
            wire.parse_name = if unnamed { 0 } else { name };
            wire.shape = Shape::new();
            wire.up.mode = Mode::Text as u8;
        }
        Some(Mode::BindPortal) => {
            wire.parse_name = if unnamed { 0 } else { portal(wire, name) };
            wire.up.mode = Mode::BindStatement as u8;
        }
        Some(Mode::BindStatement) => {
            let statement = if unnamed { wire.unnamed } else { fx.prepared(name) };
            cycle::bind(wire, name, statement);
            if wire.parse_name == 0 {
                wire.portal = statement;
            } else {
                cycle::binds_portal(wire);
                fx.prepare(wire.parse_name, statement);
            }
        }
        Some(Mode::ExecutePortal) => return if unnamed { wire.portal } else { fx.prepared(portal(wire, name)) },
        Some(Mode::CloseName) => match (wire.up.note, unnamed) {
            (b'S', true) => wire.unnamed = STATEMENT_UNKNOWN,
            (b'S', false) => fx.forget(name),
            (_, true) => wire.portal = STATEMENT_UNKNOWN,
            (_, false) => fx.forget(portal(wire, name)),
        },
        _ => {}
    }
    NONE
}

/// The name under which a portal is remembered.
#[inline(always)]
fn portal(wire: &Wire, name: u64) -> u64 {
    name ^ PORTAL_SALT.wrapping_add(wire.portals as u64)
}

/// A statement's text ended, or as much of it as is looked at. Returns the statement if it is to be executed.
#[inline(always)]
fn end_text<E: Effects>(wire: &mut Wire, fx: &mut E, found: Found) -> u32 {
    let simple = wire.up.tag == b'Q';
    // A Parse message has one statement; the server refuses what more there is.
    if !simple || found != Found::Semicolon {
        wire.up.mode = Mode::Skip as u8;
    }
    // White space behind the last semicolon. All of the text must be nothing for the server to answer nothing.
    if simple && wire.shape.is_blank() && cycle::asks(wire) {
        return NONE;
    }
    if wire.shape.is_careful() {
        free_name(wire, fx);
    }
    let statement = fx.statement(wire.shape.finish(), wire.up.text_len, found == Found::Cut);
    if simple {
        wire.shape = Shape::new();
        wire.up.text_len = 0;
        let full = cycle::is_full(wire);
        if (full || found == Found::Cut) && wire.up.left > 1 {
            wire.up.mode = Mode::Skip as u8;
            cycle::leave_rest(wire, fx, full);
        }
        return statement;
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
    NONE
}

/// What DEALLOCATE names is free when the server gets to it, and so for all requests that follow.
#[inline(never)]
fn free_name<E: Effects>(wire: &mut Wire, fx: &mut E) {
    if let Some(name) = wire.shape.freed() {
        wire.freed = wire.freed.saturating_add(1);
        if name == ALL_NAMES { fx.forget_all() } else { fx.forget(name) }
    }
}

/// The last byte of a request was seen.
#[inline(always)]
fn end<E: Effects>(wire: &mut Wire, fx: &mut E) {
    match wire.up.tag {
        b'Q' | b'F' => cycle::close(wire, fx, true),
        b'S' => cycle::close(wire, fx, false),
        b'X' => fx.closing(wire),
        b'c' | b'f' => cycle::copied(wire),
        0 if wire.phase == Phase::Candidate as u8 => cycle::greet(wire, fx),
        _ => {}
    }
    wire.up.mode = Mode::Header as u8;
    wire.up.have = 0;
}
