//! A snapshot in OpenMetrics 1.0 (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), written straight: there can be
//! tens of thousands of lines, and a histogram's have most of their text in common.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasher as _,
    io::Write as _,
    ops::Range,
    sync::OnceLock,
};

use steth_probes::histogram::bucket_of;

use crate::model::{
    catalog::steth::DUPLICATE_SERIES,
    distribution::Distribution,
    metric::{Bounds, Kind, Metric},
    snapshot::{Exemplar, Series, Snapshot, Value},
};

/// The text of a snapshot; `count` gets the number of series that were left out and returns the total so far.
pub fn write(snapshot: &Snapshot, count: impl FnOnce(u64) -> u64) -> Vec<u8> {
    let mut families: Vec<Vec<&Series>> = Vec::new();
    let mut places: HashMap<&'static str, usize> = HashMap::new();
    for series in &snapshot.series {
        let place = *places.entry(series.metric.name).or_insert(families.len());
        match families.get_mut(place) {
            Some(family) => family.push(series),
            None => families.push(vec![series]),
        }
    }
    let mut writer = Writer::new(&snapshot.series, &snapshot.exemplars);
    let duplicates = families.iter().map(|family| writer.family(family)).sum();
    writer.family(&[&Series::number(&DUPLICATE_SERIES, vec![], count(duplicates) as f64)]);
    writer.finish()
}

/// What names an exemplar in a line.
const QUERY_ID: &str = "query_id";

/// Writes one family after the other.
struct Writer<'a> {
    /// By the series' label values; those of all families.
    exemplars: HashMap<&'a [String], Vec<&'a Exemplar>>,
    text: Vec<u8>,
    /// Hashes of the label values of a family's series so far.
    label_sets: HashSet<u64>,
    /// What a series' lines have in common, kept to be filled again: `name="value",name="value"`.
    labels: Vec<u8>,
    /// The same for its buckets: `family_bucket{labels,le="`.
    bucket: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(series: &[Series], exemplars: &'a [Exemplar]) -> Self {
        // A line is about a hundred bytes; a histogram has some twenty of them, or fifty.
        let bytes = |series: &Series| match series.value {
            Value::Number(_) => 100,
            Value::Histogram(_) => 2_500,
        };
        let text = Vec::with_capacity(series.iter().map(bytes).sum());
        let mut by_series: HashMap<_, Vec<_>> = HashMap::new();
        for one in exemplars {
            by_series.entry(one.labels.as_slice()).or_default().push(one);
        }
        Self { exemplars: by_series, text, label_sets: HashSet::new(), labels: Vec::new(), bucket: Vec::new() }
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
        if metric.kind == Kind::Counter {
            // The family is named without what its samples end in; node_exporter has counters that do not.
            match name.strip_suffix("_total") {
                Some(stem) => name = stem,
                None => kind = "unknown",
            }
        }
        self.push(&["# HELP ", name, " "]);
        escape(&mut self.text, metric.help);
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
            escape(&mut self.labels, value);
            self.labels.push(b'"');
        }
        match (metric.kind, &series.value) {
            (Kind::Counter | Kind::Gauge, Value::Number(number)) => {
                self.name_and_labels(metric.name, "");
                self.float(*number);
            }
            (Kind::Histogram(bounds), Value::Histogram(distribution)) => {
                let mut exemplars = self.exemplars.get(series.labels.as_slice()).cloned().unwrap_or_default();
                exemplars.retain(|one| one.metric.name == metric.name);
                self.histogram(metric, bounds, distribution, &exemplars);
            }
            _ => return false,
        }
        true
    }

    fn histogram(&mut self, metric: &Metric, bounds: Bounds, distribution: &Distribution, exemplars: &[&Exemplar]) {
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
            let within = from..edge.bucket;
            count += distribution.counts().get(within.clone()).unwrap_or_default().iter().sum::<u64>();
            from = edge.bucket;
            self.text.extend_from_slice(&self.bucket);
            self.text.extend_from_slice(edge.rest.as_bytes());
            self.count(count, within, exemplars);
        }
        count += distribution.counts().get(from..).unwrap_or_default().iter().sum::<u64>();
        self.text.extend_from_slice(&self.bucket);
        self.text.extend_from_slice(b"+Inf\"} ");
        self.count(count, from..usize::MAX, exemplars);
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

    /// A bucket's count, with the exemplar that stands for it if there is one.
    fn count(&mut self, count: u64, within: Range<usize>, exemplars: &[&Exemplar]) {
        self.text.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
        if let Some(one) = exemplars.iter().find(|one| within.contains(&bucket_of(one.value_ns))) {
            let (value, at) = (seconds(one.value_ns), one.at_unix_ms);
            // Writing to a vector does not fail.
            let _ =
                write!(self.text, " # {{{QUERY_ID}=\"{}\"}} {value} {}.{:03}", one.query_id, at / 1_000, at % 1_000);
        }
        self.text.push(b'\n');
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
        self.push(&["# EOF\n"]);
        self.text
    }
}

/// Line feeds, backslashes and quotation marks end a line or a value, or begin an escape.
fn escape(text: &mut Vec<u8>, value: &str) {
    for byte in value.bytes() {
        match byte {
            b'\n' => text.extend_from_slice(br"\n"),
            b'\\' => text.extend_from_slice(br"\\"),
            b'"' => text.extend_from_slice(br#"\""#),
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
    static SHORT: OnceLock<Vec<Edge>> = OnceLock::new();
    let known = match bounds {
        Bounds::Coarse => &COARSE,
        Bounds::Fine => &FINE,
        Bounds::Short => &SHORT,
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
