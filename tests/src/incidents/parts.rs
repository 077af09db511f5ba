//! What several incidents are made of: a server and a client, a network of its own, sessions of a database, a service in Python.
//! Knows no incident.

use std::{
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

use super::{Parts, SOON, Stage};
use crate::{
    postgres::{Postgres, USER},
    process::{self, Process},
    unique_name,
};

/// A server and a client: names of both.
pub fn pair(parts: &mut Parts, stage: &Stage, server_stem: &str, client_stem: &str) -> Result<(String, String)> {
    let server = parts.add(stage, server_stem, &["serve", "127.0.0.1", "0", "100"])?;
    let port = parts.port()?;
    let client = parts.add(stage, client_stem, &["call", "127.0.0.1", &port, "20000"])?;
    Ok((server, client))
}

/// Two network namespaces behind each other; removed when dropped.
pub struct Networks {
    router: String,
    far: String,
    /// The router's end towards the far one.
    way: String,
    net: String,
}

impl Drop for Networks {
    fn drop(&mut self) {
        for name in [&self.router, &self.far] {
            // A name that was never made is no loss.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

impl Networks {
    /// Makes them.
    ///
    /// # Errors
    /// If a program is missing, or this kernel has no network namespaces.
    pub fn make() -> Result<Self> {
        for program in ["ip", "tc"] {
            if let Some(why) = crate::program_missing(program) {
                anyhow::bail!(why);
            }
        }
        let [router, far, near, way] = ["rt", "fr", "va", "vb"].map(unique_name);
        // Of a range for tests (RFC 2544), a part of it by the process' number.
        let net = format!("198.18.{}", std::process::id() % 250);
        let networks = Self { router, far, way, net };
        let Self { router, far, way, net } = &networks;
        sh(&format!(
            "ip netns add {router}; ip netns add {far}; ip link add {near} type veth peer name inner netns {router}; \
             ip -n {router} link add {way} type veth peer name outer netns {far}; \
             ip addr add {net}.1/30 dev {near}; ip link set {near} up; \
             ip -n {router} addr add {net}.2/30 dev inner; ip -n {router} link set inner up; \
             ip -n {router} addr add {net}.5/30 dev {way}; ip -n {router} link set {way} up; \
             ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1; \
             ip -n {far} addr add {net}.6/30 dev outer; ip -n {far} link set outer up; \
             ip -n {far} route add default via {net}.5; ip route add {net}.4/30 via {net}.2"
        ))
        .context("network namespaces")?;
        Ok(networks)
    }

    /// Somebody there who takes what is sent, and so many threads here that send. Returns the sender's name.
    pub fn stream(&self, parts: &mut Parts, stage: &Stage, stem: &str, threads: &str) -> Result<String> {
        let (drain, address) = (stage.actor.under_another_name("drai")?, format!("{}.6", self.net));
        let mut command = process::command("ip", None);
        command.args(["netns", "exec", &self.far]).arg(&drain.path).args(["drain", &address, "7777"]);
        parts.run("drain", command)?;
        parts.programs.push(drain);
        parts.port()?;
        parts.add(stage, stem, &["stream", &address, "7777", threads])
    }

    /// A line for the shell that puts this queueing discipline on the way.
    pub fn queue(&self, discipline: &str) -> String {
        format!("tc -n {} qdisc add dev {} root {discipline}", self.router, self.way)
    }
}

/// Runs a line of shell.
pub fn sh(line: &str) -> Result<()> {
    let output = Command::new("sh").args(["-ec", line]).output()?;
    anyhow::ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A session of psql.
pub fn session(postgres: &Postgres, name: &str) -> Result<Process> {
    let mut psql = postgres.program("psql");
    psql.args(["-X", "-q", "-A", "-t", "-U", USER, "-p", &postgres.port.to_string(), "-h"]);
    psql.arg(postgres.folder()).args(["-d", "postgres"]);
    Process::start(name, psql)
}

/// Sessions of psql that are told a statement again and again; they end with it.
pub struct Sessions {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sessions {
    /// So many, each told the statement after each such pause, whether it has answered or not: what it is told waits in its pipe.
    pub fn start(postgres: &Postgres, count: usize, pause: Duration, statement: &'static str) -> Result<Self> {
        let mut clients = (0..count).map(|_| session(postgres, "client")).collect::<Result<Vec<_>>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) && clients.iter_mut().all(|client| client.say(statement).is_ok()) {
                std::thread::sleep(pause);
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A table with one row that all want.
pub fn pile(postgres: &Postgres) -> Result<()> {
    postgres.psql("postgres", "create table if not exists pile (id int primary key, n int)")?;
    postgres.psql("postgres", "insert into pile values (1, 0) on conflict do nothing").map(|_| ())
}

/// A program in Python under a name of its own, which is returned; the interpreter is copied.
pub fn python(parts: &mut Parts, stage: &Stage, stem: &str, source: &str, arguments: &[&str]) -> Result<String> {
    let (name, folder) = (unique_name(stem), stage.folder.path());
    let interpreter = folder.join(&name);
    let mut ask = process::command("python3", None);
    ask.args(["-c", "import sys; print(sys.executable, sys.base_prefix)"]);
    let said = Process::start("python3", ask)?.finish(SOON)?;
    let (original, prefix) = said.trim().split_once(' ').context("python3 does not say where it is")?;
    // By another process: none of this one's threads can execute what one of them has open for writing.
    let mut copy = process::command("cp", None);
    copy.args(["-L", original]).arg(&interpreter);
    Process::start("cp", copy)?.finish(SOON)?;
    let mut command = process::command(&interpreter, None);
    command.env("PYTHONHOME", prefix).args(["-u", "-c", source]).args(arguments);
    parts.run(&name, command)?;
    Ok(name)
}

/// Whether a folder lies on a disk whose use the kernel counts.
pub fn is_on_disk(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    folder.metadata().is_ok_and(|metadata| {
        let (major, minor) = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
        Path::new(&format!("/sys/dev/block/{major}:{minor}")).exists()
    })
}
