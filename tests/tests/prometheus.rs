//! The endpoint as Prometheus sees it.

use std::time::Duration;

use steth_tests::{
    agent::{Agent, Options},
    http, need_bpf, need_program,
    programs::{Program, SYSCALL_MIX},
    prometheus::{Prometheus, complaints},
    wait,
};

#[test]
fn promtool_has_no_complaint() {
    need_bpf!();
    need_program!("gcc", "promtool");
    let agent = Agent::start(&Options::default()).unwrap();
    let program = Program::build("mix", SYSCALL_MIX).unwrap();
    program.run(&["100", "10", "10", "10", "10"]).unwrap();
    agent.settled().unwrap();
    let text = agent.scrape_raw().unwrap();
    let all = complaints(&text).unwrap();
    // node_exporter's own names are kept as they are, and promtool says the same two things about node_exporter.
    let inherited = |line: &&str| {
        line.starts_with("node_") && (line.ends_with("not 'camelCase'") || line.ends_with("instead of \"bits\""))
    };
    let ours: Vec<&str> = all.lines().filter(|line| !inherited(line)).collect();
    assert_eq!(ours, Vec::<&str>::new());
    assert!(text.contains(&program.name));
    let answer = http::get(&agent.url).unwrap();
    assert!(answer.header("content-type").unwrap().starts_with("text/plain"), "{:?}", answer.headers);
}

#[test]
fn a_real_prometheus_answers_a_quantile() {
    need_bpf!();
    need_program!("prometheus");
    let agent = Agent::start(&Options::default()).unwrap();
    let prometheus = Prometheus::start(agent.address()).unwrap();
    // Prometheus and the agent make syscalls all the time, so there is a rate.
    let quantile = "histogram_quantile(0.95, sum by (le) (rate(steth_syscall_duration_seconds_bucket[10s])))";
    let answer = wait::poll("a quantile", Duration::from_secs(60), || prometheus.query(quantile)).unwrap();
    assert!(answer > 0.0, "{answer}");
    assert_eq!(prometheus.query("up{job='steth'}").unwrap(), Some(1.0));
}

#[test]
fn health_and_readiness_are_told() {
    let agent = Agent::start(&Options::default()).unwrap();
    for path in ["/-/healthy", "/-/ready", "/metrics", "/api/metrics"] {
        assert_eq!(http::get(&format!("http://{}{path}", agent.address())).unwrap().status, 200, "{path}");
    }
    let missing = http::get(&format!("http://{}/nowhere", agent.address())).unwrap();
    assert_eq!(missing.status, 404);
    let error: serde_json::Value = serde_json::from_str(&missing.body).unwrap();
    assert!(error["error"].is_string() && error["hint"].is_string(), "{}", missing.body);
}
