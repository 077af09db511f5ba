//! Postgres queries as people ask for them: single cycles with everything known of them, statements by their time, and the
//! desk through which the questions reach the pipeline. Knows neither where answers come from nor how they are written.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};
use steth_probes::cell::Role;
use tokio::sync::{mpsc, oneshot};

use super::{
    alert::AlertQuestion,
    finding::{Event, Events, ExplainRequest, Findings, NotExplained, PostedEvent},
    sample::{PastRequest, ProfileRequest},
    settings::SettingQuestion,
    trace::TraceRequest,
    wall::Seconds,
};

/// Header of an answer that has no place of its own for what a reader must know, such as why a profile is empty.
pub const NOTE: &str = "steth-note";

/// One query cycle. Its statement has no literals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryRecord<'a> {
    /// What tells this cycle from all others of this agent; the exemplars of OpenMetrics bear it as `query_id`.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// When its first byte went out (client) or came in (server), in microseconds since the Unix epoch.
    pub begun_unix_us: u64,
    /// From then to ReadyForQuery.
    pub duration_seconds: f64,
    /// From then to the first byte of the reply.
    pub first_byte_seconds: f64,
    /// Service of the process that was seen.
    #[serde(borrow)]
    pub service: Cow<'a, str>,
    /// Which end that is: `client` or `server`.
    #[serde(borrow)]
    pub role: Cow<'a, str>,
    /// The other end; empty on a unix socket.
    #[serde(borrow)]
    pub peer: Cow<'a, str>,
    /// Local port; 0 on a unix socket.
    pub port: u16,
    /// `inet`, `inet6` or `unix`.
    #[serde(borrow)]
    pub family: Cow<'a, str>,
    /// Database.
    #[serde(borrow)]
    pub database: Cow<'a, str>,
    /// Who is logged in.
    #[serde(borrow)]
    pub user: Cow<'a, str>,
    /// The process that was seen.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// What tells its connection from all others.
    #[serde(borrow)]
    pub connection: Cow<'a, str>,
    /// How many statements it held; 255 is that many or more.
    pub statements: u32,
    /// Rows that they returned or changed.
    pub rows: u32,
    /// `ok` or `error`.
    #[serde(borrow)]
    pub outcome: Cow<'a, str>,
    /// The error, if any.
    #[serde(borrow)]
    pub sqlstate: Option<Cow<'a, str>>,
    /// What ReadyForQuery said of the transaction: `idle`, `open` or `failed`.
    #[serde(borrow)]
    pub transaction: Cow<'a, str>,
    /// Whether it took as long as `postgres.slow_query`.
    pub slow: bool,
    /// What its duration was spent with, in seconds by state, at the server's end; `None` if that was not looked at.
    #[serde(borrow)]
    pub wall: Option<Seconds<'a>>,
    /// What the server's process waited for longest, as `pg_stat_activity` has it.
    #[serde(borrow)]
    pub wait_event: Option<Cow<'a, str>>,
    /// How long.
    pub wait_event_seconds: Option<f64>,
    /// Its parallel workers that had ended by its end; what they spent is not in `wall`. Of traced cycles, as far as they were
    /// known by then.
    #[serde(borrow)]
    pub workers: Vec<WorkerRecord<'a>>,
    /// Where the flame graph is of what its service's threads did on CPUs around then, as far as the past is kept.
    #[serde(borrow)]
    pub flame: Cow<'a, str>,
    /// Operation, such as `SELECT`.
    #[serde(borrow)]
    pub operation: Cow<'a, str>,
    /// The statement's fingerprint, `unknown` or `other`.
    #[serde(borrow)]
    pub query: Cow<'a, str>,
    /// Operations and tables.
    #[serde(borrow)]
    pub summary: Cow<'a, str>,
    /// The statement without literals; empty if its text was never seen.
    #[serde(borrow)]
    pub statement: Cow<'a, str>,
}

/// A parallel worker of a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerRecord<'a> {
    /// The process.
    pub pid: u32,
    /// From when it was first seen to be a worker to its end.
    pub duration_seconds: f64,
    /// What that was spent with, in seconds by state.
    #[serde(borrow)]
    pub wall: Seconds<'a>,
    /// What it waited for longest, as `pg_stat_activity` has it.
    #[serde(borrow)]
    pub wait_event: Option<Cow<'a, str>>,
    /// How long.
    pub wait_event_seconds: Option<f64>,
}

/// Which cycles someone wants to see.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Only the one with this `id`.
    pub id: Option<String>,
    /// Only of this process.
    pub pid: Option<u32>,
    /// Only of this service.
    pub service: Option<String>,
    /// Only in this database.
    pub database: Option<String>,
    /// Only of this user.
    pub user: Option<String>,
    /// Only those that took at least this long.
    pub min_duration: Duration,
    /// Only those that ended with an error.
    pub errors: bool,
    /// Only seen at this end.
    pub role: Option<Role>,
    /// Only statements with this fingerprint, or with this in their text, whatever the case.
    pub statement: Option<String>,
}

impl Filter {
    /// Whether a cycle passes.
    pub fn admits(&self, query: &QueryRecord) -> bool {
        fn is(wanted: Option<&String>, found: &str) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        is(self.id.as_ref(), &query.id)
            && self.pid.is_none_or(|pid| pid == query.pid)
            && is(self.service.as_ref(), &query.service)
            && is(self.database.as_ref(), &query.database)
            && is(self.user.as_ref(), &query.user)
            && query.duration_seconds >= self.min_duration.as_secs_f64()
            && (!self.errors || query.sqlstate.is_some())
            && self.role.is_none_or(|role| role_name(role) == query.role)
            && self.statement.as_ref().is_none_or(|wanted| {
                *wanted == query.query || query.statement.to_lowercase().contains(&wanted.to_lowercase())
            })
    }
}

/// How an end of a connection is called.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Server => "server",
        Role::Client => "client",
    }
}

/// The end that is called so.
pub fn role_named(name: &str) -> Option<Role> {
    Role::ALL.iter().copied().find(|role| role_name(*role) == name)
}

/// Which statements someone wants to see.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Only of this service.
    pub service: Option<String>,
    /// Only seen at this end.
    pub role: Option<Role>,
    /// Only in this database.
    pub database: Option<String>,
    /// Only what ended within this time before now, as far as windows are kept; `None` is since the start.
    pub window: Option<Duration>,
    /// What goes first.
    pub sort: Sort,
    /// At most so many.
    pub limit: usize,
}

/// What statements are sorted by, the largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Time in all.
    #[default]
    Time,
    /// Statements that ended well.
    Calls,
    /// Cycles that ended with an error.
    Errors,
    /// Rows.
    Rows,
    /// Mean time of a cycle.
    Mean,
    /// 99th percentile.
    P99,
}

impl Sort {
    /// All, by name.
    pub const ALL: &[(&str, Self)] = &[
        ("time", Self::Time),
        ("calls", Self::Calls),
        ("errors", Self::Errors),
        ("rows", Self::Rows),
        ("mean", Self::Mean),
        ("p99", Self::P99),
    ];
}

/// Statements with their figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statements {
    /// When they were read, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// The time that they are about; `null` is since the agent started.
    pub window_seconds: Option<f64>,
    /// Time in all cycles that the selection admits, those beyond the limit included.
    pub total_seconds: f64,
    /// The statements.
    pub queries: Vec<StatementFigures>,
}

/// One statement of one service at one end in one database.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatementFigures {
    /// Fingerprint, `unknown` or `other`.
    pub query: String,
    /// Operation.
    pub operation: String,
    /// Operations and tables.
    pub summary: String,
    /// The text without literals.
    pub statement: String,
    /// Service.
    pub service: String,
    /// `client` or `server`.
    pub role: &'static str,
    /// Database.
    pub database: String,
    /// Executions that ended well, those in batches included: what `pg_stat_statements` calls `calls`.
    pub calls: u64,
    /// Cycles of this statement alone; the times below are theirs.
    pub cycles: u64,
    /// Cycles that ended with an error.
    pub errors: u64,
    /// Rows returned or changed.
    pub rows: u64,
    /// Time in its cycles.
    pub total_seconds: f64,
    /// The part that this is of the time in all cycles.
    pub share: f64,
    /// What that time was spent with, in seconds by state, at the server's end; empty if that was not looked at.
    pub wall: Seconds<'static>,
    /// Mean time of a cycle.
    pub mean_seconds: f64,
    /// Median.
    pub p50_seconds: f64,
    /// 95th percentile.
    pub p95_seconds: f64,
    /// 99th percentile.
    pub p99_seconds: f64,
}

/// The slow and failed cycles that are kept.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SlowQueries {
    /// When they were read, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// From here on a cycle is slow.
    pub slow_seconds: f64,
    /// How many slow and failed cycles were not kept because their service had too many at once.
    pub suppressed: u64,
    /// The cycles, the newest first.
    pub queries: Vec<QueryRecord<'static>>,
}

/// A statement that came again and again in one transaction, or in requests of a connection that followed each other
/// closely: most often a loop in a program that asks the database for each row of an answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RepeatRecord {
    /// When the first of these requests began, in microseconds since the Unix epoch.
    pub begun_unix_us: u64,
    /// Service of the process that was seen.
    pub service: String,
    /// Which end that is: `client` or `server`.
    pub role: &'static str,
    /// The other end; empty on a unix socket.
    pub peer: String,
    /// Database.
    pub database: String,
    /// Who is logged in.
    pub user: String,
    /// The process that was seen.
    pub pid: u32,
    /// How often it came.
    pub count: u32,
    /// Time in its cycles.
    pub total_seconds: f64,
    /// From the first of these requests to the last.
    pub burst_seconds: f64,
    /// The part that the one is of the other.
    pub share: f64,
    /// Whether it is over; while it is not, the figures are those of the last time that the count had doubled.
    pub ended: bool,
    /// The statement's fingerprint.
    pub query: String,
    /// Operations and tables.
    pub summary: String,
    /// The statement without literals.
    pub statement: String,
}

/// The repetitions that are kept.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Repeats {
    /// When they were read, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// How often a statement comes before that is told.
    pub threshold: u64,
    /// The repetitions, the newest first.
    pub repeats: Vec<RepeatRecord>,
}

/// How many connections there are, by what they are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionCounts {
    /// A cycle is under way.
    pub active: u64,
    /// Nothing is.
    pub idle: u64,
    /// Nothing is, but a transaction is open.
    pub idle_in_transaction: u64,
    /// Encrypted: it is not known what they are doing.
    pub encrypted_unseen: u64,
    /// All of them.
    pub total: u64,
}

/// The connections of one client process to one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientConnections {
    /// Service of the process.
    pub service: String,
    /// The process, of several that share a connection the one with the lowest number; `None` if none was found.
    pub pid: Option<u32>,
    /// The server, as peers are named; empty on unix sockets.
    pub server: String,
    /// How many.
    #[serde(flatten)]
    pub counts: ConnectionCounts,
    /// The size that is configured for the service's pool, if any.
    pub pool_size: Option<usize>,
}

/// The connections of one server on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerConnections {
    /// Its service.
    pub service: String,
    /// How many.
    #[serde(flatten)]
    pub counts: ConnectionCounts,
    /// Its own setting, if it could be read.
    pub max_connections: Option<u32>,
}

/// The open Postgres connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Connections {
    /// When they were read, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// By client process and server, those with the most first.
    pub clients: Vec<ClientConnections>,
    /// By server, all of those on this host.
    pub servers: Vec<ServerConnections>,
}

/// A question to the pipeline.
#[derive(Debug)]
pub enum Question {
    /// Which statements take the time?
    Statements(Selection, oneshot::Sender<Statements>),
    /// Which cycles were slow or failed? At most so many that pass the filter.
    Slow(Filter, usize, oneshot::Sender<SlowQueries>),
    /// Which statements came again and again? Of this service, role and database; at most so many.
    Repeats(Selection, oneshot::Sender<Repeats>),
    /// Which connections are open? Of this service and database; at most so many client processes.
    Connections(Selection, oneshot::Sender<Connections>),
    /// What happens now?
    Trace(TraceRequest),
    /// Where does the time go?
    Profile(ProfileRequest),
    /// Where did it go?
    Past(PastRequest),
    /// Why was it slow?
    Explain(ExplainRequest),
    /// What was found?
    Findings(oneshot::Sender<Result<Findings, NotExplained>>),
    /// Which events are known?
    Events(oneshot::Sender<Result<Events, NotExplained>>),
    /// Which alerts are there, and what is to be done about them?
    Alerts(AlertQuestion),
    /// What is set, and what is to be set?
    Settings(SettingQuestion),
    /// Something happened.
    Happened(PostedEvent, oneshot::Sender<Result<Event, NotExplained>>),
}

/// Where questions are asked. Clones ask the same pipeline.
#[derive(Clone, Debug)]
pub struct Desk(mpsc::Sender<Question>);

/// The pipeline has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no answer: the pipeline has stopped")]
pub struct NoAnswer;

/// A desk, and the pipeline's end of it.
pub fn desk() -> (Desk, mpsc::Receiver<Question>) {
    let (ask, questions) = mpsc::channel(16);
    (Desk(ask), questions)
}

impl Desk {
    /// Puts a question whose answer is waited for elsewhere.
    ///
    /// # Errors
    /// When the pipeline has stopped.
    pub async fn put(&self, question: Question) -> Result<(), NoAnswer> {
        self.0.send(question).await.map_err(|_| NoAnswer)
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// When the pipeline has stopped.
    pub async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, NoAnswer> {
        let (answer, answered) = oneshot::channel();
        self.0.send(question(answer)).await.map_err(|_| NoAnswer)?;
        answered.await.map_err(|_| NoAnswer)
    }
}

#[cfg(test)]
mod tests;
