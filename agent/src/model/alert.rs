//! Alerts as people see them: what is, who knows, what is silenced; and how they are asked for. Knows neither rules' insides
//! nor channels.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{finding::Dependency, rule::Severity};

/// Something that a rule says is to be known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Tells it from all others of this agent, also across restarts.
    pub id: u64,
    /// The rule's name.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// Labels of the series that it is about.
    pub labels: BTreeMap<String, String>,
    /// Where it is in its life.
    pub state: AlertState,
    /// The figure, as of the last window that had one.
    pub value: f64,
    /// What is usual; `null` if that is not known.
    pub usual: Option<f64>,
    /// From where on it is told.
    pub threshold: f64,
    /// Unit of all three: s, B, ratio, /s, …
    pub unit: String,
    /// What happened, in one sentence.
    pub summary: String,
    /// Who suffers.
    pub impact: String,
    /// What to do.
    pub step: String,
    /// What was found meanwhile: about the same service, or, if it is about the host, about that and its services.
    pub findings: Vec<Noted>,
    /// When the condition began, in milliseconds since the Unix epoch.
    pub pending_unix_ms: u64,
    /// When it had held long enough.
    pub firing_unix_ms: Option<u64>,
    /// When it was over.
    pub resolved_unix_ms: Option<u64>,
    /// How it ended.
    pub resolved_by: Option<String>,
    /// Who took care of it.
    pub acknowledged: Option<Acknowledged>,
    /// Why nobody is told.
    pub suppressed: Option<Suppressed>,
}

/// Where an alert is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// The condition holds, but not for long enough.
    Pending,
    /// It is to be known.
    Firing,
    /// Somebody takes care of it.
    Acknowledged,
    /// It is over.
    Resolved,
}

impl AlertState {
    /// All of them, in the order of a life.
    pub const ALL: &[Self] = &[Self::Pending, Self::Firing, Self::Acknowledged, Self::Resolved];

    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
        }
    }

    /// Whether it has begun and is not over.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Firing | Self::Acknowledged)
    }
}

/// Why nobody is told of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Suppressed {
    /// Somebody asked for it.
    Silence,
    /// Another alert says the same and more.
    Inhibition,
}

/// A finding, as an alert bears it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Its number among the findings.
    pub id: u64,
    /// What was found, in one sentence.
    pub conclusion: String,
    /// What it is concluded from, the most telling first, in words: figures, and the query that shows each.
    #[serde(default)]
    pub evidence: Vec<String>,
}

/// Who took care, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// Who.
    pub by: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// What they said.
    pub comment: String,
}

/// A time in which nobody is told of some alerts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Its number.
    pub id: u64,
    /// Of this rule; `null` for all.
    pub rule: Option<String>,
    /// With labels of these values, in which `*` stands for any text.
    pub labels: BTreeMap<String, String>,
    /// Who wants it.
    pub by: String,
    /// What they said.
    pub comment: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// Until when.
    pub until_unix_ms: u64,
}

/// What lies around an alert when it fires.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// Findings of the same service; of the host those about itself, and then those about its services.
    pub findings: Vec<Noted>,
    /// Who calls it, and how much.
    pub callers: Vec<Dependency>,
}

/// All that is known of alerts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Alerts {
    /// Those that last first, the worst of them first; then those that are over, the newest first.
    pub alerts: Vec<Alert>,
    /// Silences that have not expired.
    pub silences: Vec<Silence>,
    /// Where they are sent.
    pub channels: Vec<ChannelState>,
    /// How many rules are evaluated.
    pub rules: usize,
}

/// How one channel does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChannelState {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: String,
    /// Notices that arrived.
    pub sent: u64,
    /// Tries that failed.
    pub failed: u64,
    /// What went wrong last; `null` if the last try arrived.
    pub problem: Option<String>,
}

/// What rules would have come to in the windows that are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tried {
    /// How many windows were looked at.
    pub windows: usize,
    /// When the first of them ended, in milliseconds since the Unix epoch.
    pub from_unix_ms: u64,
    /// When the last of them ended.
    pub to_unix_ms: u64,
    /// What became of each rule.
    pub rules: Vec<TriedRule>,
}

/// What one rule would have come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TriedRule {
    /// Its name.
    pub rule: String,
    /// Series, or sums of them, that it had a figure of.
    pub series: usize,
    /// The least figure of all.
    pub least: Option<f64>,
    /// The largest figure of all.
    pub largest: Option<f64>,
    /// Alerts that would have fired.
    pub alerts: Vec<Alert>,
}

/// What someone posts about alerts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum AlertOrder {
    /// Take care of an alert.
    Acknowledge {
        /// Its number.
        id: u64,
        /// Who does.
        by: String,
        /// What there is to say.
        #[serde(default)]
        comment: String,
    },
    /// Tell nobody of some alerts for a while.
    Silence {
        /// Of this rule.
        rule: Option<String>,
        /// With labels of these values, in which `*` stands for any text.
        #[serde(default)]
        labels: BTreeMap<String, String>,
        /// For how long.
        seconds: u64,
        /// Who wants it.
        by: String,
        /// What there is to say.
        #[serde(default)]
        comment: String,
    },
    /// End a silence.
    Unsilence {
        /// Its number.
        id: u64,
    },
    /// Try rules on the windows that are kept.
    Test {
        /// The text of a file of rules.
        rules: String,
    },
    /// Hand out the windows that are kept.
    Record {},
}

/// The longest that a silence lasts.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(90 * 86_400);
/// The longest text of a name or comment, in bytes.
pub const MOST_ORDER_BYTES: usize = 512;

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertAnswer {
    /// The alert that somebody takes care of.
    Alert(Box<Alert>),
    /// The silence that began or ended.
    Silence(Silence),
    /// What rules would have come to.
    Tried(Tried),
    /// The windows that are kept.
    Recorded(Recorded),
}

/// Windows, to be kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recorded {
    /// How many they are.
    pub windows: usize,
    /// The file, in base64.
    pub file: String,
}

/// Why an order is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AlertRefused {
    /// They are switched off.
    #[error("there are no alerts: alerts.enabled is false")]
    Disabled,
    /// There is no such alert, silence or window.
    #[error("{0}")]
    Missing(String),
    /// It cannot be done.
    #[error("{0}")]
    Wrong(String),
}

/// A question about alerts.
#[derive(Debug)]
pub enum AlertQuestion {
    /// Which are there?
    List(oneshot::Sender<Result<Alerts, AlertRefused>>),
    /// Do something about them.
    Order(AlertOrder, oneshot::Sender<Result<AlertAnswer, AlertRefused>>),
}
