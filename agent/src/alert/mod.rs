//! The alerting sink: rules are evaluated at the end of each window, alerts live and die, and channels are told. Takes snapshots;
//! what correlation knows is handed in. Never makes a window wait.
//!
//! ```text
//! Snapshot ─▶ evaluate (gather, group) ─▶ book (silence, words) ─▶ notice ─▶ channel/ ─▶ receivers
//!                                           │ ▲                       ▲ outcome  │
//!                                           ▼ │                       └──────────┘
//!                                         state
//! ```

mod book;
mod channel;
mod clock;
mod evaluate;
mod gather;
mod group;
mod notice;
mod recording;
mod silence;
mod state;
#[cfg(test)]
mod tests;
mod trial;
mod words;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::sync::mpsc;

pub use self::channel::Outcome;
use self::{
    book::{Book, Evaluation},
    channel::Sender,
    clock::Clock,
    evaluate::Evaluator,
    notice::{Notice, Now, Pace, Planner},
    recording::Recording,
    silence::Wanted,
    state::State,
};
use crate::{
    config::alerts::{Alerts as Settings, Channel},
    model::{
        alert::{
            Alert, AlertAnswer, AlertOrder, AlertRefused, AlertState, Alerts, ChannelState, MOST_ORDER_BYTES, Recorded,
            Surroundings, Tried,
        },
        catalog::alert as catalog,
        rule::{Rule, Severity},
        snapshot::{Series, Snapshot},
    },
};

/// Outcomes that wait to be looked at: each channel has one at a time.
const OUTCOMES: usize = 64;

/// How long what is pending has held is kept so often: whoever is killed loses no more of it.
const KEEP_PENDING: Duration = Duration::from_secs(30);

/// Evaluates rules and tells channels.
pub struct Alerter {
    settings: Settings,
    evaluator: Evaluator,
    book: Book,
    state: State,
    sender: Sender,
    channels: Vec<Told>,
    outcomes: mpsc::Receiver<Outcome>,
    report: mpsc::Sender<Outcome>,
    evaluated: Duration,
    recording: Recording,
    clock: Clock,
    /// When a window's outcome was last kept.
    kept: Instant,
}

/// A channel, and how it does.
struct Told {
    channel: Channel,
    planner: Planner,
    queue: mpsc::Sender<Notice>,
    sent: u64,
    failed: u64,
    dropped: u64,
    problem: Option<String>,
}

impl Alerter {
    /// Begins with what was kept. `url` is where the agent shows its alerts.
    pub fn start(settings: &Settings, host: String, url: String) -> Self {
        let (report, outcomes) = mpsc::channel(OUTCOMES);
        let state = State::open(settings.folder.clone());
        let book = state.restore();
        let evaluator = Evaluator::new(rules(settings));
        let sender = Sender { host, url };
        let (channels, evaluated, recording) = (Vec::new(), Duration::ZERO, Recording::default());
        let (settings, clock, kept) = (settings.clone(), Clock::default(), Instant::now());
        let mut alerter = Self {
            settings,
            evaluator,
            book,
            state,
            sender,
            channels,
            outcomes,
            report,
            evaluated,
            recording,
            clock,
            kept,
        };
        alerter.open_channels();
        alerter
    }

    /// Takes over other rules, channels and paces.
    pub fn reload(&mut self, settings: &Settings) {
        if self.settings == *settings {
            return;
        }
        self.settings = settings.clone();
        let before: Vec<Arc<Rule>> = self.evaluator.rules().cloned().collect();
        self.evaluator.replace(rules(settings));
        for rule in self.evaluator.rules().filter(|rule| !before.contains(rule)) {
            self.book.begin_anew(&rule.name);
        }
        self.open_channels();
    }

    /// Starts tasks for channels that have none, and lets go of those that are not wanted any more.
    fn open_channels(&mut self) {
        let wanted = &self.settings.book.channels;
        self.channels.retain(|told| wanted.contains(&told.channel));
        for channel in wanted {
            if self.channels.iter().all(|told| told.channel != *channel) {
                let queue = channel::start(channel.clone(), self.sender.clone(), self.report.clone());
                let (channel, planner) = (channel.clone(), Planner::new(&channel.kind));
                self.channels.push(Told { channel, planner, queue, sent: 0, failed: 0, dropped: 0, problem: None });
            }
        }
        let names: Vec<&str> = wanted.iter().map(|channel| channel.name.as_str()).collect();
        self.book.keep_channels(&names);
    }

    /// Takes in a window that ended with this snapshot, so long after the one before.
    pub fn observe(
        &mut self,
        snapshot: &Snapshot,
        elapsed: Duration,
        surroundings: &dyn Fn(Option<&str>) -> Surroundings,
    ) {
        let began = Instant::now();
        let figures = self.evaluator.observe(snapshot, elapsed);
        let rules: Vec<Arc<Rule>> = self.evaluator.rules().cloned().collect();
        let now_unix_ms = snapshot.at_unix_ms;
        self.follow_clock();
        let evaluation = Evaluation { figures, now_unix_ms, elapsed, host: &self.sender.host, surroundings };
        let changed = self.book.observe(evaluation, &rules);
        // How long a condition has held changes with each window.
        if changed || (self.book.has_pending() && self.kept.elapsed() >= KEEP_PENDING) {
            self.kept = Instant::now();
            self.state.keep(&self.book);
        }
        for told in &mut self.channels {
            told.planner.count_brief(&told.channel, &self.book, now_unix_ms);
        }
        self.tell(now_unix_ms);
        self.recording.push(snapshot, elapsed);
        self.evaluated += began.elapsed();
    }

    /// What came of a notice; waits until there is something.
    pub async fn outcome(&mut self) -> Option<Outcome> {
        self.outcomes.recv().await
    }

    /// Takes in what came of a notice.
    pub fn take(&mut self, outcome: Outcome, now_unix_ms: u64) {
        self.follow_clock();
        let Outcome { channel, mut notice, result } = outcome;
        // It was on its way while the clock was set, perhaps.
        notice.told.iter_mut().for_each(|(_, told)| told.at_unix_ms = now_unix_ms);
        let Some(told) = self.channels.iter_mut().find(|told| told.channel.name == channel) else { return };
        match result {
            Ok(()) => {
                if told.problem.take().is_some() {
                    tracing::info!("alerts: channel {channel} takes notices again");
                }
                told.sent += 1;
                told.planner.arrived(&notice, Instant::now());
                self.book.note(&channel, &notice.told);
            }
            Err(failed) => {
                if told.problem.as_ref() != Some(&failed.what) {
                    tracing::warn!("alerts: channel {channel}: {}", failed.what);
                }
                if failed.is_worth_another_try {
                    told.failed += 1;
                    told.planner.failed(failed.retry_after, Instant::now());
                } else {
                    // The same would be refused again; what comes of the alerts next is told.
                    told.dropped += 1;
                    told.planner.arrived(&notice, Instant::now());
                    self.book.note(&channel, &notice.told);
                }
                told.problem = Some(failed.what);
            }
        }
        self.state.keep(&self.book);
        self.tell(now_unix_ms);
    }

    /// To be done before anything is held against the times of alerts.
    fn follow_clock(&mut self) {
        if let Some(step_ms) = self.clock.step() {
            tracing::info!("alerts: the clock was set by {} s; so are the times of alerts", step_ms / 1_000);
            self.book.shift(step_ms);
        }
    }

    fn tell(&mut self, now_unix_ms: u64) {
        let pace = Pace { throttle: self.settings.throttle, repeat: self.settings.repeat };
        let now = Now { unix_ms: now_unix_ms, instant: Instant::now() };
        for told in &mut self.channels {
            if told.queue.is_closed() {
                // Its task has ended, which only a panic does; what it was about to tell is told by the next one.
                told.queue = channel::start(told.channel.clone(), self.sender.clone(), self.report.clone());
                told.failed += 1;
                told.problem = Some("its task ended by a panic and was started anew; please report this".into());
                tracing::error!("alerts: channel {}: its task ended by a panic; please report this", told.channel.name);
                told.planner.failed(None, now.instant);
            }
            if let Some(notice) = told.planner.next(&told.channel, &self.book, pace, now)
                && told.queue.try_send(notice).is_err()
            {
                told.planner.failed(None, now.instant);
            }
        }
    }

    /// All alerts, in no order.
    pub fn alerts(&self) -> impl Iterator<Item = &Alert> {
        self.book.entries().map(|entry| &entry.alert)
    }

    /// All alerts, those that last first, the worst of them first.
    pub fn list(&self) -> Alerts {
        let mut alerts: Vec<Alert> = self.book.entries().map(|entry| entry.alert.clone()).collect();
        alerts.sort_by_key(|alert| {
            let is_over = alert.state == AlertState::Resolved;
            let severity = std::cmp::Reverse(if is_over { Severity::Info } else { alert.severity });
            let since = std::cmp::Reverse(alert.resolved_unix_ms.unwrap_or(alert.pending_unix_ms));
            (is_over, alert.state == AlertState::Pending, severity, since, alert.id)
        });
        let state = |told: &Told| ChannelState {
            name: told.channel.name.clone(),
            kind: told.channel.kind.name().to_owned(),
            sent: told.sent,
            failed: told.failed,
            problem: told.problem.clone(),
        };
        Alerts {
            alerts,
            silences: self.book.silences.all().to_vec(),
            channels: self.channels.iter().map(state).collect(),
            rules: self.evaluator.rules().count(),
        }
    }

    /// The windows that are kept, to try rules on them: that takes its time.
    pub fn try_out(&self, rules: String) -> impl FnOnce() -> Result<AlertAnswer, AlertRefused> + Send + use<> {
        let (recording, host) = (self.recording.clone(), self.sender.host.clone());
        move || trial::run(&recording, &rules, &host).map(AlertAnswer::Tried)
    }

    /// The windows that are kept, to be written to a file: that takes its time.
    pub fn recorded(&self) -> impl FnOnce() -> Result<AlertAnswer, AlertRefused> + Send + use<> {
        let recording = self.recording.clone();
        move || {
            let mut windows = 0;
            recording.replay(|_, _| windows += 1);
            let bytes = recording.to_bytes().map_err(|error| AlertRefused::Wrong(error.to_string()))?;
            Ok(AlertAnswer::Recorded(Recorded { windows, file: BASE64_STANDARD.encode(bytes) }))
        }
    }

    /// Does what someone asks for. Some takes longer than a window may wait: [`Self::try_out`],
    /// [`Self::recorded`].
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn obey(&mut self, order: AlertOrder, now_unix_ms: u64) -> Result<AlertAnswer, AlertRefused> {
        self.follow_clock();
        let answer = match order {
            AlertOrder::Acknowledge { id, by, comment } => {
                let (by, comment) = (said("by", by, true)?, said("comment", comment, false)?);
                AlertAnswer::Alert(Box::new(self.book.acknowledge(id, by, comment, now_unix_ms)?))
            }
            AlertOrder::Silence { rule, labels, seconds, by, comment } => {
                let (by, comment) = (said("by", by, true)?, said("comment", comment, false)?);
                for text in labels.iter().flat_map(|(name, value)| [name, value]).chain(&rule) {
                    said("rule and labels", text.clone(), true)?;
                }
                let wanted = Wanted { rule, labels, seconds, by, comment };
                AlertAnswer::Silence(self.book.silences.begin(wanted, now_unix_ms)?)
            }
            AlertOrder::Unsilence { id } => AlertAnswer::Silence(self.book.silences.end(id)?),
            AlertOrder::Test { rules } => return self.try_out(rules)(),
            AlertOrder::Record {} => return self.recorded()(),
        };
        self.state.keep(&self.book);
        Ok(answer)
    }

    /// The sink's own figures.
    pub fn series(&self) -> Vec<Series> {
        let mut series = Vec::new();
        let number = |metric, labels: &[&str], value: f64| {
            Series::number(metric, labels.iter().map(|label| (*label).to_owned()).collect(), value)
        };
        for state in AlertState::ALL {
            for severity in Severity::ALL {
                let of = |alert: &Alert| alert.state == *state && alert.severity == *severity;
                let count = self.book.entries().filter(|entry| of(&entry.alert)).count();
                series.push(number(&catalog::ALERTS, &[state.name(), severity.name()], count as f64));
            }
        }
        let counts = self.book.counts();
        let sum = |count: fn(&Planner) -> u64| -> u64 { self.channels.iter().map(|told| count(&told.planner)).sum() };
        for (reason, count) in [
            ("silence", counts.silenced),
            ("inhibition", counts.inhibited),
            ("throttle", sum(|planner| planner.throttled)),
            ("brief", sum(|planner| planner.brief)),
        ] {
            series.push(number(&catalog::SUPPRESSED, &[reason], count as f64));
        }
        for told in &self.channels {
            let name = told.channel.name.as_str();
            for (outcome, count) in [("arrived", told.sent), ("failed", told.failed), ("dropped", told.dropped)] {
                series.push(number(&catalog::NOTICES, &[name, outcome], count as f64));
            }
        }
        let (groups, refused) = self.evaluator.counts();
        series.push(number(&catalog::FIRED, &[], counts.fired as f64));
        series.push(number(&catalog::GROUPS, &[], groups as f64));
        for (reason, count) in [
            ("series", refused),
            ("alerts", counts.refused),
            ("untold", counts.forgotten),
            ("state", self.state.failures()),
        ] {
            series.push(number(&catalog::LOST, &[reason], count as f64));
        }
        series.push(number(&catalog::LEFT_OUT, &[], self.settings.left_out.len() as f64));
        series.push(number(&catalog::EVALUATION, &[], self.evaluated.as_secs_f64()));
        series
    }

    /// Keeps what is to outlive the agent.
    pub fn stop(self) {
        if let Err(error) = self.state.keep_now(&self.book) {
            tracing::warn!("{error}; after a restart alerts may be told twice");
        }
    }
}

/// What rules would have come to in the windows of a file.
///
/// # Errors
/// What is wrong with the file, or with the rules.
pub fn try_on_file(windows: &[u8], rules: &str) -> Result<Tried, AlertRefused> {
    let recording = Recording::from_bytes(windows).map_err(|error| AlertRefused::Wrong(error.to_string()))?;
    trial::run(&recording, rules, "the host")
}

fn rules(settings: &Settings) -> Vec<Arc<Rule>> {
    settings.book.rules.iter().cloned().map(Arc::new).collect()
}

/// A text that someone posted, if it can be kept and shown.
fn said(name: &str, text: String, is_needed: bool) -> Result<String, AlertRefused> {
    let wrong = |why: &str| Err(AlertRefused::Wrong(format!("{name} {why}")));
    match text.trim() {
        "" if is_needed => wrong("is empty"),
        text if text.len() > MOST_ORDER_BYTES => wrong(&format!("has more than {MOST_ORDER_BYTES} bytes")),
        text if text.chars().any(char::is_control) => wrong("has a control character"),
        text => Ok(text.to_owned()),
    }
}
