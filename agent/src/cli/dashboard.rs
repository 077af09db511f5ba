//! Grafana's dashboard and Prometheus' rules, made from the catalog of metrics and the rules that the agent ships with: what
//! `packaging/` holds. Knows no metric by name, but for the rules about the agent itself.

mod promql;

use serde_json::{Value, json};

use crate::model::{
    catalog::{
        CHAPTERS,
        alert::{LOST, NOTICES},
        kernel::{CELLS_FULL, RECORDS_LOST},
        send::{DROPPED, OLDEST},
        steth::BUILD_INFO,
    },
    metric::{Kind, Metric},
};

/// The label that a metric's series are added up by: the first that tells who did it.
const WHO: &[&str] = &["service", "groupname", "destination"];
/// Lines in one panel.
const MOST_LINES: usize = 20;

/// For how long an agent that is gone is missed: as long as a night's sleep, and not for ever where a host was given up. Over it
/// Prometheus reads all samples at each evaluation, one series an agent.
const MISSED: &str = "6h";

/// A dashboard with a row for each chapter of the catalog and a panel for each metric.
pub fn dashboard() -> String {
    let (mut panels, mut y) = (Vec::new(), 0);
    for chapter in CHAPTERS {
        let within = (chapter.metrics)();
        let inner: Vec<Value> = within.iter().enumerate().map(|(at, metric)| panel(metric, at, y + 1)).collect();
        panels.push(json!({
            "type": "row", "title": chapter.title, "collapsed": true, "panels": inner,
            "gridPos": { "h": 1, "w": 24, "x": 0, "y": y },
        }));
        y += 1;
    }
    let variable = |name: &str, label: &str, query: &str| {
        json!({
            "name": name, "label": label, "type": "query", "datasource": "${datasource}", "query": query,
            "refresh": 2, "includeAll": true, "multi": true, "allValue": ".*", "current": { "text": "All", "value": "$__all" },
        })
    };
    let document = json!({
        "title": "steth", "uid": "steth", "tags": ["steth"], "schemaVersion": 39, "editable": true,
        "time": { "from": "now-1h", "to": "now" }, "refresh": "10s",
        "templating": { "list": [
            { "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus" },
            variable("instance", "Host", "label_values(steth_build_info, instance)"),
        ] },
        "panels": panels,
    });
    format!("{document:#}\n")
}

/// Rules about the agent itself, that it is there and loses nothing, and those that it ships with, as Prometheus evaluates them.
pub fn rules() -> String {
    let rule = |name: &str, expression: String, lasting: &str, summary: &str| {
        json!({
            "alert": name, "expr": expression, "for": lasting,
            "labels": { "severity": "warning" },
            "annotations": { "summary": summary },
        })
    };
    let lost = |metric: &Metric| {
        format!("sum by (instance, {}) (increase({}[10m])) > 0", metric.labels.join(", "), metric.name)
    };
    let name = BUILD_INFO.name;
    let rules = json!([
        rule(
            "StethGone",
            format!("count by (instance) (last_over_time({name}[{MISSED}])) unless on (instance) {name}"),
            "5m",
            "Nothing has been heard of the steth agent on {{ $labels.instance }} for five minutes."
        ),
        rule(
            "StethNowhere",
            format!("absent_over_time({name}[{MISSED}])"),
            "5m",
            "No steth agent has been heard of for six hours."
        ),
        rule("StethRecordsLost", lost(&RECORDS_LOST), "0s", "steth on {{ $labels.instance }} loses records."),
        rule(
            "StethCellsFull",
            lost(&CELLS_FULL),
            "10m",
            "steth on {{ $labels.instance }} has no room for more series."
        ),
        rule(
            "StethSendDropped",
            lost(&DROPPED),
            "0s",
            "steth on {{ $labels.instance }} drops what {{ $labels.destination }} should get."
        ),
        rule(
            "StethAlertsUndelivered",
            format!("sum by (instance, channel) (increase({}{{outcome!=\"arrived\"}}[10m])) > 0", NOTICES.name),
            "5m",
            "Who is to be told of alerts by {{ $labels.channel }} of {{ $labels.instance }} is not."
        ),
        rule("StethAlertsLost", lost(&LOST), "0s", "Alerts of {{ $labels.instance }} are lost."),
        rule(
            "StethSendLate",
            format!("max by (instance, destination) ({}) > 300", OLDEST.name),
            "5m",
            "What {{ $labels.destination }} gets from {{ $labels.instance }} is {{ $value | humanizeDuration }} late.",
        ),
    ]);
    // JSON is YAML, and nothing is quoted wrongly.
    let groups = json!([{ "name": "steth", "rules": rules }, { "name": "steth-hosts", "rules": promql::shipped() }]);
    format!("{:#}\n", json!({ "groups": groups }))
}

fn panel(metric: &Metric, at: usize, y: usize) -> Value {
    let who = metric.labels.iter().find(|label| WHO.contains(label)).or(metric.labels.first()).copied();
    let by = |more: &[&str]| {
        let labels: Vec<_> = ["instance"].into_iter().chain(who).chain(more.iter().copied()).collect();
        format!("by ({})", labels.join(", "))
    };
    let selector = "{instance=~\"$instance\"}";
    let name = metric.name;
    let (title, expression) = match metric.kind {
        Kind::Counter => ("a second", format!("sum {} (rate({name}{selector}[$__rate_interval]))", by(&[]))),
        Kind::Gauge => ("", format!("sum {} ({name}{selector})", by(&[]))),
        Kind::Histogram(_) => {
            let rate = format!("sum {} (rate({name}_bucket{selector}[$__rate_interval]))", by(&["le"]));
            ("95th percentile", format!("histogram_quantile(0.95, {rate})"))
        }
    };
    let legend = who.map_or("{{instance}}".to_owned(), |who| format!("{{{{instance}}}} {{{{{who}}}}}"));
    json!({
        "type": "timeseries", "title": format!("{name} {title}").trim_end(), "description": metric.help,
        "datasource": { "type": "prometheus", "uid": "${datasource}" },
        "gridPos": { "h": 8, "w": 12, "x": 12 * (at % 2), "y": y + 8 * (at / 2) },
        "fieldConfig": { "defaults": { "unit": unit(metric) }, "overrides": [] },
        "targets": [{ "refId": "A", "expr": format!("topk({MOST_LINES}, {expression})"), "legendFormat": legend }],
    })
}

/// Grafana's name of the unit.
fn unit(metric: &Metric) -> &'static str {
    let stem = metric.name.strip_suffix("_total").unwrap_or(metric.name);
    match (stem.rsplit('_').next(), metric.kind) {
        // Seconds a second: a share.
        (Some("seconds"), Kind::Counter) => "percentunit",
        (Some("seconds"), _) => "s",
        (Some("bytes"), Kind::Counter) => "Bps",
        (Some("bytes"), _) => "bytes",
        (Some("ratio"), _) => "percentunit",
        _ => "short",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::alerts::AlertFile;

    fn packaged(path: &str) -> String {
        std::fs::read_to_string(format!("{}/../packaging/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap_or_default()
    }

    #[test]
    fn the_packaged_dashboard_and_rules_are_current() {
        assert!(packaged("grafana/steth.json") == dashboard(), "cargo xtask docs");
        assert!(packaged("prometheus/steth.rules.yml") == rules(), "cargo xtask docs");
    }

    #[test]
    fn what_inhibits_a_shipped_rule_inhibits_it_in_alertmanager_too() {
        let inhibits = packaged("prometheus/alertmanager.yml");
        for rule in &AlertFile::shipped().rules {
            for by in &rule.inhibited_by {
                let (source, target) = (format!("['alertname=\"{by}\"']"), format!("['alertname=\"{}\"']", rule.name));
                let both = format!("- source_matchers: {source}\n  target_matchers: {target}\n  equal: [instance]\n");
                assert!(inhibits.contains(&both), "{both}");
            }
        }
    }

    #[test]
    fn every_metric_has_a_panel_that_asks_for_it() {
        let document: Value = serde_json::from_str(&dashboard()).unwrap();
        let rows = document["panels"].as_array().unwrap();
        let panels: Vec<_> = rows.iter().flat_map(|row| row["panels"].as_array().unwrap()).collect();
        let metrics: Vec<_> = CHAPTERS.iter().flat_map(|chapter| (chapter.metrics)()).collect();
        assert_eq!(panels.len(), metrics.len());
        for (panel, metric) in panels.iter().zip(metrics) {
            assert!(panel["targets"][0]["expr"].as_str().unwrap().contains(metric.name), "{panel}");
            assert_eq!(panel["description"], metric.help);
        }
    }
}
