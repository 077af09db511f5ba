//! Change points: series that left their own past. Knows signals and ranks, not resources.
//!
//! A change is found when the newest [`CONFIRMED`] values lie above the past and all of this holds:
//! - **Ranks.** Were the newest values of the same kind as those before, any order would be alike, and for all of them to be the
//!   largest would have the chance C(8 + a, 8) / C(8 + n, 8), with n values before of which a are as large. That is so for every
//!   distribution. The chance must be below what leaves [`FALSE_A_DAY`] in all tests of a day, those of all series together;
//!   it also says how many windows are needed before anything can be found.
//!   A series that was as far from its middle for more than [`CONFIRMED`] windows of the history has been there before.
//! - **Size.** The series' own scatter (median absolute deviation, on a logarithmic scale) is left far behind. This is what
//!   protects where values hang together, and where they climb slowly: then the scatter is as wide as the climb.
//! - **Weight.** The difference matters in its own unit, and goes beyond what the same hour of earlier days has held.

use super::{
    history::{History, Track},
    look::signal_of,
    signal::{Signal, Task},
};
use crate::model::robust::{chance_of_all_above, least_past, median, median_and_spread};

/// How many windows in a row must be above the past.
pub const CONFIRMED: usize = 8;
/// False findings in a day on a host where nothing happens, if the values of a series do not hang together. A tenth of what is
/// promised, because they do.
const FALSE_A_DAY: f64 = 0.1;
/// How far the middle of the newest values lies above the usual, in units of scatter, and each of them at least.
const FAR: f64 = 5.0;
const FAR_EACH: f64 = 3.0;
/// Scatter is taken to be at least this, on the logarithmic scale: a change is one by a third at least.
const LEAST_SCATTER: f64 = 0.05;
/// A use of a resource changed when it doubled.
const USE_GROWTH: f64 = 2.0;
/// A window may be missing between others.
const GAPS: u64 = 2;

/// A series that left its past.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// The first window of it.
    pub since: u64,
    /// Its middle now.
    pub now: f64,
    /// The middle of the past.
    pub usual: f64,
    /// It is over when the middle of the newest values falls below this.
    pub over_below: f64,
}

/// The chance that one test may have, with so many series and windows of this length.
pub fn chance_allowed(series: usize, window_seconds: f64) -> f64 {
    let tests_a_day = series.max(1) as f64 * 86_400.0 / window_seconds;
    FALSE_A_DAY / tests_a_day
}

/// How many windows a series needs before a change can be found.
pub fn windows_needed(chance_allowed: f64) -> usize {
    least_past(CONFIRMED, chance_allowed) + CONFIRMED
}

/// Whether a series has left its past by its last window.
pub fn change(history: &History, track: &Track, chance_allowed: f64) -> Option<Change> {
    let signal = signal_of(track);
    let last = history.last()?;
    let (first, newest) = newest(history, track, last)?;
    let lowest = newest.iter().copied().fold(f64::INFINITY, f64::min);
    if lowest < signal.least {
        return None;
    }
    let before = |end: u64| history.values(track, 0, end.saturating_sub(1)).map(|(_, value)| value);
    let (past, above) = count(before(first), lowest);
    // Most series, most of the time.
    if above * 4 > past {
        return None;
    }
    let scaled = |value: f64| (value.max(0.0) + signal.least).ln();
    let past: Vec<f64> = before(first).map(scaled).collect();
    let (middle, scatter) = median_and_spread(&past)?;
    let scatter = scatter.max(LEAST_SCATTER);
    let back = |scaled: f64| (scaled.exp() - signal.least).max(0.0);
    let threshold = back(middle + FAR_EACH * scatter);
    // What climbs is far away for longer than is confirmed.
    let run = history.values(track, 0, first).rev().take_while(|(_, value)| *value > threshold);
    let since = run.last().map_or(first, |(window, _)| window);
    let (past, above) = count(before(since), lowest);
    let (_, been_there) = count(before(since), threshold);
    if chance_of_all_above(past, CONFIRMED, above) > chance_allowed || been_there > CONFIRMED {
        return None;
    }
    let now = median(&mut newest.clone())?;
    let usual = back(middle);
    let far = (scaled(now) - middle) / scatter >= FAR && lowest > threshold;
    let daily = track.hours.as_ref().and_then(|hours| hours.usual(history.ended_unix_ms(last)));
    let beyond_daily = daily.is_none_or(|daily| scaled(lowest) > scaled(daily) + 2.0 * scatter);
    let found = far && matters(signal, now, usual) && beyond_daily;
    found.then_some(Change { since, now, usual, over_below: threshold })
}

/// How many values there are, and how many of them are at least this.
fn count(values: impl Iterator<Item = f64>, least: f64) -> (usize, usize) {
    values.fold((0, 0), |(all, above), value| (all + 1, above + usize::from(value >= least)))
}

fn matters(signal: &Signal, now: f64, usual: f64) -> bool {
    let grown = signal.task != Task::Use || now >= usual * USE_GROWTH;
    now - usual >= signal.least && grown
}

/// The newest values, the last window's among them, and the first of their windows.
fn newest(history: &History, track: &Track, last: u64) -> Option<(u64, Vec<f64>)> {
    history.value(track, last)?;
    let from = (last + 1).saturating_sub(CONFIRMED as u64 + GAPS);
    let newest: Vec<(u64, f64)> = history.values(track, from, last).rev().take(CONFIRMED).collect();
    let (first, _) = newest.last().copied().filter(|_| newest.len() == CONFIRMED)?;
    Some((first, newest.into_iter().map(|(_, value)| value).collect()))
}

/// What a series has held for as many windows as a change needs; `None` if some are missing.
pub fn held(history: &History, track: &Track) -> Option<f64> {
    let (_, newest) = newest(history, track, history.last()?)?;
    newest.into_iter().reduce(f64::min)
}

/// Whether a change is over: the series is back, or has ended.
pub fn is_over(history: &History, track: Option<&Track>, over_below: f64) -> bool {
    let (Some(track), Some(last)) = (track, history.last()) else { return true };
    let from = (last + 1).saturating_sub(CONFIRMED as u64);
    let mut newest: Vec<f64> = history.values(track, from, last).map(|(_, value)| value).collect();
    median(&mut newest).is_none_or(|middle| middle < over_below)
}
