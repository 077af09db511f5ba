//! A snapshot as OpenTelemetry's protocol has it over HTTP (OTLP 1.5, metrics in protobuf). Each service is a resource of its own,
//! and so is the host; names are those of [`semantic`](crate::model::semantic). Message types are the part of
//! opentelemetry-proto that is sent: its crate brings an SDK along.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    sync::Arc,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use prost::Message;

use super::{ended::Ended, message, spool::Entry};
use crate::model::{
    metric::Kind,
    semantic,
    snapshot::{Series, Snapshot, Value},
};

/// What requests are of.
pub const CONTENT_TYPE: &str = "application/x-protobuf";
/// How they are compressed.
pub const ENCODING: &str = "gzip";

/// Data points in one request.
const MOST_POINTS: usize = 2_000;

/// Writes one snapshot after the other.
pub struct Otlp {
    labels: BTreeMap<String, String>,
    started_unix_ms: u64,
    ended: Ended,
}

impl Otlp {
    /// With these labels: `job` is the service's name where a series is of no service, `instance` the host's, others are
    /// attributes of all resources.
    pub fn new(labels: BTreeMap<String, String>) -> Self {
        Self { labels, started_unix_ms: 0, ended: Ended::default() }
    }

    /// The requests of a snapshot, compressed.
    pub fn encode(&mut self, snapshot: &Arc<Snapshot>) -> Vec<Entry> {
        if self.started_unix_ms == 0 {
            self.started_unix_ms = snapshot.at_unix_ms;
        }
        let Self { labels, started_unix_ms, ended } = self;
        let mut writer = Writer {
            labels,
            at_unix_ms: snapshot.at_unix_ms,
            start_ns: *started_unix_ms * 1_000_000,
            resources: HashMap::new(),
            points: 0,
            entries: Vec::new(),
        };
        ended.tell(snapshot, |series, ended| writer.series(series, ended));
        writer.close();
        writer.entries
    }
}

/// What a success says of points that were not taken: how many, and why.
pub fn rejected(answer: &[u8]) -> Option<(u64, String)> {
    let partial = message::Response::decode(answer).ok()?.partial_success?;
    let count = u64::try_from(partial.rejected_data_points).unwrap_or_default();
    (count > 0).then_some((count, partial.error_message))
}

/// Metrics of one resource, by name.
type Metrics = HashMap<&'static str, message::Metric>;

struct Writer<'a> {
    labels: &'a BTreeMap<String, String>,
    at_unix_ms: u64,
    start_ns: u64,
    /// By service; the host's own has no name.
    resources: HashMap<String, Metrics>,
    points: u32,
    entries: Vec<Entry>,
}

impl Writer<'_> {
    fn series(&mut self, series: &Series, ended: bool) {
        let metric = series.metric;
        let label = |name: &str| {
            let value = metric.labels.iter().zip(&series.labels).find(|(known, _)| **known == name);
            value.map(|(_, value)| value.clone())
        };
        let row = semantic::name(metric.name, label);
        let (name, unit) = row.map_or((metric.name, semantic::unit(metric.name)), |row| (row.theirs, row.unit));
        let service = semantic::SERVICE_LABELS.iter().find_map(|name| label(name)).unwrap_or_default();
        let is_attribute = |name: &&'static str| {
            !semantic::SERVICE_LABELS.contains(name)
                && row.and_then(|row| row.only).is_none_or(|(only, _)| only != *name)
        };
        let own = metric.labels.iter().zip(&series.labels).filter(|(name, _)| is_attribute(name));
        let own = own.map(|(name, value)| (semantic::attribute(name), value.as_str()));
        let attributes: Vec<_> = own
            .chain(row.and_then(|row| row.attribute))
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| message::attribute(name, value))
            .collect();

        let time_unix_nano = self.at_unix_ms * 1_000_000;
        let flags = u32::from(ended);
        let number = |start_time_unix_nano, value: f64| message::NumberPoint {
            attributes: attributes.clone(),
            start_time_unix_nano,
            time_unix_nano,
            // No value that is recorded is none that is read.
            as_double: (!ended).then_some(value),
            flags,
        };
        let metrics = self.resources.entry(service).or_default();
        let written = metrics.entry(name).or_insert_with(|| message::Metric {
            name: name.into(),
            description: metric.help.into(),
            unit: unit.into(),
            ..message::Metric::default()
        });
        match (metric.kind, &series.value) {
            (Kind::Gauge, Value::Number(value)) => {
                written.gauge.get_or_insert_default().points.push(number(0, *value));
            }
            (Kind::Counter, Value::Number(value)) => {
                // Those of the host began with it, before the agent: their beginning is not said.
                let start = if metric.name.starts_with("steth_") { self.start_ns } else { 0 };
                let sum = written.sum.get_or_insert_default();
                sum.temporality = message::CUMULATIVE;
                sum.is_monotonic = true;
                sum.points.push(number(start, *value));
            }
            (Kind::Histogram(bounds), Value::Histogram(distribution)) => {
                let cumulative = distribution.cumulative(bounds);
                let mut below = 0;
                let counts = cumulative.iter().map(|(_, count)| *count).chain([distribution.count()]);
                let counts = counts.map(|count| count - std::mem::replace(&mut below, count)).collect();
                let histogram = written.histogram.get_or_insert_default();
                histogram.temporality = message::CUMULATIVE;
                let told = message::HistogramPoint {
                    attributes: attributes.clone(),
                    start_time_unix_nano: self.start_ns,
                    time_unix_nano,
                    flags,
                    ..message::HistogramPoint::default()
                };
                histogram.points.push(match ended {
                    true => told,
                    false => message::HistogramPoint {
                        count: distribution.count(),
                        sum: Some(distribution.sum_ns() as f64 / 1e9),
                        bucket_counts: counts,
                        explicit_bounds: cumulative.iter().map(|(bound_ns, _)| *bound_ns as f64 / 1e9).collect(),
                        ..told
                    },
                });
            }
            // No exposition shows it either.
            _ => return,
        }
        self.points += 1;
        if self.points as usize == MOST_POINTS {
            self.close();
        }
    }

    fn close(&mut self) {
        let resources = std::mem::take(&mut self.resources);
        let samples = std::mem::take(&mut self.points);
        if samples == 0 {
            return;
        }
        let resources = resources.into_iter().map(|(service, metrics)| message::ResourceMetrics {
            resource: Some(resource(self.labels, &service)),
            scopes: vec![message::ScopeMetrics {
                scope: Some(message::scope()),
                metrics: metrics.into_values().collect(),
            }],
        });
        let request = message::Request { resources: resources.collect() };
        if let Some(payload) = packed(&request) {
            self.entries.push(Entry { at_unix_ms: self.at_unix_ms, samples, payload });
        }
    }
}

/// A message as it is sent.
pub fn packed(message: &impl Message) -> Option<Bytes> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to a vector does not fail.
    packer.write_all(&message.encode_to_vec()).and_then(|()| packer.finish()).ok().map(Bytes::from)
}

/// Who it is about: the host, or one of its services.
pub fn resource(labels: &BTreeMap<String, String>, service: &str) -> message::Resource {
    let mut attributes = Vec::with_capacity(labels.len() + 2);
    for (name, value) in labels {
        match name.as_str() {
            "job" => {
                let name = if service.is_empty() { value } else { service };
                attributes.push(message::attribute("service.name", name));
            }
            "instance" => {
                attributes.push(message::attribute("service.instance.id", value));
                attributes.push(message::attribute("host.name", value));
            }
            other => attributes.push(message::attribute(other, value)),
        }
    }
    message::Resource { attributes }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::model::{
        catalog::host::{CPU_SECONDS, LOAD1, PROCESS_MEMORY},
        distribution::Distribution,
        metric::{Bounds, Metric},
    };

    static WAITS: Metric = Metric::histogram("steth_wait_seconds", "Waits.", &["service"], Bounds::Coarse);

    fn encoder() -> Otlp {
        Otlp::new([("job", "steth"), ("instance", "host"), ("zone", "eu")].map(|(a, b)| (a.into(), b.into())).into())
    }

    fn snapshot(at_unix_ms: u64, series: Vec<Series>) -> Arc<Snapshot> {
        Arc::new(Snapshot { at_unix_ms, series, ..Snapshot::default() })
    }

    /// Metrics by service and name.
    fn received(entries: &[Entry]) -> BTreeMap<(String, String), message::Metric> {
        let mut all = BTreeMap::new();
        for entry in entries {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&entry.payload[..]).read_to_end(&mut plain).unwrap();
            for resource in message::Request::decode(&plain[..]).unwrap().resources {
                let attributes = shown(&resource.resource.unwrap().attributes);
                assert!(attributes.contains("host.name=host") && attributes.contains("zone=eu"), "{attributes}");
                let service = attributes.split_once("service.name=").unwrap().1;
                let service = service.split_once(' ').map_or(service, |(name, _)| name);
                for metric in resource.scopes.into_iter().flat_map(|scope| scope.metrics) {
                    all.insert((service.to_owned(), metric.name.clone()), metric);
                }
            }
        }
        all
    }

    fn shown(attributes: &[message::Attribute]) -> String {
        let text = |value: &Option<message::AnyValue>| match value.clone().unwrap().value {
            Some(message::Value::Text(text)) => text,
            other => panic!("{other:?} is no text"),
        };
        let shown = attributes.iter().map(|it| format!("{}={}", it.key, text(&it.value)));
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn series_bear_the_names_of_the_conventions_and_stand_with_their_service() {
        let mut waits = Distribution::default();
        [1_500, 5_000, 5_000].into_iter().for_each(|ns| waits.observe_ns(ns));
        let of = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
        let received = received(&encoder().encode(&snapshot(
            5,
            vec![
                Series::number(&CPU_SECONDS, of(&["0", "user"]), 7.5),
                Series::number(&CPU_SECONDS, of(&["0", "idle"]), 9.0),
                Series::number(&LOAD1, vec![], 0.5),
                Series::number(&PROCESS_MEMORY, of(&["a.service", "resident"]), 4096.0),
                Series::number(&PROCESS_MEMORY, of(&["a.service", "swapped"]), 1.0),
                Series::histogram(&WAITS, of(&["a.service"]), Arc::new(waits)),
            ],
        )));
        let metric = |service: &str, name: &str| received[&(service.to_owned(), name.to_owned())].clone();
        let cpu = metric("steth", "system.cpu.time");
        let sum = cpu.sum.unwrap();
        assert_eq!((cpu.unit.as_str(), sum.is_monotonic, sum.temporality), ("s", true, message::CUMULATIVE));
        assert_eq!(shown(&sum.points[0].attributes), "cpu.logical_number=0 cpu.mode=user");
        assert_eq!((sum.points[0].as_double, sum.points[0].time_unix_nano), (Some(7.5), 5_000_000));
        assert_eq!(sum.points.len(), 2);
        assert_eq!(metric("steth", "system.cpu.load_average.1m").gauge.unwrap().points[0].as_double, Some(0.5));
        let memory = metric("a.service", "process.memory.usage").gauge.unwrap();
        assert_eq!((shown(&memory.points[0].attributes).as_str(), memory.points[0].as_double), ("", Some(4096.0)));
        let swapped = metric("a.service", "namedprocess_namegroup_memory_bytes").gauge.unwrap();
        assert_eq!(shown(&swapped.points[0].attributes), "memtype=swapped");
        let waits = metric("a.service", "steth_wait_seconds").histogram.unwrap().points.remove(0);
        assert_eq!((waits.count, waits.sum), (3, Some(1.15e-5)));
        assert_eq!(waits.bucket_counts[..4], [0, 1, 2, 0]);
        assert_eq!(waits.bucket_counts.len(), waits.explicit_bounds.len() + 1);
        assert_eq!(received.len(), 5);
    }

    #[test]
    fn a_series_that_has_ended_has_a_point_without_a_value() {
        let mut encoder = encoder();
        encoder.encode(&snapshot(1, vec![Series::number(&LOAD1, vec![], 0.5)]));
        let received = received(&encoder.encode(&snapshot(2, vec![])));
        let gauge = received.into_values().next().unwrap().gauge.unwrap();
        assert_eq!((gauge.points[0].as_double, gauge.points[0].flags), (None, 1));
        assert!(encoder.encode(&snapshot(3, vec![])).is_empty());
    }

    #[test]
    fn what_a_receiver_did_not_want_is_read_of_its_answer() {
        let partial = message::PartialSuccess { rejected_data_points: 3, error_message: "too old".into() };
        let answer = message::Response { partial_success: Some(partial) }.encode_to_vec();
        assert_eq!(rejected(&answer), Some((3, "too old".into())));
        assert_eq!(rejected(b""), None);
        assert_eq!(rejected(b"\xff\xff garbage"), None);
    }
}
