//! What profiles cost those who are looked at.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{
    load::Program,
    profilers::{LEG, Leg, NO_CLOCK, Profiler, first_sample},
};
use crate::bench::{
    Context,
    agent::Agent,
    bpf::Stats,
    interrupt,
    report::{Bound, Compare, Findings, figure, shown},
    rounds::{Measured, Quartiles, Rounds},
    tool,
};

pub const WHAT: &str = "\
    Two processors are kept busy, each by a program of its own (`-O2 -fomit-frame-pointer`, 30 frames deep, pinned), \
    while someone takes samples of all processes: nobody, an agent that takes none, an agent by its own clock, \
    `steth flame --all` through an agent, `perf record -a`, BCC's profile. All variants take turns, in legs of 6 s. \
    Their costs: the run time of BPF programs that clocks drive (`kernel.bpf_stats_enabled`, on in all legs), and the \
    CPU time of the profiler's processes, less what an agent that takes no samples needs; both while the load runs, as a \
    share of all processors. Apart from that what a profile costs once: to begin, and at its end to find names (steth, \
    BCC) and to write (all; perf finds names later, in `perf script`). What perf does in the kernel is told by no \
    count, but by the throughput.";

/// Processors that are kept busy.
const BUSY: usize = 2;
/// Of how many starts the middle one counts.
const STARTS: usize = 5;

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    tool::install();
    let program = Program::compile()?;
    let stats = Stats::on()?;
    let mut skipped = Vec::new();
    let mut legs: Vec<(Profiler, Vec<Leg>)> = Vec::new();
    for profiler in Profiler::ALL {
        match profiler.missing() {
            Some(why) => skipped.push(format!("`{}` is left out: {why}.", profiler.name())),
            None => legs.push((profiler, Vec::new())),
        }
    }
    program.run(Duration::from_secs(1), BUSY)?;
    for round in 1..=context.rounds {
        for (profiler, legs) in &mut legs {
            interrupt::check()?;
            let leg = profiler.leg(context, &program, BUSY).with_context(|| profiler.name())?;
            eprintln!(
                "{round}/{} {:<40} {:.0} turns/s, programs {:.4} s, processes {:.2} s, whole {:.4}, {} samples",
                context.rounds,
                profiler.name(),
                leg.turns,
                leg.programs_seconds,
                leg.cpu_seconds,
                leg.whole,
                leg.samples
            );
            legs.push(leg);
        }
    }
    if legs.iter().any(|(profiler, legs)| *profiler == Profiler::Always && legs.iter().all(|leg| leg.samples == 0.0)) {
        skipped.push(format!("`{}` is left out: the agent's own clock takes no samples.", Profiler::Always.name()));
        legs.retain(|(profiler, _)| *profiler != Profiler::Always);
    }
    throughput(&legs, findings);
    let shares = costs(&legs, findings);
    for skipped in &skipped {
        findings.paragraph(skipped);
    }
    let walks = walks(&legs).context("no walk was measured")?;
    starts(context, &program, findings)?;
    drop(stats);

    for (profiler, share) in shares {
        let bound = match profiler {
            Profiler::Always | Profiler::Flame(19) => Bound::AtMost(0.3),
            Profiler::Flame(_) => Bound::AtMost(1.0),
            _ => continue,
        };
        findings.target(&format!("host CPU: {}", profiler.name()), share, "%", bound);
    }
    findings.target("walk of 30 frames, p50", walks.0 * 1e6, "µs", Bound::AtMost(5.0));
    findings.target("walk of 30 frames, p99", walks.1 * 1e6, "µs", Bound::AtMost(20.0));
    Ok(())
}

fn throughput(legs: &[(Profiler, Vec<Leg>)], findings: &mut Findings) {
    let measured = |(profiler, legs): &(Profiler, Vec<Leg>)| Measured {
        name: profiler.name(),
        values: legs.iter().map(|leg| leg.turns).collect(),
    };
    let rounds = Rounds { subject: "30 frames deep, 2 processors", variants: legs.iter().map(measured).collect() };
    findings.comparison(&rounds, "turns/s", Compare::Ratio);
}

/// The table of costs; returns the share of the host of each.
fn costs(legs: &[(Profiler, Vec<Leg>)], findings: &mut Findings) -> Vec<(Profiler, f64)> {
    let middle = |legs: &[Leg], value: fn(&Leg) -> f64| Quartiles::of(&legs.iter().map(value).collect::<Vec<_>>());
    let idle = legs.iter().find(|(profiler, _)| *profiler == Profiler::Agent);
    let idle = idle.map_or(0.0, |(_, legs)| middle(legs, |leg| leg.cpu_seconds).median);
    let percent = |seconds: f64| 100.0 * seconds / LEG.as_secs_f64() / BUSY as f64;
    let (mut rows, mut shares) = (Vec::new(), Vec::new());
    for (profiler, legs) in legs.iter().filter(|(profiler, _)| !matches!(profiler, Profiler::Nobody | Profiler::Agent))
    {
        let own = matches!(profiler, Profiler::Always | Profiler::Flame(_));
        let processes = middle(legs, |leg| leg.cpu_seconds).median - if own { idle } else { 0.0 };
        let programs = middle(legs, |leg| leg.programs_seconds).median;
        let share = percent(programs + processes.max(0.0));
        let bpf = own || *profiler == Profiler::Bcc;
        let or_none = |known: bool, value: f64| if known { figure(value) } else { "?".into() };
        rows.push(vec![
            profiler.name().to_owned(),
            or_none(bpf, percent(programs)),
            figure(percent(processes.max(0.0))),
            or_none(bpf, share),
            or_none(*profiler != Profiler::Always, 1e3 * middle(legs, |leg| leg.once_seconds).median),
            or_none(*profiler != Profiler::Always, 100.0 * middle(legs, |leg| leg.whole).median),
        ]);
        shares.push((*profiler, share));
    }
    let head = ["% of two processors", "programs", "processes", "both", "once, CPU ms", "stacks that reach `main`, %"];
    findings.table(&head, &rows);
    shares
}

/// The middle and the slowest hundredth of walks at 99 Hz, in seconds.
fn walks(legs: &[(Profiler, Vec<Leg>)]) -> Option<(f64, f64)> {
    let (_, legs) = legs.iter().find(|(profiler, _)| *profiler == Profiler::Flame(99))?;
    let mut sums: Vec<(f64, f64)> = Vec::new();
    for leg in legs {
        for (place, (bound, count)) in leg.walks.iter().enumerate() {
            match sums.get_mut(place) {
                Some(sum) => sum.1 += count,
                None => sums.push((*bound, *count)),
            }
        }
    }
    Some((quantile(&sums, 0.5)?, quantile(&sums, 0.99)?))
}

/// Between the bounds of a bucket the line is straight. What lies beyond the last finite bound is infinite.
fn quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let wanted = buckets.last()?.1 * share;
    let place = buckets.iter().position(|(_, count)| *count >= wanted && *count > 0.0)?;
    let (below, less) = if place == 0 { (0.0, 0.0) } else { buckets[place - 1] };
    let (bound, count) = buckets[place];
    Some(if bound.is_infinite() { bound } else { below + (bound - below) * (wanted - less) / (count - less) })
}

fn starts(context: &Context, program: &Program, findings: &mut Findings) -> Result<()> {
    let to = program.folder().join("first");
    let mut results = Vec::new();
    for (what, through_agent) in [("through an agent", true), ("alone", false)] {
        let agent = if through_agent { Some(Agent::start(&context.steth, NO_CLOCK)?) } else { None };
        let mut values = Vec::new();
        for _ in 0..STARTS {
            let mut busy = program.start(Duration::from_secs(20), BUSY)?;
            ensure!(busy.iter_mut().all(|one| one.is_running()), "the load has ended");
            values.push(first_sample(context, agent.as_ref(), &to)?);
        }
        eprintln!("first sample {what}: {values:.0?} ms");
        results.push((what, Quartiles::of(&values)));
    }
    let rows: Vec<Vec<String>> = results.iter().map(|(what, times)| vec![(*what).to_owned(), shown(*times)]).collect();
    findings.table(&["from the start of `steth flame` to the first sample", "ms"], &rows);
    for (what, times) in results {
        findings.target(&format!("first sample {what}"), times.median, "ms", Bound::AtMost(500.0));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let buckets = [(1.0, 0.0), (2.0, 50.0), (4.0, 98.0), (f64::INFINITY, 100.0)];
        assert_eq!(quantile(&buckets, 0.5), Some(2.0));
        assert_eq!(quantile(&buckets, 0.25), Some(1.5));
        assert_eq!(quantile(&buckets, 0.74), Some(3.0));
        assert_eq!(quantile(&buckets, 0.99), Some(f64::INFINITY));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
