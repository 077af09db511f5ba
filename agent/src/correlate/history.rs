//! The windows of the past: for each signal of each service one number a window, in rings of fixed size. Knows the signals, not
//! what is concluded from them.
//!
//! Bounded: at most [`MOST_SERVICES`] services and [`MOST_TRACKS`] tracks, each with four bytes a window and under 2 KiB
//! besides. With 360 windows that is at most 14 MB when all are in use. Who has a place keeps it
//! while it is seen, but for a service that does next to nothing, which gives way to one that uses a core.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    hours::Hours,
    signal::{LEAST_OF_TAIL, Reading, SIGNALS, Signal, Task, Whose, signal},
};
use crate::model::{
    distribution::Distribution,
    snapshot::{Series, Snapshot, Value},
};

/// The most services that are told apart.
pub const MOST_SERVICES: usize = 256;
/// The most tracks of all services together.
pub const MOST_TRACKS: usize = 4_096;
/// The most parts of one signal of one service, such as peers.
const MOST_PARTS: usize = 16;
/// A newcomer that uses as many cores takes the place of one that uses far less.
const WORTH_A_PLACE_CORES: f64 = 0.1;
/// Whoever stands for several, or for nobody in particular, has no past of its own.
const NOBODY: &[&str] = &["other", "unknown", ""];
/// In place of the end of a window that is missing.
const MISSING: u64 = 0;
/// The host, among services.
pub const HOST: &str = "";

/// The windows of the past.
pub struct History {
    capacity: usize,
    interval: Duration,
    /// Number of the next window.
    next: u64,
    ends_unix_ms: Box<[u64]>,
    services: BTreeMap<Arc<str>, Service>,
    tracks: usize,
    /// CPU time of services that have no place.
    waiting: HashMap<String, f64>,
    refused: u64,
    by_metric: HashMap<&'static str, Vec<usize>>,
}

/// One service, or the host.
#[derive(Default)]
struct Service {
    born: u64,
    seen: u64,
    tracks: Vec<Track>,
}

/// One signal of one service, or of a part of it.
pub struct Track {
    /// Place of the signal in [`SIGNALS`].
    pub signal: usize,
    /// Which of several.
    pub part: Arc<str>,
    /// What it held in each hour of earlier days, of those that are tested.
    pub hours: Option<Box<Hours>>,
    values: Box<[f32]>,
    seen: u64,
    before: Option<Sum>,
}

/// What the series of one track come to in a window.
#[derive(Clone, Debug, Default)]
struct Sum {
    number: f64,
    over: f64,
    count: u64,
    sum_ns: u64,
    distribution: Option<Distribution>,
}

impl History {
    /// Keeps so many windows of this length.
    pub fn new(capacity: usize, interval: Duration) -> Self {
        let mut by_metric: HashMap<&str, Vec<usize>> = HashMap::new();
        for (place, signal) in SIGNALS.iter().enumerate() {
            for metric in signal.metrics.iter().chain(signal.over) {
                by_metric.entry(metric).or_default().push(place);
            }
        }
        Self {
            capacity: capacity.max(1),
            interval,
            next: 0,
            ends_unix_ms: vec![0; capacity.max(1)].into(),
            services: BTreeMap::from([(HOST.into(), Service::default())]),
            tracks: 0,
            waiting: HashMap::new(),
            refused: 0,
            by_metric,
        }
    }

    /// Adds a window that ended with this snapshot and took so long. Where windows are missing, such as while the host slept,
    /// their places stay empty.
    pub fn push(&mut self, snapshot: &Snapshot, elapsed: Duration) {
        let skipped = (elapsed.as_secs_f64() / self.interval.as_secs_f64()).round() as u64;
        for _ in 1..skipped.clamp(1, self.capacity as u64 + 1) {
            self.begin_window(MISSING);
        }
        let window = self.begin_window(snapshot.at_unix_ms);
        let seconds = (window > 0 && !elapsed.is_zero()).then_some(elapsed.as_secs_f64());
        let sums = self.sums(&snapshot.series);
        let newcomers = self.admit(&sums, window, seconds);
        let (ends, capacity) = (&self.ends_unix_ms, self.capacity as u64);
        let slot = |window: u64| usize::try_from(window % capacity).unwrap_or_default();
        for ((place, name, part), sum) in sums {
            let Some(signal) = SIGNALS.get(place) else { continue };
            let Some(service) = self.services.get_mut(name) else { continue };
            service.seen = window;
            let known = service.tracks.iter().position(|track| track.signal == place && *track.part == *part);
            let at = match known {
                Some(at) => at,
                None => {
                    let parts = service.tracks.iter().filter(|track| track.signal == place).count();
                    if self.tracks >= MOST_TRACKS || parts >= MOST_PARTS {
                        self.refused += 1;
                        continue;
                    }
                    self.tracks += 1;
                    let mut track = Track::new(place, part, self.capacity);
                    let oldest = (window + 1).saturating_sub(self.capacity as u64).max(service.born);
                    let rested = (oldest..window).filter(|_| signal.rests_at_zero());
                    rested.filter(|one| ends.get(slot(*one)) != Some(&MISSING)).for_each(|one| track.set(one, 0.0));
                    service.tracks.push(track);
                    service.tracks.len() - 1
                }
            };
            let from_nothing = signal.begins_at_zero() && newcomers.get(name).copied().unwrap_or(true);
            if let Some(track) = service.tracks.get_mut(at) {
                let before = track.before.take().or_else(|| from_nothing.then(Sum::default));
                let value = signal.value(before.as_ref(), &sum, seconds);
                track.seen = window;
                track.before = Some(sum);
                track.set(window, value);
            }
        }
        self.rest(window);
        self.forget(window);
    }

    /// Number of the last window.
    pub fn last(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }

    /// Number of the oldest window that is kept.
    pub fn oldest(&self) -> u64 {
        self.next.saturating_sub(self.capacity as u64)
    }

    /// When a window ended; 0 if it is missing.
    pub fn ended_unix_ms(&self, window: u64) -> u64 {
        self.ends_unix_ms.get(self.slot(window)).copied().unwrap_or_default()
    }

    /// How long a window is.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// How many windows there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tracks that are kept, and those that there was no room for.
    pub fn track_counts(&self) -> (usize, u64) {
        (self.tracks, self.refused)
    }

    /// Services by name; the host is not among them.
    pub fn services(&self) -> impl Iterator<Item = &Arc<str>> {
        self.services.keys().filter(|name| ***name != *HOST)
    }

    /// All tracks, with their services.
    pub fn tracks(&self) -> impl Iterator<Item = (&Arc<str>, &Track)> {
        self.services.iter().flat_map(|(name, service)| service.tracks.iter().map(move |track| (name, track)))
    }

    /// The same, to be changed.
    pub fn tracks_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut Track)> {
        self.services.iter_mut().flat_map(|(name, service)| service.tracks.iter_mut().map(move |track| (name, track)))
    }

    /// Tracks of one service.
    pub fn tracks_of(&self, service: &str) -> &[Track] {
        self.services.get(service).map_or(&[], |service| &service.tracks)
    }

    /// Tracks of one signal of a service, of all its parts.
    pub fn parts<'a>(&'a self, service: &str, name: &str) -> impl Iterator<Item = &'a Track> {
        let place = signal(name);
        self.tracks_of(service).iter().filter(move |track| track.signal == place)
    }

    /// The track of one signal of a service that has no parts.
    pub fn track(&self, service: &str, name: &str) -> Option<&Track> {
        self.parts(service, name).next()
    }

    fn slot(&self, window: u64) -> usize {
        usize::try_from(window % self.capacity as u64).unwrap_or_default()
    }

    fn begin_window(&mut self, end_unix_ms: u64) -> u64 {
        let window = self.next;
        self.next += 1;
        let slot = self.slot(window);
        if let Some(end) = self.ends_unix_ms.get_mut(slot) {
            *end = end_unix_ms;
        }
        self.tracks_mut().for_each(|(_, track)| track.set(window, f64::NAN));
        window
    }

    fn sums<'a>(&self, series: &'a [Series]) -> BTreeMap<(usize, &'a str, &'a str), Sum> {
        let mut sums: BTreeMap<(usize, &str, &str), Sum> = BTreeMap::new();
        for one in series {
            for place in self.by_metric.get(one.metric.name).into_iter().flatten() {
                let Some(signal) = SIGNALS.get(*place) else { continue };
                let label = |name: &str| {
                    let labels = one.metric.labels.iter().zip(&one.labels);
                    labels.into_iter().find(|(label, _)| **label == name).map(|(_, value)| value.as_str())
                };
                let admitted =
                    signal.only.is_none_or(|(name, values)| label(name).is_some_and(|it| values.contains(&it)));
                let whose = match signal.whose {
                    Whose::Host => Some(HOST),
                    Whose::Service(name) => label(name).filter(|name| !NOBODY.contains(name)),
                };
                let Some(whose) = whose.filter(|_| admitted) else { continue };
                let part = signal.part.map_or(Some(""), label).unwrap_or_default();
                sums.entry((*place, whose, part)).or_default().add(signal, one);
            }
        }
        sums
    }

    /// Gives places to services that have none. Returns those that got one now, and whether they were not there before.
    fn admit(
        &mut self,
        sums: &BTreeMap<(usize, &str, &str), Sum>,
        window: u64,
        seconds: Option<f64>,
    ) -> HashMap<String, bool> {
        let of =
            |name: &str, signal_name: &str| sums.get(&(signal(signal_name), name, "")).map_or(0.0, |sum| sum.number);
        let mut strangers: Vec<&str> = sums.keys().map(|(_, name, _)| *name).collect();
        strangers.sort_unstable();
        strangers.dedup();
        strangers.retain(|name| !self.services.contains_key(*name));
        let used = |name: &str| {
            let before = self.waiting.get(name).copied();
            (before.is_none(), before.map_or(0.0, |before| of(name, "cpu") - before) / seconds.unwrap_or(f64::INFINITY))
        };
        let mut wanting: Vec<(&str, bool, f64)> =
            strangers.into_iter().map(|name| (name, used(name).0, used(name).1)).collect();
        let weight = |(name, _, cores): &(&str, bool, f64)| (*cores, of(name, "memory"));
        wanting.sort_by(|a, b| weight(b).partial_cmp(&weight(a)).unwrap_or(std::cmp::Ordering::Equal));
        let mut admitted = HashMap::new();
        let mut waiting = HashMap::new();
        for (name, is_new, cores) in wanting {
            let full = self.services.len() > MOST_SERVICES;
            if full && cores >= WORTH_A_PLACE_CORES {
                self.make_room(cores / 4.0);
            }
            if self.services.len() > MOST_SERVICES {
                waiting.insert(name.to_owned(), of(name, "cpu"));
                continue;
            }
            self.services.insert(name.into(), Service { born: window, seen: window, tracks: Vec::new() });
            // Before the first window nobody knows what was there.
            admitted.insert(name.to_owned(), is_new && window > 0);
        }
        self.waiting = waiting;
        admitted
    }

    /// Takes the place of whoever uses least, if that is less than this.
    fn make_room(&mut self, cores: f64) {
        let last = self.next.saturating_sub(1);
        let use_of = |name: &str| {
            let values = self.track(name, "cpu").map(|track| self.values(track, self.oldest(), last));
            values.into_iter().flatten().map(|(_, value)| value).fold(0.0, f64::max)
        };
        let least = self.services().map(|name| (Arc::clone(name), use_of(name))).min_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((name, _)) = least.filter(|(_, used)| *used < cores)
            && let Some(gone) = self.services.remove(&name)
        {
            self.tracks -= gone.tracks.len();
        }
    }

    /// What was not seen rests.
    fn rest(&mut self, window: u64) {
        for service in self.services.values_mut().filter(|service| service.seen == window) {
            for track in service.tracks.iter_mut().filter(|track| track.seen != window) {
                if SIGNALS.get(track.signal).is_some_and(Signal::rests_at_zero) {
                    track.set(window, 0.0);
                }
            }
        }
    }

    /// What was not seen for as long as the history is, is forgotten.
    fn forget(&mut self, window: u64) {
        let kept = |seen: u64| window - seen < self.capacity as u64;
        for service in self.services.values_mut() {
            service.tracks.retain(|track| kept(track.seen));
        }
        self.services.retain(|name, service| **name == *HOST || kept(service.seen));
        self.tracks = self.services.values().map(|service| service.tracks.len()).sum();
    }

    /// The value of a track in a window, if there is one.
    pub fn value(&self, track: &Track, window: u64) -> Option<f64> {
        if window < self.oldest() || window >= self.next {
            return None;
        }
        track.values.get(self.slot(window)).map(|value| f64::from(*value)).filter(|value| !value.is_nan())
    }

    /// The values of a track from one window to another, both included, with their windows; those that are missing are left out.
    pub fn values<'a>(
        &'a self,
        track: &'a Track,
        from: u64,
        to: u64,
    ) -> impl DoubleEndedIterator<Item = (u64, f64)> + 'a {
        let windows = from.max(self.oldest())..(to.saturating_add(1)).min(self.next);
        windows.filter_map(move |window| Some((window, self.value(track, window)?)))
    }
}

impl Track {
    fn new(signal: usize, part: &str, capacity: usize) -> Self {
        let tested = SIGNALS.get(signal).is_some_and(|signal| signal.task != Task::Evidence);
        Self {
            signal,
            part: part.into(),
            hours: tested.then(Box::default),
            values: vec![f32::NAN; capacity].into(),
            seen: 0,
            before: None,
        }
    }

    fn set(&mut self, window: u64, value: f64) {
        let slot = usize::try_from(window % self.values.len() as u64).unwrap_or_default();
        if let Some(place) = self.values.get_mut(slot) {
            *place = value as f32;
        }
    }
}

impl Sum {
    fn add(&mut self, signal: &Signal, series: &Series) {
        match &series.value {
            Value::Number(number) if signal.over.contains(&series.metric.name) => self.over += number,
            Value::Number(number) => self.number += number,
            Value::Histogram(more) => {
                self.count += more.count();
                self.sum_ns = self.sum_ns.wrapping_add(more.sum_ns());
                if signal.reading == Reading::Tail {
                    self.distribution.get_or_insert_default().merge(more);
                }
            }
        }
    }
}

impl Signal {
    /// The figure of a window. Not a number if there is none: nothing happened, a counter began anew, or there is nothing to
    /// compare with.
    fn value(&self, before: Option<&Sum>, now: &Sum, seconds: Option<f64>) -> f64 {
        let gain = |of: fn(&Sum) -> f64| match (before.map(of), of(now)) {
            (Some(before), now) if now >= before => now - before,
            _ => f64::NAN,
        };
        let seconds = seconds.unwrap_or(f64::NAN);
        let count = || gain(|sum| sum.count as f64);
        // As cells do, the sum wraps.
        let time = || before.map_or(f64::NAN, |before| now.sum_ns.wrapping_sub(before.sum_ns) as f64 / 1e9);
        let value = match self.reading {
            Reading::Rate => gain(|sum| sum.number) / seconds,
            Reading::Rest => (1.0 - gain(|sum| sum.number) / seconds).clamp(0.0, 1.0),
            Reading::PerGain => gain(|sum| sum.number) / gain(|sum| sum.over),
            Reading::Level => now.number,
            Reading::Ratio => now.number / now.over,
            Reading::Count => count() / seconds,
            Reading::Mean => time() / count(),
            Reading::Time => time() / seconds + 0.0 * count(),
            Reading::Tail => before.map_or(f64::NAN, |before| tail(before, now)),
        };
        if value.is_finite() { value } else { f64::NAN }
    }
}

fn tail(before: &Sum, now: &Sum) -> f64 {
    let (Some(now), empty) = (&now.distribution, Distribution::default()) else { return f64::NAN };
    let gained = now.since(before.distribution.as_ref().unwrap_or(&empty));
    let enough = gained.as_ref().filter(|gained| gained.count() >= LEAST_OF_TAIL);
    enough.and_then(|gained| gained.quantile_ns(0.95)).map_or(f64::NAN, |ns| ns as f64 / 1e9)
}
