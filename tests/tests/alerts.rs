//! Alerts from a real cause to who is told: the shipped rules, with windows of a second and their times shortened as much, a real
//! Alertmanager and a webhook.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options, steth},
    alertmanager::Alertmanager,
    cgroup::Group,
    exposition::Exposition,
    http, need_bpf, need_postgres, need_program,
    pgwire::Session,
    postgres::Postgres,
    process::Process,
    programs::{HOLD_RESOURCES, Program},
    sink::Sink,
    skipped,
    stage::{Stage, TOLD, find, hold_files},
    unique_name, wait,
};

#[test]
fn open_files_near_their_limit_are_told_once_also_over_a_restart_and_again_when_it_is_over() {
    need_bpf!();
    need_program!("gcc", "prometheus-alertmanager");
    let of_alertmanager = Sink::start().unwrap();
    let alertmanager = Alertmanager::start(&of_alertmanager.url()).unwrap();
    let stage = Stage::new(&format!(
        "[[channel]]\nname = \"am\"\nkind = \"alertmanager\"\nendpoint = {{ url = \"http://127.0.0.1:{}\" }}\n",
        alertmanager.port
    ));
    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let name = program.name.as_str();
    let agent = stage.agent();
    let mut holder = hold_files(&program);
    let alert = stage.told("open_files_high", name, "firing");
    let summary = alert["annotations"]["summary"].as_str().unwrap();
    assert!(summary.starts_with(&format!("a process of {name} has used 9")), "{alert:#}");
    assert!(alert["annotations"]["step"].as_str().unwrap().contains("/proc/PID/fd"), "{alert:#}");
    let held = || {
        let alerts = alertmanager.alerts().unwrap();
        alerts.into_iter().filter(|alert| alert["labels"]["groupname"] == name).collect::<Vec<_>>()
    };
    let first = wait::poll("the alert at Alertmanager", TOLD, || Ok(held().first().cloned())).unwrap();
    assert_eq!(
        (&first["labels"]["alertname"], &first["status"]["state"]),
        (&"open_files_high".into(), &"active".into())
    );
    assert!(alertmanager.log().contains("Listening"), "{}", alertmanager.log());

    let listed = agent.get_json("/api/v1/alerts").unwrap();
    let of_us = |alert: &&Value| alert["labels"]["groupname"] == name;
    let listed = listed["alerts"].as_array().unwrap().iter().find(of_us).cloned().unwrap();
    assert_eq!((&listed["state"], &listed["unit"]), (&"firing".into(), &"ratio".into()));
    let (code, said, _) = steth(&["alerts", "--agent", agent.address()]).unwrap();
    assert!(code == Some(0) && said.contains(summary), "{said}");
    // What alerting counts of a window stands in the next one.
    let counted = |metrics: &Exposition| {
        metrics.sum("steth_alerts", &[("state", "firing")]) >= 1.0
            && metrics.sum("steth_alert_notices_total", &[("outcome", "arrived")]) >= 2.0
    };
    agent.scrape_until("the alert and who was told of it, counted", counted).unwrap();

    // Once more, and nobody is told twice.
    assert!(agent.stop().unwrap().success());
    let agent = stage.agent();
    let again = |agent: &Agent| {
        let alerts = agent.get_json("/api/v1/alerts").unwrap()["alerts"].clone();
        alerts.as_array().unwrap().iter().find(of_us).cloned()
    };
    assert_eq!(again(&agent).unwrap()["id"], listed["id"]);
    let windows = |agent: &Agent| agent.scrape().unwrap().sum("steth_alert_evaluation_seconds_total", &[]);
    for _ in 0..8 {
        let before = windows(&agent);
        wait::poll("another window", TOLD, || Ok((windows(&agent) > before).then_some(()))).unwrap();
    }
    assert_eq!((stage.count("open_files_high", name), held().len()), (1, 1));
    assert_eq!(held()[0]["startsAt"], first["startsAt"]);

    holder.signal("KILL").unwrap();
    drop(holder.wait(TOLD));
    stage.told("open_files_high", name, "resolved");
    let told = of_alertmanager
        .wait_for("that it is over, by Alertmanager", TOLD, |post| find(post, "open_files_high", name, "resolved"));
    told.unwrap();
    assert_eq!(stage.count("open_files_high", name), 1);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn failing_queries_and_slow_ones_fire_and_are_over_with_their_cause() {
    need_bpf!();
    need_postgres!();
    let stage = Stage::new("");
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let service = format!("postgres:{}/cluster", postgres.folder().file_name().unwrap().to_str().unwrap());
    let agent = stage.agent();
    let (fails, ends) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let mut session = Session::open(&postgres, &database).unwrap();
            let (fails, ends) = (Arc::clone(&fails), Arc::clone(&ends));
            std::thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    let (slow, failing) = match fails.load(Ordering::Relaxed) {
                        true => ("select pg_sleep(0.15)", "select 1 / 0"),
                        false => ("select 1", "select 2"),
                    };
                    for statement in ["select pg_sleep(0.01)", slow, failing] {
                        session.query(statement).unwrap();
                    }
                }
            })
        })
        .collect();
    let failing = stage.told("postgres_errors_high", &service, "firing");
    assert_eq!(
        (&failing["labels"]["database"], &failing["labels"]["severity"]),
        (&database.into(), &"critical".into())
    );
    let slow = stage.told("postgres_query_slow", &service, "firing");
    assert!(slow["annotations"]["summary"].as_str().unwrap().contains("takes more than 1"), "{slow:#}");
    fails.store(false, Ordering::Relaxed);
    stage.told("postgres_errors_high", &service, "resolved");
    stage.told("postgres_query_slow", &service, "resolved");
    ends.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert!(agent.stop().unwrap().success());
}

#[test]
fn a_service_that_is_started_again_and_again_is_a_crash_loop_until_it_stays() {
    need_bpf!();
    let unit = format!("{}.service", unique_name("loop"));
    let group = match Group::make("", &format!("stethtest-{}.slice/{unit}", unique_name("slc"))) {
        Ok(group) => group,
        Err(error) => skipped!("{error:#}"),
    };
    let stage = Stage::new("");
    let agent = stage.agent();
    let sleep = |seconds: &str| -> Command { group.command(Path::new("/bin/sleep"), &[seconds]) };
    let begins = std::time::Instant::now();
    // As a service that fails soon after its start, and is started again.
    while stage.count("service_crash_loop", &unit) == 0 {
        assert!(begins.elapsed() < TOLD, "{:#?}", agent.get_json("/api/v1/alerts"));
        Process::start("sleep", sleep("1.3")).unwrap().wait(TOLD).unwrap();
    }
    let alert = stage.told("service_crash_loop", &unit, "firing");
    assert!(alert["annotations"]["summary"].as_str().unwrap().contains("was started again"), "{alert:#}");
    let _stays = Process::start("sleep", sleep("120")).unwrap();
    stage.told("service_crash_loop", &unit, "resolved");
    assert!(agent.stop().unwrap().success());
}

#[test]
fn alerts_are_acknowledged_silenced_and_tried_and_wrong_rules_are_refused_with_their_line() {
    need_bpf!();
    need_program!("gcc");
    let stage = Stage::new("");
    let agent = stage.agent();
    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let quiet = program.under_another_name("hush").unwrap();
    let run = |arguments: &[&str]| steth(&[&["alerts", "--agent", agent.address()], arguments].concat()).unwrap();
    let label = format!("groupname={}", quiet.name);
    let (code, said, _) = run(&["silence", "--label", &label, "--for", "10m", "--by", "me", "--comment", "known"]);
    assert!(code == Some(0) && said.starts_with("silence 1: any rule "), "{said}");
    let (_loud, _quiet) = (hold_files(&program), hold_files(&quiet));
    stage.told("open_files_high", &program.name, "firing");
    let of = |name: &str| {
        let listed = agent.get_json("/api/v1/alerts")?;
        anyhow::Ok(listed["alerts"].as_array().unwrap().iter().find(|it| it["labels"]["groupname"] == name).cloned())
    };
    // It may have come a window later.
    let quieted = || Ok(of(&quiet.name)?.filter(|alert| alert["suppressed"] == "silence"));
    wait::poll("the alert that is silenced", TOLD, quieted).unwrap();
    let id = of(&program.name).unwrap().unwrap()["id"].to_string();
    let (code, said, _) = run(&["ack", &id, "--by", "me", "--comment", "on it"]);
    assert!(code == Some(0) && said.contains("acknowledged") && said.contains("taken care of by me on it"), "{said}");
    assert_eq!(run(&["ack", "999999"]).0, Some(1));
    assert_eq!(run(&["unsilence", "1"]).0, Some(0));
    // Somebody told of it then.
    stage.told("open_files_high", &quiet.name, "firing");
    let counted = |metrics: &Exposition| metrics.sum("steth_alerts_suppressed_total", &[("reason", "silence")]) >= 1.0;
    agent.scrape_until("the silenced alert, counted", counted).unwrap();

    let rules = stage.rules();
    let (code, said, _) = run(&["test", rules.to_str().unwrap()]);
    assert!(code == Some(0) && said.contains("open_files_high: ") && said.contains(&program.name), "{said}");
    let wrong = stage.folder().join("wrong.toml");
    std::fs::write(&wrong, "[[rule]]\nname = \"a\"\nmetric = \"node_lod1\"\nabove = 1.0\nsummary = \"x\"\n").unwrap();
    let (code, _, said) = run(&["test", wrong.to_str().unwrap()]);
    assert!(code == Some(1) && said.contains("wrong.toml:3: there is no metric \"node_lod1\""), "{said}");
    let (code, said, _) = steth(&["config", "check", wrong.to_str().unwrap()]).unwrap();
    assert!(code == Some(2) && said.contains("wrong.toml:3: there is no metric"), "{said}");
    assert_eq!(steth(&["config", "check", rules.to_str().unwrap()]).unwrap().0, Some(0));
    let config = stage.folder().join("steth.toml");
    std::fs::write(&config, format!("[alerts]\nfiles = [{:?}]\n", wrong.to_str().unwrap())).unwrap();
    let (code, said, _) = steth(&["config", "check", config.to_str().unwrap()]).unwrap();
    assert!(code == Some(2) && said.contains("wrong.toml:3: there is no metric"), "{said}");
    assert!(agent.stop().unwrap().success());
}

#[test]
fn a_start_leaves_out_what_is_wrong_and_a_reload_with_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let rule = |name: &str, metric: &str| {
        format!("[[rule]]\nname = {name:?}\nmetric = {metric:?}\nabove = -1.0\nsummary = \"x\"\n")
    };
    let write = |file: &str, text: String| {
        let path = folder.path().join(file);
        std::fs::write(&path, text).unwrap();
        path
    };
    let half = write("half.toml", rule("right", "node_load1") + &rule("wrong", "node_lod1"));
    let broken = write("broken.toml", "[[rule]\n".to_owned());
    let files = format!("files = [{:?}, {:?}]", half.to_str().unwrap(), broken.to_str().unwrap());
    let sections = format!("[window]\nlive = \"1s\"\nkept = \"1s\"\n\n[alerts]\n{files}\n");
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let fired = || {
        let listed = agent.get_json("/api/v1/alerts")?["alerts"].clone();
        Ok(listed.as_array().unwrap().iter().find(|alert| alert["rule"] == "right").cloned())
    };
    wait::poll("the right one of two rules to fire", TOLD, fired).unwrap();
    let log = agent.log();
    for said in ["half.toml:8: there is no metric \"node_lod1\"", "broken.toml:1: "] {
        assert!(log.contains(&format!("left out: {}/{said}", folder.path().display())), "{log}");
    }
    // What alerting counts of a window stands in the next one.
    let counts = |refused: f64, taken_over: f64, left_out: f64| {
        move |metrics: &Exposition| {
            let reloads = |outcome| metrics.sum("steth_config_reloads_total", &[("outcome", outcome)]);
            let wrong = metrics.sum("steth_alert_rules_left_out", &[]);
            (reloads("refused"), reloads("taken_over"), wrong) == (refused, taken_over, left_out)
        }
    };
    agent.scrape_until("what was left out, and no reload", counts(0.0, 0.0, 2.0)).unwrap();
    agent.signal("HUP").unwrap();
    agent.scrape_until("the reload that is refused", counts(1.0, 0.0, 2.0)).unwrap();
    write("half.toml", rule("right", "node_load1"));
    write("broken.toml", String::new());
    agent.signal("HUP").unwrap();
    agent.scrape_until("the reload that is taken over", counts(1.0, 1.0, 0.0)).unwrap();
    assert!(agent.stop().unwrap().success());
}

/// A rule that waits for long.
const SLOW_RULE: &str = "[[rule]]\nname = \"slowly\"\nmetric = \"namedprocess_namegroup_worst_fd_ratio\"\nabove = 0.8\nfor = \"15s\"\nsummary = \
                         \"{groupname} has used {value}\"\n";
const SLOW_RULE_WAITS_MS: u64 = 15_000;

#[test]
fn what_is_acknowledged_silenced_or_pending_is_so_after_a_restart() {
    need_bpf!();
    need_program!("gcc");
    let stage = Stage::new(SLOW_RULE);
    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let quiet = program.under_another_name("hush").unwrap();
    let of = |agent: &Agent, rule: &str, name: &str| {
        let listed = agent.get_json("/api/v1/alerts").unwrap()["alerts"].as_array().unwrap().clone();
        listed.into_iter().find(|it| it["rule"] == rule && it["labels"]["groupname"] == name)
    };
    let until = |agent: &Agent, rule: &str, name: &str, is_so: &dyn Fn(&Value) -> bool| {
        let what = format!("{rule} of {name} to become what is wanted");
        wait::poll(&what, TOLD, || Ok(of(agent, rule, name).filter(is_so))).unwrap()
    };
    let agent = stage.agent();
    let run = |arguments: &[&str]| steth(&[&["alerts", "--agent", agent.address()], arguments].concat()).unwrap();
    let label = format!("groupname={}", quiet.name);
    assert_eq!(run(&["silence", "--label", &label, "--for", "10m", "--by", "me", "--comment", "known"]).0, Some(0));
    let (_loud, _quiet) = (hold_files(&program), hold_files(&quiet));
    stage.told("open_files_high", &program.name, "firing");
    let loud = until(&agent, "open_files_high", &program.name, &|alert| alert["state"] == "firing");
    assert_eq!(run(&["ack", &loud["id"].to_string(), "--by", "me"]).0, Some(0));
    let is_silenced = |alert: &Value| alert["state"] == "firing" && alert["suppressed"] == "silence";
    let hushed = until(&agent, "open_files_high", &quiet.name, &is_silenced);
    let pending = until(&agent, "slowly", &program.name, &|alert| alert["state"] == "pending");
    assert!(agent.stop().unwrap().success());

    let agent = stage.agent();
    let again = until(&agent, "open_files_high", &program.name, &|alert| alert["state"] == "acknowledged");
    assert_eq!((&again["id"], &again["acknowledged"]["by"]), (&loud["id"], &"me".into()), "{again:#}");
    let again = until(&agent, "open_files_high", &quiet.name, &is_silenced);
    assert_eq!(again["id"], hushed["id"], "{again:#}");
    let fires = until(&agent, "slowly", &program.name, &|alert| alert["state"] == "firing");
    assert_eq!((&fires["id"], &fires["pending_unix_ms"]), (&pending["id"], &pending["pending_unix_ms"]), "{fires:#}");
    let waited_ms = fires["firing_unix_ms"].as_u64().unwrap() - fires["pending_unix_ms"].as_u64().unwrap();
    assert!(waited_ms >= SLOW_RULE_WAITS_MS, "{waited_ms}");
    stage.told("slowly", &program.name, "firing");
    let counts = [&program.name, &quiet.name].map(|name| stage.count("open_files_high", name));
    assert_eq!(counts, [1, 0], "told once, and never of what is silenced");
    assert!(agent.stop().unwrap().success());
}

#[test]
fn a_receiver_that_is_away_is_told_later_and_a_state_that_is_corrupt_is_set_aside() {
    need_bpf!();
    need_program!("gcc");
    // Nobody listens there.
    let stage =
        Stage::new("[[channel]]\nname = \"away\"\nkind = \"webhook\"\nendpoint = { url = \"http://127.0.0.1:9/\" }\n");
    let state = stage.folder().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("alerts.json"), "{ this is none").unwrap();
    let agent = stage.agent();
    assert!(agent.log().contains("alerts.json cannot be read"), "{}", agent.log());
    assert!(state.join("alerts.json.unreadable").exists());
    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let _holder = hold_files(&program);
    stage.told("open_files_high", &program.name, "firing");
    let failed = |metrics: &steth_tests::exposition::Exposition| {
        metrics.sum("steth_alert_notices_total", &[("channel", "away"), ("outcome", "failed")]) >= 1.0
    };
    agent.scrape_until("a failed notice", failed).unwrap();
    let channels = agent.get_json("/api/v1/alerts").unwrap()["channels"].clone();
    let away = channels.as_array().unwrap().iter().find(|channel| channel["name"] == "away").cloned().unwrap();
    assert!(away["problem"].as_str().unwrap().contains("127.0.0.1:9"), "{away}");
    let answer = http::post_json(&format!("http://{}/api/v1/alerts", agent.address()), "{}").unwrap();
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert!(agent.stop().unwrap().success());
}
