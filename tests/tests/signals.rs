//! Signals as events: a process that crashes or is killed, and one that is told to read its configuration again.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options},
    cgroup::Group,
    need_bpf, need_postgres, need_program,
    postgres::Postgres,
    process::{self, Process},
    programs::{HANGUP, Program},
    skipped, unique_name, wait,
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
fn a_process_that_the_kernel_ends_for_lack_of_memory_is_named_as_that() {
    need_bpf!();
    let group = match Group::with_memory(&unique_name("oom"), 32 << 20) {
        Ok(group) => group,
        Err(error) => skipped!("no group with little memory: {error:#}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let agent = start();
    let (service, path) = shell(folder.path(), "hung");
    // A word that becomes longer than the group's memory is.
    let script = "sleep 2; a=xxxxxxxxxxxxxxxx; while :; do a=$a$a; done";
    let status = Process::start("shell", group.command(&path, &["-c", script])).unwrap().wait(SOON).unwrap();
    assert!(!status.success(), "it had its memory");
    let told = wait::poll(&format!("the end of {service}"), SOON, || {
        let found = events(&agent, &service);
        Ok((!found.is_empty()).then_some(found))
    });
    let told = told.unwrap();
    let [(kind, text)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(kind, "oom_kill");
    assert!(text.ends_with(&format!(" of {service} ended by SIGKILL: the kernel had no memory left for it")), "{text}");
}

/// What waits is not delivered but asked for, and what is handled is sent and delivered: each is told once.
#[test]
fn a_hang_up_is_told_once_however_it_is_taken_and_not_where_it_is_ignored() {
    need_bpf!();
    need_program!("gcc");
    let program = Program::build("hang", HANGUP).unwrap();
    let agent = start();
    let ready = |process: &Process| {
        process.wait_for_line("ready", SOON, |line| (line == "ready").then_some(())).unwrap();
    };
    let ignoring = program.under_another_name("ignr").unwrap();
    let ignores = ignoring.start(&["ignore"]).unwrap();
    ready(&ignores);
    ignores.signal("HUP").unwrap();
    for way in ["handler", "signalfd", "sigwait"] {
        let taking = program.under_another_name("take").unwrap();
        let takes = taking.start(&[way]).unwrap();
        ready(&takes);
        takes.signal("HUP").unwrap();
        takes.wait_for_line("got", SOON, |line| (line == "got").then_some(())).unwrap();
        let told = wait::poll(&format!("the reload by {way}"), SOON, || {
            let found = events(&agent, &taking.name);
            Ok((!found.is_empty()).then_some(found))
        });
        let told = told.unwrap();
        let [(kind, text)] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!(kind, "reload");
        assert!(text.starts_with(&format!("process {} of {} got SIGHUP", takes.id(), taking.name)), "{text}");
    }
    assert_eq!(events(&agent, &ignoring.name), []);
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
