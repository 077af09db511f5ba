//! What a signal is: which series it reads and how they become one number a window. The signals themselves stand in
//! [`table`](super::table).

pub use super::table::SIGNALS;

/// One kind of figure that is kept for each service, or for the host.
#[derive(Debug)]
pub struct Signal {
    /// Its name in findings.
    pub name: &'static str,
    /// What it is, in words that a sentence can begin with.
    pub said: &'static str,
    /// Metrics that are added up.
    pub metrics: &'static [&'static str],
    /// Metrics that the sum is divided by.
    pub over: &'static [&'static str],
    /// How a window's figure is made.
    pub reading: Reading,
    /// Only series with one of these values of a label; none: all.
    pub only: Option<(&'static str, &'static [&'static str])>,
    /// Label that tells several apart.
    pub part: Option<&'static str>,
    /// Whose it is.
    pub whose: Whose,
    /// What it is good for.
    pub task: Task,
    /// Its unit.
    pub unit: &'static str,
    /// The smallest difference that matters, in its unit.
    pub least: f64,
}

/// How a window's figure is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Counters: gain in a second.
    Rate,
    /// Counters that count time of one thing: the part of a second in which they did not.
    Rest,
    /// Counters: gain of the ones for each of the others.
    PerGain,
    /// Gauges: their sum.
    Level,
    /// Gauges: the sum of the ones over that of the others.
    Ratio,
    /// Histograms: their mean.
    Mean,
    /// Histograms: their 95th percentile, of at least [`LEAST_OF_TAIL`].
    Tail,
    /// Histograms: how many in a second.
    Count,
    /// Histograms: seconds in a second.
    Time,
}

/// Fewer durations than that in a window have no 95th percentile to speak of.
pub const LEAST_OF_TAIL: u64 = 20;

/// Whose a signal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// A service's, by this label.
    Service(&'static str),
    /// The host's.
    Host,
}

/// What a signal is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Someone waits longer, or gets errors: a change is a finding.
    Symptom,
    /// The same, of services that accept no connections: others also wait for callers who have nothing to ask.
    CallersSymptom,
    /// A use of a resource: a change is a finding if it is large.
    Use,
    /// Tells more about others.
    Evidence,
}

/// The place of a signal among [`SIGNALS`].
pub fn signal(name: &str) -> usize {
    SIGNALS.iter().position(|signal| signal.name == name).unwrap_or_else(|| unreachable!("there is no signal {name}"))
}

impl Signal {
    /// Whether a gain that was never counted before is one from nothing: what the agent itself counts begins with it.
    pub fn begins_at_zero(&self) -> bool {
        self.metrics.iter().all(|metric| !metric.starts_with("node_"))
    }

    /// Whether no series means that nothing happened.
    pub fn rests_at_zero(&self) -> bool {
        matches!(self.reading, Reading::Rate | Reading::Count | Reading::Time | Reading::Level)
            && self.begins_at_zero()
            && self.task == Task::Symptom
    }

    /// A query for Prometheus that shows it.
    pub fn query(&self, service: &str, part: &str) -> String {
        let mut labels = Vec::new();
        if let Whose::Service(label) = self.whose {
            labels.push(format!("{label}={service:?}"));
        }
        if let Some(label) = self.part.filter(|_| !part.is_empty()) {
            labels.push(format!("{label}={part:?}"));
        }
        match self.only {
            Some((label, [value])) => labels.push(format!("{label}={value:?}")),
            Some((label, values)) => labels.push(format!("{label}=~\"{}\"", values.join("|"))),
            None => {}
        }
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let sum = |metrics: &[&str], suffix: &str, counts: bool| {
            let one = |metric: &&str| {
                let series = format!("{metric}{suffix}{labels}");
                if counts { format!("sum(rate({series}[1m]))") } else { format!("sum({series})") }
            };
            metrics.iter().map(one).collect::<Vec<_>>().join(" + ")
        };
        match self.reading {
            Reading::Rate => sum(self.metrics, "", true),
            Reading::Rest => format!("1 - {}", sum(self.metrics, "", true)),
            Reading::PerGain => format!("({}) / ({})", sum(self.metrics, "", true), sum(self.over, "", true)),
            Reading::Level => sum(self.metrics, "", false),
            Reading::Ratio => format!("{} / {}", sum(self.metrics, "", false), sum(self.over, "", false)),
            Reading::Mean => format!("{} / {}", sum(self.metrics, "_sum", true), sum(self.metrics, "_count", true)),
            Reading::Count => sum(self.metrics, "_count", true),
            Reading::Time => sum(self.metrics, "_sum", true),
            Reading::Tail => {
                let metric = self.metrics.first().copied().unwrap_or_default();
                format!("histogram_quantile(0.95, sum by (le) (rate({metric}_bucket{labels}[1m])))")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        catalog::CHAPTERS,
        metric::{Kind, Metric},
    };

    fn metrics() -> Vec<&'static Metric> {
        CHAPTERS.iter().flat_map(|chapter| (chapter.metrics)()).collect()
    }

    #[test]
    fn every_signal_reads_metrics_of_the_catalog_by_labels_that_they_have() {
        let all = metrics();
        for signal in SIGNALS {
            for name in signal.metrics.iter().chain(signal.over) {
                let found = all.iter().find(|metric| metric.name == *name);
                let metric = found.unwrap_or_else(|| panic!("{} reads {name}", signal.name));
                let whose = if let Whose::Service(label) = signal.whose { Some(label) } else { None };
                for label in signal.part.into_iter().chain(whose).chain(signal.only.map(|(label, _)| label)) {
                    assert!(metric.labels.contains(&label), "{} has no {label}", metric.name);
                }
                let histogram =
                    matches!(signal.reading, Reading::Mean | Reading::Tail | Reading::Count | Reading::Time);
                assert_eq!(histogram, matches!(metric.kind, Kind::Histogram(_)), "{}", signal.name);
            }
        }
    }

    #[test]
    fn names_of_signals_are_told_apart() {
        for (at, one) in SIGNALS.iter().enumerate() {
            assert_eq!(signal(one.name), at, "{} is there twice", one.name);
        }
    }

    #[test]
    fn a_query_asks_for_the_same_as_the_signal() {
        let query = |name: &str, part: &str| SIGNALS[signal(name)].query("a.service", part);
        assert_eq!(
            query("disk_calls", "").split(" / ").next().unwrap(),
            "sum(rate(steth_syscall_duration_seconds_sum{service=\"a.service\",\
             syscall=~\"pread64|pwrite64|preadv|pwritev|preadv2|pwritev2\"}[1m]))"
        );
        assert_eq!(
            query("core_busy", "1"),
            "1 - sum(rate(node_cpu_seconds_total{cpu=\"1\",mode=~\"idle|iowait\"}[1m]))"
        );
        assert_eq!(
            query("cpu", ""),
            "sum(rate(namedprocess_namegroup_cpu_seconds_total{groupname=\"a.service\"}[1m]))"
        );
    }
}
