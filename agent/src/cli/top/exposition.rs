//! A scrape, as far as it is shown. Knows the text exposition that an agent writes, not what its figures mean.

use std::collections::HashMap;

/// What a scrape says: the series of each metric that was asked for.
#[derive(Debug, Default)]
pub struct Scrape {
    series: HashMap<&'static str, Vec<Series>>,
}

/// One series.
#[derive(Debug, PartialEq)]
pub struct Series {
    labels: Vec<(String, String)>,
    /// Its value.
    pub value: f64,
}

impl Scrape {
    /// Reads the series of these names; what is anything else is passed over.
    pub fn read(text: &str, names: &[&'static str]) -> Self {
        let wanted: HashMap<&str, &'static str> = names.iter().map(|name| (*name, *name)).collect();
        let mut scrape = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let Some(name) = wanted.get(name) else { continue };
            scrape.series.entry(name).or_default().extend(series(&line[name.len()..]));
        }
        scrape
    }

    /// The series of a metric.
    pub fn of(&self, name: &str) -> &[Series] {
        self.series.get(name).map_or(&[], Vec::as_slice)
    }

    /// The only series of a metric, or the sum of several; `None` if there is none.
    pub fn sum(&self, name: &str) -> Option<f64> {
        self.of(name).iter().map(|series| series.value).reduce(|left, right| left + right)
    }
}

impl Series {
    /// The value of a label; a label that is missing is empty.
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }

    /// All labels.
    pub fn labels(&self) -> &[(String, String)] {
        &self.labels
    }
}

/// What stands behind a name: labels, if any, and the value.
fn series(rest: &str) -> Option<Series> {
    let mut labels = Vec::new();
    let mut rest = rest;
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (name, quoted) = rest.split_once("=\"")?;
            let (value, behind) = unquoted(quoted)?;
            labels.push((name.trim_start_matches(',').to_owned(), value));
            rest = behind;
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Series { labels, value })
}

/// A value up to the quotation mark that ends it, and what follows.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_read_with_their_labels_and_the_rest_is_passed_over() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"q\\\"}, \\\\n\\n\"} 2.5\na 7\nab{x=\"1\"} 3\nb{broken=\"1} 4\nb nothing\nb 1e3 123\n";
        let scrape = Scrape::read(text, &["a", "b", "c"]);
        let [labelled, bare] = scrape.of("a") else { panic!("{scrape:?}") };
        assert_eq!((labelled.label("x"), labelled.label("y"), labelled.value), ("1", "q\"}, \\n\n", 2.5));
        assert_eq!((bare.labels(), bare.value), (&[][..], 7.0));
        assert_eq!((scrape.sum("a"), scrape.sum("b"), scrape.sum("c")), (Some(9.5), Some(1000.0), None));
        assert_eq!(scrape.of("ab"), []);
    }
}
