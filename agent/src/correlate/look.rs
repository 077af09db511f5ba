//! What several finders look for in the history: what a track is at now and what is usual, evidence of it, who contends.

use super::{
    history::{HOST, History, Track},
    signal::{SIGNALS, Signal, signal},
};
use crate::model::finding::{Contender, Evidence};
use crate::model::robust::{median, median_and_spread};

/// Most contenders that are named.
const CONTENDERS: usize = 3;
/// Windows at the end of a period that stand for what is now.
const LATELY: u64 = 8;

/// What a track is at, and what was usual before.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    /// The median lately.
    pub now: f64,
    /// The median before; `None` if there is no before.
    pub usual: Option<f64>,
    /// How far values scattered about it.
    pub spread: f64,
}

/// What a track was at from `since` to `last`, against the time before.
pub fn level(history: &History, track: &Track, since: u64, last: u64) -> Option<Level> {
    let first = since.max((last + 1).saturating_sub(LATELY));
    let mut now: Vec<f64> = history.values(track, first, last).map(|(_, value)| value).collect();
    let before: Vec<f64> = match since.checked_sub(1) {
        Some(end) => history.values(track, 0, end).map(|(_, value)| value).collect(),
        None => Vec::new(),
    };
    let (usual, spread) = median_and_spread(&before).unzip();
    Some(Level { now: median(&mut now)?, usual, spread: spread.unwrap_or_default() })
}

/// The signal of a track.
pub fn signal_of(track: &Track) -> &'static Signal {
    SIGNALS.get(track.signal).unwrap_or_else(|| unreachable!("tracks are made of signals"))
}

/// A track as a piece of evidence.
pub fn evidence(service: &str, track: &Track, level: Level) -> Evidence {
    let signal = signal_of(track);
    let part = if track.part.is_empty() { String::new() } else { format!(" ({})", track.part) };
    Evidence {
        name: format!("{}{part}", signal.said),
        service: (service != HOST).then(|| service.to_owned()),
        value: level.now,
        usual: level.usual,
        unit: signal.unit,
        check: signal.query(service, &track.part),
    }
}

/// A piece of evidence from each of these signals that the service has.
pub fn evidence_of(
    history: &History,
    service: &str,
    names: &[&str],
    part: &str,
    since: u64,
    last: u64,
) -> Vec<Evidence> {
    let tracks = names.iter().flat_map(|name| history.parts(service, name));
    let tracks = tracks.filter(|track| part.is_empty() || track.part.is_empty() || *track.part == *part);
    tracks.filter_map(|track| Some(evidence(service, track, level(history, track, since, last)?))).collect()
}

/// Services whose figure rose since then, by as much as matters, the most first.
pub fn contenders(history: &History, name: &str, part: &str, since: u64, last: u64) -> Vec<Contender> {
    let least = SIGNALS.get(signal(name)).map_or(0.0, |signal| signal.least);
    let rose = |service: &str| {
        let track = history.parts(service, name).find(|track| part.is_empty() || *track.part == *part)?;
        let level = level(history, track, since, last)?;
        let usual = level.usual.unwrap_or_default();
        let unit = signal_of(track).unit;
        (level.now - usual >= least).then(|| Contender { service: service.to_owned(), value: level.now, usual, unit })
    };
    let mut all: Vec<Contender> = history.services().filter_map(|service| rose(service)).collect();
    all.sort_by(|a, b| (b.value - b.usual).total_cmp(&(a.value - a.usual)));
    all.truncate(CONTENDERS);
    all
}
