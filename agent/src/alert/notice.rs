//! When which channel is told of which alerts: what it has been told is compared with what is, so that an outage, a restart or a
//! storm leaves no queue behind. Pure but for the chance in pauses: time is handed in.
//!
//! Channels to people get the alerts of one rule together, the first at once, what follows after `alerts.throttle`, and are told
//! when they are over. Alertmanager groups by itself: it gets all that fires, again and again until it is over, as its API asks.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::book::{Book, Entry, Key, Told, key_of};
use crate::{
    config::alerts::{Channel, ChannelKind},
    model::alert::{Alert, AlertState},
    send::backoff::Backoff,
};

/// Alerts that one notice bears; the rest is counted.
pub const MOST_OF_NOTICE: usize = 50;
/// Alertmanager takes more at a time.
const MOST_OF_POST: usize = 256;
/// How often Alertmanager is told of what lasts: Prometheus does as much (`--rules.alert.resend-delay`).
pub const RESEND: Duration = Duration::from_secs(60);
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What a channel is told at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The rule whose alerts these are; empty if they are of several.
    pub group: String,
    /// The alerts.
    pub alerts: Vec<Alert>,
    /// How many more there are.
    pub left_out: usize,
    /// How many of all are over.
    pub over: usize,
    /// What it comes to, when it has arrived.
    pub told: Vec<(Key, Told)>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
}

/// Now, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// By the one that people read.
    pub unix_ms: u64,
    /// By the one that nobody sets.
    pub instant: Instant,
}

/// How often people are told.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The least time between two notices of a group.
    pub throttle: Duration,
    /// How often they are reminded.
    pub repeat: Duration,
}

/// When a channel is told next.
#[derive(Debug)]
pub struct Planner {
    /// The alerts of the notice that is on its way, and how many of them are over by now, told by this one if by any.
    in_flight: Option<Vec<u64>>,
    over_in_flight: u64,
    not_before: Option<Instant>,
    backoff: Backoff,
    last: HashMap<String, Instant>,
    waiting: HashSet<u64>,
    /// Alerts that had to wait for others of their group.
    pub throttled: u64,
    /// Alerts that were over before the channel could be told of them.
    pub brief: u64,
}

impl Planner {
    /// One that has told nothing yet.
    pub fn new(kind: &ChannelKind) -> Self {
        let longest = match kind {
            // What it does not hear of again is over to it.
            ChannelKind::Alertmanager(_) => RESEND,
            _ => LONGEST_PAUSE,
        };
        Self {
            in_flight: None,
            over_in_flight: 0,
            not_before: None,
            backoff: Backoff::new(longest),
            last: HashMap::new(),
            waiting: HashSet::new(),
            throttled: 0,
            brief: 0,
        }
    }

    /// What the channel is to be told now, if anything.
    pub fn next(&mut self, channel: &Channel, book: &Book, pace: Pace, now: Now) -> Option<Notice> {
        if self.in_flight.is_some() || self.not_before.is_some_and(|moment| now.instant < moment) {
            return None;
        }
        let notice = match channel.kind {
            ChannelKind::Alertmanager(_) => all_that_fires(channel, book, now.unix_ms),
            _ => self.group(channel, book, pace, now),
        }?;
        self.in_flight = Some(notice.told.iter().map(|(_, told)| told.id).collect());
        Some(notice)
    }

    /// The notice arrived.
    pub fn arrived(&mut self, notice: &Notice, now: Instant) {
        (self.in_flight, self.over_in_flight, self.not_before) = (None, 0, None);
        self.backoff.reset();
        self.last.insert(notice.group.clone(), now);
        self.waiting.retain(|id| !notice.told.iter().any(|(_, told)| told.id == *id));
    }

    /// The notice did not arrive: the channel is left alone for a while.
    pub fn failed(&mut self, retry_after: Option<Duration>, now: Instant) {
        self.in_flight = None;
        self.brief += std::mem::take(&mut self.over_in_flight);
        self.not_before = Some(now + self.backoff.next(retry_after));
    }

    /// Counts what was over at this moment and will never be told.
    pub fn count_brief(&mut self, channel: &Channel, book: &Book, now_unix_ms: u64) {
        let is_untold = |entry: &&Entry| {
            let (alert, told) = (&entry.alert, entry.told.get(&channel.name));
            alert.resolved_unix_ms == Some(now_unix_ms)
                && alert.firing_unix_ms.is_some()
                && !entry.was_suppressed
                && alert.severity >= channel.least
                // Who knows of one before that it fires is told that this one is over.
                && told.is_none_or(|told| told.is_over && told.id != alert.id)
        };
        for entry in book.entries().filter(is_untold) {
            match self.in_flight.iter().flatten().any(|id| *id == entry.alert.id) {
                true => self.over_in_flight += 1,
                false => self.brief += 1,
            }
        }
    }

    fn group(&mut self, channel: &Channel, book: &Book, pace: Pace, now: Now) -> Option<Notice> {
        // Who came to nothing while it waited does not wait any more.
        if !self.waiting.is_empty() {
            let lasting: HashSet<u64> = book.entries().map(|entry| entry.alert.id).collect();
            self.waiting.retain(|id| lasting.contains(id));
        }
        let mut due: Vec<&str> = Vec::new();
        for entry in book.entries().filter(|entry| is_due(entry, channel, pace.repeat, now.unix_ms)) {
            let rule = entry.alert.rule.as_str();
            let waits = self.last.get(rule).is_some_and(|last| now.instant.duration_since(*last) < pace.throttle);
            if !waits {
                due.push(rule);
            } else if self.waiting.insert(entry.alert.id) {
                self.throttled += 1;
            }
        }
        let group = *due.first()?;
        let mut told = Vec::new();
        let mut alerts: Vec<&Alert> = Vec::new();
        for entry in book.entries().filter(|entry| entry.alert.rule == group) {
            let is_over = is_to_be_ended(entry, channel);
            if is_over || is_to_be_told(entry, channel) {
                told.push(told_now(entry, is_over, now.unix_ms));
                alerts.push(&entry.alert);
            }
        }
        // What is new stands before what was told already.
        alerts.sort_by_key(|alert| (alert.state, std::cmp::Reverse(alert.id)));
        Some(notice(group, alerts, told, MOST_OF_NOTICE, now.unix_ms))
    }
}

fn all_that_fires(channel: &Channel, book: &Book, now_unix_ms: u64) -> Option<Notice> {
    let is_due = |entry: &&Entry| {
        is_to_be_ended(entry, channel)
            || is_to_be_told(entry, channel)
                && entry
                    .told
                    .get(&channel.name)
                    .is_none_or(|told| told.id != entry.alert.id || is_past(told.at_unix_ms, RESEND, now_unix_ms))
    };
    let due: Vec<&Entry> = book.entries().filter(is_due).take(MOST_OF_POST).collect();
    if due.is_empty() {
        return None;
    }
    let told = due.iter().map(|entry| told_now(entry, is_to_be_ended(entry, channel), now_unix_ms)).collect();
    let alerts = due.iter().map(|entry| &entry.alert).collect();
    Some(notice("", alerts, told, MOST_OF_POST, now_unix_ms))
}

fn notice(group: &str, alerts: Vec<&Alert>, told: Vec<(Key, Told)>, most: usize, at_unix_ms: u64) -> Notice {
    let left_out = alerts.len().saturating_sub(most);
    let over = alerts.iter().filter(|alert| alert.state == AlertState::Resolved).count();
    let alerts = alerts.into_iter().take(most).cloned().collect();
    Notice { group: group.to_owned(), alerts, left_out, over, told, at_unix_ms }
}

impl Notice {
    /// How many alerts it is about, those that it has no room for included: that fire, and that are over.
    pub fn counts(&self) -> (usize, usize) {
        (self.alerts.len() + self.left_out - self.over, self.over)
    }
}

fn told_now(entry: &Entry, is_over: bool, at_unix_ms: u64) -> (Key, Told) {
    (key_of(&entry.alert), Told { id: entry.alert.id, is_over, at_unix_ms })
}

/// Whether somebody is to know that it fires.
fn is_to_be_told(entry: &Entry, channel: &Channel) -> bool {
    let alert = &entry.alert;
    alert.state.is_active() && alert.suppressed.is_none() && alert.severity >= channel.least
}

/// Whether somebody knows that it fires and is to know that it is over.
fn is_to_be_ended(entry: &Entry, channel: &Channel) -> bool {
    entry.alert.state == AlertState::Resolved && entry.told.get(&channel.name).is_some_and(|told| !told.is_over)
}

fn is_due(entry: &Entry, channel: &Channel, repeat: Duration, now_unix_ms: u64) -> bool {
    if !is_to_be_told(entry, channel) {
        return is_to_be_ended(entry, channel);
    }
    match entry.told.get(&channel.name).filter(|told| !told.is_over) {
        None => true,
        // Who knows that it fires, and was not told that it was over for a moment, is only reminded.
        Some(told) => entry.alert.state == AlertState::Firing && is_past(told.at_unix_ms, repeat, now_unix_ms),
    }
}

/// Whether something was so long ago. A clock that was set back makes it so, rather than never.
fn is_past(at_unix_ms: u64, pause: Duration, now_unix_ms: u64) -> bool {
    now_unix_ms < at_unix_ms || u128::from(now_unix_ms - at_unix_ms) >= pause.as_millis()
}
