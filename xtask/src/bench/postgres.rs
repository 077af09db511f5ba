//! A PostgreSQL cluster of the benchmark's own, and pgbench on it. Knows how to make, load and remove one.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::{
    interrupt,
    process::{self, Process, User},
};

/// PostgreSQL 15, as Debian 12 has it.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// For the server.
const SERVER_CPU: usize = 0;
/// For pgbench.
const CLIENT_CPU: usize = 1;
/// Scale 10 is 160 MB; all of it is in memory.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    // For those who ask for it.
    "ssl=on",
    "shared_buffers=512MB",
    "max_connections=50",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    // Work of its own would fall into one variant and not into the other.
    "autovacuum=off",
    "checkpoint_timeout=1h",
    "max_wal_size=4GB",
    // Files of the cluster's folder go with it, however the server ends.
    "dynamic_shared_memory_type=mmap",
];

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A running cluster; stopped and removed when dropped.
pub struct Postgres {
    // Stands before the folder, so that the server is gone before its files are.
    server: Process,
    port: u16,
    folder: TempDir,
}

/// How pgbench reaches the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Unix,
    /// TCP on loopback.
    Tcp,
    /// The same, behind TLS.
    Tls,
}

/// How pgbench is run.
#[derive(Clone, Copy)]
pub struct Load {
    /// pgbench's `-M`.
    pub mode: &'static str,
    pub way: Way,
    pub clients: u32,
    pub seconds: u32,
}

/// What pgbench says.
pub struct Outcome {
    pub per_second: f64,
    pub transactions: u64,
}

impl Postgres {
    /// Makes and starts a cluster, and fills pgbench's tables at scale 10.
    ///
    /// # Errors
    /// PostgreSQL is not there or does not start.
    pub fn start() -> Result<Self> {
        let user = user("postgres").or_else(|| user("nobody")).context("neither a user postgres nor nobody")?;
        // The path of a unix socket has at most 107 bytes (unix(7)), so keep this short.
        let folder = tempfile::Builder::new().prefix("steth-bench-").tempdir_in("/tmp")?;
        chown(folder.path(), Some(user.uid), Some(user.gid))?;
        let cluster = folder.path().join("cluster");
        let mut initdb = process::command(program("initdb"), None, Some(user));
        initdb.current_dir(folder.path()).args(["--auth=trust", "--no-sync", "--no-instructions", "--locale=C"]);
        initdb.args(["--encoding=UTF8", "--username=postgres", "--pgdata"]).arg(&cluster);
        process::output(&mut initdb, START_LIMIT)?;

        let mut openssl = process::command("openssl", None, Some(user));
        openssl.current_dir(&cluster).args(["req", "-new", "-x509", "-days", "2", "-nodes", "-newkey", "rsa:2048"]);
        openssl.args(["-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.crt"]);
        process::output(&mut openssl, START_LIMIT)?;
        // The server refuses a key that others may read.
        fs::set_permissions(cluster.join("server.key"), PermissionsExt::from_mode(0o600))?;

        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr())?.port();
        let log = fs::File::create(folder.path().join("log"))?;
        let mut server = process::command(program("postgres"), Some(SERVER_CPU), Some(user));
        server.current_dir(folder.path()).arg("-D").arg(&cluster).args(["-p", &port.to_string(), "-k"]);
        server.arg(folder.path());
        for setting in SETTINGS {
            server.args(["-c", setting]);
        }
        let server = Process::start(server.stdout(Stdio::null()).stderr(log))?;
        let mut postgres = Self { server, port, folder };
        postgres.wait_until_ready()?;
        let mut fill = postgres.client("pgbench", Way::Unix);
        fill.args(["--initialize", "--quiet", "--scale=10", "postgres"]);
        process::output(&mut fill, START_LIMIT)?;
        Ok(postgres)
    }

    /// Runs pgbench's select-only script.
    ///
    /// # Errors
    /// It fails, or says something unknown.
    pub fn run(&self, load: Load) -> Result<Outcome> {
        self.run_at(load, None)
    }

    /// The same, with at most so many transactions a second.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_at(&self, load: Load, per_second: Option<u32>) -> Result<Outcome> {
        let Load { mode, way, clients, seconds } = load;
        let mut pgbench = self.client("pgbench", way);
        pgbench.args(["-n", "-S", "-M", mode, "-j", "1", "-c", &clients.to_string(), "-T", &seconds.to_string()]);
        if let Some(rate) = per_second {
            pgbench.args(["-R", &rate.to_string()]);
        }
        let report = process::output(pgbench.arg("postgres"), Duration::from_secs(u64::from(seconds) + 20))?;
        let after = |key: &str| report.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next());
        let per_second = after("tps = ").and_then(|number| number.parse().ok());
        let transactions = after("number of transactions actually processed: ").and_then(|number| number.parse().ok());
        match (per_second, transactions) {
            (Some(per_second), Some(transactions)) => Ok(Outcome { per_second, transactions }),
            _ => bail!("no rate in pgbench's report:\n{report}"),
        }
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            let mut ask = self.client("pg_isready", Way::Unix);
            if process::output(ask.arg("-q"), STOP_LIMIT).is_ok() {
                return Ok(());
            }
            if !self.server.is_running() || started.elapsed() > START_LIMIT {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                bail!("PostgreSQL does not start:\n{log}");
            }
            interrupt::sleep(Duration::from_millis(50))?;
        }
    }

    fn client(&self, name: &str, way: Way) -> std::process::Command {
        let mut command = process::command(program(name), Some(CLIENT_CPU), None);
        command.args(["-U", "postgres", "-p", &self.port.to_string(), "-h"]);
        match way {
            Way::Unix => command.arg(self.folder.path()),
            Way::Tcp | Way::Tls => command.arg("127.0.0.1"),
        };
        command.env("PGSSLMODE", if way == Way::Tls { "require" } else { "disable" });
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Immediate shutdown: the postmaster ends its children itself.
        self.server.stop("QUIT", STOP_LIMIT);
    }
}

fn program(name: &str) -> PathBuf {
    PathBuf::from(PROGRAMS).join(name)
}

fn user(name: &str) -> Option<User> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next()? == name;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        is_it.then_some(User { uid, gid })
    })
}
