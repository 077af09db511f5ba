//! Reads Prometheus' text exposition into samples and answers questions about them. Knows the format
//! (prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4), not the metrics.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// Labels that a series must bear to be meant.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    /// All samples, in the order of the text.
    pub samples: Vec<Sample>,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name, with `_bucket`, `_sum` or `_count` for parts of histograms.
    pub name: String,
    /// Labels by name.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// A histogram, added up over all the series that were meant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Number of observations.
    pub count: f64,
    /// Sum of the observations, in the metric's unit.
    pub sum: f64,
    /// Upper bounds and cumulative counts, ascending, the last bound infinite.
    pub buckets: Vec<(f64, f64)>,
}

impl Exposition {
    /// Reads a whole text.
    ///
    /// # Errors
    /// Names the first line that is not in the format.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|(at, line)| sample(line).with_context(|| format!("line {}: {line}", at + 1)));
        Ok(Self { samples: samples.collect::<Result<_>>()? })
    }

    /// The samples of this name that bear these labels.
    pub fn matching<'a>(&'a self, name: &'a str, labels: Labels<'a>) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name && sample.bears(labels))
    }

    /// The sum over the series that bear these labels; 0 when there are none.
    pub fn sum(&self, name: &str, labels: Labels<'_>) -> f64 {
        // From 0.0: the sum of no floats is -0.0, which reads oddly in a failure.
        self.matching(name, labels).fold(0.0, |sum, sample| sum + sample.value)
    }

    /// The sums for each value of one label.
    pub fn sums_by(&self, name: &str, labels: Labels<'_>, by: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.matching(name, labels) {
            *sums.entry(sample.labels.get(by).cloned().unwrap_or_default()).or_default() += sample.value;
        }
        sums
    }

    /// The histogram over all the series that bear these labels; `name` without `_bucket`.
    pub fn histogram(&self, name: &str, labels: Labels<'_>) -> Histogram {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for sample in self.matching(&format!("{name}_bucket"), labels) {
            let Some(bound) = sample.labels.get("le").and_then(|bound| number(bound).ok()) else { continue };
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += sample.value,
                None => buckets.push((bound, sample.value)),
            }
        }
        buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let part = |suffix: &str| self.sum(&format!("{name}_{suffix}"), labels);
        Histogram { count: part("count"), sum: part("sum"), buckets }
    }
}

impl Sample {
    /// Whether it bears all these labels.
    pub fn bears(&self, labels: Labels<'_>) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(*key).is_some_and(|own| own == value))
    }
}

impl Histogram {
    /// What was observed since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |bound: f64| earlier.buckets.iter().find(|(known, _)| *known == bound).map_or(0.0, |(_, n)| *n);
        Self {
            count: self.count - earlier.count,
            sum: self.sum - earlier.sum,
            buckets: self.buckets.iter().map(|(bound, count)| (*bound, count - before(*bound))).collect(),
        }
    }

    /// The mean of the observations.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }

    /// How many observations were at most `bound`, where `bound` is one of the bucket's own.
    pub fn at_most(&self, bound: f64) -> Option<f64> {
        self.buckets.iter().find(|(known, _)| *known == bound).map(|(_, count)| *count)
    }

    /// The value below which the share `quantile` (0 to 1) lies, as Prometheus' `histogram_quantile` has it:
    /// linear inside a bucket, and the last finite bound for what lies beyond it.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let rank = quantile * self.buckets.last().filter(|(_, all)| *all > 0.0)?.1;
        let (mut low, mut below) = (0.0, 0.0);
        for (high, count) in &self.buckets {
            if *count >= rank && *count > below {
                return Some(if high.is_finite() {
                    low + (high - low) * (rank - below) / (count - below)
                } else {
                    low
                });
            }
            (low, below) = (*high, *count);
        }
        None
    }
}

fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after) = rest.split_once("=\"").context("no label")?;
            let (value, after) = unquote(after)?;
            if labels.insert(key.to_owned(), value).is_some() {
                bail!("label {key} stands twice");
            }
            rest = after.strip_prefix(',').unwrap_or(after);
        }
    }
    let value = number(rest.split_whitespace().next().context("no value")?)?;
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// The text up to the closing quote, escapes undone, and what follows it.
fn unquote(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                other => bail!("unknown escape {other:?}"),
            },
            _ => value.push(character),
        }
    }
    bail!("a label's value does not end")
}

fn number(text: &str) -> Result<f64> {
    Ok(match text {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        _ => text.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP up Whether.
# TYPE up gauge
up 1
odd{a="q\"\\\n,}",b=""} -2.5e3 1700000000
wait_seconds_bucket{service="a",le="0.001"} 10
wait_seconds_bucket{service="a",le="0.01"} 30
wait_seconds_bucket{service="a",le="+Inf"} 30
wait_seconds_sum{service="a"} 0.09
wait_seconds_count{service="a"} 30
wait_seconds_bucket{service="b",le="0.001"} 10
wait_seconds_bucket{service="b",le="0.01"} 10
wait_seconds_bucket{service="b",le="+Inf"} 20
wait_seconds_sum{service="b"} 1
wait_seconds_count{service="b"} 20
"#;

    #[test]
    fn labels_with_escapes_and_times_are_read() {
        let all = Exposition::parse(TEXT).unwrap();
        let odd = all.matching("odd", &[]).next().unwrap();
        assert_eq!((odd.labels["a"].as_str(), odd.labels["b"].as_str(), odd.value), ("q\"\\\n,}", "", -2500.0));
        assert_eq!(all.sum("up", &[]), 1.0);
        assert_eq!(all.sum("up", &[("service", "a")]), 0.0);
    }

    #[test]
    fn series_are_added_up_by_label() {
        let all = Exposition::parse(TEXT).unwrap();
        assert_eq!(all.sum("wait_seconds_count", &[]), 50.0);
        let by = all.sums_by("wait_seconds_count", &[], "service");
        assert_eq!(by.into_iter().collect::<Vec<_>>(), [("a".to_owned(), 30.0), ("b".to_owned(), 20.0)]);
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let all = Exposition::parse(TEXT).unwrap();
        let a = all.histogram("wait_seconds", &[("service", "a")]);
        assert_eq!((a.count, a.mean(), a.at_most(0.001)), (30.0, Some(0.003), Some(10.0)));
        assert!((a.quantile(0.5).unwrap() - (0.001 + 0.009 * 0.25)).abs() < 1e-12);
        let both = all.histogram("wait_seconds", &[]);
        assert_eq!(both.quantile(0.99), Some(0.01), "beyond the last finite bound");
        assert_eq!(both.since(&a), all.histogram("wait_seconds", &[("service", "b")]));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn a_line_out_of_format_is_named() {
        for broken in ["up", "up{a=\"1\" 1", "up{a=\"\\x\"} 1", "up{a=\"1\",a=\"2\"} 1", "up one"] {
            let error = Exposition::parse(&format!("ok 1\n{broken}\n")).unwrap_err();
            assert!(error.to_string().starts_with("line 2"), "{error}");
        }
    }
}
