//! Incidents that are made on purpose, each with the cause that an answer must name first. A table: a name, how its quiet time and
//! the incident are made, and what is expected. Knows how things go wrong, not how that is found.

use std::{
    any::Any,
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    postgres::{Postgres, USER},
    process::{self, Process},
    programs::{ACTOR, Program, said_number},
    unique_name,
};

/// A row of the table.
pub struct Row {
    /// What it is called.
    pub name: &'static str,
    /// Incidents of one wave happen at the same time; those that would be each other's cause do not.
    pub wave: usize,
    /// Makes the quiet time before it.
    pub make: fn(&Stage) -> Result<Made>,
}

/// What incidents share.
pub struct Stage {
    /// The program that plays all parts.
    pub actor: Program,
    /// A database server.
    pub postgres: Option<Postgres>,
    /// The service of that server.
    pub cluster: String,
    /// A folder on a disk.
    pub folder: tempfile::TempDir,
}

/// What became of a row.
pub enum Made {
    /// It cannot be made on this machine.
    Skipped(String),
    /// It goes quietly so far.
    Quiet(Incident),
}

/// What the parts do, given where the agent listens.
type Act = Box<dyn FnMut(&mut Parts, &str) -> Result<()>>;

/// An incident that has not happened yet.
pub struct Incident {
    /// The service that is asked about.
    pub asks: String,
    /// What the answer may name first: kind, about, and whose services.
    pub expected: Vec<(&'static str, &'static str, String)>,
    parts: Parts,
    strike: Act,
    calm: Act,
}

/// Who plays in an incident. Processes end with it, programs stay as long.
#[derive(Default)]
pub struct Parts {
    processes: Vec<Process>,
    programs: Vec<Program>,
    kept: Vec<Box<dyn Any>>,
}

const SOON: Duration = Duration::from_secs(20);

/// The incidents of every day.
pub const TABLE: &[Row] = &[
    Row { name: "open files leak", wave: 0, make: file_leak },
    Row { name: "memory leaks", wave: 0, make: memory_leak },
    Row { name: "a dependency becomes slow", wave: 0, make: slow_dependency },
    Row { name: "a dependency of a dependency becomes slow", wave: 0, make: slow_chain },
    Row { name: "a new build is slower", wave: 0, make: new_build },
    Row { name: "a deployment makes it slower", wave: 0, make: deployment },
    Row { name: "a dependency is gone", wave: 0, make: refused },
    Row { name: "the limit of open files is reached", wave: 0, make: file_limit },
    Row { name: "the accept queue overflows", wave: 0, make: accept_queue },
    Row { name: "connections wait to be accepted", wave: 0, make: late_accept },
    Row { name: "a dependency computes more", wave: 2, make: busy_dependency },
    Row { name: "a lossy network", wave: 0, make: lossy_network },
    Row { name: "an open transaction holds a lock", wave: 0, make: lock_pile_up },
    Row { name: "a noisy neighbour on the core", wave: 1, make: noisy_neighbour },
    Row { name: "statements fail", wave: 2, make: failing_statements },
    Row { name: "a neighbour fills the disk's queue", wave: 2, make: disk_hog },
];

impl Incident {
    /// It happens, before an agent that listens there.
    ///
    /// # Errors
    /// If a part cannot be played.
    pub fn strike(&mut self, agent: &str) -> Result<()> {
        (self.strike)(&mut self.parts, agent)
    }

    /// It is over.
    ///
    /// # Errors
    /// If a part cannot be played.
    pub fn calm(&mut self, agent: &str) -> Result<()> {
        (self.calm)(&mut self.parts, agent)
    }

    /// Whether an answer names the right cause first.
    pub fn is_named(&self, answer: &Value) -> bool {
        let cause = &answer["cause"];
        self.expected.iter().any(|(kind, about, service)| {
            cause["kind"] == *kind && cause["about"] == *about && cause["service"] == service.as_str()
        })
    }
}

impl Parts {
    /// Starts a part under a name of its own, which is returned.
    fn add(&mut self, stage: &Stage, stem: &str, arguments: &[&str]) -> Result<String> {
        self.add_on(stage, stem, arguments, None)
    }

    fn add_on(&mut self, stage: &Stage, stem: &str, arguments: &[&str], cpu: Option<usize>) -> Result<String> {
        let program = stage.actor.under_another_name(stem)?;
        let name = program.name.clone();
        self.start(&program, arguments, cpu)?;
        self.programs.push(program);
        Ok(name)
    }

    fn start(&mut self, program: &Program, arguments: &[&str], cpu: Option<usize>) -> Result<()> {
        let mut command = program.command(arguments);
        if let Some(cpu) = cpu {
            command.env("ON_CPU", cpu.to_string());
        }
        self.processes.push(Process::start(&program.name, command)?);
        Ok(())
    }

    /// The port on which the part that was started last listens.
    fn port(&self) -> Result<String> {
        let last = self.processes.last().context("nobody plays yet")?;
        let line = last.wait_for_line("port=", SOON, |line| line.starts_with("port=").then(|| line.to_owned()))?;
        Ok(said_number(&line, "port")?.to_string())
    }

    fn say(&mut self, part: usize, order: &str) -> Result<()> {
        self.processes.get_mut(part).context("nobody plays that part")?.say(order)
    }
}

fn quiet(
    asks: &str,
    expected: Vec<(&'static str, &'static str, &str)>,
    parts: Parts,
    strike: impl FnMut(&mut Parts, &str) -> Result<()> + 'static,
    calm: impl FnMut(&mut Parts, &str) -> Result<()> + 'static,
) -> Made {
    let expected = expected.into_iter().map(|(kind, about, service)| (kind, about, service.to_owned())).collect();
    Made::Quiet(Incident { asks: asks.to_owned(), expected, parts, strike: Box::new(strike), calm: Box::new(calm) })
}

fn nothing(_: &mut Parts, _: &str) -> Result<()> {
    Ok(())
}

fn file_leak(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let name = parts.add(stage, "fdlk", &["leak-files", "250000"])?;
    Ok(quiet(&name, vec![("leak", "open_files", &name)], parts, nothing, nothing))
}

fn memory_leak(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    // 8 MiB a second: within an hour more than a host of 24 GiB has.
    let name = parts.add(stage, "mmlk", &["leak-memory", "2097152", "250000"])?;
    let calm = |parts: &mut Parts, _: &str| parts.processes.iter().try_for_each(|process| process.signal("KILL"));
    Ok(quiet(&name, vec![("leak", "memory", &name)], parts, nothing, calm))
}

/// A server and a client: names of both.
fn pair(parts: &mut Parts, stage: &Stage, server_stem: &str, client_stem: &str) -> Result<(String, String)> {
    let server = parts.add(stage, server_stem, &["serve", "127.0.0.1", "0", "100"])?;
    let port = parts.port()?;
    let client = parts.add(stage, client_stem, &["call", "127.0.0.1", &port, "20000"])?;
    Ok((server, client))
}

fn slow_dependency(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let (server, client) = pair(&mut parts, stage, "slsv", "slcl")?;
    let expected = vec![("dependency", "slow_answer", server.as_str()), ("change", "wall_sleep", &server)];
    Ok(quiet(&client, expected, parts, |parts, _| parts.say(0, "delay 40000"), |parts, _| parts.say(0, "delay 0")))
}

fn slow_chain(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    // The one in the middle answers when the last has; so does a proxy.
    let last = parts.add(stage, "chls", &["serve", "127.0.0.1", "0", "100"])?;
    let last_port = parts.port()?;
    let middle = parts.add(stage, "chmi", &["relay", "127.0.0.1", "0", &last_port])?;
    let port = parts.port()?;
    let client = parts.add(stage, "chcl", &["call", "127.0.0.1", &port, "20000"])?;
    let expected = vec![("dependency", "slow_answer", middle.as_str()), ("dependency", "slow_answer", &last)];
    Ok(quiet(&client, expected, parts, |parts, _| parts.say(0, "delay 40000"), |parts, _| parts.say(0, "delay 0")))
}

fn new_build(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let program = stage.actor.under_another_name("nbsv")?;
    let port = crate::network::free_port()?.to_string();
    parts.start(&program, &["serve", "127.0.0.1", &port, "100"], None)?;
    parts.port()?;
    let client = parts.add(stage, "nbcl", &["call", "127.0.0.1", &port, "20000"])?;
    let name = program.name.clone();
    let strike = move |parts: &mut Parts, _: &str| {
        // The same source, linked with another build id, in the place of the old one.
        let other = Program::build_with("nbnw", ACTOR, &["-O0", "-static", "-Wl,--build-id=sha1"])?;
        fs::remove_file(&program.path)?;
        // By another process: while this one had it open for writing, no child of any thread could execute it.
        let mut copy = process::command("cp", None);
        copy.args([&other.path, &program.path]);
        Process::start("cp", copy)?.finish(SOON)?;
        parts.processes.remove(0).signal("KILL")?;
        parts.start(&program, &["serve", "127.0.0.1", &port, "10000"], None)
    };
    Ok(quiet(&client, vec![("event", "new_build", &name)], parts, strike, nothing))
}

fn deployment(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let (server, client) = pair(&mut parts, stage, "dpsv", "dpcl")?;
    let name = server.clone();
    let strike = move |parts: &mut Parts, agent: &str| {
        let event = serde_json::json!({"service": name, "text": "deploy 1.2"}).to_string();
        let answer = crate::http::post_json(&format!("http://{agent}/api/v1/events"), &event)?;
        anyhow::ensure!(answer.status == 201, "{answer:?}");
        parts.say(0, "delay 40000")
    };
    Ok(quiet(&client, vec![("event", "posted", &server)], parts, strike, |parts, _| parts.say(0, "delay 0")))
}

fn refused(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let (_, client) = pair(&mut parts, stage, "rfsv", "rfcl")?;
    let strike = |parts: &mut Parts, _: &str| parts.processes[0].signal("KILL");
    Ok(quiet(&client, vec![("change", "tcp_connect_failed", &client)], parts, strike, nothing))
}

fn file_limit(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let name = parts.add(stage, "fdlm", &["hold-files", "128", "122"])?;
    Ok(quiet(&name, vec![("saturation", "open_files", &name)], parts, |parts, _| parts.say(0, "go"), nothing))
}

fn accept_queue(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let name = parts.add(stage, "deaf", &["deaf", "0"])?;
    let port = parts.port()?;
    parts.add(stage, "knck", &["knock", &port, "50000"])?;
    let expected = vec![("saturation", "accept_queue", name.as_str())];
    Ok(quiet(&name, expected, parts, |parts, _| parts.say(0, "go"), |parts, _| parts.say(0, "rest")))
}

fn late_accept(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let name = parts.add(stage, "late", &["deaf", "0"])?;
    let port = parts.port()?;
    parts.add(stage, "lknk", &["knock", &port, "150000"])?;
    let expected = vec![("change", "tcp_accept_queue", name.as_str())];
    Ok(quiet(&name, expected, parts, |parts, _| parts.say(0, "delay 50000"), |parts, _| parts.say(0, "delay 0")))
}

fn busy_dependency(stage: &Stage) -> Result<Made> {
    let mut parts = Parts::default();
    let (server, client) = pair(&mut parts, stage, "bdsv", "bdcl")?;
    // Where others compute as well, it is the last straw.
    let expected = vec![("change", "cpu", server.as_str()), ("saturation", "cpu", &server)];
    Ok(quiet(&client, expected, parts, |parts, _| parts.say(0, "work 80000"), |parts, _| parts.say(0, "work 100")))
}

/// Two network namespaces behind each other; removed when dropped.
struct Networks {
    names: [String; 2],
}

impl Drop for Networks {
    fn drop(&mut self) {
        for name in &self.names {
            // A name that was never made is no loss.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

fn sh(line: &str) -> Result<()> {
    let output = Command::new("sh").args(["-ec", line]).output()?;
    anyhow::ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn lossy_network(stage: &Stage) -> Result<Made> {
    for program in ["ip", "tc"] {
        if let Some(why) = crate::program_missing(program) {
            return Ok(Made::Skipped(why));
        }
    }
    let [router, far] = [unique_name("rt"), unique_name("fr")];
    let networks = Networks { names: [router.clone(), far.clone()] };
    let [a, b] = [unique_name("va"), unique_name("vb")];
    // Of a range for tests (RFC 2544), a part of it by the process' number.
    let net = format!("198.18.{}", std::process::id() % 250);
    let made = sh(&format!(
        "ip netns add {router}; ip netns add {far}; ip link add {a} type veth peer name inner netns {router}; \
         ip -n {router} link add {b} type veth peer name outer netns {far}; \
         ip addr add {net}.1/30 dev {a}; ip link set {a} up; \
         ip -n {router} addr add {net}.2/30 dev inner; ip -n {router} link set inner up; \
         ip -n {router} addr add {net}.5/30 dev {b}; ip -n {router} link set {b} up; \
         ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1; \
         ip -n {far} addr add {net}.6/30 dev outer; ip -n {far} link set outer up; ip -n {far} route add default via {net}.5; \
         ip route add {net}.4/30 via {net}.2"
    ));
    if let Err(error) = made {
        return Ok(Made::Skipped(format!("network namespaces: {error:#}")));
    }
    let mut parts = Parts::default();
    let drain = stage.actor.under_another_name("drai")?;
    let mut command = process::command("ip", None);
    command.args(["netns", "exec", &far]).arg(&drain.path).args(["drain", &format!("{net}.6"), "7777"]);
    parts.processes.push(Process::start("drain", command)?);
    parts.programs.push(drain);
    parts.port()?;
    let name = parts.add(stage, "strm", &["stream", &format!("{net}.6"), "7777", "12"])?;
    parts.kept.push(Box::new(networks));
    // Where the kernel cannot lose at random, a narrow queue on the way loses what does not fit.
    let strike = move |_: &mut Parts, _: &str| {
        sh(&format!(
            "tc -n {router} qdisc add dev {b} root netem loss 15% 2>/dev/null || \
             tc -n {router} qdisc add dev {b} root tbf rate 400kbit burst 3k limit 6k"
        ))
    };
    Ok(quiet(&name, vec![("change", "tcp_retransmits", &name)], parts, strike, nothing))
}

/// Sessions of psql that are told a statement again and again; they end with it.
struct Sessions {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn session(postgres: &Postgres, name: &str) -> Result<Process> {
    let mut psql = postgres.program("psql");
    psql.args(["-X", "-q", "-A", "-t", "-U", USER, "-p", &postgres.port.to_string(), "-h"]);
    psql.arg(postgres.folder()).args(["-d", "postgres"]);
    Process::start(name, psql)
}

fn lock_pile_up(stage: &Stage) -> Result<Made> {
    let Some(postgres) = &stage.postgres else { return Ok(Made::Skipped(Postgres::missing().unwrap_or_default())) };
    postgres.psql("postgres", "create table if not exists pile (id int primary key, n int)")?;
    postgres.psql("postgres", "insert into pile values (1, 0) on conflict do nothing")?;
    let mut parts = Parts::default();
    parts.processes.push(session(postgres, "holder")?);
    let mut clients = (0..10).map(|_| session(postgres, "client")).collect::<Result<Vec<_>>>()?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            for client in &mut clients {
                // Ten times a second, whether it has answered or not: what it is told waits in its pipe.
                if client.say("update pile set n = n + 1 where id = 1;").is_err() {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    parts.kept.push(Box::new(Sessions { stop, thread: Some(thread) }));
    let cluster = stage.cluster.as_str();
    let expected = vec![("lock", "idle_in_transaction", cluster), ("change", "postgres_lock_wait", cluster)];
    let strike = |parts: &mut Parts, _: &str| parts.say(0, "begin; update pile set n = 0 where id = 1;");
    Ok(quiet(cluster, expected, parts, strike, |parts, _| parts.say(0, "rollback;")))
}

fn failing_statements(stage: &Stage) -> Result<Made> {
    let Some(postgres) = &stage.postgres else { return Ok(Made::Skipped(Postgres::missing().unwrap_or_default())) };
    let mut parts = Parts::default();
    parts.processes.push(session(postgres, "failing")?);
    let cluster = stage.cluster.as_str();
    let strike = |parts: &mut Parts, _: &str| {
        // One after the other, as fast as the server fails them: more than the incident lasts.
        let line = "do $$ begin perform pg_sleep(0.02); end $$; select 1 / 0;\n".repeat(2_000);
        parts.say(0, line.trim_end())
    };
    let calm = |parts: &mut Parts, _: &str| parts.processes.iter().try_for_each(|process| process.signal("KILL"));
    Ok(quiet(cluster, vec![("change", "postgres_errors", cluster)], parts, strike, calm))
}

fn noisy_neighbour(stage: &Stage) -> Result<Made> {
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        return Ok(Made::Skipped("needs two cores".into()));
    }
    let mut parts = Parts::default();
    let core = Some(cores - 1);
    parts.add_on(stage, "vict", &["serve", "127.0.0.1", "0", "10000"], core)?;
    let port = parts.port()?;
    let client = parts.add(stage, "vcli", &["call", "127.0.0.1", &port, "30000"])?;
    let noisy = parts.add_on(stage, "nois", &["burn", "6"], core)?;
    let expected = vec![("saturation", "cpu", noisy.as_str())];
    Ok(quiet(&client, expected, parts, |parts, _| parts.say(2, "go"), |parts, _| parts.say(2, "rest")))
}

fn disk_hog(stage: &Stage) -> Result<Made> {
    if !is_on_disk(stage.folder.path()) {
        return Ok(Made::Skipped("the folder for temporary files is on no disk".into()));
    }
    let mut parts = Parts::default();
    let path = |name: &str| stage.folder.path().join(name).display().to_string();
    let victim = parts.add(stage, "sync", &["sync", &path("victim")])?;
    let hog = parts.add(stage, "dhog", &["hog", &path("hog"), "6"])?;
    let expected = vec![("saturation", "disk", hog.as_str())];
    Ok(quiet(&victim, expected, parts, |parts, _| parts.say(1, "go"), |parts, _| parts.say(1, "rest")))
}

/// Whether a folder lies on a disk whose use the kernel counts.
fn is_on_disk(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    folder.metadata().is_ok_and(|metadata| {
        let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
        Path::new(&format!("/sys/dev/block/{major}:{minor}")).exists()
    })
}
