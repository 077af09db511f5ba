//! The catalogs of all metrics, by chapter. Exposition and `docs/metrics.md` are made from them.

pub mod alert;
pub mod host;
pub mod kernel;
pub mod profile;
pub mod send;
pub mod steth;

use super::metric::Metric;

/// Metrics that come from one source.
#[derive(Debug)]
pub struct Chapter {
    /// What they tell.
    pub title: &'static str,
    /// Where they are taken from.
    pub source: &'static str,
    /// The metrics, in the order in which people read them.
    pub metrics: fn() -> Vec<&'static Metric>,
}

/// All chapters.
pub const CHAPTERS: &[&Chapter] = &[
    &kernel::SYSCALLS,
    &kernel::TCP,
    &kernel::SOCKETS,
    &kernel::POSTGRES,
    &kernel::WALL,
    &kernel::PROBES,
    &profile::PROFILES,
    &steth::AGENT,
    &send::SENDING,
    &alert::ALERTING,
    &host::HOST,
];
