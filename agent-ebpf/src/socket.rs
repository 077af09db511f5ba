//! Sockets: from a descriptor to the kernel's socket, what is kept of it, and the time that calls on it take.

use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, macros::btf_tracepoint, programs::BtfTracePointContext};
use steth_probes::{
    cell::{CellKey, Family, HistogramKind, Loss},
    identity::{SLOT_PICKUP, SLOT_READ, SLOT_WRITE, ServiceRow, TaskState},
    record::clear,
    socket::{Connection, Protocol, SAMPLE_NS, tcp_state},
    syscalls::{RECVFROM, RECVMSG, SocketCall},
};

use crate::{
    cells::{ANY, Numbers, last_number, lost, observe_bucket, observe_slot, slot_of},
    kernel::{Address, Known, offset, setting},
    maps::CONNECTIONS,
    postgres, tcp, tls,
};

/// A finished call on a descriptor.
pub struct Call {
    pub call: SocketCall,
    pub syscall: u32,
    pub descriptor: u32,
    pub buffer: u64,
    pub length: u64,
    pub flags: u32,
    pub result: i64,
    pub entered_ns: u64,
    pub now_ns: u64,
    pub service: u32,
}

const ECONNRESET: i64 = 104;
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
const MSG_OOB: u32 = 0x1;
const MSG_PEEK: u32 = 0x2;
const MSG_ERRQUEUE: u32 = 0x2000;
/// The bytes are not the stream's next ones.
const MSG_NOT_NEXT: u32 = MSG_OOB | MSG_PEEK | MSG_ERRQUEUE;

/// A socket call returned after `ns`, which fall into that bucket. Says what there is to [walk](postgres::walk_here).
#[inline(always)]
pub fn exit(
    call: &Call,
    row: *mut ServiceRow,
    task: &mut TaskState,
    ns: u64,
    bucket: usize,
) -> Option<&'static mut Connection> {
    let reads = call.call.is_read();
    let broke_off = reads && call.result == -ECONNRESET;
    if call.result < 0 && !broke_off {
        return None;
    }
    if call.call == SocketCall::Accept {
        if setting!(tcp) != 0 {
            tcp::accepted(call);
        }
        return None;
    }
    let (sock, inode, again) = find_again(call.descriptor, task)?;
    if broke_off {
        return over(call, sock, known(sock).filter(|connection| connection.inode == inode)?);
    }
    let connection = known_or_new(sock, inode, call.service, call.now_ns, again)?;
    connection.service = call.service;
    let slot_of_call = slot(row, if reads { SLOT_READ } else { SLOT_WRITE }, connection.family, call.service)?;
    observe_bucket(slot_of_call, ns, bucket);
    let flags = match call.syscall {
        RECVFROM => call.flags,
        RECVMSG => call.length as u32,
        _ => 0,
    };
    let peeks = flags & MSG_NOT_NEXT != 0;
    // A message's length stands elsewhere, and nobody reads messages of no length.
    let asks = call.length != 0 || call.syscall == RECVMSG;
    if call.result == 0 && reads && asks && flags & (MSG_OOB | MSG_ERRQUEUE) == 0 {
        return over(call, sock, connection);
    }
    if call.result == 0 || peeks {
        return None;
    }
    if reads {
        connection.received_bytes += call.result as u64;
        if connection.ready_ns != 0 {
            let delay = call.now_ns.saturating_sub(connection.ready_ns);
            connection.ready_ns = 0;
            observe_slot(slot(row, SLOT_PICKUP, connection.family, call.service)?, delay);
        }
    } else {
        connection.sent_bytes += call.result as u64;
    }
    if call.now_ns - connection.sampled_ns >= SAMPLE_NS {
        connection.sampled_ns = call.now_ns;
        connection.looks = 0;
        if connection.tcp_state != 0 && setting!(tcp) != 0 {
            tcp::sample(sock, connection);
        }
    }
    let behind_tls = setting!(tls) != 0 && task.ssl != 0 && tls::through(call, sock, connection, task);
    if !behind_tls && (setting!(postgres) == 0 || !postgres::moved(call, connection)) {
        return None;
    }
    postgres::set_sock(sock)?;
    Some(connection)
}

/// A process read the end of a socket's stream, or that it broke off. Of a TCP connection that broke off nothing is kept any
/// more: its end was seen before.
#[inline(always)]
fn over(call: &Call, sock: Address, connection: &'static mut Connection) -> Option<&'static mut Connection> {
    if setting!(postgres) == 0 || !postgres::over(call, connection) {
        return None;
    }
    postgres::set_sock(sock)?;
    Some(connection)
}

/// The socket behind a descriptor of the current process, and its inode's number; `None` if it is no socket.
#[inline(always)]
pub fn find(descriptor: u32) -> Option<(Address, u64)> {
    let file = file_of(descriptor)?;
    let inode = file.follow(offset!(file_inode))?;
    if inode.read::<u16>(offset!(inode_mode))? & S_IFMT != S_IFSOCK {
        return None;
    }
    Some((sock_of(file)?, inode.read(offset!(inode_number))?))
}

/// As [`find`], and remembers the socket with the task: most tasks use the same one again. Its inode's number tells whether
/// the file is still that socket: numbers are not given twice while they last. Also tells whether it is.
#[inline(always)]
fn find_again(descriptor: u32, task: &mut TaskState) -> Option<(Address, u64, bool)> {
    let file = file_of(descriptor)?;
    let inode = file.follow(offset!(file_inode))?;
    let number: u64 = inode.read(offset!(inode_number))?;
    if task.file == file.0 && task.inode == number {
        return Some((Address(task.sock), number, true));
    }
    if inode.read::<u16>(offset!(inode_mode))? & S_IFMT != S_IFSOCK {
        return None;
    }
    let sock = sock_of(file)?;
    task.file = file.0;
    task.inode = number;
    task.sock = sock.0;
    Some((sock, number, false))
}

/// The open file behind a descriptor of the current process.
#[inline(always)]
pub fn file_of(descriptor: u32) -> Option<Address> {
    let table = Known::current().follow(offset!(task_files))?.follow(offset!(files_table))?;
    if descriptor >= table.load::<u32>(offset!(table_size)) {
        return None;
    }
    let slots: u64 = table.load(offset!(table_slots));
    Address(slots + descriptor as u64 * 8).follow(0)
}

#[inline(always)]
fn sock_of(file: Address) -> Option<Address> {
    file.follow(offset!(file_private))?.follow(offset!(socket_sock))
}

/// What is kept of a socket. Two CPUs may use one socket at a time; then a byte count or a delay may be lost.
#[inline(always)]
pub fn known(sock: Address) -> Option<&'static mut Connection> {
    // SAFETY: a map value; it lives as long as the program runs.
    CONNECTIONS.get_ptr_mut(&sock.0).map(|connection| unsafe { &mut *connection })
}

/// As [`known`], and begins to follow it if need be. An entry that another socket left at this address is replaced. One that
/// is not there though it is used `again` had to give way to others.
#[inline(always)]
pub fn known_or_new(
    sock: Address,
    inode: u64,
    service: u32,
    now_ns: u64,
    again: bool,
) -> Option<&'static mut Connection> {
    if let Some(connection) = known(sock) {
        if connection.inode == 0 {
            connection.inode = inode;
        }
        if connection.inode == inode {
            return Some(connection);
        }
        if setting!(postgres) != 0 {
            postgres::replaced(sock);
        }
    }
    let connection = create(sock, inode, service, now_ns, Origin::Met)?;
    // A TCP socket is taken out when its connection ends, and may be read on.
    if again && connection.tcp_state != tcp_state::CLOSE {
        lost(Loss::SocketForgotten);
    }
    Some(connection)
}

/// How a socket came to be followed.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Origin {
    /// It was there already.
    Met = 0,
    /// From its beginning: this process called, or listens.
    Begun = 1,
    /// From its beginning: the peer called.
    Called = 2,
}

/// Begins to follow a socket. Families without a place in the figures are left alone.
#[inline(never)]
pub fn create(sock: Address, inode: u64, service: u32, now_ns: u64, origin: Origin) -> Option<&'static mut Connection> {
    let family = match sock.read::<u16>(offset!(sock_family))? {
        AF_INET => Family::Inet,
        AF_INET6 => Family::Inet6,
        AF_UNIX => Family::Unix,
        _ => return None,
    };
    // On the stack: a soft interrupt may begin another connection while this one is put together.
    let mut connection = Connection::zeroed();
    let fresh = &mut connection;
    clear(fresh);
    fresh.inode = inode;
    fresh.service = service;
    fresh.opened_ns = now_ns;
    fresh.sampled_ns = now_ns;
    fresh.pass = last_number(Numbers::Pass);
    fresh.family = family as u8;
    fresh.protocol = Protocol::Unknown as u8;
    fresh.complete = (origin != Origin::Met) as u8;
    fresh.incoming = (origin == Origin::Called) as u8;
    if setting!(tcp) != 0 && family != Family::Unix && sock.read::<u16>(offset!(sock_protocol))? == IPPROTO_TCP {
        tcp::describe(sock, fresh);
    }
    if CONNECTIONS.insert(&sock.0, &*fresh, ANY).is_err() {
        lost(Loss::ConnectionsFull);
        return None;
    }
    known(sock)
}

/// Histogram slot of one kind of socket call of one service.
#[inline(always)]
fn slot(row: *mut ServiceRow, what: usize, family: u8, service: u32) -> Option<u32> {
    let family = family as usize;
    if family >= 3 {
        return None;
    }
    // SAFETY: a map value; both indices are in range. Racing writers write the same number.
    let slot = unsafe { (&raw mut (*row).socket_slots).cast::<u32>().add(what * 3 + family) };
    // SAFETY: as above.
    let known = unsafe { slot.read_volatile() };
    if known != 0 {
        return Some(known);
    }
    let kind = match what {
        SLOT_READ => HistogramKind::SocketRead,
        SLOT_WRITE => HistogramKind::SocketWrite,
        _ => HistogramKind::SocketPickup,
    };
    let key = CellKey { kind: kind as u8, sub: family as u8, service: service as u16, a: 0, b: 0 };
    let fresh = slot_of(&key);
    // SAFETY: as above.
    unsafe { slot.write_volatile(fresh) };
    Some(fresh)
}

/// Data is ready on a socket (Linux 6.3).
#[btf_tracepoint(function = "sk_data_ready")]
pub fn sk_data_ready(ctx: BtfTracePointContext) -> i32 {
    let sock: *const u8 = ctx.arg(0);
    if let Some(connection) = known(Address(sock as u64)) {
        if connection.ready_ns == 0 {
            // SAFETY: a helper without arguments.
            connection.ready_ns = unsafe { bpf_ktime_get_ns() };
        }
    }
    0
}
