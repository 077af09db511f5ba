//! An application that steth observes while something goes wrong: a PostgreSQL under pgbench, which must not notice. Knows
//! what pgbench says at its end, not what goes wrong.

use std::{fs, time::Duration};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{
    pgbench,
    postgres::{Postgres, USER},
    process::Process,
};

/// Transactions that are begun in a second, in all: a load that a busy machine can bear, so that what is slow is not the load.
const RATE: u32 = 300;
/// No transaction takes as long but where somebody holds it up.
const STALLED: Duration = Duration::from_secs(5);

/// A running pgbench.
#[derive(Debug)]
pub struct Observed {
    pgbench: Process,
    /// Whom it asks; with nobody else in [`Self::database`].
    pub postgres: Postgres,
    /// The database of its own.
    pub database: String,
    folder: TempDir,
}

/// How it was for the application.
#[derive(Clone, Copy, Debug)]
pub struct Unharmed {
    /// Transactions, one statement each.
    pub transactions: u64,
    /// The longest one.
    pub longest: Duration,
    /// All of them together, as pgbench measured them.
    pub total: Duration,
}

impl Observed {
    /// Starts a cluster and a pgbench that goes on until it is told to end. Returns once transactions were run.
    ///
    /// # Errors
    /// If there is no PostgreSQL, or it does not start, or runs no transaction.
    pub fn start() -> Result<Self> {
        Self::of(Postgres::start()?)
    }

    /// The same, on a cluster that is there.
    ///
    /// # Errors
    /// As above.
    pub fn of(postgres: Postgres) -> Result<Self> {
        let database = postgres.create_database()?;
        let folder = tempfile::Builder::new().prefix("steth-observed-").tempdir()?;
        fs::write(folder.path().join("script.sql"), "select 1;\n")?;
        let mut pgbench = postgres.program("pgbench");
        pgbench.current_dir(folder.path()).args(["-n", "-l", "--log-prefix=log", "-T", "3600", "-c", "2", "-j", "2"]);
        pgbench.args(["-R", &RATE.to_string(), "-f", "script.sql", "-U", USER, "-h", "127.0.0.1"]);
        pgbench.args(["-p", &postgres.port.to_string(), &database]);
        let observed = Self { pgbench: Process::start("pgbench", pgbench)?, postgres, database, folder };
        // An ALRM before pgbench awaits one would kill it. It writes many lines of its log at once.
        crate::wait::poll("the observed pgbench to log", Duration::from_secs(60), || observed.has_logged())
            .with_context(|| format!("it said: {}", observed.pgbench.log()))?;
        Ok(observed)
    }

    fn has_logged(&self) -> Result<Option<()>> {
        for file in fs::read_dir(self.folder.path())? {
            let file = file?;
            if file.file_name().as_encoded_bytes().starts_with(b"log.") && file.metadata()?.len() > 0 {
                return Ok(Some(()));
            }
        }
        Ok(None)
    }

    /// Ends it.
    ///
    /// # Errors
    /// If a transaction failed or was held up, a connection broke, or nothing ran at all.
    pub fn end(mut self) -> Result<Unharmed> {
        // What pgbench is told by when the time of `-T` is over (src/bin/pgbench/pgbench.c, handle_sig_alarm).
        self.pgbench.signal("ALRM")?;
        let status = self.pgbench.wait(Duration::from_secs(60))?;
        let report = self.pgbench.log();
        if !status.success() || !report.contains("number of failed transactions: 0 (") {
            bail!("the observed pgbench did not end well ({status}):\n{report}");
        }
        let latencies_us = pgbench::latencies(self.folder.path())?;
        let longest = latencies_us.iter().max().context("the observed pgbench ran no transaction")?;
        let [longest, total] = [*longest, latencies_us.iter().sum()].map(Duration::from_micros);
        let unharmed = Unharmed { transactions: latencies_us.len() as u64, longest, total };
        eprintln!("observed: {} transactions, none failed, the longest {:?}", unharmed.transactions, unharmed.longest);
        if unharmed.longest > crate::wait::patient(STALLED) {
            bail!("a transaction of the observed pgbench took {:?}", unharmed.longest);
        }
        Ok(unharmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_killed_is_noticed() {
        if let Some(why) = Postgres::missing() {
            skipped!("{why}");
        }
        let observed = Observed::start().unwrap();
        assert!(observed.end().unwrap().transactions > 10);
        let observed = Observed::start().unwrap();
        // A backend of its own, once there is one; and it has seen that before it is told to end.
        let killed =
            "select count(pg_terminate_backend(pid)) > 0 from pg_stat_activity where application_name = 'pgbench'";
        let kill = || Ok((observed.postgres.psql("postgres", killed)? == "t").then_some(()));
        let seen = || Ok(observed.pgbench.log().contains("error").then_some(()));
        crate::wait::poll("a backend to be killed", Duration::from_secs(60), kill).unwrap();
        crate::wait::poll("pgbench to see it", Duration::from_secs(60), seen).unwrap();
        observed.end().unwrap_err();
    }
}
