//! Why was it slow: incidents that are made on purpose are named by their first cause, and services to which nothing happens
//! get no finding. Windows are a second long, so that a minute is what ten are otherwise.

use std::time::{Duration, Instant};

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options, steth},
    http::{self, percent_encoded},
    incidents::{Incident, Made, Row, Stage, TABLE},
    need_bpf, need_program,
    postgres::Postgres,
    programs::{ACTOR, Program},
    wait,
};

/// From the incident to the answer: nine windows that confirm it, and what a busy machine takes.
const ANSWERED: Duration = Duration::from_secs(25);
/// What a change needs of windows, and some more.
const TRAINED: Duration = Duration::from_secs(120);

fn start() -> Agent {
    let sections = "[window]\nlive = \"100ms\"\nkept = \"1s\"\n[correlate]\nwindows = 600\n[profile]\nhertz = 0\n";
    Agent::start(&Options { sections: sections.into(), ..Options::default() }).unwrap()
}

fn answer(agent: &Agent, service: &str, since: Instant) -> Option<Value> {
    let seconds = since.elapsed().as_secs() + 5;
    let path = format!("/api/v1/explain?from=-{seconds}s&service={}", percent_encoded(service));
    // A service is known a window after it begins.
    agent.get_json(&path).ok()
}

/// One incident and what was said of it.
struct Case {
    row: &'static Row,
    incident: Incident,
    answer: Option<Value>,
}

#[test]
fn incidents_are_named_by_their_first_cause_and_quiet_services_by_none() {
    need_bpf!();
    need_program!("gcc", "setpriv");
    let postgres = Postgres::missing().is_none().then(|| Postgres::start().unwrap());
    let agent = start();
    let folder = tempfile::tempdir().unwrap();
    let cluster = postgres.as_ref().map(cluster).unwrap_or_default();
    let stage = Stage { actor: Program::build("actr", ACTOR).unwrap(), postgres, cluster, folder };
    let began = Instant::now();
    let mut cases = Vec::new();
    for row in TABLE {
        match (row.make)(&stage).unwrap_or_else(|error| panic!("{}: {error:#}", row.name)) {
            Made::Quiet(incident) => cases.push(Case { row, incident, answer: None }),
            Made::Skipped(why) => steth_tests::report(&format!("{}: {why}", row.name)),
        }
    }
    let quiet = stage.actor.under_another_name("qsrv").unwrap();
    let server = quiet.start(&["serve", "127.0.0.1", "0", "100"]).unwrap();
    let find = |line: &str| line.strip_prefix("port=").map(str::to_owned);
    let port = server.wait_for_line("port=", Duration::from_secs(20), find).unwrap();
    let caller = stage.actor.under_another_name("qcal").unwrap();
    let _caller = caller.start(&["call", "127.0.0.1", &port, "20000"]).unwrap();

    wait::poll("enough windows", TRAINED, || {
        let looked_at = agent.get_json("/api/v1/explain?from=-10m")?["looked_at"].clone();
        let (windows, needed) = (looked_at["windows"].as_u64(), looked_at["windows_needed"].as_u64());
        Ok((windows > needed.map(|needed| needed + 5)).then_some(()))
    })
    .unwrap();
    let waves = cases.iter().map(|case| case.row.wave).max().unwrap();
    for wave in 0..=waves {
        let struck = Instant::now();
        for case in cases.iter_mut().filter(|case| case.row.wave == wave) {
            case.incident.strike(agent.address()).unwrap_or_else(|error| panic!("{}: {error:#}", case.row.name));
        }
        // Each is asked about until it is named, and then once more at the end: what was named stays named.
        let _ = wait::poll("all causes", ANSWERED, || {
            let mut all = true;
            for case in cases.iter_mut().filter(|case| case.row.wave == wave) {
                if !case.answer.as_ref().is_some_and(|answer| case.incident.is_named(answer)) {
                    case.answer = answer(&agent, &case.incident.asks, struck);
                    all = false;
                }
            }
            std::thread::sleep(Duration::from_millis(500));
            Ok(all.then_some(()))
        });
        for case in cases.iter_mut().filter(|case| case.row.wave == wave) {
            case.incident.calm(agent.address()).unwrap_or_else(|error| panic!("{}: {error:#}", case.row.name));
        }
    }
    let mut wrong = Vec::new();
    for Case { row, incident, answer } in &cases {
        let answer = answer.clone().unwrap_or_default();
        let verdict = if incident.is_named(&answer) { "right" } else { "wrong" };
        let said = answer["conclusion"].as_str().unwrap_or("no answer");
        eprintln!("{verdict}: {}: {} {said}", row.name, answer["cause"]);
        if verdict == "wrong" {
            wrong.push(format!("{}: expected {:?}, got {answer:#}", row.name, incident.expected));
        }
    }
    eprintln!("{} of {} first causes are right, after {:?}", cases.len() - wrong.len(), cases.len(), began.elapsed());
    // At most one in ten may be wrong.
    assert!(wrong.len() * 10 <= cases.len(), "{}", wrong.join("\n"));

    let findings = agent.get_json("/api/v1/findings").unwrap();
    let of_quiet = findings["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["service"] == quiet.name.as_str() || finding["service"] == caller.name.as_str());
    // A machine that others use too may let a quiet service wait; without that nothing is found about it.
    let own: Vec<_> = of_quiet.filter(|finding| finding["kind"] != "change").collect();
    assert!(own.is_empty(), "{own:#?}");
    assert!(agent.stop().unwrap().success());
}

/// The name that the server's service has.
fn cluster(postgres: &Postgres) -> String {
    format!("postgres:{}/cluster", postgres.folder().file_name().unwrap().to_str().unwrap())
}

#[test]
fn an_answer_is_printed_with_its_conclusion_first_and_events_can_be_posted() {
    need_bpf!();
    let agent = start();
    let url = format!("http://{}/api/v1/events", agent.address());
    let posted = http::post_json(&url, r#"{"service": "steth", "text": "deploy 1.2"}"#).unwrap();
    assert_eq!(posted.status, 201, "{}", posted.body);
    let events = agent.get_json("/api/v1/events").unwrap();
    assert_eq!((&events["events"][0]["kind"], &events["events"][0]["text"]), (&"posted".into(), &"deploy 1.2".into()));
    assert_eq!(http::post_json(&url, r#"{"text": ""}"#).unwrap().status, 400);
    assert_eq!(http::post_json(&url, &"x".repeat(100_000)).unwrap().status, 413);

    wait::poll("a window of the agent's own", Duration::from_secs(30), || {
        Ok(agent.get_json("/api/v1/explain?service=steth").ok())
    })
    .unwrap();
    let ask = |arguments: &[&str]| steth(&[&["explain", "--agent", agent.address()], arguments].concat()).unwrap();
    let (code, said, _) = ask(&["steth"]);
    assert_eq!(code, Some(0));
    let first = said.lines().next().unwrap();
    // Too early for a change, but a busy machine may lack something.
    assert!(first.contains("steth") || first.contains("core"), "{said}");
    assert!(said.contains("deploy 1.2") && said.contains("looked at: "), "{said}");
    let (_, said, _) = ask(&["steth", "--format", "json", "--from", "-5m"]);
    let answer: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(answer["service"], "steth");
    let (code, _, said) = ask(&["nobody-of-that-name"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("there is no service \"nobody-of-that-name\""), "{said}");
    let (code, _, said) = ask(&["--from", "soon"]);
    assert_eq!(code, Some(2), "{said}");
    let metrics = agent.scrape_until("the history", |all| all.sum("steth_history_series", &[]) > 0.0).unwrap();
    assert!(metrics.matching("steth_findings_total", &[("kind", "leak")]).count() == 1);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn who_keeps_no_past_says_so() {
    need_bpf!();
    let agent =
        Agent::start(&Options { sections: "[correlate]\nenabled = false\n".into(), ..Options::default() }).unwrap();
    let (code, _, said) = steth(&["explain", "--agent", agent.address()]).unwrap();
    assert_eq!(code, Some(1));
    assert!(said.contains("correlate.enabled is false"), "{said}");
    assert!(agent.stop().unwrap().success());
}
