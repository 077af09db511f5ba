//! Taking messages from a stream: headers, bytes that matter, and runs to pass over. All state stands in [`Stream`], so that a
//! stream may be cut anywhere.

use super::Stream;
use crate::cell::kinds;

/// The bytes of one read or write, from a position on.
pub trait Source {
    /// Bytes from the position to the end.
    fn left(&self) -> u32;
    /// The next five bytes, if they can be had at once; the position stays.
    fn header(&mut self) -> Option<[u8; 5]>;
    /// The byte that lies `offset` behind the position, which stays; `None` if it cannot be read.
    fn byte_at(&mut self, offset: u32) -> Option<u8>;
    /// As `byte_at`, for a search: whatever the offset is, it takes the same way, which the verifier then follows once.
    fn ahead(&mut self, offset: u32) -> Option<u8>;
    /// Type and length of the next message, if all of it can be looked at through `window`; the position stays.
    fn whole(&mut self) -> Option<(u8, u32)>;
    /// A byte of such a message.
    fn window(&self, offset: u32) -> u8;
    /// Where the next byte lies, for [`Effects::text_begins`].
    fn address(&self) -> u64;
    /// Moves the position by at most `left()`.
    fn advance(&mut self, count: u32);
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

/// Bytes of a name, a text or a tag that one step takes at most.
pub(super) const RUN: usize = 16;

/// What framing found.
pub(super) enum Frame {
    Nothing,
    Begin,
    Byte(u8),
    Unreadable,
}

/// Takes the next piece of the stream: a header, a byte that matters, or a run to skip.
#[inline(always)]
pub(super) fn frame<S: Source>(stream: &mut Stream, source: &mut S) -> Frame {
    if stream.mode == Mode::Skip as u8 {
        skip(stream, source);
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

/// Passes over the rest of the message, or as much of it as is there.
#[inline(always)]
pub(super) fn skip<S: Source>(stream: &mut Stream, source: &mut S) {
    let have = source.left();
    let count = if stream.left < have { stream.left } else { have };
    source.advance(count);
    stream.left -= count;
}

/// The next byte of a name, a text or a tag if it is there and neither ends it nor the message. Runs of them are taken in one
/// step; what comes after goes the long way, byte by byte.
#[inline(always)]
pub(super) fn next_of_run<S: Source>(stream: &mut Stream, source: &mut S) -> Option<u8> {
    let byte = peek_of_run(stream, source)?;
    take_of_run(stream, source);
    Some(byte)
}

/// As [`next_of_run`], but leaves the byte there.
#[inline(always)]
pub(super) fn peek_of_run<S: Source>(stream: &Stream, source: &mut S) -> Option<u8> {
    if stream.left <= 1 {
        return None;
    }
    source.byte_at(0).filter(|byte| *byte != 0)
}

/// Takes the byte that [`peek_of_run`] saw.
#[inline(always)]
pub(super) fn take_of_run<S: Source>(stream: &mut Stream, source: &mut S) {
    source.advance(1);
    stream.left -= 1;
}

/// Takes the zero byte that ends both a text or tag and its message, if it comes next.
#[inline(always)]
pub(super) fn take_terminator<S: Source>(stream: &mut Stream, source: &mut S) {
    if stream.left == 1 && source.byte_at(0) == Some(0) {
        source.advance(1);
        stream.left = 0;
    }
}

/// Takes an empty name, if it comes next.
#[inline(always)]
pub(super) fn take_empty_name<S: Source>(stream: &mut Stream, source: &mut S) -> bool {
    if stream.left == 0 || source.byte_at(0) != Some(0) {
        return false;
    }
    source.advance(1);
    stream.left -= 1;
    true
}
