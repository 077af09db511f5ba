//! What goes wrong around the agent: a clear word and the right exit code, and nothing lost.

use std::{net::TcpListener, time::Duration};

use steth_tests::{
    agent::{Agent, Options, Refusal, steth},
    need_bpf, need_postgres, need_program, need_root,
    observed::Observed,
    process::User,
    programs::{EXCHANGE, HOLD_CONNECTIONS, MESSAGES, Program},
    skipped,
};

const FAILED: Option<i32> = Some(1);
const WRONG_CONFIGURATION: Option<i32> = Some(2);
const MISSING_PRIVILEGE: Option<i32> = Some(3);

/// Every one of these words stands in what it said.
fn assert_says(refusal: &Refusal, words: &[&str]) {
    for word in words {
        assert!(refusal.said.contains(word), "no {word:?} in:\n{}", refusal.said);
    }
    assert!(!refusal.said.contains("panicked"), "{}", refusal.said);
}

fn sections(lines: &str) -> Options {
    Options { sections: lines.to_owned(), ..Options::default() }
}

#[test]
fn a_misspelt_key_is_named_with_its_line() {
    let line = "lvie = \"1s\"";
    let refusal = Agent::refused(&sections(&format!("[window]\n{line}\n"))).unwrap();
    assert_eq!(refusal.code, WRONG_CONFIGURATION);
    assert_says(&refusal, &[&refusal.place_of(line).unwrap(), "lvie", "live"]);
}

#[test]
fn a_wrong_unit_is_named_with_its_line() {
    let line = "live = \"10 parsecs\"";
    let refusal = Agent::refused(&sections(&format!("[window]\n{line}\n"))).unwrap();
    assert_eq!(refusal.code, WRONG_CONFIGURATION);
    assert_says(&refusal, &[&refusal.place_of(line).unwrap(), "window.live", "parsecs", "ms"]);
}

#[test]
fn config_check_says_what_run_would_say() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("steth.toml");
    std::fs::write(&config, "# Ours\nlisen = \"127.0.0.1:9464\"\n").unwrap();
    let (code, list, _) = steth(&["config", "check", config.to_str().unwrap()]).unwrap();
    assert_eq!(code, WRONG_CONFIGURATION);
    assert!(list.contains(&format!("{}:2", config.display())) && list.contains("lisen"), "{list}");
    std::fs::write(&config, "# Ours\nlisten = \"127.0.0.1:9464\"\n").unwrap();
    let (code, _, said) = steth(&["config", "check", config.to_str().unwrap()]).unwrap();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_missing_configuration_file_is_named() {
    let (code, _, said) = steth(&["run", "--config", "/nonexistent/steth.toml"]).unwrap();
    assert_eq!(code, WRONG_CONFIGURATION);
    assert!(said.contains("/nonexistent/steth.toml"), "{said}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    need_root!();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let listener = TcpListener::bind(&taken).unwrap();
    let refusal = Agent::refused(&Options { listen: Some(taken.clone()), ..Options::default() }).unwrap();
    assert_eq!(refusal.code, FAILED);
    assert_says(&refusal, &[&taken, "taken"]);
    drop(listener);
}

#[test]
fn a_second_agent_leaves_the_first_alone() {
    need_root!();
    let first = Agent::start(&Options::default()).unwrap();
    let refusal = Agent::refused(&Options { lock: Some(first.lock.clone()), ..Options::default() }).unwrap();
    assert_eq!(refusal.code, FAILED);
    assert_says(&refusal, &["another steth agent", &first.id().to_string()]);
    first.scrape().unwrap();
    assert!(first.stop().unwrap().success());
}

#[test]
fn a_lock_left_by_a_killed_agent_is_no_hindrance() {
    need_root!();
    let folder = tempfile::tempdir().unwrap();
    let options = Options { lock: Some(folder.path().join("lock")), ..Options::default() };
    drop(Agent::start(&options).unwrap());
    assert!(Agent::start(&options).unwrap().stop().unwrap().success());
}

/// Runs, measures the host, and says in one line why no probe runs.
fn assert_host_metrics_only(options: &Options, words: &[&str]) {
    let agent = Agent::start(options).unwrap();
    let metrics = agent.scrape_until("host metrics", |all| all.sum("node_memory_MemTotal_bytes", &[]) > 0.0).unwrap();
    assert!(metrics.sum("node_cpu_seconds_total", &[]) > 0.0);
    assert_eq!(metrics.sum("steth_probe_attached", &[]), 0.0);
    let log = agent.log();
    let said = log.lines().find(|line| line.contains("only host metrics")).unwrap_or_else(|| panic!("{log}"));
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert!(agent.stop().unwrap().success());
}

#[test]
fn who_is_not_root_gets_host_metrics_and_is_told_what_is_missing() {
    need_root!();
    let Some(nobody) = User::named("nobody") else { skipped!("needs a user nobody") };
    let options = Options { user: Some(nobody), ..Options::default() };
    assert_host_metrics_only(&options, &["privileges", "CAP_BPF", "root"]);
}

#[test]
fn without_the_kernels_btf_the_rest_runs() {
    need_root!();
    let no_btf = "[kernel]\nbtf = \"/nonexistent\"\n";
    assert_host_metrics_only(&sections(no_btf), &["/nonexistent", "CONFIG_DEBUG_INFO_BTF"]);

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("steth.toml");
    std::fs::write(&config, no_btf).unwrap();
    let (code, report, said) = steth(&["doctor", "--config", config.to_str().unwrap()]).unwrap();
    assert!(report.contains("BTF") && report.contains("missing"), "{report}{said}");
    assert_eq!(code, MISSING_PRIVILEGE, "{report}{said}");
}

#[test]
fn an_agent_that_is_asked_to_end_does_so_and_another_may_follow() {
    need_root!();
    let folder = tempfile::tempdir().unwrap();
    let options = Options { lock: Some(folder.path().join("lock")), ..Options::default() };
    for _ in 0..2 {
        assert!(Agent::start(&options).unwrap().stop().unwrap().success());
    }
}

/// One message of the Postgres protocol: type, length with itself, body (manual, section "Message Formats").
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// A start-up packet has no type: length, protocol 3.0, pairs of text.
fn startup() -> Vec<u8> {
    let body = b"\0\x03\0\0user\0postgres\0database\0hostile\0\0";
    [&u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], body].concat()
}

fn query() -> Vec<u8> {
    message(b'Q', b"select 1\0")
}

/// AuthenticationOk and ReadyForQuery, idle.
fn welcome() -> Vec<u8> {
    [message(b'R', &[0; 4]), message(b'Z', b"I")].concat()
}

/// CommandComplete and ReadyForQuery, idle.
fn completed() -> Vec<u8> {
    [message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat()
}

/// Bytes that look like nothing, the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// Sends the parts in turn from the client's and the server's end, in pieces of `chunk` bytes, under a service of
/// its own; returns that service.
fn exchange(original: &Program, chunk: usize, parts: &[Vec<u8>]) -> Program {
    exchange_by(original, &chunk.to_string(), parts)
}

/// The same, in the way that the program is told.
fn exchange_by(original: &Program, way: &str, parts: &[Vec<u8>]) -> Program {
    let program = original.under_another_name("exch").unwrap();
    let mut arguments = vec![way.to_owned()];
    for (at, part) in parts.iter().enumerate() {
        let path = program.folder().join(format!("part{at}"));
        std::fs::write(&path, part).unwrap();
        arguments.push(path.to_str().unwrap().to_owned());
    }
    program.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    program
}

#[test]
fn hostile_bytes_count_as_no_query_and_good_ones_go_on_counting() {
    need_postgres!();
    need_program!("gcc");
    let agent = Agent::start(&Options::default()).unwrap();
    let observed = Observed::start().unwrap();
    let huge = [&b"Q"[..], &0x8000_0000_u32.to_be_bytes(), b"select 1\0"].concat();
    let (full_query, full_answer) = (query(), completed());
    let hostile: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("noise", vec![noise(100_000), noise(100_000)]),
        (
            "HTTP",
            vec![
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
            ],
        ),
        ("TLS", vec![b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(), b"\x15\x03\x03\0\x02\x02\x28".to_vec()]),
        ("a length of 2^31", vec![startup(), welcome(), huge.clone(), noise(1_000)]),
        ("a length of 2^31 from the start", vec![0x8000_0000_u32.to_be_bytes().to_vec(), welcome()]),
        ("a length of 2^31 in the answer", vec![startup(), [&b"R"[..], &0x8000_0000_u32.to_be_bytes()].concat()]),
        ("a length below its own size", vec![startup(), welcome(), b"Q\0\0\0\x03x".to_vec(), b"Z\0\0\0\0I".to_vec()]),
        ("a cut query", vec![startup(), welcome(), full_query[..full_query.len() - 1].to_vec()]),
        ("a cut answer", vec![startup(), welcome(), full_query.clone(), full_answer[..full_answer.len() - 1].to_vec()]),
        ("a cut start", vec![startup()[..7].to_vec()]),
        ("nothing but zeros", vec![vec![0; 10_000], vec![0; 10_000]]),
        ("nothing but ones", vec![vec![0xFF; 10_000], vec![0xFF; 10_000]]),
        ("answers before questions", vec![welcome(), completed()]),
    ];
    let original = Program::build("exch", EXCHANGE).unwrap();
    let mut programs = Vec::new();
    for (what, parts) in &hostile {
        for chunk in [1_000, 7, 1] {
            // A byte at a time only where that is quick.
            if chunk > 1 || parts.iter().map(Vec::len).sum::<usize>() < 10_000 {
                programs.push((*what, chunk, exchange(&original, chunk, parts)));
            }
        }
    }
    // The same bytes made whole are queries, however they are split: so the above could have been counted.
    let good = [startup(), welcome(), query(), completed(), query(), completed()];
    let good: Vec<(usize, Program)> = [1_000, 7, 1].map(|chunk| (chunk, exchange(&original, chunk, &good))).into();

    let metrics = agent.settled().unwrap();
    let queries = |service: &str, role: &str| {
        metrics.sum("steth_postgres_query_duration_seconds_count", &[("service", service), ("role", role)])
    };
    for (what, chunk, program) in &programs {
        for role in ["client", "server"] {
            let own = [("service", program.name.as_str()), ("role", role), ("sqlstate", "08006")];
            let broken = metrics.sum("steth_postgres_errors_total", &own);
            // Whose connection breaks off before its answer is whole has failed, and is counted as that.
            let expected = if *what == "a cut answer" { (1.0, 1.0) } else { (0.0, 0.0) };
            assert_eq!((queries(&program.name, role), broken), expected, "{what} in pieces of {chunk}, {role}");
        }
    }
    for (chunk, program) in &good {
        for role in ["client", "server"] {
            assert_eq!(queries(&program.name, role), 2.0, "whole queries in pieces of {chunk}, {role}");
        }
    }
    observed.end().unwrap();
    assert!(agent.stop().unwrap().success());
}

#[test]
fn bytes_that_are_looked_at_first_or_lie_in_many_buffers_are_walked_once() {
    need_bpf!();
    need_program!("gcc");
    let agent = Agent::start(&Options::default()).unwrap();
    let original = Program::build("msgs", MESSAGES).unwrap();
    // Longer than what a thousand buffers of a byte hold, so that one statement takes several full calls.
    let long = message(b'Q', &[b"select '".as_slice(), &[b'x'; 3_000], b"'\0"].concat());
    let parts = [startup(), welcome(), query(), completed(), long, completed(), query(), completed()];
    let programs = ["peek", "buffers"].map(|way| (way, exchange_by(&original, way, &parts)));
    let metrics = agent.settled().unwrap();
    for (way, program) in &programs {
        for role in ["client", "server"] {
            let own = [("service", program.name.as_str()), ("role", role)];
            assert_eq!(metrics.sum("steth_postgres_query_duration_seconds_count", &own), 3.0, "{way}, {role}");
            assert_eq!(metrics.sum("steth_postgres_statements_total", &own), 3.0, "{way}, {role}");
            let unknown = [own[0], own[1], ("query", "unknown")];
            assert_eq!(metrics.sum("steth_postgres_query_duration_seconds_count", &unknown), 0.0, "{way}, {role}");
        }
    }
    assert_eq!(metrics.sum("steth_records_lost_total", &[("map", "wires"), ("reason", "memory_unreadable")]), 0.0);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn the_agents_own_listener_survives_hostile_bytes() {
    use std::io::{Read, Write};
    need_root!();
    let agent = Agent::start(&Options::default()).unwrap();
    let requests = [noise(10_000), query(), startup(), b"GET /metrics HTTP/1.1\r\n".to_vec(), vec![0; 100_000]];
    for bytes in requests {
        let mut stream = std::net::TcpStream::connect(agent.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // It may hang up at any byte; what matters is that it answers the next one.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
        assert!(!agent.scrape_raw().unwrap().is_empty());
    }
    assert!(!agent.log().contains("panicked"));
    assert!(agent.stop().unwrap().success());
}

#[test]
fn ten_thousand_open_connections_are_counted() {
    need_bpf!();
    need_program!("gcc");
    let agent = Agent::start(&Options::default()).unwrap();
    let program = Program::build("hold", HOLD_CONNECTIONS).unwrap();
    // Two sockets each.
    let holder = program.start(&["5000"]).unwrap();
    holder.wait_for_line("ready", Duration::from_secs(60), |line| (line == "ready").then_some(())).unwrap();
    let metrics = agent.settled().unwrap();
    let established = [("service", program.name.as_str()), ("state", "established")];
    assert_eq!(metrics.sum("steth_tcp_connections", &established), 10_000.0);
    let own = [("service", program.name.as_str()), ("outcome", "established")];
    assert_eq!(metrics.sum("steth_tcp_connect_duration_seconds_count", &own), 5_000.0);
    holder.finish(Duration::from_secs(60)).unwrap();
    let metrics = agent.settled().unwrap();
    assert_eq!(metrics.sum("steth_tcp_connections", &established), 0.0);
    for name in ["steth_records_lost_total", "steth_cells_full_total"] {
        let lost: Vec<_> = metrics.matching(name, &[]).filter(|sample| sample.value > 0.0).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
}
