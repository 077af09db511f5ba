//! The same questions asked of other tools, in one run: what a host does (node_exporter), what a process's system calls take
//! (`strace -c`, `perf trace -s`, bpftrace by process and call).

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Context,
    agent::{Agent, Scrape, scrape},
    bpftrace::Bpftrace,
    interrupt, loops,
    process::{self, Process, memory_mib, times},
    report::{Compare, Findings},
    rounds::{Variant, alternate},
    syscall::{SERVICE, observed},
};
use crate::workspace;

pub const WHAT: &str = "\
    Others on the same machine, taking turns. First the host: `node_exporter` with what it collects by default, steth with all \
    probes off, and steth with everything on; each is started, asked 50 times, eight times a second, and always collects anew. CPU \
    is that of its process, divided by the scrapes, so that steth's is also what it does between them. Then system calls: the \
    loops of *One syscall*, a hundredth as long, watched by steth (all services of the host), and by tools that are told to \
    watch that one process (`strace -c -p`, `perf trace -s -p`) or all (bpftrace, a histogram for each process name and call, \
    which is the nearest to what steth keeps).";

const SCRAPES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(120);
const FRESH: &str = "[window]\nlive = \"100ms\"\n";
const WITHOUT_PROBES: &str = "[window]\nlive = \"100ms\"\n[probes]\nsyscalls = false\ntcp = false\nsockets = false\n\
                              postgres = false\nwall = false\nprofiles = false\n[profile]\nhertz = 0\n";
const EXPORTER: &str = "prometheus-node-exporter";
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a tool may take to attach to a process.
const ATTACH: Duration = Duration::from_millis(1_500);
/// The loops' part of their usual length: under ptrace a call takes hundreds of times as long.
const PART: u32 = 100;
const BY_CALL: &str = "tracepoint:raw_syscalls:sys_enter { @start[tid] = nsecs; } tracepoint:raw_syscalls:sys_exit /@start[tid]/ \
                       { @ns[comm, args->id] = hist(nsecs - @start[tid]); delete(@start[tid]); }";

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    host(context, findings)?;
    calls(context, findings)
}

/// Scrapes of what the host does.
fn host(context: &Context, findings: &mut Findings) -> Result<()> {
    if !is_there(EXPORTER, "--version") {
        findings.paragraph("node_exporter is left out: it is not installed.");
        return Ok(());
    }
    let agent = |configuration: &str| {
        let agent = Agent::start(&context.steth, configuration)?;
        asked(agent.id(), agent.address())
    };
    let variants = vec![
        Variant::new("node_exporter", exporter),
        Variant::new("steth, no probes", || agent(WITHOUT_PROBES)),
        Variant::new("steth", || agent(FRESH)),
    ];
    let subjects = ["one scrape", "CPU time of one", "resident memory", "series"];
    let results = alternate(context.rounds, &subjects, variants)?;
    for (rounds, unit) in results.iter().zip(["ms", "ms", "MiB", ""]) {
        findings.comparison(rounds, unit, Compare::Ratio);
    }
    Ok(())
}

fn exporter() -> Result<Vec<f64>> {
    // Somebody may take it before the exporter does: then the round fails.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = process::command(EXPORTER, None, None);
    command.arg(format!("--web.listen-address={address}")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut exporter = Process::start(&mut command)?;
    let started = Instant::now();
    while scrape(address).is_err() {
        ensure!(exporter.is_running() && started.elapsed() < START_LIMIT, "{EXPORTER} does not answer");
        interrupt::sleep(Duration::from_millis(50))?;
    }
    asked(exporter.id(), address)
}

fn asked(pid: u32, address: SocketAddr) -> Result<Vec<f64>> {
    interrupt::sleep(Duration::from_secs(2))?;
    let before = times(pid)?.cpu_seconds;
    let mut took = Vec::new();
    let mut last: Option<Scrape> = None;
    for _ in 0..SCRAPES {
        interrupt::sleep(PAUSE)?;
        let answer = scrape(address)?;
        took.push(answer.duration.as_secs_f64() * 1e3);
        last = Some(answer);
    }
    let cpu_ms = (times(pid)?.cpu_seconds - before) * 1e3 / f64::from(SCRAPES);
    took.sort_by(f64::total_cmp);
    let series = last.map_or(0, |answer| answer.exposition.series());
    Ok(vec![took[took.len() / 2], cpu_ms, memory_mib(pid, "VmRSS")?, series as f64])
}

/// Loops of system calls while someone watches.
fn calls(context: &Context, findings: &mut Findings) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("steth-bench-").tempdir()?;
    let (folder, program) = (folder.path(), &folder.path().join(SERVICE));
    fs::copy(env::current_exe()?, program).context("cannot copy xtask")?;
    let mut variants = vec![
        Variant::new("bare", || observed(program, PART, |_| Ok(()))),
        Variant::new("steth", || {
            let agent = Agent::start(&context.steth, FRESH)?;
            observed(program, PART, |_| agent.scrape().map(drop))
        }),
    ];
    let mut left_out = Vec::new();
    match Bpftrace::missing() {
        None => variants.push(Variant::new("bpftrace, by process and call", || {
            let _running = Bpftrace::start(BY_CALL)?;
            observed(program, PART, |_| Ok(()))
        })),
        Some(why) => left_out.push(format!("bpftrace: {why}")),
    }
    for (name, tool, arguments) in
        [("perf trace -s", "perf", &["trace", "-s", "-p"][..]), ("strace -c", "strace", &["-c", "-f", "-p"])]
    {
        match attaches(folder, tool, arguments) {
            Ok(()) => variants.push(Variant::new(name, move || {
                let output = folder.join(tool);
                observed(program, PART, |pid| watch(&output, tool, arguments, pid))
            })),
            Err(error) => left_out.push(format!("{name}: {error:#}")),
        }
    }
    let results = alternate(context.rounds, loops::SUBJECTS, variants)?;
    for rounds in &results {
        findings.comparison(rounds, "ns", Compare::Added);
    }
    for why in left_out {
        findings.paragraph(&format!("Left out: {why}."));
    }
    for tool in ["syscount-bpfcc", "tcpconnlat-bpfcc", "runqlat-bpfcc", "offcputime-bpfcc"] {
        findings.paragraph(&format!("Left out: {tool}: {}.", of_bcc(tool)));
    }
    Ok(())
}

/// What one of BCC's tools says here, where it does not run.
fn of_bcc(tool: &str) -> String {
    if !is_there(tool, "--help") {
        return "not installed".to_owned();
    }
    let mut timeout = Command::new("timeout");
    match timeout.args(["--signal=INT", "10", tool]).output() {
        Err(error) => error.to_string(),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            said.lines()
                .last()
                .map_or_else(|| "it runs, and steth is not compared with it yet".to_owned(), str::to_owned)
        }
    }
}

fn is_there(program: &str, question: &str) -> bool {
    workspace::output_of(Command::new(program).arg(question)).is_some()
}

/// Whether a tool can watch a process here: one that sleeps.
fn attaches(folder: &Path, tool: &str, arguments: &[&str]) -> Result<()> {
    let asleep = Process::start(process::command("sleep", None, None).arg("30"))?;
    watch(&folder.join("try"), tool, arguments, asleep.id()).map(drop)
}

/// Attaches a tool to a process.
fn watch(output: &Path, tool: &str, arguments: &[&str], pid: u32) -> Result<Process> {
    let mut command = process::command(tool, None, None);
    command.args(arguments).arg(pid.to_string());
    command.stdout(fs::File::create(output)?).stderr(fs::File::options().append(true).open(output)?);
    let mut process = Process::start(&mut command)?;
    interrupt::sleep(ATTACH)?;
    let said = || fs::read_to_string(output).unwrap_or_default();
    ensure!(process.is_running(), "{tool} ended: {}", said().lines().last().unwrap_or_default());
    Ok(process)
}
