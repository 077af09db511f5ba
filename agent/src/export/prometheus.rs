//! A snapshot as Prometheus' text exposition, in either of its formats. Does not know who asks for it.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use super::{openmetrics, text};
use crate::model::snapshot::Snapshot;

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
        let before = last.as_ref().map_or(0, |(_, text)| text.len());
        let text = Bytes::from(self.write(snapshot, format, before));
        *last = Some((Arc::clone(snapshot), text.clone()));
        text
    }

    fn write(&self, snapshot: &Snapshot, format: Format, before: usize) -> Vec<u8> {
        let count = |duplicates| self.duplicates.fetch_add(duplicates, Ordering::Relaxed) + duplicates;
        match format {
            Format::Text => text::write(snapshot, before, count).unwrap_or_else(|error| {
                // The catalog's tests see to it that there is nothing to refuse.
                tracing::error!("the text exposition is empty: {error}");
                Vec::new()
            }),
            Format::OpenMetrics => openmetrics::write(snapshot, count),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::model::{
        distribution::Distribution,
        metric::{Bounds, Metric},
        snapshot::{Exemplar, Series, Value},
    };

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
        String::from_utf8(exporter.write(&Snapshot { series, ..Snapshot::default() }, format, 0)).unwrap()
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
    fn an_exemplar_stands_in_its_bucket_of_its_series_and_in_openmetrics_only() {
        let exemplar = |labels: Vec<String>, value_ns| Exemplar {
            metric: &FINE,
            labels,
            query_id: "0f-1".into(),
            value_ns,
            at_unix_ms: 1_700_000_000_012,
        };
        let series = || vec![Series::histogram(&FINE, labels(["9f"]), distribution([20_000, 3_000_000]))];
        let exemplars = vec![
            exemplar(labels(["9f"]), 3_000_000),
            exemplar(labels(["another"]), 20_000),
            exemplar(labels(["9f"]), 90_000_000_000),
        ];
        let exporter = Exporter::default();
        let snapshot = Snapshot { series: series(), exemplars, ..Snapshot::default() };
        let text = String::from_utf8(exporter.write(&snapshot, Format::OpenMetrics, 0)).unwrap();
        let with: Vec<&str> = text.lines().filter(|line| line.contains(" # ")).collect();
        assert_eq!(
            with,
            [
                "steth_query_seconds_bucket{query=\"9f\",le=\"0.003145728\"} 2 # {query_id=\"0f-1\"} 0.003 1700000000.012",
                "steth_query_seconds_bucket{query=\"9f\",le=\"+Inf\"} 2 # {query_id=\"0f-1\"} 90 1700000000.012",
            ]
        );
        let plain = String::from_utf8(exporter.write(&snapshot, Format::Text, 0)).unwrap();
        assert!(!plain.contains("query_id"), "{plain}");
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
    fn what_is_not_finite_is_written_as_openmetrics_writes_it() {
        for (value, written) in [(f64::INFINITY, "+Inf"), (f64::NEG_INFINITY, "-Inf"), (f64::NAN, "NaN")] {
            assert!(
                text_in(Format::OpenMetrics, vec![Series::number(&LOAD, vec![], value)])
                    .contains(&format!("node_load1 {written}\n"))
            );
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
            let text = String::from_utf8(exporter.write(&snapshot, Format::Text, 0)).unwrap();
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
                    let bytes = exporter.write(&snapshot, Format::Text, 0).len();
                    (start.elapsed(), bytes)
                })
                .collect();
            times.sort();
            println!("{what}: median {:?}, {} bytes", times[10].0, times[10].1);
        }
    }
}
