//! Reads Prometheus' text exposition, as a scraper would. Strict: what it does not understand is an error, so a
//! test that uses it also says that the text is well-formed.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

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

    /// All samples of one name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    /// The value of the one sample that has this name and at least these labels; `None` when there is none.
    ///
    /// # Panics
    /// When there are several: the test has to say more.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.matching(name, labels);
        let first = found.next()?;
        assert!(found.next().is_none(), "several samples of {name} have {labels:?}");
        Some(first.value)
    }

    /// The sum over all samples that have this name and at least these labels; 0 when there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// All samples that have this name and at least these labels.
    pub fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        self.named(name).filter(move |sample| {
            labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value))
        })
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

    #[test]
    fn samples_help_and_types_are_read() {
        let read = Exposition::parse(TEXT).unwrap();
        assert_eq!(read.help["a_total"], "With \\ and\n.");
        assert_eq!(read.types["a_total"], "counter");
        assert_eq!(read.value("a_total", &[("y", "q\"}{,\\")]), Some(1500.0));
        assert_eq!(read.value("a_total", &[("x", "2")]), Some(2.0));
        assert_eq!(read.sum("a_total", &[]), 1502.0);
        assert_eq!(read.value("b", &[]), Some(0.0));
        assert_eq!(read.value("c", &[]), Some(f64::INFINITY));
        assert_eq!(read.value("d", &[]), None);
        assert_eq!(read.named("a_total").count(), 2);
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
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
            assert!(Exposition::parse(text).is_err(), "{text}");
        }
    }
}
