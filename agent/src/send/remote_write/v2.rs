//! Requests of Prometheus remote write 2.0 (<https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/>): every text stands once in a
//! request and is named by number, and each series says what it counts. Does not know which series there are.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

use super::{Label, Sample};
use crate::model::metric::{Kind, Metric};

/// What requests are of.
pub const CONTENT_TYPE: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
/// What every request says.
pub const HEADERS: &[(&str, &str)] = &[("X-Prometheus-Remote-Write-Version", "2.0.0")];
/// What the answer must say: how many samples were taken. Who does not say it took none.
pub const WRITTEN: &str = "X-Prometheus-Remote-Write-Samples-Written";

/// Gathers a request.
pub struct Gathered {
    numbers: HashMap<Bytes, u32>,
    request: Request,
}

impl Default for Gathered {
    /// The first text is empty: what bears its number has none.
    fn default() -> Self {
        let mut gathered = Self { numbers: HashMap::new(), request: Request::default() };
        gathered.number(&Bytes::new());
        gathered
    }
}

impl Gathered {
    /// Adds a series.
    pub fn push(&mut self, metric: &Metric, labels: &[Label], sample: Sample) {
        let labels_refs =
            labels.iter().flat_map(|Label { name, value }| [name, value]).map(|text| self.number(text)).collect();
        let kind = match metric.kind {
            Kind::Counter => 1,
            Kind::Gauge => 2,
            Kind::Histogram(_) => 3,
        };
        let help_ref = self.number(&Bytes::from_static(metric.help.as_bytes()));
        let metadata = Some(Metadata { kind, help_ref });
        self.request.series.push(TimeSeries { labels_refs, samples: vec![sample], metadata });
    }

    /// How many series there are.
    pub fn count(&self) -> usize {
        self.request.series.len()
    }

    /// The request.
    pub fn encoded(&self) -> Vec<u8> {
        self.request.encode_to_vec()
    }

    fn number(&mut self, text: &Bytes) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = u32::try_from(self.request.symbols.len()).unwrap_or(u32::MAX);
        self.request.symbols.push(text.clone());
        self.numbers.insert(text.clone(), number);
        number
    }
}

/// io.prometheus.write.v2.Request (io/prometheus/write/v2/types.proto).
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(bytes = "bytes", repeated, tag = "4")]
    symbols: Vec<Bytes>,
    #[prost(message, repeated, tag = "5")]
    series: Vec<TimeSeries>,
}

/// io.prometheus.write.v2.TimeSeries.
#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    #[prost(uint32, repeated, tag = "1")]
    labels_refs: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, optional, tag = "5")]
    metadata: Option<Metadata>,
}

/// io.prometheus.write.v2.Metadata.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint32, tag = "3")]
    help_ref: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::metric::Bounds;

    static COUNTER: Metric = Metric::counter("a_total", "A counter.", &["service"]);
    static WAITS: Metric = Metric::histogram("b_seconds", "Waits.", &["service"], Bounds::Coarse);

    #[test]
    fn every_text_stands_once_and_each_series_says_what_it_is() {
        let label = |name: &'static str, value: &'static str| Label { name: name.into(), value: value.into() };
        let mut gathered = Gathered::default();
        let sample = |value: f64| Sample { value, timestamp: 5 };
        gathered.push(&COUNTER, &[label("__name__", "a_total"), label("service", "x")], sample(1.0));
        gathered.push(&WAITS, &[label("__name__", "b_seconds_sum"), label("service", "x")], sample(2.0));
        assert_eq!(gathered.count(), 2);
        let request = Request::decode(&gathered.encoded()[..]).unwrap();
        let text = |number: &u32| String::from_utf8(request.symbols[*number as usize].to_vec()).unwrap();
        assert_eq!(text(&0), "");
        let mut unique = request.symbols.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), request.symbols.len());
        let shown: Vec<(String, i32, String, f64)> = request
            .series
            .iter()
            .map(|series| {
                let labels = series.labels_refs.iter().map(text).collect::<Vec<_>>().join(" ");
                let metadata = series.metadata.clone().unwrap();
                (labels, metadata.kind, text(&metadata.help_ref), series.samples[0].value)
            })
            .collect();
        assert_eq!(shown[0], ("__name__ a_total service x".into(), 1, "A counter.".into(), 1.0));
        assert_eq!(shown[1], ("__name__ b_seconds_sum service x".into(), 3, "Waits.".into(), 2.0));
    }
}
