//! Sinks that hand numbers to other programs. Each takes a snapshot; none knows another.

pub mod prometheus;
