//! The Postgres wire protocol as the kernel programs follow it: what is kept per connection, and how each message
//! changes it. Message formats: PostgreSQL manual, "Frontend/Backend Protocol".
//!
//! Nothing here copies a payload but for the names of database and user; statement text is only hashed. What has to be looked up or stored goes through
//! [`Effects`], so that the same code runs in the kernel and in tests.

mod cycle;
mod deep;
mod frame;
mod message;
mod opening;
mod over;
mod repeat;
mod reply;
mod request;
mod transaction;
mod whole;

pub use frame::{Mode, Source};
pub use message::{Effects, Step, step};
pub use opening::{Opening, is_reply, opening};
pub use over::{CONNECTION_FAILURE, LAST_WORDS, last_words};
pub use repeat::{Burst, REPEATS, Repeat, Turn};
pub use whole::whole;

use crate::{
    record::{clear, record},
    shape::Shape,
};

/// The statement is not known: its text was never seen.
pub const STATEMENT_UNKNOWN: u32 = 0;
/// There was no room to tell the statement apart.
pub const STATEMENT_OTHER: u32 = 1;
/// The first number of a statement that is told apart.
pub const STATEMENT_FIRST: u32 = 2;

/// Bytes of a statement's text that are hashed and copied; a longer one is known by its beginning.
pub const TEXT_LEN: u32 = 4096;
/// Longest name of a database, with room for the closing zero: `NAMEDATALEN` in PostgreSQL.
pub const NAME_LEN: usize = 64;
/// Cycles that may be under way on one connection (several Sync messages sent before the first answer) and are kept with
/// it; the first ones and the newest one.
pub const CYCLES: usize = 8;
/// Cycles of one connection that may be put off between those: postgres.js sends up to a hundred before it waits,
/// tokio-postgres as many as its caller asks for.
pub const PUT_OFF: u32 = 1024;
/// Of these in one write or read: 8 KiB, which drivers write at a time, hold 200 of the shortest requests with a name each.
pub const PUT_OFF_AT_ONCE: u64 = 256;
/// Statements that may be under way on one connection.
pub const STATEMENTS: usize = 32;
/// Parse messages that may wait for their answer on one connection.
pub const PARSES: usize = 8;
/// Messages and runs of text walked in one read or write; the rest is given up, so that no process waits for us long: at 134 ns
/// for a step of a `Query` of a letter, the dearest, 0.83 ms (`cargo xtask bench walk`, AMD EPYC). Enough for 64 KiB, which
/// Node.js reads at a time, of rows of a letter; PostgreSQL sends 8 KiB at a time.
pub const STEPS: u32 = 6_144;

record! {
    /// One direction of a connection: where in the stream of messages it stands.
    pub struct Stream {
        /// Bytes of the current message's body that are still to come.
        pub left: u32,
        /// Number under construction: the length, a row count, a code.
        pub number: u32,
        /// Hash of the name under construction.
        pub name: u64,
        /// A [`frame::Mode`].
        pub mode: u8,
        /// Type byte of the current message.
        pub tag: u8,
        /// Header bytes seen.
        pub have: u8,
        /// What the mode needs to remember.
        pub note: u8,
        /// Bytes of text seen in the current statement.
        pub text_len: u32,
    }
}

record! {
    /// One request under way: from its first byte to ReadyForQuery.
    pub struct Cycle {
        /// When its first byte went out (client) or came in (server).
        pub begun_ns: u64,
        /// When the first byte of the reply came; 0 until then.
        pub first_byte_ns: u64,
        /// Hash of all its statements if they differ from each other; 0 while they are all the same.
        pub mixed: u64,
        /// Its first statement.
        pub statement: u32,
        /// Statements asked for, as far as a byte can count.
        pub executions: u8,
        /// How many of them stand in the queue.
        pub entries: u8,
        /// Its Parse messages that are not answered yet.
        pub parses: u8,
        /// What found no room, as bits.
        pub loose: u8,
    }
}

record! {
    /// A Postgres conversation. What each message touches stands first.
    pub struct Wire {
        /// Requests.
        pub up: Stream,
        /// Replies.
        pub down: Stream,
        /// When the first byte of the current request message was seen.
        pub up_mark_ns: u64,
        /// When the transaction under way began; 0 if none.
        pub transaction_ns: u64,
        /// When the last cycle ended.
        pub idle_ns: u64,
        /// Name of the statement that a Parse message names; 0 is the unnamed one.
        pub parse_name: u64,
        /// Name of the statement that the newest Bind named and that was not known; 0 if none.
        pub bound: u64,
        /// Cycles under way that found no room in `cycles`; they are the newest.
        pub cycles_untracked: u32,
        /// Number of the database's name, 0 while unknown.
        pub database: u32,
        /// Statement behind the unnamed prepared statement.
        pub unnamed: u32,
        /// Statement behind the unnamed portal.
        pub portal: u32,
        /// The statement last asked for.
        pub last: u32,
        /// A [`Phase`].
        pub phase: u8,
        /// A [`crate::cell::Role`].
        pub role: u8,
        /// Transaction state of the last ReadyForQuery: `I`, `T` or `E`; 0 while unknown.
        pub transaction: u8,
        /// Which of BEGIN, COMMIT and ROLLBACK were completed in the current cycle, as bits.
        pub command: u8,
        /// Whether the newest request is still being sent, and what closed it.
        pub open: u8,
        /// Index of the oldest cycle.
        pub cycle_first: u8,
        /// Number of cycles in the ring.
        pub cycle_count: u8,
        /// Index of the oldest statement.
        pub queue_first: u8,
        /// Number of statements in the ring.
        pub queue_count: u8,
        /// Index of the oldest Parse.
        pub parse_first: u8,
        /// Number of Parse messages in the ring.
        pub parse_count: u8,
        /// 1 after a ReadyForQuery that answers no request seen so far.
        pub early: u8,
        /// 1 if the current cycle saw an error.
        pub failed: u8,
        /// Bytes of `text` that are filled.
        pub text_len: u8,
        /// 1 from the end of the start-up packet on, until the server is ready: names bear no new number before.
        pub greeting: u8,
        /// 1 if a savepoint was set since the last BEGIN: then ROLLBACK need not be the transaction's end.
        pub savepoint: u8,
        /// Part of the names of portals, so that all of them can be forgotten.
        pub portals: u8,
        /// DEALLOCATE statements under way whose name was read.
        pub freed: u8,
        /// Bind messages in the newest request.
        pub binds: u8,
        /// Bytes of `user_text` that are filled.
        pub user_len: u8,
        /// Hash of the statement text under way in `up`.
        pub shape: Shape,
        /// Cycles under way; a ring that starts at `cycle_first`.
        pub cycles: [Cycle; CYCLES],
        /// Names of the statements that Parse messages under way prepare, 0 for the unnamed one; a ring that starts at
        /// `parse_first`.
        pub parses: [u64; PARSES],
        /// The statements that they prepare.
        pub parsed: [u32; PARSES],
        /// Statements under way by their numbers; a ring that starts at `queue_first`.
        pub queue: [u32; STATEMENTS],
        /// The database's name, zero-filled, while the start-up message is read.
        pub text: [u8; NAME_LEN],
        /// The user's name likewise.
        pub user_text: [u8; NAME_LEN],
        /// Number of the user's name, 0 while unknown.
        pub user: u32,
        /// Cycles that are put off; they stand before the newest of the ring and behind all others.
        pub put_off: u32,
        /// Number of the oldest of them.
        pub put_off_first: u32,
        /// The statement that was refused while cycles were put off, and may be theirs; `u32::MAX` if there were several.
        pub doubted: u32,
    }
}

record! {
    /// Where a cycle that is put off is kept.
    pub struct PutOffKey {
        /// Tells the connection from all others.
        pub connection: u64,
        /// Its cycles that are put off are numbered.
        pub number: u32,
        /// Spare.
        pub _pad: u32,
    }
}

record! {
    /// Where a Postgres server's processes note what they are running: all of a cluster at the same addresses, because they
    /// are forked from one.
    pub struct Backends {
        /// Address of the pointer to a process' own entry: the variable `MyBEEntry`; 0 if unknown.
        pub entry_address: u64,
        /// Address of the pointer to what it waits for: the variable `my_wait_event_info`; 0 if unknown.
        pub event_address: u64,
        /// Address of the pointer to what a background worker is: the variable `MyBgworkerEntry`; 0 if unknown.
        pub worker_address: u64,
        /// Offset in the entry of the pointer to the statement's text.
        pub text_offset: u32,
        /// Bytes that there is room for, with the closing zero: `track_activity_query_size`. A longer text is cut.
        pub text_len: u32,
    }
}

record! {
    /// What the kernel keeps for a Postgres conversation. What each cycle touches stands first.
    pub struct WireEntry {
        /// What tells its prepared statements from all others'; anew when all of them were forgotten.
        pub names: u64,
        /// Service whose cells the slots below are.
        pub service: u32,
        /// Statement whose cells they are.
        pub statement: u32,
        /// Histogram slot of that statement's cycles.
        pub query_slot: u32,
        /// Histogram slot of its first bytes.
        pub first_byte_slot: u32,
        /// Histogram slot of commits.
        pub commit_slot: u32,
        /// The statement that was last looked up by name.
        pub prepared: u32,
        /// Its name; 0 if none.
        pub prepared_name: u64,
        /// Rows of the statements that ended well in the oldest cycle so far.
        pub rows: u32,
        /// Histogram slot of waiting in transactions.
        pub wait_slot: u32,
        /// Statements that come again and again.
        pub burst: Burst,
        /// The conversation.
        pub wire: Wire,
        /// Tells this connection from all others, also from one whose socket lies at the same address.
        pub connection: u64,
        /// Address of its `struct sock`.
        pub sock: u64,
        /// The last error.
        pub sqlstate: u32,
        /// How far its process had read in TCP's own count of bytes, after the last read that was walked; 0 if not known.
        pub copied: u32,
    }
}

/// How far a conversation is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// A request was seen; a reply must confirm that this is Postgres.
    Candidate = 1,
    /// Both directions were valid.
    Confirmed = 2,
    /// SSLRequest or GSSENCRequest was sent and not answered yet.
    AskedEncryption = 3,
    /// Encrypted: nothing can be read.
    Opaque = 4,
    /// This is not Postgres, or it went out of step.
    Lost = 5,
    /// The connection only carried a cancel request.
    Cancel = 6,
}

impl Cycle {
    /// Whether it asked for something that ends with an answer, as a stream of replication does not.
    #[inline(always)]
    pub fn is_unanswered(&self) -> bool {
        self.executions != 0 && self.loose & cycle::COPIES_BOTH == 0
    }
}

impl Wire {
    /// A conversation of which nothing is known but which end the process is.
    #[inline(always)]
    pub fn start(&mut self, role: u8, opening: Opening) {
        clear(self);
        self.role = role;
        self.shape = Shape::new();
        self.phase = Phase::Candidate as u8;
        if !opening.has_type_byte() {
            self.up.mode = frame::Mode::Startup as u8;
            self.up.left = 8;
        }
    }

    /// Whether this is Postgres for certain: a reply confirmed it, or a start-up packet was read to its end.
    #[inline(always)]
    pub fn is_known(&self) -> bool {
        self.phase != Phase::Candidate as u8 || self.greeting != 0
    }

    /// The cycle that ended last, for [`Effects::query`].
    #[inline(always)]
    pub fn ended(&self) -> &Cycle {
        &self.cycles[(self.cycle_first as usize + CYCLES - 1) % CYCLES]
    }

    /// Whether a start-up packet was sent and no ReadyForQuery has answered it yet.
    #[inline(always)]
    pub fn is_logging_in(&self) -> bool {
        self.greeting != 0
    }

    /// How long the transaction under way had waited for the cycle that has just ended; 0 if there was none.
    #[inline(always)]
    pub fn waited_ns(&self) -> u64 {
        match self.transaction {
            b'T' | b'E' => self.ended().begun_ns.saturating_sub(self.idle_ns),
            _ => 0,
        }
    }

    /// The request that is being answered, if any.
    #[inline(always)]
    pub fn serving(&self) -> Option<&Cycle> {
        if self.cycle_count == 0 { None } else { Some(&self.cycles[self.cycle_first as usize % CYCLES]) }
    }

    /// Hands over the request whose end left the connection without one, if that was since `since_ns`: when it began and how long
    /// it took. Once; of requests that overlap it is the last.
    #[inline(always)]
    pub fn take_ended(&mut self, since_ns: u64) -> Option<(u64, u64)> {
        if self.is_active() || self.idle_ns < since_ns {
            return None;
        }
        let mut begun_ns = 0;
        for cycle in &mut self.cycles {
            if cycle.executions > 0 && cycle.begun_ns > begun_ns {
                begun_ns = cycle.begun_ns;
            }
            cycle.begun_ns = 0;
        }
        if begun_ns == 0 {
            return None;
        }
        Some((begun_ns, self.idle_ns.saturating_sub(begun_ns)))
    }

    /// Whether the next byte towards the server begins a request, as far as bytes were seen.
    #[inline(always)]
    pub fn awaits_request(&self) -> bool {
        !self.is_active() && self.up.have == 0 && self.up.left == 0
    }

    /// How many requests wait for an answer, of those that somebody made who was let in. Those that found no room were counted as
    /// lost when they began.
    #[inline(always)]
    pub fn unanswered(&self) -> u32 {
        if self.phase != Phase::Confirmed as u8 || self.is_logging_in() {
            return 0;
        }
        let mut count = self.put_off;
        for nth in 0..CYCLES {
            if nth >= self.cycle_count as usize {
                break;
            }
            count += self.cycles[(self.cycle_first as usize + nth) % CYCLES].is_unanswered() as u32;
        }
        count
    }

    /// Whether a request is under way.
    #[inline(always)]
    pub fn is_active(&self) -> bool {
        self.cycle_count > 0 || self.cycles_untracked > 0
    }
}

/// Packs the five characters of an SQLSTATE, each 0–9 or A–Z, into a number below 36^5.
#[inline(always)]
pub const fn push_sqlstate(packed: u32, character: u8) -> u32 {
    let digit = match character {
        b'0'..=b'9' => character - b'0',
        b'A'..=b'Z' => character - b'A' + 10,
        _ => 35,
    };
    (packed & 0x3FF_FFFF).wrapping_mul(36).wrapping_add(digit as u32)
}

/// A packed SQLSTATE.
const fn sqlstate_of(characters: &[u8; 5]) -> u32 {
    let (mut packed, mut at) = (0, 0);
    while at < characters.len() {
        packed = push_sqlstate(packed, characters[at]);
        at += 1;
    }
    packed
}

/// The five characters of a packed SQLSTATE.
pub fn unpack_sqlstate(mut packed: u32) -> [u8; 5] {
    let mut out = [b'0'; 5];
    for slot in out.iter_mut().rev() {
        let digit = (packed % 36) as u8;
        *slot = if digit < 10 { b'0' + digit } else { b'A' + digit - 10 };
        packed /= 36;
    }
    out
}

const FNV_OFFSET: u64 = 0xCBF2_9CE4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01B3;

/// One step of FNV-1a, for names.
#[inline(always)]
pub fn push_hash(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(FNV_PRIME)
}

/// One step of the same over a whole word, for sequences of numbers.
#[inline(always)]
fn push_word(hash: u64, word: u32) -> u64 {
    (hash ^ word as u64).wrapping_mul(FNV_PRIME)
}

/// The hash of a whole name.
pub const fn hash_name(name: &[u8]) -> u64 {
    let mut hash = FNV_OFFSET;
    let mut at = 0;
    while at < name.len() {
        hash = (hash ^ name[at] as u64).wrapping_mul(FNV_PRIME);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_has_ended_is_handed_over_once_and_only_if_it_ended_since() {
        let ended = |begun_ns| Cycle { begun_ns, executions: 1, ..Cycle::zeroed() };
        let mut wire = Wire { idle_ns: 350, ..Wire::zeroed() };
        assert_eq!(wire.take_ended(0), None, "nobody asked for anything");
        wire.cycles[0] = ended(100);
        assert_eq!(wire.take_ended(351), None, "it ended before");
        assert_eq!((wire.take_ended(350), wire.take_ended(350)), (Some((100, 250)), None));
        // Two that overlap: the last one, and the other is not told later.
        (wire.cycles[0], wire.cycles[1]) = (ended(100), ended(120));
        assert_eq!((wire.take_ended(0), wire.take_ended(0)), (Some((120, 230)), None));
        wire.cycles[0] = ended(400);
        wire.cycle_count = 1;
        assert_eq!(wire.take_ended(0), None, "it is still served");
    }
}
