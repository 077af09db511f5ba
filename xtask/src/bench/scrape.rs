//! How long a scrape takes, and how large it is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Context,
    agent::{Agent, Scrape},
    interrupt,
    process::{self, Process},
    report::{Bound, Compare, Findings},
    rounds::{Variant, alternate},
};

pub const WHAT: &str = "\
    From the first byte of `GET /metrics` to the last of the answer, on a loopback connection that stands. `fresh`: \
    the last snapshot is older than `[window] live`, so the agent reads the kernel's cells and /proc again; `served \
    again`: right after that, so it only writes the snapshot. Series are made by short processes of many names. A \
    histogram is many series to Prometheus, one for each bucket; sizes are given in both ways of counting.";

/// What the target is for.
const SERIES: usize = 3_000;
/// Older than `[window] live` by default, 1 s.
const STALE: Duration = Duration::from_millis(1_100);
const PROGRAM: &str = "/bin/true";
const PROGRAM_LIMIT: Duration = Duration::from_secs(5);
/// Names that are made before one looks again: few on the way to the one size, more on the way to the other.
const STEP: usize = 2;
const LARGE_STEP: usize = 25;
const MOST_NAMES: usize = 1_000;
const SUBJECT: &str = "one scrape";
/// The default of 100 shown services would end the growth early.
const CONFIGURATION: &str = "[limits]\nshown_services = 1000\n";

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("steth-bench-").tempdir()?;
    let agent = Agent::start(&context.steth, CONFIGURATION)?;
    let mut services = Services::new(folder.path());

    let at_size = |findings: &mut Findings, scrape: &Scrape| -> Result<f64> {
        let results = alternate(
            context.rounds,
            &[SUBJECT],
            vec![
                Variant::new("fresh", || {
                    interrupt::sleep(STALE)?;
                    Ok(vec![milliseconds(&agent.scrape()?)])
                }),
                Variant::new("served again", || Ok(vec![milliseconds(&agent.scrape()?)])),
            ],
        )?;
        let exposition = &scrape.exposition;
        findings.paragraph(&format!(
            "{} series, {} with a histogram as one; {} KiB:",
            exposition.series(),
            exposition.series_with_whole_histograms(),
            exposition.bytes() >> 10
        ));
        let rounds = results.first().context("no result")?;
        findings.comparison(rounds, "ms", Compare::Ratio);
        Ok(rounds.variants.first().context("no variant")?.quartiles().median)
    };

    let scrape = services.grow(&agent, STEP, |scrape| scrape.exposition.series())?;
    let at_series = at_size(findings, &scrape)?;
    let what = format!("fresh scrape of {} series", scrape.exposition.series());
    findings.target(&what, at_series, "ms", Bound::Below(10.0));

    let scrape = services.grow(&agent, LARGE_STEP, |scrape| scrape.exposition.series_with_whole_histograms())?;
    let at_series = at_size(findings, &scrape)?;
    let what =
        format!("fresh scrape of {} series with a histogram as one", scrape.exposition.series_with_whole_histograms());
    findings.target(&what, at_series, "ms", Bound::Below(10.0));
    Ok(())
}

fn milliseconds(scrape: &Scrape) -> f64 {
    scrape.duration.as_secs_f64() * 1e3
}

/// Short processes of many names.
pub struct Services<'a> {
    folder: &'a Path,
    count: usize,
}

impl<'a> Services<'a> {
    /// Their programs stand in `folder`.
    pub fn new(folder: &'a Path) -> Self {
        Self { folder, count: 0 }
    }

    /// Until a scrape has as many series as the target is for; returns that scrape.
    pub fn grow(&mut self, agent: &Agent, step: usize, size: impl Fn(&Scrape) -> usize) -> Result<Scrape> {
        loop {
            interrupt::sleep(STALE)?;
            let scrape = agent.scrape()?;
            let size = size(&scrape);
            eprintln!("{} names, {size} series", self.count);
            if size >= SERIES {
                return Ok(scrape);
            }
            ensure!(self.count < MOST_NAMES, "{} names make only {size} series", self.count);
            for _ in 0..step {
                self.run_another()?;
            }
        }
    }

    fn run_another(&mut self) -> Result<()> {
        let name = |count: usize| -> PathBuf { self.folder.join(format!("short-{count:04}")) };
        let program = name(self.count);
        match self.count {
            0 => fs::copy(PROGRAM, &program).map(drop),
            _ => fs::hard_link(name(0), &program),
        }
        .with_context(|| format!("cannot make {}", program.display()))?;
        self.count += 1;
        let mut command = process::command(program, None, None);
        Process::start(command.stdout(Stdio::null()))?.wait(PROGRAM_LIMIT)
    }
}
