//! `cargo xtask bench`: what steth costs, written to docs/benchmarks.md. Here stands the list of benchmarks; how
//! rounds are run is known to `rounds`, how a section is written to `report`, and what runs to a file for each.

mod agent;
mod bpf;
mod bpftrace;
mod budget;
mod central;
mod correlate;
mod exposition;
mod idle;
mod interrupt;
mod loops;
mod machine;
mod peers;
mod pgbench;
mod postgres;
mod process;
mod profile;
mod report;
mod rounds;
mod scrape;
mod start;
mod switch;
mod syscall;
mod tool;
mod trace;
mod viewer;
mod walk;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    build::{self, Profile},
    setup::{self, Purpose},
};
pub use loops::run as run_loop;
use report::Findings;

/// Where results go.
const PAGE: &str = "docs/benchmarks.md";
/// For all benchmarks together, unless the number of rounds is said.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// All benchmarks, in the order of the page.
const BENCHES: &[Bench] = &[
    Bench { name: "syscall", title: "One syscall", what: syscall::WHAT, rounds: 5, run: syscall::run },
    Bench { name: "switch", title: "One switch", what: switch::WHAT, rounds: 5, run: switch::run },
    Bench { name: "walk", title: "The longest walk", what: walk::WHAT, rounds: 5, run: walk::run },
    Bench { name: "pgbench", title: "A database under full load", what: pgbench::WHAT, rounds: 4, run: pgbench::run },
    Bench { name: "budget", title: "A database and the budget", what: budget::WHAT, rounds: 1, run: budget::run },
    Bench { name: "trace", title: "A trace of every query", what: trace::WHAT, rounds: 1, run: trace::run },
    Bench { name: "idle", title: "An idle host", what: idle::WHAT, rounds: 1, run: idle::run },
    Bench { name: "scrape", title: "One scrape", what: scrape::WHAT, rounds: 50, run: scrape::run },
    Bench { name: "profile", title: "Profiles", what: profile::cost::WHAT, rounds: 2, run: profile::cost::run },
    Bench {
        name: "binaries",
        title: "Profiles of many programs",
        what: profile::binaries::WHAT,
        rounds: 3,
        run: profile::binaries::run,
    },
    Bench { name: "correlate", title: "Findings", what: correlate::WHAT, rounds: 3, run: correlate::run },
    Bench { name: "viewer", title: "A large page", what: viewer::WHAT, rounds: 10, run: viewer::run },
    Bench { name: "central", title: "Sending", what: central::WHAT, rounds: 2, run: central::sending },
    Bench { name: "alerts", title: "Telling", what: central::TELLING, rounds: 1, run: central::telling },
    Bench { name: "peers", title: "Beside other tools", what: peers::WHAT, rounds: 5, run: peers::run },
    Bench { name: "start", title: "Start and end", what: start::WHAT, rounds: 10, run: start::run },
];

/// One question about cost.
struct Bench {
    name: &'static str,
    title: &'static str,
    /// What is measured and how, for the page.
    what: &'static str,
    /// How often all variants take turns, unless told otherwise.
    rounds: usize,
    run: fn(&Context, &mut Findings) -> Result<()>,
}

/// What every benchmark is given.
struct Context {
    /// The release build.
    steth: PathBuf,
    rounds: usize,
}

/// What to measure.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench syscall --rounds 11\n  cargo xtask bench --list"
)]
pub struct Arguments {
    /// Names of benchmarks; all if none is given
    names: Vec<String>,
    /// How often the variants take turns
    #[arg(long)]
    rounds: Option<usize>,
    /// Prints the names and what they measure
    #[arg(long)]
    list: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        for bench in BENCHES {
            println!("{:<16} {}", bench.name, bench.what);
        }
        return Ok(());
    }
    let chosen = chosen(&arguments.names)?;
    setup::install_missing(Purpose::Test)?;
    let steth = build::steth(Profile::Release)?;
    check_host()?;
    interrupt::listen()?;
    if arguments.rounds.is_none() {
        interrupt::end_after(LIMIT);
    }
    let began = Instant::now();
    for bench in chosen {
        let rounds = arguments.rounds.unwrap_or(bench.rounds).max(1);
        eprintln!("== {}: {rounds} rounds", bench.name);
        let context = Context { steth: steth.clone(), rounds };
        let mut findings = Findings::default();
        (bench.run)(&context, &mut findings)?;
        let section = report::section(bench, rounds, findings);
        println!("{section}");
        report::replace_in_page(PAGE, bench.name, &section)?;
    }
    eprintln!("wrote {PAGE} after {} s", began.elapsed().as_secs());
    Ok(())
}

/// Writes a section that something else than a benchmark found.
///
/// # Errors
/// The page cannot be written.
pub fn write_section(name: &str, title: &str, what: &str, command: &str, found: &str) -> Result<()> {
    report::replace_in_page(PAGE, name, &report::found_by(title, what, command, found))
}

/// What would make figures wrong, or impossible.
fn check_host() -> Result<()> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        bail!("benchmarks need root, as the agent does: sudo -E cargo xtask bench");
    }
    let processors = thread::available_parallelism()?.get();
    if processors < 2 {
        bail!("benchmarks need two processors, one for each end; there is {processors}");
    }
    let tracers = bpf::tracers();
    if tracers > 0 {
        eprintln!("warning: {tracers} tracing programs of others are loaded (bpftool prog show); bare is not bare");
    }
    let busy = machine::busy_ratio()?;
    if busy > 0.05 {
        eprintln!("warning: this host is {:.0} % busy already; the spread will show it", busy * 100.0);
    }
    if bpf::Stats::are_on() {
        eprintln!("warning: kernel.bpf_stats_enabled is on; programs take longer than they would");
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Bench>> {
    if names.is_empty() {
        return Ok(BENCHES.iter().collect());
    }
    let find = |name: &String| match BENCHES.iter().find(|bench| bench.name == name) {
        Some(bench) => Ok(bench),
        None => {
            bail!("no benchmark `{name}`; there are: {}", BENCHES.iter().map(|b| b.name).collect::<Vec<_>>().join(", "))
        }
    };
    names.iter().map(find).collect()
}
