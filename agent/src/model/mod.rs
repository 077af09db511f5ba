//! The words that all stages share: metrics, series, distributions, snapshots. No I/O, no stage.

pub mod catalog;
pub mod distribution;
pub mod metric;
pub mod service;
pub mod snapshot;
