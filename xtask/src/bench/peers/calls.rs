//! What system calls take while someone watches them.

use std::{env, fs, time::Duration};

use anyhow::{Context as _, Result};

use super::{FRESH, Peer, bcc, sorted_out};
use crate::bench::{
    Context,
    agent::Agent,
    bpftrace, loops,
    process::{self, Process},
    report::{Compare, Findings},
    rounds::{Variant, alternate},
    syscall::{SERVICE, observed},
    tool::{Sign, Tool},
};

/// How long a tool may take to attach to a process.
const ATTACH: Duration = Duration::from_millis(1_500);
/// The loops' part of their usual length: under ptrace a call takes hundreds of times as long.
const PART: u32 = 100;
const BY_CALL: &str = "tracepoint:raw_syscalls:sys_enter { @start[tid] = nsecs; } tracepoint:raw_syscalls:sys_exit /@start[tid]/ \
                       { @ns[comm, args->id] = hist(nsecs - @start[tid]); delete(@start[tid]); }";
/// The loops call it more often than anything else.
const CALL: &str = "getppid";

const PEERS: &[Peer] = &[
    Peer { name: "bpftrace, by process and call", start: |_| bpftrace::start(BY_CALL), tells: SERVICE },
    // Durations, by process, of all that there are: the top ten need not have the loops.
    Peer { name: "syscount -L -P", start: |_| bcc("syscount", &["-L", "-P", "-T", "100000"]), tells: SERVICE },
    Peer { name: "perf trace -s", start: |pid| of_one("perf", "linux-perf", &["trace", "-s", "-p"], pid), tells: CALL },
    Peer { name: "strace -c", start: |pid| of_one("strace", "strace", &["-c", "-f", "-p"], pid), tells: CALL },
];

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("steth-bench-").tempdir()?;
    let program = &folder.path().join(SERVICE);
    fs::copy(env::current_exe()?, program).context("cannot copy xtask")?;
    let mut variants = vec![
        Variant::new("bare", || observed(program, PART, |_| Ok(()))),
        Variant::new("steth", || {
            let agent = Agent::start(&context.steth, FRESH)?;
            observed(program, PART, |_| agent.scrape().map(drop))
        }),
    ];
    let asleep = Process::start(process::command("sleep", None, None).arg("120"))?;
    let (here, left_out) = sorted_out(PEERS, asleep.id());
    drop(asleep);
    for peer in here {
        variants.push(Variant::new(peer.name, move || peer.watch(|begin| observed(program, PART, begin))));
    }
    let results = alternate(context.rounds, loops::SUBJECTS, variants)?;
    for rounds in &results {
        findings.comparison(rounds, "ns", Compare::Added);
    }
    left_out.iter().for_each(|why| findings.paragraph(why));
    Ok(())
}

/// A tool of one process.
fn of_one(program: &str, package: &str, arguments: &[&str], pid: u32) -> Result<Tool> {
    Tool::start(program, package, &[arguments, &[&pid.to_string()]].concat(), Sign::After(ATTACH))
}
