//! TCP: how connections begin and end, their round-trip times, what is sent again or reset, and the bytes.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use steth_probes::{
    cell::{ConnectOutcome, CounterKind, Direction, HistogramKind, Loss},
    message::TcpEvent,
    offsets::ABSENT,
    socket::{Connection, PeerKey, tcp_state},
};

use crate::{
    cells::{Numbers, count, lost, next_number, observe},
    identity::current_state,
    kernel::{Address, Known, offset, setting},
    maps::{CONNECTIONS, PEERS, SERVICE_ROWS},
    postgres,
    socket::{self, Call, Origin},
    tls, trace,
};

const AF_INET: u16 = 2;
const IPPROTO_TCP: u16 = 6;
/// `sk_shutdown`: the peer has sent its FIN.
pub const RCV_SHUTDOWN: u8 = 1;
/// Who called is not seen of a connection that was there before; ports from here on are given to callers
/// (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: u16 = 32_768;
const ECONNREFUSED: i32 = 111;
const ETIMEDOUT: i32 = 110;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

/// The state of a connection changes.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let sock = Known(ctx.arg::<*const u8>(0));
    if sock.load::<u16>(offset!(sock_protocol)) != IPPROTO_TCP {
        return 0;
    }
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    changed(sock, old as u8, new as u8, now_ns);
    0
}

#[inline(always)]
fn changed(sock: Known, old: u8, new: u8, now_ns: u64) -> Option<()> {
    match new {
        tcp_state::SYN_SENT | tcp_state::LISTEN => {
            // Only here is the current task the one that owns the socket.
            let service = current_state()?.service;
            if is_left_out(service) {
                return None;
            }
            begin(sock, service, new, now_ns, Origin::Begun)?.pid = current_pid();
        }
        tcp_state::SYN_RECV => {}
        tcp_state::ESTABLISHED if old == tcp_state::SYN_RECV => {
            begin(sock, 0, new, now_ns, Origin::Called)?.established_ns = now_ns;
        }
        tcp_state::CLOSE => end(sock, old, now_ns)?,
        _ => {
            let connection = socket::known(sock.address())?;
            connection.tcp_state = new;
            if old == tcp_state::SYN_SENT {
                observe_connect(connection, ConnectOutcome::Established, now_ns);
            }
        }
    }
    None
}

#[inline(always)]
fn current_pid() -> u32 {
    // SAFETY: a helper without arguments.
    (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32
}

/// Whether a service is left out of the figures.
#[inline(always)]
fn is_left_out(service: u32) -> bool {
    SERVICE_ROWS.get(service).is_some_and(|row| row.excluded != 0)
}

/// Whatever an earlier socket left at this address is replaced.
#[inline(always)]
fn begin(sock: Known, service: u32, state: u8, now_ns: u64, origin: Origin) -> Option<&'static mut Connection> {
    let connection = socket::create(sock.address(), 0, service, now_ns, origin)?;
    connection.tcp_state = state;
    Some(connection)
}

/// Apart, because Linux 6.1 counts the stack of all calls under way in steps of 32 bytes, and 512 are few.
#[inline(never)]
fn end(sock: Known, old: u8, now_ns: u64) -> Option<()> {
    let connection = socket::known(sock.address())?;
    if old == tcp_state::SYN_SENT {
        let outcome = match sock.load::<i32>(offset!(sock_error)) {
            ECONNREFUSED => ConnectOutcome::Refused,
            ETIMEDOUT => ConnectOutcome::TimedOut,
            ENETUNREACH | EHOSTUNREACH => ConnectOutcome::Unreachable,
            _ => ConnectOutcome::Aborted,
        };
        observe_connect(connection, outcome, now_ns);
    } else if old != tcp_state::LISTEN && !is_left_out(connection.service) {
        sample(sock.address(), connection);
        reconcile(sock.address(), connection);
        let (service, peer, ns) = (connection.service, connection.peer, now_ns.saturating_sub(connection.opened_ns));
        observe(HistogramKind::TcpLifetime, 0, service, peer, 0, ns);
        trace::tcp(TcpEvent::Closed, connection, ns);
    }
    if setting!(postgres) != 0 {
        tls::ended(connection);
        postgres::closed(sock.address(), now_ns);
    }
    let _ = CONNECTIONS.remove(&sock.address().0);
    None
}

#[inline(always)]
fn observe_connect(connection: &Connection, outcome: ConnectOutcome, now_ns: u64) {
    let ns = now_ns.saturating_sub(connection.opened_ns);
    observe(HistogramKind::TcpConnect, outcome as u8, connection.service, connection.peer, 0, ns);
    let event = match outcome {
        ConnectOutcome::Established => TcpEvent::Connected,
        ConnectOutcome::Refused => TcpEvent::Refused,
        ConnectOutcome::TimedOut => TcpEvent::TimedOut,
        ConnectOutcome::Unreachable => TcpEvent::Unreachable,
        ConnectOutcome::Aborted => TcpEvent::Aborted,
    };
    trace::tcp(event, connection, ns);
}

/// Fills in what a TCP socket says of itself.
#[inline(always)]
pub fn describe(sock: Address, connection: &mut Connection) -> Option<()> {
    connection.tcp_state = sock.read::<u8>(offset!(sock_state))?;
    connection.port = sock.read::<u16>(offset!(sock_port))?;
    if connection.tcp_state == tcp_state::LISTEN {
        connection.dropped_seen = if offset!(sock_drops) == ABSENT { 0 } else { sock.read(offset!(sock_drops))? };
        return None;
    }
    if connection.complete == 0 {
        connection.incoming = called(sock, connection.port)? as u8;
    }
    connection.peer = peer_of(sock, connection.incoming != 0);
    None
}

/// Whether the peer called, as far as ports tell.
#[inline(always)]
fn called(sock: Address, port: u16) -> Option<bool> {
    let peer_port = u16::from_be(sock.read(offset!(sock_peer_port))?);
    Some(peer_port >= EPHEMERAL && port < EPHEMERAL)
}

/// The peer's number. A peer that called is known by its address alone, one that was called by its port, too.
#[inline(never)]
fn peer_of(sock: Address, incoming: bool) -> u32 {
    try_peer_of(sock, incoming).unwrap_or(0)
}

#[inline(always)]
fn try_peer_of(sock: Address, incoming: bool) -> Option<u32> {
    let mut key = PeerKey::zeroed();
    if sock.read::<u16>(offset!(sock_family))? == AF_INET {
        key.address[10] = 0xFF;
        key.address[11] = 0xFF;
        let address: [u8; 4] = sock.read(offset!(sock_peer_v4))?;
        key.address[12] = address[0];
        key.address[13] = address[1];
        key.address[14] = address[2];
        key.address[15] = address[3];
    } else {
        key.address = sock.read(offset!(sock_peer_v6))?;
    }
    if !incoming {
        key.port = u16::from_be(sock.read(offset!(sock_peer_port))?);
    }
    Some(peer_number(&key))
}

#[inline(always)]
fn peer_number(key: &PeerKey) -> u32 {
    // SAFETY: the value is copied at once.
    if let Some(number) = unsafe { PEERS.get(key) } {
        return *number;
    }
    let Some(number) = next_number(Numbers::Peers, 1, setting!(peers)) else {
        lost(Loss::PeersFull);
        return 0;
    };
    if PEERS.insert(key, &number, BPF_NOEXIST.into()).is_ok() {
        return number;
    }
    // SAFETY: as above.
    unsafe { PEERS.get(key) }.copied().unwrap_or(0)
}

/// `accept` returned a connection: the service is known now, and how long it stood in the queue.
#[inline(always)]
pub fn accepted(call: &Call) -> Option<()> {
    if let Some((listener, inode)) = socket::find(call.descriptor) {
        socket::known_or_new(listener, inode, call.service, call.now_ns, false)?.service = call.service;
    }
    let (sock, inode) = socket::find(call.result as u32)?;
    let connection = socket::known_or_new(sock, inode, call.service, call.now_ns, false)?;
    connection.service = call.service;
    connection.pid = current_pid();
    if connection.established_ns != 0 {
        let ns = call.now_ns.saturating_sub(connection.established_ns);
        connection.established_ns = 0;
        observe(HistogramKind::TcpAcceptQueue, connection.family, call.service, connection.port as u32, 0, ns);
        trace::tcp(TcpEvent::Accepted, connection, ns);
    }
    None
}

/// Not attached: the agent runs it for each listener whose figures it reads. Counts what the listener dropped since it was
/// last looked at: its queue was full.
#[raw_tracepoint(tracepoint = "listener_drops")]
pub fn listener_drops(ctx: RawTracePointContext) -> i32 {
    try_listener_drops(&ctx);
    0
}

#[inline(always)]
fn try_listener_drops(ctx: &RawTracePointContext) -> Option<()> {
    let sock = Address(ctx.arg(0));
    let connection = socket::known(sock)?;
    if offset!(sock_drops) == ABSENT || connection.tcp_state != tcp_state::LISTEN {
        return None;
    }
    let dropped: u32 = sock.read(offset!(sock_drops))?;
    let more = dropped.wrapping_sub(connection.dropped_seen);
    connection.dropped_seen = dropped;
    if more != 0 && !is_left_out(connection.service) {
        count(CounterKind::TcpListenDrop, 0, connection.service, connection.port as u32, 0, more as u64);
    }
    None
}

/// Puts round-trip time and bytes into cells.
#[inline(never)]
pub fn sample(sock: Address, connection: &mut Connection) -> Option<()> {
    let (service, peer) = (connection.service, connection.peer);
    // Eighths of a microsecond; 0 before the first measurement.
    let srtt: u32 = sock.read(offset!(tcp_srtt))?;
    if srtt != 0 {
        observe(HistogramKind::TcpRtt, 0, service, peer, 0, srtt as u64 * 125);
    }
    let (received, sent) = (connection.received_bytes, connection.sent_bytes);
    connection.received_bytes = 0;
    connection.sent_bytes = 0;
    connection.received_counted += received;
    connection.sent_counted += sent;
    count_bytes(connection, received, sent);
    None
}

/// At the end, the kernel's own counts settle what went past the calls that are followed: `sendfile`, io_uring.
#[inline(always)]
fn reconcile(sock: Address, connection: &mut Connection) -> Option<()> {
    // The kernel counts the peer's FIN as a byte received.
    let fin = (sock.read::<u8>(offset!(sock_shutdown))? & RCV_SHUTDOWN) as u64;
    let received = sock.read::<u64>(offset!(tcp_bytes_received))?.saturating_sub(fin);
    let sent: u64 = sock.read::<u64>(offset!(tcp_bytes_sent))?.wrapping_sub(sock.read(offset!(tcp_bytes_resent))?);
    // Of a connection that was there before the agent, an unknown part went by uncounted.
    if connection.complete != 0 {
        count_bytes(
            connection,
            received.saturating_sub(connection.received_counted),
            sent.saturating_sub(connection.sent_counted),
        );
        connection.received_counted = received;
        connection.sent_counted = sent;
    }
    None
}

#[inline(always)]
fn count_bytes(connection: &Connection, received: u64, sent: u64) {
    let (service, peer) = (connection.service, connection.peer);
    if received != 0 {
        count(CounterKind::TcpBytes, Direction::Received as u8, service, peer, 0, received);
    }
    if sent != 0 {
        count(CounterKind::TcpBytes, Direction::Sent as u8, service, peer, 0, sent);
    }
}

/// A segment is sent again.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn tcp_retransmit_skb(ctx: BtfTracePointContext) -> i32 {
    let (service, peer) = ends(ctx.arg::<*const u8>(0)).unwrap_or((0, 0));
    if !is_left_out(service) {
        count(CounterKind::TcpRetransmit, 0, service, peer, 0, 1);
        tell(ctx.arg(0), TcpEvent::Retransmitted, service, peer);
    }
    0
}

/// A reset is sent. The kernel may have no socket for it; then nobody is to be named.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    let (sock, cause): (*const u8, *const u8) = (ctx.arg(0), ctx.arg(1));
    let ends = match ends(sock) {
        // No segment caused it. That there is a socket is for the verifier: it forbids arithmetic with null.
        None if cause.is_null() && !sock.is_null() => ends_of_closed(Address(sock as u64)),
        known => known,
    };
    let (service, peer) = ends.unwrap_or((0, 0));
    if !is_left_out(service) {
        count(CounterKind::TcpReset, Direction::Sent as u8, service, peer, 0, 1);
        tell(sock, TcpEvent::ResetSent, service, peer);
    }
    0
}

/// A reset came in.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    let (service, peer) = ends(ctx.arg::<*const u8>(0)).unwrap_or((0, 0));
    if !is_left_out(service) {
        count(CounterKind::TcpReset, Direction::Received as u8, service, peer, 0, 1);
        tell(ctx.arg(0), TcpEvent::ResetReceived, service, peer);
    }
    0
}

/// Tells whoever traces; of a connection that is not followed, or not any more, what is known of its ends.
#[inline(always)]
fn tell(sock: *const u8, event: TcpEvent, service: u32, peer: u32) {
    if !trace::tells_tcp() {
        return;
    }
    match socket::known(Address(sock as u64)) {
        Some(connection) => trace::tcp(event, connection, 0),
        None => trace::tcp_of_ends(event, service, peer),
    }
}

/// Service and peer of a connection that is followed.
#[inline(always)]
fn ends(sock: *const u8) -> Option<(u32, u32)> {
    // SAFETY: the value is copied at once.
    unsafe { CONNECTIONS.get(&(sock as u64)) }.map(|connection| (connection.service, connection.peer))
}

/// Service and peer of a connection that the current task breaks off with a reset: the kernel reports its end before the
/// reset (Linux 6.18, net/ipv4/tcp.c, `__tcp_close` and `tcp_disconnect`), so it is not followed any more.
#[inline(always)]
fn ends_of_closed(sock: Address) -> Option<(u32, u32)> {
    let port = u16::from_be(sock.read(offset!(sock_source_port))?);
    let peer = peer_of(sock, called(sock, port)?);
    Some((current_state()?.service, peer))
}
