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
    sink::{Manner, Sink},
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

/// What receivers do that are there and take nothing. All but the one that says that the request is wrong are asked again.
const MANNERS: [(&str, &str, Manner); 6] = [
    (WRONG, "slack", Manner::Says("HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\n\r\nwhat")),
    ("elsewhere", "slack", Manner::Says("HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nlost")),
    ("busy", "webhook", Manner::Says("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")),
    ("mad", "webhook", Manner::Says("\x01\x02 no HTTP at all\r\n\r\n")),
    ("short", "alertmanager", Manner::Says("HTTP/1.1 200 OK\r\nContent-Len")),
    ("mute", "webhook", Manner::Hangs),
];
const WRONG: &str = "strict";

#[test]
fn receivers_that_refuse_rave_or_hang_hold_up_nobody_and_are_told_when_they_listen() {
    need_bpf!();
    need_program!("gcc");
    let sinks = MANNERS.map(|(.., manner)| {
        let sink = Sink::start().unwrap();
        sink.set_manner(manner);
        sink
    });
    let folder = tempfile::tempdir().unwrap();
    let channels = MANNERS.iter().zip(&sinks).map(|((name, kind, _), sink)| {
        let endpoint = match *kind {
            "slack" => {
                let file = folder.path().join(name);
                std::fs::write(&file, sink.url()).unwrap();
                format!("url_file = {file:?}")
            }
            _ => format!("endpoint = {{ url = {:?}, timeout = \"1s\" }}", sink.url().trim_end_matches('/')),
        };
        format!("[[channel]]\nname = {name:?}\nkind = {kind:?}\n{endpoint}\n")
    });
    let stage = Stage::new(&channels.collect::<String>());
    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let name = program.name.as_str();
    let agent = stage.agent();
    let mut holder = hold_files(&program);
    stage.told(RULE, name, "firing");
    let of = |all: &Exposition, channel: &str, outcome: &str| {
        all.sum("steth_alert_notices_total", &[("channel", channel), ("outcome", outcome)])
    };
    let refused = |all: &Exposition| {
        let is_refused = |channel| match channel {
            WRONG => of(all, channel, "dropped") >= 1.0,
            _ => of(all, channel, "failed") >= 2.0,
        };
        MANNERS.iter().all(|(channel, ..)| is_refused(channel))
    };
    let metrics = agent.scrape_until("what each refuses", refused).unwrap();
    for (channel, ..) in MANNERS {
        let wrong = channel == WRONG;
        assert_eq!(
            (of(&metrics, channel, "arrived"), of(&metrics, channel, "failed") == 0.0),
            (0.0, wrong),
            "{channel}"
        );
        assert!(agent.log().contains(&format!("channel {channel}: ")), "nothing is said of it: {}", agent.log());
    }
    // Nobody else waits for them.
    windows(&agent, 3);
    assert_eq!(stage.count(RULE, name), 1);

    sinks.iter().for_each(|sink| sink.set_manner(Manner::Takes));
    let told = |sink: &Sink| sink.posts().iter().filter(|(_, post)| post.to_string().contains(name)).count();
    let waiting = MANNERS.iter().zip(&sinks).filter(|((channel, ..), _)| *channel != WRONG);
    for ((channel, kind, _), sink) in waiting {
        sink.wait_for(channel, TOLD, |post| post.to_string().contains(name).then_some(())).unwrap();
        windows(&agent, 2);
        // Alertmanager is told again and again.
        assert!(told(sink) == 1 || *kind == "alertmanager", "{channel} was told {} times", told(sink));
    }
    holder.signal("KILL").unwrap();
    drop(holder.wait(TOLD));
    // What has come to an end Alertmanager is told by a time, as the test above has it.
    for ((channel, ..), sink) in MANNERS.iter().zip(&sinks).filter(|((_, kind, _), _)| *kind != "alertmanager") {
        let is_over = |post: &Value| post.to_string().contains(name) && post.to_string().contains("resolved");
        sink.wait_for(&format!("{channel} to be told that it is over"), TOLD, |post| is_over(post).then_some(()))
            .unwrap();
    }
    assert!(agent.stop().unwrap().success());
}
