//! From a snapshot to what a rule's series gained or hold in one window, added up by the labels that tell alerts apart. Knows
//! no past but the last value of each counter.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::model::{
    distribution::Distribution,
    rule::{Function, Rule, Selection},
    snapshot::{Series, Value},
};

/// Counters that were not seen for so many windows are forgotten.
const FORGOTTEN: u64 = 360;

/// Values of the labels of a rule, in its order.
pub type Labels = Vec<String>;

/// What the series of one group come to in one window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sum {
    /// Gains of counters and of observations, or gauges, of the metric.
    pub number: Option<f64>,
    /// The same of what it is divided by.
    pub over: Option<f64>,
    /// Durations in nanoseconds that were observed.
    pub time_ns: u64,
    /// By the kernel's buckets, how many.
    pub buckets: BTreeMap<usize, u64>,
    /// How many gauges rose.
    pub rises: u64,
}

/// The last values of one metric's series.
#[derive(Debug, Default)]
pub struct Before {
    counters: HashMap<Vec<String>, (u64, Last)>,
}

#[derive(Debug)]
enum Last {
    Number(f64),
    Histogram(Arc<Distribution>),
}

/// Which end of a rule a series is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The metric itself.
    Of,
    /// What it is divided by.
    Over,
}

impl Before {
    /// Forgets what was not seen for long.
    pub fn forget(&mut self, window: u64) {
        self.counters.retain(|_, (seen, _)| window.saturating_sub(*seen) < FORGOTTEN);
    }

    /// Adds what a series came to in a window to the sum of its group.
    pub fn add(&mut self, rule: &Rule, end: End, series: &Series, window: u64, sum: &mut Sum) {
        let changes = end == End::Of && rule.function == Function::Changes;
        let place = |sum: &mut Sum, more: f64| {
            let number = match end {
                End::Of => &mut sum.number,
                End::Over => &mut sum.over,
            };
            *number = Some(number.unwrap_or_default() + more);
        };
        match &series.value {
            Value::Number(number) if changes => {
                // Nothing is there: what was is remembered.
                if *number == 0.0 {
                    return;
                }
                let before = self.swap(series, window, Last::Number(*number));
                sum.rises += u64::from(matches!(before, Some(Last::Number(before)) if before < *number));
                place(sum, *number);
            }
            Value::Number(number) => {
                let counts =
                    if end == End::Of { rule.of.counts() } else { rule.over.as_ref().is_some_and(Selection::counts) };
                let more = match counts {
                    true => match self.swap(series, window, Last::Number(*number)) {
                        Some(Last::Number(before)) if before <= *number => Some(number - before),
                        // It began anew.
                        Some(_) => Some(*number),
                        None => begins_at_zero(series, window).then_some(*number),
                    },
                    false => Some(*number),
                };
                if let Some(more) = more.filter(|more| more.is_finite()) {
                    place(sum, more);
                }
            }
            Value::Histogram(now) => {
                let before = self.swap(series, window, Last::Histogram(Arc::clone(now)));
                let gained = match before {
                    Some(Last::Histogram(before)) if Arc::ptr_eq(&before, now) => Some(Distribution::default()),
                    Some(Last::Histogram(before)) => Some(now.since(&before).unwrap_or_else(|| (**now).clone())),
                    Some(Last::Number(_)) => None,
                    None => begins_at_zero(series, window).then(|| (**now).clone()),
                };
                let Some(gained) = gained else { return };
                place(sum, gained.count() as f64);
                if end == End::Of && wants_durations(&rule.function) {
                    sum.time_ns = sum.time_ns.wrapping_add(gained.sum_ns());
                    for (bucket, count) in gained.counts().iter().enumerate().filter(|(_, count)| **count > 0) {
                        *sum.buckets.entry(bucket).or_default() += count;
                    }
                }
            }
        }
    }

    fn swap(&mut self, series: &Series, window: u64, now: Last) -> Option<Last> {
        match self.counters.get_mut(&series.labels) {
            Some(known) => Some(std::mem::replace(known, (window, now)).1),
            None => {
                self.counters.insert(series.labels.clone(), (window, now));
                None
            }
        }
    }
}

/// Whether a series that was never seen counts from nothing: what the agent itself counts does, unless it is the first window.
fn begins_at_zero(series: &Series, window: u64) -> bool {
    window > 0 && series.metric.name.starts_with("steth_")
}

fn wants_durations(function: &Function) -> bool {
    matches!(function, Function::Average | Function::Quantile(_))
}

/// The values of a rule's labels that a series has.
pub fn labels_of(rule: &Rule, series: &Series) -> Labels {
    let value = |name: &&str| {
        let place = series.metric.labels.iter().position(|label| label == name);
        place.and_then(|place| series.labels.get(place)).cloned().unwrap_or_default()
    };
    rule.by.iter().map(value).collect()
}
