//! How many queries `steth trace postgres` tells of, and what it costs the database.

use std::{fs, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    Context,
    agent::Agent,
    interrupt,
    postgres::{Load, Postgres, Way},
    process::{self, Process},
    report::{Bound, Findings, figure},
};

pub const WHAT: &str = "\
    `steth trace postgres --json --role server`, through an agent, into a file, while `pgbench -S` runs prepared with \
    four clients: held to 20,000 queries/s, and as fast as it can. The server is pinned to CPU 0 and pgbench, in one \
    thread, to CPU 1; agent and trace run where they find room, so what pgbench makes without a trace stands beside. \
    Each query is told or counted as skipped.";

const SECONDS: u32 = 10;
const ASKED: u32 = 20_000;
const LOAD: Load = Load { mode: "prepared", way: Way::Unix, clients: 4, seconds: SECONDS };
const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// What became of the queries of one run.
struct Told {
    made: f64,
    per_second: f64,
    told: f64,
    skipped: f64,
}

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let postgres = Postgres::start()?;
    let agent = Agent::start(&context.steth, "")?;
    postgres.run(LOAD)?;
    let bare = postgres.run(LOAD)?;
    let held = traced(context, &postgres, &agent, Some(ASKED))?;
    let free = traced(context, &postgres, &agent, None)?;
    let row = |what: &str, told: &Told| {
        let share = 100.0 * told.told / told.made;
        vec![what.to_owned(), figure(told.per_second), figure(told.told), figure(told.skipped), figure(share)]
    };
    let rows = [
        vec!["not traced".to_owned(), figure(bare.per_second), String::new(), String::new(), String::new()],
        row("20,000/s asked for", &held),
        row("as fast as it can", &free),
    ];
    findings.table(&["pgbench", "queries/s", "told", "skipped and counted", "told, %"], &rows);
    let unsaid = [&held, &free].map(|told| (told.made - told.told - told.skipped).max(0.0)).iter().sum();
    findings.target("told of 20,000 queries/s", 100.0 * held.told / held.made, "%", Bound::AtLeast(99.0));
    findings.target("neither told nor counted as skipped", unsaid, "queries", Bound::AtMost(0.0));
    Ok(())
}

fn traced(context: &Context, postgres: &Postgres, agent: &Agent, per_second: Option<u32>) -> Result<Told> {
    let folder = tempfile::Builder::new().prefix("steth-bench-").tempdir()?;
    let (lines, talk) = (folder.path().join("lines"), folder.path().join("talk"));
    let mut command = process::command(&context.steth, None, None);
    command.args(["trace", "postgres", "--json", "--role", "server", "--agent", &agent.address().to_string()]);
    command.stdout(fs::File::create(&lines)?).stderr(Stdio::from(fs::File::create(&talk)?));
    let mut trace = Process::start(&mut command)?;
    let begun = std::time::Instant::now();
    while !fs::read_to_string(&talk)?.contains("tracing ") {
        ensure!(trace.is_running() && begun.elapsed() < START_LIMIT, "no trace: {}", fs::read_to_string(&talk)?);
        interrupt::sleep(interrupt::PAUSE)?;
    }
    let outcome = postgres.run_at(LOAD, per_second)?;
    // What is on its way arrives.
    interrupt::sleep(Duration::from_secs(1))?;
    ensure!(trace.stop("INT", STOP_LIMIT), "the trace does not end");
    let all = fs::read_to_string(&lines)?;
    let total = all.lines().rev().find(|line| line.contains(r#""kind":"total""#)).context("the trace says no total")?;
    let total: serde_json::Value = serde_json::from_str(total)?;
    let number = |name: &str| total[name].as_f64().with_context(|| format!("no {name} in {total}"));
    Ok(Told {
        made: outcome.transactions as f64,
        per_second: outcome.per_second,
        told: number("queries")?,
        skipped: number("skipped_in_kernel")? + number("skipped_in_agent")?,
    })
}
