//! A host that is made up, window by window: what the tests of findings and answers look at.

mod finds;
mod noise;
mod worlds;

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::*;
use crate::model::{
    catalog::{host, kernel},
    finding::{Cause, EventKind},
    metric::Metric,
    snapshot::Value,
};

const WINDOW: Duration = Duration::from_secs(10);
const BEGIN_MS: u64 = 1_800_000_000_000;

/// Series of a made-up host; counters only grow.
struct World {
    at_unix_ms: u64,
    series: BTreeMap<(&'static str, Vec<String>), Series>,
    correlator: Correlator,
    state: u64,
}

impl World {
    fn new() -> Self {
        Self::keeping(360)
    }

    fn keeping(windows: usize) -> Self {
        let correlator = Correlator::new(windows, WINDOW);
        Self { at_unix_ms: BEGIN_MS, series: BTreeMap::new(), correlator, state: 0x9E37_79B9_7F4A_7C15 }
    }

    fn at(&mut self, metric: &'static Metric, labels: &[&str]) -> &mut Series {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        let key = (metric.name, labels.clone());
        self.series.entry(key).or_insert_with(|| Series::number(metric, labels, 0.0))
    }

    /// A gauge stands there.
    fn set(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        self.at(metric, labels).value = Value::Number(value);
    }

    /// A counter gains so much.
    fn add(&mut self, metric: &'static Metric, labels: &[&str], gain: f64) {
        if let Value::Number(total) = &mut self.at(metric, labels).value {
            *total += gain;
        }
    }

    /// So many durations are added, all of this length.
    fn observe(&mut self, metric: &'static Metric, labels: &[&str], count: usize, seconds: f64) {
        let series = self.at(metric, labels);
        let mut all = match &series.value {
            Value::Histogram(all) => (**all).clone(),
            Value::Number(_) => Default::default(),
        };
        (0..count).for_each(|_| all.observe_ns((seconds * 1e9) as u64));
        series.value = Value::Histogram(Arc::new(all));
    }

    /// A service ends.
    fn end(&mut self, service: &str) {
        self.series.retain(|(_, labels), _| labels.iter().all(|label| label != service));
    }

    /// The window ends.
    fn tick(&mut self) {
        self.tick_after(WINDOW);
    }

    fn tick_after(&mut self, elapsed: Duration) {
        self.at_unix_ms += elapsed.as_millis() as u64;
        let snapshot = Snapshot {
            at_unix_ms: self.at_unix_ms,
            series: self.series.values().cloned().collect(),
            ..Snapshot::default()
        };
        self.correlator.observe(&snapshot, elapsed);
    }

    /// Evenly from 0 to 1, the same each time.
    fn even(&mut self) -> f64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normally distributed (Box and Muller).
    fn normal(&mut self) -> f64 {
        let (a, b) = (self.even().max(1e-300), self.even());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    /// About 1, a few percent more or less.
    fn about(&mut self) -> f64 {
        1.0 + 0.05 * self.normal().clamp(-3.0, 3.0)
    }

    fn findings(&self) -> Vec<Finding> {
        self.correlator.findings()
    }

    /// `kind about part service` of each finding that was made.
    fn made(&self) -> Vec<String> {
        let shown = |it: &Finding| {
            let service = it.service.as_deref().unwrap_or("-");
            format!("{} {} {} {service}", it.kind.name(), it.about, it.part)
        };
        self.findings().iter().map(shown).collect()
    }

    fn explain(&self, service: &str) -> Explanation {
        let moment = |unix_ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms);
        let period = Period { from: moment(BEGIN_MS), to: moment(self.at_unix_ms) };
        self.correlator.explain(Some(service), period).unwrap()
    }
}

fn cause(kind: &'static str, about: &str, service: Option<&str>) -> Option<Cause> {
    Some(Cause { kind, about: about.into(), service: service.map(str::to_owned) })
}
