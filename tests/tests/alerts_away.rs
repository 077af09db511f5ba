//! Receivers of alerts that are away when one fires, and come back: they are told once, and of all of it, also by an agent that was
//! stopped or killed meanwhile.

use serde_json::Value;
use steth_tests::{
    agent::Agent,
    alertmanager::Alertmanager,
    exposition::Exposition,
    need_bpf, need_program,
    network::free_port,
    programs::{HOLD_RESOURCES, Program},
    sink::Sink,
    stage::{Stage, TOLD, find, hold_files},
    wait,
};

const RULE: &str = "open_files_high";

/// A webhook and an Alertmanager that are not there.
fn away(webhook: u16, alertmanager: u16) -> String {
    format!(
        "[[channel]]\nname = \"late\"\nkind = \"webhook\"\nendpoint = {{ url = \"http://127.0.0.1:{webhook}/\" }}\n[[channel]]\nname = \
         \"am\"\nkind = \"alertmanager\"\nendpoint = {{ url = \"http://127.0.0.1:{alertmanager}\" }}\n"
    )
}

/// What the two that are away did not get so far.
fn failures(all: &Exposition) -> [f64; 2] {
    ["late", "am"].map(|channel| all.sum("steth_alert_notices_total", &[("channel", channel), ("outcome", "failed")]))
}

/// Waits for a notice that neither gets, after so many.
fn fail(agent: &Agent, before: [f64; 2]) {
    let more = |all: &Exposition| failures(all).iter().zip(before).all(|(now, before)| *now > before);
    agent.scrape_until("notices that do not arrive", more).unwrap();
}

/// Waits for so many more windows.
fn windows(agent: &Agent, count: usize) {
    let evaluated = || agent.scrape().unwrap().sum("steth_alert_evaluation_seconds_total", &[]);
    for _ in 0..count {
        let before = evaluated();
        wait::poll("another window", TOLD, || Ok((evaluated() > before).then_some(()))).unwrap();
    }
}

fn count(sink: &Sink, service: &str, status: &str) -> usize {
    sink.posts().iter().filter(|(_, post)| find(post, RULE, service, status).is_some()).count()
}

#[test]
fn receivers_that_come_back_are_told_once_also_by_an_agent_that_was_started_anew_or_killed() {
    need_bpf!();
    need_program!("gcc", "prometheus-alertmanager");
    let (port, port_of_am) = (free_port().unwrap(), free_port().unwrap());
    let stage = Stage::new(&away(port, port_of_am));
    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let name = program.name.as_str();

    // It fires while both are away, for an agent that is stopped and one that is killed.
    let agent = stage.agent();
    let mut holder = hold_files(&program);
    let firing = stage.told(RULE, name, "firing");
    fail(&agent, [0.0; 2]);
    assert!(agent.stop().unwrap().success());
    let agent = stage.agent();
    fail(&agent, [0.0; 2]);
    drop(agent);
    let agent = stage.agent();
    fail(&agent, [0.0; 2]);

    let (of_alertmanager, late) = (Sink::start().unwrap(), Sink::start_at(port).unwrap());
    let alertmanager = Alertmanager::start_at(&of_alertmanager.url(), port_of_am).unwrap();
    let told = late.wait_for("what fired while it was away", TOLD, |post| find(post, RULE, name, "firing")).unwrap();
    assert_eq!(told["startsAt"], firing["startsAt"]);
    of_alertmanager.wait_for("what fired, by Alertmanager", TOLD, |post| find(post, RULE, name, "firing")).unwrap();
    let held = || {
        let alerts = alertmanager.alerts().unwrap();
        alerts.into_iter().filter(|alert| alert["labels"]["groupname"] == name).collect::<Vec<Value>>()
    };
    windows(&agent, 8);
    assert_eq!((count(&late, name, "firing"), held().len()), (1, 1));
    assert_eq!((count(&stage.sink, name, "firing"), count(&of_alertmanager, name, "firing")), (1, 1));

    // It is over while both are away, for an agent that is killed.
    let posts = late.leave();
    assert!(!posts.iter().any(|(_, post)| find(post, RULE, name, "resolved").is_some()));
    drop(alertmanager);
    let before = failures(&agent.scrape().unwrap());
    holder.signal("KILL").unwrap();
    drop(holder.wait(TOLD));
    stage.told(RULE, name, "resolved");
    fail(&agent, before);
    drop(agent);
    let agent = stage.agent();
    fail(&agent, [0.0; 2]);
    let late = Sink::start_at(port).unwrap();
    let alertmanager = Alertmanager::start_at(&of_alertmanager.url(), port_of_am).unwrap();
    let over = late.wait_for("what was over while it was away", TOLD, |post| find(post, RULE, name, "resolved"));
    assert_ne!(over.unwrap()["endsAt"], firing["endsAt"]);
    agent
        .scrape_until("a notice that Alertmanager takes", |all| {
            all.sum("steth_alert_notices_total", &[("channel", "am"), ("outcome", "arrived")]) >= 1.0
        })
        .unwrap();
    windows(&agent, 8);
    assert_eq!((count(&late, name, "firing"), count(&late, name, "resolved")), (0, 1));
    assert_eq!(count(&stage.sink, name, "resolved"), 1);
    // What is over it does not list.
    assert!(alertmanager.alerts().unwrap().iter().all(|alert| alert["labels"]["groupname"] != name));
    assert!(agent.stop().unwrap().success());
}
