//! TLS: plaintext as OpenSSL's callers see it, bound to the socket that the records go through. Attached to functions of
//! whatever object holds OpenSSL; which those are the agent finds out.
//!
//! A socket call that moves a record while its thread is inside a call of OpenSSL tells the `SSL`'s socket. Nothing else
//! does: plaintext without a socket so found is not looked at.
//!
//! A probe at a function's return costs as much again as half of one at its beginning, so only reads have one.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::pt_regs,
    helpers::generated::{bpf_get_attach_cookie, bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use steth_probes::{
    cell::{CounterKind, Loss},
    identity::TaskState,
    message::{Exec, Header, Kind},
    socket::{Connection, Protocol},
    syscalls::SocketCall,
    tls::{
        CodeFile, LOOKED_AT, POSTGRES_PORT, SslKey, SslSocket, TlsCall, TlsCallKind, Unseen, count_argument, is_data,
        is_record, kind_of, plaintext_of,
    },
};

use crate::{
    cells::{ANY, count, lost, send},
    identity::current_state,
    kernel::{Address, Known, offset, opaque, read_user, setting},
    maps::{CODE_FILES, SERVICE_ROWS, SSLS, TASKS, TLS_CALLS, WIRES},
    postgres,
    socket::{self, Call},
};

/// An encrypted connection that talks, and of which nothing was seen for so long, is counted as such: a program that has just been
/// started on a busy host may take more than a second for its handshake.
const UNSEEN_NS: u64 = 3_000_000_000;
/// A file of code is reported so often until it is looked at.
const REPORT_NS: u64 = 1_000_000_000;
const PROT_EXEC: u64 = 4;
const NO_OPENSSL: u8 = Unseen::NoOpenssl as u8;
const OLDER: u8 = Unseen::Older as u8;
/// The answer to GSSENCRequest that accepts.
const GSS: u8 = b'G';

/// `SSL_read`, `SSL_write` or `SSL_do_handshake` begins.
#[uprobe]
pub fn tls_enter(ctx: ProbeContext) -> u32 {
    try_enter(&ctx);
    0
}

#[inline(always)]
fn try_enter(ctx: &ProbeContext) -> Option<()> {
    let task = current_state()?;
    if SERVICE_ROWS.get(task.service)?.excluded != 0 {
        return None;
    }
    let stack = stack_of(ctx.regs);
    let ssl: u64 = ctx.arg(0)?;
    let mut fresh = TlsCall::zeroed();
    let Some(call) = TLS_CALLS.get_or_insert(Known::current(), &mut fresh) else {
        lost(Loss::TaskStateFailed);
        return None;
    };
    // A call within a call: the outer one counts.
    if task.ssl != 0 && stack < call.stack && stands(call) {
        return None;
    }
    // SAFETY: a helper that takes the program's context.
    let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    let kind = kind_of(cookie);
    // Each read by itself: the verifier refuses an address in the context that is chosen at run time.
    let (third, fourth, fifth): (u64, u64, u64) = (ctx.arg(2)?, opaque(ctx.arg(3)?), opaque(ctx.arg(4)?));
    let buffer: u64 = ctx.arg(1)?;
    if kind == TlsCallKind::Write as u8 {
        let length = third as u32;
        // A call that could not send all is made again with the same bytes, perhaps in another place.
        let again = call.unsent == ssl && call.length == length;
        call.unsent = ssl;
        if !again {
            call.left = length;
        }
        call.length = length;
        call.buffer = buffer.wrapping_add((length - call.left) as u64);
        call.return_address = read_user(stack)?;
        // SAFETY: a helper without arguments.
        call.entered_ns = unsafe { bpf_ktime_get_ns() };
    } else {
        call.buffer = buffer;
        call.return_address = 0;
        call.count_address = match count_argument(cookie) {
            0 => 0,
            3 => fourth,
            _ => fifth,
        };
    }
    call.kind = kind as u32;
    call.stack = stack;
    call.moved = 0;
    task.ssl = ssl;
    None
}

/// Whether a call lasts, as far as the stack tells. The end of reads and handshakes is seen.
#[inline(always)]
fn stands(call: &TlsCall) -> bool {
    call.return_address == 0 || read_user::<u64>(call.stack) == Some(call.return_address)
}

/// `SSL_read` or `SSL_do_handshake` ends. The end of `SSL_write` is not waited for: what it writes is there from its
/// beginning, and is taken for sent when a record with so many bytes goes through its socket.
#[uretprobe]
pub fn tls_return(ctx: RetProbeContext) -> u32 {
    try_return(&ctx);
    0
}

#[inline(always)]
fn try_return(ctx: &RetProbeContext) -> Option<()> {
    let task = TASKS.get(Known::current())?;
    let ssl = task.ssl;
    if ssl == 0 {
        return None;
    }
    let state = TLS_CALLS.get(Known::current())?;
    // The return address is off the stack by now.
    let stack = stack_of(ctx.regs).wrapping_sub(8);
    if stack < state.stack {
        return None;
    }
    task.ssl = 0;
    let result = ctx.ret::<u64>() as i32;
    if stack != state.stack || result <= 0 || state.kind != TlsCallKind::Read as u32 {
        return None;
    }
    let Some((sock, inode)) = socket_of(state, ssl) else {
        task.memory_bio |= (state.moved == 0) as u32;
        return None;
    };
    let connection = socket::known(sock)?;
    if connection.inode != inode {
        return None;
    }
    let moved = match state.count_address {
        0 => result as u64,
        address => read_user::<u64>(address)?,
    };
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let call = plaintext(SocketCall::Read, state, moved, now_ns, task.service);
    postgres::read_behind_tls(&call, sock, connection)
}

/// Plaintext that was read or written, as if a call on the socket had moved it.
#[inline(always)]
fn plaintext(call: SocketCall, state: &TlsCall, length: u64, now_ns: u64, service: u32) -> Call {
    Call {
        call,
        syscall: 0,
        descriptor: 0,
        buffer: state.buffer,
        length,
        flags: 0,
        result: length as i64,
        entered_ns: state.entered_ns,
        now_ns,
        service,
    }
}

/// An `SSL` goes; its address may become another's.
#[uprobe]
pub fn tls_free(ctx: ProbeContext) -> u32 {
    if let Some(ssl) = ctx.arg(0) {
        let _ = SSLS.remove(&key(ssl));
        if let Some(call) = TLS_CALLS.get(Known::current())
            && call.ssl == ssl
        {
            call.ssl = 0;
        }
    }
    0
}

/// A thread that is in a call of OpenSSL, or was, moved bytes through a socket. Whether they were plaintext that is to be
/// walked.
#[inline(never)]
pub fn through(call: &Call, sock: Address, connection: &mut Connection, task: &mut TaskState) -> bool {
    try_through(call, sock, connection, task).unwrap_or(false)
}

#[inline(always)]
fn try_through(call: &Call, sock: Address, connection: &mut Connection, task: &mut TaskState) -> Option<bool> {
    let state = TLS_CALLS.get(Known::current())?;
    let writes = state.kind == TlsCallKind::Write as u32;
    let bound = state.ssl == task.ssl && state.sock == sock.0 && state.inode == connection.inode;
    if bound && !writes {
        state.moved = 1;
        return None;
    }
    if !bound && !stands(state) {
        // It wrote to memory.
        task.memory_bio |= (state.moved == 0 && state.ssl != task.ssl) as u32;
        task.ssl = 0;
        return None;
    }
    state.moved = 1;
    // OpenSSL may call back, and what is called may use other sockets.
    if !matches!(call.call, SocketCall::Read | SocketCall::Write) || call.result < 5 {
        return None;
    }
    let header = read_user(call.buffer)?;
    if !is_record(header) {
        return None;
    }
    if !bound {
        bind(sock, connection, state, task.ssl)?;
    }
    if !writes || call.call != SocketCall::Write {
        return None;
    }
    let length = plaintext_of(header, state.left)?;
    let written = plaintext(SocketCall::Write, state, length as u64, call.now_ns, call.service);
    state.left = state.left.saturating_sub(length);
    state.buffer = state.buffer.wrapping_add(length as u64);
    if state.left == 0 {
        state.unsent = 0;
        task.ssl = 0;
    }
    Some(postgres::written_behind_tls(&written, connection))
}

/// Remembers the socket of an `SSL`.
#[inline(always)]
fn bind(sock: Address, connection: &mut Connection, state: &mut TlsCall, ssl: u64) -> Option<()> {
    if SSLS.insert(&key(ssl), &SslSocket { sock: sock.0, inode: connection.inode }, ANY).is_err() {
        lost(Loss::SslsFull);
        return None;
    }
    state.ssl = ssl;
    state.sock = sock.0;
    state.inode = connection.inode;
    match Protocol::from_u8(connection.protocol)? {
        Protocol::Unknown => connection.protocol = Protocol::Tls as u8,
        Protocol::Postgres => {
            // What looked like Postgres before was none, or its answer to SSLRequest went by unseen.
            connection.protocol = Protocol::Tls as u8;
            let _ = WIRES.remove(&sock.0);
        }
        // OpenSSL it is, and what is said behind it will show.
        Protocol::PostgresEncrypted if connection.unseen == OLDER => connection.protocol = Protocol::Tls as u8,
        _ => {}
    }
    connection.looks = 0;
    Some(())
}

/// The socket of an `SSL`, if it is known.
#[inline(always)]
fn socket_of(state: &mut TlsCall, ssl: u64) -> Option<(Address, u64)> {
    // What the thread remembers may be old: another thread may have freed this `SSL` and made a new one in its place.
    // SAFETY: the value is copied at once.
    let Some(socket) = (unsafe { SSLS.get(&key(ssl)) }).copied() else {
        state.ssl = 0;
        return None;
    };
    Some((Address(socket.sock), socket.inode))
}

#[inline(always)]
fn key(ssl: u64) -> SslKey {
    // SAFETY: a helper without arguments.
    SslKey { ssl, tgid: unsafe { bpf_get_current_pid_tgid() } >> 32 }
}

#[inline(always)]
fn stack_of(regs: *mut pt_regs) -> u64 {
    // SAFETY: the program's context.
    unsafe { (*regs).rsp }
}

/// A process mapped a file. If it is code that nobody has looked at, user space is told, again and again while it comes too
/// late.
#[inline(always)]
pub fn mapped(descriptor: u32, protection: u64, service: u32, now_ns: u64) -> Option<()> {
    if protection & PROT_EXEC == 0 {
        return None;
    }
    report_mapped(descriptor, service, now_ns)
}

#[inline(never)]
fn report_mapped(descriptor: u32, service: u32, now_ns: u64) -> Option<()> {
    let inode = socket::file_of(descriptor)?.follow(offset!(file_inode))?;
    let device: u32 = inode.follow(offset!(inode_super))?.read(offset!(super_device))?;
    let file = CodeFile { inode: inode.read(offset!(inode_number))?, device: device as u64 };
    // SAFETY: the value is copied at once.
    if let Some(reported_ns) = unsafe { CODE_FILES.get(&file) }.copied()
        && (reported_ns == LOOKED_AT || now_ns.saturating_sub(reported_ns) < REPORT_NS)
    {
        return None;
    }
    // Failing means that it is reported once more.
    let _ = CODE_FILES.insert(&file, &now_ns, ANY);
    let header = Header { kind: Kind::Mapped as u32, text_len: 0, at_ns: now_ns };
    // SAFETY: a helper without arguments.
    let pid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    let record = Exec { header, pid, service };
    send((&raw const record).cast(), size_of::<Exec>() as u64);
    None
}

/// A Postgres connection is encrypted from here on; `answer` accepted it.
#[inline(always)]
pub fn begun(connection: &mut Connection, answer: u8, now_ns: u64) {
    connection.protocol = Protocol::PostgresEncrypted as u8;
    connection.encrypted_ns = now_ns;
    connection.unseen = if answer == GSS {
        Unseen::Gss
    } else if setting!(tls) == 0 {
        Unseen::Disabled
    } else {
        Unseen::NoOpenssl
    } as u8;
}

/// TLS that was there before anybody looked goes through a socket, outside of OpenSSL: it may be Postgres if its port says so.
#[inline(always)]
pub fn older(header: [u8; 5], sock: Address, connection: &mut Connection, now_ns: u64) -> Option<()> {
    if connection.complete != 0 || connection.tcp_state == 0 || !is_data(header) {
        return None;
    }
    if connection.port == POSTGRES_PORT || u16::from_be(sock.read(offset!(sock_peer_port))?) == POSTGRES_PORT {
        begun(connection, 0, now_ns);
        if connection.unseen == Unseen::NoOpenssl as u8 {
            connection.unseen = Unseen::Older as u8;
        }
    }
    None
}

/// Bytes went through the socket of an encrypted Postgres connection of which nothing was seen so far.
#[inline(always)]
pub fn passed(call: &Call, connection: &mut Connection) -> Option<()> {
    if connection.unseen_counted != 0 {
        return None;
    }
    if matches!(connection.unseen, NO_OPENSSL | OLDER) && TASKS.get(Known::current())?.memory_bio != 0 {
        connection.unseen = Unseen::MemoryBio as u8;
    }
    if connection.encrypted_talks == 0 {
        connection.encrypted_talks = 1;
        connection.encrypted_ns = call.now_ns;
    }
    if call.now_ns.saturating_sub(connection.encrypted_ns) >= UNSEEN_NS {
        count_unseen(connection);
    }
    None
}

/// A connection ends.
#[inline(always)]
pub fn ended(connection: &mut Connection) {
    if connection.protocol == Protocol::PostgresEncrypted as u8 && connection.unseen_counted == 0 {
        count_unseen(connection);
    }
}

#[inline(always)]
fn count_unseen(connection: &mut Connection) {
    connection.unseen_counted = 1;
    count(CounterKind::PostgresUnseen, connection.unseen, connection.service, 0, 0, 1);
}
