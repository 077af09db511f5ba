//! `cargo xtask bench`: what steth costs, written to docs/benchmarks.md. Here stands the list of benchmarks; how
//! rounds are run is known to `rounds`, how a section is written to `report`, and what runs to a file for each.

mod agent;
mod machine;
mod report;
mod rounds;
mod syscall;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    build::{self, Profile},
    setup::{self, Purpose},
};
use rounds::Rounds;

/// Where results go.
const PAGE: &str = "docs/benchmarks.md";

/// All benchmarks, in the order of the page.
const BENCHES: &[Bench] = &[Bench {
    name: "syscall",
    title: "One syscall",
    what: "Nanoseconds that one `getppid` takes, in a loop, without steth and while it runs.",
    unit: "ns",
    rounds: 7,
    run: syscall::run,
}];

/// One question about cost.
struct Bench {
    name: &'static str,
    title: &'static str,
    /// What is measured and how, for the page.
    what: &'static str,
    unit: &'static str,
    /// How often all variants take turns, unless told otherwise.
    rounds: usize,
    run: fn(&Context) -> Result<Rounds>,
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
    for bench in chosen {
        let rounds = arguments.rounds.unwrap_or(bench.rounds).max(1);
        eprintln!("== {}: {rounds} rounds", bench.name);
        let context = Context { steth: steth.clone(), rounds };
        let section = report::section(bench, &(bench.run)(&context)?);
        println!("{section}");
        report::replace_in_page(PAGE, bench.name, &section)?;
    }
    eprintln!("wrote {PAGE}");
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
