//! One step along one direction of a conversation, and what it can lead to.

use super::{Cycle, NAME_LEN, Wire, frame::Source, reply, request};
use crate::cell::{Loss, TransactionOutcome};

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
    /// All names of this connection are free again, portals too.
    fn forget_all(&mut self);
    /// The statement that this process notes itself to be running, if it can be told.
    fn noted(&mut self) -> u32;
    /// Keeps a cycle under this number of its connection; false if there is no room.
    fn put_off(&mut self, number: u32, cycle: &Cycle) -> bool;
    /// Gives back the cycle that was kept under the number, if it is still there.
    fn take_up(&mut self, number: u32) -> Option<Cycle>;
    /// A number for the database or user with this name; 0 if it has none and, unless it is `new`, is given none.
    fn database(&mut self, name: &[u8; NAME_LEN], length: u8, new: bool) -> u32;
    /// A cycle ended.
    fn query(&mut self, wire: &Wire, statement: u32, duration_ns: u64, first_byte_ns: u64);
    /// A cycle ended that executed nothing and saw an error: a statement could not be prepared.
    fn refused(&mut self, _wire: &Wire, _statement: u32, _duration_ns: u64) {}
    /// Someone has logged in, which took so long from the first byte on.
    fn connected(&mut self, _wire: &Wire, _ns: u64) {}
    /// The client says goodbye.
    fn closing(&mut self, _wire: &Wire) {}
    /// A statement ended well.
    fn statement_done(&mut self, wire: &Wire, statement: u32, rows: u32);
    /// The server reported an error.
    fn error(&mut self, wire: &Wire, sqlstate: u32);
    /// A transaction ended.
    fn transaction(&mut self, wire: &Wire, outcome: TransactionOutcome, duration_ns: u64);
    /// Something was not counted.
    fn lost(&mut self, loss: Loss) {
        self.lost_several(loss, 1);
    }
    /// So many were not counted.
    fn lost_several(&mut self, loss: Loss, count: u32);
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
    if up { request::step(wire, begun_ns, source, fx) } else { reply::step(wire, begun_ns, ended_ns, source, fx) }
}
