//! Connections that break off in the midst of requests: no answer will come, so these have failed.

use super::{CYCLES, FNV_OFFSET, Wire, frame::Mode, sqlstate_of};

/// `connection_failure`: what stands for the error that nobody could tell (PostgreSQL manual, "PostgreSQL Error Codes").
pub const CONNECTION_FAILURE: u32 = sqlstate_of(b"08006");

/// ErrorResponse with nothing but that code, and ReadyForQuery.
const WORDS: [u8; 19] = *b"E\0\0\0\x0cC08006\0\0Z\0\0\0\x05I";
/// Where ReadyForQuery begins.
const READY: usize = 13;
/// Bytes of the longest last words.
pub const LAST_WORDS: usize = WORDS.len() * CYCLES;

/// Puts into `words` what the server would have had to say for an end to all that is under way, and returns where in it that begins
/// and ends. Nothing if nobody waits for it. What had come of a reply so far is forgotten.
#[inline(always)]
pub fn last_words(wire: &mut Wire, words: &mut [u8; LAST_WORDS]) -> Option<(u32, u32)> {
    if wire.unanswered() == 0 {
        return None;
    }
    for word in words.as_chunks_mut::<{ WORDS.len() }>().0 {
        *word = WORDS;
    }
    wire.down.mode = Mode::Header as u8;
    wire.down.have = 0;
    wire.down.left = 0;
    wire.down.name = FNV_OFFSET;
    let cycles = if wire.cycle_count as usize > CYCLES { CYCLES } else { wire.cycle_count as usize };
    // The oldest may have been told an error before.
    let begin = if wire.failed != 0 { READY } else { 0 };
    Some((begin as u32, (cycles * WORDS.len()) as u32))
}
