//! Postgres: hands what a process read or wrote to the walker of the wire protocol.

mod report;
mod scratch;
mod sink;
mod source;

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
pub use scratch::{PreparedKey, Scratch};
use sink::Sink;
use source::UserBytes;
use steth_probes::{
    cell::{Loss, Role},
    limits,
    postgres::{Mode, Opening, Phase, STEPS, Step, WireEntry, opening, step},
    record::clear,
    socket::{Connection, LOOKS, Protocol},
    syscalls::SocketCall,
};

use crate::{
    cells::{ANY, lost},
    kernel::{Address, read_user},
    maps::{SCRATCH, WIRES},
    socket::Call,
};

/// What `bpf_loop` hands to each step.
struct Context {
    scratch: *mut Scratch,
    entry: *mut WireEntry,
}

/// A process read from a socket or wrote to it.
#[inline(always)]
pub fn moved(call: &Call, sock: Address, connection: &mut Connection) -> Option<()> {
    match Protocol::from_u8(connection.protocol)? {
        Protocol::Postgres => {}
        Protocol::Unknown if connection.looks < LOOKS => {}
        _ => return None,
    }
    walk(call, sock, connection);
    None
}

/// Sets the walk to the bytes that a call moved.
#[inline(always)]
fn set_out(call: &Call, scratch: *mut Scratch) -> Option<UserBytes> {
    let mut source = UserBytes(scratch);
    let moved = if call.result > u32::MAX as i64 { u32::MAX } else { call.result as u32 };
    let walk = source.walk();
    clear(walk);
    walk.address = call.buffer;
    walk.begun_ns = if call.call.is_read() { call.now_ns } else { call.entered_ns };
    walk.ended_ns = call.now_ns;
    walk.left = moved;
    walk.service = call.service;
    let (vector, length) = match call.call {
        SocketCall::Read | SocketCall::Write => return Some(source),
        SocketCall::ReadVector | SocketCall::WriteVector => (call.buffer, call.length),
        // `struct msghdr`: the vector and its length stand behind the address and its length.
        _ => read_user::<[u64; 2]>(call.buffer + 16)?.into(),
    };
    walk.left = 0;
    walk.beyond = moved;
    walk.vector = vector;
    walk.vector_left = if length > limits::BUFFERS as u64 { limits::BUFFERS } else { length as u32 };
    source.next_buffer();
    Some(source)
}

#[inline(never)]
fn walk(call: &Call, sock: Address, connection: &mut Connection) -> Option<()> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    let mut source = set_out(call, scratch)?;
    let reads = call.call.is_read();
    if connection.protocol == Protocol::Unknown as u8 {
        connection.looks += 1;
        let opening = opening(&mut source);
        if opening == Opening::Nothing {
            return None;
        }
        let role = if reads { Role::Server } else { Role::Client };
        start(sock, connection, scratch, opening, role, call.now_ns)?;
    }
    let Some(entry) = WIRES.get_ptr_mut(&sock.0) else {
        // It had to give way to others.
        lost(Loss::ConversationForgotten);
        connection.protocol = Protocol::Unknown as u8;
        return None;
    };
    // SAFETY: a map value that lives as long as the program runs.
    let wire = unsafe { &mut (*entry).wire };
    let walk = source.walk();
    let up = reads == (wire.role == Role::Server as u8);
    walk.role = wire.role as u32;
    walk.up = up as u32;
    if up {
        walk.text_address = walk.address;
        walk.text_offset = wire.up.text_len;
    }
    let mut context = Context { scratch, entry };
    // SAFETY: the callback gets a pointer to `context`, which outlives the loop.
    unsafe { bpf_loop(STEPS, walk_step as *mut c_void, (&raw mut context).cast(), 0) };
    if walk.finished == 0 && walk.broken == 0 {
        lost(Loss::TooManyMessages);
        walk.broken = 1;
    }
    if walk.broken != 0 {
        if wire.is_known() {
            lost(Loss::PostgresOutOfStep);
        }
        connection.protocol = Protocol::Unknown as u8;
        let _ = WIRES.remove(&sock.0);
    } else if wire.phase == Phase::Opaque as u8 {
        connection.protocol = Protocol::PostgresEncrypted as u8;
        let _ = WIRES.remove(&sock.0);
    }
    None
}

/// A conversation that may be Postgres begins.
#[inline(always)]
fn start(
    sock: Address,
    connection: &mut Connection,
    scratch: *mut Scratch,
    opening: Opening,
    role: Role,
    now_ns: u64,
) -> Option<()> {
    // SAFETY: this CPU's own work space.
    let fresh = unsafe { &mut (*scratch).wire };
    clear(fresh);
    fresh.wire.start(role as u8, opening);
    fresh.sock = sock.0;
    // Not the same after a break: names that were prepared before may mean something else by now.
    fresh.connection = sock.0.rotate_left(32) ^ now_ns;
    if WIRES.insert(&sock.0, &*fresh, ANY).is_err() {
        lost(Loss::ConnectionsFull);
        return None;
    }
    connection.protocol = Protocol::Postgres as u8;
    Some(())
}

/// One step of the walk; the loop ends when it returns 1.
extern "C" fn walk_step(_index: u64, context: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` passes on what `walk` gave it.
    let (scratch, entry) = unsafe {
        let context = context.cast::<Context>();
        ((*context).scratch, (*context).entry)
    };
    let mut source = UserBytes(scratch);
    let mut sink = Sink { scratch, entry };
    let walk = source.walk();
    // SAFETY: a map value; two threads that use one connection at a time may put it out of step, which is noticed.
    let wire = unsafe { &mut (*entry).wire };
    if walk.left == 0 {
        if walk.up != 0 {
            sink.piece(wire);
        }
        if !source.next_buffer() {
            if walk.beyond != 0 {
                lost(Loss::UserMemoryUnreadable);
                walk.broken = 1;
            } else {
                walk.finished = 1;
            }
            return 1;
        }
        walk.text_address = walk.address;
        return 0;
    }
    match step(wire, walk.up != 0, walk.begun_ns, walk.ended_ns, &mut source, &mut sink) {
        // The usual end: nothing is left, and no piece of a text needs sending.
        Step::More if walk.left == 0 && walk.beyond == 0 && wire.up.mode != Mode::Text as u8 => walk.finished = 1,
        Step::More => return 0,
        Step::Done if wire.phase == Phase::Opaque as u8 => walk.finished = 1,
        Step::Done => {
            lost(Loss::UserMemoryUnreadable);
            walk.broken = 1;
        }
        Step::Broken => walk.broken = 1,
    }
    1
}
