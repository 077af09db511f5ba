//! Runs pgbench and reads its own log of each transaction: the truth that query figures are held against. Knows
//! pgbench (its manual's sections "Options" and "Per-Transaction Logging"), not what is measured.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    postgres::{Postgres, USER},
    process::Process,
};

/// How statements are sent; pgbench's `-M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One Query message for each statement.
    Simple,
    /// Parse, Bind, Describe, Execute, Sync for each statement.
    Extended,
    /// Parse once, then Bind, Describe, Execute, Sync.
    Prepared,
}

/// How the server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP on 127.0.0.1.
    Tcp,
    /// The unix socket.
    Unix,
    /// TCP on 127.0.0.1, behind TLS.
    Tls,
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Pgbench<'a> {
    /// How statements are sent.
    pub mode: Mode,
    /// How the server is reached.
    pub endpoint: Endpoint,
    /// One transaction in pgbench's language. Custom scripts only: before its own ones pgbench asks the server
    /// about the tables, and those questions would be counted too.
    pub script: &'a str,
    /// Connections at once, each in a thread of its own, so that none waits for another in pgbench.
    pub clients: u32,
    /// Transactions of each.
    pub transactions: u32,
}

/// What pgbench says about a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Transactions that were run.
    pub transactions: u64,
    /// The time each took, in microseconds, ascending.
    pub latencies_us: Vec<u64>,
    /// Its printed report.
    pub report: String,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Simple, Self::Extended, Self::Prepared];

    fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
        }
    }
}

impl Endpoint {
    /// Those that every cluster has.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Unix];
}

impl Pgbench<'_> {
    /// Runs it on a database.
    ///
    /// # Errors
    /// If pgbench fails, or its log does not have one line for each transaction.
    pub fn run(&self, postgres: &Postgres, database: &str) -> Result<Run> {
        self.run_at(postgres, database, postgres.port)
    }

    /// The same, with whoever listens on another port.
    ///
    /// # Errors
    /// As above.
    pub fn run_at(&self, postgres: &Postgres, database: &str, port: u16) -> Result<Run> {
        let folder = tempfile::Builder::new().prefix("steth-pgbench-").tempdir()?;
        let script = folder.path().join("script.sql");
        std::fs::write(&script, self.script)?;
        let (clients, transactions) = (self.clients.to_string(), self.transactions.to_string());
        let mut pgbench = postgres.program("pgbench");
        pgbench.current_dir(folder.path()).args(["-n", "-l", "--log-prefix=log", "-M", self.mode.name()]);
        pgbench.args(["-c", &clients, "-j", &clients, "-t", &transactions]).arg("-f").arg(&script);
        pgbench.args(["-U", USER, "-p", &port.to_string(), "-h"]);
        if self.endpoint == Endpoint::Tls {
            pgbench.env("PGSSLMODE", "require");
        }
        match self.endpoint {
            Endpoint::Tcp | Endpoint::Tls => pgbench.arg("127.0.0.1"),
            Endpoint::Unix => pgbench.arg(postgres.folder()),
        };
        pgbench.arg(database);
        let report = Process::start("pgbench", pgbench)?.finish(Duration::from_secs(300))?;
        let mut latencies_us = latencies(folder.path())?;
        latencies_us.sort_unstable();
        let run = Run { transactions: latencies_us.len() as u64, latencies_us, report };
        if run.transactions != u64::from(self.clients) * u64::from(self.transactions) {
            bail!("pgbench logged {} transactions of {clients} x {transactions}:\n{}", run.transactions, run.report);
        }
        Ok(run)
    }
}

impl Run {
    /// The latency in seconds below which the share `quantile` (0 to 1) of the transactions lies.
    pub fn quantile(&self, quantile: f64) -> f64 {
        let rank = (quantile * self.latencies_us.len() as f64).ceil().max(1.0) as usize;
        self.latencies_us[rank - 1] as f64 / 1e6
    }

    /// The mean latency in seconds.
    pub fn mean(&self) -> f64 {
        self.latencies_us.iter().sum::<u64>() as f64 / 1e6 / self.latencies_us.len() as f64
    }
}

/// The latencies from all the logs in the folder: pgbench writes one for each thread.
pub(crate) fn latencies(folder: &Path) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("log.") {
            let text = std::fs::read_to_string(entry.path())?;
            for line in text.lines() {
                all.push(latency(line).with_context(|| format!("not a line of pgbench's log: {line}"))?);
            }
        }
    }
    Ok(all)
}

/// `client_id transaction_no time script_no time_epoch time_us`, time in microseconds.
fn latency(line: &str) -> Option<u64> {
    let fields: Vec<&str> = line.split(' ').collect();
    if fields.len() < 6 { None } else { fields[2].parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_read_from_the_log() {
        assert_eq!(latency("0 199 2241 0 1175850568 995598"), Some(2241));
        assert_eq!(latency("0 199 skipped 0 1175850568 995598"), None);
        assert_eq!(latency("0 199"), None);
        let run = Run { transactions: 4, latencies_us: vec![10, 20, 30, 100], report: String::new() };
        assert_eq!((run.quantile(0.5), run.quantile(0.99), run.mean()), (2e-5, 1e-4, 4e-5));
    }

    #[test]
    fn the_server_counts_what_pgbench_says_in_every_mode() {
        if let Some(why) = Postgres::missing() {
            skipped!("{why}");
        }
        let postgres = Postgres::start().unwrap();
        for (mode, endpoint) in Mode::ALL.into_iter().flat_map(|mode| Endpoint::ALL.map(|endpoint| (mode, endpoint))) {
            let database = postgres.create_database().unwrap();
            let script = "begin;\nselect 1;\ncommit;\n";
            let run =
                Pgbench { mode, endpoint, script, clients: 2, transactions: 50 }.run(&postgres, &database).unwrap();
            assert_eq!(run.transactions, 100);
            // Nothing but the script: so whoever counts all queries of this database counts exactly these.
            let mut counted: Vec<(String, u64)> =
                postgres.stat_statements(&database).unwrap().into_iter().map(|one| (one.text, one.calls)).collect();
            counted.sort();
            let utility = if mode == Mode::Prepared { 2 } else { 100 };
            let expected = [("begin", utility), ("commit", utility), ("select $1", 100)];
            assert_eq!(counted, expected.map(|(text, calls)| (text.to_owned(), calls)), "{mode:?} {endpoint:?}");
        }
    }
}
