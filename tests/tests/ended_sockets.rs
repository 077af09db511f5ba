//! Sockets whose end the kernel does not report: they are forgotten, those in use are not, and where room is short that is
//! counted.

use std::time::Duration;

use steth_tests::{
    agent::{Agent, Options},
    exposition::Exposition,
    need_bpf, need_program,
    process::Process,
    programs::{PAIRS, Program, said_number},
};

const SOON: Duration = Duration::from_secs(30);

fn start(program: &Program, rounds: u32) -> (Process, f64) {
    let process = program.start(&[&rounds.to_string()]).unwrap();
    let closed = process.wait_for_line("sockets=N", SOON, |line| said_number(line, "sockets").ok()).unwrap();
    (process, closed as f64)
}

fn use_again(process: &mut Process) {
    process.say("again").unwrap();
    process.wait_for_line("used", SOON, |line| (line == "used").then_some(())).unwrap();
}

fn ended(metrics: &Exposition) -> f64 {
    metrics.sum("steth_sockets_ended_total", &[])
}

fn forgotten(metrics: &Exposition) -> f64 {
    metrics.sum("steth_cells_full_total", &[("map", "connections")])
}

#[test]
fn sockets_that_have_ended_are_forgotten_and_idle_ones_are_not() {
    need_bpf!();
    need_program!("gcc");
    let sections = "[kernel]\nopen_files_interval = \"1s\"\n".to_owned();
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let program = Program::build("pair", PAIRS).unwrap();
    let (mut holder, mut closed) = start(&program, 200);
    // A socket whose address another one takes before the next pass gives way to it and is not counted.
    let mut metrics = agent.scrape_until("the end of most", |all| ended(all) >= closed / 2.0).unwrap();
    for _ in 0..3 {
        // What ends now shows after two more passes.
        let before = ended(&metrics);
        closed = start(&program, 10).1;
        metrics = agent.scrape_until("the end of more", |all| ended(all) >= before + closed / 2.0).unwrap();
    }
    use_again(&mut holder);
    assert_eq!(forgotten(&agent.settled().unwrap()), 0.0);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn a_socket_that_had_to_give_way_is_counted_when_it_is_used_again() {
    need_bpf!();
    need_program!("gcc");
    // Room for some 4,000 sockets, whatever the machine.
    let sections = "[kernel]\nmemory = \"4MiB\"\nopen_files_interval = \"1h\"\n".to_owned();
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let program = Program::build("pair", PAIRS).unwrap();
    let (mut holder, _) = start(&program, 0);
    use_again(&mut holder);
    assert_eq!(forgotten(&agent.scrape().unwrap()), 0.0);
    let (_, closed) = start(&program, 4_000);
    assert_eq!(closed, 12_000.0);
    use_again(&mut holder);
    let metrics = agent.scrape_until("a forgotten socket", |all| forgotten(all) > 0.0).unwrap();
    assert_eq!(ended(&metrics), 0.0);
    assert!(agent.stop().unwrap().success());
}
