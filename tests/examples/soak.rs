//! Plays a day in less time and prints what the agent took meanwhile. For `cargo xtask soak`: the argument is for how many minutes.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use steth_tests::{bpf_missing, postgres::Postgres, program_missing, soak};

static OVER: AtomicBool = AtomicBool::new(false);

extern "C" fn end(_: libc::c_int) {
    OVER.store(true, Ordering::Relaxed);
}

/// What `cargo xtask soak` takes for the end of a soak that found growth.
const GREW: u8 = 3;

fn main() -> Result<ExitCode> {
    if let Some(why) = bpf_missing().or_else(Postgres::missing).or_else(|| program_missing("gcc")) {
        bail!("a soak on the live kernel {why}");
    }
    let minutes: u64 = std::env::args().nth(1).context("for how many minutes?")?.parse()?;
    // SAFETY: the handler only sets a flag.
    unsafe { libc::signal(libc::SIGINT, end as *const () as libc::sighandler_t) };
    let is_terminal = std::io::stderr().is_terminal();
    let soaked = soak::soak(Duration::from_secs(60 * minutes), &OVER, |line| {
        let _ = match is_terminal {
            true => write!(std::io::stderr(), "\r\x1b[K{line}"),
            false => writeln!(std::io::stderr(), "{line}"),
        };
    })?;
    if is_terminal {
        eprintln!();
    }
    if OVER.load(Ordering::Relaxed) {
        bail!("ended early");
    }
    if !soaked.is_enough() {
        bail!("too short to tell what grows: a quarter of an hour at least");
    }
    print!("{}", soaked.section());
    let grown: Vec<&str> = soaked.trends().iter().filter(|trend| !trend.is_flat()).map(|trend| trend.what).collect();
    if !grown.is_empty() {
        eprintln!("not flat: {}", grown.join(", "));
        return Ok(ExitCode::from(GREW));
    }
    Ok(ExitCode::SUCCESS)
}
