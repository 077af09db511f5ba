//! What is not counted is counted as lost: each loss is forced, and found under its name.

use std::{fmt::Write, time::Duration};

use steth_tests::{
    agent::{Agent, Options},
    need_bpf, need_postgres, need_program,
    pgwire::Session,
    postgres::Postgres,
    programs::{INTERRUPT, Program},
    skipped,
};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_probe_that_interrupts_itself_is_counted_as_missed() {
    need_bpf!();
    need_program!("gcc");
    if std::thread::available_parallelism().is_ok_and(|processors| processors.get() < 2) {
        skipped!("needs two processors");
    }
    let agent = Agent::start(&Options::default()).unwrap();
    let program = Program::build("irq", INTERRUPT).unwrap();
    let process = program.start(&[]).unwrap();
    if let Err(error) = process.wait_for_line("ready", SOON, |line| (line == "ready").then_some(())) {
        // A kernel without receive packet steering, or a container that may not make a network.
        skipped!("{error}");
    }
    let missed = [("probe", "sk_data_ready")];
    agent.scrape_until("missed runs", |all| all.sum("steth_probe_missed_total", &missed) > 0.0).unwrap();
}

#[test]
fn a_full_ring_costs_names_and_no_counts() {
    need_bpf!();
    need_postgres!();
    // All of these texts together are several times as long as the ring, which is emptied once in a second.
    const STATEMENTS: u32 = 150;
    let postgres = Postgres::start().unwrap();
    postgres.psql("postgres", "create database ringing").unwrap();
    let sections = "[kernel]\nring = \"64KiB\"\nring_interval = \"1s\"\n".to_owned();
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let mut session = Session::open(&postgres, "ringing").unwrap();
    for statement in 0..STATEMENTS {
        let mut text = String::from("select 1");
        while text.len() < 3_900 {
            let _ = write!(text, ", 1 as statement_{statement}");
        }
        assert_eq!(session.query(&text).unwrap(), None);
    }
    let metrics = agent.settled().unwrap();
    assert!(metrics.sum("steth_records_lost_total", &[("map", "records"), ("reason", "ring_full")]) > 0.0);
    let queries = |query: &[(&'static str, &'static str)]| {
        let own = [&[("database", "ringing"), ("role", "client")], query].concat();
        metrics.sum("steth_postgres_query_duration_seconds_count", &own)
    };
    let unknown = queries(&[("query", "unknown")]);
    assert_eq!(queries(&[]), f64::from(STATEMENTS));
    assert!(unknown > 0.0 && unknown < f64::from(STATEMENTS), "{unknown} of {STATEMENTS} without a name");
    assert!(agent.stop().unwrap().success());
}
