//! A connection as the kernel program follows it, with everything that it would put into maps kept to be looked at.

use std::collections::HashMap;

use steth_probes::{
    cell::{Loss, Role, TransactionOutcome},
    postgres::{
        CYCLES, Cycle, Effects, LAST_WORDS, NAME_LEN, Opening, PARSES, PUT_OFF, Phase, STATEMENT_FIRST,
        STATEMENT_UNKNOWN, STATEMENTS, STEPS, Source, Step, Turn, Wire, last_words, opening, step, unpack_sqlstate,
        whole,
    },
    record::bytes_of,
    shape::Shape,
};

/// What a statement is called in the tests: its text, or one of these.
pub const UNKNOWN: &str = "(unknown)";
pub const BATCH: &str = "(batch)";

/// Everything that was found, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub queries: Vec<Query>,
    /// Statements that ended well, with their rows.
    pub done: Vec<(String, u32)>,
    /// Database and SQLSTATE.
    pub errors: Vec<(String, String)>,
    pub transactions: Vec<(TransactionOutcome, u64)>,
    /// Statements that could not be prepared.
    pub refused: Vec<String>,
    /// How long each login took.
    pub connected: Vec<u64>,
    /// SQLSTATEs of refused ones.
    pub login_failures: Vec<String>,
    pub lost: Vec<Loss>,
    /// Texts that were cut.
    pub cut: Vec<String>,
    /// Whether the connection was found to be encrypted.
    pub opaque: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub statement: String,
    pub database: String,
    pub user: String,
    /// How many statements it held.
    pub statements: u8,
    pub waited_ns: u64,
    pub turn: Turn,
    pub duration_ns: u64,
    pub first_byte_ns: u64,
}

/// The maps of the kernel program.
#[derive(Clone, Default)]
struct Maps {
    findings: Findings,
    /// All bytes towards the server; addresses are positions in it.
    sent: Vec<u8>,
    text_at: usize,
    statements: HashMap<u64, u32>,
    texts: HashMap<u32, String>,
    prepared: HashMap<u64, u32>,
    /// Cycles that have no place with the connection, by their numbers.
    put_off: HashMap<u32, Cycle>,
    /// How many there is room for.
    room: usize,
    databases: HashMap<u64, u32>,
    names: HashMap<u32, String>,
    /// What the server's process notes to be running, and how often that was asked.
    noted: Option<String>,
    asked: usize,
}

/// One connection, seen from one of its ends.
#[derive(Clone)]
pub struct Conversation {
    end: Role,
    pub wire: Option<Wire>,
    maps: Maps,
    /// When the last call without a time of its own took place.
    pub clock_ns: u64,
    /// Whether frequent messages are taken whole.
    pub short_way: bool,
}

struct Bytes<'a> {
    bytes: &'a [u8],
    at: usize,
    base: usize,
    short_way: bool,
}

impl Source for Bytes<'_> {
    fn left(&self) -> u32 {
        (self.bytes.len() - self.at) as u32
    }

    fn header(&mut self) -> Option<[u8; 5]> {
        self.bytes.get(self.at..self.at + 5)?.try_into().ok()
    }

    fn byte_at(&mut self, offset: u32) -> Option<u8> {
        self.bytes.get(self.at + offset as usize).copied()
    }

    fn ahead(&mut self, offset: u32) -> Option<u8> {
        self.byte_at(offset)
    }

    fn whole(&mut self) -> Option<(u8, u32)> {
        let [tag, a, b, c, d] = self.header()?;
        let length = u32::from_be_bytes([a, b, c, d]);
        if !self.short_way || length >= self.left() { None } else { Some((tag, length)) }
    }

    fn window(&self, offset: u32) -> u8 {
        self.bytes[self.at + offset as usize]
    }

    fn address(&self) -> u64 {
        (self.base + self.at) as u64
    }

    fn advance(&mut self, count: u32) {
        assert!(count <= self.left());
        self.at += count as usize;
    }
}

impl Conversation {
    pub fn new(end: Role) -> Self {
        let maps = Maps { room: usize::MAX, ..Maps::default() };
        Self { end, wire: None, maps, clock_ns: 1_000, short_way: true }
    }

    /// A call that moves bytes at the next moment and takes no time.
    pub fn moves(&mut self, up: bool, bytes: &[u8]) {
        self.clock_ns += 1_000;
        self.moves_at(up, bytes, self.clock_ns, self.clock_ns);
    }

    pub fn sends(&mut self, bytes: &[u8]) -> &mut Self {
        self.moves(true, bytes);
        self
    }

    pub fn gets(&mut self, bytes: &[u8]) -> &mut Self {
        self.moves(false, bytes);
        self
    }

    /// A call that moves bytes between two moments: what `walk` of the kernel program does.
    pub fn moves_at(&mut self, up: bool, bytes: &[u8], begun_ns: u64, ended_ns: u64) {
        assert!(!bytes.is_empty());
        if self.maps.findings.opaque {
            return;
        }
        let reads = up == (self.end == Role::Server);
        let mut source = Bytes { bytes, at: 0, base: self.maps.sent.len(), short_way: self.short_way };
        if self.wire.is_none() {
            let opening = opening(&mut source);
            match opening {
                Opening::Nothing => return,
                Opening::Tls => {
                    self.maps.findings.opaque = true;
                    return;
                }
                _ => {}
            }
            let mut wire = Wire::zeroed();
            wire.start(if reads { Role::Server } else { Role::Client } as u8, opening);
            self.wire = Some(wire);
        }
        let wire = self.wire.as_mut().unwrap();
        let up = reads == (wire.role == Role::Server as u8);
        if up {
            self.maps.sent.extend_from_slice(bytes);
        }
        let mut broken = true;
        for _ in 0..STEPS {
            let before = (source.at, *wire);
            let taken = whole(wire, up, begun_ns, ended_ns, &mut source, &mut self.maps);
            check(wire, &self.maps);
            if taken {
                assert!(source.at > before.0);
                continue;
            }
            assert_eq!((source.at, bytes_of(wire)), (before.0, bytes_of(&before.1)), "what was not taken was changed");
            let ended = step(wire, up, begun_ns, ended_ns, &mut source, &mut self.maps);
            check(wire, &self.maps);
            match ended {
                Step::More => {
                    let stood =
                        before.0 == source.at && before.1.phase == wire.phase && before.1.up.mode == wire.up.mode;
                    assert!(!stood, "a step that leads nowhere");
                }
                Step::Done => {
                    broken = wire.phase != Phase::Opaque as u8 && source.left() > 0;
                    break;
                }
                Step::Broken => break,
            }
        }
        if broken {
            if wire.is_known() {
                self.maps.findings.lost.push(Loss::PostgresOutOfStep);
            }
            self.restart();
        } else if wire.phase == Phase::Opaque as u8 {
            self.maps.findings.opaque = true;
            self.wire = None;
        }
    }

    /// Forgets the connection's state and names; what it found stays.
    fn restart(&mut self) {
        self.wire = None;
        self.maps.prepared.clear();
        self.maps.put_off.clear();
    }

    /// The connection ends; the next bytes are those of another.
    pub fn closes(&mut self) {
        self.restart();
    }

    /// The process reads that the stream is over.
    pub fn reads_its_end(&mut self) {
        let mut words = [0; LAST_WORDS];
        let end = self.wire.as_mut().and_then(|wire| last_words(wire, &mut words));
        if let Some((begin, end)) = end {
            self.gets(&words[begin as usize..end as usize]);
        }
        self.restart();
    }

    /// The connection is closed, without a word: what the kernel programs count then at either end.
    pub fn breaks_off(&mut self) {
        let Some(wire) = self.wire.filter(|wire| wire.unanswered() > 0) else { return };
        let database = self.maps.database_name(wire.database);
        for nth in 0..wire.cycle_count as usize {
            let cycle = wire.cycles[(wire.cycle_first as usize + nth) % CYCLES];
            if !cycle.is_unanswered() {
                continue;
            }
            assert_eq!(cycle.mixed, 0, "it has no name");
            self.maps.findings.queries.push(Query {
                statement: self.maps.name(cycle.statement),
                database: database.clone(),
                user: String::new(),
                statements: cycle.executions,
                waited_ns: 0,
                turn: Turn::WITHIN,
                duration_ns: 0,
                first_byte_ns: 0,
            });
            if nth > 0 || wire.failed == 0 {
                self.maps.findings.errors.push((database.clone(), "08006".to_owned()));
            }
        }
        self.restart();
    }

    /// How many databases and users bear a number.
    pub fn databases(&self) -> usize {
        self.maps.databases.len()
    }

    /// Whether both directions were found valid.
    pub fn is_confirmed(&self) -> bool {
        self.wire.is_some_and(|wire| wire.phase == Phase::Confirmed as u8)
    }

    pub fn findings(&self) -> &Findings {
        &self.maps.findings
    }

    /// From now on the server's process notes this statement.
    pub fn notes(&mut self, text: &str) -> &mut Self {
        self.maps.noted = Some(text.to_owned());
        self
    }

    /// The map of cycles that are put off has room for so many.
    pub fn has_room_for(&mut self, cycles: usize) {
        self.maps.room = cycles;
    }

    /// The map of cycles that are put off has needed the room for others.
    pub fn needs_room(&mut self) {
        self.maps.put_off.clear();
    }

    /// How often the process was asked.
    pub fn asked(&self) -> usize {
        self.maps.asked
    }

    pub fn statements(&self) -> Vec<&str> {
        self.findings().queries.iter().map(|query| query.statement.as_str()).collect()
    }

    pub fn done(&self) -> Vec<(&str, u32)> {
        self.findings().done.iter().map(|(statement, rows)| (statement.as_str(), *rows)).collect()
    }

    pub fn sqlstates(&self) -> Vec<&str> {
        self.findings().errors.iter().map(|(_, sqlstate)| sqlstate.as_str()).collect()
    }
}

/// What holds after every step.
fn check(wire: &Wire, maps: &Maps) {
    assert!((wire.cycle_first as usize) < CYCLES && wire.cycle_count as usize <= CYCLES);
    assert!((wire.queue_first as usize) < STATEMENTS && wire.queue_count as usize <= STATEMENTS);
    assert!((wire.parse_first as usize) < PARSES && wire.parse_count as usize <= PARSES);
    assert!((wire.text_len as usize) < NAME_LEN);
    assert!(wire.put_off <= PUT_OFF && (wire.put_off == 0 || wire.cycle_count as usize == CYCLES));
    let numbers = || (0..wire.put_off).map(|nth| wire.put_off_first.wrapping_add(nth));
    if numbers().any(|number| !maps.put_off.contains_key(&number)) {
        return;
    }
    let in_ring = |nth| wire.cycles[(wire.cycle_first as usize + nth) % CYCLES];
    let under_way = || (0..wire.cycle_count as usize).map(in_ring).chain(numbers().map(|number| maps.put_off[&number]));
    let entries: usize = under_way().map(|cycle| cycle.entries as usize).sum();
    let parses: usize = under_way().map(|cycle| cycle.parses as usize).sum();
    assert_eq!((entries, parses), (wire.queue_count as usize, wire.parse_count as usize));
}

impl Maps {
    fn name(&self, statement: u32) -> String {
        self.texts.get(&statement).cloned().unwrap_or_else(|| {
            assert_eq!(statement, STATEMENT_UNKNOWN);
            UNKNOWN.to_owned()
        })
    }

    fn number(&mut self, shape: u64, text: String) -> u32 {
        let fresh = STATEMENT_FIRST + self.statements.len() as u32;
        let statement = *self.statements.entry(shape).or_insert(fresh);
        self.texts.entry(statement).or_insert(text);
        statement
    }

    fn database_name(&self, database: u32) -> String {
        self.names.get(&database).cloned().unwrap_or_default()
    }
}

impl Effects for Maps {
    fn text_begins<S: Source>(&mut self, source: &S) {
        self.text_at = source.address() as usize;
    }

    fn statement(&mut self, shape: u64, length: u32, cut: bool) -> u32 {
        let text = &self.sent[self.text_at..self.text_at + length as usize];
        let text = String::from_utf8_lossy(text).into_owned();
        if cut {
            self.findings.cut.push(text.clone());
        }
        self.number(shape, text)
    }

    fn batch(&mut self, hash: u64) -> u32 {
        let fresh = STATEMENT_FIRST + self.statements.len() as u32;
        let statement = *self.statements.entry(hash).or_insert(fresh);
        self.texts.entry(statement).or_insert_with(|| format!("{BATCH}{statement}"));
        statement
    }

    fn prepared(&mut self, name: u64) -> u32 {
        self.prepared.get(&name).copied().unwrap_or(STATEMENT_UNKNOWN)
    }

    fn prepare(&mut self, name: u64, statement: u32) {
        self.prepared.insert(name, statement);
    }

    fn forget(&mut self, name: u64) {
        self.prepared.remove(&name);
    }

    fn forget_all(&mut self) {
        self.prepared.clear();
    }

    fn noted(&mut self) -> u32 {
        self.asked += 1;
        let Some(text) = self.noted.clone() else { return STATEMENT_UNKNOWN };
        let mut shape = Shape::new();
        text.bytes().for_each(|byte| {
            shape.take(byte);
        });
        self.number(shape.finish(), text)
    }

    fn put_off(&mut self, number: u32, cycle: &Cycle) -> bool {
        let has_room = self.put_off.len() < self.room;
        if has_room {
            self.put_off.insert(number, *cycle);
        }
        has_room
    }

    fn take_up(&mut self, number: u32) -> Option<Cycle> {
        self.put_off.remove(&number)
    }

    fn database(&mut self, name: &[u8; NAME_LEN], length: u8, new: bool) -> u32 {
        let hash = steth_probes::postgres::hash_name(name);
        let fresh = 1 + self.databases.len() as u32;
        if !new {
            return self.databases.get(&hash).copied().unwrap_or(0);
        }
        let database = *self.databases.entry(hash).or_insert(fresh);
        self.names.insert(database, String::from_utf8_lossy(&name[..length as usize]).into_owned());
        database
    }

    fn query(&mut self, wire: &Wire, statement: u32, duration_ns: u64, first_byte_ns: u64) {
        let query = Query {
            statement: self.name(statement),
            database: self.database_name(wire.database),
            user: self.database_name(wire.user),
            statements: wire.ended().executions,
            waited_ns: wire.waited_ns(),
            turn: Turn::of(wire, 50_000),
            duration_ns,
            first_byte_ns,
        };
        self.findings.queries.push(query);
    }

    fn statement_done(&mut self, _wire: &Wire, statement: u32, rows: u32) {
        let name = self.name(statement);
        self.findings.done.push((name, rows));
    }

    fn error(&mut self, wire: &Wire, sqlstate: u32) {
        let sqlstate = String::from_utf8(unpack_sqlstate(sqlstate).to_vec()).unwrap();
        if wire.is_logging_in() {
            self.findings.login_failures.push(sqlstate.clone());
        }
        self.findings.errors.push((self.database_name(wire.database), sqlstate));
    }

    fn connected(&mut self, _wire: &Wire, ns: u64) {
        self.findings.connected.push(ns);
    }

    fn refused(&mut self, _wire: &Wire, statement: u32, _duration_ns: u64) {
        let name = self.name(statement);
        self.findings.refused.push(name);
    }

    fn transaction(&mut self, _wire: &Wire, outcome: TransactionOutcome, duration_ns: u64) {
        self.findings.transactions.push((outcome, duration_ns));
    }

    fn lost_several(&mut self, loss: Loss, count: u32) {
        self.findings.lost.extend((0..count).map(|_| loss));
    }
}
