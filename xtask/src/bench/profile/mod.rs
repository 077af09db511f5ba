//! Benchmarks of profiles.

pub mod binaries;
pub mod cost;
mod load;
mod profilers;
