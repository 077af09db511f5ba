//! Rules that are tried on the windows of the past: the same evaluation and the same life, and nobody is told.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use super::{
    book::{Book, Evaluation},
    evaluate::Evaluator,
    recording::Recording,
};
use crate::{
    config::alerts::AlertFile,
    model::{
        alert::{Alert, AlertRefused, AlertState, Surroundings, Tried, TriedRule},
        rule::Rule,
    },
};

/// Alerts of a rule that are shown.
const SHOWN: usize = 50;

/// What rules that stand in a text would have come to. Takes its time.
///
/// # Errors
/// What is wrong with the text, or that there is no window yet.
pub fn run(recording: &Recording, text: &str, host: &str) -> Result<Tried, AlertRefused> {
    let file = AlertFile::parse(Path::new("rules"), text).map_err(|complaints| {
        let all: Vec<String> = complaints.iter().map(ToString::to_string).collect();
        AlertRefused::Wrong(all.join("\n"))
    })?;
    let rules: Vec<Arc<Rule>> = file.rules.into_iter().map(Arc::new).collect();
    let mut evaluator = Evaluator::new(rules.clone());
    let mut book = Book::default();
    let mut tried = Tried::default();
    let mut seen: BTreeMap<String, TriedRule> = BTreeMap::new();
    let mut series: BTreeMap<String, usize> = BTreeMap::new();
    let mut fired: BTreeMap<u64, Alert> = BTreeMap::new();
    let mut is_first = true;
    recording.replay(|snapshot, elapsed| {
        if tried.windows == 0 {
            tried.from_unix_ms = snapshot.at_unix_ms;
        }
        tried.windows += 1;
        tried.to_unix_ms = snapshot.at_unix_ms;
        let elapsed = if std::mem::take(&mut is_first) { Duration::ZERO } else { elapsed };
        let figures = evaluator.observe(snapshot, elapsed);
        series.clear();
        for figure in &figures {
            *series.entry(figure.rule.name.clone()).or_default() += 1;
            let rule = seen.entry(figure.rule.name.clone()).or_default();
            let value = figure.reading.value;
            rule.least = Some(rule.least.map_or(value, |least| least.min(value)));
            rule.largest = Some(rule.largest.map_or(value, |largest| largest.max(value)));
        }
        for (name, count) in &series {
            let rule = seen.entry(name.clone()).or_default();
            rule.series = rule.series.max(*count);
        }
        let surroundings = |_: Option<&str>| Surroundings::default();
        let now_unix_ms = snapshot.at_unix_ms;
        book.observe(Evaluation { figures, now_unix_ms, elapsed, host, surroundings: &surroundings }, &rules);
        for entry in book.entries().filter(|entry| entry.alert.state != AlertState::Pending) {
            fired.insert(entry.alert.id, entry.alert.clone());
        }
    });
    if tried.windows == 0 {
        return Err(AlertRefused::Missing("no window has ended yet".into()));
    }
    tried.rules = rules
        .iter()
        .map(|rule| {
            let of_rule = fired.values().filter(|alert| alert.rule == rule.name && alert.firing_unix_ms.is_some());
            let alerts = of_rule.take(SHOWN).cloned().collect();
            TriedRule { rule: rule.name.clone(), alerts, ..seen.remove(&rule.name).unwrap_or_default() }
        })
        .collect();
    Ok(tried)
}
