//! How findings are worded: figures, lists, points in time and evidence. Knows no finding.

use std::time::{Duration, SystemTime};

pub use crate::model::figure::{figure, listed};
use crate::{config::moment, model::finding::Evidence};

/// A point in time as this host's clock shows it.
pub fn clock(unix_ms: u64) -> String {
    moment::shown(SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms))
}

/// A piece of evidence where there is room for a line.
pub fn noted(evidence: &Evidence) -> String {
    let Evidence { name, value, usual, unit, check, .. } = evidence;
    let said = |value: f64| figure(value, unit).trim_end().to_owned();
    let usual = usual.map(|usual| format!(" (usually {})", said(usual))).unwrap_or_default();
    format!("{name} {}{usual}: {check}", said(*value))
}
