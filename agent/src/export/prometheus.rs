//! A snapshot as Prometheus' text exposition. Does not know who asks for it.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus::{
    Encoder, TextEncoder,
    core::{Collector, Desc},
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric as ProtoMetric, MetricFamily, MetricType},
};

use crate::model::{
    catalog::steth::DUPLICATE_SERIES,
    metric::{Kind, Metric},
    snapshot::{Series, Snapshot, Value},
};

/// The media type of [`Exporter::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes expositions, and counts what it had to leave out.
#[derive(Debug, Default)]
pub struct Exporter {
    duplicates: AtomicU64,
    last: Mutex<Option<(Arc<Snapshot>, Vec<u8>)>>,
}

/// One snapshot as a collector of the prometheus crate.
#[derive(Debug)]
pub struct SnapshotCollector {
    snapshot: Arc<Snapshot>,
    descriptions: OnceLock<Vec<Desc>>,
}

impl Exporter {
    /// The whole snapshot, each series once. The text of the last snapshot is kept: several scrapers within one window
    /// cost the writing of it once.
    ///
    /// # Errors
    /// When the encoder refuses a family.
    pub fn text(&self, snapshot: &Arc<Snapshot>) -> Result<Vec<u8>, prometheus::Error> {
        // A panic elsewhere leaves nothing half done here.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, text)) = last.as_ref().filter(|(of, _)| Arc::ptr_eq(of, snapshot)) {
            return Ok(text.clone());
        }
        let text = self.write(snapshot)?;
        *last = Some((Arc::clone(snapshot), text.clone()));
        Ok(text)
    }

    fn write(&self, snapshot: &Snapshot) -> Result<Vec<u8>, prometheus::Error> {
        let (mut families, duplicates) = families(snapshot);
        let total = self.duplicates.fetch_add(duplicates, Ordering::Relaxed) + duplicates;
        families.push(Family::new(&DUPLICATE_SERIES).finish_with(Series::number(
            &DUPLICATE_SERIES,
            vec![],
            total as f64,
        )));
        // A line is about a hundred bytes, a histogram at most fifty lines.
        let mut text = Vec::with_capacity(snapshot.series.len() * 512);
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }
}

impl SnapshotCollector {
    /// Wraps a snapshot.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot, descriptions: OnceLock::new() }
    }
}

impl Collector for SnapshotCollector {
    fn desc(&self) -> Vec<&Desc> {
        let describe = || {
            let mut seen = HashSet::new();
            let metrics = self.snapshot.series.iter().map(|series| series.metric);
            metrics
                .filter(|metric| seen.insert(metric.name))
                .filter_map(|metric| {
                    let labels = metric.labels.iter().map(|label| label.to_string()).collect();
                    Desc::new(metric.name.into(), metric.help.into(), labels, HashMap::new()).ok()
                })
                .collect()
        };
        self.descriptions.get_or_init(describe).iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        families(&self.snapshot).0
    }
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::model::{distribution::Distribution, metric::Bounds};

    static COARSE: Metric = Metric::histogram(
        "steth_syscall_duration_seconds",
        "Duration of syscalls.",
        &["service", "syscall"],
        Bounds::Coarse,
    );
    static FINE: Metric = Metric::histogram("steth_query_seconds", "Duration of queries.", &["query"], Bounds::Fine);
    static BYTES: Metric = Metric::counter("steth_tcp_bytes_total", "Bytes\nin a \\ line.", &["service", "direction"]);
    static LOAD: Metric = Metric::gauge("node_load1", "1m load average.", &[]);

    fn labels<const N: usize>(values: [&str; N]) -> Vec<String> {
        values.map(String::from).to_vec()
    }

    fn distribution(durations_ns: impl IntoIterator<Item = u64>) -> Arc<Distribution> {
        let mut distribution = Distribution::default();
        durations_ns.into_iter().for_each(|ns| distribution.observe_ns(ns));
        Arc::new(distribution)
    }

    fn text(series: Vec<Series>) -> String {
        let exporter = Exporter::default();
        String::from_utf8(exporter.write(&Snapshot { series, ..Snapshot::default() }).unwrap()).unwrap()
    }

    #[test]
    fn the_exposition_is_as_in_the_golden_file() {
        let found = text(vec![
            Series::number(&LOAD, vec![], 0.25),
            Series::number(&BYTES, labels(["a\"b\\c\nd", "sent"]), 18_446_744_073_709_551_615.0),
            Series::histogram(&COARSE, labels(["nginx.service", "read"]), distribution([900, 1_500, 70_000_000_000])),
            Series::number(&BYTES, labels(["ü", "received"]), 1e-9),
            Series::histogram(&FINE, labels(["9f"]), distribution([20_000, 3_000_000])),
            Series::histogram(&COARSE, labels(["nginx.service", "write"]), distribution([])),
        ]);
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/export/exposition.golden.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden, &found).unwrap();
        }
        assert_eq!(found, std::fs::read_to_string(golden).unwrap(), "UPDATE_GOLDEN=1 writes the file anew");
    }

    #[test]
    fn a_series_that_appears_twice_is_exposed_once_and_counted() {
        let exporter = Exporter::default();
        let series = vec![
            Series::number(&BYTES, labels(["a", "sent"]), 1.0),
            Series::number(&LOAD, vec![], 0.5),
            Series::number(&BYTES, labels(["a", "sent"]), 2.0),
            Series::number(&BYTES, labels(["asent", ""]), 3.0),
        ];
        let snapshot = Snapshot { series, ..Snapshot::default() };
        for scrape in 1..=2 {
            let text = String::from_utf8(exporter.write(&snapshot).unwrap()).unwrap();
            assert!(text.contains("steth_tcp_bytes_total{service=\"a\",direction=\"sent\"} 1\n"), "{text}");
            assert!(text.contains("{service=\"asent\",direction=\"\"} 3\n"), "{text}");
            assert!(!text.contains("} 2\n"), "{text}");
            assert!(text.contains(&format!("steth_duplicate_series_total {scrape}\n")), "{text}");
        }
    }

    #[test]
    fn a_value_of_another_kind_than_its_family_is_counted_and_breaks_nothing() {
        let wrong = Series { metric: &COARSE, labels: labels(["a", "b"]), value: Value::Number(1.0) };
        let text = text(vec![wrong]);
        assert!(!text.contains("steth_syscall"), "{text}");
        assert!(text.ends_with("steth_duplicate_series_total 1\n"), "{text}");
    }

    #[test]
    fn the_collector_describes_every_family_that_it_collects() {
        let series = vec![Series::number(&LOAD, vec![], 1.0), Series::number(&BYTES, labels(["a", "sent"]), 1.0)];
        let collector = SnapshotCollector::new(Arc::new(Snapshot { series, ..Snapshot::default() }));
        let described: Vec<_> = collector.desc().iter().map(|desc| desc.fq_name.clone()).collect();
        let collected: Vec<_> = collector.collect().iter().map(|family| family.name().to_string()).collect();
        assert_eq!(described, collected);
        prometheus::Registry::new().register(Box::new(collector)).unwrap();
    }

    /// `cargo test --release -p steth --lib -- --ignored --nocapture scrape_cost`
    #[test]
    #[ignore = "a measurement, not a promise"]
    fn scrape_cost_at_3000_series() {
        let names: Vec<String> = (0..3_000).map(|i| format!("service-{i}.service")).collect();
        let full = distribution((0..2_000_000).step_by(997));
        let numbers = names.iter().map(|name| Series::number(&BYTES, labels([name, "sent"]), 1.5e9));
        let histograms = names.iter().map(|name| Series::histogram(&COARSE, labels([name, "read"]), Arc::clone(&full)));
        for (what, series) in [
            ("3000 numbers", numbers.clone().collect::<Vec<_>>()),
            ("2000 numbers, 1000 histograms", numbers.take(2_000).chain(histograms.clone().take(1_000)).collect()),
            ("3000 histograms", histograms.collect()),
        ] {
            let (exporter, snapshot) = (Exporter::default(), Snapshot { series, ..Snapshot::default() });
            let mut times: Vec<_> = (0..21)
                .map(|_| {
                    let start = Instant::now();
                    let bytes = exporter.write(&snapshot).unwrap().len();
                    (start.elapsed(), bytes)
                })
                .collect();
            times.sort();
            println!("{what}: median {:?}, {} bytes", times[10].0, times[10].1);
        }
    }
}
