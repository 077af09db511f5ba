//! What the agent costs a database under full load.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{
    Context,
    agent::Agent,
    bpf::{self, Stats},
    interrupt,
    postgres::{Load, Postgres, Way},
    report::{Bound, Compare, Findings, figure},
    rounds::{Variant, alternate},
};

pub const WHAT: &str = "\
    `pgbench -S` on a PostgreSQL 15 of its own: scale 10, all in memory, the server pinned to CPU 0 and pgbench, in \
    one thread, to CPU 1; the agent runs where it finds room. Each pair of legs of 5 s is one without and one with \
    the agent, which is started and stopped for it, with everything on and without a budget. Each leg checks that the agent counted at \
    least 99 % of the queries that pgbench says it made.";

const SECONDS: u32 = 5;
const LOADS: &[(&str, Load)] = &[
    ("prepared, 1 client", Load { mode: "prepared", way: Way::Unix, clients: 1, seconds: SECONDS }),
    ("prepared, 4 clients", Load { mode: "prepared", way: Way::Unix, clients: 4, seconds: SECONDS }),
    ("prepared, 1 client, TCP", Load { mode: "prepared", way: Way::Tcp, clients: 1, seconds: SECONDS }),
    ("simple, 1 client", Load { mode: "simple", way: Way::Unix, clients: 1, seconds: SECONDS }),
    ("prepared, 1 client, TLS", Load { mode: "prepared", way: Way::Tls, clients: 1, seconds: SECONDS }),
    ("prepared, 4 clients, TLS", Load { mode: "prepared", way: Way::Tls, clients: 4, seconds: SECONDS }),
];
/// Those that targets are for, and what of the bare throughput is to be kept.
const TARGETS: &[(&str, f64)] = &[
    ("prepared, 1 client", 0.92),
    ("prepared, 4 clients", 0.92),
    ("prepared, 1 client, TLS", 0.88),
    ("prepared, 4 clients, TLS", 0.88),
];

/// As many queries as two processors give, for so long that the agent's time, told in hundredths of a second, says something.
const HIGHEST: (&str, Load) =
    ("prepared, 4 clients", Load { mode: "prepared", way: Way::Unix, clients: 4, seconds: 4 * SECONDS });
/// More than a window of an agent that nothing is said to.
const WINDOW: Duration = Duration::from_millis(1200);
const COUNT: &str = "steth_postgres_query_duration_seconds_count";

/// What was counted is asked for right after a leg.
const FRESH: &str = "[window]\nlive = \"100ms\"\n";
const FRESH_AFTER: Duration = Duration::from_millis(200);

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let postgres = Postgres::start()?;
    let mut targets = Vec::new();
    for (name, load) in LOADS {
        eprintln!("{name}; first once to warm up");
        postgres.run(*load)?;
        // Each load takes turns for itself: the shorter the time between the two legs of a pair, the less else changes.
        let variants = vec![
            Variant::new("bare", || Ok(vec![postgres.run(*load)?.per_second])),
            Variant::new("steth", || traced(context, &postgres, *load)),
        ];
        let results = alternate(context.rounds, &[name], variants)?;
        let rounds = results.first().context("no result")?;
        findings.comparison(rounds, "transactions/s", Compare::Ratio);
        if let Some((_, least)) = TARGETS.iter().find(|(target, _)| target == name) {
            let steth = rounds.variant("steth").context("no such variant")?;
            targets.push((format!("throughput kept: {name}"), rounds.ratio(steth).median, *least));
        }
    }
    programs(context, &postgres, findings)?;
    highest(context, &postgres, findings)?;
    for (what, ratio, least) in targets {
        findings.target(&what, ratio, "of bare", Bound::AtLeast(least));
    }
    Ok(())
}

/// Figures of an agent that did not see the queries would say nothing.
fn traced(context: &Context, postgres: &Postgres, load: Load) -> Result<Vec<f64>> {
    let agent = Agent::start(&context.steth, FRESH)?;
    let outcome = postgres.run(load)?;
    interrupt::sleep(FRESH_AFTER)?;
    // Both ends are on this host; the server's is as good as the client's.
    let labels = [("role", "server")];
    let counted = agent.scrape()?.exposition.sum(COUNT, &labels);
    let made = outcome.transactions;
    ensure!(counted >= 0.99 * made as f64, "the agent counted {counted} of {made} queries");
    Ok(vec![outcome.per_second])
}

/// Where the time goes: a further run in which the kernel counts.
fn programs(context: &Context, postgres: &Postgres, findings: &mut Findings) -> Result<()> {
    let (name, load) = LOADS[0];
    let agent = Agent::start(&context.steth, "")?;
    let stats = Stats::on()?;
    let before = bpf::programs(agent.id())?;
    let transactions = postgres.run(load)?.transactions as f64;
    let added = bpf::since(&before, bpf::programs(agent.id())?);
    drop(stats);

    let row = |name: &str, runs: u64, run_ns: u64| {
        let (runs, run_ns) = (runs as f64, run_ns as f64);
        vec![name.to_owned(), figure(runs / transactions), figure(run_ns / runs), figure(run_ns / transactions)]
    };
    let mut rows: Vec<Vec<String>> = added
        .iter()
        .filter(|program| program.runs as f64 > 0.001 * transactions)
        .map(|program| row(&program.name, program.runs, program.run_ns))
        .collect();
    let (runs, run_ns) = added.iter().fold((0, 0), |(runs, ns), program| (runs + program.runs, ns + program.run_ns));
    rows.push(row("all", runs, run_ns));
    findings.paragraph(&format!(
        "Where the time goes: {name}, once more, with `kernel.bpf_stats_enabled` (which adds its own two clock reads \
         to each run). Both ends of each transaction run on this host, so both are counted."
    ));
    findings.table(&["program", "runs per transaction", "ns per run", "ns per transaction"], &rows);
    Ok(())
}

/// What an agent as it is by default, but for its budget, needs for itself under this load, and whether it counts every query.
fn highest(context: &Context, postgres: &Postgres, findings: &mut Findings) -> Result<()> {
    let (name, load) = HIGHEST;
    let agent = Agent::start(&context.steth, "")?;
    let before = agent.cpu_seconds()?;
    let outcome = postgres.run(load)?;
    let cpu_seconds = agent.cpu_seconds()? - before;
    interrupt::sleep(WINDOW)?;
    let exposition = agent.scrape()?.exposition;
    let made = outcome.transactions as f64;
    // pgbench asks some questions of its own before; its script has one statement.
    let counted = |role| exposition.most(COUNT, &[("role", role)]);
    let (server, client) = (counted("server"), counted("client"));
    let lost = exposition.sum("steth_records_lost_total", &[]);
    let missed = exposition.sum("steth_probe_missed_total", &[]);
    let cpu_percent = 100.0 * cpu_seconds * 10_000.0 / made;

    findings.paragraph(&format!(
        "What the agent needs for itself, and whether it counts every query: {name}, once more, for {} s, the agent as \
         it is by default, but without a budget. Its processor time is its own, user and system, of all threads (/proc/PID/stat).",
        load.seconds
    ));
    let rows = [
        ("queries that pgbench made", made),
        ("the same, per second", outcome.per_second),
        ("of them counted at the server's end", server),
        ("of them counted at the client's end", client),
        ("records lost, for any reason", lost),
        ("runs of kernel programs left out", missed),
        ("agent, of one core, % for 10,000 queries/s", cpu_percent),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(what, value)| vec![what.to_owned(), figure(value)]).collect();
    findings.table(&[name, ""], &rows);
    findings.target("agent for 10,000 queries/s", cpu_percent, "% of one core", Bound::AtMost(5.0));
    let wrong = (made - server).abs() + (made - client).abs() + lost;
    findings.target("queries miscounted or lost at the highest rate", wrong, "queries", Bound::AtMost(0.0));
    Ok(())
}
