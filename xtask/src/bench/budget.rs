//! What is left on at which load by an agent that keeps to its budget.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};

use super::{
    Context,
    agent::Agent,
    exposition::Exposition,
    interrupt,
    postgres::{Load, Postgres, Way},
    report::{Findings, figure},
    rounds::Quartiles,
};

pub const WHAT: &str = "\
    An agent as it is by default, with its budget of 1 % of the host for long and 2 % for a short time, but that it looks every 2 s at \
    what it costs instead of every 10: so a minute and a half stand for seven and a half. `pgbench -S`, prepared, four clients on unix sockets, is held to \
    a rate; server and pgbench share the host with it, and both ends of each query are watched. What steth took is by its own count \
    (`steth_budget_used_ratio`), the median of the last third of that time; what is switched off is so at its end. Each switch of a \
    feature loads the programs anew: what they counted in the five seconds before is not told here.";

const SECONDS: u32 = 90;
const LOAD: Load = Load { mode: "prepared", way: Way::Unix, clients: 4, seconds: SECONDS };
const RATES: [Option<u32>; 4] = [Some(500), Some(1_500), Some(5_000), None];
const SECTIONS: &str = "[budget]\ninterval = \"2s\"\n";
/// Each is a scrape, which costs the agent some milliseconds that count as what it took.
const LOOK: Duration = Duration::from_secs(5);
/// More than a window.
const WINDOW: Duration = Duration::from_millis(1200);

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let postgres = Postgres::start()?;
    let rows = RATES.iter().map(|rate| leg(context, &postgres, *rate)).collect::<Result<Vec<_>>>()?;
    let head = [
        "transactions/s asked for",
        "made",
        "steth took, % of the host",
        "queries counted, % of those made",
        "switched off",
        "does less",
    ];
    findings.table(&head, &rows);
    Ok(())
}

fn leg(context: &Context, postgres: &Postgres, rate: Option<u32>) -> Result<Vec<String>> {
    eprintln!("{} transactions/s", rate.map_or_else(|| "all".into(), |rate| rate.to_string()));
    let agent = Agent::within_budget(&context.steth, SECTIONS)?;
    let over = AtomicBool::new(false);
    let (outcome, looks) = thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looks = Looks::default();
            while !over.load(Ordering::Relaxed) {
                interrupt::sleep(LOOK)?;
                looks.add(&agent.scrape()?.exposition);
            }
            interrupt::sleep(WINDOW)?;
            let last = agent.scrape()?.exposition;
            looks.add(&last);
            anyhow::Ok((looks, last))
        });
        let outcome = postgres.run_at(LOAD, rate);
        over.store(true, Ordering::Relaxed);
        let looks = looks.join().map_err(|_| anyhow!("the looks panicked"))??;
        anyhow::Ok((outcome?, looks))
    })?;
    let (mut looks, exposition) = looks;
    let later = looks.shares.split_off(looks.shares.len() * 2 / 3);
    Ok(vec![
        rate.map_or_else(|| "as many as it can".into(), |rate| rate.to_string()),
        figure(outcome.per_second),
        figure(100.0 * Quartiles::of(&later).median),
        figure(100.0 * looks.counted / outcome.transactions as f64),
        features(&exposition, "held"),
        features(&exposition, "lowered"),
    ])
}

/// What was seen of an agent, one look after the other.
#[derive(Default)]
struct Looks {
    shares: Vec<f64>,
    last: f64,
    counted: f64,
}

impl Looks {
    fn add(&mut self, exposition: &Exposition) {
        self.shares.push(exposition.sum("steth_budget_used_ratio", &[]));
        let count = exposition.sum("steth_postgres_query_duration_seconds_count", &[("role", "server")]);
        // Each switch of a feature loads programs anew, and figures begin with them.
        self.counted += if count < self.last { count } else { count - self.last };
        self.last = count;
    }
}

fn features(exposition: &Exposition, state: &str) -> String {
    let features = ["profiles", "wall", "syscalls", "sockets", "tls", "tcp", "postgres"];
    let is = |feature: &&str| exposition.sum("steth_feature_state", &[("feature", feature), ("state", state)]) == 1.0;
    let found: Vec<&str> = features.into_iter().filter(is).collect();
    if found.is_empty() { "nothing".into() } else { found.join(", ") }
}
