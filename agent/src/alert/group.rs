//! The windows that a figure is made of, for one group of series: rings of bounded length, and the functions. Knows no rule's
//! name and no alert.

use std::{collections::VecDeque, time::Duration};

use super::gather::Sum;
use crate::model::{
    distribution::Distribution,
    robust::{median, median_and_spread, slope},
    rule::{Function, Rule},
};

/// Figures of the past that say what is usual.
pub const PAST: usize = 360;
/// Fewer say nothing.
pub const LEAST_PAST: usize = 30;
/// The most windows of a figure, however short they are.
pub const MOST_WINDOWS: usize = 3_600;
/// What a gauge's spread is at least, as a part of what is usual: one that never moved has none.
const LEAST_SPREAD: f64 = 0.02;
/// Parts that a line is drawn through: each stands for its mean.
const LINE_PARTS: usize = 24;
/// A group that was not there for so long is forgotten.
const FORGOTTEN_SECONDS: f64 = 3_600.0;
/// What is further off than this is never.
const NEVER_SECONDS: f64 = 10.0 * 365.0 * 86_400.0;

/// One group of series of a rule.
#[derive(Debug)]
pub struct Group {
    born_seconds: f64,
    seen_seconds: f64,
    windows: VecDeque<Window>,
    past: VecDeque<f32>,
}

/// One window of a group.
#[derive(Debug)]
struct Window {
    /// When it ended, by a clock that only the windows move.
    at_seconds: f64,
    seconds: f64,
    sum: Sum,
}

/// A figure of a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The figure.
    pub value: f64,
    /// What was usual before.
    pub usual: Option<f64>,
    /// Whether there were windows for all of the time that is looked at.
    pub is_whole: bool,
}

impl Group {
    /// One that begins now.
    pub fn new(now_seconds: f64) -> Self {
        Self { born_seconds: now_seconds, seen_seconds: now_seconds, windows: VecDeque::new(), past: VecDeque::new() }
    }

    /// Adds a window.
    pub fn push(&mut self, rule: &Rule, now_seconds: f64, seconds: f64, sum: Sum) {
        self.seen_seconds = now_seconds;
        self.windows.push_back(Window { at_seconds: now_seconds, seconds, sum });
        self.drop_old(rule, now_seconds);
    }

    /// Whether it was not there for so long that its past says nothing any more. What is too old is dropped.
    pub fn is_over(&mut self, rule: &Rule, now_seconds: f64) -> bool {
        self.drop_old(rule, now_seconds);
        now_seconds - self.seen_seconds > FORGOTTEN_SECONDS
    }

    fn drop_old(&mut self, rule: &Rule, now_seconds: f64) {
        let since = now_seconds - rule.within.as_secs_f64();
        // A window counts if its middle lies in the time; the last one always does while it is the last.
        let is_old =
            |window: &Window| window.at_seconds < now_seconds && window.at_seconds - window.seconds / 2.0 < since;
        while self.windows.len() > MOST_WINDOWS || self.windows.front().is_some_and(is_old) {
            self.windows.pop_front();
        }
    }

    /// The figure, if there is one; it becomes a part of the past.
    pub fn read(&mut self, rule: &Rule, now_seconds: f64) -> Option<Reading> {
        // A group that is not there now has no figure, whatever it had.
        self.windows.back().filter(|window| window.at_seconds >= now_seconds)?;
        let plain = self.figure(rule).filter(|value| value.is_finite())?;
        let past: Vec<f64> = self.past.iter().map(|value| f64::from(*value)).collect();
        let known = median_and_spread(&past).filter(|_| past.len() >= LEAST_PAST);
        if self.past.len() >= PAST {
            self.past.pop_front();
        }
        self.past.push_back(plain as f32);
        let value = match rule.is_deviation {
            true => known.map(|(usual, spread)| (plain - usual) / spread.max(LEAST_SPREAD * usual.abs()).max(1e-9))?,
            false => plain,
        };
        let usual = known.map(|(usual, _)| usual).filter(|_| !rule.is_deviation);
        let age = now_seconds - self.born_seconds;
        let is_whole = age + 1e-6 >= rule.within.as_secs_f64();
        Some(Reading { value, usual, is_whole })
    }

    fn figure(&self, rule: &Rule) -> Option<f64> {
        let sums = || self.windows.iter().map(|window| &window.sum);
        let number = || sums().filter_map(|sum| sum.number).sum::<f64>();
        let enough = |count: f64| count > 0.0 && count >= rule.at_least as f64;
        let last = sums().next_back()?;
        match rule.function {
            Function::Value => last.number,
            Function::Rate => {
                last.number?;
                Some(number() / self.windows.iter().map(|window| window.seconds).sum::<f64>())
            }
            Function::Average if rule.of.counts() => {
                let time_ns: f64 = sums().map(|sum| sum.time_ns as f64).sum();
                enough(number()).then(|| time_ns / number() / 1e9)
            }
            Function::Average => {
                let values: Vec<f64> = sums().filter_map(|sum| sum.number).collect();
                (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
            }
            Function::Quantile(share) if rule.of.counts() => {
                let mut all = Distribution::default();
                sums()
                    .for_each(|sum| all.add(sum.time_ns, sum.buckets.iter().map(|(bucket, count)| (*bucket, *count))));
                let enough = enough(all.count() as f64);
                all.quantile_ns(share).filter(|_| enough).map(|ns| ns as f64 / 1e9)
            }
            Function::Quantile(share) => {
                let mut values: Vec<f64> = sums().filter_map(|sum| sum.number).collect();
                values.sort_by(f64::total_cmp);
                let rank = (share * values.len().saturating_sub(1) as f64).round();
                values.get(rank as usize).copied()
            }
            Function::Ratio { is_rest } => {
                let ratio = match rule.of.counts() {
                    true => {
                        let over = sums().filter_map(|sum| sum.over).sum::<f64>();
                        // Who counts nothing has no series.
                        enough(over).then(|| number() / over)
                    }
                    false => last.number.zip(last.over).map(|(number, over)| number / over),
                }?;
                Some(if is_rest { 1.0 - ratio } else { ratio })
            }
            Function::Changes => Some(sums().map(|sum| sum.rises as f64).sum()),
            Function::TimeToLimit { limit } => {
                let limit = rule.over.as_ref().map_or(Some(limit), |_| last.over)?;
                self.time_to_limit(limit, rule.within)
            }
        }
    }

    /// Seconds until a line through the windows meets a limit. Without enough windows there is no line.
    fn time_to_limit(&self, limit: f64, within: Duration) -> Option<f64> {
        let points: Vec<(f64, f64)> =
            self.windows.iter().filter_map(|window| Some((window.at_seconds, window.sum.number?))).collect();
        let (end, now) = *points.last()?;
        let (begin, first) = *points.first()?;
        // It came from the other side, or is there.
        if now == limit || (first - limit).signum() != (now - limit).signum() {
            return Some(0.0);
        }
        // A short piece says little of where it leads.
        if points.len() < LINE_PARTS / 2 || end - begin < within.as_secs_f64() / 2.0 {
            return None;
        }
        let mean = |part: &[(f64, f64)]| {
            let sum = part.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
            (sum.0 / part.len() as f64, sum.1 / part.len() as f64)
        };
        let parts: Vec<(f64, f64)> = points.chunks(points.len().div_ceil(LINE_PARTS)).map(mean).collect();
        let slope = slope(&parts)?;
        // Half of all steps at least lead the same way, or the line is made of one jump.
        let steps: Vec<f64> = parts.iter().zip(parts.iter().skip(1)).map(|(a, b)| b.1 - a.1).collect();
        let mut towards: Vec<f64> = steps.iter().map(|step| step * (limit - now).signum()).collect();
        let leads = median(&mut towards).is_some_and(|step| step > 0.0) && slope * (limit - now) > 0.0;
        Some(if leads { ((limit - now) / slope).min(NEVER_SECONDS) } else { NEVER_SECONDS })
    }
}
