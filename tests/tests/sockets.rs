//! Socket figures against peers that answer after a known delay, and readers that come a known time late.

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixListener,
    path::Path,
    thread::JoinHandle,
    time::Duration,
};

use steth_tests::{
    agent::{Agent, Options},
    exposition::{Exposition, Histogram},
    need_bpf, need_program,
    process::Process,
    programs::{ASK, Program, said_number},
    wait,
};

const SOON: Duration = Duration::from_secs(30);
/// What the program sends and expects at a time; see its source.
const REQUEST: usize = 100;
const ANSWER: usize = 1000;
const FAMILIES: [&str; 3] = ["inet", "inet6", "unix"];

/// Where a peer listens, the family it stands for, and the peer itself.
struct Peer {
    family: &'static str,
    address: String,
    port: String,
    thread: JoinHandle<()>,
}

/// Answers requests until the connection ends; before each answer does what `before` says.
fn answer(mut connection: impl Read + Write, mut before: impl FnMut()) {
    let mut request = [0; REQUEST];
    while connection.read_exact(&mut request).is_ok() {
        before();
        if connection.write_all(&[7; ANSWER]).is_err() {
            break;
        }
    }
}

/// Listens on a socket of this family and serves one connection.
fn peer(family: &'static str, folder: &Path, before: impl FnMut() + Send + 'static) -> Peer {
    if family == "unix" {
        let path = folder.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || answer(listener.accept().unwrap().0, before));
        return Peer { family, address: path.display().to_string(), port: "0".to_owned(), thread };
    }
    let address = if family == "inet" { "127.0.0.1" } else { "::1" };
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let thread = std::thread::spawn(move || answer(listener.accept().unwrap().0, before));
    Peer { family, address: address.to_owned(), port, thread }
}

/// Runs the program to the end of its requests; it still holds its connection then.
fn ask(program: &Program, peer: &Peer, requests: u32, pause: Duration, peeks: u32) -> (Process, String) {
    let [requests, pause, peeks] = [u128::from(requests), pause.as_micros(), u128::from(peeks)].map(|n| n.to_string());
    let process = program.start(&[&peer.address, &peer.port, &requests, &pause, &peeks]).unwrap();
    let said = process.wait_for_line("its sums", SOON, |line| line.contains("read_ns=").then(|| line.to_owned()));
    (process, said.unwrap())
}

fn seconds(said: &str, key: &str) -> f64 {
    said_number(said, key).unwrap() as f64 / 1e9
}

fn figures(metrics: &Exposition, what: &str, program: &Program, family: &str) -> Histogram {
    let name = format!("steth_socket_{what}_seconds");
    let all = metrics.sum(&format!("{name}_count"), &[("service", &program.name)]);
    let own = metrics.histogram(&name, &[("service", &program.name), ("family", family)]);
    assert_eq!(own.count, all, "{what} of no other family");
    own
}

/// Whether the only thread of a process sleeps (proc(5), `/proc/PID/stat`).
fn sleeps(process: &str) -> Option<bool> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.starts_with('S'))
}

/// The number of the only process that runs a program.
fn process_of(name: &str) -> Option<String> {
    std::fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).find(
        |process| {
            let own = std::fs::read_to_string(format!("/proc/{process}/comm"));
            own.is_ok_and(|own| own.trim_end() == name)
        },
    )
}

#[test]
fn reads_last_until_the_peer_answers_and_writes_do_not() {
    need_bpf!();
    need_program!("gcc");
    const REQUESTS: u32 = 20;
    const DELAY: Duration = Duration::from_millis(15);
    let agent = Agent::start(&Options::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let program = Program::build("ask", ASK).unwrap();
    for family in FAMILIES {
        let program = program.under_another_name("ask").unwrap();
        let name = program.name.clone();
        // Reading is all that the program sleeps in: the delay lies within the read once it sleeps.
        let before = move || {
            let asker = process_of(&name).unwrap();
            wait::poll("the program to sleep", SOON, || Ok(sleeps(&asker).filter(|sleeps| *sleeps))).unwrap();
            std::thread::sleep(DELAY);
        };
        let peer = peer(family, folder.path(), before);
        let (process, said) = ask(&program, &peer, REQUESTS, Duration::ZERO, 0);
        process.finish(SOON).unwrap();
        peer.thread.join().unwrap();

        let metrics = agent.settled().unwrap();
        let [reads, writes] = ["read_duration", "write_duration"].map(|what| figures(&metrics, what, &program, family));
        assert_eq!((reads.count, writes.count), (f64::from(REQUESTS), f64::from(REQUESTS)), "{family}");
        let delayed = (DELAY * REQUESTS).as_secs_f64();
        let outside = seconds(&said, "read_ns");
        assert!((delayed..=outside).contains(&reads.sum), "{family}: {} of {outside}", reads.sum);
        let outside = seconds(&said, "write_ns");
        assert!(writes.sum > 0.0 && writes.sum <= outside, "{family}: {} of {outside}", writes.sum);
    }
}

#[test]
fn the_pick_up_delay_is_the_time_that_the_reader_is_late() {
    need_bpf!();
    need_program!("gcc");
    const REQUESTS: u32 = 20;
    const LATE: Duration = Duration::from_millis(15);
    let agent = Agent::start(&Options::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let program = Program::build("late", ASK).unwrap();
    let mut runs = Vec::new();
    for family in FAMILIES {
        let peer = peer(family, folder.path(), || {});
        let program = program.under_another_name("late").unwrap();
        let (process, said) = ask(&program, &peer, REQUESTS, LATE, 0);
        process.finish(SOON).unwrap();
        peer.thread.join().unwrap();
        runs.push((program, family, said));
    }
    let metrics = agent.settled().unwrap();
    for (program, family, said) in &runs {
        let delays = figures(&metrics, "pickup_delay", program, family);
        assert_eq!(delays.count, f64::from(REQUESTS), "{family}");
        let (late, outside) = ((LATE * REQUESTS).as_secs_f64(), seconds(said, "waited_ns"));
        assert!((late..=outside).contains(&delays.sum), "{family}: {} of {outside}", delays.sum);
    }
}

#[test]
fn bytes_that_were_peeked_at_are_counted_once() {
    need_bpf!();
    need_program!("gcc");
    const REQUESTS: u32 = 20;
    let agent = Agent::start(&Options::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let program = Program::build("peek", ASK).unwrap();
    let mut runs = Vec::new();
    for family in FAMILIES {
        let peer = peer(family, folder.path(), || {});
        let program = program.under_another_name("peek").unwrap();
        let (process, said) = ask(&program, &peer, REQUESTS, Duration::from_millis(1), 2);
        runs.push((program, peer, process, said));
    }
    let bytes = |metrics: &Exposition, program: &Program| {
        ["sent", "received"].map(|direction| {
            metrics.sum("steth_tcp_bytes_total", &[("service", &program.name), ("direction", direction)])
        })
    };
    let truth = [REQUEST, ANSWER].map(|each| (each * REQUESTS as usize) as f64);
    let check = |metrics: &Exposition, runs: &[(Program, Peer, Process, String)]| {
        for (program, peer, _, said) in runs {
            let expected = if peer.family == "unix" { [0.0; 2] } else { truth };
            assert_eq!(bytes(metrics, program), expected, "{}", peer.family);
            // A look is a read all the same: it takes time. The data has been picked up only by the last.
            let reads = figures(metrics, "read_duration", program, peer.family);
            assert_eq!(reads.count, f64::from(3 * REQUESTS), "{}", peer.family);
            assert!(reads.sum > 0.0 && reads.sum <= seconds(said, "read_ns"), "{}", peer.family);
            assert_eq!(figures(metrics, "pickup_delay", program, peer.family).count, f64::from(REQUESTS));
        }
    };
    // Open: from what the calls moved. Closed: settled with the kernel's own count.
    check(&agent.settled().unwrap(), &runs);
    for (_, _, process, _) in &mut runs {
        process.wait(SOON).unwrap();
    }
    check(&agent.settled().unwrap(), &runs);
}
