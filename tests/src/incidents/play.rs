//! Plays tables of incidents before an agent with windows of a second, so that a minute is what ten are otherwise. Knows what is
//! asked and when, not what goes wrong.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Incident, Made, Row, Stage};
use crate::{
    agent::{Agent, Options},
    http::percent_encoded,
    postgres::Postgres,
    process::Process,
    programs::{ACTOR, Program},
    wait,
};

/// From the incident to the answer: nine windows that confirm it, and what a busy machine takes.
const ANSWERED: Duration = Duration::from_secs(25);
/// What a change needs of windows, and some more.
const TRAINED: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);

/// What was said of one incident.
#[derive(Debug)]
pub struct Played {
    /// What it is called.
    pub name: &'static str,
    /// What may be named first.
    pub expected: Vec<(&'static str, &'static str, String)>,
    /// The answer; null if there was none.
    pub answer: Value,
    /// Whether it names that first.
    pub is_right: bool,
}

/// What came of a table.
#[derive(Debug, Default)]
pub struct Outcome {
    /// One for each incident that could be made.
    pub played: Vec<Played>,
    /// Those that could not, and why.
    pub skipped: Vec<(&'static str, String)>,
    /// What was found about services to which nothing happened.
    pub of_quiet: Vec<Value>,
}

/// What came of a time in which nothing happens.
#[derive(Debug)]
pub struct Quiet {
    /// What was found, about anybody.
    pub findings: Vec<Value>,
    /// How many series were looked at, and in how many windows.
    pub looked_at: Value,
}

/// What is missing to play here.
pub fn missing() -> Option<String> {
    crate::bpf_missing().or_else(|| ["gcc", "setpriv"].into_iter().find_map(crate::program_missing))
}

/// The name that a server's service has.
pub fn cluster_of(postgres: &Postgres) -> String {
    let folder = postgres.folder().file_name().unwrap_or_default();
    format!("postgres:{}/cluster", folder.to_string_lossy())
}

fn agent() -> Result<Agent> {
    let sections = "[window]\nlive = \"100ms\"\nkept = \"1s\"\n[correlate]\nwindows = 600\n[profile]\nhertz = 0\n";
    Agent::start(&Options { sections: sections.into(), ..Options::default() })
}

/// A server and its caller to whom nothing happens.
struct Calm {
    names: [String; 2],
    _plays: ([Program; 2], [Process; 2]),
}

fn calm(stage: &Stage) -> Result<Calm> {
    let program = stage.actor.under_another_name("qsrv")?;
    let server = program.start(&["serve", "127.0.0.1", "0", "100"])?;
    let find = |line: &str| line.strip_prefix("port=").map(str::to_owned);
    let port = server.wait_for_line("port=", SOON, find)?;
    let other = stage.actor.under_another_name("qcal")?;
    let caller = other.start(&["call", "127.0.0.1", &port, "20000"])?;
    Ok(Calm { names: [program.name.clone(), other.name.clone()], _plays: ([program, other], [server, caller]) })
}

fn stage() -> Result<Stage> {
    let postgres = Postgres::missing().is_none().then(Postgres::start).transpose()?;
    let cluster = postgres.as_ref().map(cluster_of).unwrap_or_default();
    Ok(Stage { actor: Program::build("actr", ACTOR)?, postgres, cluster, folder: tempfile::tempdir()? })
}

fn answer(agent: &Agent, service: &str, since: Instant) -> Option<Value> {
    let seconds = since.elapsed().as_secs() + 5;
    let path = format!("/api/v1/explain?from=-{seconds}s&service={}", percent_encoded(service));
    // A service is known a window after it begins.
    agent.get_json(&path).ok()
}

fn findings(agent: &Agent) -> Result<Vec<Value>> {
    Ok(agent.get_json("/api/v1/findings")?["findings"].as_array().cloned().unwrap_or_default())
}

/// Plays all of a table, wave by wave.
///
/// # Errors
/// If a part cannot be played, or there is no agent.
pub fn play(table: &'static [Row]) -> Result<Outcome> {
    let stage = stage()?;
    let agent = agent()?;
    let mut outcome = Outcome::default();
    let mut cases: Vec<(&Row, Incident, Option<Value>)> = Vec::new();
    for row in table {
        match (row.make)(&stage).context(row.name)? {
            Made::Quiet(incident) => cases.push((row, incident, None)),
            Made::Skipped(why) => outcome.skipped.push((row.name, why)),
        }
    }
    let calm = calm(&stage)?;
    wait::poll("enough windows", TRAINED, || {
        let looked_at = agent.get_json("/api/v1/explain?from=-10m")?["looked_at"].clone();
        let (windows, needed) = (looked_at["windows"].as_u64(), looked_at["windows_needed"].as_u64());
        Ok((windows > needed.map(|needed| needed + 5)).then_some(()))
    })?;
    let waves = cases.iter().map(|(row, ..)| row.wave).max().unwrap_or_default();
    for wave in 0..=waves {
        let mut now: Vec<_> = cases.iter_mut().filter(|(row, ..)| row.wave == wave).collect();
        let struck = Instant::now();
        for (row, incident, _) in &mut now {
            incident.strike(agent.address()).context(row.name)?;
        }
        // Each is asked about until it is named: a change is told when it has lasted.
        let _ = wait::poll("all causes", ANSWERED, || {
            let mut all = true;
            for (_, incident, known) in &mut now {
                if !known.as_ref().is_some_and(|answer| incident.is_named(answer)) {
                    *known = answer(&agent, &incident.asks, struck);
                    all = false;
                }
            }
            std::thread::sleep(Duration::from_millis(500));
            Ok(all.then_some(()))
        });
        for (row, incident, _) in &mut now {
            incident.calm(agent.address()).context(row.name)?;
        }
    }
    for (row, incident, answer) in cases {
        let answer = answer.unwrap_or_default();
        let is_right = incident.is_named(&answer);
        outcome.played.push(Played { name: row.name, expected: incident.expected, answer, is_right });
    }
    let is_calm = |finding: &Value| calm.names.iter().any(|name| finding["service"] == name.as_str());
    outcome.of_quiet = findings(&agent)?.into_iter().filter(is_calm).collect();
    anyhow::ensure!(agent.stop()?.success(), "the agent failed at its end");
    Ok(outcome)
}

/// Lets a server, its caller and a database be at rest for so long.
///
/// # Errors
/// If a part cannot be played, or there is no agent.
pub fn rest(time: Duration) -> Result<Quiet> {
    let stage = stage()?;
    let agent = agent()?;
    let _calm = calm(&stage)?;
    std::thread::sleep(time);
    let looked_at = agent.get_json("/api/v1/explain?from=-10h")?["looked_at"].clone();
    let findings = findings(&agent)?;
    anyhow::ensure!(agent.stop()?.success(), "the agent failed at its end");
    Ok(Quiet { findings, looked_at })
}
