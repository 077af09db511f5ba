//! What findings cost: CPU time of a window, and memory, by how many services there are.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{
    Context,
    process::output,
    report::{Bound, Findings, figure},
};
use crate::workspace;

pub const WHAT: &str = "\
    CPU time that findings take in one window, and the memory of an hour of windows: the agent's own code, given a made-up host \
    whose services have 30 series each (processes, system calls, TCP, sockets, two Postgres statements), with windows of 10 s. \
    `slow at once`: a tenth of the services become ten times as slow in one moment, so that all that moved is compared. At most \
    256 services have a past, and 4,096 of their signals.";

const SERVICES: &[usize] = &[10, 100, 1_000];
/// For building what is run, and one run.
const PATIENCE: Duration = Duration::from_secs(20 * 60);
const WINDOW_MS: f64 = 10_000.0;

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let mut rows = Vec::new();
    for services in SERVICES {
        let mut rounds = Vec::new();
        for _ in 0..context.rounds {
            rounds.push(round(*services)?);
        }
        // The figures of a round go together; the middle one by its time in a quiet window stands for all.
        rounds.sort_by(|a, b| a[2].total_cmp(&b[2]));
        let [series, tracks, quiet, storm, found, memory] = rounds[rounds.len() / 2];
        rows.push(vec![
            services.to_string(),
            figure(series),
            figure(tracks),
            figure(quiet),
            figure(storm),
            figure(found),
            figure(memory),
        ]);
        if *services >= 100 {
            let what = |what: &str| format!("{services} services: {what}");
            findings.target(&what("of a core"), quiet / WINDOW_MS * 100.0, "%", Bound::AtMost(0.5));
            findings.target(&what("memory"), memory, "MB", Bound::AtMost(24.0));
        }
    }
    let head = [
        "services",
        "series in a window",
        "signals with a past",
        "a quiet window, ms: mean",
        "slow at once, ms: most",
        "findings then",
        "memory, MB",
    ];
    findings.table(&head, &rows);
    Ok(())
}

fn round(services: usize) -> Result<[f64; 6]> {
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--quiet", "--release", "--package", "steth-tests", "--example", "correlate", "--"]);
    let told = output(cargo.arg(services.to_string()), PATIENCE)?;
    let figures = told.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    ensure!(figures.iter().all(|figure| figure.is_finite()), "not all are figures: {told}");
    figures.try_into().ok().with_context(|| format!("not six figures: {told}"))
}
