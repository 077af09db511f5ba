//! A PgBouncer of the test's own before a cluster. Knows how to start one, not what goes through it.

use std::{os::unix::fs::chown, time::Duration};

use anyhow::Result;
use tempfile::TempDir;

use crate::{
    network::free_port,
    postgres::{Postgres, USER, unprivileged},
    process::{self, Process, User},
};

/// A running pooler; stopped and removed when dropped.
#[derive(Debug)]
pub struct Pgbouncer {
    _process: Process,
    /// TCP port on 127.0.0.1.
    pub port: u16,
    _folder: TempDir,
}

const START: Duration = Duration::from_secs(20);

impl Pgbouncer {
    /// Starts one that lends `connections` of each database, for the length of a session or of a transaction (`mode`).
    ///
    /// # Errors
    /// If it is not there, or does not start in time.
    pub fn start(postgres: &Postgres, mode: &str, connections: u32) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("steth-pooler-").tempdir()?;
        let user = unprivileged()?;
        if let Some(User { uid, gid }) = user {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        let config = folder.path().join("pgbouncer.ini");
        let port = free_port()?;
        let lines = [
            "[databases]".to_owned(),
            format!("* = host=127.0.0.1 port={} user={USER}", postgres.port),
            "[pgbouncer]".to_owned(),
            "listen_addr = 127.0.0.1".to_owned(),
            format!("listen_port = {port}"),
            "unix_socket_dir =".to_owned(),
            "auth_type = any".to_owned(),
            format!("pool_mode = {mode}"),
            format!("default_pool_size = {connections}"),
            // More than any test opens.
            "max_client_conn = 12000".to_owned(),
        ];
        std::fs::write(&config, lines.join("\n") + "\n")?;
        let mut command = process::command("pgbouncer", user.as_ref());
        command.arg(&config).current_dir(folder.path());
        let process = Process::start("pgbouncer", command)?;
        process.wait_for_line("that it is up", START, |line| line.contains("process up").then_some(()))?;
        Ok(Self { _process: process, port, _folder: folder })
    }
}
