//! The statement that a Postgres server's process notes itself to be running: asked where the wire has not shown the text,
//! because it was prepared before the agent came. Only the first time: then its number is known by its name.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_user_str};
use steth_probes::{
    cell::Loss,
    postgres::{Effects as _, STATEMENT_UNKNOWN, TEXT_LEN},
    shape::{Shape, Taken},
};

use super::{scratch::Scratch, sink::Sink};
use crate::{cells::lost, kernel::read_user, maps::BACKENDS};

/// The number of that statement, or [`STATEMENT_UNKNOWN`]. Within its caller: calls may be eight deep.
#[inline(always)]
pub fn noted(sink: &mut Sink) -> Option<u32> {
    let walk = sink.walk();
    // SAFETY: the value is copied at once.
    let backends = unsafe { BACKENDS.get(&walk.service) }.copied()?;
    let entry: u64 = read_user(backends.entry_address)?;
    let text: u64 = read_user(entry + backends.text_offset as u64)?;
    // SAFETY: this CPU's own work space; the helper writes at most the text's length.
    let length = unsafe {
        let place = (&raw mut (*sink.scratch).text.text).cast();
        bpf_probe_read_user_str(place, TEXT_LEN, text as *const c_void)
    };
    if length <= 1 {
        return None;
    }
    // With its closing zero. One that fills its place may be cut, and then is no statement of its own.
    if length >= backends.text_len as i64 || length >= TEXT_LEN as i64 {
        lost(Loss::StatementCut);
        return None;
    }
    // SAFETY: this CPU's own work space.
    let noted = unsafe { &mut (*sink.scratch).noted };
    noted.shape = Shape::new();
    noted.at = 0;
    noted.begins_at = 0;
    noted.length = length as u32 - 1;
    // The loop hands on nothing but what stands on the stack.
    let mut scratch = sink.scratch;
    // SAFETY: the callback gets a pointer to `scratch`, which outlives the loop.
    unsafe { bpf_loop(TEXT_LEN, take as *mut c_void, (&raw mut scratch).cast(), 0) };
    // As if the text had come by: the same ways lead to its number from here.
    walk.text_address = text + noted.begins_at as u64;
    walk.text_offset = 0;
    let statement = sink.statement(noted.shape.finish(), noted.at.saturating_sub(noted.begins_at), false);
    if statement == STATEMENT_UNKNOWN { None } else { Some(statement) }
}

/// Takes one byte; the loop ends when it returns 1.
extern "C" fn take(_index: u64, scratch: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` passes on what `noted` gave it.
    let scratch = unsafe { *scratch.cast::<*mut Scratch>() };
    // SAFETY: this CPU's own work space.
    let noted = unsafe { &mut (*scratch).noted };
    if noted.at >= noted.length {
        return 1;
    }
    let at = noted.at as usize & (TEXT_LEN as usize - 1);
    // SAFETY: the index is cut to the text; that changes no valid one.
    let byte = unsafe { (&raw const (*scratch).text.text).cast::<u8>().add(at).read() };
    match noted.shape.take(byte) {
        Taken::Text => {}
        Taken::Blank => noted.begins_at = noted.at + 1,
        Taken::Semicolon => return 1,
    }
    noted.at += 1;
    0
}
