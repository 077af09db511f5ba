//! Postgres: hands what a process read or wrote to the walker of the wire protocol, and puts into cells what that finds.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_ktime_get_ns, bpf_loop, bpf_probe_read_user},
};
use steth_probes::{
    cell::{CellKey, CounterKind, HistogramKind, Loss, Role, TransactionOutcome},
    limits,
    message::{Header, Kind, Number, StatementText},
    postgres::{
        Effects, NAME_LEN, Opening, Phase, STATEMENT_FIRST, STATEMENT_OTHER, STATEMENT_UNKNOWN, STEPS, Source, Step,
        TEXT_LEN, Wire, WireEntry, hash_name, message::Mode, opening, step,
    },
    socket::{Connection, LOOKS, Protocol},
    syscalls::SocketCall,
};

use crate::{
    cells::{ANY, Numbers, count, lost, next_number, observe_slot, send, slot_of, tally_slot},
    kernel::{Address, opaque, read_user, setting},
    maps::{DATABASES, PREPARED, SCRATCH, STATEMENTS, WIRES},
    socket::Call,
};

/// Bytes of user memory that are fetched at a time.
const WINDOW: usize = 256;
const TEXT: usize = TEXT_LEN as usize;

/// Names a prepared statement or a portal of one connection.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PreparedKey {
    pub connection: u64,
    pub name: u64,
}

/// Work space of one CPU.
#[repr(C)]
pub struct Scratch {
    pub connection: Connection,
    pub wire: WireEntry,
    walk: Walk,
    window: [u8; WINDOW],
    text: TextRecord,
    name: NameRecord,
}

#[repr(C)]
struct TextRecord {
    head: StatementText,
    text: [u8; TEXT],
}

#[repr(C)]
struct NameRecord {
    head: Number,
    name: [u8; NAME_LEN],
}

/// Where a walk stands. All of it lies in the work space and not on the stack: what the verifier reads from there it takes
/// for unknown, and so one pass over a step covers all of them.
#[repr(C)]
struct Walk {
    /// Address of the next byte.
    address: u64,
    /// Address of the next buffer's `struct iovec`.
    vector: u64,
    /// When the bytes began to move, and when the call ended.
    begun_ns: u64,
    ended_ns: u64,
    /// Where the current statement's text began in this buffer, and how much of it came before.
    text_address: u64,
    text_offset: u32,
    /// Bytes left in this buffer, and after it.
    left: u32,
    beyond: u32,
    /// Where the next byte stands in the window, and how much of that is filled.
    window_at: u32,
    window_len: u32,
    /// Buffers left.
    vector_left: u32,
    service: u32,
    role: u32,
    /// 1: these bytes go towards the server.
    up: u32,
    /// How it ended: all bytes walked, or not to be understood.
    finished: u32,
    broken: u32,
}

/// What `bpf_loop` hands to each step.
struct Context {
    scratch: *mut Scratch,
    entry: *mut WireEntry,
}

/// Bytes of one read or write as they lie in the process' memory.
struct UserBytes(*mut Scratch);

impl UserBytes {
    #[inline(always)]
    fn walk(&self) -> &'static mut Walk {
        // SAFETY: this CPU's own work space; a program is not interrupted by another that uses it.
        unsafe { &mut (*self.0).walk }
    }

    /// Fetches from the next byte on.
    #[inline(always)]
    fn fill(&mut self) -> bool {
        let walk = self.walk();
        let mut count = walk.left;
        if count > WINDOW as u32 {
            count = WINDOW as u32;
        }
        walk.window_at = 0;
        walk.window_len = 0;
        // SAFETY: this CPU's own work space; `count` is at most the window's length.
        let result = unsafe {
            bpf_probe_read_user((&raw mut (*self.0).window).cast(), opaque(count), walk.address as *const c_void)
        };
        if result == 0 {
            walk.window_len = count;
        }
        result == 0
    }

    #[inline(always)]
    fn window_byte(&self, at: u32) -> u8 {
        // SAFETY: the index is cut to the window; that changes no valid one.
        unsafe { (&raw const (*self.0).window).cast::<u8>().add(at as usize & (WINDOW - 1)).read() }
    }

    /// Goes on to the next buffer; false if there is none.
    #[inline(always)]
    fn next_buffer(&mut self) -> bool {
        let walk = self.walk();
        if walk.beyond == 0 || walk.vector_left == 0 {
            return false;
        }
        let Some([base, length]) = read_user::<[u64; 2]>(walk.vector) else { return false };
        walk.vector += 16;
        walk.vector_left -= 1;
        walk.address = base;
        walk.left = if length > walk.beyond as u64 { walk.beyond } else { length as u32 };
        walk.beyond -= walk.left;
        walk.window_at = 0;
        walk.window_len = 0;
        true
    }
}

impl Source for UserBytes {
    #[inline(always)]
    fn address(&self) -> u64 {
        self.walk().address
    }

    #[inline(always)]
    fn left(&self) -> u32 {
        self.walk().left
    }

    #[inline(always)]
    fn header(&mut self) -> Option<[u8; 5]> {
        let walk = self.walk();
        if walk.left < 5 {
            return None;
        }
        if walk.window_at + 5 > walk.window_len && !self.fill() {
            return None;
        }
        let at = walk.window_at;
        Some([
            self.window_byte(at),
            self.window_byte(at + 1),
            self.window_byte(at + 2),
            self.window_byte(at + 3),
            self.window_byte(at + 4),
        ])
    }

    #[inline(always)]
    fn byte_at(&mut self, offset: u32) -> Option<u8> {
        let walk = self.walk();
        if offset >= walk.left {
            return None;
        }
        if offset != 0 {
            return read_user::<u8>(walk.address + offset as u64);
        }
        if walk.window_at >= walk.window_len && !self.fill() {
            return None;
        }
        Some(self.window_byte(walk.window_at))
    }

    #[inline(always)]
    fn advance(&mut self, count: u32) {
        let walk = self.walk();
        walk.address += count as u64;
        walk.left = walk.left.saturating_sub(count);
        walk.window_at = walk.window_at.saturating_add(count);
    }
}

/// What the walker's findings are put into.
struct Sink {
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
    *walk = Walk {
        address: call.buffer,
        vector: 0,
        begun_ns: if call.call.is_read() { call.now_ns } else { call.entered_ns },
        ended_ns: call.now_ns,
        text_address: 0,
        text_offset: 0,
        left: moved,
        beyond: 0,
        window_at: 0,
        window_len: 0,
        vector_left: 0,
        service: call.service,
        role: 0,
        up: 0,
        finished: 0,
        broken: 0,
    };
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
    *fresh = WireEntry::zeroed();
    fresh.wire.start(role as u8, opening);
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
            walk.finished = 1;
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

impl Sink {
    #[inline(always)]
    fn walk(&self) -> &'static mut Walk {
        UserBytes(self.scratch).walk()
    }

    /// Sends on what this buffer holds of a statement that goes on in the next one.
    #[inline(always)]
    fn piece(&mut self, wire: &Wire) {
        let walk = self.walk();
        if wire.up.mode == Mode::Text as u8 && wire.up.text_len > walk.text_offset {
            self.send_text(STATEMENT_UNKNOWN, wire.up.text_len, false);
            walk.text_offset = wire.up.text_len;
        }
    }

    /// Sends the text from `text_offset` to `length`; false if there was no room.
    #[inline(always)]
    fn send_text(&mut self, statement: u32, length: u32, cut: bool) -> bool {
        let walk = self.walk();
        // SAFETY: this CPU's own work space.
        let record = unsafe { &mut (*self.scratch).text };
        let mut size = opaque(length.saturating_sub(walk.text_offset));
        if size > TEXT_LEN {
            size = TEXT_LEN;
        }
        // SAFETY: helpers; `size` is at most the text's length.
        let (read, at_ns) = unsafe {
            (
                bpf_probe_read_user(record.text.as_mut_ptr().cast(), size, walk.text_address as *const c_void),
                bpf_ktime_get_ns(),
            )
        };
        if read != 0 {
            lost(Loss::UserMemoryUnreadable);
            return false;
        }
        record.head = StatementText {
            header: Header { kind: Kind::StatementText as u32, text_len: size, at_ns },
            // SAFETY: a map value.
            stream: unsafe { (*self.entry).connection },
            statement,
            offset: walk.text_offset,
            cut: cut as u32,
            _pad: 0,
        };
        let whole = size_of::<StatementText>() + size as usize;
        if whole > size_of::<TextRecord>() {
            return false;
        }
        send(core::ptr::from_ref(record).cast(), whole as u64)
    }

    #[inline(always)]
    fn slots(&mut self, database: u32, statement: u32) -> (u32, u32) {
        let (service, role) = (self.walk().service, self.walk().role as u8);
        // SAFETY: a map value.
        let entry = unsafe { &mut *self.entry };
        if entry.statement != statement || entry.service != service || entry.query_slot == 0 {
            let mut key = CellKey {
                kind: HistogramKind::PostgresQuery as u8,
                sub: role,
                service: service as u16,
                a: database,
                b: statement,
            };
            entry.query_slot = slot_of(&key);
            key.kind = HistogramKind::PostgresFirstByte as u8;
            entry.first_byte_slot = slot_of(&key);
            if entry.service != service {
                entry.commit_slot = 0;
            }
            entry.statement = statement;
            entry.service = service;
        }
        (entry.query_slot, entry.first_byte_slot)
    }
}

impl Effects for Sink {
    #[inline(always)]
    fn text_begins<S: Source>(&mut self, source: &S) {
        let walk = self.walk();
        walk.text_address = source.address();
        walk.text_offset = 0;
    }

    #[inline(always)]
    fn statement(&mut self, shape: u64, length: u32, cut: bool) -> u32 {
        // SAFETY: the value is copied at once.
        if let Some(statement) = unsafe { STATEMENTS.get(&shape) } {
            return *statement;
        }
        if cut {
            lost(Loss::StatementCut);
        }
        let Some(statement) = next_number(Numbers::Statements, STATEMENT_FIRST, setting!(statements)) else {
            lost(Loss::NamesFull);
            return STATEMENT_OTHER;
        };
        // The text goes first: a number without a text would stay nameless for good.
        if !self.send_text(statement, length, cut) {
            return STATEMENT_UNKNOWN;
        }
        if STATEMENTS.insert(&shape, &statement, BPF_NOEXIST.into()).is_ok() {
            return statement;
        }
        // SAFETY: as above. Another CPU was faster.
        unsafe { STATEMENTS.get(&shape) }.copied().unwrap_or(STATEMENT_UNKNOWN)
    }

    #[inline(always)]
    fn batch(&mut self, hash: u64) -> u32 {
        // SAFETY: the value is copied at once.
        if let Some(statement) = unsafe { STATEMENTS.get(&hash) } {
            return *statement;
        }
        let Some(statement) = next_number(Numbers::Statements, STATEMENT_FIRST, setting!(statements)) else {
            lost(Loss::NamesFull);
            return STATEMENT_OTHER;
        };
        // SAFETY: a helper without arguments.
        let at_ns = unsafe { bpf_ktime_get_ns() };
        let record = Number {
            header: Header { kind: Kind::Batch as u32, text_len: 0, at_ns },
            hash,
            number: statement,
            _pad: 0,
        };
        if !send((&raw const record).cast(), size_of::<Number>() as u64) {
            return STATEMENT_UNKNOWN;
        }
        let _ = STATEMENTS.insert(&hash, &statement, BPF_NOEXIST.into());
        statement
    }

    #[inline(always)]
    fn prepared(&mut self, name: u64) -> u32 {
        // SAFETY: map values; the statement is copied at once.
        unsafe {
            let key = PreparedKey { connection: (*self.entry).connection, name };
            PREPARED.get(&key).copied().unwrap_or(STATEMENT_UNKNOWN)
        }
    }

    #[inline(always)]
    fn prepare(&mut self, name: u64, statement: u32) {
        // SAFETY: a map value.
        let key = PreparedKey { connection: unsafe { (*self.entry).connection }, name };
        if PREPARED.insert(&key, &statement, ANY).is_err() {
            lost(Loss::PreparedFull);
        }
    }

    #[inline(always)]
    fn forget(&mut self, name: u64) {
        // SAFETY: a map value.
        let key = PreparedKey { connection: unsafe { (*self.entry).connection }, name };
        let _ = PREPARED.remove(&key);
    }

    #[inline(always)]
    fn database(&mut self, name: &[u8; NAME_LEN], length: u8) -> u32 {
        let hash = hash_name(name);
        // SAFETY: the value is copied at once.
        if let Some(database) = unsafe { DATABASES.get(&hash) } {
            return *database;
        }
        let Some(database) = next_number(Numbers::Databases, 1, setting!(databases)) else {
            lost(Loss::NamesFull);
            return 0;
        };
        // SAFETY: this CPU's own work space; a helper without arguments.
        let record = unsafe { &mut (*self.scratch).name };
        // SAFETY: a helper without arguments.
        let at_ns = unsafe { bpf_ktime_get_ns() };
        record.head = Number {
            header: Header { kind: Kind::DatabaseName as u32, text_len: length as u32, at_ns },
            hash,
            number: database,
            _pad: 0,
        };
        record.name = *name;
        if !send(core::ptr::from_ref(record).cast(), size_of::<NameRecord>() as u64) {
            return 0;
        }
        let _ = DATABASES.insert(&hash, &database, BPF_NOEXIST.into());
        database
    }

    #[inline(always)]
    fn query(&mut self, wire: &Wire, statement: u32, duration_ns: u64, first_byte_ns: u64) {
        let (query, first_byte) = self.slots(wire.database, statement);
        observe_slot(query, duration_ns);
        observe_slot(first_byte, first_byte_ns);
    }

    #[inline(always)]
    fn statement_done(&mut self, wire: &Wire, statement: u32, rows: u32) {
        let (query, _) = self.slots(wire.database, statement);
        tally_slot(query, [1, rows as u64]);
    }

    #[inline(always)]
    fn error(&mut self, wire: &Wire, sqlstate: u32) {
        let (service, role) = (self.walk().service, self.walk().role as u8);
        count(CounterKind::PostgresError, role, service, wire.database, sqlstate, 1);
    }

    #[inline(always)]
    fn transaction(&mut self, wire: &Wire, outcome: TransactionOutcome, duration_ns: u64) {
        let (service, role) = (self.walk().service, self.walk().role as u8);
        // SAFETY: a map value.
        let entry = unsafe { &mut *self.entry };
        let commit = outcome == TransactionOutcome::Commit;
        if commit && entry.commit_slot != 0 && entry.service == service {
            observe_slot(entry.commit_slot, duration_ns);
            return;
        }
        let slot = slot_of(&CellKey {
            kind: HistogramKind::PostgresTransaction as u8,
            sub: role,
            service: service as u16,
            a: wire.database,
            b: outcome as u32,
        });
        if commit {
            entry.commit_slot = slot;
        }
        observe_slot(slot, duration_ns);
    }

    #[inline(always)]
    fn lost(&mut self, loss: Loss) {
        lost(loss);
    }
}
