//! The library of the `steth` agent; `main.rs` is its thin front. See ARCHITECTURE.md for the flow.

pub mod aggregate;
pub mod alert;
pub mod cli;
pub mod config;
pub mod correlate;
pub mod export;
pub mod files;
pub mod govern;
pub mod heap;
pub mod host;
pub mod ingest;
pub mod kernel;
pub mod model;
pub mod pipeline;
pub mod postgres;
pub mod profile;
pub mod send;
pub mod serve;
pub mod store;
