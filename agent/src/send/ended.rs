//! Which series a snapshot has, each once, and which have ended since the one before. Does not know how they are written.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use crate::model::snapshot::{Series, Snapshot};

/// Remembers the snapshot before.
#[derive(Default)]
pub struct Ended {
    previous: Option<Arc<Snapshot>>,
    identity: RandomState,
}

impl Ended {
    /// Tells each series of a snapshot, with `false`, then each that has ended, with `true`. Of two that are the same the first
    /// counts, as in the exposition.
    pub fn tell(&mut self, snapshot: &Arc<Snapshot>, mut tell: impl FnMut(&Series, bool)) {
        let previous = self.previous.replace(Arc::clone(snapshot));
        let before = previous.iter().flat_map(|previous| &previous.series).map(|series| (series, true));
        let mut told = HashSet::with_capacity(snapshot.series.len());
        for (series, ended) in snapshot.series.iter().map(|series| (series, false)).chain(before) {
            // 64 bits of SipHash with random keys: two of a million different series meet once in 30 million snapshots.
            if told.insert(self.identity.hash_one((series.metric.name, &series.labels))) {
                tell(series, ended);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::metric::Metric;

    static GAUGE: Metric = Metric::gauge("test_gauge", "A test.", &["service"]);

    #[test]
    fn each_series_is_told_once_and_its_end_once() {
        let mut ended = Ended::default();
        let mut told = |names: &[&str]| {
            let series = names.iter().map(|name| Series::number(&GAUGE, vec![(*name).into()], 1.0)).collect();
            let mut told = Vec::new();
            ended.tell(&Arc::new(Snapshot { series, ..Snapshot::default() }), |series, ended| {
                told.push((series.labels[0].clone(), ended));
            });
            told
        };
        assert_eq!(told(&["a", "b", "a"]), [("a".into(), false), ("b".into(), false)]);
        assert_eq!(told(&["b"]), [("b".into(), false), ("a".into(), true)]);
        assert_eq!(told(&["b"]), [("b".into(), false)]);
        assert_eq!(told(&["a"]), [("a".into(), false), ("b".into(), true)]);
    }
}
