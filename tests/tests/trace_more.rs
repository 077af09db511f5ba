//! System calls, TCP events and executions as they are told one by one, through an agent and without one.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    process::Command,
    thread,
    time::Duration,
};

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options, steth},
    http, need_bpf,
    process::{self, Process},
    trace::{Subject, Trace},
};

const SOON: Duration = Duration::from_secs(30);

fn me() -> String {
    std::process::id().to_string()
}

/// Begins a trace through the agent, and then one with kernel programs of its own.
fn both_ways(agent: &Agent, subject: Subject, arguments: &[&str]) -> impl Iterator<Item = Trace> {
    let ways = [vec!["--agent", agent.address()], vec!["--alone"]];
    ways.into_iter().map(move |way| Trace::of(subject, &[&["--json"], &way[..], arguments].concat()).unwrap())
}

fn lost_nothing(total: &Value) {
    assert_eq!((&total["skipped_in_kernel"], &total["skipped_in_agent"]), (&0.into(), &0.into()), "{total}");
}

#[test]
fn calls_are_told_with_their_duration_and_result() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    for trace in both_ways(&agent, Subject::Syscalls, &["-p", &me(), "--syscall", "clock_nanosleep,statx"]) {
        let (begun, tid) = thread::Builder::new()
            .name("tells".into())
            .spawn(|| {
                let begun = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
                thread::sleep(Duration::from_millis(30));
                let _ = std::fs::metadata("/there/is/no/such/file");
                let this = std::fs::read_link("/proc/thread-self").unwrap();
                (begun, this.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap())
            })
            .unwrap()
            .join()
            .unwrap();
        let (calls, total) = trace.end(2).unwrap();
        lost_nothing(&total);
        let of = |name: &str| {
            let mut found = calls.iter().filter(|call| call["syscall"] == name && call["thread"] == "tells");
            found.next().unwrap_or_else(|| panic!("no {name} in {calls:#?}")).clone()
        };
        let (sleep, look) = (of("clock_nanosleep"), of("statx"));
        assert_eq!((&sleep["result"], &sleep["errno"]), (&0.into(), &Value::Null), "{sleep}");
        assert!(sleep["duration_seconds"].as_f64().unwrap() >= 0.030, "{sleep}");
        assert!((begun..begun + 10_000_000).contains(&sleep["begun_unix_us"].as_u64().unwrap()), "{begun}: {sleep}");
        assert_eq!((&look["result"], &look["errno"]), (&(-2).into(), &"ENOENT".into()), "{look}");
        for call in [sleep, look] {
            assert_eq!((&call["pid"], &call["tid"]), (&std::process::id().into(), &tid.into()), "{call}");
        }
    }
}

#[test]
fn the_kernel_tells_only_of_calls_that_last_and_are_of_the_process() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    let arguments = ["--agent", agent.address(), "--json", "-p", &me(), "--min-duration", "20ms"];
    let trace = Trace::of(Subject::Syscalls, &arguments).unwrap();
    let mut other = Command::new("sleep").arg("0.1").spawn().unwrap();
    for ms in [1, 30, 2] {
        thread::sleep(Duration::from_millis(ms));
    }
    other.wait().unwrap();
    let (calls, total) = trace.end(1).unwrap();
    lost_nothing(&total);
    let short = calls.iter().find(|call| call["duration_seconds"].as_f64().unwrap() < 0.020);
    assert_eq!(short, None);
    let others = calls.iter().find(|call| call["pid"] != std::process::id());
    assert_eq!(others, None);
    assert!(calls.iter().any(|call| call["syscall"] == "clock_nanosleep"), "{calls:#?}");
}

#[test]
fn connections_are_told_from_connect_to_close_at_both_ends() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    for trace in both_ways(&agent, Subject::Tcp, &["-p", &me()]) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        let mut said = [0; 5];
        server.read_exact(&mut said).unwrap();
        drop(client);
        drop(server);
        drop(listener);
        TcpStream::connect(address).unwrap_err();
        let (events, total) = trace.end(5).unwrap();
        lost_nothing(&total);
        let called = address.port();
        let of = |event: &str, is_server: bool| {
            let mut found = events.iter().filter(|one| one["event"] == event && (one["port"] == called) == is_server);
            let one = found.next().unwrap_or_else(|| panic!("no {event}, {is_server}, in {events:#?}")).clone();
            assert_eq!((&one["pid"], &one["family"]), (&std::process::id().into(), &"inet".into()), "{one}");
            assert!(one["duration_seconds"].as_f64().unwrap() > 0.0, "{one}");
            one
        };
        let peer = address.to_string();
        let connected = of("connected", false);
        let accepted = of("accepted", true);
        let [client, server] = [of("closed", false), of("closed", true)];
        let refused = of("refused", false);
        assert_eq!((&client["sent_bytes"], &client["received_bytes"]), (&5.into(), &0.into()), "{client}");
        assert_eq!((&server["sent_bytes"], &server["received_bytes"]), (&0.into(), &5.into()), "{server}");
        let service = connected["service"].as_str().unwrap();
        for one in [&accepted, &client, &server, &refused] {
            assert_eq!(one["service"], service, "{one}");
        }
        // The peer's service, or its address, but the same at each end.
        for one in [&client, &refused] {
            assert_eq!(one["peer"], connected["peer"], "{one}");
        }
        let named = [peer.as_str(), service];
        assert!(named.contains(&connected["peer"].as_str().unwrap()), "{connected} of {named:?}");
    }
}

/// A connection that is closed with something unread: the kernel says that it is closed before it says that it was reset.
#[test]
fn resets_are_told_at_both_ends() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    for trace in both_ways(&agent, Subject::Tcp, &["--errors"]) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client.write_all(b"unread").unwrap();
        server.peek(&mut [0]).unwrap();
        drop(server);
        client.read(&mut [0]).unwrap_err();
        for event in ["reset_sent", "reset_received"] {
            trace.wait_for(&format!(r#""event":"{event}""#)).unwrap();
        }
        let (events, _) = trace.end(2).unwrap();
        for event in ["reset_sent", "reset_received"] {
            let is_ours = |one: &&Value| one["service"].as_str().is_some_and(|name| name.starts_with("trace_more"));
            let told = events.iter().filter(|one| one["event"] == event).find(is_ours);
            let told = told.unwrap_or_else(|| panic!("no {event} of ours in {events:#?}"));
            assert_eq!(told["duration_seconds"], Value::Null, "{told}");
            assert!(told["peer"].as_str().is_some_and(|peer| !peer.is_empty()), "{told}");
        }
    }
}

#[test]
fn executions_are_told_with_their_arguments() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    for trace in both_ways(&agent, Subject::Exec, &[]) {
        let mark = format!("mark-{}", std::process::id());
        let long = "x".repeat(600);
        let mut pids = Vec::new();
        for last in ["", "two words", &long] {
            let mut child = Command::new("/bin/true").args([&mark, last]).spawn().unwrap();
            pids.push(child.id());
            child.wait().unwrap();
        }
        trace.wait_for(&format!(r#"{mark}","xxx"#)).unwrap();
        let (executions, total) = trace.end(3).unwrap();
        lost_nothing(&total);
        let ours: Vec<&Value> = executions.iter().filter(|one| one["command"][1] == mark.as_str()).collect();
        let uid = std::fs::metadata("/proc/self").unwrap().uid();
        let known = "/bin/true".len() + 1 + mark.len() + 1;
        let commands = ["".to_owned(), "two words".to_owned(), "x".repeat(512 - known)];
        assert_eq!(ours.len(), 3, "{executions:#?}");
        for (at, one) in ours.iter().enumerate() {
            assert_eq!(one["command"], serde_json::json!(["/bin/true", mark, commands[at]]), "{one}");
            assert_eq!((&one["pid"], &one["parent"]), (&pids[at].into(), &std::process::id().into()), "{one}");
            assert_eq!((&one["uid"], &one["is_cut"]), (&uid.into(), &(at == 2).into()), "{one}");
        }
    }
}

#[test]
fn of_a_flood_of_calls_each_is_told_or_counted_as_skipped() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    let mut shell = process::command("sh", None);
    shell.args(["-c", "read go; exec dd if=/dev/zero of=/dev/null bs=1 count=50000"]);
    let mut copies = Process::start("dd", shell).unwrap();
    let id = copies.id().to_string();
    let trace = Trace::of(Subject::Syscalls, &["--agent", agent.address(), "--json", "-p", &id, "-d", "20s"]).unwrap();
    copies.say("go").unwrap();
    assert!(copies.wait(SOON).unwrap().success(), "{}", copies.log());
    let (calls, total) = trace.outlast().unwrap();
    let calls =
        calls.iter().filter(|call| ["read", "write"].map(Value::from).contains(&call["syscall"])).count() as u64;
    let skipped = [&total["skipped_in_kernel"], &total["skipped_in_agent"]].map(|it| it.as_u64().unwrap());
    assert!(calls + skipped[0] + skipped[1] >= 100_000, "{calls} calls and {skipped:?}");
}

#[test]
fn what_cannot_be_traced_is_said() {
    need_bpf!();
    let refused = |arguments: &[&str]| {
        let (status, _, said) = steth(&[&["trace"], arguments].concat()).unwrap();
        (status, said)
    };
    let (status, said) = refused(&["syscalls", "--syscall", "fsink"]);
    assert!(status == Some(2) && said.contains("there is no system call \"fsink\""), "{said}");
    let (status, said) = refused(&["tcp", "--event", "opened"]);
    assert!(status == Some(2) && said.contains("there are connected, accepted,"), "{said}");
    let agent = Agent::start(&Options { sections: "[probes]\ntcp = false\n".into(), ..Options::default() }).unwrap();
    let (status, said) = refused(&["tcp", "--agent", agent.address()]);
    assert!(
        status == Some(1) && said.contains("TCP connections are not looked at: probe inet_sock_set_state is off"),
        "{said}"
    );
    let answer = http::get(&format!("http://{}/api/v1/trace/exec?syscall=read", agent.address())).unwrap();
    assert!(answer.status == 400 && answer.body.contains("unknown field `syscall`"), "{answer:?}");
}
