//! What happens on this host, one thing at a time, for whoever traces it: a line of each, and who wants which. Knows neither
//! where they come from nor how they are shown.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{
    query::{Filter, QueryRecord},
    syscall::is_syscall,
};

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TraceLine<'a> {
    /// A Postgres cycle ended.
    Query(#[serde(borrow)] Box<QueryRecord<'a>>),
    /// A system call ended.
    Call(#[serde(borrow)] CallRecord<'a>),
    /// Something happened to a TCP connection.
    Tcp(#[serde(borrow)] TcpRecord<'a>),
    /// A process began to run an executable.
    Exec(#[serde(borrow)] ExecRecord<'a>),
    /// How many were skipped since the trace began, whenever that has changed, and at the end.
    Skipped {
        /// Because the ring between kernel and agent was full: of any service, whatever the filter.
        in_kernel: u64,
        /// Because whoever traces was too slow to take them.
        in_agent: u64,
    },
}

/// A system call that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallRecord<'a> {
    /// When it began, in microseconds since the Unix epoch.
    pub begun_unix_us: u64,
    /// How long it took.
    pub duration_seconds: f64,
    /// Service of the process.
    #[serde(borrow)]
    pub service: Cow<'a, str>,
    /// The process.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// The thread's name.
    #[serde(borrow)]
    pub thread: Cow<'a, str>,
    /// Its name.
    #[serde(borrow)]
    pub syscall: Cow<'a, str>,
    /// What it returned; an error is negative. `None` of calls that return addresses, which are nobody else's business.
    pub result: Option<i64>,
    /// The error, such as `ENOENT`, if any.
    #[serde(borrow)]
    pub errno: Option<Cow<'a, str>>,
}

/// Something that happened to a TCP connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TcpRecord<'a> {
    /// When, in microseconds since the Unix epoch.
    pub at_unix_us: u64,
    /// `connected`, `refused`, `timed_out`, `unreachable` or `aborted` for a connect that ended so, `accepted`, `closed`,
    /// `retransmitted`, `reset_sent` or `reset_received`.
    #[serde(borrow)]
    pub event: Cow<'a, str>,
    /// How long the connect took, the connection waited to be accepted, or lived.
    pub duration_seconds: Option<f64>,
    /// Service of the process; empty if unknown.
    #[serde(borrow)]
    pub service: Cow<'a, str>,
    /// The process that connected or accepted, if that was seen.
    pub pid: Option<u32>,
    /// The other end; `other` if there are more than are told apart.
    #[serde(borrow)]
    pub peer: Cow<'a, str>,
    /// Local port, if known.
    pub port: Option<u16>,
    /// `inet` or `inet6`, if known.
    #[serde(borrow)]
    pub family: Option<Cow<'a, str>>,
    /// Bytes that the process has received so far, as far as they were seen.
    pub received_bytes: u64,
    /// Bytes that it has sent so far, as far as they were seen.
    pub sent_bytes: u64,
}

/// A process that began to run an executable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecRecord<'a> {
    /// When, in microseconds since the Unix epoch.
    pub at_unix_us: u64,
    /// Service that it belongs to now.
    #[serde(borrow)]
    pub service: Cow<'a, str>,
    /// The process.
    pub pid: u32,
    /// Who started it.
    pub parent: u32,
    /// Number of its user.
    pub uid: u32,
    /// Its arguments, the first one its name; empty if they could not be read.
    pub command: Vec<String>,
    /// Whether it has more arguments than are told.
    pub is_cut: bool,
}

/// Which lines someone wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// Postgres cycles.
    Queries(Filter),
    /// System calls.
    Calls(Of),
    /// TCP events.
    Tcp(Of),
    /// Executions.
    Executions(Of),
}

/// Of whom, and which of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Of {
    /// Only of this process.
    pub pid: Option<u32>,
    /// Only of this service.
    pub service: Option<String>,
    /// Only those that took at least this long.
    pub min_duration: Duration,
    /// Only those that failed.
    pub errors: bool,
    /// Only with these names: of a system call, or of what happened. All if there are none.
    pub names: Vec<String>,
}

/// What may happen to a TCP connection. All but the first three are no good sign.
pub const TCP_EVENTS: [&str; 10] = [
    "connected",
    "accepted",
    "closed",
    "refused",
    "timed_out",
    "unreachable",
    "aborted",
    "retransmitted",
    "reset_sent",
    "reset_received",
];

impl Wanted {
    /// Whether a line is one of these.
    pub fn admits(&self, line: &TraceLine) -> bool {
        match (self, line) {
            (Self::Queries(filter), TraceLine::Query(query)) => filter.admits(query),
            (Self::Calls(of), TraceLine::Call(call)) => {
                of.is_of(Some(call.pid), &call.service)
                    && of.is_long(Some(call.duration_seconds))
                    && (!of.errors || call.errno.is_some())
                    && of.is_named(&call.syscall)
            }
            (Self::Tcp(of), TraceLine::Tcp(tcp)) => {
                of.is_of(tcp.pid, &tcp.service)
                    && of.is_long(tcp.duration_seconds)
                    && (!of.errors || TCP_EVENTS[3..].contains(&&*tcp.event))
                    && of.is_named(&tcp.event)
            }
            (Self::Executions(of), TraceLine::Exec(exec)) => of.is_of(Some(exec.pid), &exec.service),
            _ => false,
        }
    }

    /// Whether all names are known: a misspelt one would keep everything out.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        let strange = |names: &[String], is_known: fn(&str) -> bool| {
            names.iter().find(|name| !is_known(name)).map(|name| format!("{name:?}"))
        };
        match self {
            Self::Calls(of) => match strange(&of.names, is_syscall) {
                Some(strange) => Err(format!("there is no system call {strange} on x86-64")),
                None => Ok(()),
            },
            Self::Tcp(of) => match strange(&of.names, |name| TCP_EVENTS.contains(&name)) {
                Some(strange) => Err(format!("there is no event {strange}; there are {}", TCP_EVENTS.join(", "))),
                None => Ok(()),
            },
            Self::Queries(_) | Self::Executions(_) => Ok(()),
        }
    }

    /// The only service whose lines these are, if it is one.
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Queries(Filter { service, .. })
            | Self::Calls(Of { service, .. })
            | Self::Tcp(Of { service, .. })
            | Self::Executions(Of { service, .. }) => service.as_deref(),
        }
    }
}

impl Of {
    fn is_of(&self, pid: Option<u32>, service: &str) -> bool {
        (self.pid.is_none() || self.pid == pid) && self.service.as_ref().is_none_or(|wanted| wanted == service)
    }

    /// What takes no time is no long one.
    fn is_long(&self, seconds: Option<f64>) -> bool {
        self.min_duration.is_zero() || seconds.is_some_and(|seconds| seconds >= self.min_duration.as_secs_f64())
    }

    fn is_named(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

/// Someone who wants to be told of each thing that happens.
#[derive(Debug)]
pub struct TraceRequest {
    /// Of which.
    pub wanted: Wanted,
    /// For how long, once it has begun.
    pub length: Duration,
    /// Lines of JSON, several at a time. What finds no room is skipped and counted; when it is closed, the trace ends.
    pub lines: mpsc::Sender<Vec<u8>>,
    /// Whether it begins.
    pub answer: oneshot::Sender<Result<(), TraceRefused>>,
}

/// Why nothing is traced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceRefused {
    /// No probe runs.
    #[error("no probe runs on this host, so nothing can be traced")]
    NoProbes,
    /// What is to be traced is not looked at.
    #[error("{what} are not looked at: {why}")]
    NotSeen {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// Everybody who traces costs CPU time and memory.
    #[error("{most} traces run already, which is the most there may be")]
    TooMany {
        /// The bound.
        most: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> TraceLine<'static> {
        TraceLine::Call(CallRecord {
            begun_unix_us: 1,
            duration_seconds: 0.020,
            service: "shop".into(),
            pid: 7,
            tid: 8,
            thread: "worker".into(),
            syscall: "read".into(),
            result: Some(-2),
            errno: Some("ENOENT".into()),
        })
    }

    fn tcp(event: &'static str, duration_seconds: Option<f64>) -> TraceLine<'static> {
        TraceLine::Tcp(TcpRecord {
            at_unix_us: 1,
            event: event.into(),
            duration_seconds,
            service: "shop".into(),
            pid: None,
            peer: "10.0.0.1:5432".into(),
            port: Some(40_000),
            family: Some("inet".into()),
            received_bytes: 0,
            sent_bytes: 0,
        })
    }

    #[test]
    fn each_part_of_a_filter_keeps_out_what_it_is_not_about() {
        let of = |change: fn(&mut Of)| {
            let mut of = Of { errors: true, min_duration: Duration::from_millis(20), ..Of::default() };
            change(&mut of);
            Wanted::Calls(of)
        };
        assert!(of(|of| (of.pid, of.service) = (Some(7), Some("shop".into()))).admits(&call()));
        assert!(of(|of| of.names = vec!["write".into(), "read".into()]).admits(&call()));
        let others: [fn(&mut Of); 4] = [
            |of| of.pid = Some(8),
            |of| of.service = Some("other".into()),
            |of| of.names = vec!["write".into()],
            |of| of.min_duration = Duration::from_millis(21),
        ];
        assert!(others.into_iter().all(|change| !of(change).admits(&call())));
        assert!(!Wanted::Tcp(Of::default()).admits(&call()) && !Wanted::Queries(Filter::default()).admits(&call()));
    }

    #[test]
    fn of_tcp_what_takes_no_time_is_not_long_and_what_went_well_no_error() {
        let long = Wanted::Tcp(Of { min_duration: Duration::from_millis(1), ..Of::default() });
        assert!(long.admits(&tcp("connected", Some(0.001))) && !long.admits(&tcp("reset_sent", None)));
        let errors = Wanted::Tcp(Of { errors: true, ..Of::default() });
        assert!(errors.admits(&tcp("reset_sent", None)) && !errors.admits(&tcp("closed", Some(1.0))));
        let one = Wanted::Tcp(Of { pid: Some(7), ..Of::default() });
        assert!(!one.admits(&tcp("retransmitted", None)), "nobody knows whose it was");
    }

    #[test]
    fn names_that_there_are_not_are_refused() {
        let of = |name: &str| Of { names: vec![name.into()], ..Of::default() };
        assert!(Wanted::Calls(of("fsync")).check().is_ok() && Wanted::Tcp(of("refused")).check().is_ok());
        assert_eq!(Wanted::Calls(of("fsink")).check().unwrap_err(), "there is no system call \"fsink\" on x86-64");
        assert!(
            Wanted::Tcp(of("fsync"))
                .check()
                .unwrap_err()
                .starts_with("there is no event \"fsync\"; there are connected")
        );
    }
}
