//! What a metric is: its name, meaning, kind and labels. The catalogs of all metrics are built from this, and
//! exposition and `docs/metrics.md` from the catalogs.

/// One metric family.
///
/// `name` follows Prometheus' conventions: base units, `_total` for counters.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name as scraped.
    pub name: &'static str,
    /// One sentence for people, also the `# HELP` line.
    pub help: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// Label names, in the order in which a [`Series`](super::snapshot::Series) carries their values.
    pub labels: &'static [&'static str],
}

/// How the values of a metric behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows, but for restarts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution of durations in seconds, exposed with these bucket bounds.
    Histogram(Bounds),
}

/// Which upper bounds (`le`) a histogram shows. The kernel's own buckets are finer; a bound is always the edge
/// of one of them, so every exposed count is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// Powers of four from 1.024 µs to 68.7 s: many series, such as syscalls.
    Coarse,
    /// Two bounds in each power of two from 16.4 µs to 68.7 s: few series that people draw, such as queries.
    Fine,
    /// Four bounds in each power of two from 1.024 µs to 131 µs: how long the agent's own kernel programs hold others up.
    Short,
}

impl Metric {
    /// A counter.
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, kind: Kind::Counter, labels }
    }

    /// A gauge.
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, kind: Kind::Gauge, labels }
    }

    /// A histogram of seconds.
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        bounds: Bounds,
    ) -> Self {
        Self { name, help, kind: Kind::Histogram(bounds), labels }
    }
}

impl Bounds {
    /// The finite upper bounds in nanoseconds, ascending.
    pub fn upper_bounds_ns(self) -> Vec<u64> {
        match self {
            Self::Coarse => (10..=36).step_by(2).map(|bits| 1 << bits).collect(),
            Self::Fine => {
                let mut bounds: Vec<u64> = (14..36).flat_map(|bits| [1 << bits, 3 << (bits - 1)]).collect();
                bounds.push(1 << 36);
                bounds
            }
            Self::Short => {
                (10..17).flat_map(|bits| (4..8).map(move |part| part << (bits - 2))).chain([1 << 17]).collect()
            }
        }
    }
}
