//! One finished window: the only thing that sinks see; and the handle through which they ask for it.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    budget::{Budget, FeatureStatus},
    distribution::Distribution,
    metric::Metric,
    probe::ProbeStatus,
};

/// Everything known at the end of one window.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When the window ended, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// How long the window was.
    pub window: Duration,
    /// Every series, grouped by metric: series of one metric stand together.
    pub series: Vec<Series>,
    /// Every probe, in the order of the catalog.
    pub probes: Vec<ProbeStatus>,
    /// Every service that was seen in the window.
    pub services: Vec<ServiceInfo>,
    /// What became of each feature.
    pub features: Vec<FeatureStatus>,
    /// What steth costs.
    pub budget: Budget,
    /// Single observations that stand for their buckets.
    pub exemplars: Vec<Exemplar>,
}

/// One observation of a histogram, by which people find what was slow.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// The family.
    pub metric: &'static Metric,
    /// Label values of its series.
    pub labels: Vec<String>,
    /// The slow query's `id`.
    pub query_id: String,
    /// What was observed.
    pub value_ns: u64,
    /// When it was over, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
}

/// One service: who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceInfo {
    /// The value of the label `service`.
    pub name: String,
    /// Where the name is from.
    pub kind: ServiceKind,
    /// Its processes at the end of the window, ascending.
    pub pids: Vec<u32>,
}

/// What a service's name is the name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceKind {
    /// A systemd unit.
    Unit,
    /// A container.
    Container,
    /// A Postgres cluster.
    PostgresCluster,
    /// An executable.
    Executable,
}

impl ServiceKind {
    /// What a service's name shows: names are made by the rules in [`super::service`].
    pub fn of(name: &str) -> Self {
        match name.split_once(':') {
            Some(("postgres", _)) => Self::PostgresCluster,
            Some(_) => Self::Container,
            None if name.ends_with(".service") || name.ends_with(".slice") || name.ends_with(".scope") => Self::Unit,
            None => Self::Executable,
        }
    }
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

/// A sink's end: asks for snapshots. Clones ask the same pipeline.
#[derive(Clone, Debug)]
pub struct SnapshotHandle {
    requests: mpsc::Sender<oneshot::Sender<Arc<Snapshot>>>,
    latest: watch::Receiver<Option<Arc<Snapshot>>>,
}

/// The pipeline's end: learns that a snapshot is wanted, and publishes it.
#[derive(Debug)]
pub struct SnapshotPublisher {
    requests: mpsc::Receiver<oneshot::Sender<Arc<Snapshot>>>,
    latest: watch::Sender<Option<Arc<Snapshot>>>,
}

/// Someone who waits for a snapshot.
#[derive(Debug)]
pub struct SnapshotRequest(oneshot::Sender<Arc<Snapshot>>);

/// The pipeline has ended, or failed to make a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no snapshot: the pipeline has stopped")]
pub struct NoSnapshot;

/// A connected pair.
pub fn handle_and_publisher() -> (SnapshotHandle, SnapshotPublisher) {
    // Requests wait in the channel while a snapshot is made; senders wait when it is full, none is lost.
    let (ask, requests) = mpsc::channel(16);
    let (publish, latest) = watch::channel(None);
    (SnapshotHandle { requests: ask, latest }, SnapshotPublisher { requests, latest: publish })
}

impl SnapshotHandle {
    /// A snapshot that is at most `window.live` old.
    ///
    /// # Errors
    /// When the pipeline has stopped.
    pub async fn fresh(&self) -> Result<Arc<Snapshot>, NoSnapshot> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| NoSnapshot)?;
        answered.await.map_err(|_| NoSnapshot)
    }

    /// The last snapshot, however old; `None` before the first.
    pub fn latest(&self) -> Option<Arc<Snapshot>> {
        self.latest.borrow().clone()
    }
}

impl SnapshotPublisher {
    /// The next request; `None` when all handles are gone.
    pub async fn requested(&mut self) -> Option<SnapshotRequest> {
        self.requests.recv().await.map(SnapshotRequest)
    }

    /// Makes a snapshot the latest.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.latest.send_replace(Some(snapshot));
    }

    /// The last one published; `None` before the first.
    pub fn latest(&self) -> Option<Arc<Snapshot>> {
        self.latest.borrow().clone()
    }
}

impl SnapshotRequest {
    /// Hands the snapshot over; whoever no longer waits does not get it.
    pub fn answer(self, snapshot: Arc<Snapshot>) {
        let _ = self.0.send(snapshot);
    }
}
