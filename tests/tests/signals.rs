//! Signals as events: a process that crashes or is killed, and one that is told to read its configuration again.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options},
    need_bpf, need_postgres,
    postgres::Postgres,
    process::{self, Process},
    unique_name, wait,
};

const SOON: Duration = Duration::from_secs(30);

fn start() -> Agent {
    let sections = "[window]\nlive = \"100ms\"\nkept = \"1s\"\n".to_owned();
    Agent::start(&Options { sections, ..Options::default() }).unwrap()
}

/// A shell of its own name, and so a service of its own.
fn shell(folder: &Path, stem: &str) -> (String, PathBuf) {
    let name = unique_name(stem);
    let path = folder.join(&name);
    // By another process: none of this one's threads can execute what one of them has open for writing.
    let mut copy = process::command("cp", None);
    copy.arg("/bin/dash").arg(&path);
    Process::start("cp", copy).unwrap().finish(SOON).unwrap();
    (name, path)
}

fn run(shell: &Path, script: &str) {
    let mut command = process::command(shell, None);
    command.args(["-c", script]);
    // How it ends is the point.
    let _ = Process::start("shell", command).unwrap().finish(SOON);
}

/// The events of a service: kind and text.
fn events(agent: &Agent, service: &str) -> Vec<(String, String)> {
    let all = agent.get_json("/api/v1/events").unwrap()["events"].as_array().unwrap().clone();
    let own = all.iter().filter(|event| event["service"] == service);
    let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    own.map(|event| (text(event, "kind"), text(event, "text"))).collect()
}

#[test]
fn a_process_that_crashes_or_is_killed_is_an_event_and_one_that_is_asked_to_end_is_none() {
    need_bpf!();
    let folder = tempfile::tempdir().unwrap();
    let agent = start();
    let mut expected = Vec::new();
    for (stem, signal, name) in [("segv", "SEGV", "SIGSEGV"), ("abrt", "ABRT", "SIGABRT"), ("kill", "KILL", "SIGKILL")]
    {
        let (service, path) = shell(folder.path(), stem);
        // It lives until it is named.
        run(&path, &format!("sleep 2; kill -{signal} $$"));
        expected.push((service, name));
    }
    let (quiet, path) = shell(folder.path(), "term");
    run(&path, "sleep 2; kill -TERM $$");
    run(&path, "kill -HUP $$");
    for (service, name) in &expected {
        let told = wait::poll(&format!("the end of {service}"), SOON, || {
            let found = events(&agent, service);
            Ok((!found.is_empty()).then_some(found))
        });
        let told = told.unwrap();
        let [(kind, text)] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!(kind, "crash");
        assert!(text.starts_with("process ") && text.ends_with(&format!(" of {service} ended by {name}")), "{text}");
    }
    // What came before those has been told as well by now.
    assert_eq!(events(&agent, &quiet), []);
}

#[test]
fn a_server_that_is_told_to_read_its_configuration_again_is_one_event() {
    need_postgres!();
    let postgres = Postgres::start().unwrap();
    let agent = start();
    let database = postgres.create_database().unwrap();
    postgres.psql(&database, "select pg_reload_conf()").unwrap();
    let reloads = || {
        let all = agent.get_json("/api/v1/events")?["events"].as_array().cloned().unwrap_or_default();
        let is_so = |event: &&Value| {
            event["kind"] == "reload" && event["service"].as_str().is_some_and(|name| name.starts_with("postgres:"))
        };
        let found: Vec<Value> = all.iter().filter(is_so).cloned().collect();
        Ok((!found.is_empty()).then_some(found))
    };
    let found = wait::poll("a reload", SOON, reloads).unwrap();
    // The postmaster hands it on to its processes, perhaps in the next window.
    assert!(found.len() <= 2, "{found:#?}");
    assert!(found[0]["text"].as_str().unwrap().contains("SIGHUP"), "{found:#?}");
}
