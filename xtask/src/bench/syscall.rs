//! What the agent adds to a syscall, and to one on a socket.

use std::{env, fs, io::Write, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    Context,
    agent::Agent,
    bpftrace, interrupt, loops,
    process::{self, Process},
    report::{Bound, Compare, Findings},
    rounds::{Variant, alternate},
};

pub const WHAT: &str = "\
    Nanoseconds that one turn of a loop takes: `getppid`; `read` of one byte of /dev/zero; `write` of a byte and \
    `read` at the other end of a unix socket pair, and of a loopback TCP connection. The loop is a process of its \
    own, pinned to CPU 1. `steth` is the agent with everything on; `steth, excluded` has the loop's service in \
    `[probes] exclude_services`. Each round checks that the agent counted the loop's calls, and did not where it is \
    excluded.";

/// The loop's executable, and so its service.
pub const SERVICE: &str = "sysloop";
const LOOP_CPU: usize = 1;
/// Longer than `live` in [`FRESH`], and than the loops' process takes to start.
const SETTLE: Duration = Duration::from_millis(300);
const LOOP_LIMIT: Duration = Duration::from_secs(60);
/// Figures must be asked for right after the loop; that they can be had fresh costs the loop nothing.
const FRESH: &str = "[window]\nlive = \"100ms\"\n";

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("steth-bench-").tempdir()?;
    let program = folder.path().join(SERVICE);
    fs::copy(env::current_exe()?, &program).context("cannot copy xtask")?;
    let excluded = format!("{FRESH}[probes]\nexclude_services = [\"{SERVICE}\"]\n");

    let traced = |configuration: &str, is_counted: bool| {
        let agent = Agent::start(&context.steth, configuration)?;
        // The agent knows a service by name, and leaves it out, from the first window on in which it was met.
        let values = observed(&program, 1, |_| agent.scrape().map(drop))?;
        check_counted(&agent, is_counted)?;
        Ok(values)
    };
    let compared = |script: &str| {
        let _running = bpftrace::start(script)?;
        observed(&program, 1, |_| Ok(()))
    };
    let mut variants = vec![
        Variant::new("bare", || observed(&program, 1, |_| Ok(()))),
        Variant::new("steth", || traced(FRESH, true)),
        Variant::new("steth, excluded", || traced(&excluded, false)),
    ];
    let missing = bpftrace::missing();
    if missing.is_none() {
        variants.push(Variant::new("bpftrace, empty", || compared(bpftrace::EMPTY)));
        variants.push(Variant::new("bpftrace, histogram", || compared(bpftrace::HISTOGRAM)));
    }
    let results = alternate(context.rounds, loops::SUBJECTS, variants)?;

    for rounds in &results {
        findings.comparison(rounds, "ns", Compare::Added);
    }
    findings.paragraph(&match missing {
        Some(why) => format!("Comparison with bpftrace skipped: {why}."),
        None => format!(
            "bpftrace, empty: `{}`. bpftrace, histogram: `{}`; one histogram for the whole host.",
            bpftrace::EMPTY,
            bpftrace::HISTOGRAM
        ),
    });
    let getppid = results.first().context("no result")?;
    for (name, limit) in [("steth", 260.0), ("steth, excluded", 190.0)] {
        let variant = getppid.variant(name).context("no such variant")?;
        let what = format!("added to `getppid`: {name}");
        findings.target(&what, getppid.added(variant).median, "ns", Bound::AtMost(limit));
    }
    Ok(())
}

/// Runs the loops, or a part of their length, as a service of their own. What is begun when their process is there, with its
/// number, is held until they have ended.
///
/// # Errors
/// They fail, or what is to begin does.
pub fn observed<T>(program: &Path, part: u32, begin: impl FnOnce(u32) -> Result<T>) -> Result<Vec<f64>> {
    let mut command = process::command(program, Some(LOOP_CPU), None);
    command.args(["bench-loop", &part.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::start(&mut command)?;
    interrupt::sleep(SETTLE)?;
    let _held = begin(process.id())?;
    let mut stdin = process.child().stdin.take().context("no pipe")?;
    stdin.write_all(b"begin\n").context("the loops ended before they began")?;
    let printed = process.output(LOOP_LIMIT)?;
    printed.lines().map(|line| line.parse().with_context(|| format!("not a number: {line}"))).collect()
}

/// Figures of an agent that did not trace, or did although it should not, would say nothing.
fn check_counted(agent: &Agent, is_expected: bool) -> Result<()> {
    interrupt::sleep(SETTLE)?;
    let labels = [("service", SERVICE), ("syscall", "getppid")];
    let counted = agent.scrape()?.exposition.sum("steth_syscall_duration_seconds_count", &labels);
    let called = f64::from(loops::GETPPID_CALLS);
    let is_counted = counted >= called;
    let is_left_out = counted < called / 100.0;
    ensure!(
        if is_expected { is_counted } else { is_left_out },
        "the agent counted {counted} of {called} calls of getppid by `{SERVICE}`, which it should {}",
        if is_expected { "count" } else { "leave out" }
    );
    Ok(())
}
