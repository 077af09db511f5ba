//! The life of alerts: pending, firing, acknowledged, resolved; who has been told of what; silences. Pure: time is handed in, and
//! what is to be kept is handed out.
//!
//! `for` is measured by the windows, not by a clock that can be set. An alert ends when its figure is clear over the whole time
//! that its rule looks at, so that a restart, after which that time is short, ends none.

use std::{cell::Cell, collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    evaluate::Figure,
    group::LEAST_PAST,
    silence::Silences,
    words::{self, LOOKS, Words},
};
use crate::model::{
    alert::{Acknowledged, Alert, AlertRefused, AlertState, Suppressed, Surroundings},
    rule::Rule,
};

/// Windows without a figure that end an alert.
pub const ABSENT: u32 = 3;
/// What is found is found a minute or two later.
const YOUNG_SECONDS: f64 = 180.0;
/// The most alerts that are held, those that are over included.
pub const MOST_ALERTS: usize = 2_048;
/// The most alerts that are over and held though all were told.
const MOST_RESOLVED: usize = 512;
/// How long an alert that is over is held, if all were told.
const RESOLVED_MS: u64 = 3_600_000;
/// How long an alert that is over is held for those who cannot be told.
const UNTOLD_MS: u64 = 86_400_000;

/// What tells alerts apart: the rule's name and its labels' values.
pub type Key = (String, BTreeMap<String, String>);

/// Whether a figure that begins anew and was absent in so many windows, for so long, could be there by now.
fn has_had_time(rule: &Rule, windows: u32, seconds: f64) -> bool {
    let needed = if rule.is_deviation { ABSENT + LEAST_PAST as u32 } else { ABSENT };
    windows >= needed && seconds >= rule.within.as_secs_f64()
}

/// All alerts.
#[derive(Clone, Debug, Default)]
pub struct Book {
    entries: BTreeMap<Key, Entry>,
    /// What nobody is to be told of.
    pub silences: Silences,
    next_id: u64,
    counts: Counts,
}

/// An alert, and what is not for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// As people see it.
    pub alert: Alert,
    /// For how many seconds of windows the condition has held.
    pub held_seconds: f64,
    /// In how many windows on end it had no figure.
    #[serde(default)]
    pub absent: u32,
    /// For how many seconds of windows that was.
    #[serde(skip)]
    pub absent_seconds: f64,
    /// Whether its figure begins anew, after a restart or a change of its rule: it may be absent for as long as it takes to have one.
    #[serde(skip)]
    pub begins_anew: bool,
    /// Whether nobody was to be told of it when it was over.
    #[serde(skip)]
    pub was_suppressed: bool,
    /// By channel: what was told last.
    #[serde(default)]
    pub told: BTreeMap<String, Told>,
}

/// What a channel was told of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The alert, by number: a later one of the same labels is another.
    pub id: u64,
    /// Whether it was told that it is over.
    pub is_over: bool,
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
}

/// What was kept from people, and what there was no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Alerts that fired while they were silenced.
    pub silenced: u64,
    /// Alerts that fired while another said the same and more.
    pub inhibited: u64,
    /// Alerts that there was no room for.
    pub refused: u64,
    /// Alerts that fired.
    pub fired: u64,
    /// Alerts that were over.
    pub resolved: u64,
    /// Notices that an alert is over that nobody could be told for a day.
    pub forgotten: u64,
}

/// A window's worth of what the alerts are made of.
pub struct Evaluation<'a> {
    /// The figures.
    pub figures: Vec<Figure>,
    /// When the window ended.
    pub now_unix_ms: u64,
    /// How long it was.
    pub elapsed: Duration,
    /// The host's name.
    pub host: &'a str,
    /// What lies around an alert of a service, or of the host.
    pub surroundings: &'a dyn Fn(Option<&str>) -> Surroundings,
}

impl Book {
    /// One with what was kept.
    pub fn restored(entries: Vec<Entry>, silences: Silences, next_id: u64) -> Self {
        let anew = |entry: Entry| Entry { begins_anew: true, ..entry };
        let entries: BTreeMap<Key, Entry> =
            entries.into_iter().map(|entry| (key_of(&entry.alert), anew(entry))).collect();
        let largest = entries.values().map(|entry| entry.alert.id).max().unwrap_or_default();
        Self { entries, silences, next_id: next_id.max(largest), counts: Counts::default() }
    }

    /// The figures of a rule begin anew.
    pub fn begin_anew(&mut self, rule: &str) {
        for entry in self.entries.values_mut().filter(|entry| entry.alert.rule == rule) {
            entry.begins_anew = true;
        }
    }

    /// Whether a condition holds that is not met for long enough yet.
    pub fn has_pending(&self) -> bool {
        self.entries.values().any(|entry| entry.alert.state == AlertState::Pending)
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The number that was given out last.
    pub fn last_id(&self) -> u64 {
        self.next_id
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes in what a window came to. Returns whether something changed that must outlive the agent.
    pub fn observe(&mut self, evaluation: Evaluation, rules: &[Arc<Rule>]) -> bool {
        let Evaluation { figures, now_unix_ms, elapsed, host, surroundings } = evaluation;
        let mut changed = self.silences.expire(now_unix_ms);
        let words = Words { host, surroundings, looks: Cell::new(LOOKS) };
        let mut seen: Vec<Key> = Vec::with_capacity(figures.len());
        for figure in figures {
            let labels = words::labels(&figure);
            let key = (figure.rule.name.clone(), labels);
            changed |= self.take(&figure, &key, now_unix_ms, elapsed, &words);
            seen.push(key);
        }
        changed |= self.end_what_is_gone(&seen, rules, now_unix_ms, elapsed);
        changed |= self.suppress(rules, now_unix_ms);
        changed | self.forget(now_unix_ms)
    }

    fn take(&mut self, figure: &Figure, key: &Key, now_unix_ms: u64, elapsed: Duration, words: &Words) -> bool {
        let (rule, reading) = (&figure.rule, figure.reading);
        let lasting = self.entries.get(key).is_some_and(|entry| entry.alert.state != AlertState::Resolved);
        let is_met = rule.condition.is_met(reading.value);
        if !lasting {
            if !is_met {
                return false;
            }
            let told = self.entries.get(key).map(|entry| entry.told.clone()).unwrap_or_default();
            if told.is_empty() && self.entries.len() >= MOST_ALERTS {
                self.counts.refused += 1;
                return false;
            }
            self.next_id += 1;
            let alert = words::alert(self.next_id, figure, &key.1, now_unix_ms);
            let (held_seconds, absent, absent_seconds) = (0.0, 0, 0.0);
            let (begins_anew, was_suppressed) = (false, false);
            let entry = Entry { alert, held_seconds, absent, absent_seconds, begins_anew, was_suppressed, told };
            self.entries.insert(key.clone(), entry);
        } else if let Some(entry) = self.entries.get_mut(key).filter(|_| is_met) {
            entry.held_seconds += elapsed.as_secs_f64();
        }
        let Some(entry) = self.entries.get_mut(key) else { return false };
        (entry.absent, entry.absent_seconds, entry.begins_anew) = (0, 0.0, false);
        entry.alert.value = reading.value;
        // What is usual was so before it began.
        entry.alert.usual = entry.alert.usual.or(reading.usual);
        match entry.alert.state {
            AlertState::Pending if !is_met => {
                let told = std::mem::take(&mut entry.told);
                self.withdraw(key, told);
                true
            }
            AlertState::Pending if entry.held_seconds + 1e-6 >= rule.held.as_secs_f64() => {
                entry.alert.state = AlertState::Firing;
                entry.alert.firing_unix_ms = Some(now_unix_ms);
                words.describe(&mut entry.alert, rule, true);
                self.counts.fired += 1;
                true
            }
            AlertState::Pending => !lasting,
            AlertState::Firing | AlertState::Acknowledged
                if rule.condition.is_clear(reading.value) && reading.is_whole =>
            {
                let by = "the figure is back behind its threshold";
                entry.resolve(now_unix_ms, by);
                words.describe(&mut entry.alert, rule, false);
                self.counts.resolved += 1;
                true
            }
            // Texts say the figure of now, and what was found since.
            AlertState::Firing | AlertState::Acknowledged => {
                let is_young = entry.held_seconds < rule.held.as_secs_f64() + YOUNG_SECONDS;
                words.describe(&mut entry.alert, rule, is_young);
                false
            }
            AlertState::Resolved => false,
        }
    }

    /// A pending alert comes to nothing. If one of its labels is yet to be told of, that stays.
    fn withdraw(&mut self, key: &Key, told: BTreeMap<String, Told>) {
        let open: BTreeMap<String, Told> = told.into_iter().filter(|(_, told)| !told.is_over).collect();
        match self.entries.get_mut(key) {
            Some(entry) if !open.is_empty() => {
                entry.told = open;
                entry.resolve(entry.alert.pending_unix_ms, "the figure is back behind its threshold");
            }
            _ => drop(self.entries.remove(key)),
        }
    }

    fn end_what_is_gone(&mut self, seen: &[Key], rules: &[Arc<Rule>], now_unix_ms: u64, elapsed: Duration) -> bool {
        let mut seen: Vec<&Key> = seen.iter().collect();
        seen.sort_unstable();
        let mut ended = Vec::new();
        for (key, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.alert.state != AlertState::Resolved) {
            let rule = rules.iter().find(|rule| rule.name == key.0);
            if seen.binary_search(&key).is_ok() && rule.is_some() {
                continue;
            }
            entry.absent += 1;
            entry.absent_seconds += elapsed.as_secs_f64();
            let by = match rule {
                None => "its rule is gone",
                Some(rule) if entry.begins_anew && !has_had_time(rule, entry.absent, entry.absent_seconds) => continue,
                Some(_) if entry.absent >= ABSENT => "it is not measured any more",
                Some(_) => continue,
            };
            ended.push((key.clone(), entry.alert.state, by));
        }
        for (key, state, by) in &ended {
            if *state == AlertState::Pending {
                let told = self.entries.get_mut(key).map(|entry| std::mem::take(&mut entry.told)).unwrap_or_default();
                self.withdraw(key, told);
            } else if let Some(entry) = self.entries.get_mut(key) {
                entry.resolve(now_unix_ms, by);
                self.counts.resolved += 1;
            }
        }
        !ended.is_empty()
    }

    /// Finds out of which alerts nobody is to be told.
    fn suppress(&mut self, rules: &[Arc<Rule>], now_unix_ms: u64) -> bool {
        let active: Vec<Key> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.alert.state.is_active())
            .map(|(key, _)| key.clone())
            .collect();
        let mut changed = false;
        for (key, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.alert.state != AlertState::Resolved) {
            let rule = rules.iter().find(|rule| rule.name == key.0);
            let says_more = |name: &str| active.iter().any(|(other, labels)| other == name && agree(labels, &key.1));
            let now = match () {
                () if self.silences.covers(&entry.alert, now_unix_ms) => Some(Suppressed::Silence),
                () if rule.is_some_and(|rule| rule.inhibited_by.iter().any(|name| says_more(name))) => {
                    Some(Suppressed::Inhibition)
                }
                () => None,
            };
            // Counted once it fires, and once for each reason.
            let fires_now = entry.alert.firing_unix_ms == Some(now_unix_ms);
            if entry.alert.state.is_active() && (entry.alert.suppressed != now || fires_now) {
                match now {
                    Some(Suppressed::Silence) => self.counts.silenced += 1,
                    Some(Suppressed::Inhibition) => self.counts.inhibited += 1,
                    None => {}
                }
            }
            changed |= entry.alert.suppressed != now;
            entry.alert.suppressed = now;
        }
        changed
    }

    fn forget(&mut self, now_unix_ms: u64) -> bool {
        let before = self.entries.len();
        let mut forgotten = 0;
        self.entries.retain(|_, entry| {
            let Some(over) = entry.alert.resolved_unix_ms.filter(|_| entry.alert.state == AlertState::Resolved) else {
                return true;
            };
            // A clock that was set back makes no alert old.
            let age_ms = now_unix_ms.saturating_sub(over);
            let is_open = entry.told.values().any(|told| !told.is_over);
            let is_kept = age_ms < RESOLVED_MS || (is_open && age_ms < UNTOLD_MS);
            forgotten += u64::from(!is_kept && is_open);
            is_kept
        });
        // What somebody is yet to be told of makes room for nothing: all entries together are bounded.
        let is_done =
            |entry: &Entry| entry.alert.state == AlertState::Resolved && entry.told.values().all(|told| told.is_over);
        let mut over: Vec<(u64, Key)> = self
            .entries
            .iter()
            .filter(|(_, entry)| is_done(entry))
            .map(|(key, entry)| (entry.alert.resolved_unix_ms.unwrap_or_default(), key.clone()))
            .collect();
        if over.len() > MOST_RESOLVED {
            over.sort();
            for (_, key) in over.iter().take(over.len() - MOST_RESOLVED) {
                self.entries.remove(key);
            }
        }
        self.counts.forgotten += forgotten;
        self.entries.len() != before
    }

    /// A channel was told of these alerts.
    pub fn note(&mut self, channel: &str, told: &[(Key, Told)]) {
        for (key, told) in told {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.told.insert(channel.to_owned(), *told);
            }
        }
    }

    /// The clock that people read was set: times are told by it as it is now, so that nothing lies in the future or is over by
    /// that alone. Silences end when people said.
    pub fn shift(&mut self, step_ms: i64) {
        for entry in self.entries.values_mut() {
            let alert = &mut entry.alert;
            let acknowledged = alert.acknowledged.as_mut().map(|by| &mut by.at_unix_ms);
            let times =
                [Some(&mut alert.pending_unix_ms), alert.firing_unix_ms.as_mut(), alert.resolved_unix_ms.as_mut()];
            let told = entry.told.values_mut().map(|told| &mut told.at_unix_ms);
            for time in times.into_iter().chain([acknowledged]).flatten().chain(told) {
                *time = time.saturating_add_signed(step_ms);
            }
        }
    }

    /// Channels that there are no more are owed nothing.
    pub fn keep_channels(&mut self, names: &[&str]) {
        for entry in self.entries.values_mut() {
            entry.told.retain(|name, _| names.contains(&name.as_str()));
        }
    }

    /// Somebody takes care of an alert.
    ///
    /// # Errors
    /// If there is no such alert, or it is over.
    pub fn acknowledge(
        &mut self,
        id: u64,
        by: String,
        comment: String,
        now_unix_ms: u64,
    ) -> Result<Alert, AlertRefused> {
        let entry = self.entries.values_mut().find(|entry| entry.alert.id == id);
        let entry = entry.ok_or_else(|| AlertRefused::Missing(format!("there is no alert {id}")))?;
        match entry.alert.state {
            AlertState::Resolved => Err(AlertRefused::Wrong(format!("alert {id} is over"))),
            AlertState::Pending => {
                Err(AlertRefused::Wrong(format!("alert {id} does not fire yet; a silence is possible")))
            }
            AlertState::Firing | AlertState::Acknowledged => {
                entry.alert.state = AlertState::Acknowledged;
                entry.alert.acknowledged = Some(Acknowledged { by, at_unix_ms: now_unix_ms, comment });
                Ok(entry.alert.clone())
            }
        }
    }
}

impl Entry {
    fn resolve(&mut self, now_unix_ms: u64, by: &str) {
        self.alert.state = AlertState::Resolved;
        self.was_suppressed = self.alert.suppressed.take().is_some();
        self.alert.resolved_unix_ms = Some(now_unix_ms.max(self.alert.pending_unix_ms));
        self.alert.resolved_by = Some(by.to_owned());
    }
}

/// What tells an alert apart.
pub fn key_of(alert: &Alert) -> Key {
    (alert.rule.clone(), alert.labels.clone())
}

/// Whether labels that both have are the same.
fn agree(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> bool {
    one.iter().all(|(name, value)| other.get(name).is_none_or(|known| known == value))
}
