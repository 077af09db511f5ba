//! Whether a conversation is Postgres at all, told by its content: a valid request one way, then a valid reply the other.
//! Ports mean nothing here.

use super::Source;

/// What the first bytes of a read or write look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// No Postgres request.
    Nothing,
    /// A start-up packet, or a request for encryption or cancellation: no type byte.
    Startup,
    /// A request in mid-conversation.
    Request,
    /// TLS without a word before it (PostgreSQL 17, `sslnegotiation=direct`).
    Tls,
}

impl Opening {
    /// Whether the first message bears a type byte.
    #[inline(always)]
    pub fn has_type_byte(self) -> bool {
        matches!(self, Self::Request)
    }
}

/// Longest start-up packet: `MAX_STARTUP_PACKET_LENGTH` in PostgreSQL's `pqcomm.h`.
pub(super) const STARTUP_MAX: u32 = 10_000;
/// Longest message that a conversation may open with; longer ones are rather another protocol's text.
pub(super) const OPENING_MAX: u32 = 1 << 26;
/// Longest message: PostgreSQL's own limit, `PQ_LARGE_MESSAGE_LIMIT` (1 GiB).
pub(super) const MESSAGE_MAX: u32 = 1 << 30;
/// A request that does not end within the first read or write must either have filled at least this much of it, or
const LONG_READ: u32 = 1024;
/// be shorter than this, so that its length has two zero bytes: no text has.
const SHORT_REQUEST: u32 = 1 << 16;

/// Protocol 3.x.
pub(super) const MAJOR_3: u32 = 3;
/// `CANCEL_REQUEST_CODE`
pub(super) const CANCEL: u32 = 80_877_102;
/// `NEGOTIATE_SSL_CODE`
pub(super) const SSL: u32 = 80_877_103;
/// `NEGOTIATE_GSS_CODE`
pub(super) const GSS: u32 = 80_877_104;

const TLS_HANDSHAKE: u8 = 22;
const TLS_MAJOR: u8 = 3;
const CLIENT_HELLO: u8 = 1;
/// `application_layer_protocol_negotiation`
const ALPN: u32 = 16;
const PROTOCOL: &[u8; 11] = b"\x0apostgresql";
/// Extensions that are looked at; clients send about a dozen.
const EXTENSIONS: u32 = 32;

/// What the bytes at the source's position look like.
#[inline(always)]
pub fn opening<S: Source>(source: &mut S) -> Opening {
    let have = source.left();
    if have < 5 {
        // Too little to judge: the header is checked when the rest of it comes.
        return match source.byte_at(0) {
            Some(0) => Opening::Startup,
            Some(b'Q' | b'P' | b'B') => Opening::Request,
            _ => Opening::Nothing,
        };
    }
    let Some([first, a, b, c, d]) = source.header() else { return Opening::Nothing };
    if first == 0 {
        let length = u32::from_be_bytes([first, a, b, c]);
        // The fifth byte is the first of the protocol code: 0 for 3.x, 4 for the special codes.
        let plausible = (8..=STARTUP_MAX).contains(&length) && length >= have && (d == 0 || d == 4);
        return if plausible { Opening::Startup } else { Opening::Nothing };
    }
    if first == TLS_HANDSHAKE && a == TLS_MAJOR {
        return if names_postgres(source) { Opening::Tls } else { Opening::Nothing };
    }
    if !matches!(first, b'Q' | b'P' | b'B') {
        return Opening::Nothing;
    }
    let length = u32::from_be_bytes([a, b, c, d]);
    let least = match first {
        b'Q' => 5,
        b'P' => 8,
        _ => 12,
    };
    if length < least || length > OPENING_MAX {
        return Opening::Nothing;
    }
    let end = length + 1;
    let plausible = if end == have {
        true
    } else if end > have {
        have >= LONG_READ || length < SHORT_REQUEST
    } else {
        source.byte_at(end).is_some_and(is_request_tag)
    };
    if plausible { Opening::Request } else { Opening::Nothing }
}

/// Whether a TLS ClientHello asks for Postgres, as it must where no SSLRequest comes before it (RFC 8446, section 4.1.2;
/// RFC 7301; PostgreSQL manual, "SSL Session Encryption").
#[inline(never)]
fn names_postgres<S: Source>(source: &mut S) -> bool {
    // It ends at the first difference: two ways on from each byte would be thousands to the verifier.
    find_protocol(source)
        .is_some_and(|at| PROTOCOL.iter().enumerate().all(|(nth, byte)| source.ahead(at + nth as u32) == Some(*byte)))
}

/// Where the first protocol of the ALPN extension stands, its length first.
#[inline(always)]
fn find_protocol<S: Source>(source: &mut S) -> Option<u32> {
    if source.ahead(5)? != CLIENT_HELLO {
        return None;
    }
    // Record header, handshake header, version and random; then session, ciphers, compressions, each with its length.
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + source.ahead(at)? as u32;
    at += 2 + number(source, at)?;
    at += 1 + source.ahead(at)? as u32;
    at += 2;
    for _ in 0..EXTENSIONS {
        if number(source, at)? == ALPN {
            return Some(at + 6);
        }
        at += 4 + number(source, at + 2)?;
    }
    None
}

/// The two bytes at an offset.
#[inline(always)]
fn number<S: Source>(source: &mut S, at: u32) -> Option<u32> {
    Some((source.ahead(at)? as u32) << 8 | source.ahead(at + 1)? as u32)
}

/// Whether a message from the frontend may bear this type byte.
#[inline(always)]
pub(super) fn is_request_tag(tag: u8) -> bool {
    matches!(tag, b'B' | b'C' | b'D' | b'E' | b'F' | b'H' | b'P' | b'Q' | b'S' | b'X' | b'c' | b'd' | b'f' | b'p')
}

/// Whether a message from the backend may bear this type byte and length.
#[inline(always)]
pub fn is_reply(tag: u8, length: u32) -> bool {
    if !(4..=MESSAGE_MAX).contains(&length) {
        return false;
    }
    match tag {
        b'1' | b'2' | b'3' | b'n' | b's' | b'I' | b'c' => length == 4,
        b'Z' => length == 5,
        b'R' => length >= 8,
        b'K' => length >= 12,
        b'A' | b'C' | b'D' | b'E' | b'G' | b'H' | b'N' | b'S' | b'T' | b'V' | b'W' | b'd' | b't' | b'v' => length > 4,
        _ => false,
    }
}
