//! Leaks: memory or open files of a service that grow steadily towards their limit. Knows signals and slopes, not findings.
//!
//! The history is cut into [`BLOCKS`] parts and each stands for its lowest value: garbage that is collected now and then, and a
//! load that comes and goes, leave the lowest values where they were. A leak is found when every block lies above the one before
//! (by chance once in 12!, 479 million times, if the order says nothing), the growth does not slow down as it does after a start,
//! the number of processes did not grow with it, and the limit is near: a straight line is trusted for [`TRUST`] times as
//! long as it was seen.

use super::{
    history::{HOST, History, Track},
    look::{evidence_of, signal_of},
    words::figure,
};
use crate::model::{finding::Evidence, robust::slope};

/// Parts that the history is cut into.
const BLOCKS: u64 = 12;
/// Windows that a part has at least.
const LEAST_BLOCK: u64 = 3;
/// How many times as long as growth was seen it is taken to go on.
const TRUST: f64 = 100.0;
/// The last third grows at least so much as fast as the first.
const STEADY: f64 = 0.8;
/// Growth that is looked at, as a part of what there was.
const LEAST_GROWTH: f64 = 0.05;
/// Bytes that grew at least.
const LEAST_BYTES: f64 = 4_194_304.0;
/// Part of the limit of open files that grew at least.
const LEAST_RATIO: f64 = 0.01;
/// Processes may have become so many times as many.
const MORE_PROCESSES: f64 = 1.1;

/// A use that grows towards its limit.
#[derive(Debug)]
pub struct Leak {
    /// `memory` or `open_files`.
    pub about: &'static str,
    /// The first window of the growth that was seen.
    pub since: u64,
    /// What it is, without since when.
    pub what: String,
    /// From 0 to 1.
    pub score: f64,
    /// Figures.
    pub evidence: Vec<Evidence>,
}

/// Fewest windows in which a leak shows.
pub const fn windows_needed() -> u64 {
    BLOCKS * LEAST_BLOCK
}

/// What leaks from a service.
pub fn leaks(history: &History, service: &str) -> Vec<Leak> {
    [memory(history, service), open_files(history, service)].into_iter().flatten().collect()
}

/// Steady growth.
struct Growth {
    since: u64,
    from: f64,
    to: f64,
    per_second: f64,
    seconds: f64,
}

fn memory(history: &History, service: &str) -> Option<Leak> {
    let last = history.last()?;
    let grown = growth(history, history.track(service, "memory")?, LEAST_BYTES)?;
    if processes_grew(history, service, &grown) {
        return None;
    }
    let now = |service: &str, name: &str| history.value(history.track(service, name)?, last);
    let host = now(HOST, "memory_available_bytes").map(|left| (left, "of the host"));
    let own =
        now(service, "memory_limit").map(|limit| ((limit - grown.to).max(0.0), "that its control group may have"));
    let (left, whose) = [host, own].into_iter().flatten().min_by(|a, b| a.0.total_cmp(&b.0))?;
    let seconds_left = left / grown.per_second;
    let what = format!(
        "the memory of {service} grows by {} an hour, from {} to {} in {}; the memory {whose} is used up in {}",
        figure(grown.per_second * 3_600.0, "B"),
        figure(grown.from, "B"),
        figure(grown.to, "B"),
        figure(grown.seconds, "s"),
        figure(seconds_left, "s"),
    );
    let names = ["memory", "memory_limit", "processes"];
    leak(history, service, "memory", &names, grown, seconds_left, what)
}

fn open_files(history: &History, service: &str) -> Option<Leak> {
    let grown = growth(history, history.track(service, "open_files_ratio")?, LEAST_RATIO)?;
    let files = growth(history, history.track(service, "open_files")?, 1.0)?;
    if processes_grew(history, service, &grown) {
        return None;
    }
    let seconds_left = (1.0 - grown.to).max(0.0) / grown.per_second;
    let what = format!(
        "the open files of {service} grow by {} an hour, from {:.0} to {:.0} in {}; the limit of its process is reached in {}",
        figure(files.per_second * 3_600.0, "files"),
        files.from,
        files.to,
        figure(grown.seconds, "s"),
        figure(seconds_left, "s"),
    );
    let names = ["open_files", "open_files_ratio", "processes"];
    leak(history, service, "open_files", &names, grown, seconds_left, what)
}

fn leak(
    history: &History,
    service: &str,
    about: &'static str,
    names: &[&str],
    grown: Growth,
    seconds_left: f64,
    what: String,
) -> Option<Leak> {
    if seconds_left > grown.seconds * TRUST {
        return None;
    }
    let last = history.last()?;
    // What is usual is what it was at first.
    let mut evidence = evidence_of(history, service, names, "", last, last);
    if let Some(first) = evidence.first_mut() {
        first.usual =
            history.values(history.track(service, names.first()?)?, grown.since, last).next().map(|(_, value)| value);
    }
    let score = 1.0 - (seconds_left / (grown.seconds * TRUST)).clamp(0.0, 1.0) / 2.0;
    Some(Leak { about, since: grown.since, what, score, evidence })
}

fn processes_grew(history: &History, service: &str, grown: &Growth) -> bool {
    let Some((track, last)) = history.track(service, "processes").zip(history.last()) else { return false };
    let mut values = history.values(track, grown.since, last).map(|(_, value)| value);
    let (first, last) = (values.next(), values.next_back());
    first.zip(last).is_some_and(|(first, last)| last > first * MORE_PROCESSES)
}

/// Growth without a break, of the longest time that has it: all of the history, or its last half, quarter and so on.
fn growth(history: &History, track: &Track, least: f64) -> Option<Growth> {
    let last = history.last()?;
    history.value(track, last)?;
    let (oldest, _) = history.values(track, 0, last).next()?;
    let mut windows = last + 1 - oldest;
    while windows >= windows_needed() {
        if let Some(found) = growth_in(history, track, last + 1 - windows, last, least) {
            return Some(found);
        }
        windows /= 2;
    }
    None
}

fn growth_in(history: &History, track: &Track, from: u64, last: u64, least: f64) -> Option<Growth> {
    let size = (last + 1 - from) / BLOCKS;
    // What does not divide stands before the first block.
    let begin = last + 1 - size * BLOCKS;
    let lowest = |block: u64| {
        let (first, end) = (begin + block * size, begin + (block + 1) * size - 1);
        let values = history.values(track, first, end).map(|(_, value)| value);
        values.reduce(f64::min).map(|value| (block as f64, value))
    };
    let blocks: Vec<(f64, f64)> = (0..BLOCKS).filter_map(lowest).collect();
    let whole = blocks.len() == BLOCKS as usize;
    let rising = blocks.windows(2).all(|pair| matches!(pair, [(_, a), (_, b)] if b > a));
    let ((_, start), (_, to)) = blocks.first().copied().zip(blocks.last().copied())?;
    let third = blocks.len() / 3;
    let (first, newest) = (slope(blocks.get(..=third)?)?, slope(blocks.get(blocks.len() - third - 1..)?)?);
    let enough = to - start >= least.max(start * LEAST_GROWTH) && signal_of(track).least > 0.0;
    if !whole || !rising || newest < first * STEADY || !enough {
        return None;
    }
    let window_seconds = history.interval().as_secs_f64();
    let per_second = slope(&blocks)? / (size as f64 * window_seconds);
    let now = history.value(track, last)?;
    Some(Growth { since: begin, from: start, to: now, per_second, seconds: (last + 1 - begin) as f64 * window_seconds })
}
