//! Rules for alerts: which figure is made of which series, and from where on it is told. Knows neither how rules are written
//! nor how they are evaluated.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    metric::{Kind, Metric},
    snapshot::Series,
};

/// What is looked at, from where on someone is told, and what they are told.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Tells it from all others.
    pub name: String,
    /// How the figure is made.
    pub function: Function,
    /// Of which series.
    pub of: Selection,
    /// Of a ratio what it is over; of a time to a limit the limit, if that is a metric.
    pub over: Option<Selection>,
    /// Labels that tell alerts of one rule apart; series that have the same values of them are added up.
    pub by: Vec<&'static str>,
    /// How far back the figure looks; zero for the last window alone.
    pub within: Duration,
    /// Fewer observations make no quantile, average or ratio.
    pub at_least: u64,
    /// Whether the figure is how many times its usual spread it is away from what is usual.
    pub is_deviation: bool,
    /// From where on, and when it is over.
    pub condition: Condition,
    /// How long it holds before someone is told (`for`).
    pub held: Duration,
    /// How bad it is.
    pub severity: Severity,
    /// What happened, in one sentence.
    pub summary: Template,
    /// Who suffers.
    pub impact: Template,
    /// What to do.
    pub step: Template,
    /// Rules that say the same and more: while one of them fires for the same labels, this one is silent.
    pub inhibited_by: Vec<String>,
}

/// How a figure is made of the windows that are looked at.
#[derive(Clone, Debug, PartialEq)]
pub enum Function {
    /// Of gauges: the sum, now.
    Value,
    /// Of counters the gain in a second, of histograms the observations in a second.
    Rate,
    /// Of histograms the mean duration, of gauges the mean of the windows.
    Average,
    /// Of histograms the duration, of gauges the value, that this share of all lies below.
    Quantile(f64),
    /// Of counters and histograms the gain of the one for each gain of the other, of gauges the one over the other.
    Ratio {
        /// Whether it is what the ratio leaves to one.
        is_rest: bool,
    },
    /// Of gauges: how often one rose. What is 0 is not there.
    Changes,
    /// Of gauges: seconds until a straight line through the windows meets the limit.
    TimeToLimit {
        /// The limit, if it is a number.
        limit: f64,
    },
}

/// Series of one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// The metric.
    pub metric: &'static Metric,
    /// Each label has one of these values.
    pub with: Vec<Matcher>,
    /// No label has one of these values.
    pub without: Vec<Matcher>,
}

/// Values of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matcher {
    /// Place of the label in the metric's.
    pub label: usize,
    /// Values; `*` stands for any text.
    pub patterns: Vec<String>,
}

/// From where on, and when it is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition {
    /// On which side of the threshold.
    pub side: Side,
    /// From beyond here on.
    pub threshold: f64,
    /// It is over when the figure is back here.
    pub clear: f64,
}

/// On which side of a threshold something is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// More than that.
    Above,
    /// Less than that.
    Below,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// To know.
    Info,
    /// To be looked at.
    #[default]
    Warning,
    /// To be acted on now.
    Critical,
}

/// A text with places for values, such as `{value}` or `{service}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(pub Vec<Piece>);

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Stands as it is.
    Text(String),
    /// Is replaced by the value of this name.
    Place(String),
}

impl Severity {
    /// All of them, the least bad first.
    pub const ALL: &[Self] = &[Self::Info, Self::Warning, Self::Critical];

    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl Rule {
    /// The unit of its figure, as [`figure`](super::figure::figure) takes it.
    pub fn unit(&self) -> &'static str {
        let name = self.of.metric.name;
        let is_histogram = matches!(self.of.metric.kind, Kind::Histogram(_));
        let stem = name.strip_suffix("_total").unwrap_or(name);
        let of_metric = match () {
            () if is_histogram || stem.ends_with("_seconds") => "s",
            () if stem.ends_with("_bytes") => "B",
            () if stem.ends_with("_ratio") => "ratio",
            () => "",
        };
        match self.function {
            _ if self.is_deviation => "spreads",
            Function::Rate if is_histogram => "/s",
            Function::Rate => match of_metric {
                "s" => "s/s",
                "B" => "B/s",
                _ => "/s",
            },
            Function::Ratio { .. } => "ratio",
            Function::Changes => "times",
            Function::TimeToLimit { .. } => "s",
            Function::Value | Function::Average | Function::Quantile(_) => of_metric,
        }
    }
}

impl Selection {
    /// Whether a series of this metric is among them.
    pub fn admits(&self, series: &Series) -> bool {
        let holds = |matcher: &Matcher| {
            let value = series.labels.get(matcher.label);
            value.is_some_and(|value| matcher.patterns.iter().any(|pattern| matches(pattern, value)))
        };
        self.with.iter().all(holds) && !self.without.iter().any(holds)
    }

    /// Whether the metric's values are gains, that is, whether it counts.
    pub fn counts(&self) -> bool {
        self.metric.kind != Kind::Gauge
    }
}

impl Condition {
    /// Whether a figure is to be told.
    pub fn is_met(&self, value: f64) -> bool {
        match self.side {
            Side::Above => value > self.threshold,
            Side::Below => value < self.threshold,
        }
    }

    /// Whether a figure is back where it is no more to be told.
    pub fn is_clear(&self, value: f64) -> bool {
        match self.side {
            Side::Above => value <= self.clear,
            Side::Below => value >= self.clear,
        }
    }
}

impl Template {
    /// The text with its places filled. What has no value stands as `?`.
    pub fn filled(&self, values: &BTreeMap<&str, String>) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Place(name) => values.get(name.as_str()).cloned().unwrap_or_else(|| "?".into()),
        };
        self.0.iter().map(piece).collect()
    }
}

/// Whether a value is of a pattern in which `*` stands for any text.
pub fn matches(pattern: &str, value: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == value };
    let Some(mut left) = value.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    // The last piece must stand at the end; those before it anywhere, in order.
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = left.find(piece) else { return false };
        left = left.get(at + piece.len()..).unwrap_or_default();
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_in_a_pattern_is_any_text() {
        for (pattern, value, is_match) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*.service", "shop.service", true),
            ("*.service", "shop.scope", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("aa*aa", "aaa", false),
            ("docker:*", "docker:web", true),
        ] {
            assert_eq!(matches(pattern, value), is_match, "{pattern} {value}");
        }
    }

    #[test]
    fn what_is_met_is_over_only_when_it_is_back_behind_the_clear_threshold() {
        let above = Condition { side: Side::Above, threshold: 0.8, clear: 0.7 };
        assert!(above.is_met(0.81) && !above.is_met(0.8));
        assert!(!above.is_clear(0.75) && above.is_clear(0.7));
        let below = Condition { side: Side::Below, threshold: 10.0, clear: 20.0 };
        assert!(below.is_met(9.0) && !below.is_clear(15.0) && below.is_clear(20.0));
    }

    #[test]
    fn places_of_a_text_are_filled_and_what_is_not_known_shows() {
        let place = |name: &str| Piece::Place(name.into());
        let text = Template(vec![place("service"), Piece::Text(" is at ".into()), place("value"), place("else")]);
        let values = BTreeMap::from([("service", "shop".to_owned()), ("value", "3".to_owned())]);
        assert_eq!(text.filled(&values), "shop is at 3?");
    }
}
