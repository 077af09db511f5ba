//! What PostgreSQL itself says was run in a database: `pg_stat_statements`, and its log where that does not count. Knows
//! how both write it down, not who sent it.

use std::collections::BTreeMap;

use anyhow::Result;
use steth::postgres::statement;
use steth_probes::postgres::TEXT_LEN;

use crate::postgres::{HARNESS_DATABASE, Postgres};

/// Counts by fingerprint, or by SQLSTATE.
pub type Counts = BTreeMap<String, u64>;

/// All that was run in one database.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// Statements that ended well, by the fingerprint of their text as it was sent.
    pub calls: Counts,
    /// Rows that these returned or changed.
    pub rows: u64,
    /// Errors that clients were told, by SQLSTATE.
    pub errors: Counts,
    /// The text to each fingerprint.
    pub texts: BTreeMap<String, String>,
}

/// A moment from which on all that happens is told.
#[derive(Debug)]
pub struct Since<'a> {
    postgres: &'a Postgres,
    logged: usize,
}

/// Makes the server log what is asked for here. Sessions that are open take it over, too.
///
/// # Errors
/// If the server refuses.
pub fn log_all(postgres: &Postgres) -> Result<()> {
    // `database|SQLSTATE|LEVEL:  message`
    for setting in ["log_statement = 'all'", "log_line_prefix = '%d|%e|'"] {
        postgres.psql(HARNESS_DATABASE, &format!("alter system set {setting}"))?;
    }
    postgres.psql(HARNESS_DATABASE, "select pg_reload_conf()").map(|_| ())
}

impl<'a> Since<'a> {
    /// Begins anew.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub fn now(postgres: &'a Postgres) -> Result<Self> {
        postgres.reset_stat_statements()?;
        Ok(Self { postgres, logged: postgres.log()?.len() })
    }

    /// What has been run in a database since then.
    ///
    /// `long` is a statement that is longer than what the agent looks at, told by the name of the function in it:
    /// `pg_stat_statements` shows its literal as `$1`.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub fn truth(&self, database: &str, long: (&str, &str)) -> Result<Truth> {
        let mut truth = Truth::default();
        for one in self.postgres.stat_statements(database)? {
            truth.rows += one.rows;
            if !counted_by_log(&one.text) {
                truth.add(if one.text.contains(long.0) { long.1 } else { &one.text }, one.calls);
            }
        }
        let log = self.postgres.log()?;
        let own = format!("{database}|");
        for line in log[self.logged..].lines().filter_map(|line| line.strip_prefix(&own)) {
            let Some((sqlstate, message)) = line.split_once('|') else { continue };
            if let Some(text) = sent(message).filter(|text| counted_by_log(text)) {
                truth.add(text, 1);
            }
            // connection_failure says that there was nobody left to tell.
            if (message.starts_with("ERROR:") || message.starts_with("FATAL:")) && sqlstate != "08006" {
                *truth.errors.entry(sqlstate.to_owned()).or_default() += 1;
            }
        }
        Ok(truth)
    }
}

impl Truth {
    /// All of several databases.
    pub fn sum<'a>(truths: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        for one in truths {
            sum.rows += one.rows;
            for (sums, counts) in [(&mut sum.calls, &one.calls), (&mut sum.errors, &one.errors)] {
                counts.iter().for_each(|(key, count)| *sums.entry(key.clone()).or_default() += count);
            }
            sum.texts.extend(one.texts.clone());
        }
        sum
    }

    fn add(&mut self, text: &str, count: u64) {
        let fingerprint = fingerprint(text);
        self.texts.entry(fingerprint.clone()).or_insert_with(|| text.chars().take(100).collect());
        *self.calls.entry(fingerprint).or_default() += count;
    }
}

/// The fingerprint of a statement as it was sent, of which the agent sees the beginning.
pub fn fingerprint(text: &str) -> String {
    let seen = text.len().min(TEXT_LEN as usize);
    statement(&text.as_bytes()[..seen], seen < text.len()).fingerprint.to_string()
}

/// What `pg_stat_statements` does not count as it was sent: of transaction control that is prepared only the first
/// execution (see [`Postgres::stat_statements`]), of PREPARE nothing, and EXECUTE as what was prepared. The log says when
/// one is about to run: it stands for one that ran where none of them fails.
fn counted_by_log(text: &str) -> bool {
    let word = text.split(|character: char| !character.is_ascii_alphabetic()).next().unwrap_or_default();
    let words = ["begin", "start", "commit", "rollback", "prepare", "execute", "deallocate"];
    words.contains(&word.to_ascii_lowercase().as_str())
}

/// The statement, or its first line, in a message of the log: `LOG:  statement: …`, or `LOG:  execute NAME: …` with the
/// extended protocol.
fn sent(message: &str) -> Option<&str> {
    let message = message.strip_prefix("LOG:  ")?;
    let executed = message.strip_prefix("execute ").and_then(|rest| Some(rest.split_once(": ")?.1));
    executed.or_else(|| message.strip_prefix("statement: "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgwire::Session;

    #[test]
    fn what_was_run_is_told_as_it_was_sent() {
        if let Some(why) = Postgres::missing() {
            skipped!("{why}");
        }
        let postgres = Postgres::start().unwrap();
        log_all(&postgres).unwrap();
        let database = postgres.create_database().unwrap();
        let mut session = Session::open(&postgres, &database).unwrap();
        session.query("select 1").unwrap();
        session.prepare("begin", "begin").unwrap();
        session.prepare("end", "commit").unwrap();
        let since = Since::now(&postgres).unwrap();
        for _ in 0..3 {
            session.execute("begin", &[]).unwrap();
            session.query("select 2, 'x'").unwrap();
            session.execute("end", &[]).unwrap();
        }
        session.query("prepare p as select 3").unwrap();
        session.query("execute p").unwrap();
        assert_eq!(session.query("select 1 / 0").unwrap().as_deref(), Some("22012"));
        let long = format!("select length('{}')", "x".repeat(TEXT_LEN as usize));
        session.query(&long).unwrap();
        let truth = since.truth(&database, ("length(", &long)).unwrap();
        let calls = [("begin", 3), ("commit", 3), ("select 1, 'y'", 3), ("prepare p as select 3", 1), ("execute p", 1)];
        let mut expected: Counts = calls.map(|(text, count)| (fingerprint(text), count)).into();
        expected.insert(fingerprint(&long), 1);
        assert_eq!(truth.calls, expected, "{:?}", truth.texts);
        assert_eq!((truth.rows, truth.errors), (5, Counts::from([("22012".to_owned(), 1)])));
    }
}
