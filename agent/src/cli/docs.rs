//! `steth docs`: writes the reference documents from the catalogs.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use clap_complete::Shell;

use super::{Outcome, dashboard, pages, terminal};
use crate::{
    config::{
        Config, SHIPPED,
        keys::{Change, KEYS, Key},
    },
    model::{
        catalog::CHAPTERS,
        metric::{Bounds, Kind, Metric},
        semantic,
    },
};

/// The subcommands of `steth docs`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print docs/metrics.md
    #[command(after_help = "Example:\n  steth docs metrics > docs/metrics.md")]
    Metrics,
    /// Print docs/configuration.md
    #[command(after_help = "Example:\n  steth docs config > docs/configuration.md")]
    Config,
    /// Print packaging/grafana/steth.json
    #[command(after_help = "Example:\n  steth docs dashboard > steth.json")]
    Dashboard,
    /// Print packaging/prometheus/steth.rules.yml
    #[command(after_help = "Example:\n  steth docs rules > /etc/prometheus/steth.rules.yml")]
    Rules,
    /// Write a manual page for each subcommand into a folder
    #[command(after_help = "Example:\n  steth docs man /usr/local/share/man/man1")]
    Man {
        /// Where to
        folder: PathBuf,
    },
    /// Print what completes command lines in a shell
    #[command(after_help = "Example:\n  steth docs completions bash > /etc/bash_completion.d/steth")]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// Prints packaging/grafana/steth.json.
///
/// # Errors
/// When stdout cannot be written.
pub fn dashboard() -> Outcome {
    terminal::result(&dashboard::dashboard())
}

/// Prints packaging/prometheus/steth.rules.yml.
///
/// # Errors
/// When stdout cannot be written.
pub fn rules() -> Outcome {
    terminal::result(&dashboard::rules())
}

/// Writes the manual pages.
///
/// # Errors
/// When the folder cannot be written.
pub fn man(folder: &Path) -> Outcome {
    pages::manuals(folder)
}

/// Prints the completions of a shell.
///
/// # Errors
/// When stdout cannot be written.
pub fn completions(shell: Shell) -> Outcome {
    terminal::result(&pages::completions(shell))
}

/// Prints docs/metrics.md.
///
/// # Errors
/// When stdout cannot be written.
pub fn metrics() -> Outcome {
    terminal::result(&metrics_document())
}

/// Prints docs/configuration.md.
///
/// # Errors
/// When stdout cannot be written.
pub fn config() -> Outcome {
    terminal::result(&config_document())
}

fn metrics_document() -> String {
    let mut out = String::from(
        "# Metrics\n\nMade from the catalogs in `agent/src/model/catalog` by `steth docs metrics`; do not edit.\n\
         Counters count since the agent started, those of the host since the host did. Histograms are of seconds, to 68.7 s:\n\
         coarse ones have a bound at each power of four from 1.024 µs, fine ones two in each power of two from 16.4 µs,\n\
         short ones four in each power of two from 1.024 to 131 µs.\n\
         What the label values `other` and `unknown` mean, and how to ask, is in the [README](../README.md#how-to-read-it).\n",
    );
    for chapter in CHAPTERS {
        let _ = writeln!(out, "\n## {}\n\nSource: {}", chapter.title, chapter.source);
        let metrics = (chapter.metrics)();
        match metrics.len() > LONG_TABLE {
            true => families(&metrics).iter().for_each(|(family, metrics)| {
                let _ = writeln!(out, "\n### {family}");
                table(&mut out, metrics);
            }),
            false => table(&mut out, &metrics),
        }
    }
    opentelemetry(&mut out);
    out
}

/// What stands elsewhere under another name.
fn opentelemetry(out: &mut String) {
    out.push_str(
        "\n## Names at an OpenTelemetry collector\n\nWhat is sent by OTLP has the names of OpenTelemetry's semantic conventions where \
         there are such, and the metric's own otherwise. The service is the resource (`service.name`), not an attribute.\n\n\
         | metric | there | unit | attribute |\n|---|---|---|---|\n",
    );
    for row in semantic::NAMES {
        let only = row.only.map(|(label, value)| format!(" with `{label}=\"{value}\"`")).unwrap_or_default();
        let attribute = row.attribute.map_or_else(|| "–".into(), |(name, value)| format!("`{name}={value}`"));
        let _ = writeln!(out, "| `{}`{only} | `{}` | `{}` | {attribute} |", row.ours, row.theirs, row.unit);
    }
    out.push_str("\n| label | attribute there |\n|---|---|\n");
    for (label, attribute) in semantic::ATTRIBUTES {
        let _ = writeln!(out, "| `{label}` | `{attribute}` |");
    }
    out.push_str("\nFields of the records of logs; any other bears the record's name before its own:\n\n");
    out.push_str("| record | field | attribute there |\n|---|---|---|\n");
    for (record, field, attribute) in semantic::FIELDS {
        let _ = writeln!(out, "| `{record}` | `{field}` | `{attribute}` |");
    }
}

fn table(out: &mut String, metrics: &[&Metric]) {
    out.push_str("\n| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for metric in metrics {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "–".into() } else { labels.join(", ") };
        let _ = writeln!(out, "| `{}` | {} | {labels} | {} |", metric.name, kind(metric), cell(metric.help));
    }
}

/// A table with more rows than this is one in which nobody finds anything.
const LONG_TABLE: usize = 40;

/// Metrics by the first two words of their names, in the order of the first of each; those with few of their kind
/// together at the end.
fn families<'a>(metrics: &[&'a Metric]) -> Vec<(String, Vec<&'a Metric>)> {
    const FEW: usize = 2;
    let mut families: Vec<(String, Vec<&Metric>)> = Vec::new();
    for metric in metrics {
        let words: Vec<_> = metric.name.splitn(3, '_').take(2).collect();
        let title = format!("`{}_…`", words.join("_"));
        match families.iter_mut().find(|(known, _)| *known == title) {
            Some((_, members)) => members.push(metric),
            None => families.push((title, vec![metric])),
        }
    }
    let (mut families, small): (Vec<_>, Vec<_>) = families.into_iter().partition(|(_, members)| members.len() > FEW);
    let others: Vec<_> = small.into_iter().flat_map(|(_, members)| members).collect();
    families.extend((!others.is_empty()).then(|| ("Others".to_owned(), others)));
    families
}

fn kind(metric: &Metric) -> &'static str {
    match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(Bounds::Coarse) => "histogram, coarse",
        Kind::Histogram(Bounds::Fine) => "histogram, fine",
        Kind::Histogram(Bounds::Short) => "histogram, short",
    }
}

fn config_document() -> String {
    let mut out = String::from(
        "# Configuration\n\nMade from the catalog of keys and from `packaging/steth.toml` by `steth docs config`; do not edit.\n\n\
         The file is `/etc/steth/steth.toml`, or what `--config` names. An environment variable overrides the file, a flag both.\n\
         SIGHUP takes over the keys marked *reload*; the others wait for a restart.\n",
    );
    let mut section = None;
    for key in KEYS {
        let (of, name) = key.section_and_name();
        if section != Some(of) {
            section = Some(of);
            let title = if of.is_empty() { "At the top".into() } else { format!("`[{of}]`") };
            let _ = writeln!(
                out,
                "\n## {title}\n\n| key | default | allowed | change | what and why |\n|---|---|---|---|---|"
            );
        }
        let change = match key.change {
            Change::Reload => "reload",
            Change::Restart => "restart",
        };
        let default = key.shape.show(&Config::default());
        let (allowed, reason) = (cell(&key.shape.allowed()), cell(&reason(key)));
        let _ = writeln!(out, "| `{name}`<br>`{}` | `{default}` | {allowed} | {change} | {reason} |", key.variable());
    }
    out
}

/// The comment above a key in the shipped file.
fn reason(key: &Key) -> String {
    let (section, name) = key.section_and_name();
    let mut here = section.is_empty();
    let mut comment = String::new();
    for line in SHIPPED.lines() {
        if line.starts_with('[') {
            here = line == format!("[{section}]");
        } else if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
            continue;
        } else if here && line.split_once(" = ").is_some_and(|(key, _)| key == name) {
            return comment.trim().to_string();
        }
        comment.clear();
    }
    String::new()
}

/// Text that cannot break a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn assert_current(file: &str, command: &str, document: &str) {
        let path = format!("{}/../docs/{file}", env!("CARGO_MANIFEST_DIR"));
        let current = std::fs::read_to_string(path).unwrap_or_default() == document;
        assert!(
            current,
            "docs/{file} is not what the catalog says: cargo run -p steth -- docs {command} > docs/{file}"
        );
    }

    #[test]
    fn the_metrics_document_is_current() {
        assert_current("metrics.md", "metrics", &metrics_document());
    }

    #[test]
    fn the_configuration_document_is_current() {
        assert_current("configuration.md", "config", &config_document());
    }

    #[test]
    fn every_key_has_its_reason_in_the_document() {
        for key in KEYS {
            assert!(reason(key).ends_with('.'), "{}: {:?}", key.path, reason(key));
        }
    }

    #[test]
    fn names_and_labels_in_the_catalog_are_what_prometheus_takes() {
        let mut names = HashSet::new();
        for metric in CHAPTERS.iter().flat_map(|chapter| (chapter.metrics)()) {
            assert!(names.insert(metric.name), "{} is in the catalog twice", metric.name);
            let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            assert!(plain(metric.name) && metric.labels.iter().all(|label| plain(label)), "{metric:?}");
            assert!(!metric.help.is_empty(), "{metric:?}");
        }
    }
}
