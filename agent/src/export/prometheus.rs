//! A snapshot as Prometheus' text exposition, in either of its formats. Does not know who asks for it.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher as _,
    io::Write as _,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use steth_probes::histogram::bucket_of;

use crate::model::{
    catalog::steth::DUPLICATE_SERIES,
    distribution::Distribution,
    metric::{Bounds, Kind, Metric},
    snapshot::{Series, Snapshot, Value},
};

/// How an exposition is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own text format, 0.0.4.
    Text,
    /// OpenMetrics 1.0 (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
    OpenMetrics,
}

impl Format {
    /// All formats; the first is for who asks for none.
    pub const ALL: [Self; 2] = [Self::Text, Self::OpenMetrics];

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A snapshot and its text.
type Written = (Arc<Snapshot>, Bytes);

/// Writes expositions, and counts what it had to leave out.
#[derive(Debug, Default)]
pub struct Exporter {
    duplicates: AtomicU64,
    last: Mutex<[Option<Written>; Format::ALL.len()]>,
}

impl Exporter {
    /// The whole snapshot, each series once. The text of the last snapshot is kept: several scrapers within one window
    /// cost the writing of it once.
    pub fn text(&self, snapshot: &Arc<Snapshot>, format: Format) -> Bytes {
        // A panic elsewhere leaves nothing half done here.
        let mut all = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = match format {
            Format::Text => &mut all[0],
            Format::OpenMetrics => &mut all[1],
        };
        if let Some((_, text)) = last.as_ref().filter(|(of, _)| Arc::ptr_eq(of, snapshot)) {
            return text.clone();
        }
        let text = Bytes::from(self.write(snapshot, format));
        *last = Some((Arc::clone(snapshot), text.clone()));
        text
    }

    fn write(&self, snapshot: &Snapshot, format: Format) -> Vec<u8> {
        let mut families: Vec<Vec<&Series>> = Vec::new();
        let mut places: HashMap<&'static str, usize> = HashMap::new();
        for series in &snapshot.series {
            let place = *places.entry(series.metric.name).or_insert(families.len());
            match families.get_mut(place) {
                Some(family) => family.push(series),
                None => families.push(vec![series]),
            }
        }
        let mut writer = Writer::new(format, &snapshot.series);
        let duplicates = families.iter().map(|family| writer.family(family)).sum();
        let total = self.duplicates.fetch_add(duplicates, Ordering::Relaxed) + duplicates;
        writer.family(&[&Series::number(&DUPLICATE_SERIES, vec![], total as f64)]);
        writer.finish()
    }
}

/// Writes one family after the other.
struct Writer {
    format: Format,
    text: Vec<u8>,
    /// Hashes of the label values of a family's series so far.
    label_sets: HashSet<u64>,
    /// What a series' lines have in common, kept to be filled again: `name="value",name="value"`.
    labels: Vec<u8>,
    /// The same for its buckets: `family_bucket{labels,le="`.
    bucket: Vec<u8>,
}

impl Writer {
    fn new(format: Format, series: &[Series]) -> Self {
        // A line is about a hundred bytes; a histogram has some twenty of them, or fifty.
        let bytes = |series: &Series| match series.value {
            Value::Number(_) => 100,
            Value::Histogram(_) => 2_500,
        };
        let text = Vec::with_capacity(series.iter().map(bytes).sum());
        Self { format, text, label_sets: HashSet::new(), labels: Vec::new(), bucket: Vec::new() }
    }

    /// Writes a family; returns how many series were left out because one of the same labels stood before them, or because
    /// they are of another kind than the family.
    fn family(&mut self, series: &[&Series]) -> u64 {
        let Some(metric) = series.first().map(|first| first.metric) else { return 0 };
        let head = self.text.len();
        self.head(metric);
        let body = self.text.len();
        self.label_sets.clear();
        let mut left_out = 0;
        for one in series {
            // 64 bits of SipHash with random keys: two of a million different label sets meet once in 30 million scrapes.
            let label_set = self.label_sets.hasher().hash_one(&one.labels);
            if !self.label_sets.insert(label_set) || !self.series(metric, one) {
                left_out += 1;
            }
        }
        if self.text.len() == body {
            self.text.truncate(head);
        }
        left_out
    }

    fn head(&mut self, metric: &Metric) {
        let (mut name, mut kind) = (
            metric.name,
            match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            },
        );
        if self.format == Format::OpenMetrics && metric.kind == Kind::Counter {
            // There the family is named without what its samples end in; node_exporter has counters that do not.
            match name.strip_suffix("_total") {
                Some(stem) => name = stem,
                None => kind = "unknown",
            }
        }
        self.push(&["# HELP ", name, " "]);
        escape(&mut self.text, metric.help, self.format == Format::OpenMetrics);
        self.push(&["\n# TYPE ", name, " ", kind, "\n"]);
    }

    fn series(&mut self, metric: &Metric, series: &Series) -> bool {
        self.labels.clear();
        for (at, (name, value)) in metric.labels.iter().zip(&series.labels).enumerate() {
            if at > 0 {
                self.labels.push(b',');
            }
            self.labels.extend_from_slice(name.as_bytes());
            self.labels.extend_from_slice(b"=\"");
            escape(&mut self.labels, value, true);
            self.labels.push(b'"');
        }
        match (metric.kind, &series.value) {
            (Kind::Counter | Kind::Gauge, Value::Number(number)) => {
                self.name_and_labels(metric.name, "");
                self.float(*number);
            }
            (Kind::Histogram(bounds), Value::Histogram(distribution)) => self.histogram(metric, bounds, distribution),
            _ => return false,
        }
        true
    }

    fn histogram(&mut self, metric: &Metric, bounds: Bounds, distribution: &Distribution) {
        self.bucket.clear();
        self.bucket.extend_from_slice(metric.name.as_bytes());
        self.bucket.extend_from_slice(b"_bucket{");
        self.bucket.extend_from_slice(&self.labels);
        if !self.labels.is_empty() {
            self.bucket.push(b',');
        }
        self.bucket.extend_from_slice(b"le=\"");
        let (mut from, mut count) = (0, 0);
        for edge in edges(bounds) {
            count += distribution.counts().get(from..edge.bucket).unwrap_or_default().iter().sum::<u64>();
            from = edge.bucket;
            self.text.extend_from_slice(&self.bucket);
            self.text.extend_from_slice(edge.rest.as_bytes());
            self.integer(count);
        }
        count += distribution.counts().get(from..).unwrap_or_default().iter().sum::<u64>();
        self.text.extend_from_slice(&self.bucket);
        self.text.extend_from_slice(b"+Inf\"} ");
        self.integer(count);
        self.name_and_labels(metric.name, "_sum");
        self.float(seconds(distribution.sum_ns()));
        self.name_and_labels(metric.name, "_count");
        self.integer(count);
    }

    fn name_and_labels(&mut self, name: &str, suffix: &str) {
        self.push(&[name, suffix]);
        if !self.labels.is_empty() {
            self.text.push(b'{');
            self.text.extend_from_slice(&self.labels);
            self.text.push(b'}');
        }
        self.text.push(b' ');
    }

    fn integer(&mut self, value: u64) {
        self.text.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self.text.push(b'\n');
    }

    fn float(&mut self, value: f64) {
        // Writing to a vector does not fail.
        let _ = match value {
            f64::INFINITY => self.text.write_all(b"+Inf\n"),
            f64::NEG_INFINITY => self.text.write_all(b"-Inf\n"),
            _ => writeln!(self.text, "{value}"),
        };
    }

    fn push(&mut self, parts: &[&str]) {
        parts.iter().for_each(|part| self.text.extend_from_slice(part.as_bytes()));
    }

    fn finish(mut self) -> Vec<u8> {
        if self.format == Format::OpenMetrics {
            self.push(&["# EOF\n"]);
        }
        self.text
    }
}

/// Line feeds and backslashes end a line or begin an escape everywhere; quotation marks only within quotes, and in the help
/// of OpenMetrics.
fn escape(text: &mut Vec<u8>, value: &str, quotes: bool) {
    for byte in value.bytes() {
        match byte {
            b'\n' => text.extend_from_slice(br"\n"),
            b'\\' => text.extend_from_slice(br"\\"),
            b'"' if quotes => text.extend_from_slice(br#"\""#),
            _ => text.push(byte),
        }
    }
}

/// An upper bound of a histogram.
struct Edge {
    /// The kernel's first bucket above it.
    bucket: usize,
    /// What follows the labels of its line.
    rest: String,
}

/// The bounds as they are written: the same for every histogram.
fn edges(bounds: Bounds) -> &'static [Edge] {
    static COARSE: OnceLock<Vec<Edge>> = OnceLock::new();
    static FINE: OnceLock<Vec<Edge>> = OnceLock::new();
    let known = match bounds {
        Bounds::Coarse => &COARSE,
        Bounds::Fine => &FINE,
    };
    known.get_or_init(|| {
        let edge = |ns: u64| Edge { bucket: bucket_of(ns), rest: format!("{}\"}} ", seconds(ns)) };
        bounds.upper_bounds_ns().into_iter().map(edge).collect()
    })
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

    fn text_in(format: Format, series: Vec<Series>) -> String {
        let exporter = Exporter::default();
        String::from_utf8(exporter.write(&Snapshot { series, ..Snapshot::default() }, format)).unwrap()
    }

    fn text(series: Vec<Series>) -> String {
        text_in(Format::Text, series)
    }

    /// One of each kind, with all that has to be escaped.
    fn series_of_all_kinds() -> Vec<Series> {
        vec![
            Series::number(&LOAD, vec![], 0.25),
            Series::number(&BYTES, labels(["a\"b\\c\nd", "sent"]), 18_446_744_073_709_551_615.0),
            Series::histogram(&COARSE, labels(["nginx.service", "read"]), distribution([900, 1_500, 70_000_000_000])),
            Series::number(&BYTES, labels(["ü", "received"]), 1e-9),
            Series::histogram(&FINE, labels(["9f"]), distribution([20_000, 3_000_000])),
            Series::histogram(&COARSE, labels(["nginx.service", "write"]), distribution([])),
        ]
    }

    #[test]
    fn each_format_is_as_in_its_golden_file() {
        for (format, file) in [(Format::Text, "exposition"), (Format::OpenMetrics, "openmetrics")] {
            let found = text_in(format, series_of_all_kinds());
            let golden = format!("{}/src/export/{file}.golden.txt", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::write(&golden, &found).unwrap();
            }
            assert_eq!(found, std::fs::read_to_string(golden).unwrap(), "UPDATE_GOLDEN=1 writes the file anew");
        }
    }

    #[test]
    fn openmetrics_names_a_counters_family_without_total_and_ends_with_a_mark() {
        static ODD: Metric = Metric::counter("node_vmstat_pgfault", "A \"name\" of others.", &[]);
        let text = text_in(
            Format::OpenMetrics,
            vec![Series::number(&BYTES, labels(["a", "sent"]), 1.0), Series::number(&ODD, vec![], 2.0)],
        );
        assert!(text.contains("# TYPE steth_tcp_bytes counter\nsteth_tcp_bytes_total{"), "{text}");
        assert!(text.contains("A \\\"name\\\" of"), "{text}");
        assert!(text.contains("# TYPE node_vmstat_pgfault unknown\nnode_vmstat_pgfault 2\n"), "{text}");
        assert!(text.ends_with("\n# EOF\n"), "{text}");
    }

    #[test]
    fn what_is_not_a_number_is_written_as_prometheus_writes_it() {
        for (value, written) in [(f64::INFINITY, "+Inf"), (f64::NEG_INFINITY, "-Inf"), (f64::NAN, "NaN")] {
            assert!(text(vec![Series::number(&LOAD, vec![], value)]).contains(&format!("node_load1 {written}\n")));
        }
    }

    #[test]
    fn a_snapshot_is_written_once_for_each_format() {
        let (exporter, snapshot) = (Exporter::default(), Arc::new(Snapshot::default()));
        let texts = Format::ALL.map(|format| exporter.text(&snapshot, format));
        assert_ne!(texts[0], texts[1]);
        for (format, text) in Format::ALL.into_iter().zip(&texts) {
            assert_eq!(exporter.text(&snapshot, format).as_ptr(), text.as_ptr());
            assert_ne!(exporter.text(&Arc::new(Snapshot::default()), format).as_ptr(), text.as_ptr());
        }
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
            let text = String::from_utf8(exporter.write(&snapshot, Format::Text)).unwrap();
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
                    let bytes = exporter.write(&snapshot, Format::Text).len();
                    (start.elapsed(), bytes)
                })
                .collect();
            times.sort();
            println!("{what}: median {:?}, {} bytes", times[10].0, times[10].1);
        }
    }
}
