//! From snapshots to notices, in windows of ten seconds.

mod book;
mod evaluator;
mod notices;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use super::evaluate::{Evaluator, Figure};
use crate::{
    config::alerts::AlertFile,
    model::{
        catalog::CHAPTERS,
        distribution::Distribution,
        metric::{Kind, Metric},
        rule::Rule,
        snapshot::{Series, Snapshot, Value},
    },
};

/// How long the windows of these tests are.
const WINDOW: Duration = Duration::from_secs(10);
/// When the first of them ends.
const BEGIN_MS: u64 = 1_700_000_000_000;

/// Rules as they are written in a file.
fn rules(text: &str) -> Vec<Arc<Rule>> {
    let file = AlertFile::parse(Path::new("test"), text).unwrap_or_else(|why| panic!("{why:?}\n{text}"));
    file.rules.into_iter().map(Arc::new).collect()
}

fn metric(name: &str) -> &'static Metric {
    let mut all = CHAPTERS.iter().flat_map(|chapter| (chapter.metrics)());
    all.find(|metric| metric.name == name).unwrap_or_else(|| panic!("there is no metric {name}"))
}

/// A series by its labels, `name=value` with commas; those that are not named are empty.
fn series(name: &str, labels: &str, value: f64) -> Series {
    let metric = metric(name);
    let given: BTreeMap<&str, &str> = labels.split(',').filter_map(|label| label.split_once('=')).collect();
    let labels = metric.labels.iter().map(|label| given.get(label).copied().unwrap_or_default().to_owned()).collect();
    match metric.kind {
        Kind::Histogram(_) => {
            let mut all = Distribution::default();
            // So many durations of ten milliseconds.
            (0..value as u64).for_each(|_| all.observe_ns(10_000_000));
            Series { metric, labels, value: Value::Histogram(Arc::new(all)) }
        }
        _ => Series { metric, labels, value: Value::Number(value) },
    }
}

/// A rule over series that windows bring.
struct Watched {
    evaluator: Evaluator,
    windows: u64,
}

impl Watched {
    fn new(text: &str) -> Self {
        Self { evaluator: Evaluator::new(rules(text)), windows: 0 }
    }

    fn push(&mut self, series: Vec<Series>) -> Vec<Figure> {
        let at_unix_ms = BEGIN_MS + self.windows * 10_000;
        self.windows += 1;
        self.evaluator.observe(&Snapshot { at_unix_ms, series, ..Snapshot::default() }, WINDOW)
    }

    /// The one figure of a window.
    fn value(&mut self, series: Vec<Series>) -> Option<f64> {
        let figures = self.push(series);
        assert!(figures.len() <= 1, "{figures:?}");
        figures.first().map(|figure| figure.reading.value)
    }
}
