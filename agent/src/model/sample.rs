//! Samples as they come from the kernel, and what people ask for to be made of them.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, SystemTime},
};

use steth_probes::{cell::Role, profile::SampleKind, tls::CodeFile, unwind::Stop};
use tokio::sync::oneshot;

use super::profile::{Kind, Profile};

/// What the ring of samples tells.
#[derive(Clone, Debug)]
pub enum Told {
    /// A stack, or a part of one.
    Sample(Sample),
    /// Code is run from a file without an unwind table.
    NoTable(NoTable),
}

/// A stack, or a part of one.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What it is.
    pub kind: SampleKind,
    /// When, by the monotonic clock.
    pub at_ns: u64,
    /// What it weighs.
    pub weight_ns: u64,
    /// The thread's name.
    pub thread: [u8; 16],
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Number of its service.
    pub service: u32,
    /// The Postgres request that it served or waited for.
    pub request: Option<Request>,
    /// Frames of the kernel, as addresses, the innermost first.
    pub kernel: Box<[u64]>,
    /// Frames of the process as [`steth_probes::unwind::FrameWord`]s, the innermost first. Of [`SampleKind::Still`] the registers
    /// RIP, RSP and RBP.
    pub user: Box<[u64]>,
    /// Frames of Python as [`steth_probes::python::FrameWord`]s, the innermost first.
    pub python: Box<[u64]>,
    /// Why there are no more; `None` if it was not walked.
    pub stop: Option<Stop>,
    /// Time that the walk took.
    pub walk_ns: u32,
    /// System call that the thread is in.
    pub call: Option<u32>,
}

#[cfg(test)]
impl Sample {
    /// One of this kind that was walked so far, of five nanoseconds, and of nothing else.
    pub fn of_kind(kind: SampleKind, stop: Option<Stop>) -> Self {
        Self {
            kind,
            at_ns: 0,
            weight_ns: 5,
            thread: [0; 16],
            pid: 1,
            tid: 1,
            service: 0,
            request: None,
            kernel: Box::default(),
            user: Box::default(),
            python: Box::default(),
            stop,
            walk_ns: 0,
            call: None,
        }
    }
}

/// Which Postgres request a thread was busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Its connection.
    pub connection: u64,
    /// When it began, by the monotonic clock.
    pub begun_ns: u64,
    /// Number of its statement.
    pub statement: u32,
    /// At which end of the connection the thread is.
    pub role: Role,
}

/// Code is run from a file without an unwind table.
#[derive(Clone, Copy, Debug)]
pub struct NoTable {
    /// The file, as the kernel has it.
    pub file: CodeFile,
    /// What stands for it in frames.
    pub slot: u32,
    /// A process that runs it.
    pub pid: u32,
    /// Where it lies there.
    pub start: u64,
}

/// Whose samples are wanted. Empty: everybody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whose {
    /// Processes.
    pub pids: Vec<u32>,
    /// Services by name.
    pub services: Vec<String>,
    /// Control groups by their path below the root of their hierarchy, with all groups in them.
    pub cgroups: Vec<String>,
}

impl Whose {
    /// Whether it is everybody.
    pub const fn is_everybody(&self) -> bool {
        self.pids.is_empty() && self.services.is_empty() && self.cgroups.is_empty()
    }

    /// The processes, if it is known by their numbers alone whose samples are wanted.
    pub fn pids(&self) -> Option<&[u32]> {
        let by_number = !self.pids.is_empty() && self.services.is_empty() && self.cgroups.is_empty();
        by_number.then_some(&*self.pids)
    }

    /// Whether a service is wanted that has this name and lives in this control group.
    pub fn has_service(&self, name: &str, cgroup: Option<&str>) -> bool {
        let within = |group: &String| {
            let rest = cgroup.and_then(|path| path.strip_prefix(group.trim_end_matches('/')));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.services.iter().any(|it| it == name) || self.cgroups.iter().any(within)
    }
}

/// A profile that someone asks for.
#[derive(Debug)]
pub struct ProfileRequest {
    /// Whose.
    pub whose: Whose,
    /// Of what.
    pub kind: Kind,
    /// For how long.
    pub length: Duration,
    /// Samples of the CPU clock in a second and CPU.
    pub hertz: u32,
    /// Only while a Postgres statement with this fingerprint was being served.
    pub query: Option<String>,
    /// Only while a Postgres request was being served that took at least this long.
    pub slow: Option<Duration>,
    /// Of [`Kind::Syscalls`] and [`Kind::Queries`]: only of calls or requests that took at least this long.
    pub least: Duration,
    /// Set by whoever wants it to end early.
    pub enough: Arc<AtomicBool>,
    /// Told when samples are taken from now on.
    pub begun: Option<oneshot::Sender<()>>,
    /// The profile, or why there is none.
    pub answer: oneshot::Sender<Result<Arc<Profile>, ProfileRefused>>,
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Its first moment.
    pub from: SystemTime,
    /// The first moment after it.
    pub to: SystemTime,
}

impl Period {
    /// Whether the two have a moment in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.from < other.to && other.from < self.to
    }
}

/// A profile of the past that someone asks for.
#[derive(Debug)]
pub struct PastRequest {
    /// Of which time.
    pub period: Period,
    /// An earlier one to compare it with.
    pub against: Option<Period>,
    /// Only of these services; empty: of all.
    pub services: Vec<String>,
    /// The profile, or why there is none.
    pub answer: oneshot::Sender<Result<Past, ProfileRefused>>,
}

/// A profile of the past.
#[derive(Debug)]
pub struct Past {
    /// What was asked for.
    pub profile: Profile,
    /// What it is to be compared with.
    pub against: Option<Profile>,
}

/// Why there is no profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileRefused {
    /// No program can run that takes samples.
    #[error("no samples can be taken: {0}")]
    Impossible(String),
    /// A process does not exist.
    #[error("there is no process {0}")]
    NoProcess(u32),
    /// Too many ask.
    #[error("{0} profiles are being taken already, and that is the most")]
    TooMany(usize),
    /// Longer, or more often, than is allowed.
    #[error("{0}")]
    OutOfRange(String),
    /// Nothing is kept of that time.
    #[error("{0}")]
    NoPast(String),
    /// The kernel refused.
    #[error("the kernel refused: {0}")]
    Kernel(String),
}
