//! What an alert says: its labels, its figures and its texts. Knows no channel.

use std::{cell::Cell, collections::BTreeMap};

use super::evaluate::Figure;
use crate::model::{
    alert::{Alert, AlertState, Surroundings},
    figure::{figure, listed},
    finding::Dependency,
    rule::Rule,
};

/// Labels that name a service.
const OF_SERVICE: &[&str] = &["service", "groupname"];
/// Callers that are named; the rest is counted.
const NAMED_CALLERS: usize = 5;

/// Alerts that are looked around in one window.
pub const LOOKS: usize = 16;

/// What texts are made of, beside the alert and its rule.
pub struct Words<'a> {
    /// The host's name.
    pub host: &'a str,
    /// What lies around an alert of a service, or of the host.
    pub surroundings: &'a dyn Fn(Option<&str>) -> Surroundings,
    /// How many more alerts are looked around in this window: in a storm the first few say what it is about.
    pub looks: Cell<usize>,
}

/// The labels of a figure by name.
pub fn labels(of: &Figure) -> BTreeMap<String, String> {
    of.rule.by.iter().map(|name| (*name).to_owned()).zip(of.labels.iter().cloned()).collect()
}

/// The service that an alert is about, if it is about one.
pub fn service(alert: &Alert) -> Option<&str> {
    OF_SERVICE.iter().find_map(|label| alert.labels.get(*label)).map(String::as_str)
}

/// An alert that begins.
pub fn alert(id: u64, of: &Figure, labels: &BTreeMap<String, String>, now_unix_ms: u64) -> Alert {
    let (rule, reading) = (&of.rule, of.reading);
    Alert {
        id,
        rule: rule.name.clone(),
        severity: rule.severity,
        labels: labels.clone(),
        state: AlertState::Pending,
        value: reading.value,
        usual: reading.usual,
        threshold: rule.condition.threshold,
        unit: rule.unit().to_owned(),
        summary: String::new(),
        impact: String::new(),
        step: String::new(),
        findings: Vec::new(),
        pending_unix_ms: now_unix_ms,
        firing_unix_ms: None,
        resolved_unix_ms: None,
        resolved_by: None,
        acknowledged: None,
        suppressed: None,
    }
}

impl Words<'_> {
    /// Fills in what an alert says, with the figures that it has; if `looks_around`, also what lies around it.
    pub fn describe(&self, alert: &mut Alert, rule: &Rule, looks_around: bool) {
        let unit = rule.unit();
        let said = |value: f64| figure(value, unit).trim_end().to_owned();
        let mut values: BTreeMap<&str, String> =
            alert.labels.iter().map(|(name, value)| (name.as_str(), printable(value))).collect();
        values.insert("value", said(alert.value));
        values.insert("usual", alert.usual.map_or_else(|| "not known".into(), said));
        values.insert("threshold", said(alert.threshold));
        values.insert("for", figure(rule.held.as_secs_f64(), "s"));
        values.insert("severity", rule.severity.name().to_owned());
        values.insert("rule", rule.name.clone());
        values.insert("host", self.host.to_owned());
        alert.summary = rule.summary.filled(&values);
        alert.step = rule.step.filled(&values);
        let looks_around = looks_around && self.looks.get() > 0;
        if !looks_around && !alert.impact.is_empty() {
            return;
        }
        alert.impact = rule.impact.filled(&values);
        if !looks_around {
            return;
        }
        self.looks.set(self.looks.get() - 1);
        let Surroundings { findings, callers } = (self.surroundings)(service(alert));
        alert.findings = findings;
        if !callers.is_empty() {
            let more = callers.len().saturating_sub(NAMED_CALLERS);
            let named =
                |it: &Dependency| format!("{} ({})", printable(&it.service), figure(it.bytes_per_second, "B/s"));
            let mut names: Vec<String> = callers.iter().take(NAMED_CALLERS).map(named).collect();
            names.extend((more > 0).then(|| format!("{more} more")));
            alert.impact = format!("{} It is called by {}.", alert.impact, listed(&names)).trim_start().to_owned();
        }
    }
}

/// Without what a terminal, a header or a chat would take for more than text.
fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}
