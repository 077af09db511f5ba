//! The words that all stages share: metrics, series, distributions, snapshots. No I/O, no stage.

pub mod alert;
pub mod budget;
pub mod catalog;
pub mod code;
pub mod distribution;
pub mod event;
pub mod figure;
pub mod finding;
pub mod metric;
pub mod news;
pub mod probe;
pub mod profile;
pub mod query;
pub mod robust;
pub mod rule;
pub mod sample;
pub mod semantic;
pub mod service;
pub mod settings;
pub mod snapshot;
pub mod syscall;
pub mod trace;
pub mod wait_event;
pub mod wall;
