//! Postgres: hands what a process read or wrote to the walker of the wire protocol.

mod closed;
mod noted;
mod report;
mod scratch;
mod sink;
mod source;
mod split;

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
pub use closed::{closed, replaced};
use scratch::WINDOW;
pub use scratch::{PreparedKey, Scratch, TlsScratch};
use sink::Sink;
use source::UserBytes;
use steth_probes::{
    cell::{Loss, Role},
    limits,
    postgres::{
        LAST_WORDS, Mode, Opening, Phase, STEPS, Source as _, Step, Wire, WireEntry, last_words, opening, step, whole,
    },
    record::clear,
    socket::{Connection, Protocol},
    syscalls::SocketCall,
};

use crate::{
    cells::{ANY, claim, lost, unclaim},
    kernel::{Address, offset, read_user, setting},
    maps::{SCRATCH, TLS_SCRATCH, WIRES},
    socket::Call,
    tcp::RCV_SHUTDOWN,
    tls, wall,
};

const _: () = assert!(LAST_WORDS <= WINDOW);

/// Empty buffers before the first byte that are passed over.
const EMPTY_BUFFERS: u32 = 4;

/// What `bpf_loop` hands to each step.
struct Context {
    scratch: *mut Scratch,
    entry: *mut WireEntry,
}

/// A process read from a socket or wrote to it. Whether there is something to [walk](walk_here).
#[inline(always)]
pub fn moved(call: &Call, connection: &mut Connection) -> bool {
    match Protocol::from_u8(connection.protocol) {
        Some(Protocol::Postgres) => {}
        Some(Protocol::Unknown) if connection.is_worth_a_look() => {}
        Some(Protocol::PostgresEncrypted) => {
            tls::passed(call, connection);
            return false;
        }
        _ => return false,
    }
    set_out_here(call, false)
}

/// A process read the end of a socket's stream, or that it broke off. Whether there is something to [walk](walk_here).
#[inline(always)]
pub fn over(call: &Call, connection: &Connection) -> bool {
    match Protocol::from_u8(connection.protocol) {
        Some(Protocol::Postgres) => set_out_here(call, false),
        Some(Protocol::PostgresTls) => set_out_here(call, true),
        _ => false,
    }
}

/// A process wrote plaintext behind TLS, and its record is sent. Whether there is something to [walk](walk_here).
#[inline(always)]
pub fn written_behind_tls(call: &Call, connection: &Connection) -> bool {
    is_wanted_behind_tls(connection) == Some(true) && set_out_here(call, true)
}

#[inline(always)]
fn set_out_here(call: &Call, behind_tls: bool) -> bool {
    SCRATCH.get_ptr_mut(0).is_some_and(|scratch| set_out(call, scratch, behind_tls).is_some())
}

/// The socket that is to be walked.
#[inline(always)]
pub fn set_sock(sock: Address) -> Option<()> {
    UserBytes(SCRATCH.get_ptr_mut(0)?).walk().sock = sock.0;
    Some(())
}

/// Walks what a program at a system call has set out to.
#[inline(always)]
pub fn walk_here(connection: &mut Connection) -> Option<()> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    walk(Address(UserBytes(scratch).walk().sock), connection, scratch)
}

/// Whether plaintext behind TLS is, or may be, Postgres.
#[inline(always)]
fn is_wanted_behind_tls(connection: &Connection) -> Option<bool> {
    Some(match Protocol::from_u8(connection.protocol)? {
        Protocol::PostgresTls => true,
        Protocol::Tls | Protocol::PostgresEncrypted => connection.is_worth_a_look(),
        _ => false,
    })
}

/// A process read plaintext behind TLS. Unlike a program at a system call, what runs this may be interrupted by others on its
/// CPU, also by itself for another task: so it claims a work space.
#[inline(always)]
pub fn read_behind_tls(call: &Call, sock: Address, connection: &mut Connection) -> Option<()> {
    if call.result <= 0 || !is_wanted_behind_tls(connection)? {
        return None;
    }
    for at in 0..limits::TLS_WALKS {
        let space = TLS_SCRATCH.get_ptr_mut(at)?;
        // SAFETY: a map value.
        let claims = unsafe { &raw mut (*space).claims };
        let mine = claim(claims);
        if mine {
            // SAFETY: as above.
            let scratch = unsafe { &raw mut (*space).scratch };
            if set_out(call, scratch, true).is_some() {
                walk(sock, connection, scratch);
            }
        }
        unclaim(claims);
        if mine {
            return None;
        }
    }
    lost(Loss::TlsWalksFull);
    None
}

/// Sets the walk to the bytes that a call moved, or to the end of the stream. Apart from the walk, which then is the same to
/// the verifier whatever the call was: it checks it once.
#[inline(never)]
fn set_out(call: &Call, scratch: *mut Scratch, behind_tls: bool) -> Option<()> {
    let mut source = UserBytes(scratch);
    let moved = match call.result {
        ..=0 => 0,
        most if most > u32::MAX as i64 => u32::MAX,
        some => some as u32,
    };
    let walk = source.walk();
    clear(walk);
    walk.address = call.buffer;
    walk.begun_ns = if call.call.is_read() { call.now_ns } else { call.entered_ns };
    walk.ended_ns = call.now_ns;
    walk.left = moved;
    walk.service = call.service;
    walk.reads = call.call.is_read() as u32;
    walk.shared = behind_tls as u32;
    (walk.unknown, walk.postgres) = match behind_tls {
        false => (Protocol::Unknown as u32, Protocol::Postgres as u32),
        true => (Protocol::Tls as u32, Protocol::PostgresTls as u32),
    };
    if moved == 0 {
        walk.over = 1;
        return Some(());
    }
    let (vector, length) = match call.call {
        SocketCall::Read | SocketCall::Write => return Some(()),
        SocketCall::ReadVector | SocketCall::WriteVector => (call.buffer, call.length),
        // `struct msghdr`: the vector and its length stand behind the address and its length.
        _ => read_user::<[u64; 2]>(call.buffer + 16)?.into(),
    };
    walk.left = 0;
    walk.beyond = moved;
    walk.vector = vector;
    walk.vector_left = if length > limits::BUFFERS as u64 { limits::BUFFERS } else { length as u32 };
    for _ in 0..EMPTY_BUFFERS {
        if !source.next_buffer() || source.walk().left != 0 {
            break;
        }
    }
    Some(())
}

/// Walks what was set out to. What is rare stands in functions of its own: Linux 6.1 counts the stack of all calls under way
/// together, and 512 bytes are few.
#[inline(never)]
fn walk(sock: Address, connection: &mut Connection, scratch: *mut Scratch) -> Option<()> {
    let walk = UserBytes(scratch).walk();
    let (reads, now_ns) = (walk.reads != 0, walk.ended_ns);
    let known = connection.protocol == walk.postgres as u8;
    let mut entry = if known { WIRES.get_ptr_mut(&sock.0) } else { None };
    let fresh = entry.is_none();
    if fresh {
        if known {
            // It had to give way to others. This may be a request, and then nothing is missing but names.
            lost(Loss::ConversationForgotten);
            connection.was_postgres = 1;
            connection.protocol = walk.unknown as u8;
        }
        recognise(sock, connection, scratch)?;
        entry = WIRES.get_ptr_mut(&sock.0);
    }
    let entry = entry?;
    let counted = walk.shared == 0 && connection.tcp_state != 0;
    if counted && (reads || fresh) && has_read_past(sock, entry, walk.left + walk.beyond) {
        lost(Loss::PostgresOutOfStep);
        connection.was_postgres = 1;
        connection.protocol = walk.unknown as u8;
        let _ = WIRES.remove(&sock.0);
        return None;
    }
    // SAFETY: a map value that lives as long as the program runs.
    let wire = unsafe { &mut (*entry).wire };
    let up = walk.over == 0 && reads == (wire.role == Role::Server as u8);
    if walk.over != 0 {
        if wire.role == Role::Server as u8 {
            // Its client has nothing more to say, and may yet listen.
            Sink { scratch, entry }.end_burst();
            return None;
        }
        connection.protocol = walk.unknown as u8;
        set_to_last_words(wire, scratch);
    }
    if setting!(wall) != 0 && reads && up && wire.awaits_request() {
        wall::request_begins(sock.0, walk.service, now_ns);
    }
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
    if walk.over != 0 {
        return end_of_stream(sock, scratch, entry);
    }
    if walk.broken != 0 {
        if wire.is_known() {
            lost(Loss::PostgresOutOfStep);
            connection.was_postgres = 1;
        }
        connection.protocol = walk.unknown as u8;
        let _ = WIRES.remove(&sock.0);
    } else if wire.phase == Phase::Opaque as u8 {
        tls::begun(connection, wire.down.note, now_ns);
        let _ = WIRES.remove(&sock.0);
    }
    None
}

/// Whether the process has read more from its TCP socket than by the calls that are walked, of which the last one gave it so
/// many bytes: by io_uring or splice. What it was cannot be known any more, and so not what comes next.
#[inline(never)]
fn has_read_past(sock: Address, entry: *mut WireEntry, moved: u32) -> bool {
    let Some(copied) = sock.read::<u32>(offset!(tcp_copied)) else { return false };
    // SAFETY: a map value that lives as long as the program runs.
    let before = core::mem::replace(unsafe { &mut (*entry).copied }, copied);
    // Less is no sign of that: bytes may be led around TCP.
    let more = copied.wrapping_sub(before.wrapping_add(moved)) as i32;
    if before == 0 || more <= 0 {
        return false;
    }
    // The peer's FIN counts for a byte.
    let is_over = sock.read::<u8>(offset!(sock_shutdown)).is_some_and(|halves| halves & RCV_SHUTDOWN != 0);
    more > is_over as i32
}

/// Looks whether what a conversation of which nothing is known begins with is Postgres; if so, it begins.
#[inline(never)]
fn recognise(sock: Address, connection: &mut Connection, scratch: *mut Scratch) -> Option<()> {
    let mut source = UserBytes(scratch);
    let walk = source.walk();
    let now_ns = walk.ended_ns;
    if walk.over != 0 {
        return None;
    }
    connection.looks = connection.looks.saturating_add(1);
    let opening = opening(&mut source);
    match opening {
        Opening::Nothing => {
            if walk.shared == 0
                && let Some(header) = source.header()
            {
                tls::older(header, sock, connection, now_ns);
            }
            return None;
        }
        Opening::Tls if walk.shared != 0 => return None,
        Opening::Tls => {
            tls::begun(connection, 0, now_ns);
            return None;
        }
        _ => {}
    }
    let role = if walk.reads != 0 { Role::Server } else { Role::Client };
    start(sock, scratch, opening, role, now_ns)?;
    connection.protocol = walk.postgres as u8;
    Some(())
}

/// The last words have been walked.
#[inline(never)]
fn end_of_stream(sock: Address, scratch: *mut Scratch, entry: *mut WireEntry) -> Option<()> {
    Sink { scratch, entry }.end_burst();
    closed(sock, UserBytes(scratch).walk().ended_ns)
}

/// Sets the walk to what the server would have said.
#[inline(never)]
fn set_to_last_words(wire: &mut Wire, scratch: *mut Scratch) {
    let walk = UserBytes(scratch).walk();
    // SAFETY: this CPU's own work space; the window is at least as long.
    let words = unsafe { &mut *(&raw mut (*scratch).window).cast::<[u8; LAST_WORDS]>() };
    if let Some((begin, end)) = last_words(wire, words) {
        walk.window_at = begin;
        walk.window_len = end;
        walk.left = end - begin;
    }
}

/// A conversation that may be Postgres begins.
#[inline(always)]
fn start(sock: Address, scratch: *mut Scratch, opening: Opening, role: Role, now_ns: u64) -> Option<()> {
    // SAFETY: a work space that nobody else uses now.
    let fresh = unsafe { &mut (*scratch).wire };
    clear(fresh);
    fresh.wire.start(role as u8, opening);
    fresh.sock = sock.0;
    fresh.connection = sock.0.rotate_left(32) ^ now_ns;
    // Not the same after a break: names that were prepared before may mean something else by now.
    fresh.names = fresh.connection;
    if WIRES.insert(&sock.0, &*fresh, ANY).is_err() {
        lost(Loss::ConnectionsFull);
        return None;
    }
    Some(())
}

/// One step of the walk; the loop ends when it returns 1.
extern "C" fn walk_step(_index: u64, context: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` passes on what `walk` gave it.
    let (scratch, entry) = unsafe {
        let context = context.cast::<Context>();
        ((*context).scratch, (*context).entry)
    };
    // One after the other, not one within the other: before Linux 6.13 there is no stack for both.
    match short_step(scratch, entry) {
        NOT_WHOLE => long_step(scratch, entry),
        done => done,
    }
}

/// What a step says that took nothing.
const NOT_WHOLE: i64 = 2;

/// Takes a whole message, if that is what comes.
#[inline(never)]
fn short_step(scratch: *mut Scratch, entry: *mut WireEntry) -> i64 {
    let mut source = UserBytes(scratch);
    let mut sink = Sink { scratch, entry };
    let walk = source.walk();
    // SAFETY: a map value; two threads that use one connection at a time may put it out of step, which is noticed.
    let wire = unsafe { &mut (*entry).wire };
    if !whole(wire, walk.up != 0, walk.begun_ns, walk.ended_ns, &mut source, &mut sink) {
        return NOT_WHOLE;
    }
    if walk.left == 0 && walk.beyond == 0 {
        walk.finished = 1;
        return 1;
    }
    0
}

/// A step that takes less than a whole message, or a rare one: apart, so that the code which runs most stays short.
#[inline(never)]
fn long_step(scratch: *mut Scratch, entry: *mut WireEntry) -> i64 {
    let mut source = UserBytes(scratch);
    let mut sink = Sink { scratch, entry };
    let walk = source.walk();
    // SAFETY: as above.
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
