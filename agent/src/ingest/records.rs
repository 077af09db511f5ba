//! Reads the ring of records: statement texts, names, execs.

use std::collections::VecDeque;

use aya::maps::{MapData, RingBuf};
use steth_probes::{
    cell::{Family, Role},
    message::{
        Call, Exec, Execution, Header, Kind, Number, Query, Repeated, Signal, StatementText, Tcp, TcpEvent, Worker,
    },
    postgres::{TEXT_LEN, unpack_sqlstate},
    record::read,
    wall::STATES,
    watch::{FAILED, SLOW},
};

use crate::model::event::{
    CallSeen, ExecutionSeen, QuerySeen, Record, RepeatSeen, SignalSeen, TcpSeen, Traced, WorkerSeen,
};

/// Statements whose text is still coming in pieces; the oldest gives way.
const UNFINISHED: usize = 64;

/// The ring's reader.
pub struct Records {
    ring: RingBuf<MapData>,
    pieces: Pieces,
    malformed: u64,
}

impl Records {
    /// A reader of this ring.
    pub fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring, pieces: Pieces::default(), malformed: 0 }
    }

    /// Takes all records that are there.
    pub fn drain(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        while let Some(item) = self.ring.next() {
            match decode(&item, &mut self.pieces) {
                Decoded::Record(record) => records.push(record),
                Decoded::Piece => {}
                Decoded::Malformed => self.malformed += 1,
            }
        }
        records
    }

    /// Records that could not be decoded.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Statements whose text was given up before its last piece came.
    pub fn abandoned(&self) -> u64 {
        self.pieces.abandoned
    }
}

/// The reader of the ring of what is traced.
pub struct Traces {
    ring: RingBuf<MapData>,
    malformed: u64,
}

impl Traces {
    /// A reader of this ring.
    pub fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring, malformed: 0 }
    }

    /// Takes all that is there.
    pub fn drain(&mut self) -> Vec<Traced> {
        let mut traced = Vec::new();
        while let Some(item) = self.ring.next() {
            match decode_traced(&item) {
                Some(one) => traced.push(one),
                None => self.malformed += 1,
            }
        }
        traced
    }

    /// Records that could not be decoded.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }
}

#[derive(Debug)]
enum Decoded {
    Record(Record),
    Piece,
    Malformed,
}

fn decode(bytes: &[u8], pieces: &mut Pieces) -> Decoded {
    let mut record = || {
        let header: Header = read(bytes)?;
        Some(match Kind::from_u8(u8::try_from(header.kind).ok()?)? {
            Kind::StatementText => {
                let head: StatementText = read(bytes)?;
                let text = text(bytes, size_of::<StatementText>(), header.text_len)?;
                match pieces.join(&head, text) {
                    Some(record) => Decoded::Record(record),
                    None => Decoded::Piece,
                }
            }
            Kind::DatabaseName => {
                let head: Number = read(bytes)?;
                let name = text(bytes, size_of::<Number>(), header.text_len)?;
                let name = String::from_utf8_lossy(name).into_owned();
                Decoded::Record(Record::Database { database: head.number, name })
            }
            Kind::Batch => {
                let head: Number = read(bytes)?;
                Decoded::Record(Record::Batch { statement: head.number, hash: head.hash })
            }
            Kind::Exec => {
                let exec: Exec = read(bytes)?;
                Decoded::Record(Record::Exec { pid: exec.pid, service: exec.service })
            }
            Kind::Mapped => {
                let mapped: Exec = read(bytes)?;
                Decoded::Record(Record::Mapped { pid: mapped.pid })
            }
            Kind::Repeated => Decoded::Record(Record::Repeated(repeated(bytes)?)),
            Kind::Query => Decoded::Record(Record::Query(Box::new(query(bytes)?))),
            Kind::Signal => {
                let Signal { pid, service, signal, ended, out_of_memory, .. } = read(bytes)?;
                let (ended, out_of_memory) = (ended != 0, out_of_memory != 0);
                Decoded::Record(Record::Signal(SignalSeen { pid, service, signal, ended, out_of_memory }))
            }
            Kind::Worker => Decoded::Record(Record::Worker(Box::new(worker(bytes)?))),
            Kind::Call | Kind::Tcp | Kind::Execution => return None,
        })
    };
    record().unwrap_or(Decoded::Malformed)
}

fn decode_traced(bytes: &[u8]) -> Option<Traced> {
    let header: Header = read(bytes)?;
    Some(match Kind::from_u8(u8::try_from(header.kind).ok()?)? {
        Kind::Query => Traced::Query(Box::new(query(bytes)?)),
        Kind::Call => Traced::Call(call(bytes)?),
        Kind::Tcp => Traced::Tcp(tcp(bytes)?),
        Kind::Execution => Traced::Execution(execution(bytes)?),
        _ => return None,
    })
}

/// A system call.
fn call(bytes: &[u8]) -> Option<CallSeen> {
    let call: Call = read(bytes)?;
    Some(CallSeen {
        ended_ns: call.header.at_ns,
        duration_ns: call.ns,
        result: call.result,
        syscall: call.syscall,
        service: call.service,
        pid: call.pid,
        tid: call.tid,
        thread: call.thread,
    })
}

/// What happened to a TCP connection.
fn tcp(bytes: &[u8]) -> Option<TcpSeen> {
    let tcp: Tcp = read(bytes)?;
    Some(TcpSeen {
        at_ns: tcp.header.at_ns,
        event: TcpEvent::from_u8(tcp.event)?,
        duration_ns: tcp.ns,
        received_bytes: tcp.received_bytes,
        sent_bytes: tcp.sent_bytes,
        service: tcp.service,
        peer: tcp.peer,
        pid: tcp.pid,
        port: tcp.port,
        family: Family::from_u8(tcp.family),
    })
}

/// An execution. What is not whole of the last argument is told as it is.
fn execution(bytes: &[u8]) -> Option<ExecutionSeen> {
    let told: Execution = read(bytes)?;
    let known = told.arguments.get(..told.header.text_len as usize)?;
    let known = known.strip_suffix(b"\0").unwrap_or(known);
    let argument = |argument: &[u8]| String::from_utf8_lossy(argument).into_owned();
    Some(ExecutionSeen {
        at_ns: told.header.at_ns,
        pid: told.pid,
        parent: told.parent,
        uid: told.uid,
        service: told.service,
        command: if known.is_empty() { Vec::new() } else { known.split(|byte| *byte == 0).map(argument).collect() },
        is_cut: told.whole > u64::from(told.header.text_len),
    })
}

/// A cycle that was told one by one.
fn query(bytes: &[u8]) -> Option<QuerySeen> {
    let query: Query = read(bytes)?;
    Some(QuerySeen {
        begun_ns: query.begun_ns,
        duration_ns: query.duration_ns,
        first_byte_ns: query.first_byte_ns,
        connection: query.connection,
        statement: query.statement,
        statements: query.statements,
        rows: query.rows,
        sqlstate: (query.why & FAILED != 0).then(|| unpack_sqlstate(query.sqlstate)),
        service: query.service,
        database: query.database,
        user: query.user,
        peer: query.peer,
        pid: query.pid,
        tid: query.tid,
        port: query.port,
        role: Role::from_u8(query.role)?,
        family: Family::from_u8(query.family)?,
        transaction: query.transaction,
        slow: query.why & SLOW != 0,
        wall: split(&query),
        event: (query.event != 0).then(|| (query.event, part(query.duration_ns, query.event_share))),
    })
}

/// A parallel worker that has ended.
fn worker(bytes: &[u8]) -> Option<WorkerSeen> {
    let worker: Worker = read(bytes)?;
    let split = worker.split;
    Some(WorkerSeen {
        begun_ns: worker.begun_ns,
        ended_ns: worker.header.at_ns,
        service: worker.service,
        pid: worker.pid,
        leader: worker.leader,
        wall: split.ns,
        event: (split.event != 0).then_some((split.event, split.event_ns)),
    })
}

/// What a cycle was spent with; the parts are its duration.
fn split(query: &Query) -> Option<[u64; STATES]> {
    let mut parts = query.wall.map(|share| part(query.duration_ns, share));
    // They were rounded down; what that cost goes to the largest.
    let rest = query.duration_ns.saturating_sub(parts.iter().sum());
    let largest = parts.iter_mut().max().filter(|largest| **largest != 0)?;
    *largest += rest;
    Some(parts)
}

fn part(duration_ns: u64, share: u16) -> u64 {
    let ns = u128::from(duration_ns) * u128::from(share) / u128::from(u16::MAX);
    u64::try_from(ns).unwrap_or(duration_ns)
}

/// A statement that came again and again.
fn repeated(bytes: &[u8]) -> Option<RepeatSeen> {
    let repeated: Repeated = read(bytes)?;
    Some(RepeatSeen {
        begun_ns: repeated.begun_ns,
        told_ns: repeated.header.at_ns,
        busy_ns: repeated.busy_ns,
        connection: repeated.connection,
        statement: repeated.statement,
        count: repeated.count,
        service: repeated.service,
        database: repeated.database,
        user: repeated.user,
        peer: repeated.peer,
        pid: repeated.pid,
        role: Role::from_u8(repeated.role)?,
        ended: repeated.ended != 0,
    })
}

fn text(bytes: &[u8], from: usize, length: u32) -> Option<&[u8]> {
    bytes.get(from..)?.get(..length as usize)
}

/// Texts that came in several pieces.
#[derive(Debug, Default)]
struct Pieces {
    unfinished: VecDeque<(u64, Vec<u8>)>,
    abandoned: u64,
}

impl Pieces {
    /// Adds a piece; returns the statement when it was the last one.
    fn join(&mut self, head: &StatementText, piece: &[u8]) -> Option<Record> {
        let known = self.unfinished.iter().position(|(stream, _)| *stream == head.stream);
        let mut text = known.and_then(|at| self.unfinished.remove(at)).map(|(_, text)| text).unwrap_or_default();
        if head.offset == 0 {
            text.clear();
        }
        // A piece in the middle is lost: what follows cannot be joined, but what there is may stand as a beginning.
        let gap = text.len() != head.offset as usize;
        if !gap && text.len() + piece.len() <= TEXT_LEN as usize {
            text.extend_from_slice(piece);
        }
        if head.statement != 0 {
            let cut = head.cut != 0 || gap;
            return Some(Record::Statement { statement: head.statement, text, cut });
        }
        self.unfinished.push_back((head.stream, text));
        if self.unfinished.len() > UNFINISHED {
            self.unfinished.pop_front();
            self.abandoned += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use steth_probes::{
        postgres::push_sqlstate,
        record::bytes_of,
        wall::{Split, WallState},
    };

    use super::*;

    fn piece(stream: u64, statement: u32, offset: u32, text: &[u8]) -> Vec<u8> {
        let header = Header { kind: Kind::StatementText as u32, text_len: text.len() as u32, at_ns: 1 };
        let head = StatementText { header, stream, statement, offset, cut: 0, _pad: 0 };
        [bytes_of(&head), text].concat()
    }

    #[test]
    fn a_statement_in_pieces_is_joined_per_stream() {
        let mut pieces = Pieces::default();
        assert!(matches!(decode(&piece(1, 0, 0, b"SELECT "), &mut pieces), Decoded::Piece));
        assert!(matches!(decode(&piece(2, 0, 0, b"DELETE "), &mut pieces), Decoded::Piece));
        let Decoded::Record(record) = decode(&piece(1, 7, 7, b"1"), &mut pieces) else { panic!("not whole") };
        assert_eq!(record, Record::Statement { statement: 7, text: b"SELECT 1".to_vec(), cut: false });
    }

    #[test]
    fn a_statement_with_a_lost_piece_is_known_to_be_cut() {
        let mut pieces = Pieces::default();
        assert!(matches!(decode(&piece(1, 0, 0, b"SELECT "), &mut pieces), Decoded::Piece));
        let Decoded::Record(record) = decode(&piece(1, 7, 9, b"1"), &mut pieces) else { panic!("not whole") };
        assert_eq!(record, Record::Statement { statement: 7, text: b"SELECT ".to_vec(), cut: true });
    }

    #[test]
    fn a_told_cycle_comes_through_whole() {
        let header = Header { kind: Kind::Query as u32, text_len: 0, at_ns: 30 };
        let told = Query {
            header,
            begun_ns: 10,
            duration_ns: 20,
            rows: 3,
            sqlstate: b"22012".iter().fold(0, |packed, byte| push_sqlstate(packed, *byte)),
            role: Role::Client as u8,
            family: Family::Unix as u8,
            why: FAILED,
            ..Query::zeroed()
        };
        let Decoded::Record(Record::Query(seen)) = decode(bytes_of(&told), &mut Pieces::default()) else {
            panic!("not a cycle")
        };
        assert_eq!((seen.begun_ns, seen.duration_ns, seen.rows, seen.slow), (10, 20, 3, false));
        assert_eq!((seen.sqlstate, seen.role, seen.family), (Some(*b"22012"), Role::Client, Family::Unix));
        let fine = Query { why: SLOW, ..told };
        assert!(query(bytes_of(&fine)).is_some_and(|seen| seen.slow && seen.sqlstate.is_none()));
        let strange = Query { role: 9, ..told };
        assert!(query(bytes_of(&strange)).is_none());
    }

    #[test]
    fn the_parts_of_a_told_cycle_are_its_duration() {
        for duration_ns in [1, 999, 1_000_003, u64::from(u32::MAX) * 1_000] {
            let mut spent = Split::zeroed();
            spent.ns[WallState::OnCpu as usize] = duration_ns / 3;
            spent.ns[WallState::Lock as usize] = duration_ns - duration_ns / 3;
            (spent.event, spent.event_ns) = (0x0300_0005, duration_ns / 2);
            let mut told = Query { duration_ns, role: Role::Server as u8, ..Query::zeroed() };
            told.tell_split(&spent);
            let seen = query(bytes_of(&told)).unwrap();
            let wall = seen.wall.unwrap();
            assert_eq!(wall.iter().sum::<u64>(), duration_ns);
            let tolerance = duration_ns / 10_000 + 1;
            assert!(
                wall[WallState::Lock as usize].abs_diff(spent.ns[WallState::Lock as usize]) <= tolerance,
                "{wall:?}"
            );
            assert!(seen.event.unwrap().1.abs_diff(spent.event_ns) <= tolerance);
        }
        let client = query(bytes_of(&Query { duration_ns: 5, ..Query::zeroed() })).unwrap();
        assert_eq!((client.wall, client.event), (None, None));
    }

    #[test]
    fn hostile_records_are_malformed_and_never_panic() {
        let mut pieces = Pieces::default();
        let whole = piece(1, 7, 0, b"SELECT 1");
        for length in 0..whole.len() {
            assert!(matches!(decode(&whole[..length], &mut pieces), Decoded::Malformed), "prefix {length}");
        }
        let mut unknown = whole.clone();
        unknown[0] = 200;
        assert!(matches!(decode(&unknown, &mut pieces), Decoded::Malformed));
        let mut long = whole;
        long[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(matches!(decode(&long, &mut pieces), Decoded::Malformed));
    }
}
