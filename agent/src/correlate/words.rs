//! How findings are worded: figures, lists and points in time. Knows no finding.

use std::time::{Duration, SystemTime};

use crate::config::moment;
pub use crate::model::figure::{figure, listed};

/// A point in time as this host's clock shows it.
pub fn clock(unix_ms: u64) -> String {
    moment::shown(SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms))
}
