//! What is not counted is counted as lost: each loss is forced, and found under its name.

use std::time::Duration;

use steth_tests::{
    agent::{Agent, Options},
    need_bpf, need_program,
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
