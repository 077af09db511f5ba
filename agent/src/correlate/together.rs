//! What else moved when something changed: series by rank correlation with it, shifted by a few windows, and corrected for how
//! many were looked at. Correlation orders what a person should look at; it proves nothing.

use std::sync::Arc;

use super::{
    change::CONFIRMED,
    history::{History, Track},
    look::{Level, level, signal_of},
};
use crate::model::robust::{chance_of_correlation, largest_believed, rank_correlation};

/// Windows by which one may come before or after the other.
const LAGS: i64 = 3;
/// Windows that are compared: those of the change, and as many before.
const COMPARED: u64 = 60;
/// Which part of what is shown may be chance.
const FALSE_SHARE: f64 = 0.01;
/// How far a series has left its usual to have moved, in units of its scatter, or of what matters.
const MOVED: f64 = 3.0;

/// Tracks that are compared with a change, those that moved farthest: where hundreds moved, each change would cost milliseconds
/// more, and nobody reads that far.
const MOST_MOVED: usize = 50;

/// A track that moved lately.
pub struct Moved {
    /// Whose.
    pub service: Arc<str>,
    /// Place of its signal.
    pub signal: usize,
    /// Which of several.
    pub part: Arc<str>,
    /// What it is at.
    pub level: Level,
}

/// A track that moved together with another.
#[derive(Debug)]
pub struct Together<'a> {
    /// Whose.
    pub service: &'a str,
    /// The track.
    pub track: &'a Track,
    /// What it is at.
    pub level: Level,
    /// Rank correlation.
    pub correlation: f64,
    /// By how many windows it comes before the other; after it if negative.
    pub lead: i64,
}

impl std::fmt::Debug for Track {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", signal_of(self).name, self.part)
    }
}

/// The tracks that moved farthest lately: once a window, however many changes are found in it.
pub fn moved(history: &History) -> Vec<Moved> {
    let Some(last) = history.last() else { return Vec::new() };
    let since = (last + 1).saturating_sub(CONFIRMED as u64);
    let moved = |(service, track): (&Arc<str>, &Track)| {
        let level = level(history, track, since, last)?;
        let difference = (level.now - level.usual?).abs();
        let far = difference / (MOVED * level.spread).max(signal_of(track).least);
        let track = Moved { service: Arc::clone(service), signal: track.signal, part: Arc::clone(&track.part), level };
        (far >= 1.0).then_some((far, track))
    };
    let mut found: Vec<(f64, Moved)> = history.tracks().filter_map(moved).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().take(MOST_MOVED).map(|(_, track)| track).collect()
}

/// Those of the moved that went with a track, the closest first.
pub fn together<'a>(history: &'a History, of: (&str, &Track), moved: &'a [Moved]) -> Vec<Together<'a>> {
    let Some(last) = history.last() else { return Vec::new() };
    let from = (last + 1).saturating_sub(COMPARED);
    let mut found = Vec::new();
    let mut chances = Vec::new();
    for candidate in moved {
        let same = *candidate.service == *of.0 && candidate.signal == of.1.signal;
        let Some(track) = find(history, candidate).filter(|_| !same) else { continue };
        let best = (-LAGS..=LAGS).filter_map(|lead| {
            let shifted = |window: u64| history.value(track, window.checked_add_signed(-lead)?);
            let pairs = history.values(of.1, from, last).filter_map(|(window, value)| Some((value, shifted(window)?)));
            let pairs: Vec<(f64, f64)> = pairs.collect();
            Some((rank_correlation(&pairs)?, lead, pairs.len()))
        });
        let best = best.max_by(|a, b| a.0.abs().total_cmp(&b.0.abs()).then((-a.1.abs()).cmp(&-b.1.abs())));
        let Some((correlation, lead, pairs)) = best else { continue };
        let chance = chance_of_correlation(correlation, pairs);
        chances.push(chance);
        found
            .push((chance, Together { service: &candidate.service, track, level: candidate.level, correlation, lead }));
    }
    // Each lag of each track was a test, those of tracks that did not move too.
    let tests = history.tracks().count() * (2 * LAGS as usize + 1);
    chances.resize(tests.max(chances.len()), 1.0);
    let Some(believed) = largest_believed(chances, FALSE_SHARE) else { return Vec::new() };
    let mut found: Vec<Together> =
        found.into_iter().filter(|(chance, _)| *chance <= believed).map(|(_, it)| it).collect();
    found.sort_by(|a, b| b.correlation.abs().total_cmp(&a.correlation.abs()));
    found
}

fn find<'a>(history: &'a History, moved: &Moved) -> Option<&'a Track> {
    history.tracks_of(&moved.service).iter().find(|track| track.signal == moved.signal && track.part == moved.part)
}
