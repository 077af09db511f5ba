//! `steth trace postgres`, started as a user starts it. Knows its command line and its lines of JSON.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    agent::{binary, without_settings},
    process::{self, Process},
    wait,
};

/// A trace that has begun; killed when dropped.
#[derive(Debug)]
pub struct Trace(Process);

/// Loading the kernel programs takes seconds on a busy machine.
const SOON: Duration = Duration::from_secs(60);

impl Trace {
    /// Begins a trace with lines of JSON, and waits until it says so.
    ///
    /// # Errors
    /// If it is not built, or ends before.
    pub fn begin(arguments: &[&str]) -> Result<Self> {
        Self::plain(&[&["--json"], arguments].concat())
    }

    /// Begins a trace for people, and waits until it says so.
    ///
    /// # Errors
    /// As [`Trace::begin`].
    pub fn plain(arguments: &[&str]) -> Result<Self> {
        let mut command = process::command(binary()?, None);
        without_settings(&mut command);
        command.args(["trace", "postgres", "--config", "/dev/null"]).args(arguments);
        let process = Process::start("trace", command)?;
        process.wait_for_line("that it traces", SOON, |line| line.starts_with("tracing ").then_some(()))?;
        Ok(Self(process))
    }

    /// Waits for a line with this text.
    ///
    /// # Errors
    /// If it does not come.
    pub fn wait_for(&self, text: &str) -> Result<()> {
        self.0.wait_for_line(text, SOON, |line| line.contains(text).then_some(()))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// If it does not, or not well.
    pub fn ended(mut self) -> Result<()> {
        let status = self.0.wait(SOON)?;
        ensure!(status.success(), "{status}: {}", self.0.log());
        Ok(())
    }

    /// Interrupts it and gives all that it said.
    ///
    /// # Errors
    /// If it does not end well.
    pub fn text(mut self) -> Result<String> {
        self.0.signal("INT")?;
        let status = self.0.wait(SOON)?;
        ensure!(status.success(), "{status}: {}", self.0.log());
        Ok(self.0.log())
    }

    /// Waits for so many queries, ends the trace, and gives them with the total that it says last.
    ///
    /// # Errors
    /// If they do not come, or the total is another than theirs.
    pub fn end(self, queries: usize) -> Result<(Vec<Value>, Value)> {
        let count = |log: &str| log.lines().filter(|line| line.contains(r#""kind":"query""#)).count();
        wait::poll("the queries", SOON, || Ok((count(&self.0.log()) >= queries).then_some(())))?;
        let lines = self.text()?;
        let lines: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let (totals, queries): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line["kind"] == "total");
        let total = totals.into_iter().next().context("no total")?;
        ensure!(total["queries"] == queries.len() as u64, "{total} for {} queries", queries.len());
        Ok((queries, total))
    }
}
