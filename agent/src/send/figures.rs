//! What became of what was sent to one destination, as it is counted and shown.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use super::spool::Lost;
use crate::model::{
    catalog::send::{BYTES, DROPPED, FAILED, OLDEST, REJECTED, SAMPLES, SENT, SPOOL_BYTES},
    snapshot::Series,
};

/// Counts of one destination, shared between who sends and who shows them. Held for moments only, never while anything is
/// waited for.
#[derive(Debug, Default)]
pub struct Figures(Mutex<Counts>);

/// The counts themselves.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Requests that were taken.
    pub sent: u64,
    /// Samples in them.
    pub samples: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Samples in them that were not wanted.
    pub rejected: u64,
    /// Tries that failed, by why.
    pub failed: BTreeMap<&'static str, u64>,
    /// Requests that the destination refused for good.
    pub refused: u64,
    /// Batches that came while too many waited for the thread.
    pub behind: u64,
    /// Requests that the spool lost.
    pub lost: Lost,
    /// Bytes that wait.
    pub waiting_bytes: u64,
    /// When the oldest was made that waits.
    pub oldest_unix_ms: Option<u64>,
}

impl Figures {
    /// For changing or reading.
    pub fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As series of the destination with this name.
    pub fn series(&self, name: &str) -> Vec<Series> {
        let counts = self.lock().clone();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let age_ms = counts.oldest_unix_ms.map_or(0, |oldest| now_ms.saturating_sub(u128::from(oldest)));
        let lost = counts.lost;
        let mut series = vec![
            Series::number(&SENT, vec![name.into()], counts.sent as f64),
            Series::number(&SAMPLES, vec![name.into()], counts.samples as f64),
            Series::number(&BYTES, vec![name.into()], counts.bytes as f64),
            Series::number(&REJECTED, vec![name.into()], counts.rejected as f64),
            Series::number(&SPOOL_BYTES, vec![name.into()], counts.waiting_bytes as f64),
            Series::number(&OLDEST, vec![name.into()], age_ms as f64 / 1e3),
        ];
        for (reason, count) in [
            ("spool_full", lost.spool_full),
            ("disk", lost.disk),
            ("damaged", lost.damaged),
            ("too_large", lost.too_large),
            ("refused", counts.refused),
            ("behind", counts.behind),
        ] {
            series.push(Series::number(&DROPPED, vec![name.into(), reason.into()], count as f64));
        }
        for (reason, count) in &counts.failed {
            series.push(Series::number(&FAILED, vec![name.into(), (*reason).into()], *count as f64));
        }
        series
    }
}
