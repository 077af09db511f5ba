//! A snapshot as Prometheus remote write 1.0 has it (<https://prometheus.io/docs/specs/prw/remote_write_spec/>), or 2.0: names, labels
//! and values as a scrape shows them, histograms as their classic series. Series that have ended get a stale marker.

pub mod v2;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::Message;

use super::{ended::Ended, spool::Entry};
use crate::model::{
    metric::{Bounds, Kind, Metric},
    snapshot::{Series, Snapshot, Value},
};

/// What requests are of.
pub const CONTENT_TYPE: &str = "application/x-protobuf";
/// How they are compressed.
pub const ENCODING: &str = "snappy";
/// What every request says.
pub const HEADERS: &[(&str, &str)] = &[("X-Prometheus-Remote-Write-Version", "0.1.0")];

/// Samples in one request, as Prometheus itself sends: receivers are set up for that.
const MOST_SAMPLES: usize = 2_000;
/// The value that ends a series (value.StaleNaN).
const STALE: u64 = 0x7ff0_0000_0000_0002;

/// Writes one snapshot after the other.
pub struct RemoteWrite {
    /// What every series gets.
    labels: Vec<Label>,
    version: Version,
    ended: Ended,
}

/// Of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 1.0
    One,
    /// 2.0
    Two,
}

impl RemoteWrite {
    /// With these labels on every series that has none of the same name.
    pub fn new(version: Version, labels: impl IntoIterator<Item = (String, String)>) -> Self {
        let labels = labels.into_iter().map(|(name, value)| Label { name: name.into(), value: value.into() });
        Self { labels: labels.collect(), version, ended: Ended::default() }
    }

    /// The requests of a snapshot, compressed.
    pub fn encode(&mut self, snapshot: &Arc<Snapshot>) -> Vec<Entry> {
        let mut writer = Writer::new(self.version, snapshot.at_unix_ms);
        let Self { labels, ended, .. } = self;
        ended.tell(snapshot, |series, ended| write_series(&mut writer, labels, series, ended));
        writer.finish()
    }
}

fn write_series(writer: &mut Writer, all: &[Label], series: &Series, ended: bool) {
    let metric = series.metric;
    let own = |value: f64| if ended { f64::from_bits(STALE) } else { value };
    match (metric.kind, &series.value) {
        (Kind::Counter | Kind::Gauge, Value::Number(number)) => {
            let mut named = Named::new(all, series, false);
            writer.sample(metric, named.with(Bytes::from_static(metric.name.as_bytes())), own(*number));
        }
        (Kind::Histogram(bounds), Value::Histogram(distribution)) => {
            let [bucket, sum, count] =
                ["bucket", "sum", "count"].map(|it| Bytes::from(format!("{}_{it}", metric.name)));
            let counts = distribution.cumulative(bounds).into_iter().map(|(_, count)| count);
            let mut buckets = Named::new(all, series, true);
            buckets.with(bucket);
            for (edge, count) in edges(bounds).iter().zip(counts.chain([distribution.count()])) {
                writer.sample(metric, buckets.up_to(edge.clone()), own(count as f64));
            }
            let mut named = Named::new(all, series, false);
            writer.sample(metric, named.with(sum), own(distribution.sum_ns() as f64 / 1e9));
            writer.sample(metric, named.with(count), own(distribution.count() as f64));
        }
        // No exposition shows it either.
        _ => {}
    }
}

const NAME: Bytes = Bytes::from_static(b"__name__");
const EDGE: Bytes = Bytes::from_static(b"le");

/// The labels of a series, by name, as the protocol wants them; a label that is empty is none. Made once for all samples of a histogram.
struct Named {
    labels: Vec<Label>,
    /// Where `__name__` and `le` stand.
    name_at: usize,
    edge_at: usize,
}

impl Named {
    fn new(all: &[Label], series: &Series, has_edge: bool) -> Self {
        let mut labels = Vec::with_capacity(series.labels.len() + all.len() + 2);
        labels.push(Label { name: NAME, value: Bytes::new() });
        labels.extend(has_edge.then_some(Label { name: EDGE, value: Bytes::new() }));
        for (name, value) in series.metric.labels.iter().zip(&series.labels).filter(|(_, value)| !value.is_empty()) {
            let value = Bytes::copy_from_slice(value.as_bytes());
            labels.push(Label { name: Bytes::from_static(name.as_bytes()), value });
        }
        for label in all {
            if labels.iter().all(|own| own.name != label.name) {
                labels.push(label.clone());
            }
        }
        labels.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let place = |name| labels.iter().position(|label| label.name == name).unwrap_or_default();
        let (name_at, edge_at) = (place(NAME), place(EDGE));
        Self { labels, name_at, edge_at }
    }

    fn with(&mut self, name: Bytes) -> &[Label] {
        self.labels[self.name_at].value = name;
        &self.labels
    }

    /// For one that has an edge.
    fn up_to(&mut self, edge: Bytes) -> &[Label] {
        self.labels[self.edge_at].value = edge;
        &self.labels
    }
}

/// Gathers samples into requests.
struct Writer {
    at_unix_ms: u64,
    request: Open,
    entries: Vec<Entry>,
}

/// The request that is being gathered.
enum Open {
    One(WriteRequest),
    Two(v2::Gathered),
}

impl Open {
    fn new(version: Version) -> Self {
        match version {
            Version::One => Self::One(WriteRequest::default()),
            Version::Two => Self::Two(v2::Gathered::default()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::One(request) => request.series.len(),
            Self::Two(gathered) => gathered.count(),
        }
    }
}

impl Writer {
    fn new(version: Version, at_unix_ms: u64) -> Self {
        Self { at_unix_ms, request: Open::new(version), entries: Vec::new() }
    }

    fn sample(&mut self, metric: &Metric, labels: &[Label], value: f64) {
        let sample = Sample { value, timestamp: i64::try_from(self.at_unix_ms).unwrap_or(i64::MAX) };
        match &mut self.request {
            Open::One(request) => request.series.push(TimeSeries { labels: labels.to_vec(), samples: vec![sample] }),
            Open::Two(gathered) => gathered.push(metric, labels, sample),
        }
        if self.request.len() == MOST_SAMPLES {
            self.close();
        }
    }

    fn close(&mut self) {
        let samples = u32::try_from(self.request.len()).unwrap_or(u32::MAX);
        let (plain, next) = match &self.request {
            Open::One(request) => (request.encode_to_vec(), Version::One),
            Open::Two(gathered) => (gathered.encoded(), Version::Two),
        };
        self.request = Open::new(next);
        // It fails for 4 GiB and more.
        if let Ok(packed) = snap::raw::Encoder::new().compress_vec(&plain) {
            self.entries.push(Entry { at_unix_ms: self.at_unix_ms, samples, payload: packed.into() });
        }
    }

    fn finish(mut self) -> Vec<Entry> {
        if self.request.len() > 0 {
            self.close();
        }
        self.entries
    }
}

/// The values of `le`, as a scrape shows them, `+Inf` last: the same for every histogram.
fn edges(bounds: Bounds) -> &'static [Bytes] {
    static COARSE: OnceLock<Vec<Bytes>> = OnceLock::new();
    static FINE: OnceLock<Vec<Bytes>> = OnceLock::new();
    static SHORT: OnceLock<Vec<Bytes>> = OnceLock::new();
    let known = match bounds {
        Bounds::Coarse => &COARSE,
        Bounds::Fine => &FINE,
        Bounds::Short => &SHORT,
    };
    known.get_or_init(|| {
        let edge = |ns: u64| format!("{}", ns as f64 / 1e9);
        bounds.upper_bounds_ns().into_iter().map(edge).chain(["+Inf".to_owned()]).map(Bytes::from).collect()
    })
}

/// prometheus.WriteRequest (prompb/remote.proto).
#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    series: Vec<TimeSeries>,
}

/// prometheus.TimeSeries (prompb/types.proto).
#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

/// prometheus.Label. Bytes, which are the same on the wire as a string: most are shared by many series.
#[derive(Clone, PartialEq, Message)]
pub struct Label {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// prometheus.Sample.
#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::distribution::Distribution;

    static GAUGE: Metric = Metric::gauge("node_load1", "Load.", &[]);
    static BYTES: Metric = Metric::counter("steth_bytes_total", "Bytes.", &["service", "Zone"]);
    static COARSE: Metric = Metric::histogram("steth_wait_seconds", "Waits.", &["service"], Bounds::Coarse);

    fn snapshot(at_unix_ms: u64, series: Vec<Series>) -> Arc<Snapshot> {
        Arc::new(Snapshot { at_unix_ms, series, ..Snapshot::default() })
    }

    fn text(bytes: &Bytes) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// `name{label="value"}` and what it got, as bits.
    fn received(entries: &[Entry]) -> BTreeMap<String, (u64, i64)> {
        let mut all = BTreeMap::new();
        for entry in entries {
            let plain = snap::raw::Decoder::new().decompress_vec(&entry.payload).unwrap();
            let request = WriteRequest::decode(&plain[..]).unwrap();
            assert_eq!(request.series.len(), entry.samples as usize);
            for series in request.series {
                assert!(series.labels.is_sorted_by(|a, b| a.name < b.name), "{series:?}");
                let shown: Vec<_> =
                    series.labels.iter().map(|label| format!("{}={}", text(&label.name), text(&label.value))).collect();
                let Sample { value, timestamp } = series.samples[0];
                assert_eq!(series.samples.len(), 1);
                assert_eq!(all.insert(shown.join(","), (value.to_bits(), timestamp)), None, "{shown:?} came twice");
            }
        }
        all
    }

    fn encoder() -> RemoteWrite {
        RemoteWrite::new(Version::One, [("instance".into(), "host".into()), ("service".into(), "not used".into())])
    }

    #[test]
    fn names_labels_values_and_time_are_those_of_the_scrape() {
        let mut waits = Distribution::default();
        [1_500, 5_000, 5_000].into_iter().for_each(|ns| waits.observe_ns(ns));
        let of = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
        let series = vec![
            Series::number(&BYTES, of(&["a.service", "eu"]), 5e9),
            Series::number(&BYTES, of(&["b.service", ""]), 1.0),
            Series::histogram(&COARSE, of(&["a.service"]), Arc::new(waits)),
            Series::number(&BYTES, of(&["a.service", "eu"]), 7.0),
        ];
        let received = received(&encoder().encode(&snapshot(1_000, series)));
        let value = |series: &str| received.get(series).map(|(bits, at)| (f64::from_bits(*bits), *at));
        let bucket =
            |le: &str| value(&format!("__name__=steth_wait_seconds_bucket,instance=host,le={le},service=a.service"));
        assert_eq!(value("Zone=eu,__name__=steth_bytes_total,instance=host,service=a.service"), Some((5e9, 1_000)));
        assert_eq!(value("__name__=steth_bytes_total,instance=host,service=b.service"), Some((1.0, 1_000)));
        assert_eq!(bucket("0.000001024"), Some((0.0, 1_000)));
        assert_eq!(bucket("0.000004096"), Some((1.0, 1_000)));
        assert_eq!(bucket("+Inf"), Some((3.0, 1_000)));
        assert_eq!(value("__name__=steth_wait_seconds_count,instance=host,service=a.service"), Some((3.0, 1_000)));
        assert_eq!(value("__name__=steth_wait_seconds_sum,instance=host,service=a.service"), Some((1.15e-5, 1_000)));
        assert_eq!(received.len(), 2 + COARSE_SERIES);
    }

    /// Fourteen bounds, +Inf, sum and count.
    const COARSE_SERIES: usize = 17;

    #[test]
    fn a_series_that_has_ended_is_told_once_by_a_stale_marker() {
        let mut encoder = encoder();
        let load = || Series::number(&GAUGE, vec![], 1.0);
        let histogram = Series::histogram(&COARSE, vec!["a".into()], Arc::new(Distribution::default()));
        encoder.encode(&snapshot(1, vec![load(), histogram]));
        let second = received(&encoder.encode(&snapshot(2, vec![load()])));
        let stale = second.values().filter(|(bits, at)| (*bits, *at) == (STALE, 2)).count();
        assert_eq!((second.len(), stale), (1 + COARSE_SERIES, COARSE_SERIES));
        assert_eq!(received(&encoder.encode(&snapshot(3, vec![load()]))).len(), 1);
    }

    #[test]
    fn the_second_version_takes_less_room_for_the_same() {
        let series = (0..1_000).map(|i| Series::number(&BYTES, vec![format!("service-{}", i / 8), "eu".into()], 1.0));
        let snapshot = snapshot(
            1,
            series
                .enumerate()
                .map(|(i, mut series)| {
                    series.labels[1] = format!("zone-{}", i % 8);
                    series
                })
                .collect(),
        );
        let bytes = |version| {
            let mut encoder = RemoteWrite::new(version, [("instance".to_owned(), "a-host.example.org".to_owned())]);
            let entries = encoder.encode(&snapshot);
            assert_eq!(entries.iter().map(|entry| entry.samples).sum::<u32>(), 1_000);
            entries.iter().map(|entry| entry.payload.len()).sum::<usize>()
        };
        assert!(bytes(Version::Two) < bytes(Version::One), "{} {}", bytes(Version::Two), bytes(Version::One));
    }

    #[test]
    fn many_samples_go_in_several_requests() {
        let series = (0..4_500).map(|i| Series::number(&BYTES, vec![i.to_string(), "x".into()], 1.0)).collect();
        let entries = encoder().encode(&snapshot(1, series));
        assert_eq!(entries.iter().map(|entry| entry.samples).collect::<Vec<_>>(), [2_000, 2_000, 500]);
        assert_eq!(received(&entries).len(), 4_500);
        assert!(encoder().encode(&snapshot(1, vec![])).is_empty());
    }
}
