//! A small shop: what a host with a busy PostgreSQL looks like, well and badly behaved. Knows what it does, not what
//! is measured of it.

use std::time::Duration;

use anyhow::Result;

use crate::{
    postgres::{Postgres, USER},
    process::{self, Process},
};

/// A PostgreSQL and its clients, who go on until this is dropped.
#[derive(Debug)]
pub struct Workload {
    // Stand before the server, so that they end before it does.
    _clients: Vec<Process>,
    /// The server.
    pub postgres: Postgres,
}

impl Workload {
    /// Starts them on a database of that name: pgbench's own transactions over TCP at a steady rate, a client that
    /// connects anew each time, one whose statement fails, and one whose server is not there.
    ///
    /// # Errors
    /// If PostgreSQL is not there or does not start.
    pub fn start(database: &str) -> Result<Self> {
        let postgres = Postgres::start()?;
        postgres.psql(crate::postgres::HARNESS_DATABASE, &format!("create database {database}"))?;
        let port = postgres.port.to_string();
        let pgbench = |arguments: &[&str]| {
            let mut pgbench = postgres.program("pgbench");
            pgbench.current_dir(postgres.folder()).args(["-h", "127.0.0.1", "-p", &port, "-U", USER]);
            pgbench.args(arguments).arg(database);
            Process::start("pgbench", pgbench)
        };
        pgbench(&["-i", "-q", "-s", "1"])?.finish(Duration::from_secs(60))?;
        // Rates, so that it neither takes the machine nor depends on it; times, so that none is left over for long.
        let steady = pgbench(&["-n", "-M", "prepared", "-c", "4", "-R", "100", "-T", "600"])?;
        let anew = pgbench(&["-n", "-S", "-C", "-c", "1", "-R", "10", "-T", "600"])?;
        let mut failing = process::command("sh", None);
        failing
            .current_dir(postgres.folder())
            .env("PGUSER", USER)
            .env("PGDATABASE", database)
            .env("PGHOST", "127.0.0.1");
        // Nobody listens on port 1 (tcpmux, RFC 1078), but on some museum piece.
        let script = "exec 2> /dev/null; while sleep 0.2; do \"$0\" -p \"$1\" -c 'select 1/0'; \"$0\" -p 1 -c ''; done";
        failing.args(["-c", script]).arg(postgres.programs.join("psql")).arg(&port);
        let failing = Process::start("psql", failing)?;
        Ok(Self { _clients: vec![steady, anew, failing], postgres })
    }
}
