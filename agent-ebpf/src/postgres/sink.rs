//! What the walker of the wire protocol finds goes into cells, maps and records here.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_user},
};
use steth_probes::{
    cell::{CellKey, CounterKind, HistogramKind, Loss, Role, TransactionOutcome},
    message::{Header, Kind, Number, StatementText},
    postgres::{
        Cycle, Effects, Mode, NAME_LEN, PUT_OFF_AT_ONCE, PutOffKey, STATEMENT_FIRST, STATEMENT_OTHER,
        STATEMENT_UNKNOWN, Source, TEXT_LEN, Wire, WireEntry, hash_name,
    },
};

use super::{
    noted,
    scratch::{NameRecord, PreparedKey, Scratch, TextRecord, Walk},
    source::UserBytes,
};
use crate::{
    cells::{
        ANY, Numbers, count, lost, lost_several, next_number, observe_slot, observe_slot_shared, ring_has_room, send,
        slot_of, tally_slot, tally_slot_shared,
    },
    kernel::{opaque, setting},
    maps::{CYCLES_PUT_OFF, DATABASES, PREPARED, STATEMENTS, WATCH},
};

/// What the walker's findings are put into.
pub struct Sink {
    pub scratch: *mut Scratch,
    pub entry: *mut WireEntry,
}

impl Sink {
    #[inline(always)]
    pub fn walk(&self) -> &'static mut Walk {
        UserBytes(self.scratch).walk()
    }

    #[inline(always)]
    pub fn observe(&self, slot: u32, ns: u64) {
        if self.walk().shared == 0 {
            observe_slot(slot, ns);
        } else {
            observe_slot_shared(slot, ns);
        }
    }

    /// Sends on what this buffer holds of a statement that goes on in the next one.
    #[inline(always)]
    pub fn piece(&mut self, wire: &Wire) {
        let walk = self.walk();
        if wire.up.mode == Mode::Text as u8 && wire.up.text_len > walk.text_offset {
            self.send_text(STATEMENT_UNKNOWN, wire.up.text_len, false);
            walk.text_offset = wire.up.text_len;
        }
    }

    /// Sends the text from `text_offset` to `length`; false if there was no room.
    #[inline(never)]
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

    /// Gives a number to a statement that was not met before.
    #[inline(never)]
    fn new_statement(&mut self, shape: u64, length: u32, cut: bool) -> u32 {
        if cut {
            lost(Loss::StatementCut);
        }
        // Numbers are not given back: none is taken for a text that would not get through.
        if !ring_has_room() {
            lost(Loss::RingFull);
            return STATEMENT_UNKNOWN;
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
        // SAFETY: the value is copied at once. Another CPU was faster.
        unsafe { STATEMENTS.get(&shape) }.copied().unwrap_or(STATEMENT_UNKNOWN)
    }

    #[inline(always)]
    fn slots(&mut self, database: u32, statement: u32) -> (u32, u32) {
        let service = self.walk().service;
        // SAFETY: a map value.
        let entry = unsafe { &mut *self.entry };
        if entry.statement != statement || entry.service != service || entry.query_slot == 0 {
            self.find_slots(database, statement);
        }
        (entry.query_slot, entry.first_byte_slot)
    }

    /// Looks up what the conversation remembers of its last statement. Apart, as all here that is rare.
    #[inline(never)]
    fn find_slots(&mut self, database: u32, statement: u32) {
        let (service, role) = (self.walk().service, self.walk().role as u8);
        // SAFETY: a map value.
        let entry = unsafe { &mut *self.entry };
        let mut key = CellKey {
            kind: HistogramKind::PostgresQuery as u8,
            sub: role,
            service: service as u16,
            a: database,
            b: STATEMENT_OTHER,
        };
        // First, so that a statement without a cell of its own can always be counted under this one.
        let other_query = slot_of(&key);
        key.b = statement;
        let own_query = slot_of(&key);
        entry.query_slot = if own_query == 0 { other_query } else { own_query };
        key.kind = HistogramKind::PostgresFirstByte as u8;
        key.b = STATEMENT_OTHER;
        let other_first = slot_of(&key);
        key.b = statement;
        let own_first = slot_of(&key);
        entry.first_byte_slot = if own_first == 0 { other_first } else { own_first };
        if entry.service != service {
            entry.commit_slot = 0;
            entry.wait_slot = 0;
        }
        entry.statement = statement;
        entry.service = service;
    }

    #[inline(never)]
    fn find_prepared(&mut self, name: u64) {
        // SAFETY: a map value.
        let entry = unsafe { &mut *self.entry };
        let key = PreparedKey { names: entry.names, name };
        // SAFETY: the value is copied at once.
        entry.prepared = unsafe { PREPARED.get(&key) }.copied().unwrap_or(STATEMENT_UNKNOWN);
        entry.prepared_name = name;
    }

    #[inline(always)]
    fn put_off_key(&self, number: u32) -> PutOffKey {
        // SAFETY: a map value.
        PutOffKey { connection: unsafe { (*self.entry).connection }, number, _pad: 0 }
    }

    #[inline(never)]
    fn find_transaction(&mut self, database: u32, outcome: u32) -> u32 {
        let (service, role) = (self.walk().service, self.walk().role as u8);
        let kind = HistogramKind::PostgresTransaction as u8;
        let slot = slot_of(&CellKey { kind, sub: role, service: service as u16, a: database, b: outcome });
        if outcome == TransactionOutcome::Commit as u32 {
            // SAFETY: a map value.
            unsafe { (*self.entry).commit_slot = slot };
        }
        slot
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
        match unsafe { STATEMENTS.get(&shape) } {
            Some(statement) => *statement,
            None => self.new_statement(shape, length, cut),
        }
    }

    #[inline(never)]
    fn batch(&mut self, hash: u64) -> u32 {
        // SAFETY: the value is copied at once.
        match unsafe { STATEMENTS.get(&hash) } {
            Some(statement) => *statement,
            None => new_batch(hash),
        }
    }

    #[inline(always)]
    fn prepared(&mut self, name: u64) -> u32 {
        // SAFETY: a map value.
        let entry = unsafe { &mut *self.entry };
        if entry.prepared_name != name {
            self.find_prepared(name);
        }
        entry.prepared
    }

    #[inline(always)]
    fn prepare(&mut self, name: u64, statement: u32) {
        // SAFETY: a map value.
        let entry = unsafe { &mut *self.entry };
        entry.prepared_name = 0;
        if PREPARED.insert(&PreparedKey { names: entry.names, name }, &statement, ANY).is_err() {
            lost(Loss::PreparedFull);
        }
    }

    #[inline(always)]
    fn forget(&mut self, name: u64) {
        // SAFETY: a map value.
        let entry = unsafe { &mut *self.entry };
        entry.prepared_name = 0;
        let _ = PREPARED.remove(&PreparedKey { names: entry.names, name });
    }

    #[inline(always)]
    fn forget_all(&mut self) {
        let ended_ns = self.walk().ended_ns;
        // SAFETY: a map value.
        let entry = unsafe { &mut *self.entry };
        entry.prepared_name = 0;
        // The names stay in the map until they are its least used, but nobody asks under this number again.
        entry.names = entry.names.rotate_left(1) ^ ended_ns;
    }

    #[inline(always)]
    fn noted(&mut self) -> u32 {
        noted::noted(self).unwrap_or(STATEMENT_UNKNOWN)
    }

    #[inline(always)]
    fn put_off(&mut self, number: u32, cycle: &Cycle) -> bool {
        let walk = self.walk();
        walk.put_off += 1;
        // Each is written into a map, while a process waits.
        if walk.put_off > PUT_OFF_AT_ONCE {
            return false;
        }
        CYCLES_PUT_OFF.insert(&self.put_off_key(number), cycle, ANY).is_ok()
    }

    #[inline(always)]
    fn take_up(&mut self, number: u32) -> Option<Cycle> {
        let key = self.put_off_key(number);
        // SAFETY: the value is copied at once.
        let cycle = unsafe { CYCLES_PUT_OFF.get(&key) }.copied();
        let _ = CYCLES_PUT_OFF.remove(&key);
        cycle
    }

    #[inline(always)]
    fn database(&mut self, name: &[u8; NAME_LEN], length: u8, new: bool) -> u32 {
        database(self.scratch, name, length, new)
    }

    #[inline(always)]
    fn query(&mut self, wire: &Wire, statement: u32, duration_ns: u64, first_byte_ns: u64) {
        let (query, first_byte) = self.slots(wire.database, statement);
        self.observe(query, duration_ns);
        self.observe(first_byte, first_byte_ns);
        if setting!(wall) != 0 && self.walk().role == Role::Server as u32 {
            self.split(wire, duration_ns);
            self.add_split(wire, statement);
        }
        let waited_ns = wire.waited_ns();
        if waited_ns != 0 {
            self.waited(waited_ns);
        }
        if let Some(watch) = WATCH.get(0) {
            if watch.is_worth_a_look(duration_ns, wire.failed != 0) {
                self.report(statement, duration_ns, first_byte_ns);
            }
            self.repeat(watch, wire, statement, duration_ns);
        }
        // SAFETY: a map value.
        unsafe { (*self.entry).rows = 0 };
    }

    #[inline(always)]
    fn refused(&mut self, wire: &Wire, statement: u32, duration_ns: u64) {
        if setting!(wall) != 0 && self.walk().role == Role::Server as u32 {
            self.split(wire, duration_ns);
        }
        self.report(statement, duration_ns, duration_ns);
    }

    #[inline(always)]
    fn connected(&mut self, wire: &Wire, ns: u64) {
        if setting!(wall) != 0 && self.walk().role == Role::Server as u32 {
            // From here on it serves nothing.
            self.split(wire, ns);
        }
        let (service, role) = (self.walk().service, self.walk().role as u8);
        self.observe(slot_of(&key(HistogramKind::PostgresConnect, role, service, wire.database, 0)), ns);
    }

    #[inline(always)]
    fn closing(&mut self, _wire: &Wire) {
        self.end_burst();
    }

    #[inline(always)]
    fn statement_done(&mut self, wire: &Wire, statement: u32, rows: u32) {
        let (query, _) = self.slots(wire.database, statement);
        if self.walk().shared == 0 {
            tally_slot(query, [1, rows as u64]);
        } else {
            tally_slot_shared(query, [1, rows as u64]);
        }
        // SAFETY: a map value.
        let entry = unsafe { &mut *self.entry };
        entry.rows = entry.rows.wrapping_add(rows);
    }

    #[inline(never)]
    fn error(&mut self, wire: &Wire, sqlstate: u32) {
        let (service, role) = (self.walk().service, self.walk().role as u8);
        count(CounterKind::PostgresError, role, service, wire.database, sqlstate, 1);
        // SAFETY: a map value.
        unsafe { (*self.entry).sqlstate = sqlstate };
        if wire.is_logging_in() {
            count(CounterKind::PostgresLoginFailure, role, service, wire.database, sqlstate, 1);
        }
    }

    #[inline(always)]
    fn transaction(&mut self, wire: &Wire, outcome: TransactionOutcome, duration_ns: u64) {
        let service = self.walk().service;
        // SAFETY: a map value.
        let entry = unsafe { &mut *self.entry };
        let known = outcome == TransactionOutcome::Commit && entry.commit_slot != 0 && entry.service == service;
        let slot = if known { entry.commit_slot } else { self.find_transaction(wire.database, outcome as u32) };
        self.observe(slot, duration_ns);
    }

    #[inline(always)]
    fn lost_several(&mut self, loss: Loss, count: u32) {
        lost_several(loss, count as u64);
    }
}

#[inline(always)]
pub(super) fn key(kind: HistogramKind, role: u8, service: u32, a: u32, b: u32) -> CellKey {
    CellKey { kind: kind as u8, sub: role, service: service as u16, a, b }
}

/// Gives a number to a combination of statements that was not met before.
#[inline(never)]
fn new_batch(hash: u64) -> u32 {
    if !ring_has_room() {
        lost(Loss::RingFull);
        return STATEMENT_UNKNOWN;
    }
    let Some(statement) = next_number(Numbers::Statements, STATEMENT_FIRST, setting!(statements)) else {
        lost(Loss::NamesFull);
        return STATEMENT_OTHER;
    };
    // SAFETY: a helper without arguments.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    let header = Header { kind: Kind::Batch as u32, text_len: 0, at_ns };
    let record = Number { header, hash, number: statement, _pad: 0 };
    if !send((&raw const record).cast(), size_of::<Number>() as u64) {
        return STATEMENT_UNKNOWN;
    }
    let _ = STATEMENTS.insert(&hash, &statement, BPF_NOEXIST.into());
    statement
}

/// The number of a database or user, given if it is new.
#[inline(never)]
fn database(scratch: *mut Scratch, name: &[u8; NAME_LEN], length: u8, new: bool) -> u32 {
    let hash = hash_name(name);
    // SAFETY: the value is copied at once.
    if let Some(database) = unsafe { DATABASES.get(&hash) } {
        return *database;
    }
    if !new {
        return 0;
    }
    let Some(database) = next_number(Numbers::Databases, 1, setting!(databases)) else {
        lost(Loss::DatabasesFull);
        return 0;
    };
    // SAFETY: this CPU's own work space; a helper without arguments.
    let record = unsafe { &mut (*scratch).name };
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
