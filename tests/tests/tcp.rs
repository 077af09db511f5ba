//! TCP figures against listeners of known behaviour.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use steth_tests::{
    agent::{Agent, Options},
    exposition::{Exposition, Histogram},
    need_bpf, need_program,
    network::{LateListener, free_port},
    process::Process,
    programs::{ABORT, CONNECT, FULL_BACKLOG, Program, UNREACHABLE, said_number},
};

const SOON: Duration = Duration::from_secs(20);

fn connects(metrics: &Exposition, service: &str, outcome: &str) -> Histogram {
    metrics.histogram("steth_tcp_connect_duration_seconds", &[("service", service), ("outcome", outcome)])
}

/// All connection attempts of the service, so that none is counted under two outcomes.
fn assert_only(metrics: &Exposition, service: &str, outcome: &str) {
    let all = metrics.sums_by("steth_tcp_connect_duration_seconds_count", &[("service", service)], "outcome");
    let all: Vec<(String, f64)> = all.into_iter().filter(|(_, count)| *count > 0.0).collect();
    assert_eq!(all, [(outcome.to_owned(), 1.0)]);
}

/// A listener whose backlog is full, so that the kernel drops who calls.
struct Dropping {
    program: Program,
    port: String,
    _running: Process,
}

impl Dropping {
    fn start() -> Self {
        let program = Program::build("full", FULL_BACKLOG).unwrap();
        let running = program.start(&[]).unwrap();
        let port = running.wait_for_line("its port", SOON, |line| said_number(line, "port").ok()).unwrap();
        Self { program, port: port.to_string(), _running: running }
    }
}

#[test]
fn a_late_accept_shows_in_the_queue_and_not_in_the_connect() {
    need_bpf!();
    need_program!("gcc");
    let agent = Agent::start(&Options::default()).unwrap();
    for address in ["127.0.0.1", "::1"] {
        let delay = Duration::from_millis(300);
        let listener = LateListener::start(address.parse::<IpAddr>().unwrap(), delay).unwrap();
        let port = listener.address.port().to_string();
        let program = Program::build("late", CONNECT).unwrap();
        // More than the buffers of both ends hold (tcp_wmem, tcp_rmem: 4 and 6 MiB), so that the program ends
        // only after its connection was accepted and read.
        const BYTES: u64 = 30_000_000;
        let begin = Instant::now();
        let client = program.start(&[address, &port, &BYTES.to_string(), "0"]).unwrap();
        let said = client
            .wait_for_line("its outcome", SOON, |line| line.starts_with("outcome=").then(|| line.to_owned()))
            .unwrap();
        assert!(said.contains("outcome=established"), "{said}");
        listener.announce();
        client.finish(SOON).unwrap();
        let metrics = agent.settled().unwrap();
        // Taken after all: the kernel ends the connection when the listener's end has closed too, which is later
        // than the end of the program.
        let elapsed = begin.elapsed();

        assert_only(&metrics, &program.name, "established");
        let connect = connects(&metrics, &program.name, "established");
        let outside = said_number(&said, "connect_ns").unwrap() as f64 / 1e9;
        assert!(connect.sum > 0.0 && connect.sum <= outside, "{address}: {} of {outside}", connect.sum);

        let queue = metrics.histogram("steth_tcp_accept_queue_duration_seconds", &[("port", &port)]);
        assert_eq!(queue.count, 1.0, "{address}");
        assert!((delay.as_secs_f64()..=elapsed.as_secs_f64()).contains(&queue.sum), "{address}: {}", queue.sum);

        let bytes = |direction: &str| {
            metrics.sum("steth_tcp_bytes_total", &[("service", &program.name), ("direction", direction)])
        };
        assert_eq!((bytes("sent"), bytes("received")), (BYTES as f64, 0.0), "{address}");

        let own = [("service", program.name.as_str())];
        let life = metrics.histogram("steth_tcp_connection_duration_seconds", &own);
        assert_eq!(life.count, 1.0, "{address}");
        assert!((delay.as_secs_f64()..=elapsed.as_secs_f64()).contains(&life.sum), "{address}: {}", life.sum);
        assert!(metrics.histogram("steth_tcp_rtt_seconds", &own).count > 0.0, "{address}");
        assert_eq!(metrics.sum("steth_tcp_connections", &own), 0.0, "{address}: it is closed");
    }
}

#[test]
fn a_refused_connection_is_counted_as_refused() {
    need_bpf!();
    need_program!("gcc");
    let agent = Agent::start(&Options::default()).unwrap();
    for address in ["127.0.0.1", "::1"] {
        let program = Program::build("refu", CONNECT).unwrap();
        let said = program.run(&[address, &free_port().unwrap().to_string(), "0", "0"]).unwrap();
        assert!(said.contains("outcome=ECONNREFUSED"), "{said}");
        let metrics = agent.settled().unwrap();
        assert_only(&metrics, &program.name, "refused");
        let connect = connects(&metrics, &program.name, "refused");
        let outside = said_number(&said, "connect_ns").unwrap() as f64 / 1e9;
        assert!(connect.sum > 0.0 && connect.sum <= outside, "{address}: {} of {outside}", connect.sum);
    }
}

#[test]
fn a_port_that_drops_is_counted_as_timed_out() {
    need_bpf!();
    need_program!("gcc");
    let agent = Agent::start(&Options::default()).unwrap();
    let dropping = Dropping::start();
    let program = Program::build("drop", CONNECT).unwrap();
    let said = program.run(&["127.0.0.1", &dropping.port, "0", "1"]).unwrap();
    assert!(said.contains("outcome=ETIMEDOUT"), "{said}");
    let metrics = agent.settled().unwrap();
    assert_only(&metrics, &program.name, "timed_out");
    let connect = connects(&metrics, &program.name, "timed_out");
    let outside = said_number(&said, "connect_ns").unwrap() as f64 / 1e9;
    // What lies outside is one wake-up of the program.
    assert!((outside * 0.98..=outside).contains(&connect.sum), "{} of {outside}", connect.sum);
    let overflows = metrics.sum("steth_tcp_listen_overflows_total", &[("service", &dropping.program.name)]);
    assert!(overflows >= 2.0, "{overflows} of at least one SYN and its repetition");
}

#[test]
fn a_call_that_the_network_turns_back_is_counted_as_unreachable() {
    need_bpf!();
    need_program!("gcc");
    let agent = Agent::start(&Options::default()).unwrap();
    let dropping = Dropping::start();
    let program = Program::build("unre", UNREACHABLE).unwrap();
    assert_eq!(program.run(&[&dropping.port]).unwrap(), "outcome=EHOSTUNREACH");
    assert_only(&agent.settled().unwrap(), &program.name, "unreachable");
}

#[test]
fn a_call_that_is_given_up_is_counted_as_aborted() {
    need_bpf!();
    need_program!("gcc");
    let agent = Agent::start(&Options::default()).unwrap();
    let dropping = Dropping::start();
    let program = Program::build("abrt", ABORT).unwrap();
    assert_eq!(program.run(&[&dropping.port, "1"]).unwrap(), "aborted=1");
    assert_only(&agent.settled().unwrap(), &program.name, "aborted");
}
