//! Sinks that hand numbers to other programs. Each takes a snapshot; none knows another.

mod openmetrics;
pub mod prometheus;
mod text;
