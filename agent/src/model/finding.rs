//! What correlation finds in the windows: findings with their evidence, events that may explain them, and the answer to
//! "why was it slow". Knows neither how they are found nor how they are shown.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::sample::Period;

/// What kind of finding it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A resource has nothing left to give.
    Saturation,
    /// A series left its own past.
    Change,
    /// A use that grows steadily towards its limit.
    Leak,
}

impl FindingKind {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Saturation, Self::Change, Self::Leak];

    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Saturation => "saturation",
            Self::Change => "change",
            Self::Leak => "leak",
        }
    }
}

/// Something that was found, with what it is concluded from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Tells it from all others of this agent.
    pub id: u64,
    /// What kind of finding it is.
    pub kind: FindingKind,
    /// What it is about: the resource or the signal, such as `cpu` or `postgres_latency`.
    pub about: &'static str,
    /// Which of several: a core, a device, a peer, the end of a connection; empty if there is one.
    pub part: String,
    /// Whose; `null` if the whole host's.
    pub service: Option<String>,
    /// When it began, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// When it was over; `null` while it lasts.
    pub until_unix_ms: Option<u64>,
    /// One sentence with its figures.
    pub conclusion: String,
    /// From 0 to 1: how far it is from usual, or from a limit.
    pub score: f64,
    /// What a person can check, the most telling first.
    pub evidence: Vec<Evidence>,
    /// Services whose use rose with it, the most first.
    pub contenders: Vec<Contender>,
}

impl Finding {
    /// Whether it lasted at some moment of a period.
    pub fn lasted_in(&self, from_unix_ms: u64, to_unix_ms: u64) -> bool {
        self.since_unix_ms <= to_unix_ms && self.until_unix_ms.is_none_or(|until| until >= from_unix_ms)
    }
}

/// One figure that a finding rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evidence {
    /// What was measured, in words.
    pub name: String,
    /// Whose; `null` if the whole host's.
    pub service: Option<String>,
    /// The figure.
    pub value: f64,
    /// What is usual; `null` if that is not known.
    pub usual: Option<f64>,
    /// Unit of both.
    pub unit: &'static str,
    /// Where to look: a query for Prometheus.
    pub check: String,
}

/// A service that uses more of a resource than it usually does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contender {
    /// The service.
    pub service: String,
    /// What it uses now.
    pub value: f64,
    /// What it usually uses.
    pub usual: f64,
    /// Unit of both.
    pub unit: &'static str,
}

/// What kind of event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A service runs another build of its program than before.
    NewBuild,
    /// All processes of a service were replaced.
    Restart,
    /// A process of a service ended by a signal that it was not asked to end by.
    Crash,
    /// A service was told to read its configuration again.
    Reload,
    /// The kernel killed a process for lack of memory.
    OomKill,
    /// Told by someone else, such as a deployment.
    Posted,
    /// steth does less than it is asked to, or more again, to stay within its budget.
    Budget,
}

/// Something that happened at one moment and may explain what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// What kind of event it is.
    pub kind: EventKind,
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// Whose; `null` if the whole host's, or unknown.
    pub service: Option<String>,
    /// What happened, in words.
    pub text: String,
}

/// An event as someone posts it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostedEvent {
    /// Whose; without it the whole host's.
    pub service: Option<String>,
    /// What happened, in words.
    pub text: String,
    /// When, in milliseconds since the Unix epoch; without it now.
    pub at_unix_ms: Option<u64>,
}

/// Longest text of a posted event, and longest name of its service, in bytes.
pub const MOST_EVENT_BYTES: usize = 512;

/// Who talks to whom, over TCP.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dependency {
    /// Who calls.
    pub service: String,
    /// Who is called: a service on this host, else an address.
    pub callee: String,
    /// Whether the callee is a service of this host.
    pub is_local: bool,
    /// Bytes both ways in a second, lately.
    pub bytes_per_second: f64,
}

/// What a conclusion names as the first cause.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cause {
    /// Of what kind: that of a finding or event.
    pub kind: &'static str,
    /// What it is about: the resource, signal or event.
    pub about: String,
    /// Which service to look at; `null` if none is known.
    pub service: Option<String>,
}

/// What an answer rests on.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LookedAt {
    /// Windows of the history that lie in the period.
    pub windows: usize,
    /// How long one is.
    pub window_seconds: f64,
    /// Series of the service and of the host that were looked at.
    pub series: usize,
    /// Windows that a series needs before a change can be told from chance.
    pub windows_needed: usize,
}

/// Why a service was slow, or that nothing unusual was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Explanation {
    /// The service; `null` if the question was about the whole host.
    pub service: Option<String>,
    /// The period, in milliseconds since the Unix epoch.
    pub from_unix_ms: u64,
    /// Its end.
    pub to_unix_ms: u64,
    /// The answer in one sentence.
    pub conclusion: String,
    /// The first cause; `null` if there is none.
    pub cause: Option<Cause>,
    /// What the answer rests on, the most telling first.
    pub findings: Vec<Finding>,
    /// Events of the service and the host in and shortly before the period.
    pub events: Vec<Event>,
    /// Whom it calls, and who calls it.
    pub dependencies: Vec<Dependency>,
    /// What was looked at.
    pub looked_at: LookedAt,
}

/// A question why something was slow.
#[derive(Debug)]
pub struct ExplainRequest {
    /// About which service; `None` for the whole host.
    pub service: Option<String>,
    /// About which time.
    pub period: Period,
    /// The answer.
    pub answer: oneshot::Sender<Result<Explanation, NotExplained>>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NotExplained {
    /// It is switched off.
    #[error("no history is kept: correlate.enabled is false")]
    Disabled,
    /// Nobody has that name.
    #[error("there is no service {name:?} in the history{}", .like.as_ref().map(|like| format!("; did you mean {like:?}?")).unwrap_or_default())]
    NoService {
        /// What was asked for.
        name: String,
        /// A service with a name like that.
        like: Option<String>,
    },
    /// The history does not go back so far.
    #[error("no window is kept of that time: the history has {windows} windows of {window_seconds} s")]
    NoWindow {
        /// How many there are.
        windows: usize,
        /// How long each is.
        window_seconds: f64,
    },
    /// The event cannot be taken.
    #[error("the event cannot be taken: {0}")]
    BadEvent(String),
}

/// The findings of the agent's history.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Findings {
    /// Those that last first, then the newest.
    pub findings: Vec<Finding>,
}

/// The events of the agent's history.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Events {
    /// The newest first.
    pub events: Vec<Event>,
}
