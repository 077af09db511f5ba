//! `steth trace`: what happens, one line each, from a running agent or without one.

mod print;

use std::{
    path::PathBuf,
    pin::pin,
    time::{Duration, Instant},
};

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
    model::query::{Filter, TraceRequest, role_name},
    pipeline,
};

/// The subcommands of `steth trace`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Postgres queries, one line for each cycle from a request to ReadyForQuery
    Postgres(Box<Arguments>),
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
pub struct Arguments {
    /// Only of this process
    #[arg(short, long)]
    pid: Option<u32>,
    /// Only of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
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
pub fn postgres(arguments: &Arguments) -> Outcome {
    let config = configuration(arguments.config.as_deref(), vec![]).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    let outcome = runtime.block_on(trace(arguments, config));
    runtime.shutdown_timeout(Duration::from_millis(500));
    outcome
}

async fn trace(arguments: &Arguments, config: Config) -> Outcome {
    let mut stop = Stop::listen().map_err(|error| Failure::failed(format!("cannot listen to signals: {error}")))?;
    let (lines, mut told) = mpsc::channel(WAITING);
    let mut printer = Printer::new(arguments.json);
    let length = arguments.duration.unwrap_or(LONGEST).min(LONGEST);
    let mut work = arguments.begin(config, length, lines).await?;
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
    // What happened before the end is shown.
    while let Ok(piece) = told.try_recv() {
        printer.take(&piece)?;
    }
    work.abort();
    printer.end()?;
    outcome
}

impl Arguments {
    /// Asks the agent if there is one, else loads the kernel programs.
    async fn begin(
        &self,
        config: Config,
        length: Duration,
        lines: mpsc::Sender<Vec<u8>>,
    ) -> Result<JoinHandle<Outcome>, Failure> {
        let target = self.place.target(&config)?;
        let agent = if self.alone { None } else { Agent::connect(&target).await? };
        match agent {
            Some(agent) => {
                let answer = agent.ask(&self.path(length)).await?;
                terminal::talk(&format!("tracing through the agent at {target}"));
                Ok(tokio::spawn(answer.hand_on(lines)))
            }
            None if self.place.is_given() => Err(Failure::failed(format!(
                "no agent answers at {target}; without --agent the kernel programs are loaded for the trace"
            ))),
            None => {
                let (answer, answered) = oneshot::channel();
                let until = Instant::now() + length;
                let request = TraceRequest { filter: self.filter(), until, lines, answer };
                let trace = async { pipeline::trace(config, request).await.map_err(Failure::missing) };
                let mut trace = tokio::spawn(trace);
                match answered.await {
                    Ok(_) => terminal::talk("tracing with kernel programs of its own"),
                    Err(_) => return (&mut trace).await.unwrap_or_else(|e| Err(Failure::failed(e))).map(|()| trace),
                }
                Ok(trace)
            }
        }
    }

    fn filter(&self) -> Filter {
        Filter {
            id: None,
            pid: self.pid,
            service: self.service.clone(),
            database: self.database.clone(),
            user: self.user.clone(),
            min_duration: self.min_duration.unwrap_or_default(),
            errors: self.errors,
            role: self.role.map(Role::end),
            statement: self.statement.clone(),
        }
    }

    /// The same as a request to the agent.
    fn path(&self, length: Duration) -> String {
        let mut path = format!("/api/v1/postgres/trace?duration={}", show_duration(length));
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", encoded(&value)));
            }
        };
        add("pid", self.pid.map(|pid| pid.to_string()));
        add("service", self.service.clone());
        add("database", self.database.clone());
        add("user", self.user.clone());
        add("min_duration", self.min_duration.map(show_duration));
        add("errors", self.errors.then(|| "true".into()));
        add("role", self.role.map(|role| role_name(role.end()).into()));
        add("statement", self.statement.clone());
        path
    }
}

impl Role {
    fn end(self) -> cell::Role {
        match self {
            Self::Client => cell::Role::Client,
            Self::Server => cell::Role::Server,
        }
    }
}
