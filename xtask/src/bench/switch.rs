//! What it costs to say what wall time is spent with: at each switch from one thread to another, and of a database.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    Context,
    agent::Agent,
    postgres::{Load, Postgres, Way},
    process::{self, Process},
    report::{Bound, Compare, Findings},
    rounds::{Variant, alternate},
};

pub const WHAT: &str = "\
    Nanoseconds that one turn of `perf bench sched pipe` takes, in which two processes pass a word on and wait for each \
    other: two switches and two wake-ups, with four system calls. Both are pinned to CPU 1, or free to run where they \
    will. Then `pgbench -S` as below, one client. `wall off` is the agent with `probes.wall = false`; each round checks \
    that the agent told of the switches where it should.";

const TURNS: u32 = 200_000;
const LIMIT: Duration = Duration::from_secs(60);
pub const SUBJECTS: &[&str] = &["sched pipe, one CPU", "sched pipe, any CPU"];
const OFF: &str = "[window]\nlive = \"100ms\"\n[probes]\nwall = false\n";
const ON: &str = "[window]\nlive = \"100ms\"\n";
const LOAD: Load = Load { mode: "prepared", way: Way::Unix, clients: 1, seconds: 5 };

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let variants = vec![
        Variant::new("bare", pipes),
        Variant::new("wall off", || traced(context, OFF, false)),
        Variant::new("steth", || traced(context, ON, true)),
    ];
    let results = alternate(context.rounds, SUBJECTS, variants)?;
    for rounds in &results {
        findings.comparison(rounds, "ns", Compare::Added);
    }

    let postgres = Postgres::start()?;
    postgres.run(LOAD)?;
    let loaded = |configuration: &str| {
        let _agent = Agent::start(&context.steth, configuration)?;
        Ok(vec![postgres.run(LOAD)?.per_second])
    };
    let variants = vec![Variant::new("wall off", || loaded(OFF)), Variant::new("steth", || loaded(ON))];
    let throughput = alternate(context.rounds, &["pgbench, prepared, 1 client"], variants)?;
    let throughput = throughput.first().context("no result")?;
    findings.comparison(throughput, "transactions/s", Compare::Ratio);

    for rounds in &results {
        let (steth, off) = rounds.variant("steth").zip(rounds.variant("wall off")).context("no such variant")?;
        let added = rounds.difference(steth, off).median;
        findings.target(&format!("added by wall time: {}", rounds.subject), added, "ns", Bound::AtMost(800.0));
    }
    let steth = throughput.variant("steth").context("no such variant")?;
    let ratio = throughput.ratio(steth).median;
    findings.target("throughput kept, of that with wall off", ratio, "of it", Bound::AtLeast(0.97));
    Ok(())
}

/// Nanoseconds of a turn, for each subject.
///
/// # Errors
/// perf is missing, or fails.
pub fn pipes() -> Result<Vec<f64>> {
    [Some(1), None].into_iter().map(pipe).collect()
}

/// The same under an agent, which tells of the switches, or does not.
///
/// # Errors
/// The agent does otherwise, or something fails.
pub fn traced(context: &Context, configuration: &str, is_told: bool) -> Result<Vec<f64>> {
    let agent = Agent::start(&context.steth, configuration)?;
    let values = pipes()?;
    let told = agent.scrape()?.exposition.sum("steth_service_wall_seconds_total", &[("service", "perf")]);
    ensure!((told > 0.0) == is_told, "the agent told of {told} s of perf's");
    Ok(values)
}

fn pipe(cpu: Option<usize>) -> Result<f64> {
    let mut command = process::command("perf", cpu, None);
    command.args(["bench", "-f", "simple", "sched", "pipe", "-l", &TURNS.to_string()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let said = Process::start(&mut command)?.output(LIMIT)?;
    let seconds: f64 = said.trim().parse().with_context(|| format!("perf said: {said}"))?;
    Ok(seconds * 1e9 / f64::from(TURNS))
}
