//! steth's own metrics (`steth_…`).

use super::Chapter;
use crate::model::metric::Metric;

/// The version that runs.
pub static BUILD_INFO: Metric = Metric::gauge("steth_build_info", "Always 1; the version of the agent.", &["version"]);
/// CPU time.
pub static AGENT_CPU: Metric =
    Metric::counter("steth_agent_cpu_seconds_total", "CPU time that the agent has used, user and system.", &[]);
/// Memory.
pub static AGENT_RESIDENT: Metric = Metric::gauge("steth_agent_resident_bytes", "Resident memory of the agent.", &[]);
/// Series that could not be exposed.
pub static DUPLICATE_SERIES: Metric = Metric::counter(
    "steth_duplicate_series_total",
    "Series left out of the exposition because one of the same name and labels stood before them.",
    &[],
);

/// What the agent itself costs.
pub static AGENT: Chapter = Chapter {
    title: "The agent",
    source: "`/proc/self/stat` and the agent's own counts",
    metrics: || vec![&BUILD_INFO, &AGENT_CPU, &AGENT_RESIDENT, &DUPLICATE_SERIES],
};
