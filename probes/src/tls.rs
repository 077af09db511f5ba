//! TLS behind which Postgres may be spoken: what is kept of a call of OpenSSL, and how a socket's bytes are known for a
//! record. Knows neither where such calls are hooked nor what the plaintext says.

use crate::{cell::kinds, record::record};

kinds! {
    /// What a call of OpenSSL does.
    pub enum TlsCallKind {
        /// `SSL_read`, `SSL_read_ex`: gives plaintext to the process.
        Read = 0,
        /// `SSL_write`, `SSL_write_ex`: takes plaintext from it.
        Write = 1,
        /// `SSL_do_handshake`: no plaintext, but the socket is seen.
        Handshake = 2,
    }
}

/// Where a call leaves the number of bytes that it moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountPlace {
    /// It returns the number.
    Returned,
    /// Its argument of this index (3 or 4) is a pointer to the number; it returns whether all went well.
    Argument(u8),
}

/// What an attachment tells its program, packed into the cookie: the kind, and where the count is.
pub const fn cookie(kind: TlsCallKind, count: CountPlace) -> u64 {
    let place = match count {
        CountPlace::Returned => 0,
        CountPlace::Argument(index) => index as u64,
    };
    kind as u64 | place << 8
}

/// The number of the [`TlsCallKind`] in a cookie.
#[inline(always)]
pub const fn kind_of(cookie: u64) -> u8 {
    cookie as u8
}

/// The index of the pointer argument in a cookie; 0 if the count is returned.
#[inline(always)]
pub const fn count_argument(cookie: u64) -> u8 {
    (cookie >> 8) as u8
}

record! {
    /// What the kernel programs keep of a thread's call of OpenSSL, in task storage.
    pub struct TlsCall {
        /// The caller's buffer.
        pub buffer: u64,
        /// Where the count will be; 0 if it is returned.
        pub count_address: u64,
        /// The stack pointer at entry, which tells this call from one within it.
        pub stack: u64,
        /// Where it returns to: stands there on the stack while the call lasts.
        pub return_address: u64,
        /// The `SSL` that was last given bytes to write and has not sent all of them; 0 if none.
        pub unsent: u64,
        /// Bytes that it was given.
        pub length: u32,
        /// Those of them that are in no record yet.
        pub left: u32,
        /// When it began, by the monotonic clock.
        pub entered_ns: u64,
        /// The `SSL` that the thread used last and whose socket is known.
        pub ssl: u64,
        /// That socket's `struct sock`.
        pub sock: u64,
        /// The number of its inode.
        pub inode: u64,
        /// A [`TlsCallKind`].
        pub kind: u32,
        /// 1: bytes went through a socket during the call.
        pub moved: u32,
    }
}

record! {
    /// Names an `SSL` of OpenSSL.
    #[derive(PartialEq, Eq, Hash)]
    pub struct SslKey {
        /// Its address.
        pub ssl: u64,
        /// The process.
        pub tgid: u64,
    }
}

record! {
    /// The socket that an `SSL` sends its records through.
    pub struct SslSocket {
        /// Its `struct sock`.
        pub sock: u64,
        /// The number of its inode.
        pub inode: u64,
    }
}

record! {
    /// Names a file that holds code.
    #[derive(PartialEq, Eq, Hash)]
    pub struct CodeFile {
        /// Number of its inode.
        pub inode: u64,
        /// Its file system's device as the kernel writes it: [`device`].
        pub device: u64,
    }
}

/// A device number as in the kernel's `s_dev`: `MKDEV` in `include/linux/kdev_t.h`.
pub const fn device(major: u32, minor: u32) -> u64 {
    (major << 20 | minor) as u64
}

/// What stands in place of a time for a [`CodeFile`] that was looked at.
pub const LOOKED_AT: u64 = u64::MAX;

kinds! {
    /// Why nothing is seen of a Postgres connection that is encrypted.
    pub enum Unseen {
        /// Nobody is known to have encrypted it through OpenSSL: rustls, Go, Java, or OpenSSL without symbols.
        NoOpenssl = 0,
        /// OpenSSL works on memory there, and the process sends its records itself.
        MemoryBio = 1,
        /// GSSAPI.
        Gss = 2,
        /// Looking behind TLS is switched off.
        Disabled = 3,
        /// It was encrypted before anybody looked, and not through OpenSSL. That it is Postgres is told by its port alone.
        Older = 4,
    }
}

/// Longest plaintext of a record (RFC 8446, 5.1).
const PLAINTEXT_MAX: u32 = 1 << 14;
/// What encryption adds to a record at least: a tag (RFC 7905, 2) …
const ADDED_MIN: u32 = 16;
/// … and at most: an initial vector, a hash and padding (RFC 5246, 6.2.3.2).
const ADDED_MAX: u32 = 16 + 48 + 256;
/// What stands in a record of application data.
const APPLICATION_DATA: u8 = 23;

/// How much plaintext a record holds, given that `left` bytes are to be sent: known only because a record takes all or as
/// much as it may. `None` for a record of another kind, such as an alert.
#[inline(always)]
pub fn plaintext_of(header: [u8; 5], left: u32) -> Option<u32> {
    let [kind, _, _, high, low] = header;
    let length = u16::from_be_bytes([high, low]) as u32;
    let whole = if left > PLAINTEXT_MAX { PLAINTEXT_MAX } else { left };
    let fits = length >= whole + ADDED_MIN && length <= whole + ADDED_MAX;
    if kind == APPLICATION_DATA && whole > 0 && fits { Some(whole) } else { None }
}

/// The port that is registered for Postgres (IANA, `postgresql`).
pub const POSTGRES_PORT: u16 = 5432;

/// Whether bytes on a socket begin a record of data, which come after the handshake.
#[inline(always)]
pub fn is_data(header: [u8; 5]) -> bool {
    header[0] == APPLICATION_DATA && is_record(header)
}

/// Longest body of a record: `2^14 + 2048` (RFC 5246, 6.2.3).
const RECORD_MAX: u16 = (1 << 14) + 2048;

/// Whether bytes on a socket begin a record of TLS 1.0 to 1.3 (RFC 8446, 5.1): type, version, length.
#[inline(always)]
pub fn is_record(header: [u8; 5]) -> bool {
    let [kind, major, minor, high, low] = header;
    let length = u16::from_be_bytes([high, low]);
    (20..=23).contains(&kind) && major == 3 && minor <= 4 && length > 0 && length <= RECORD_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_gives_back_what_was_packed() {
        for kind in TlsCallKind::ALL {
            for (place, index) in
                [(CountPlace::Returned, 0), (CountPlace::Argument(3), 3), (CountPlace::Argument(4), 4)]
            {
                let cookie = cookie(*kind, place);
                assert_eq!((kind_of(cookie), count_argument(cookie)), (*kind as u8, index));
            }
        }
    }

    #[test]
    fn a_record_holds_all_that_is_left_or_as_much_as_it_may() {
        let record = |kind, length: u16| [kind, 3, 3, length.to_be_bytes()[0], length.to_be_bytes()[1]];
        // TLS 1.3 with AES-GCM adds 17 bytes, TLS 1.2 with it 24.
        assert_eq!(plaintext_of(record(23, 100 + 17), 100), Some(100));
        assert_eq!(plaintext_of(record(23, 100 + 24), 100), Some(100));
        assert_eq!(plaintext_of(record(23, 16384 + 17), 16384), Some(16384));
        assert_eq!(plaintext_of(record(23, 16384 + 17), 16385), Some(16384));
        assert_eq!(plaintext_of(record(23, 16384 + 17), 100_000), Some(16384));
        // An alert, behind TLS 1.3 too; a shorter fragment than is usual; nothing left.
        assert_eq!(plaintext_of(record(21, 100 + 17), 100), None);
        assert_eq!(plaintext_of(record(23, 2 + 17), 100), None);
        assert_eq!(plaintext_of(record(23, 4096 + 17), 100_000), None);
        assert_eq!(plaintext_of(record(23, 17), 0), None);
    }

    #[test]
    fn records_are_told_from_what_else_goes_through_sockets() {
        for record in [[22, 3, 1, 2, 0], [23, 3, 3, 0, 19], [21, 3, 3, 0, 2], [20, 3, 3, 0, 1], [23, 3, 3, 0x48, 0]] {
            assert!(is_record(record), "{record:?}");
        }
        for other in [
            *b"GET /",
            *b"HTTP/",
            [0, 0, 0, 8, 4],
            *b"Q\0\0\0\x0d",
            [23, 3, 3, 0, 0],
            [23, 3, 3, 0x48, 1],
            [23, 3, 5, 0, 9],
        ] {
            assert!(!is_record(other), "{other:?}");
        }
        assert!(is_data([23, 3, 3, 0, 19]) && !is_data([22, 3, 1, 2, 0]) && !is_data([23, 2, 3, 0, 19]));
    }
}
