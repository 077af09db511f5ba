//! `steth trace`, started as a user starts it. Knows its command line and its lines of JSON.

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
pub struct Trace {
    process: Process,
    subject: Subject,
}

/// What is traced.
#[derive(Clone, Copy, Debug)]
pub enum Subject {
    /// Queries.
    Postgres,
    /// System calls.
    Syscalls,
    /// TCP events.
    Tcp,
    /// Executions.
    Exec,
}

impl Subject {
    /// The subcommand, the kind of its lines of JSON, and what the total calls them.
    fn words(self) -> [&'static str; 3] {
        match self {
            Self::Postgres => ["postgres", "query", "queries"],
            Self::Syscalls => ["syscalls", "call", "calls"],
            Self::Tcp => ["tcp", "tcp", "events"],
            Self::Exec => ["exec", "exec", "executions"],
        }
    }
}

/// Loading the kernel programs takes seconds on a busy machine.
const SOON: Duration = Duration::from_secs(60);

impl Trace {
    /// Begins a trace of queries with lines of JSON, and waits until it says so.
    ///
    /// # Errors
    /// If it is not built, or ends before.
    pub fn begin(arguments: &[&str]) -> Result<Self> {
        Self::of(Subject::Postgres, &[&["--json"], arguments].concat())
    }

    /// Begins a trace, and waits until it says so.
    ///
    /// # Errors
    /// As [`Trace::begin`].
    pub fn of(subject: Subject, arguments: &[&str]) -> Result<Self> {
        let mut command = process::command(binary()?, None);
        without_settings(&mut command);
        command.args(["trace", subject.words()[0], "--config", "/dev/null"]).args(arguments);
        let process = Process::start("trace", command)?;
        process.wait_for_line("that it traces", SOON, |line| line.starts_with("tracing ").then_some(()))?;
        Ok(Self { process, subject })
    }

    /// Begins a trace of queries for people, and waits until it says so.
    ///
    /// # Errors
    /// As [`Trace::begin`].
    pub fn plain(arguments: &[&str]) -> Result<Self> {
        Self::of(Subject::Postgres, arguments)
    }

    /// Waits for a line with this text.
    ///
    /// # Errors
    /// If it does not come.
    pub fn wait_for(&self, text: &str) -> Result<()> {
        self.process.wait_for_line(text, SOON, |line| line.contains(text).then_some(()))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// If it does not, or not well.
    pub fn ended(mut self) -> Result<()> {
        let status = self.process.wait(SOON)?;
        ensure!(status.success(), "{status}: {}", self.process.log());
        Ok(())
    }

    /// Interrupts it and gives all that it said.
    ///
    /// # Errors
    /// If it does not end well.
    pub fn text(mut self) -> Result<String> {
        self.process.signal("INT")?;
        let status = self.process.wait(SOON)?;
        ensure!(status.success(), "{status}: {}", self.process.log());
        Ok(self.process.log())
    }

    /// Waits for so many lines, ends the trace, and gives them with the total that it says last.
    ///
    /// # Errors
    /// If they do not come, or the total is another than theirs.
    pub fn end(self, least: usize) -> Result<(Vec<Value>, Value)> {
        let [_, kind, noun] = self.subject.words();
        let kind = format!(r#""kind":"{kind}""#);
        let count = |log: &str| log.lines().filter(|line| line.contains(&kind)).count();
        wait::poll(noun, SOON, || Ok((count(&self.process.log()) >= least).then_some(())))?;
        lines(&self.text()?, noun)
    }

    /// Waits until it ends by itself, and gives its lines with the total that it says last.
    ///
    /// # Errors
    /// If it does not end, or not well, or the total is another than that of the lines.
    pub fn outlast(mut self) -> Result<(Vec<Value>, Value)> {
        let status = self.process.wait(SOON)?;
        ensure!(status.success(), "{status}: {}", self.process.log());
        lines(&self.process.log(), self.subject.words()[2])
    }
}

fn lines(log: &str, noun: &str) -> Result<(Vec<Value>, Value)> {
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let (totals, lines): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line["kind"] == "total");
    let total = totals.into_iter().next().context("no total")?;
    ensure!(total[noun] == lines.len() as u64, "{total} for {} {noun}", lines.len());
    Ok((lines, total))
}
