//! `cargo xtask`: everything one types while developing steth, one file per command.

mod bench;
#[allow(dead_code, reason = "agent/build.rs uses the rest")]
mod bpf_toolchain;
mod build;
mod debian;
mod deny;
mod docs;
mod fmt;
mod fuzz;
mod incidents;
mod layers;
mod lint;
mod newcomer;
mod package;
mod picture;
mod run;
mod sbom;
mod setup;
mod soak;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Everything one types while developing steth.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what building and testing need; says first what that is
    Setup(setup::Arguments),
    /// Builds the kernel programs and the agent
    Build(build::Arguments),
    /// Installs what is missing, builds, starts the agent
    Run(run::Arguments),
    /// Runs all checks and tests, on the live kernel too
    Test(test::Arguments),
    /// Boots Debian's kernels in emulated machines and runs tests there
    VmTest(vm::Arguments),
    /// Tries what nobody thought of on walker, lexer, and the agent's listener
    Fuzz(fuzz::Arguments),
    /// Makes incidents on purpose and prints what is named as the cause of each; a quarter of an hour
    Incidents(incidents::Arguments),
    /// Does for an hour all that happens in a day, and looks whether the agent grows; writes docs/benchmarks.md
    Soak(soak::Arguments),
    /// Measures what steth costs and writes docs/benchmarks.md
    Bench(bench::Arguments),
    /// What `bench` measures, as a process of its own
    #[command(hide = true)]
    BenchLoop {
        /// By what the length is divided
        part: u32,
    },
    /// Checks who imports whom, and where unsafe code stands
    Layers,
    /// Formats all sources
    Fmt(fmt::Arguments),
    /// Runs clippy; warnings are errors
    Lint,
    /// Checks licences, sources and bans of all crates, and known vulnerabilities if asked to
    Deny(deny::Arguments),
    /// Writes what is in the agent, as CycloneDX
    Sbom(sbom::Arguments),
    /// Writes docs/metrics.md and docs/configuration.md from the catalogs
    Docs(docs::Arguments),
    /// Makes a .deb, an .rpm and a tarball in target/package; --test installs them on a clean Debian 12
    Package(package::Arguments),
    /// Types the README's first chapters on a clean Debian 12, as who has just come; half an hour
    Newcomer(newcomer::Arguments),
    /// Takes the README's and the tour's pictures anew, of an agent and a busy PostgreSQL
    Picture,
}

fn main() -> ExitCode {
    let Some(command) = Arguments::parse().command else {
        return match Arguments::command().print_help() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    };
    let done = match command {
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Build(arguments) => build::run(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::VmTest(arguments) => vm::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Incidents(arguments) => incidents::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::BenchLoop { part } => bench::run_loop(part),
        Command::Layers => layers::run(),
        Command::Fmt(arguments) => fmt::run(&arguments),
        Command::Lint => lint::run(),
        Command::Deny(arguments) => deny::run(&arguments),
        Command::Sbom(arguments) => sbom::run(&arguments),
        Command::Docs(arguments) => docs::run(&arguments),
        Command::Package(arguments) => package::run(&arguments),
        Command::Newcomer(arguments) => newcomer::run(&arguments),
        Command::Picture => picture::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
