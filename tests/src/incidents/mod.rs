//! Incidents that are made on purpose, each with the cause that an answer must name first. Tables: a name, how its quiet time and
//! the incident are made, and what is expected. Knows how things go wrong, not how that is found.

mod everyday;
mod held_out;
mod parts;
mod play;

use std::{any::Any, process::Command, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

pub use self::{
    everyday::EVERYDAY,
    held_out::HELD_OUT,
    play::{Outcome, Played, Quiet, cluster_of, missing, play, rest},
};
use crate::{
    postgres::Postgres,
    process::Process,
    programs::{Program, said_number},
};

/// A row of the table.
pub struct Row {
    /// What it is called.
    pub name: &'static str,
    /// Incidents of one wave happen at the same time; those that would be each other's cause do not.
    pub wave: usize,
    /// Makes the quiet time before it.
    pub make: fn(&Stage) -> Result<Made>,
}

/// What incidents share.
pub struct Stage {
    /// The program that plays all parts.
    pub actor: Program,
    /// A database server.
    pub postgres: Option<Postgres>,
    /// The service of that server.
    pub cluster: String,
    /// A folder on a disk.
    pub folder: tempfile::TempDir,
}

/// What became of a row.
pub enum Made {
    /// It cannot be made on this machine.
    Skipped(String),
    /// It goes quietly so far.
    Quiet(Incident),
}

/// What the parts do, given where the agent listens.
type Act = Box<dyn FnMut(&mut Parts, &str) -> Result<()>>;

/// An incident that has not happened yet.
pub struct Incident {
    /// The service that is asked about.
    pub asks: String,
    /// What the answer may name first: kind, about, and whose service; no name if it is nobody's.
    pub expected: Vec<(&'static str, &'static str, String)>,
    parts: Parts,
    strike: Act,
    calm: Act,
}

/// Who plays in an incident. Processes end with it, programs stay as long.
#[derive(Default)]
pub struct Parts {
    processes: Vec<Process>,
    programs: Vec<Program>,
    kept: Vec<Box<dyn Any>>,
}

const SOON: Duration = Duration::from_secs(20);

impl Incident {
    /// It happens, before an agent that listens there.
    ///
    /// # Errors
    /// If a part cannot be played.
    pub fn strike(&mut self, agent: &str) -> Result<()> {
        (self.strike)(&mut self.parts, agent)
    }

    /// It is over.
    ///
    /// # Errors
    /// If a part cannot be played.
    pub fn calm(&mut self, agent: &str) -> Result<()> {
        (self.calm)(&mut self.parts, agent)
    }

    /// Whether an answer names the right cause first.
    pub fn is_named(&self, answer: &Value) -> bool {
        let cause = &answer["cause"];
        self.expected.iter().any(|(kind, about, service)| {
            let whose = cause["service"].as_str().unwrap_or_default();
            cause["kind"] == *kind && cause["about"] == *about && whose == service
        })
    }
}

impl Parts {
    /// Starts a part under a name of its own, which is returned.
    fn add(&mut self, stage: &Stage, stem: &str, arguments: &[&str]) -> Result<String> {
        self.add_on(stage, stem, arguments, None)
    }

    fn add_on(&mut self, stage: &Stage, stem: &str, arguments: &[&str], cpu: Option<usize>) -> Result<String> {
        let program = stage.actor.under_another_name(stem)?;
        let name = program.name.clone();
        self.start(&program, arguments, cpu)?;
        self.programs.push(program);
        Ok(name)
    }

    fn start(&mut self, program: &Program, arguments: &[&str], cpu: Option<usize>) -> Result<()> {
        let mut command = program.command(arguments);
        if let Some(cpu) = cpu {
            command.env("ON_CPU", cpu.to_string());
        }
        self.run(&program.name, command)
    }

    fn run(&mut self, name: &str, command: Command) -> Result<()> {
        self.processes.push(Process::start(name, command)?);
        Ok(())
    }

    /// The port on which the part that was started last listens.
    fn port(&self) -> Result<String> {
        let last = self.processes.last().context("nobody plays yet")?;
        let line = last.wait_for_line("port=", SOON, |line| line.starts_with("port=").then(|| line.to_owned()))?;
        Ok(said_number(&line, "port")?.to_string())
    }

    fn say(&mut self, part: usize, order: &str) -> Result<()> {
        self.processes.get_mut(part).context("nobody plays that part")?.say(order)
    }
}

fn quiet(
    asks: &str,
    expected: Vec<(&'static str, &'static str, &str)>,
    parts: Parts,
    strike: impl FnMut(&mut Parts, &str) -> Result<()> + 'static,
    calm: impl FnMut(&mut Parts, &str) -> Result<()> + 'static,
) -> Made {
    let expected = expected.into_iter().map(|(kind, about, service)| (kind, about, service.to_owned())).collect();
    Made::Quiet(Incident { asks: asks.to_owned(), expected, parts, strike: Box::new(strike), calm: Box::new(calm) })
}

fn nothing(_: &mut Parts, _: &str) -> Result<()> {
    Ok(())
}
