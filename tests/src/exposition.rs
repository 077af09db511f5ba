//! Reads Prometheus' text exposition, as a scraper would, and answers questions about it. Strict: what it does not
//! understand is an error, so a test that uses it also says that the text is well-formed. Knows the format
//! (prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4), not the metrics.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// Labels that a series must bear to be meant.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    /// All samples, in their order.
    pub samples: Vec<Sample>,
    /// Help by metric, with escapes undone.
    pub help: BTreeMap<String, String>,
    /// `counter`, `gauge`, `histogram`, `summary` or `untyped`, by metric.
    pub types: BTreeMap<String, String>,
}

/// One line of a scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name; for histograms with its suffix (`_bucket`, `_sum`, `_count`).
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
    /// Parses a whole scrape.
    ///
    /// # Errors
    /// When any line is not as the format has it; the error names the line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut exposition = Self::default();
        for (number, line) in text.lines().enumerate() {
            exposition.parse_line(line).with_context(|| format!("line {}: {line}", number + 1))?;
        }
        Ok(exposition)
    }

    fn parse_line(&mut self, line: &str) -> Result<()> {
        if line.trim().is_empty() {
            return Ok(());
        }
        let Some(comment) = line.strip_prefix('#') else {
            self.samples.push(sample(line)?);
            return Ok(());
        };
        let mut words = comment.trim_start().splitn(3, ' ');
        let (table, name, text) = match (words.next(), words.next(), words.next()) {
            (Some("HELP"), Some(name), help) => (&mut self.help, name, unescape(help.unwrap_or_default())?),
            (Some("TYPE"), Some(name), Some(kind)) => (&mut self.types, name, kind.to_owned()),
            (Some("HELP" | "TYPE"), ..) => bail!("incomplete"),
            _ => return Ok(()),
        };
        if table.insert(name.to_owned(), text).is_some() {
            bail!("a second one for {name}");
        }
        Ok(())
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
            let Some(bound) = sample.labels.get("le").and_then(|bound| bound.parse().ok()) else { continue };
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
    let end = line.find(|character: char| character == '{' || character.is_whitespace()).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    if !is_name(name) {
        bail!("{name:?} is no metric name");
    }
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside.trim_start();
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once('=').context("a label without a value")?;
            let quoted = after.trim_start().strip_prefix('"').context("a label's value without quotes")?;
            let length = closing_quote(quoted).context("a label's value without end")?;
            if !is_name(label.trim()) {
                bail!("{label:?} is no label name");
            }
            if labels.insert(label.trim().to_owned(), unescape(&quoted[..length])?).is_some() {
                bail!("label {label} twice");
            }
            rest = quoted[length + 1..].trim_start();
            if let Some(next) = rest.strip_prefix(',') {
                rest = next.trim_start();
            } else if !rest.starts_with('}') {
                bail!("neither comma nor end after label {label}");
            }
        }
        rest = &rest[1..];
    }
    let mut words = rest.split_whitespace();
    let value = words.next().context("no value")?;
    // Rust reads Prometheus' `+Inf`, `-Inf` and `NaN` too.
    let value = value.parse().with_context(|| format!("{value:?} is no number"))?;
    if let Some(timestamp) = words.next() {
        timestamp.parse::<i64>().with_context(|| format!("{timestamp:?} is no timestamp"))?;
    }
    if words.next().is_some() {
        bail!("more than a value and a timestamp");
    }
    Ok(Sample { name: name.to_owned(), labels, value })
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && text.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, '_' | ':'))
}

/// Where the value that begins here ends: at the first quote that no backslash stands before.
fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().find_map(|(at, character)| {
        let ends = character == '"' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
        ends.then_some(at)
    })
}

fn unescape(text: &str) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        out.push(match character {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some(escaped @ ('\\' | '"')) => escaped,
                other => bail!("unknown escape {other:?}"),
            },
            plain => plain,
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a_total With \\\\ and\\n.\n# TYPE a_total counter\n# a comment\n\n\
                        a_total{x=\"1\",y=\"q\\\"}{,\\\\\"} 1.5e3 1700000000000\na_total{x=\"2\",} 2\nb 0\nc{} +Inf\n";

    const HISTOGRAMS: &str = r#"wait_seconds_bucket{service="a",le="0.001"} 10
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
    fn samples_help_and_types_are_read() {
        let read = Exposition::parse(TEXT).unwrap();
        assert_eq!(read.help["a_total"], "With \\ and\n.");
        assert_eq!(read.types["a_total"], "counter");
        let [first, second, b, c] = &read.samples[..] else { panic!("{:?}", read.samples) };
        assert_eq!((first.name.as_str(), first.labels["y"].as_str(), first.value), ("a_total", "q\"}{,\\", 1500.0));
        assert!(second.bears(&[("x", "2")]) && !second.bears(&[("x", "2"), ("y", "")]));
        assert_eq!((b.value, c.value), (0.0, f64::INFINITY));
        assert_eq!((read.sum("a_total", &[]), read.sum("d", &[])), (1502.0, 0.0));
    }

    #[test]
    fn series_are_added_up_by_label() {
        let all = Exposition::parse(HISTOGRAMS).unwrap();
        assert_eq!(all.sum("wait_seconds_count", &[]), 50.0);
        let by = all.sums_by("wait_seconds_count", &[], "service");
        assert_eq!(by.into_iter().collect::<Vec<_>>(), [("a".to_owned(), 30.0), ("b".to_owned(), 20.0)]);
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let all = Exposition::parse(HISTOGRAMS).unwrap();
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
        for text in [
            "a",
            "a ",
            "a x",
            "1a 1",
            "a{ 1",
            "a{x} 1",
            "a{x=1} 1",
            "a{x=\"1} 1",
            "a{x=\"1\" y=\"2\"} 1",
            "a{x=\"1\",x=\"2\"} 1",
            "a{x=\"\\t\"} 1",
            "a 1 2 3",
            "a 1 x",
            "# TYPE a",
            "# TYPE a counter\n# TYPE a gauge",
        ] {
            let error = Exposition::parse(&format!("ok 1\n{text}\n")).unwrap_err();
            let line = format!("line {}: ", text.lines().count() + 1);
            assert!(error.to_string().starts_with(&line), "{text}: {error}");
        }
    }
}
