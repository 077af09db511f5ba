//! One finished window: the only thing that sinks see.

use std::{sync::Arc, time::Duration};

use super::{distribution::Distribution, metric::Metric};

/// Everything known at the end of one window.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When the window ended, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// How long the window was.
    pub window: Duration,
    /// Every series, grouped by metric: series of one metric stand together.
    pub series: Vec<Series>,
}

/// One time series and its value at the end of the window.
#[derive(Clone, Debug)]
pub struct Series {
    /// The family.
    pub metric: &'static Metric,
    /// Label values, in the order of `metric.labels`.
    pub labels: Vec<String>,
    /// The value.
    pub value: Value,
}

/// The value of a series.
#[derive(Clone, Debug)]
pub enum Value {
    /// A counter's total since the agent (or the host, for host counters) started, or a gauge's reading.
    Number(f64),
    /// All observations since the agent started.
    Histogram(Arc<Distribution>),
}

impl Series {
    /// A series with a plain number.
    pub fn number(metric: &'static Metric, labels: Vec<String>, value: f64) -> Self {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        Self { metric, labels, value: Value::Number(value) }
    }

    /// A series with a distribution.
    pub fn histogram(metric: &'static Metric, labels: Vec<String>, value: Arc<Distribution>) -> Self {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        Self { metric, labels, value: Value::Histogram(value) }
    }
}
