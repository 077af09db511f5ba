//! What the agent costs a host on which nothing happens.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    Context,
    agent::Agent,
    bpf::{self, Stats},
    interrupt,
    process::memory_mib,
    report::{Bound, Findings, figure},
};

pub const WHAT: &str = "\
    The agent with everything on, on a host that does nothing else, scraped every 10 s as Prometheus does. Processor \
    time is the agent's own, user and system, of all threads (/proc/PID/stat); the time that its kernel programs \
    take from others is measured in a further leg, with `kernel.bpf_stats_enabled`. Resident memory is VmRSS at the \
    end. Kernel memory is what the kernel charges for the agent's maps and programs (`memlock` in /proc/PID/fdinfo).";

const LEG: Duration = Duration::from_secs(60);
const PROGRAMS_LEG: Duration = Duration::from_secs(30);
const SCRAPE_INTERVAL: Duration = Duration::from_secs(10);
/// What the start leaves to do is not idling.
const SETTLE: Duration = Duration::from_secs(3);
const MIB: f64 = (1 << 20) as f64;

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let agent = Agent::start(&context.steth, "")?;
    interrupt::sleep(SETTLE)?;

    let (started, before) = (Instant::now(), agent.cpu_seconds()?);
    let scrapes = scrape_every_interval(&agent, LEG)?;
    let cpu_percent = 100.0 * (agent.cpu_seconds()? - before) / started.elapsed().as_secs_f64();
    let resident = memory_mib(agent.id(), "VmRSS")?;
    let most_resident = memory_mib(agent.id(), "VmHWM")?;
    let kernel = bpf::memory(agent.id())?;
    let exposition = agent.scrape()?.exposition;
    let told_maps = exposition.sum("steth_kernel_memory_bytes", &[]) / MIB;
    let (maps, programs) = (kernel.maps_bytes as f64 / MIB, kernel.programs_bytes as f64 / MIB);

    let stats = Stats::on()?;
    let (started, before) = (Instant::now(), bpf::programs(agent.id())?);
    scrape_every_interval(&agent, PROGRAMS_LEG)?;
    let added = bpf::since(&before, bpf::programs(agent.id())?);
    let programs_elapsed = started.elapsed().as_secs_f64();
    drop(stats);
    let run_seconds = added.iter().map(|program| program.run_ns).sum::<u64>() as f64 / 1e9;
    let runs: u64 = added.iter().map(|program| program.runs).sum();

    let rows = [
        ("agent, of one core, %".to_owned(), cpu_percent),
        ("kernel programs, of one core, %".to_owned(), 100.0 * run_seconds / programs_elapsed),
        ("runs of kernel programs per second".to_owned(), runs as f64 / programs_elapsed),
        ("resident memory, MiB".to_owned(), resident),
        ("most resident memory since the start, MiB".to_owned(), most_resident),
        ("kernel memory: maps, MiB".to_owned(), maps),
        ("kernel memory: maps, as `steth_kernel_memory_bytes` has it, MiB".to_owned(), told_maps),
        ("kernel memory: programs, MiB".to_owned(), programs),
    ];
    let head = format!("in {} s with {scrapes} scrapes of {} series", LEG.as_secs(), exposition.series());
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(what, value)| vec![what, figure(value)]).collect();
    findings.table(&[&head, ""], &rows);
    findings.target("idle processor time", cpu_percent, "% of one core", Bound::Below(0.5));
    findings.target("resident memory", resident * MIB / 1e6, "MB", Bound::Below(40.0));
    findings.target("kernel memory", maps.max(told_maps) + programs, "MiB", Bound::Below(44.0));
    Ok(())
}

/// Scrapes for so long; returns how often.
fn scrape_every_interval(agent: &Agent, leg: Duration) -> Result<u32> {
    let started = Instant::now();
    let mut scrapes = 0;
    while started.elapsed() < leg {
        agent.scrape()?;
        scrapes += 1;
        let next = SCRAPE_INTERVAL * scrapes;
        interrupt::sleep(next.saturating_sub(started.elapsed()))?;
    }
    Ok(scrapes)
}
