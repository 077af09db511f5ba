//! Incidents that nothing was chosen with when they were first played: other services, loads and magnitudes than those of every day,
//! to tell how far what is right there holds elsewhere. docs/incidents.md says which of them something was changed because of
//! since, and what came out before that.

use std::time::Duration;

use anyhow::Result;

use super::{
    Made, Parts, Row, Stage, nothing,
    parts::{Networks, Sessions, pair, pile, python, session, sh},
    quiet,
};
use crate::postgres::Postgres;

/// The table.
pub const HELD_OUT: &[Row] = &[
    Row { name: "a service in Python answers some milliseconds later", wave: 0, make: python_service },
    Row { name: "a slow dependency while another service is deployed", wave: 0, make: other_deployment },
    Row { name: "few open files leak slowly", wave: 0, make: slow_file_leak },
    Row { name: "memory leaks in large steps", wave: 0, make: stepwise_memory_leak },
    Row { name: "a transaction that sleeps holds a lock", wave: 0, make: idle_lock_holder },
    Row { name: "a narrow network that loses nothing", wave: 0, make: narrow_network },
    Row { name: "two neighbours on a core that is busy already", wave: 1, make: small_neighbour },
    Row { name: "a service in Python computes more", wave: 2, make: busy_python },
    Row { name: "a service in Python leaks connections to itself", wave: 0, make: socket_leak },
    Row { name: "threads of a service in Python wait for each other", wave: 0, make: python_lock },
    Row { name: "a dependency is stopped in its tracks", wave: 0, make: stopped_dependency },
    Row { name: "an index is dropped", wave: 2, make: dropped_index },
];

/// A server of HTTP/1.1 with a thread for each connection; `delay N`, `work N` and, one thread at a time, `hold N` in milliseconds.
const SERVER: &str = r#"
import sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
now = {"delay": 2.0, "work": 0.0, "hold": 0.0}
one = threading.Lock()
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        time.sleep(now["delay"] / 1000)
        end = time.thread_time() + now["work"] / 1000
        while time.thread_time() < end: pass
        with one: time.sleep(now["hold"] / 1000)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print("port=%d" % server.server_address[1])
threading.Thread(target=server.serve_forever, daemon=True).start()
for line in sys.stdin:
    what, value = line.split()
    now[what] = float(value)
"#;

/// Keeps both ends of a pair of sockets each 300 ms.
const HOARDER: &str = r#"
import socket, time
kept = []
while True:
    kept.append(socket.socketpair())
    time.sleep(0.3)
"#;

/// Asks it on so many connections as its second argument says, or two.
const CLIENT: &str = r#"
import http.client, sys, threading, time
def ask():
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    while True:
        connection.request("GET", "/")
        connection.getresponse().read()
        time.sleep(0.03)
for _ in range(int((sys.argv + ["2"])[2])): threading.Thread(target=ask, daemon=True).start()
sys.stdin.read()
"#;

fn pythons(parts: &mut Parts, stage: &Stage, stems: [&str; 2]) -> Result<(String, String)> {
    let server = python(parts, stage, stems[0], SERVER, &[])?;
    let port = parts.port()?;
    let client = python(parts, stage, stems[1], CLIENT, &[&port])?;
    Ok((server, client))
}

fn python_service(stage: &Stage) -> Result<Made> {
    if let Some(why) = crate::program_missing("python3") {
        return Ok(Made::Skipped(why));
    }
    let mut parts = Parts::default();
    let (server, client) = pythons(&mut parts, stage, ["hpsv", "hpcl"])?;
    let expected = vec![("dependency", "slow_answer", server.as_str()), ("change", "wall_sleep", &server)];
    Ok(quiet(&client, expected, parts, |parts, _| parts.say(0, "delay 12"), |parts, _| parts.say(0, "delay 2")))
}

fn busy_python(stage: &Stage) -> Result<Made> {
    if let Some(why) = crate::program_missing("python3") {
        return Ok(Made::Skipped(why));
    }
    let mut parts = Parts::default();
    let (server, client) = pythons(&mut parts, stage, ["bpsv", "bpcl"])?;
    let expected = vec![("change", "cpu", server.as_str()), ("saturation", "cpu", &server)];
    Ok(quiet(&client, expected, parts, |parts, _| parts.say(0, "work 25"), |parts, _| parts.say(0, "work 0")))
}

fn socket_leak(stage: &Stage) -> Result<Made> {
    if let Some(why) = crate::program_missing("python3") {
        return Ok(Made::Skipped(why));
    }
    let mut parts = Parts::default();
    let name = python(&mut parts, stage, "hrdr", HOARDER, &[])?;
    Ok(quiet(&name, vec![("leak", "open_files", &name)], parts, nothing, nothing))
}

fn python_lock(stage: &Stage) -> Result<Made> {
    if let Some(why) = crate::program_missing("python3") {
        return Ok(Made::Skipped(why));
    }
    let mut parts = Parts::default();
    let server = python(&mut parts, stage, "lksv", SERVER, &[])?;
    let port = parts.port()?;
    let client = python(&mut parts, stage, "lkcl", CLIENT, &[&port, "6"])?;
    // One that holds it sleeps, five wait for it.
    let expected = vec![("dependency", "slow_answer", server.as_str()), ("change", "wall_lock", &server)];
    Ok(quiet(&client, expected, parts, |parts, _| parts.say(0, "hold 30"), |parts, _| parts.say(0, "hold 0")))
}

fn stopped_dependency(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let (server, client) = pair(&mut parts, stage, "stsv", "stcl")?;
    let expected = vec![("dependency", "slow_answer", server.as_str())];
    let strike = |parts: &mut Parts, _: &str| parts.processes[0].signal("STOP");
    Ok(quiet(&client, expected, parts, strike, |parts, _| parts.processes[0].signal("CONT")))
}

fn dropped_index(stage: &Stage) -> Result<Made> {
    let Some(postgres) = &stage.postgres else { return Ok(Made::Skipped(Postgres::missing().unwrap_or_default())) };
    for statement in [
        "create table shelf as select i as id, i % 1000 as place from generate_series(1, 200000) i",
        "create index shelf_id on shelf (id)",
        "analyze shelf",
    ] {
        postgres.psql("postgres", statement)?;
    }
    let mut parts = Parts::default();
    parts.processes.push(session(postgres, "dropper")?);
    let statement = "select place from shelf where id = 4711;";
    parts.kept.push(Box::new(Sessions::start(postgres, 2, Duration::from_millis(60), statement)?));
    let cluster = stage.cluster.as_str();
    let expected = vec![("change", "cpu", cluster), ("saturation", "cpu", cluster)];
    Ok(quiet(cluster, expected, parts, |parts, _| parts.say(0, "drop index shelf_id;"), nothing))
}

fn other_deployment(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let (server, client) = pair(&mut parts, stage, "odsv", "odcl")?;
    let other = parts.add(stage, "othr", &["serve", "127.0.0.1", "0", "100"])?;
    let expected = vec![("dependency", "slow_answer", server.as_str()), ("change", "wall_sleep", &server)];
    let strike = move |parts: &mut Parts, agent: &str| {
        let event = serde_json::json!({"service": other, "text": "deploy 2.0"}).to_string();
        let answer = crate::http::post_json(&format!("http://{agent}/api/v1/events"), &event)?;
        anyhow::ensure!(answer.status == 201, "{answer:?}");
        parts.say(0, "delay 8000")
    };
    Ok(quiet(&client, expected, parts, strike, |parts, _| parts.say(0, "delay 0")))
}

fn slow_file_leak(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let name = parts.add(stage, "slfd", &["leak-files", "900000"])?;
    Ok(quiet(&name, vec![("leak", "open_files", &name)], parts, nothing, nothing))
}

fn stepwise_memory_leak(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    // 7 MiB a second, in steps that come less often than windows end.
    let name = parts.add(stage, "stmm", &["leak-memory", "11010048", "1500000"])?;
    let calm = |parts: &mut Parts, _: &str| parts.processes.iter().try_for_each(|process| process.signal("KILL"));
    Ok(quiet(&name, vec![("leak", "memory", &name)], parts, nothing, calm))
}

fn idle_lock_holder(stage: &Stage) -> Result<Made> {
    let Some(postgres) = &stage.postgres else { return Ok(Made::Skipped(Postgres::missing().unwrap_or_default())) };
    pile(postgres)?;
    let mut parts = Parts::default();
    parts.processes.push(session(postgres, "holder")?);
    let statement = "select n from pile where id = 1 for update;";
    parts.kept.push(Box::new(Sessions::start(postgres, 3, Duration::from_millis(250), statement)?));
    let cluster = stage.cluster.as_str();
    let strike = |parts: &mut Parts, _: &str| {
        parts.say(0, "begin; lock table pile in access exclusive mode; select pg_sleep(40); rollback;")
    };
    let expected = vec![("lock", "postgres_lock_wait", cluster), ("change", "postgres_lock_wait", cluster)];
    Ok(quiet(cluster, expected, parts, strike, nothing))
}

fn narrow_network(stage: &Stage) -> Result<Made> {
    let networks = match Networks::make() {
        Ok(networks) => networks,
        Err(error) => return Ok(Made::Skipped(format!("{error:#}"))),
    };
    let mut parts = Parts::default();
    let name = networks.stream(&mut parts, stage, "nrrw", "3")?;
    // A second of queue at 1 Mbit/s: what is sent comes late, and nearly all of it comes.
    let narrow = networks.queue("tbf rate 1mbit burst 16k limit 125k");
    parts.kept.push(Box::new(networks));
    let strike = move |_: &mut Parts, _: &str| sh(&narrow);
    Ok(quiet(&name, vec![("change", "tcp_round_trip", &name)], parts, strike, nothing))
}

fn small_neighbour(stage: &Stage) -> Result<Made> {
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        return Ok(Made::Skipped("needs two cores".into()));
    }
    let mut parts = Parts::default();
    parts.add_on(stage, "smvi", &["serve", "127.0.0.1", "0", "20000"], Some(0))?;
    let port = parts.port()?;
    let client = parts.add(stage, "smcl", &["call", "127.0.0.1", &port, "40000"])?;
    let noisy = parts.add_on(stage, "smno", &["burn", "2"], Some(0))?;
    let expected = vec![("saturation", "cpu", noisy.as_str())];
    Ok(quiet(&client, expected, parts, |parts, _| parts.say(2, "go"), |parts, _| parts.say(2, "rest")))
}
