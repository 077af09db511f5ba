//! Rules over the snapshots that windows end with: in a snapshot, out the figure of each group of series. Pure: no clock, no
//! file, nobody is told.
//!
//! Bounded: at most [`MOST_GROUPS`] groups, which together hold at most [`MOST_HELD`] windows (some 90 bytes and the durations of
//! each, at most an hour of them) and 360 figures of the past each; a host with 50 services has some 300, which is under a megabyte. Memory does not grow with time. A
//! window costs one look at each series and one sum over the windows of each group.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    gather::{Before, End, Labels, Sum, labels_of},
    group::{Group, MOST_WINDOWS, Reading},
};
use crate::model::{
    rule::{Function, Rule},
    snapshot::Snapshot,
};

/// The most groups of all rules together.
pub const MOST_GROUPS: usize = 2_048;
/// The most groups of one rule.
const MOST_OF_RULE: usize = 512;
/// Windows that all groups together may come to hold: some 18 MB, and their durations.
pub const MOST_HELD: usize = 200_000;

/// Evaluates rules.
#[derive(Debug)]
pub struct Evaluator {
    watches: Vec<Watch>,
    /// By name of a metric: places of rules that look at it, and as what.
    by_metric: HashMap<&'static str, Vec<(usize, End)>>,
    window: u64,
    /// Only windows move it, so that no clock that is set does.
    now_seconds: f64,
    refused: u64,
}

#[derive(Debug)]
struct Watch {
    rule: Arc<Rule>,
    of: Before,
    over: Before,
    groups: BTreeMap<Labels, Group>,
}

/// A figure of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Values of its labels, in its order.
    pub labels: Labels,
    /// The figure.
    pub reading: Reading,
}

impl Evaluator {
    /// Evaluates these rules from now on.
    pub fn new(rules: Vec<Arc<Rule>>) -> Self {
        let mut by_metric: HashMap<&str, Vec<(usize, End)>> = HashMap::new();
        for (place, rule) in rules.iter().enumerate() {
            by_metric.entry(rule.of.metric.name).or_default().push((place, End::Of));
            if let Some(over) = &rule.over {
                by_metric.entry(over.metric.name).or_default().push((place, End::Over));
            }
        }
        let watch = |rule| Watch { rule, of: Before::default(), over: Before::default(), groups: BTreeMap::new() };
        let watches = rules.into_iter().map(watch).collect();
        Self { watches, by_metric, window: 0, now_seconds: 0.0, refused: 0 }
    }

    /// The rules.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.watches.iter().map(|watch| &watch.rule)
    }

    /// Groups that are kept, and how often there was no room for one.
    pub fn counts(&self) -> (usize, u64) {
        (self.watches.iter().map(|watch| watch.groups.len()).sum(), self.refused)
    }

    /// Takes over other rules. Those that stay the same keep what they know.
    pub fn replace(&mut self, rules: Vec<Arc<Rule>>) {
        let mut old = std::mem::replace(self, Self::new(rules));
        (self.window, self.now_seconds, self.refused) = (old.window, old.now_seconds, old.refused);
        for watch in &mut self.watches {
            if let Some(at) = old.watches.iter().position(|known| known.rule == watch.rule) {
                *watch = old.watches.swap_remove(at);
            }
        }
    }

    /// Takes in a window that ended with this snapshot, so long after the one before.
    pub fn observe(&mut self, snapshot: &Snapshot, elapsed: Duration) -> Vec<Figure> {
        let window = self.window;
        self.window += 1;
        self.now_seconds += elapsed.as_secs_f64();
        let mut sums: Vec<BTreeMap<Labels, Sum>> = self.watches.iter().map(|_| BTreeMap::new()).collect();
        for series in &snapshot.series {
            for (place, end) in self.by_metric.get(series.metric.name).into_iter().flatten() {
                let Some((watch, sums)) = self.watches.get_mut(*place).zip(sums.get_mut(*place)) else { continue };
                let rule = Arc::clone(&watch.rule);
                let selection = if *end == End::Of { Some(&rule.of) } else { rule.over.as_ref() };
                if !selection.is_some_and(|selection| selection.admits(series)) {
                    continue;
                }
                let before = if *end == End::Of { &mut watch.of } else { &mut watch.over };
                before.add(&rule, *end, series, window, sums.entry(labels_of(&rule, series)).or_default());
            }
        }
        let mut figures = Vec::new();
        let mut room = MOST_GROUPS.saturating_sub(self.counts().0);
        let held: usize = self.watches.iter().map(|it| it.groups.len() * windows_of(&it.rule, elapsed)).sum();
        let mut room_for_windows = MOST_HELD.saturating_sub(held);
        for (watch, sums) in self.watches.iter_mut().zip(sums) {
            watch.of.forget(window);
            watch.over.forget(window);
            for (labels, sum) in sums.into_iter().filter(|(_, sum)| is_there(&watch.rule, sum)) {
                let known = watch.groups.len();
                let group = match watch.groups.get_mut(&labels) {
                    Some(group) => group,
                    None if room == 0
                        || known >= MOST_OF_RULE
                        || room_for_windows < windows_of(&watch.rule, elapsed) =>
                    {
                        self.refused += 1;
                        continue;
                    }
                    None => {
                        room -= 1;
                        room_for_windows -= windows_of(&watch.rule, elapsed);
                        watch.groups.entry(labels.clone()).or_insert_with(|| Group::new(self.now_seconds))
                    }
                };
                group.push(&watch.rule, self.now_seconds, elapsed.as_secs_f64(), sum);
                if let Some(reading) = group.read(&watch.rule, self.now_seconds) {
                    figures.push(Figure { rule: Arc::clone(&watch.rule), labels, reading });
                }
            }
            let (rule, now) = (&watch.rule, self.now_seconds);
            watch.groups.retain(|_, group| !group.is_over(rule, now));
        }
        figures
    }
}

/// How many windows, of this length, a group of the rule comes to hold.
fn windows_of(rule: &Rule, window: Duration) -> usize {
    let windows = rule.within.as_secs_f64() / window.as_secs_f64().max(1e-3);
    (windows.ceil() as usize).clamp(1, MOST_WINDOWS)
}

/// Whether a sum is one that a figure can be made of: something counted by nobody is not there.
fn is_there(rule: &Rule, sum: &Sum) -> bool {
    match rule.function {
        Function::Ratio { .. } => sum.over.is_some(),
        _ => sum.number.is_some(),
    }
}
