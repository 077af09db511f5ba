//! Scrapes of what a host does: node_exporter and steth.

use std::{
    net::{SocketAddr, TcpListener},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::FRESH;
use crate::bench::{
    Context,
    agent::{Agent, Scrape, scrape},
    interrupt,
    process::{self, Process, memory_mib, times},
    report::{Compare, Findings},
    rounds::{Variant, alternate},
    tool::ensure_installed,
};

const SCRAPES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(120);
const WITHOUT_PROBES: &str = "[window]\nlive = \"100ms\"\n[probes]\nsyscalls = false\ntcp = false\nsockets = false\n\
                              postgres = false\nwall = false\nprofiles = false\n[profile]\nhertz = 0\n";
const EXPORTER: &str = "prometheus-node-exporter";
const START_LIMIT: Duration = Duration::from_secs(20);

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    if let Err(error) = ensure_installed(EXPORTER, EXPORTER) {
        findings.paragraph(&format!("Left out: node_exporter: {error:#}."));
        return Ok(());
    }
    let agent = |configuration: &str| {
        let agent = Agent::start(&context.steth, configuration)?;
        asked(agent.id(), agent.address())
    };
    let variants = vec![
        Variant::new("node_exporter", exporter),
        Variant::new("steth, no probes", || agent(WITHOUT_PROBES)),
        Variant::new("steth", || agent(FRESH)),
    ];
    let subjects = ["one scrape", "CPU time of one", "resident memory", "series"];
    let results = alternate(context.rounds, &subjects, variants)?;
    for (rounds, unit) in results.iter().zip(["ms", "ms", "MiB", ""]) {
        findings.comparison(rounds, unit, Compare::Ratio);
    }
    Ok(())
}

fn exporter() -> Result<Vec<f64>> {
    // Somebody may take it before the exporter does: then the round fails.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = process::command(EXPORTER, None, None);
    command.arg(format!("--web.listen-address={address}")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut exporter = Process::start(&mut command)?;
    let started = Instant::now();
    while scrape(address).is_err() {
        ensure!(exporter.is_running() && started.elapsed() < START_LIMIT, "{EXPORTER} does not answer");
        interrupt::sleep(Duration::from_millis(50))?;
    }
    asked(exporter.id(), address)
}

fn asked(pid: u32, address: SocketAddr) -> Result<Vec<f64>> {
    interrupt::sleep(Duration::from_secs(2))?;
    let before = times(pid)?.cpu_seconds;
    let mut took = Vec::new();
    let mut last: Option<Scrape> = None;
    for _ in 0..SCRAPES {
        interrupt::sleep(PAUSE)?;
        let answer = scrape(address)?;
        took.push(answer.duration.as_secs_f64() * 1e3);
        last = Some(answer);
    }
    let cpu_ms = (times(pid)?.cpu_seconds - before) * 1e3 / f64::from(SCRAPES);
    took.sort_by(f64::total_cmp);
    let series = last.map_or(0, |answer| answer.exposition.series());
    Ok(vec![took[took.len() / 2], cpu_ms, memory_mib(pid, "VmRSS")?, series as f64])
}
