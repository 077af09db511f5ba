//! Every metric that steth exposes, one row each. Rows say what a metric is, not where its values come from.

pub mod host;
