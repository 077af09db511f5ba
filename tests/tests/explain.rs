//! Why was it slow: incidents that are made on purpose are named by their first cause, and services to which nothing happens
//! get no finding. Windows are a second long, so that a minute is what ten are otherwise.

use std::time::Duration;

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options, steth},
    http,
    incidents::{self, EVERYDAY, Played},
    need_bpf, skipped, wait,
};

fn start() -> Agent {
    let sections = "[window]\nlive = \"100ms\"\nkept = \"1s\"\n[correlate]\nwindows = 600\n[profile]\nhertz = 0\n";
    Agent::start(&Options { sections: sections.into(), ..Options::default() }).unwrap()
}

#[test]
fn incidents_are_named_by_their_first_cause_and_quiet_services_by_none() {
    if let Some(why) = incidents::missing() {
        skipped!("{why}");
    }
    let outcome = incidents::play(EVERYDAY).unwrap();
    for (name, why) in &outcome.skipped {
        steth_tests::report(&format!("{name}: {why}"));
    }
    let mut wrong = Vec::new();
    for Played { name, expected, answer, is_right } in &outcome.played {
        let verdict = if *is_right { "right" } else { "wrong" };
        let said = answer["conclusion"].as_str().unwrap_or("no answer");
        eprintln!("{verdict}: {name}: {} {said}", answer["cause"]);
        if !is_right {
            wrong.push(format!("{name}: expected {expected:?}, got {answer:#}"));
        }
    }
    // At most one in ten may be wrong.
    assert!(wrong.len() * 10 <= outcome.played.len(), "{}", wrong.join("\n"));
    // A machine that others use too may let a quiet service wait; without that nothing is found about it.
    let own: Vec<_> = outcome.of_quiet.iter().filter(|finding| finding["kind"] != "change").collect();
    assert!(own.is_empty(), "{own:#?}");
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
