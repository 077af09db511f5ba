//! What is seen of cycles beyond their time: those that are told one by one, statements that come again and again, and
//! transactions that wait.

use aya_ebpf::helpers::generated::bpf_get_current_pid_tgid;
use steth_probes::{
    cell::{CounterKind, HistogramKind, Loss, Role},
    message::{Header, Kind, Query, Repeated},
    postgres::{REPEATS, Turn, Wire},
    record::clear,
    watch::{FAILED, SLOW, SUPPRESSED, TRACED, Watch},
};

use super::sink::{Sink, key};
use crate::{
    cells::{count, lost, send, slot_of, trace},
    kernel::{Address, setting},
    maps::{SERVICE_WATCHES, WATCH},
    socket,
};

impl Sink {
    /// A transaction waited for its next cycle.
    #[inline(never)]
    pub fn waited(&mut self, ns: u64) {
        let (service, role) = (self.walk().service, self.walk().role as u8);
        // SAFETY: a map value.
        let entry = unsafe { &mut *self.entry };
        if entry.wait_slot == 0 {
            entry.wait_slot = slot_of(&key(HistogramKind::PostgresWait, role, service, entry.wire.database, 0));
        }
        self.observe(entry.wait_slot, ns);
    }

    /// Counts a cycle that has just ended among those of its burst.
    #[inline(always)]
    pub fn repeat(&mut self, watch: &Watch, wire: &Wire, statement: u32, duration_ns: u64) {
        let turn = Turn::of(wire, watch.gap_ns);
        // SAFETY: a map value.
        let burst = unsafe { &mut (*self.entry).burst };
        if turn != Turn::WITHIN || !burst.again(statement, duration_ns) {
            self.turn(turn.begins, turn.ends, statement, duration_ns);
        }
    }

    /// Counts a cycle with which a burst begins or ends, or another statement than the last one, or one to be told.
    #[inline(never)]
    fn turn(&mut self, begins: bool, ends: bool, statement: u32, duration_ns: u64) {
        let Some(watch) = WATCH.get(0) else { return };
        if begins {
            self.tell_ended(watch);
        }
        // SAFETY: a map value.
        let entry = unsafe { &mut *self.entry };
        let begun_ns = entry.wire.ended().begun_ns;
        if entry.burst.count(statement, begun_ns, duration_ns, watch.repeats) {
            self.tell_repeat(0, false);
        }
        if ends {
            self.tell_ended(watch);
        }
    }

    /// The conversation ends, and with it the burst.
    #[inline(never)]
    pub fn end_burst(&mut self) {
        if let Some(watch) = WATCH.get(0) {
            self.tell_ended(watch);
        }
    }

    /// A burst is over: what was told of it is told once more. Within its callers: calls may be eight deep.
    #[inline(always)]
    fn tell_ended(&mut self, watch: &Watch) {
        // SAFETY: a map value.
        let entry = unsafe { &mut *self.entry };
        for at in 0..REPEATS {
            if entry.burst.is_told(at, watch.repeats) {
                self.tell_repeat(at as u32, true);
            }
        }
        clear(&mut entry.burst);
    }

    /// Tells of a statement that came again and again.
    #[inline(never)]
    fn tell_repeat(&mut self, at: u32, ended: bool) -> Option<()> {
        let walk = self.walk();
        // SAFETY: a map value.
        let entry = unsafe { &*self.entry };
        let wire = &entry.wire;
        let repeat = entry.burst.repeats.get(at as usize)?;
        let first = repeat.count == WATCH.get(0)?.repeats;
        if first && !ended {
            let role = walk.role as u8;
            count(CounterKind::PostgresRepeat, role, walk.service, wire.database, repeat.statement, 1);
        }
        // SAFETY: this CPU's own work space; a helper without arguments.
        let record = unsafe { &mut (*self.scratch).repeated };
        clear(record);
        record.header = Header { kind: Kind::Repeated as u32, text_len: 0, at_ns: walk.ended_ns };
        record.begun_ns = entry.burst.begun_ns;
        record.busy_ns = repeat.ns;
        record.connection = entry.connection;
        record.statement = repeat.statement;
        record.count = repeat.count;
        record.service = walk.service;
        record.database = wire.database;
        record.user = wire.user;
        // SAFETY: a helper without arguments.
        record.pid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
        record.role = walk.role as u8;
        record.ended = ended as u8;
        record.peer = socket::known(Address(entry.sock)).map_or(0, |connection| connection.peer);
        send(core::ptr::from_ref(record).cast(), size_of::<Repeated>() as u64);
        None
    }

    /// Tells of the cycle that has just ended, if it is to be told.
    #[inline(never)]
    pub fn report(&mut self, statement: u32, duration_ns: u64, first_byte_ns: u64) -> Option<()> {
        let walk = self.walk();
        // SAFETY: a map value.
        let entry = unsafe { &*self.entry };
        let wire = &entry.wire;
        let failed = wire.failed != 0;
        if failed {
            count(CounterKind::PostgresFailed, walk.role as u8, walk.service, wire.database, statement, 1);
        }
        // SAFETY: a helper without arguments.
        let pid_tgid = unsafe { bpf_get_current_pid_tgid() };
        let pid = (pid_tgid >> 32) as u32;
        // SAFETY: a map value. Two CPUs may race for a token; then one cycle more is told.
        let service = unsafe { &mut *SERVICE_WATCHES.get_ptr_mut(walk.service)? };
        let why = WATCH.get(0)?.look(service, pid, duration_ns, failed, walk.ended_ns);
        if why & SUPPRESSED != 0 {
            lost(Loss::QueriesSuppressed);
        }
        let told = why & (SLOW | FAILED) != 0 && why & SUPPRESSED == 0;
        if !told && why & TRACED == 0 {
            return None;
        }
        // SAFETY: this CPU's own work space.
        let record = unsafe { &mut (*self.scratch).query };
        clear(record);
        record.header = Header { kind: Kind::Query as u32, text_len: 0, at_ns: walk.ended_ns };
        record.begun_ns = wire.ended().begun_ns;
        record.duration_ns = duration_ns;
        record.first_byte_ns = first_byte_ns;
        record.connection = entry.connection;
        record.statement = statement;
        record.statements = wire.ended().executions as u32;
        record.rows = entry.rows;
        record.sqlstate = if failed { entry.sqlstate } else { 0 };
        record.service = walk.service;
        record.database = wire.database;
        record.user = wire.user;
        record.pid = pid;
        record.tid = pid_tgid as u32;
        record.role = walk.role as u8;
        record.transaction = wire.down.note;
        record.why = why;
        if setting!(wall) != 0 && walk.role == Role::Server as u32 {
            // SAFETY: this CPU's own work space.
            let split = unsafe { &(*self.scratch).split };
            record.tell_split(split);
        }
        if let Some(connection) = socket::known(Address(entry.sock)) {
            record.peer = connection.peer;
            record.port = connection.port;
            record.family = connection.family;
        }
        let bytes = core::ptr::from_ref(record).cast();
        if told {
            send(bytes, size_of::<Query>() as u64);
        }
        if why & TRACED != 0 {
            trace(bytes, size_of::<Query>() as u64);
        }
        None
    }
}
