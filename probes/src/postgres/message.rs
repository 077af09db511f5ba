//! One message after the other: headers, the few bytes of a body that matter, and skipping the rest. All state stands in
//! [`Wire`], so that a stream may be cut anywhere.

use super::{
    Cycle, FNV_OFFSET, NAME_LEN, Phase, STATEMENT_UNKNOWN, Stream, TEXT_LEN, Wire, cycle, hash_name,
    opening::{self, is_reply, is_request_tag},
    push_hash, push_sqlstate,
};
use crate::{
    cell::{Loss, TransactionOutcome, kinds},
    shape::Shape,
};

/// The bytes of one read or write, from a position on.
pub trait Source {
    /// Bytes from the position to the end.
    fn left(&self) -> u32;
    /// The next five bytes, if they can be had at once; the position stays.
    fn header(&mut self) -> Option<[u8; 5]>;
    /// The byte that lies `offset` behind the position, which stays; `None` if it cannot be read.
    fn byte_at(&mut self, offset: u32) -> Option<u8>;
    /// Where the next byte lies, for [`Effects::text_begins`].
    fn address(&self) -> u64;
    /// Moves the position by at most `left()`.
    fn advance(&mut self, count: u32);
}

/// What a conversation leads to: all that needs more than the conversation's own state.
pub trait Effects {
    /// The source's next byte is the first of a statement's text.
    fn text_begins<S: Source>(&mut self, source: &S);
    /// A statement's text ended; `shape` is its hash, `length` the bytes hashed. Returns its number.
    fn statement(&mut self, shape: u64, length: u32, cut: bool) -> u32;
    /// A cycle held different statements, with this hash. Returns a number for the whole.
    fn batch(&mut self, hash: u64) -> u32;
    /// The statement that was prepared under this name on this connection.
    fn prepared(&mut self, name: u64) -> u32;
    /// A statement is prepared (or bound to a portal) under this name.
    fn prepare(&mut self, name: u64, statement: u32);
    /// The name is free again.
    fn forget(&mut self, name: u64);
    /// A number for the database with this name.
    fn database(&mut self, name: &[u8; NAME_LEN], length: u8) -> u32;
    /// A cycle ended.
    fn query(&mut self, wire: &Wire, statement: u32, duration_ns: u64, first_byte_ns: u64);
    /// A statement ended well.
    fn statement_done(&mut self, wire: &Wire, statement: u32, rows: u32);
    /// The server reported an error.
    fn error(&mut self, wire: &Wire, sqlstate: u32);
    /// A transaction ended.
    fn transaction(&mut self, wire: &Wire, outcome: TransactionOutcome, duration_ns: u64);
    /// Something was not counted.
    fn lost(&mut self, loss: Loss);
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call again.
    More,
    /// The source is used up, or nothing more can be read from it.
    Done,
    /// This is no valid message.
    Broken,
}

kinds! {
    /// What a stream is in the middle of.
    pub enum Mode {
        /// Between messages, or within a header.
        Header = 0,
        /// In a body of which nothing more matters.
        Skip = 1,
        /// In the length and code of a start-up packet.
        Startup = 2,
        /// In the name of a start-up parameter.
        StartupKey = 3,
        /// In the value of a start-up parameter.
        StartupValue = 4,
        /// In the statement's name of Parse.
        ParseName = 5,
        /// In the text of Parse or Query.
        Text = 6,
        /// In the portal's name of Bind.
        BindPortal = 7,
        /// In the statement's name of Bind.
        BindStatement = 8,
        /// In the portal's name of Execute.
        ExecutePortal = 9,
        /// At the kind of Close.
        CloseKind = 10,
        /// In the name of Close.
        CloseName = 11,
        /// In the tag of CommandComplete.
        CommandTag = 12,
        /// At the status of ReadyForQuery.
        Status = 13,
        /// At the type of a field of ErrorResponse.
        ErrorField = 14,
        /// In a field of ErrorResponse that does not matter.
        ErrorSkip = 15,
        /// In the SQLSTATE of ErrorResponse.
        ErrorCode = 16,
    }
}

const DATABASE: u64 = hash_name(b"database");
const USER: u64 = hash_name(b"user");
/// Portals share the table of prepared statements under salted names.
const PORTAL_SALT: u64 = 0x5EED_0F0B_1E55_0A11;

const FIELD_DATABASE: u8 = 1;
const FIELD_USER: u8 = 2;

/// What framing found.
enum Frame {
    Nothing,
    Begin,
    Byte(u8),
    Unreadable,
}

/// Takes the next piece of the stream: a header, a byte that matters, or a run to skip.
#[inline(always)]
fn frame<S: Source>(stream: &mut Stream, source: &mut S) -> Frame {
    if stream.mode == Mode::Skip as u8 {
        let have = source.left();
        let count = if stream.left < have { stream.left } else { have };
        source.advance(count);
        stream.left -= count;
        return Frame::Nothing;
    }
    if stream.mode == Mode::Header as u8
        && stream.have == 0
        && let Some([tag, a, b, c, d]) = source.header()
    {
        source.advance(5);
        stream.tag = tag;
        stream.number = u32::from_be_bytes([a, b, c, d]);
        return Frame::Begin;
    }
    let Some(byte) = source.byte_at(0) else { return Frame::Unreadable };
    source.advance(1);
    if stream.mode != Mode::Header as u8 {
        stream.left = stream.left.saturating_sub(1);
        return Frame::Byte(byte);
    }
    if stream.have == 0 {
        stream.tag = byte;
        stream.number = 0;
    } else {
        stream.number = stream.number << 8 | byte as u32;
    }
    stream.have += 1;
    if stream.have < 5 {
        return Frame::Nothing;
    }
    Frame::Begin
}

/// Walks one step of one direction: `up` is towards the server. `begun_ns` is when the bytes began to move, `ended_ns`
/// when the process had them (reads) or had given them (writes).
#[inline(always)]
pub fn step<S: Source, E: Effects>(
    wire: &mut Wire,
    up: bool,
    begun_ns: u64,
    ended_ns: u64,
    source: &mut S,
    fx: &mut E,
) -> Step {
    if source.left() == 0 {
        return Step::Done;
    }
    if up { step_up(wire, begun_ns, source, fx) } else { step_down(wire, begun_ns, ended_ns, source, fx) }
}

#[inline(always)]
fn step_up<S: Source, E: Effects>(wire: &mut Wire, begun_ns: u64, source: &mut S, fx: &mut E) -> Step {
    if wire.up.mode == Mode::Header as u8 && wire.up.have == 0 {
        wire.up_mark_ns = begun_ns;
    }
    match frame(&mut wire.up, source) {
        Frame::Unreadable => return Step::Done,
        Frame::Nothing => {}
        Frame::Begin => {
            let (tag, length) = (wire.up.tag, wire.up.number);
            let bare = matches!(tag, b'S' | b'H' | b'X' | b'c');
            if !is_request_tag(tag) || !(4..=opening::MESSAGE_MAX).contains(&length) || (bare && length != 4) {
                return Step::Broken;
            }
            wire.up.left = length - 4;
            begin_up(wire, fx);
            if wire.up.mode == Mode::Text as u8 {
                fx.text_begins(source);
            }
        }
        Frame::Byte(byte) => {
            let before = wire.up.mode;
            if !byte_up(wire, byte, fx) {
                return Step::Broken;
            }
            if wire.up.mode == Mode::Text as u8 && before != Mode::Text as u8 {
                fx.text_begins(source);
            }
        }
    }
    if wire.up.left == 0 && wire.up.mode != Mode::Header as u8 {
        end_up(wire, fx);
    }
    Step::More
}

/// The header of a request is complete.
#[inline(always)]
fn begin_up<E: Effects>(wire: &mut Wire, fx: &mut E) {
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
fn byte_up<E: Effects>(wire: &mut Wire, byte: u8, fx: &mut E) -> bool {
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
                USER if wire.up.have == 0 => FIELD_USER,
                FNV_OFFSET => {
                    wire.up.mode = Mode::Skip as u8;
                    return true;
                }
                _ => 0,
            };
            if wire.up.note != 0 {
                wire.text_len = 0;
                wire.text = [0; NAME_LEN];
            }
            wire.up.mode = Mode::StartupValue as u8;
        }
        Some(Mode::StartupValue) => {
            if byte == 0 {
                if wire.up.note == FIELD_DATABASE {
                    wire.up.have = 1;
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
    let watched = cycle::parse(wire, name);
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
fn end_up<E: Effects>(wire: &mut Wire, fx: &mut E) {
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
        b'c' | b'f' => cycle::copied(wire),
        _ => {}
    }
    if tag == 0 && wire.text_len > 0 {
        wire.database = fx.database(&wire.text, wire.text_len);
    }
    wire.up.mode = Mode::Header as u8;
    wire.up.have = 0;
}

#[inline(always)]
fn step_down<S: Source, E: Effects>(wire: &mut Wire, begun_ns: u64, ended_ns: u64, source: &mut S, fx: &mut E) -> Step {
    if wire.phase == Phase::AskedEncryption as u8 {
        return answer_encryption(wire, source);
    }
    let between = wire.down.mode == Mode::Header as u8 && wire.down.have == 0;
    let frame = frame(&mut wire.down, source);
    // What the server sends on its own account is no reply.
    if between && !matches!(wire.down.tag, b'A' | b'N' | b'S') && !matches!(frame, Frame::Unreadable) {
        cycle::first_byte(wire, begun_ns);
    }
    match frame {
        Frame::Unreadable => return Step::Done,
        Frame::Nothing => {}
        Frame::Begin => {
            let (tag, length) = (wire.down.tag, wire.down.number);
            if !is_reply(tag, length) {
                return Step::Broken;
            }
            wire.phase = Phase::Confirmed as u8;
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
        }
        Frame::Byte(byte) => byte_down(wire, byte),
    }
    if wire.down.left == 0 && wire.down.mode != Mode::Header as u8 {
        end_down(wire, fx, ended_ns);
    }
    Step::More
}

/// The answer to SSLRequest or GSSENCRequest is one byte without a header.
#[inline(always)]
fn answer_encryption<S: Source>(wire: &mut Wire, source: &mut S) -> Step {
    let Some(byte) = source.byte_at(0) else { return Step::Done };
    match byte {
        b'S' | b'G' => {
            wire.phase = Phase::Opaque as u8;
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

/// A byte of a reply's body that matters.
#[inline(always)]
fn byte_down(wire: &mut Wire, byte: u8) {
    let stream = &mut wire.down;
    match Mode::from_u8(stream.mode) {
        Some(Mode::CommandTag) => {
            if byte == 0 {
                stream.mode = Mode::Skip as u8;
                return;
            }
            stream.name = push_hash(stream.name, byte);
            stream.number = match byte {
                b'0'..=b'9' => stream.number.saturating_mul(10).saturating_add((byte - b'0') as u32),
                _ => 0,
            };
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
fn end_down<E: Effects>(wire: &mut Wire, fx: &mut E, ended_ns: u64) {
    let (tag, number, name, note) = (wire.down.tag, wire.down.number, wire.down.name, wire.down.note);
    wire.down.mode = Mode::Header as u8;
    wire.down.have = 0;
    match tag {
        b'1' => cycle::parsed(wire),
        b'C' => cycle::completed(wire, fx, name, number),
        b'I' | b's' => cycle::passed(wire),
        b'E' => cycle::failed(wire, fx, number),
        b'Z' => cycle::ready(wire, fx, note, ended_ns),
        _ => {}
    }
}

const _: () = assert!(size_of::<Cycle>() == 32);
