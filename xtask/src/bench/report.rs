//! Writes a benchmark's section into the page. Each stands between markers, so that one can be measured again alone.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result};

use super::{
    Bench,
    machine::Machine,
    rounds::{Measured, Quartiles, Rounds},
};
use crate::workspace;

/// What a new page begins with.
const HEAD: &str = "# What steth costs

Written by `cargo xtask bench`, for an hour at most; `cargo xtask bench NAME` measures one section again, `cargo xtask soak` that of a day in an hour.
It needs root, two processors, and nothing else that runs. Variants take turns in one run (A, B, A, B, …), and each
round is compared with itself: medians over rounds, and in brackets the quartiles. Figures move from machine to
machine: compare within one table.
";

/// What a benchmark found, in the order of the page.
#[derive(Default)]
pub struct Findings {
    text: String,
    targets: Vec<Target>,
}

/// How variants are compared with the first.
#[derive(Clone, Copy)]
pub enum Compare {
    /// Value less the first's.
    Added,
    /// Value divided by the first's.
    Ratio,
}

/// What was aimed at.
struct Target {
    what: String,
    measured: f64,
    bound: Bound,
    unit: &'static str,
}

/// What a target asks for.
#[derive(Clone, Copy)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Below(f64),
}

impl Findings {
    pub fn paragraph(&mut self, text: &str) {
        let _ = writeln!(self.text, "{text}\n");
    }

    /// A table of all variants of one subject.
    pub fn comparison(&mut self, rounds: &Rounds, unit: &str, compare: Compare) {
        let base = rounds.variants.first().map_or("the first", |first| first.name);
        let to_base = match compare {
            Compare::Added => format!("added to {base}, {unit}"),
            Compare::Ratio => format!("ratio to {base}"),
        };
        let row = |(place, variant): (usize, &Measured)| {
            let compared = match compare {
                _ if place == 0 => String::new(),
                Compare::Added => shown(rounds.added(variant)),
                Compare::Ratio => shown(rounds.ratio(variant)),
            };
            vec![variant.name.to_owned(), shown(variant.quartiles()), compared]
        };
        let rows: Vec<Vec<String>> = rounds.variants.iter().enumerate().map(row).collect();
        let columns = if rows.len() > 1 { 3 } else { 2 };
        let rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.into_iter().take(columns).collect()).collect();
        self.table(&[rounds.subject, unit, &to_base][..columns], &rows);
    }

    /// A table; all columns but the first hold figures.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let _ = writeln!(self.text, "| {} |\n|---{}|", head.join(" | "), "|---:".repeat(head.len().saturating_sub(1)));
        for row in rows {
            let _ = writeln!(self.text, "| {} |", row.join(" | "));
        }
        self.text.push('\n');
    }

    pub fn target(&mut self, what: &str, measured: f64, unit: &'static str, bound: Bound) {
        self.targets.push(Target { what: what.to_owned(), measured, bound, unit });
    }
}

impl Target {
    fn row(&self) -> Vec<String> {
        let Self { what, measured, bound, unit } = self;
        let (asked, met) = match *bound {
            Bound::AtMost(limit) => (format!("at most {limit}"), *measured <= limit),
            Bound::AtLeast(limit) => (format!("at least {limit}"), *measured >= limit),
            Bound::Below(limit) => (format!("under {limit}"), *measured < limit),
        };
        let met = if met { "met" } else { "**missed**" };
        vec![what.clone(), format!("{asked} {unit}"), format!("{} {unit}", figure(*measured)), met.to_owned()]
    }
}

/// Three digits or so: more are noise.
pub fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

pub fn shown(quartiles: Quartiles) -> String {
    format!("{} ({} to {})", figure(quartiles.median), figure(quartiles.low), figure(quartiles.high))
}

/// One section: what, how, where, the findings and what was aimed at.
pub fn section(bench: &Bench, rounds: usize, mut findings: Findings) -> String {
    let Bench { name, title, what, .. } = bench;
    let targets = std::mem::take(&mut findings.targets);
    if !targets.is_empty() {
        let rows: Vec<Vec<String>> = targets.iter().map(Target::row).collect();
        findings.table(&["target", "asked for", "measured", ""], &rows);
    }
    found_by(title, what, &format!("cargo xtask bench {name} --rounds {rounds}"), &findings.text)
}

/// One section: what, how, where, and what was found.
pub fn found_by(title: &str, what: &str, command: &str, found: &str) -> String {
    format!("## {title}\n\n{what}\n\n`{command}` on {}.\n\n{}\n", Machine::here(), found.trim_end())
}

/// Puts the section in the place of its predecessor, or at the end.
pub fn replace_in_page(page: &str, name: &str, section: &str) -> Result<()> {
    let path = workspace::root().join(page);
    let old = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => HEAD.to_owned(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {page}")),
    };
    fs::create_dir_all(path.parent().unwrap_or(workspace::root()))
        .and_then(|()| fs::write(&path, replaced(&old, name, section)))
        .with_context(|| format!("cannot write {page}"))
}

fn replaced(page: &str, name: &str, section: &str) -> String {
    let (begin, end) = (format!("<!-- bench {name} -->\n"), format!("<!-- end of bench {name} -->\n"));
    let block = format!("{begin}{section}{end}");
    let place = page.find(&begin).zip(page.find(&end)).filter(|(from, to)| from < to);
    match place {
        Some((from, to)) => format!("{}{block}{}", &page[..from], &page[to + end.len()..]),
        None => format!("{}\n\n{block}", page.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_alone_and_a_new_one_goes_to_the_end() {
        let page = replaced("# Head\n", "a", "A1\n");
        let page = replaced(&page, "b", "B1\n");
        let again = replaced(&page, "a", "A2\n");
        assert_eq!(again, page.replace("A1", "A2"));
        assert!(again.starts_with("# Head\n\n<!-- bench a -->\nA2\n<!-- end of bench a -->\n\n<!-- bench b -->\nB1\n"));
        assert_eq!(replaced(&again, "a", "A2\n"), again);
    }
}
