//! The rules that the agent ships with as Prometheus evaluates them, for fleets whose alerts are made where all hosts are seen.
//! What Prometheus has no words for is left out: `clear`, `at_least`, what is usual, and the context that the agent adds.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    config::{alerts::AlertFile, value::show_duration},
    model::{
        metric::Kind,
        rule::{Function, Matcher, Piece, Rule, Selection, Side, Template},
    },
};

/// Prometheus looks at samples, not at windows: so far back at least, whatever the interval of scrapes.
const LEAST: Duration = Duration::from_secs(120);

/// All of them.
pub fn shipped() -> Vec<Value> {
    AlertFile::shipped().rules.iter().map(rule).collect()
}

fn rule(rule: &Rule) -> Value {
    let mut annotations = json!({ "summary": text(rule, &rule.summary) });
    for (name, template) in [("impact", &rule.impact), ("step", &rule.step)] {
        if !template.0.is_empty() {
            annotations[name] = text(rule, template).into();
        }
    }
    json!({
        "alert": rule.name,
        "expr": expression(rule),
        "for": show_duration(rule.held),
        "labels": { "severity": rule.severity.name() },
        "annotations": annotations,
    })
}

fn expression(rule: &Rule) -> String {
    let (of, side) = (&rule.of, if rule.condition.side == Side::Above { ">" } else { "<" });
    let threshold = rule.condition.threshold;
    let by: Vec<&str> = ["instance"].into_iter().chain(rule.by.iter().copied()).collect();
    let sum = |selection: &Selection, suffix: &str| {
        let series = series(selection, suffix);
        let gains = if selection.counts() { format!("rate({series}[{}])", within(rule)) } else { series };
        format!("sum by ({}) ({gains})", by.join(", "))
    };
    let observations = |selection: &Selection| match selection.metric.kind {
        Kind::Histogram(_) => sum(selection, "_count"),
        Kind::Counter | Kind::Gauge => sum(selection, ""),
    };
    match rule.function {
        Function::Value | Function::Rate => format!("{} {side} {threshold}", observations(of)),
        Function::Average => match of.metric.kind {
            Kind::Histogram(_) => format!("{} / {} {side} {threshold}", sum(of, "_sum"), sum(of, "_count")),
            _ => format!("avg_over_time({}[{}]) {side} {threshold}", series(of, ""), within(rule)),
        },
        Function::Quantile(share) => {
            let rate = format!("rate({}[{}])", series(of, "_bucket"), within(rule));
            format!("histogram_quantile({share}, sum by ({}, le) ({rate})) {side} {threshold}", by.join(", "))
        }
        Function::Ratio { is_rest } => {
            let over = rule.over.as_ref().map(observations).unwrap_or_default();
            let ratio = format!("{} / {over}", observations(of));
            let ratio = if is_rest { format!("1 - {ratio}") } else { ratio };
            format!("{ratio} {side} {threshold}")
        }
        Function::Changes => format!("changes({}[{}]) {side} {threshold}", series(of, ""), within(rule)),
        // When a line meets the limit within the threshold, the line is beyond the limit at the threshold.
        Function::TimeToLimit { limit } => {
            let line = format!("predict_linear({}[{}], {threshold})", series(of, ""), within(rule));
            match &rule.over {
                Some(over) => format!("{line} > {}", series(over, "")),
                None => format!("{line} < {limit}"),
            }
        }
    }
}

fn within(rule: &Rule) -> String {
    show_duration(rule.within.max(LEAST))
}

fn series(selection: &Selection, suffix: &str) -> String {
    let label = |matcher: &Matcher| selection.metric.labels.get(matcher.label).copied().unwrap_or_default();
    let one = |matcher: &Matcher, equal: &str, alike: &str| match &matcher.patterns[..] {
        [value] if !value.contains('*') => format!("{}{equal}{value:?}", label(matcher)),
        all => {
            let all: Vec<String> = all.iter().map(|pattern| regex(pattern)).collect();
            format!("{}{alike}{:?}", label(matcher), all.join("|"))
        }
    };
    let with = selection.with.iter().map(|matcher| one(matcher, "=", "=~"));
    let matchers: Vec<String> = with.chain(selection.without.iter().map(|it| one(it, "!=", "!~"))).collect();
    let name = format!("{}{suffix}", selection.metric.name);
    if matchers.is_empty() { name } else { format!("{name}{{{}}}", matchers.join(",")) }
}

/// A pattern in which `*` stands for any text, in RE2's words.
fn regex(pattern: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "_:/-".contains(c) { c.to_string() } else { format!("\\{c}") };
    pattern.chars().map(|c| if c == '*' { ".*".to_owned() } else { plain(c) }).collect()
}

/// A text with Prometheus' own places.
fn text(rule: &Rule, template: &Template) -> String {
    let humanized = match rule.unit() {
        "ratio" => "{{ $value | humanizePercentage }}",
        "s" => "{{ $value | humanizeDuration }}",
        "times" => "{{ $value | humanize }} times",
        _ => "{{ $value | humanize }}",
    };
    // A line's end is not when it is full.
    let is_line = matches!(rule.function, Function::TimeToLimit { .. });
    let place = |name: &str| match name {
        "value" if is_line => format!("less than {}", show_duration(Duration::from_secs_f64(rule.condition.threshold))),
        "value" => humanized.to_owned(),
        "host" => "{{ $labels.instance }}".into(),
        "threshold" => rule.condition.threshold.to_string(),
        "for" => show_duration(rule.held),
        "severity" => rule.severity.name().into(),
        "rule" => rule.name.clone(),
        label => format!("{{{{ $labels.{label} }}}}"),
    };
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::Place(name) => place(name),
    };
    // What is usual is known to the agent alone.
    let known = template.0.iter().filter(|piece| !matches!(piece, Piece::Place(name) if name == "usual"));
    known.map(piece).collect::<String>().replace(", usually ", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expression_of(name: &str) -> String {
        let all = shipped();
        let rule = all.iter().find(|rule| rule["alert"] == name).unwrap_or_else(|| panic!("no {name}"));
        rule["expr"].as_str().unwrap().to_owned()
    }

    #[test]
    fn each_function_is_said_in_promql() {
        let total = "sum by (instance) (node_memory_MemTotal_bytes)";
        let free = "sum by (instance) (node_memory_MemAvailable_bytes)";
        assert_eq!(expression_of("memory_high"), format!("1 - {free} / {total} > 0.8"));
        assert_eq!(
            expression_of("cpu_high"),
            "sum by (instance) (rate(node_cpu_seconds_total{mode!~\"idle|iowait|steal\"}[2m])) / sum by (instance) \
             (rate(node_cpu_seconds_total[2m])) > 0.8"
        );
        assert_eq!(
            expression_of("postgres_query_slow"),
            "histogram_quantile(0.95, sum by (instance, service, database, le) \
             (rate(steth_postgres_query_duration_seconds_bucket{role=\"server\"}[2m]))) > 0.1"
        );
        assert_eq!(
            expression_of("service_crash_loop"),
            "changes(namedprocess_namegroup_oldest_start_time_seconds{groupname=~\".*\\\\.service|.*:.*\"}[5m]) > 5"
        );
        assert!(expression_of("disk_full_soon").ends_with("[30m], 86400) < 0"));
        assert!(
            expression_of("records_lost")
                .contains("sum by (instance, map, reason) (rate(steth_records_lost_total[2m])) > 0")
        );
    }

    #[test]
    fn texts_have_prometheus_own_places_and_none_is_left() {
        for rule in shipped() {
            let texts = rule["annotations"].to_string();
            assert!(!texts.contains(", usually") && !texts.contains("{value}") && !texts.contains("{host}"), "{texts}");
        }
        let all = shipped();
        let slow = all.iter().find(|rule| rule["alert"] == "postgres_query_slow").unwrap();
        let summary = slow["annotations"]["summary"].as_str().unwrap();
        assert!(
            summary.contains("{{ $labels.service }}") && summary.ends_with("{{ $value | humanizeDuration }}"),
            "{summary}"
        );
    }
}
