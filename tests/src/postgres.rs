//! A PostgreSQL cluster of the test's own. Knows how to make, ask and remove one, not what is run on it.

use std::{
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{
    network::free_port,
    process::{self, Process, User},
};

/// A running cluster; stopped and removed when dropped.
#[derive(Debug)]
pub struct Postgres {
    // Stands before the folder, so that the server is gone before its files are.
    server: Process,
    /// TCP port on 127.0.0.1, and the number in the name of its unix socket.
    pub port: u16,
    /// Where its programs are.
    pub programs: PathBuf,
    folder: TempDir,
}

/// What `pg_stat_statements` says about one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Text, constants replaced by `$1` and so on.
    pub text: String,
    /// Number of executions.
    pub calls: u64,
    /// Rows returned or changed.
    pub rows: u64,
}

/// The superuser; everybody on this machine is trusted to be that.
pub const USER: &str = "postgres";
/// The database that the harness itself talks to; tests make others, so that theirs can be told apart.
pub const HARNESS_DATABASE: &str = "postgres";

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);

impl Postgres {
    /// Why no cluster can be made here.
    pub fn missing() -> Option<String> {
        programs_folder().is_none().then(|| "needs PostgreSQL in /usr/lib/postgresql".to_owned())
    }

    /// Makes and starts a cluster with `pg_stat_statements`, without safety against crashes.
    ///
    /// # Errors
    /// If PostgreSQL is not there or does not start within a minute.
    pub fn start() -> Result<Self> {
        Self::start_with(|_, _| Ok(vec![]))
    }

    /// As [`start`](Self::start), with TLS on TCP for those who ask for it; the certificate is signed by itself.
    ///
    /// # Errors
    /// As there, or if there is no openssl.
    pub fn start_tls() -> Result<Self> {
        Self::start_with(|cluster, user| {
            certificate(cluster, user)?;
            Ok(vec!["ssl=on"])
        })
    }

    /// As [`start`](Self::start), with further settings, `name=value`.
    ///
    /// # Errors
    /// As there.
    pub fn start_set(settings: &[&'static str]) -> Result<Self> {
        Self::start_with(|_, _| Ok(settings.to_vec()))
    }

    fn start_with(prepare: impl Fn(&Path, Option<&User>) -> Result<Vec<&'static str>>) -> Result<Self> {
        let programs = programs_folder().context("no PostgreSQL in /usr/lib/postgresql")?;
        let user = unprivileged()?;
        // The path of a unix socket has at most 107 bytes (unix(7)), so keep this short.
        let folder = tempfile::Builder::new().prefix("steth-pg-").tempdir_in("/tmp")?;
        if let Some(User { uid, gid }) = user {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        let cluster = folder.path().join("cluster");
        let mut initdb = process::command(programs.join("initdb"), user.as_ref());
        initdb.current_dir(folder.path()).args(["--auth=trust", "--no-sync", "--no-instructions", "--locale=C"]);
        initdb.args(["--encoding=UTF8", "--username", USER, "--pgdata"]).arg(&cluster);
        Process::start("initdb", initdb)?.finish(START)?;

        let settings = prepare(&cluster, user.as_ref())?;
        // Somebody may take the port between the choice and its use.
        let mut attempts = 5;
        let (server, port) = loop {
            let port = free_port()?;
            let server = start_server(&programs, user.as_ref(), &cluster, port, &settings)?;
            let ready = server.wait_for_line("that it is ready", START, |line| {
                line.contains("database system is ready to accept connections").then_some(())
            });
            attempts -= 1;
            match ready {
                Ok(()) => break (server, port),
                Err(_) if attempts > 0 && server.log().contains("Address already in use") => {}
                Err(error) => return Err(error),
            }
        };
        let postgres = Self { server, port, programs, folder };
        postgres.psql(HARNESS_DATABASE, "create extension pg_stat_statements")?;
        Ok(postgres)
    }

    /// Takes encrypted connections over TCP from now on, under a certificate that nobody vouches for.
    ///
    /// # Errors
    /// Without `openssl`, or if the server does not take the certificate.
    pub fn encrypt(&self) -> Result<()> {
        let mut openssl = process::command("openssl", unprivileged()?.as_ref());
        openssl.current_dir(self.folder().join("cluster")).args(["req", "-x509", "-newkey", "ec"]);
        openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost"]);
        openssl.args(["-out", "server.crt", "-keyout", "server.key"]);
        Process::start("openssl", openssl)?.finish(START)?;
        self.psql(HARNESS_DATABASE, "alter system set ssl = on")?;
        self.psql(HARNESS_DATABASE, "select pg_reload_conf()")?;
        let encrypts = "that connections are encrypted";
        crate::wait::poll(encrypts, START, || Ok((self.psql(HARNESS_DATABASE, "show ssl")? == "on").then_some(())))
    }

    /// Folder of the unix socket, and of what belongs to the cluster's life.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Process id of the postmaster.
    pub fn id(&self) -> u32 {
        self.server.id()
    }

    /// A client program of the same version, such as `pgbench`.
    pub fn program(&self, name: &str) -> Command {
        process::command(self.programs.join(name), None)
    }

    /// Runs statements in one session over the unix socket and returns the rows, unaligned, without headers.
    ///
    /// # Errors
    /// If one of them fails.
    pub fn psql(&self, database: &str, statements: &str) -> Result<String> {
        let mut psql = self.program("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", USER, "-p", &self.port.to_string(), "-h"]);
        psql.arg(self.folder()).args(["-d", database, "-c", statements]);
        Process::start("psql", psql)?.finish(Duration::from_secs(60))
    }

    /// Makes a database whose name no other on this machine has, so that its queries can be told by that label.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn create_database(&self) -> Result<String> {
        self.create_database_like("template1")
    }

    /// The same with what is in another database, to which nobody may be connected.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn create_database_like(&self, template: &str) -> Result<String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bench_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.psql(HARNESS_DATABASE, &format!("create database {name} template {template}"))?;
        Ok(name)
    }

    /// All statements that `pg_stat_statements` counted in this database. It counts a utility statement (BEGIN,
    /// COMMIT …) only once for each time it was prepared, however often it was executed (PostgreSQL 15,
    /// `pgss_ProcessUtility` clears the query id of the cached plan).
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn stat_statements(&self, database: &str) -> Result<Vec<Statement>> {
        let rows = self.psql(
            HARNESS_DATABASE,
            &format!(
                "select json_build_array(query, calls, rows) from pg_stat_statements s \
                 join pg_database d on d.oid = s.dbid where datname = '{database}'"
            ),
        )?;
        let row = |line: &str| -> Result<Statement> {
            let (text, calls, rows) = serde_json::from_str(line).with_context(|| format!("not a row: {line}"))?;
            Ok(Statement { text, calls, rows })
        };
        rows.lines().map(row).collect()
    }

    /// All that the server has logged so far, line by line; what happened before the call is in it.
    ///
    /// # Errors
    /// If it cannot be asked, or does not log.
    pub fn log(&self) -> Result<String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("mark {} of the log", NEXT.fetch_add(1, Ordering::Relaxed));
        self.psql(HARNESS_DATABASE, &format!("do $$ begin raise log '{mark}'; end $$"))?;
        // Each backend writes to the same pipe before it answers.
        let is_mark = |line: &str| (line.contains("LOG:") && line.ends_with(&mark)).then_some(());
        self.server.wait_for_line(&mark, START, is_mark)?;
        Ok(self.server.log())
    }

    /// Forgets what `pg_stat_statements` counted.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn reset_stat_statements(&self) -> Result<()> {
        self.psql(HARNESS_DATABASE, "select pg_stat_statements_reset()").map(|_| ())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Immediate shutdown: the postmaster ends its children itself. If it does not, the process guard kills
        // it, and the children end at the closing of its death pipe.
        if self.server.signal("QUIT").is_ok() {
            let _ = self.server.wait(STOP);
        }
    }
}

/// The newest of the installed versions.
fn programs_folder() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.filter_map(|entry| Some(entry.ok()?.path())).max_by_key(version)?.join("bin");
    newest.join("initdb").exists().then_some(newest)
}

/// Who the server runs as: PostgreSQL refuses root. `None` is oneself.
///
/// # Errors
/// If there is nobody else.
pub fn unprivileged() -> Result<Option<User>> {
    if crate::root_missing().is_some() {
        return Ok(None);
    }
    match User::named("postgres").or_else(|| User::named("nobody")) {
        Some(user) => Ok(Some(user)),
        None => bail!("neither a user postgres nor nobody to run the server as"),
    }
}

/// A key and its certificate where the server looks for them.
fn certificate(cluster: &Path, user: Option<&User>) -> Result<()> {
    let mut openssl = process::command("openssl", user);
    openssl.current_dir(cluster).args(["req", "-new", "-x509", "-days", "2", "-nodes", "-newkey", "rsa:2048"]);
    openssl.args(["-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.crt"]);
    Process::start("openssl", openssl)?.finish(START)?;
    // The server refuses a key that others may read.
    Ok(std::fs::set_permissions(cluster.join("server.key"), PermissionsExt::from_mode(0o600))?)
}

fn start_server(programs: &Path, user: Option<&User>, cluster: &Path, port: u16, settings: &[&str]) -> Result<Process> {
    let folder = cluster.parent().context("the cluster is a root")?;
    let socket_folder = format!("unix_socket_directories={}", folder.display());
    let port = format!("port={port}");
    let mut server = process::command(programs.join("postgres"), user);
    server.current_dir(folder).arg("-D").arg(cluster);
    for setting in [
        &port,
        &socket_folder,
        "listen_addresses=127.0.0.1",
        "shared_preload_libraries=pg_stat_statements",
        "max_connections=100",
        "fsync=off",
        "full_page_writes=off",
        // Its own work would mix with the test's.
        "autovacuum=off",
        // Shared memory in files of the cluster's folder goes with it, however the server ends.
        "dynamic_shared_memory_type=mmap",
    ] {
        server.args(["-c", setting]);
    }
    // The last one counts.
    for setting in settings {
        server.args(["-c", setting]);
    }
    Process::start("postgres", server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clusters_run_at_once_and_leave_nothing() {
        if let Some(why) = Postgres::missing() {
            skipped!("{why}");
        }
        let (one, other) = (Postgres::start().unwrap(), Postgres::start().unwrap());
        let database = one.create_database().unwrap();
        assert_eq!(one.psql(&database, "select current_database()").unwrap(), database);
        assert_eq!(other.psql(HARNESS_DATABASE, "show port").unwrap(), other.port.to_string());
        one.psql(&database, "select 41; select 42").unwrap();
        let statements = one.stat_statements(&database).unwrap();
        assert!(statements.contains(&Statement { text: "select $1".to_owned(), calls: 2, rows: 2 }), "{statements:?}");
        one.reset_stat_statements().unwrap();
        assert_eq!(one.stat_statements(&database).unwrap(), []);

        let (folder, postmaster) = (one.folder().to_owned(), one.server.proc_folder());
        drop(one);
        assert!(!folder.exists() && !postmaster.exists());
        assert_eq!(other.psql(HARNESS_DATABASE, "select 1").unwrap(), "1");
    }

    #[test]
    fn connections_are_encrypted_and_logged() {
        if let Some(why) = Postgres::missing() {
            skipped!("{why}");
        }
        need_program!("openssl");
        let postgres = Postgres::start().unwrap();
        postgres.encrypt().unwrap();
        let mut psql = postgres.program("psql");
        psql.args(["-X", "-A", "-t", "-c", "select ssl from pg_stat_ssl where pid = pg_backend_pid()"]);
        psql.arg(format!(
            "host=127.0.0.1 port={} user={USER} sslmode=require dbname={HARNESS_DATABASE}",
            postgres.port
        ));
        assert_eq!(Process::start("psql", psql).unwrap().finish(START).unwrap(), "t");
        let before = postgres.log().unwrap().len();
        postgres.psql(HARNESS_DATABASE, "select 1 / 0").unwrap_err();
        assert!(postgres.log().unwrap()[before..].contains("division by zero"));
    }

    #[test]
    fn a_failed_statement_says_why() {
        if let Some(why) = Postgres::missing() {
            skipped!("{why}");
        }
        let error = Postgres::start().unwrap().psql(HARNESS_DATABASE, "select * from nowhere").unwrap_err();
        assert!(error.to_string().contains("relation \"nowhere\" does not exist"), "{error}");
    }

    #[test]
    fn a_panic_removes_the_cluster() {
        if let Some(why) = Postgres::missing() {
            skipped!("{why}");
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let failed = std::thread::spawn(move || {
            let postgres = Postgres::start().unwrap();
            sender.send((postgres.folder().to_owned(), postgres.server.proc_folder())).unwrap();
            panic!("as a failing test does");
        })
        .join();
        let (folder, postmaster) = receiver.recv().unwrap();
        assert!(failed.is_err() && !folder.exists() && !postmaster.exists());
    }
}
