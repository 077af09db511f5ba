//! The rules for Prometheus that ship with the agent: what promtool makes of them, and a real Prometheus.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options},
    alertmanager::Alertmanager,
    http, need_bpf, need_program,
    process::{self, Process},
    prometheus::Prometheus,
    wait,
};

const SOON: Duration = Duration::from_secs(60);

fn shipped() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../packaging/prometheus/steth.rules.yml").canonicalize().unwrap()
}

/// What promtool says of the shipped rules, with these series each half minute, and these alerts expected to fire after 20 minutes.
fn tried(series: &[(&str, &str)], rule: &str, firing: &[Value]) -> Result<(), String> {
    let series: Vec<Value> =
        series.iter().map(|(series, values)| serde_json::json!({ "series": series, "values": values })).collect();
    let tests = serde_json::json!({
        "rule_files": [shipped()],
        "evaluation_interval": "30s",
        "tests": [{
            "interval": "30s",
            "input_series": series,
            "alert_rule_test": [{ "eval_time": "20m", "alertname": rule, "exp_alerts": firing }],
        }],
    });
    let folder = tempfile::tempdir().unwrap();
    // JSON is YAML.
    let file = folder.path().join("tests.yml");
    std::fs::write(&file, tests.to_string()).unwrap();
    let mut promtool = process::command("promtool", None);
    promtool.args(["test", "rules"]).arg(file);
    let mut promtool = Process::start("promtool", promtool).unwrap();
    let status = promtool.wait(SOON).unwrap();
    if status.success() { Ok(()) } else { Err(promtool.log()) }
}

fn gone(instance: &str) -> Value {
    serde_json::json!({
        "exp_labels": { "instance": instance, "severity": "warning" },
        "exp_annotations": { "summary": format!("Nothing has been heard of the steth agent on {instance} for five minutes.") },
    })
}

#[test]
fn each_agent_that_is_gone_is_told_by_itself() {
    need_program!("promtool");
    let of = |instance: &str| format!("steth_build_info{{instance={instance:?},version=\"1\"}}");
    let (one, other) = (of("one:9464"), of("other:9464"));
    let (stays, goes) = ("1x60", "1x10 stale");
    let told = |one_has: &str, other_has: &str, firing: &[Value]| {
        tried(&[(&one, one_has), (&other, other_has)], "StethGone", firing).unwrap();
    };
    told(stays, stays, &[]);
    told(stays, goes, &[gone("other:9464")]);
    told(goes, goes, &[gone("one:9464"), gone("other:9464")]);
    // What a scrape without an answer, or a write that stays away, leaves is the same.
    told(stays, "1x10", &[gone("other:9464")]);
    // Back again, and for less than five minutes.
    told(stays, "1x10 stale _x5 1x40", &[]);
    told(stays, "1x34 stale", &[]);
    // Another version under the same name is the same agent.
    let newer = "steth_build_info{instance=\"one:9464\",version=\"2\"}";
    tried(&[(&one, goes), (newer, "_x10 1x60")], "StethGone", &[]).unwrap();
    // It can tell.
    tried(&[(&one, goes)], "StethGone", &[]).unwrap_err();

    let nobody = serde_json::json!({
        "exp_labels": { "severity": "warning" },
        "exp_annotations": { "summary": "No steth agent has been heard of for six hours." },
    });
    tried(&[("up{instance=\"one:9464\"}", stays)], "StethNowhere", &[nobody]).unwrap();
    tried(&[(&one, goes)], "StethNowhere", &[]).unwrap();
}

#[test]
fn a_real_prometheus_evaluates_every_rule_and_misses_an_agent_that_ends() {
    need_bpf!();
    need_program!("prometheus", "promtool");
    let agent = Agent::start(&Options::default()).unwrap();
    agent.settled().unwrap();
    let prometheus = Prometheus::with_rules(agent.address(), &shipped()).unwrap();
    let up = || Ok(prometheus.query("count(steth_build_info)")?.filter(|count| *count == 1.0));
    wait::poll("a scrape of the agent", SOON, up).unwrap();
    let rules = || -> anyhow::Result<Vec<Value>> {
        let groups = prometheus.get("/api/v1/rules")?["data"]["groups"].clone();
        let rules = groups.as_array().into_iter().flatten().flat_map(|group| group["rules"].as_array());
        Ok(rules.flatten().cloned().collect())
    };
    let evaluated = wait::poll("an evaluation of each rule with the agent's figures", SOON, || {
        let rules = rules()?;
        let is_over = |rule: &Value| rule["health"] != "unknown";
        Ok((!rules.is_empty() && rules.iter().all(is_over)).then_some(rules))
    })
    .unwrap();
    assert!(evaluated.len() > 15, "{evaluated:#?}");
    for rule in &evaluated {
        let error = rule["lastError"].as_str().unwrap_or_default();
        assert!(rule["health"] == "ok" && error.is_empty(), "{rule:#}");
    }

    let address = agent.address().to_owned();
    assert!(agent.stop().unwrap().success());
    let missed = wait::poll("that the agent is missed", SOON, || {
        let rules = rules()?;
        let gone = rules.iter().find(|rule| rule["name"] == "StethGone");
        Ok(gone.and_then(|rule| rule["alerts"].as_array()?.first().cloned()))
    })
    .unwrap();
    assert_eq!((&missed["labels"]["instance"], &missed["state"]), (&address.into(), &"pending".into()), "{missed:#}");
}

/// By the part of a configuration that ships with the rules.
#[test]
fn while_an_agent_is_gone_nobody_is_told_of_its_host() {
    need_program!("prometheus-alertmanager");
    let inhibits = include_str!("../../packaging/prometheus/alertmanager.yml");
    let alertmanager = Alertmanager::start_with("http://127.0.0.1:9/", inhibits).unwrap();
    let of = |name: &str, instance: &str| serde_json::json!({ "labels": { "alertname": name, "instance": instance } });
    let alerts = [of("StethGone", "one:9464"), of("CpuHigh", "one:9464"), of("CpuHigh", "other:9464")];
    let url = format!("http://127.0.0.1:{}/api/v2/alerts", alertmanager.port);
    let answer = http::post_json(&url, &serde_json::json!(alerts).to_string()).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let told = wait::poll("one of three alerts being held back", SOON, || {
        let held = |alert: &Value| alert["status"]["inhibitedBy"].as_array().is_some_and(|by| !by.is_empty());
        let all = alertmanager.alerts()?;
        let is_settled = all.len() == 3 && all.iter().any(held);
        Ok(is_settled.then(|| all.into_iter().filter(|alert| !held(alert)).collect::<Vec<_>>()))
    });
    let mut told: Vec<Value> = told.unwrap().into_iter().map(|alert| alert["labels"].clone()).collect();
    told.sort_by_key(ToString::to_string);
    let expected = [of("CpuHigh", "other:9464"), of("StethGone", "one:9464")];
    assert_eq!(told, expected.map(|alert| alert["labels"].clone()));
}
