//! How long the page with the viewer takes to open, and how large it is.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{
    Context,
    process::output,
    report::{Bound, Findings, figure},
};
use crate::workspace;

pub const WHAT: &str = "\
    Pages of made-up profiles whose trees have 100,000 frames, opened in Chromium without a window, 1400 by 900 pixels: \
    from the start of the navigation until the frame is on its way to the screen that shows the graph, as the page's \
    own Performance API has it. `few functions`: 10,000 different ones; `all different`: each \
    frame another function with a long name, file and line.";

/// For building what opens them, and all rounds.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--quiet", "--package", "steth-tests", "--example", "open", "--"]);
    let told = output(cargo.arg(context.rounds.to_string()), PATIENCE)?;
    let mut rows = Vec::new();
    for line in told.lines() {
        let (name, figures) = line.split_once(": ").with_context(|| format!("not a figure: {line}"))?;
        let mut figures = figures.split(' ').map(str::parse);
        let bytes: f64 = figures.next().context("no size")??;
        let mut times_ms = figures.collect::<Result<Vec<f64>, _>>()?;
        times_ms.sort_by(f64::total_cmp);
        let [least, median, most] = [0, times_ms.len() / 2, times_ms.len().saturating_sub(1)]
            .map(|at| times_ms.get(at).copied().unwrap_or(f64::NAN));
        rows.push([
            name.to_owned(),
            figure(bytes / 1e6),
            format!("{} ({} to {})", figure(median), figure(least), figure(most)),
        ]);
        findings.target(&format!("size: {name}"), bytes / 1e6, "MB", Bound::AtMost(3.0));
        findings.target(&format!("opened: {name}"), median, "ms", Bound::Below(1000.0));
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
    findings.table(&["100,000 frames", "page, MB", "opened after, ms: median (least to most)"], &rows);
    Ok(())
}
