//! A snapshot in Prometheus' own text format, by the prometheus crate.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
};

use prometheus::{
    Encoder, TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric as ProtoMetric, MetricFamily, MetricType},
};

use crate::model::{
    catalog::steth::DUPLICATE_SERIES,
    metric::{Kind, Metric},
    snapshot::{Series, Snapshot, Value},
};

/// About as long as a line, bytes.
const LINE: usize = 128;

/// The text of a snapshot, which is about as long as the one before it; `count` gets the number of series that were left
/// out and returns the total so far.
pub fn write(snapshot: &Snapshot, before: usize, count: impl FnOnce(u64) -> u64) -> Result<Vec<u8>, prometheus::Error> {
    let (mut families, duplicates) = families(snapshot);
    let total = Series::number(&DUPLICATE_SERIES, vec![], count(duplicates) as f64);
    families.push(Family::new(&DUPLICATE_SERIES).finish_with(total));
    // A text of megabytes that had to grow would be copied, and its new pages be faulted in.
    let mut text = Vec::with_capacity(before + before / 8 + snapshot.series.len() * LINE);
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(text)
}

/// A metric family while its series are collected.
struct Family {
    metric: &'static Metric,
    /// Hashes of the label values of all series so far.
    label_sets: HashSet<u64>,
    series: Vec<ProtoMetric>,
}

/// The families in the order in which they first appear, and how many series were left out because one of the same
/// name and labels stood before them.
fn families(snapshot: &Snapshot) -> (Vec<MetricFamily>, u64) {
    let mut families: Vec<Family> = Vec::new();
    let mut places: HashMap<&'static str, usize> = HashMap::new();
    let mut duplicates = 0;
    for series in &snapshot.series {
        let place = *places.entry(series.metric.name).or_insert_with(|| {
            families.push(Family::new(series.metric));
            families.len() - 1
        });
        if let Some(family) = families.get_mut(place)
            && !family.add(series)
        {
            duplicates += 1;
        }
    }
    let families = families.into_iter().filter(|family| !family.series.is_empty());
    (families.map(Family::finish).collect(), duplicates)
}

impl Family {
    fn new(metric: &'static Metric) -> Self {
        Self { metric, label_sets: HashSet::new(), series: Vec::new() }
    }

    /// Adds a series; false when these labels are taken, or when it is of another kind than the family.
    fn add(&mut self, series: &Series) -> bool {
        // 64 bits of SipHash with random keys: two of a million different label sets meet once in 30 million scrapes.
        let label_set = self.label_sets.hasher().hash_one(&series.labels);
        if !self.label_sets.insert(label_set) {
            return false;
        }
        let labels = self.metric.labels.iter().zip(&series.labels).map(|(name, value)| label(name, value));
        let mut metric = ProtoMetric::from_label(labels.collect());
        match (self.metric.kind, &series.value) {
            (Kind::Counter, Value::Number(number)) => metric.set_counter(counter(*number)),
            (Kind::Gauge, Value::Number(number)) => metric.set_gauge(gauge(*number)),
            (Kind::Histogram(bounds), Value::Histogram(distribution)) => {
                let mut histogram = Histogram::default();
                histogram.set_sample_count(distribution.count());
                histogram.set_sample_sum(seconds(distribution.sum_ns()));
                histogram.set_bucket(distribution.cumulative(bounds).into_iter().map(bucket).collect());
                metric.set_histogram(histogram);
            }
            _ => return false,
        }
        self.series.push(metric);
        true
    }

    fn finish_with(mut self, series: Series) -> MetricFamily {
        self.add(&series);
        self.finish()
    }

    fn finish(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.metric.name.into());
        family.set_help(self.metric.help.into());
        family.set_field_type(match self.metric.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram(_) => MetricType::HISTOGRAM,
        });
        family.set_metric(self.series);
        family
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.into());
    pair.set_value(value.into());
    pair
}

fn counter(value: f64) -> Counter {
    let mut counter = Counter::default();
    counter.set_value(value);
    counter
}

fn gauge(value: f64) -> Gauge {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    gauge
}

fn bucket((bound_ns, count): (u64, u64)) -> Bucket {
    let mut bucket = Bucket::default();
    bucket.set_upper_bound(seconds(bound_ns));
    bucket.set_cumulative_count(count);
    bucket
}

/// Division, not multiplication by 1e-9: only it gives the float nearest to the decimal, which prints short.
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
