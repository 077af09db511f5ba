//! Cycles that are told one by one: the slow, the failed, and what someone traces. Off the hot path.

use aya_ebpf::helpers::generated::bpf_get_current_pid_tgid;
use steth_probes::{
    cell::{CounterKind, Loss},
    message::{Header, Kind, Query},
    record::clear,
    watch::{FAILED, SLOW, SUPPRESSED, TRACED},
};

use super::sink::Sink;
use crate::{
    cells::{count, lost, send, trace},
    kernel::Address,
    maps::{SERVICE_WATCHES, WATCH},
    socket,
};

impl Sink {
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
