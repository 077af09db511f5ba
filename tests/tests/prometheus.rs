//! The endpoint as Prometheus sees it.

use std::{path::Path, time::Duration};

use steth_tests::{
    agent::{Agent, Options},
    http, need_bpf, need_postgres, need_program,
    postgres::Postgres,
    process::{self, Process},
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
    // What it asks for since 2.5; it takes either format for a series of the same name.
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let answer = http::get_as(&agent.url, accept).unwrap();
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text"), "{:?}", answer.headers);
    assert!(answer.body.ends_with("# EOF\n"));
    for name in ["steth_syscall_errors_total", "node_vmstat_pgfault", "steth_build_info", "node_cpu_seconds_total"] {
        let shown = format!("count({name}{{job='steth'}})");
        assert!(prometheus.query(&shown).unwrap().is_some_and(|count| count > 0.0), "{name}");
    }
}

/// From a bucket of a histogram to the slow query, and from there to a flame graph.
#[test]
fn a_real_prometheus_leads_from_a_slow_bucket_to_the_query() {
    need_postgres!();
    need_program!("prometheus");
    let postgres = Postgres::start().unwrap();
    // Pieces of the past that are soon whole.
    let sections = "[postgres]\nslow_query = \"30ms\"\n[profile]\npiece = \"2s\"\n".to_owned();
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    agent.settled().unwrap();
    let prometheus = Prometheus::start(agent.address()).unwrap();
    let database = postgres.create_database().unwrap();
    for sleep in ["0.05", "0.4"] {
        postgres.psql(&database, &format!("select pg_sleep({sleep})")).unwrap();
    }
    let selector = format!("steth_postgres_query_duration_seconds_bucket{{database='{database}',role='server'}}");
    let found = wait::poll("two exemplars", Duration::from_secs(60), || {
        let found = prometheus.exemplars(&selector)?;
        Ok((found.len() >= 2).then_some(found))
    });
    let found = found.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    for (series, exemplar) in found {
        let value: f64 = exemplar["value"].as_str().unwrap().parse().unwrap();
        let id = exemplar["labels"]["query_id"].as_str().unwrap();
        assert!((0.05..1.0).contains(&value), "{exemplar}");
        let bound: f64 = series["le"].as_str().unwrap().parse().unwrap();
        assert!(value <= bound && value > 0.4 * bound, "{value} in the bucket up to {bound}");
        let answer = agent.get_json(&format!("/api/v1/postgres/slow?id={id}")).unwrap();
        let [query] = answer["queries"].as_array().unwrap().as_slice() else { panic!("{id}: {answer}") };
        assert_eq!(
            (&query["duration_seconds"].as_f64().unwrap(), &query["query"]),
            (&value, &series["query"]),
            "{query}"
        );
        // The first time names of code are looked for, which takes its time on a busy machine.
        let url = format!("http://{}{}", agent.address(), query["flame"].as_str().unwrap());
        let flame = wait::poll("a flame graph", Duration::from_secs(60), || Ok(http::get(&url).ok())).unwrap();
        assert_eq!(flame.status, 200, "{url}: {}", flame.body);
        assert!(
            flame.header("content-type").is_some_and(|kind| kind.starts_with("image/svg+xml")),
            "{:?}",
            flame.headers
        );
    }
}

#[test]
fn promtool_takes_the_packaged_rules_and_prometheus_every_panel() {
    need_program!("prometheus", "promtool");
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    let mut promtool = process::command("promtool", None);
    promtool.args(["check", "rules"]).arg(packaging.join("prometheus/steth.rules.yml"));
    let said = Process::start("promtool", promtool).unwrap().finish(Duration::from_secs(30)).unwrap();
    assert!(said.contains("SUCCESS: 21 rules found"), "{said}");
    let prometheus = Prometheus::receiver().unwrap();
    let text = std::fs::read_to_string(packaging.join("grafana/steth.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rows = dashboard["panels"].as_array().unwrap().iter();
    let panels: Vec<_> = rows.flat_map(|row| row["panels"].as_array().unwrap()).collect();
    assert!(panels.len() > 100, "{}", panels.len());
    for panel in panels {
        let expression = panel["targets"][0]["expr"].as_str().unwrap();
        let asked = expression.replace("$__rate_interval", "1m").replace("$instance", ".*");
        prometheus.samples(&asked).unwrap();
    }
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
