//! `steth trace`: what happens, one line each, from a running agent or without one.

mod print;
mod rows;

use std::{path::PathBuf, pin::pin, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use print::Printer;
use steth_probes::cell;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    Failure, Outcome,
    agent::{Agent, encoded},
    configuration,
    reach::Where,
    signals::Stop,
    terminal,
};
use crate::{
    config::{
        Config,
        value::{parse_duration, show_duration},
    },
    model::{
        query::{Filter, role_name},
        trace::{Of, TraceRequest, Wanted},
    },
    pipeline,
};

/// The subcommands of `steth trace`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Postgres queries, one line for each cycle from a request to ReadyForQuery
    Postgres(Box<Queries>),
    /// System calls, one line for each that has ended
    Syscalls(Box<Calls>),
    /// TCP connections: connects and how they ended, accepts, resets, what was sent again, ends
    Tcp(Box<Connections>),
    /// Executables that processes begin to run, with their arguments
    Exec(Box<Executions>),
}

/// What `steth trace postgres` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steth trace postgres                                   everything, until Ctrl-C
  steth trace postgres --min-duration 10ms --errors      slow ones that failed
  steth trace postgres --service shop.service -d 10s     one service for ten seconds
  steth trace postgres --statement 'update accounts' --json | jq .duration_seconds

A running agent is asked if there is one; else the kernel programs are loaded for as long as the trace lasts. Process, service
and least duration are filtered in the kernel. A query between two processes of this host is seen at both ends.
Statements are shown without literals. How many were skipped is said on stderr, and in the last line of --json.")]
pub struct Queries {
    #[command(flatten)]
    who: Who,
    /// Only in this database
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// Only of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only those that took at least this long
    #[arg(long, value_name = "10ms", value_parser = parse_duration)]
    min_duration: Option<Duration>,
    /// Only those that ended with an error
    #[arg(long)]
    errors: bool,
    /// Only seen at this end
    #[arg(long)]
    role: Option<Role>,
    /// Only statements with this text or fingerprint
    #[arg(long, value_name = "TEXT")]
    statement: Option<String>,
    #[command(flatten)]
    how: How,
}

/// What `steth trace syscalls` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steth trace syscalls -p 4711                           one process, until Ctrl-C
  steth trace syscalls --min-duration 100ms -d 10s       of the whole host those that took long
  steth trace syscalls --service shop.service --errors   those of a service that failed
  steth trace syscalls --syscall fsync,fdatasync --json | jq .duration_seconds

A running agent is asked if there is one; else the kernel programs are loaded for as long as the trace lasts. Process, service
and least duration are filtered in the kernel: without them each call of the host is told, and what comes faster than it
can be taken is skipped. How many were is said on stderr, and in the last line of --json.")]
pub struct Calls {
    #[command(flatten)]
    who: Who,
    /// Only those that took at least this long
    #[arg(long, value_name = "10ms", value_parser = parse_duration)]
    min_duration: Option<Duration>,
    /// Only those that failed
    #[arg(long)]
    errors: bool,
    /// Only these calls
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    syscall: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// What `steth trace tcp` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steth trace tcp                                        everything, until Ctrl-C
  steth trace tcp --service shop.service --errors        what went wrong for one service
  steth trace tcp --event connected --min-duration 10ms  connects that took long
  steth trace tcp --json | jq 'select(.event == \"closed\") | .sent_bytes'

Events are connected, refused, timed_out, unreachable, aborted, accepted, closed, retransmitted, reset_sent, reset_received. The
duration is that of the connect, of the wait to be accepted, or of the connection's life; a connection between two processes
of this host is seen at both ends. A running agent is asked if there is one; else the kernel programs are loaded for as long as
the trace lasts.")]
pub struct Connections {
    #[command(flatten)]
    who: Who,
    /// Only those whose duration was at least this long
    #[arg(long, value_name = "10ms", value_parser = parse_duration)]
    min_duration: Option<Duration>,
    /// Only what went wrong: connects that failed, segments sent again, resets
    #[arg(long)]
    errors: bool,
    /// Only these events
    #[arg(long, value_name = "EVENT", value_delimiter = ',')]
    event: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// What `steth trace exec` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steth trace exec                          everything, until Ctrl-C
  steth trace exec --service cron.service   what one service runs
  steth trace exec -d 1m --json | jq -r '.command | join(\" \")'

Of the arguments 512 bytes are shown as they are, passwords too if somebody passes them so. A running agent is asked if there is
one; else the kernel programs are loaded for as long as the trace lasts.")]
pub struct Executions {
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    how: How,
}

/// Of whom.
#[derive(Debug, Args)]
struct Who {
    /// Only of this process
    #[arg(short, long)]
    pid: Option<u32>,
    /// Only of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

/// How long, by whom, and how it is written.
#[derive(Debug, Args)]
struct How {
    /// End after this time [default: at Ctrl-C]
    #[arg(short, long, value_name = "10s", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Write one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
    /// Load the kernel programs, whether an agent runs or not
    #[arg(long, conflicts_with_all = ["agent", "url"])]
    alone: bool,
    /// Configuration file [default: /etc/steth/steth.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "STETH_CONFIG")]
    config: Option<PathBuf>,
}

/// An end of a connection.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Who asks
    Client,
    /// Who answers
    Server,
}

/// As good as for ever.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);
/// Whoever tells ends the trace; this long after its end nobody waits any more.
const GRACE: Duration = Duration::from_secs(2);
/// Pieces of lines that may wait to be written; the rest is skipped and counted.
const WAITING: usize = 16;

/// Traces until the duration is over or a signal comes.
///
/// # Errors
/// When the agent refuses, or no probe can run.
pub fn trace(command: Command) -> Outcome {
    let (wanted, how) = command.read()?;
    let config = configuration(how.config.as_deref(), vec![]).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    let outcome = runtime.block_on(show(wanted, how, config));
    runtime.shutdown_timeout(Duration::from_millis(500));
    outcome
}

async fn show(wanted: Wanted, how: How, config: Config) -> Outcome {
    let mut stop = Stop::listen().map_err(|error| Failure::failed(format!("cannot listen to signals: {error}")))?;
    let (lines, mut told) = mpsc::channel(WAITING);
    let mut printer = Printer::new(&wanted, how.json);
    let length = how.duration.unwrap_or(LONGEST).min(LONGEST);
    let mut work = how.begin(wanted, config, length, lines).await?;
    let mut overdue = pin!(tokio::time::sleep(length + GRACE));
    let outcome = loop {
        tokio::select! {
            biased;
            () = stop.wait() => break Ok(()),
            () = &mut overdue => break Err(Failure::failed("the agent does not end the trace")),
            piece = told.recv() => match piece {
                Some(piece) if printer.take(&piece)? => {}
                Some(_) => break Ok(()),
                None => break (&mut work).await.unwrap_or_else(|error| Err(Failure::failed(error))),
            },
        }
    };
    // What happened before the end is shown, and no more: what is shown may itself be traced.
    told.close();
    while let Ok(piece) = told.try_recv() {
        printer.take(&piece)?;
    }
    work.abort();
    printer.end()?;
    outcome
}

impl Command {
    /// What is to be shown, and how.
    fn read(self) -> Result<(Wanted, How), Failure> {
        let (wanted, how) = match self {
            Self::Postgres(queries) => {
                let Queries { who, database, user, min_duration, errors, role, statement, how } = *queries;
                let filter = Filter {
                    id: None,
                    pid: who.pid,
                    service: who.service,
                    database,
                    user,
                    min_duration: min_duration.unwrap_or_default(),
                    errors,
                    role: role.map(Role::end),
                    statement,
                };
                (Wanted::Queries(filter), how)
            }
            Self::Syscalls(calls) => {
                let Calls { who, min_duration, errors, syscall, how } = *calls;
                (Wanted::Calls(who.of(min_duration, errors, syscall)), how)
            }
            Self::Tcp(connections) => {
                let Connections { who, min_duration, errors, event, how } = *connections;
                (Wanted::Tcp(who.of(min_duration, errors, event)), how)
            }
            Self::Exec(executions) => {
                let Executions { who, how } = *executions;
                (Wanted::Executions(who.of(None, false, Vec::new())), how)
            }
        };
        wanted.check().map_err(Failure::usage)?;
        Ok((wanted, how))
    }
}

impl Who {
    fn of(self, min_duration: Option<Duration>, errors: bool, names: Vec<String>) -> Of {
        let Self { pid, service } = self;
        Of { pid, service, min_duration: min_duration.unwrap_or_default(), errors, names }
    }
}

impl How {
    /// Asks the agent if there is one, else loads the kernel programs.
    async fn begin(
        &self,
        wanted: Wanted,
        config: Config,
        length: Duration,
        lines: mpsc::Sender<Vec<u8>>,
    ) -> Result<JoinHandle<Outcome>, Failure> {
        let target = self.place.target(&config)?;
        let agent = if self.alone { None } else { Agent::connect(&target).await? };
        match agent {
            Some(agent) => {
                let answer = agent.ask(&path(&wanted, length)).await?;
                terminal::talk(&format!("tracing through the agent at {target}"));
                Ok(tokio::spawn(answer.hand_on(lines)))
            }
            None if self.place.is_given() => Err(Failure::failed(format!(
                "no agent answers at {target}; without --agent the kernel programs are loaded for the trace"
            ))),
            None => {
                let (answer, answered) = oneshot::channel();
                let request = TraceRequest { wanted, length, lines, answer };
                let trace = async { pipeline::trace(config, request).await.map_err(Failure::missing) };
                let mut trace = tokio::spawn(trace);
                match answered.await {
                    Ok(Ok(())) => terminal::talk("tracing with kernel programs of its own"),
                    Ok(Err(refused)) => return Err(Failure::missing(refused)),
                    Err(_) => return (&mut trace).await.unwrap_or_else(|e| Err(Failure::failed(e))).map(|()| trace),
                }
                Ok(trace)
            }
        }
    }
}

/// The same as a request to the agent.
fn path(wanted: &Wanted, length: Duration) -> String {
    let mut path = match wanted {
        Wanted::Queries(_) => "/api/v1/postgres/trace",
        Wanted::Calls(_) => "/api/v1/trace/syscalls",
        Wanted::Tcp(_) => "/api/v1/trace/tcp",
        Wanted::Executions(_) => "/api/v1/trace/exec",
    }
    .to_owned();
    path.push_str(&format!("?duration={}", show_duration(length)));
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encoded(&value)));
        }
    };
    let least = |least: &Duration| (!least.is_zero()).then(|| show_duration(*least));
    match wanted {
        Wanted::Queries(filter) => {
            add("pid", filter.pid.map(|pid| pid.to_string()));
            add("service", filter.service.clone());
            add("database", filter.database.clone());
            add("user", filter.user.clone());
            add("min_duration", least(&filter.min_duration));
            add("errors", filter.errors.then(|| "true".into()));
            add("role", filter.role.map(|role| role_name(role).into()));
            add("statement", filter.statement.clone());
        }
        Wanted::Calls(of) | Wanted::Tcp(of) | Wanted::Executions(of) => {
            add("pid", of.pid.map(|pid| pid.to_string()));
            add("service", of.service.clone());
            add("min_duration", least(&of.min_duration));
            add("errors", of.errors.then(|| "true".into()));
            let name = if matches!(wanted, Wanted::Calls(_)) { "syscall" } else { "event" };
            add(name, (!of.names.is_empty()).then(|| of.names.join(",")));
        }
    }
    path
}

impl Role {
    fn end(self) -> cell::Role {
        match self {
            Self::Client => cell::Role::Client,
            Self::Server => cell::Role::Server,
        }
    }
}
