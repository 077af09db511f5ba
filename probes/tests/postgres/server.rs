//! A server in the fewest words: what PostgreSQL answers to each message, and what thereby happened. It knows names by their
//! text and transactions by their rules (manual, "Message Flow" and "Transaction Management"), and nothing of the walker.

use std::collections::HashMap;

use steth_probes::cell::TransactionOutcome::{self, Commit, Rollback};

use crate::messages::*;

/// A statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sql {
    /// One of a few, with as many rows.
    Select(u8),
    Update(u8),
    /// Fails when executed.
    Fails,
    Begin,
    Commit,
    Rollback,
    Savepoint,
    RollbackTo,
    CopyOut,
    Deallocate(u8),
    DeallocateAll,
}

/// A message of the extended protocol; names are numbers, 0 the unnamed one.
#[derive(Clone, Copy, Debug)]
pub enum Extended {
    Parse { name: u8, sql: Sql, refused: bool },
    Bind { portal: u8, name: u8 },
    Execute { portal: u8, suspends: bool },
    CloseStatement(u8),
    Flush,
}

/// What a client does up to ReadyForQuery.
#[derive(Clone, Debug)]
pub enum Request {
    Simple(Vec<Sql>),
    /// COPY FROM STDIN, and whether the client breaks it off.
    CopyIn {
        extended: bool,
        fails: bool,
    },
    Batch(Vec<Extended>),
}

impl Sql {
    pub fn text(self) -> String {
        match self {
            Self::Select(n) => match n % 4 {
                0 => format!("select c{n} from t where a = ';'"),
                1 => format!("select c{n} /* ; */ from t"),
                2 => format!("select c{n}, $x$;$x$ from t"),
                _ => format!("select c{n} from t where b = 5"),
            },
            Self::Update(n) => format!("update t{n} set a = E'\\';'"),
            Self::Fails => "select 1 / zero".to_owned(),
            Self::Begin => "begin".to_owned(),
            Self::Commit => "commit".to_owned(),
            Self::Rollback => "rollback".to_owned(),
            Self::Savepoint => "savepoint s".to_owned(),
            Self::RollbackTo => "rollback to s".to_owned(),
            Self::CopyOut => "copy t to stdout".to_owned(),
            Self::Deallocate(n) => format!("deallocate {}", name(n)),
            Self::DeallocateAll => "deallocate all".to_owned(),
        }
    }
}

/// The name of a statement or a portal.
pub fn name(n: u8) -> String {
    if n == 0 { String::new() } else { format!("n{n}") }
}

/// Requests that may be under way before the first of them is answered. That many are always followed; see `extended.rs` for
/// what happens beyond.
pub const AHEAD: usize = 4;

/// Names that there are.
pub const NAMES: u8 = 4;

const COPY_IN: &str = "copy t from stdin";

/// A statement that was to be executed; `doubtful` if messages that named it went unheeded, so that nobody need know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub text: String,
    pub doubtful: bool,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    pub done: Vec<(Asked, u32)>,
    pub errors: Vec<String>,
    pub transactions: Vec<TransactionOutcome>,
    /// For each cycle that asked for a statement: which ones, if all went well.
    pub cycles: Vec<Option<Vec<Asked>>>,
    /// Texts of refused Parse messages. What bears such a text and was sent before the refusal came need not be known.
    pub refused: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Block {
    #[default]
    None,
    Open,
    Failed,
}

#[derive(Clone, Copy)]
struct Prepared {
    sql: Sql,
    doubtful: bool,
}

#[derive(Clone, Copy)]
struct Portal {
    statement: Prepared,
    suspended: bool,
    done: bool,
}

/// The server's side of one session.
#[derive(Default)]
pub struct Server {
    pub truth: Truth,
    names: HashMap<u8, Prepared>,
    /// Names that a message spoke of which was not heeded.
    doubtful: Vec<u8>,
    portals: HashMap<u8, Portal>,
    block: Block,
    /// A transaction without BEGIN is under way.
    implicit: bool,
    savepoint: bool,
    failed: bool,
    asked: Vec<Asked>,
    /// Requests from now on that may have been sent before a portal's Bind was seen to have failed.
    portals_doubtful: usize,
    /// DEALLOCATE was executed apart from its text: whatever was sent before its reply came need not be known.
    all_doubtful: bool,
}

/// What goes over the wire, in order: towards the server or from it.
pub type Moves = Vec<(bool, Vec<u8>)>;

impl Server {
    /// What a request and its reply are on the wire.
    pub fn serve(&mut self, request: &Request) -> Moves {
        self.failed = false;
        self.asked.clear();
        self.portals_doubtful = self.portals_doubtful.saturating_sub(1);
        let mut moves = match request {
            Request::Simple(statements) => self.simple(statements),
            Request::CopyIn { extended, fails } => self.copy_in(*extended, *fails),
            Request::Batch(messages) => self.batch(messages),
        };
        if self.failed && self.block == Block::None && !self.asked.is_empty() {
            self.truth.transactions.push(Rollback);
        } else if self.implicit {
            self.truth.transactions.push(Commit);
        }
        self.implicit = false;
        if self.block == Block::None {
            self.portals.clear();
        }
        if !self.asked.is_empty() {
            self.truth.cycles.push((!self.failed).then(|| self.asked.clone()));
        }
        let status = match self.block {
            Block::None => b'I',
            Block::Open => b'T',
            Block::Failed => b'E',
        };
        moves.push((false, ready(status)));
        moves
    }

    fn simple(&mut self, statements: &[Sql]) -> Moves {
        const BETWEEN: [&str; 4] = [";", "; ", " ;\n", ";; -- ;\n"];
        self.names.remove(&0);
        self.portals.remove(&0);
        let mut text = String::new();
        for (nth, sql) in statements.iter().enumerate() {
            text += &sql.text();
            if nth + 1 < statements.len() || nth % 2 == 0 {
                text += BETWEEN[nth % BETWEEN.len()];
            }
        }
        let mut moves = vec![(true, query(&text))];
        if statements.is_empty() {
            self.asked.push(Asked { text: String::new(), doubtful: false });
            self.implicit |= self.block == Block::None;
            moves.push((false, message(b'I', b"")));
        }
        self.asked.extend(statements.iter().map(|sql| Asked { text: sql.text(), doubtful: false }));
        for sql in statements {
            let prepared = Prepared { sql: *sql, doubtful: false };
            match self.run(prepared, true) {
                Ok(reply) => moves.push((false, reply)),
                Err(sqlstate) => {
                    moves.push((false, self.fail(sqlstate)));
                    self.ignore_deallocate(statements);
                    break;
                }
            }
        }
        moves
    }

    /// Some of these were not executed.
    fn ignore_deallocate(&mut self, statements: &[Sql]) {
        for sql in statements {
            match sql {
                Sql::Deallocate(name) => self.doubt(*name),
                Sql::DeallocateAll => (0..NAMES).for_each(|name| self.doubt(name)),
                _ => {}
            }
        }
    }

    fn copy_in(&mut self, extended: bool, fails: bool) -> Moves {
        let mut moves = if extended {
            vec![(true, all([parse("", COPY_IN), run(""), sync()])), (false, all([parsed(), bound()]))]
        } else {
            vec![(true, query(COPY_IN))]
        };
        self.names.remove(&0);
        self.portals.remove(&0);
        let asked = Asked { text: COPY_IN.to_owned(), doubtful: false };
        self.asked.push(asked.clone());
        if self.block == Block::Failed {
            // The server refuses the Parse already.
            self.truth.refused.push(COPY_IN.to_owned());
            self.portals_doubtful = AHEAD + 1;
            moves.truncate(1);
            moves.push((false, self.fail("25P02")));
            return moves;
        }
        self.implicit |= self.block == Block::None;
        moves.push((false, message(b'G', &[0; 3])));
        let end = if fails { message(b'f', b"no more\0") } else { message(b'c', b"") };
        moves.push((true, [message(b'd', b"1\n2\n"), message(b'd', &complete("SELECT 9")), end].concat()));
        if extended {
            moves.push((true, sync()));
        }
        if fails {
            moves.push((false, self.fail("57014")));
        } else {
            self.truth.done.push((asked, 3));
            moves.push((false, complete("COPY 3")));
        }
        moves
    }

    fn batch(&mut self, messages: &[Extended]) -> Moves {
        let mut moves = self.messages(messages);
        if self.failed && messages.iter().any(|message| matches!(message, Extended::Bind { portal: 1.., .. })) {
            self.portals_doubtful = AHEAD + 1;
        }
        moves.push((true, sync()));
        moves
    }

    fn messages(&mut self, messages: &[Extended]) -> Moves {
        let mut moves = Vec::new();
        for message in messages {
            moves.push((true, self.request(*message)));
            if let Extended::Execute { portal, .. } = message {
                if let Some(portal) = self.portals.get_mut(portal) {
                    portal.statement.doubtful |= self.all_doubtful;
                }
                let known = self.portals.get(portal).filter(|_| !self.failed);
                let asked = known
                    .map(|portal| Asked { text: portal.statement.sql.text(), doubtful: portal.statement.doubtful });
                self.asked.push(asked.unwrap_or(Asked { text: String::new(), doubtful: true }));
            }
            if self.failed {
                self.ignore(*message);
                continue;
            }
            match self.obey(*message) {
                Ok(reply) => moves.push((false, reply)),
                Err(sqlstate) => {
                    self.ignore(*message);
                    moves.push((false, self.fail(sqlstate)));
                }
            }
        }
        moves
    }

    fn request(&mut self, message: Extended) -> Vec<u8> {
        if let Extended::Parse { sql, refused: false, .. } = message {
            // Whether it will be executed is not known yet.
            self.ignore_deallocate(&[sql]);
        }
        match message {
            Extended::Parse { name: n, sql, refused } => {
                let text = if refused { format!("{} nonsense", sql.text()) } else { sql.text() };
                parse(&name(n), &text)
            }
            Extended::Bind { portal, name: n } => bind(&name(portal), &name(n)),
            Extended::Execute { portal, suspends } => execute(&name(portal), u32::from(suspends)),
            Extended::CloseStatement(n) => close_statement(&name(n)),
            Extended::Flush => flush(),
        }
    }

    fn obey(&mut self, message: Extended) -> Result<Vec<u8>, &'static str> {
        match message {
            Extended::Parse { name, sql, refused } => {
                if refused {
                    return Err("42601");
                }
                self.check_block(sql)?;
                if name != 0 && self.names.contains_key(&name) {
                    return Err("42P05");
                }
                self.doubtful.retain(|other| *other != name);
                self.names.insert(name, Prepared { sql, doubtful: false });
                Ok(parsed())
            }
            Extended::Bind { portal, name } => {
                let mut statement = *self.names.get(&name).ok_or("26000")?;
                statement.doubtful = self.doubtful.contains(&name);
                self.check_block(statement.sql)?;
                if portal != 0 && self.portals.contains_key(&portal) {
                    return Err("42P03");
                }
                statement.doubtful |= self.all_doubtful || portal != 0 && self.portals_doubtful > 0;
                self.portals.insert(portal, Portal { statement, suspended: false, done: false });
                Ok(bound())
            }
            Extended::Execute { portal: name, suspends } => {
                let portal = *self.portals.get(&name).ok_or("34000")?;
                if portal.done {
                    return Err("55000");
                }
                if suspends && !portal.suspended && matches!(portal.statement.sql, Sql::Select(_)) {
                    self.check_block(portal.statement.sql)?;
                    self.implicit |= self.block == Block::None;
                    self.portals.insert(name, Portal { suspended: true, ..portal });
                    return Ok(all([row("1"), suspended()]));
                }
                let reply = self.run(portal.statement, false)?;
                if let Some(portal) = self.portals.get_mut(&name) {
                    portal.done = true;
                }
                Ok(reply)
            }
            Extended::CloseStatement(name) => {
                self.names.remove(&name);
                self.doubtful.retain(|other| *other != name);
                Ok(closed())
            }
            Extended::Flush => Ok(Vec::new()),
        }
    }

    /// A message is skipped or refused.
    fn ignore(&mut self, message: Extended) {
        match message {
            Extended::Parse { name, sql, .. } => {
                self.doubt(name);
                self.portals_doubtful = AHEAD + 1;
                self.truth.refused.push(sql.text());
                // Parse gives up the unnamed statement before it looks at the text, but not when it is skipped; nobody need
                // know which it was.
                if name == 0 {
                    self.names.remove(&0);
                }
            }
            Extended::CloseStatement(name) => self.doubt(name),
            _ => {}
        }
    }

    fn doubt(&mut self, name: u8) {
        self.doubtful.push(name);
    }

    /// In a failed block only what ends it is let through.
    fn check_block(&self, sql: Sql) -> Result<(), &'static str> {
        let ends = matches!(sql, Sql::Commit | Sql::Rollback | Sql::RollbackTo);
        if self.block == Block::Failed && !ends { Err("25P02") } else { Ok(()) }
    }

    fn run(&mut self, statement: Prepared, simple: bool) -> Result<Vec<u8>, &'static str> {
        let sql = statement.sql;
        self.check_block(sql)?;
        self.all_doubtful |= !simple && matches!(sql, Sql::Deallocate(_) | Sql::DeallocateAll);
        if sql == Sql::DeallocateAll {
            self.portals.values_mut().for_each(|portal| portal.statement.doubtful = true);
        }
        let outside = self.block == Block::None;
        let (reply, rows) = match sql {
            Sql::Fails => return Err("22012"),
            Sql::Savepoint | Sql::RollbackTo if outside => return Err("25P01"),
            Sql::RollbackTo if !self.savepoint => return Err("3B001"),
            Sql::Select(n) => (all([row("1").repeat(n as usize), complete(&format!("SELECT {n}"))]), n),
            Sql::Update(n) => (complete(&format!("UPDATE {n}")), n),
            Sql::CopyOut => {
                let data = message(b'd', &all([complete("SELECT 9"), ready(b'I')]));
                (all([message(b'H', &[0; 3]), data, message(b'c', b""), complete("COPY 1")]), 1)
            }
            Sql::Begin => (complete("BEGIN"), 0),
            Sql::Commit if self.block == Block::Failed => (complete("ROLLBACK"), 0),
            Sql::Commit => (complete("COMMIT"), 0),
            Sql::Rollback | Sql::RollbackTo => (complete("ROLLBACK"), 0),
            Sql::Savepoint => (complete("SAVEPOINT"), 0),
            Sql::Deallocate(name) => {
                self.names.remove(&name).ok_or("26000")?;
                (complete("DEALLOCATE"), 0)
            }
            Sql::DeallocateAll => {
                let unnamed = self.names.remove(&0);
                self.names.clear();
                self.names.extend(unnamed.map(|unnamed| (0, unnamed)));
                (complete("DEALLOCATE ALL"), 0)
            }
        };
        match sql {
            Sql::Begin if outside => {
                self.implicit = false;
                self.block = Block::Open;
                self.savepoint = false;
            }
            Sql::Commit | Sql::Rollback => {
                let well = sql == Sql::Commit && self.block != Block::Failed;
                self.truth.transactions.push(if well { Commit } else { Rollback });
                self.implicit = false;
                self.block = Block::None;
                self.portals.clear();
            }
            Sql::Savepoint => self.savepoint = true,
            Sql::RollbackTo => self.block = Block::Open,
            _ => self.implicit |= outside,
        }
        let asked = Asked { text: sql.text(), doubtful: statement.doubtful };
        self.truth.done.push((asked, u32::from(rows)));
        let columns = if simple && matches!(sql, Sql::Select(_)) { columns() } else { Vec::new() };
        Ok([columns, reply].concat())
    }

    fn fail(&mut self, sqlstate: &'static str) -> Vec<u8> {
        self.failed = true;
        self.truth.errors.push(sqlstate.to_owned());
        self.implicit = false;
        self.portals.clear();
        if self.block == Block::Open {
            self.block = Block::Failed;
        }
        error(sqlstate)
    }
}
