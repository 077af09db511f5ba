//! Much of what happens to an agent in a day, in less time: everything that makes it take and give back is done again and again,
//! and what it takes is looked at. Knows what is done and when it is enough; [`sample`] how an agent is looked at.

mod churn;
mod sample;

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use churn::Churn;
pub use churn::Done;
use sample::{KINDS, Sample};

use crate::{
    agent::{Agent, Options},
    observed::{Observed, Unharmed},
};

/// How often the agent is looked at.
const SAMPLED: Duration = Duration::from_secs(10);
/// Looks of which the least counts: what is asked for takes memory for a while, and each switch of features holds old programs beside
/// new ones; what it falls back to in two minutes is what it keeps.
const TOGETHER: usize = 12;
/// Fewer looks show no slope.
const FEWEST: usize = 6 * TOGETHER;

/// All that an agent does, in a tenth of its usual times; budgets are off, as they would make it do less.
const SECTIONS: &str = "[window]\nlive = \"100ms\"\nkept = \"1s\"\n[kernel]\nopen_files_interval = \"3s\"\n[profile]\npiece = \
                        \"20s\"\nkept = \"4MiB\"\n[log]\nlevel = \"info\"\n";

/// What came of it.
#[derive(Debug)]
pub struct Soaked {
    samples: Vec<Sample>,
    done: Done,
    observed: Unharmed,
    took: Duration,
    log_lines: usize,
}

/// What one kind of sample did from the second third on.
#[derive(Debug)]
pub struct Trend {
    /// What, with its unit.
    pub what: &'static str,
    /// The first look of all, and the least of the first looks after a third, and of the last.
    pub seen: [f64; 3],
    /// The most at any time.
    pub most: f64,
    /// What the straight line through the least of the looks since then gains until the end.
    pub grown: f64,
    /// What it may gain.
    pub bound: f64,
}

impl Trend {
    /// Whether it stays within its bound.
    pub fn is_flat(&self) -> bool {
        self.grown <= self.bound
    }
}

/// Does all of it for so long, or until it is told that it is over.
///
/// # Errors
/// If something cannot be done, the agent ends, or the observed application is harmed.
pub fn soak(length: Duration, over: &AtomicBool, progress: impl Fn(&str)) -> Result<Soaked> {
    let observed = Observed::start()?;
    let agent = Agent::start(&Options { sections: SECTIONS.to_owned(), ..Options::default() })?;
    let since = Instant::now();
    let mut samples = vec![Sample::of(agent.id())?];
    let done = std::thread::scope(|scope| -> Result<Done> {
        let churn = Churn::begin(scope, &agent, &observed.postgres);
        while since.elapsed() < length && !over.load(Ordering::Relaxed) && churn.goes_on() {
            let next = SAMPLED * u32::try_from(samples.len())?;
            std::thread::sleep(next.saturating_sub(since.elapsed()).min(Duration::from_millis(200)));
            if since.elapsed() >= next {
                let sample = Sample::of(agent.id())?;
                progress(&format!("{:>4} s: {sample}", since.elapsed().as_secs()));
                samples.push(sample);
            }
        }
        churn.end()
    })?;
    let log_lines = agent.log().lines().count();
    ensure!(!agent.log().contains("panicked"), "{}", agent.log());
    ensure!(agent.stop()?.success(), "the agent did not end well");
    Ok(Soaked { samples, done, observed: observed.end()?, took: since.elapsed(), log_lines })
}

impl Soaked {
    /// Whether it was long enough to say anything.
    pub fn is_enough(&self) -> bool {
        self.samples.len() >= FEWEST
    }

    /// Each kind.
    pub fn trends(&self) -> Vec<Trend> {
        let third = self.samples.len() / 3;
        let trend = |(place, (what, bound)): (usize, &(&'static str, f64))| {
            let all: Vec<f64> = self.samples.iter().map(|sample| sample.0[place]).collect();
            let kept = kept(&all[third..]);
            let seen = [all[0], kept[0], kept[kept.len() - 1]];
            let most = all.iter().copied().fold(0.0, f64::max);
            Trend { what, seen, most, grown: gained(&kept), bound: *bound }
        };
        KINDS.iter().enumerate().map(trend).collect()
    }

    /// The section of the page.
    pub fn section(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "In {} s: {}.\n", self.took.as_secs(), self.done);
        let _ = writeln!(
            text,
            "| the agent's | at first | kept after a third | at the end | most | gained since | may gain | |"
        );
        let _ = writeln!(text, "|---|---:|---:|---:|---:|---:|---:|---|");
        for trend in self.trends() {
            let [first, third, last] = trend.seen;
            let verdict = if trend.is_flat() { "flat" } else { "**grows**" };
            let _ = writeln!(
                text,
                "| {} | {first:.1} | {third:.1} | {last:.1} | {:.1} | {:+.1} | {} | {verdict} |",
                trend.what, trend.most, trend.grown, trend.bound
            );
        }
        let Unharmed { transactions, longest, .. } = self.observed;
        let _ = writeln!(
            text,
            "\nThe observed pgbench ran {transactions} transactions meanwhile; none failed, the longest took {} ms. The agent \
             wrote {} lines of log.",
            longest.as_millis(),
            self.log_lines
        );
        text
    }
}

/// The least of each of the groups that looks make; what is left over at the beginning belongs to none.
fn kept(looks: &[f64]) -> Vec<f64> {
    looks.rchunks_exact(TOGETHER).map(|looks| looks.iter().copied().fold(f64::INFINITY, f64::min)).rev().collect()
}

/// What the straight line nearest to equally spaced values (least squares) gains from the first to the last.
fn gained(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let (middle, mean) = ((count - 1.0) / 2.0, values.iter().sum::<f64>() / count);
    let (mut over, mut under) = (0.0, 0.0);
    for (place, value) in values.iter().enumerate() {
        let from_middle = place as f64 - middle;
        over += from_middle * (value - mean);
        under += from_middle * from_middle;
    }
    if under == 0.0 { 0.0 } else { over / under * (count - 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_line_gains_is_what_it_rises_by() {
        assert!((gained(&[1.0, 2.0, 3.0, 4.0]) - 3.0).abs() < 1e-9);
        assert!(gained(&[5.0, 5.0, 5.0]).abs() < 1e-9);
        assert!(gained(&[5.0]).abs() < 1e-9);
    }

    #[test]
    fn what_is_taken_for_a_while_is_not_kept_and_what_leaks_is() {
        let swings = |place: usize| if place % TOGETHER == 3 { 0.0 } else { 40.0 + (place % 7) as f64 };
        let looks: Vec<f64> = (0..8 * TOGETHER + 5).map(swings).collect();
        assert_eq!(gained(&kept(&looks)), 0.0);
        let leaks: Vec<f64> = looks.iter().zip(0..).map(|(look, place)| look + f64::from(place) / 10.0).collect();
        assert!(gained(&kept(&leaks)) > 8.0, "{:?}", kept(&leaks));
    }
}
