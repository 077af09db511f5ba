//! The library of the `steth` agent; `main.rs` is its thin front. See ARCHITECTURE.md for the flow.

pub mod host;
pub mod model;
