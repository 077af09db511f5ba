//! What profiles of many different programs leave in memory.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    load::Program,
    profilers::{NO_CLOCK, flame, weights},
};
use crate::bench::{
    Context,
    agent::Agent,
    bpf, interrupt,
    process::{Process, mapped_maps_mib, memory_mib},
    report::{Bound, Findings, figure},
};

pub const WHAT: &str = "\
    1,000 programs, different for everyone who goes by build-ids (one in four linked with all of libc), each run once \
    for 30 ms, two at a time, under `steth flame --all -F 999` through one agent; then 1,000 others; and so on, a \
    round each. Resident memory (VmRSS) of the agent without the kernel's maps that it maps, and kernel memory of its maps and \
    programs, three seconds after each profile was written; most resident at any time. Programs in the profile: those that are a service of their own, of which the kernel numbers \
    1,024. Before that, 20 such programs run for a second each, one after the other: how long each was sampled without a stack \
    that reaches `main`.";

/// Programs of one round.
const PROGRAMS: usize = 1_000;
/// How long each runs.
const RUN: &str = "0.03";
/// New programs that are watched one by one, and how long a profile of them is.
const NEW: usize = 20;
const NEW_LENGTH: Duration = Duration::from_secs(24);
/// How long a profile may have to wait for them.
const LENGTH: Duration = Duration::from_secs(38);
const MIB: f64 = (1 << 20) as f64;

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    ensure!(context.rounds >= 2, "whether memory stays flat is shown by two rounds at least");
    let program = Program::compile()?;
    let kinds = [fs::read(program.link("small", &[])?)?, fs::read(program.link("large", &["-static"])?)?];
    let agent = Agent::start(&context.steth, NO_CLOCK)?;
    interrupt::sleep(Duration::from_secs(2))?;
    let until_whole = until_whole(context, &agent, &program, &kinds)?;
    let mut rows = vec![row("before", &agent, 0)?];
    for round in 0..context.rounds {
        let to = program.folder().join("profile");
        let mut profile = flame(context, &agent, LENGTH, 999, &to)?;
        let began = Instant::now();
        let mut running: Vec<Process> = Vec::new();
        for number in 0..PROGRAMS {
            let id = round * PROGRAMS + number;
            let path = program.folder().join(format!("p{id}"));
            write_program(&path, &kinds[usize::from(number % 4 == 0)], id)?;
            if running.len() == 2 {
                running.remove(0).wait(LENGTH)?;
            }
            let mut command = Command::new(&path);
            running.push(Process::start(command.arg(RUN).stdin(Stdio::null()).stdout(Stdio::null()))?);
            interrupt::check()?;
        }
        for mut process in running {
            process.wait(LENGTH)?;
        }
        ensure!(began.elapsed() < LENGTH, "the programs took {} s: too slow a machine", began.elapsed().as_secs());
        profile.wait(LENGTH + Duration::from_secs(60))?;
        let folded = fs::read_to_string(&to)?;
        let names: HashSet<&str> = folded.lines().filter_map(|line| line.split(';').next()).collect();
        let met = (0..PROGRAMS).filter(|number| names.contains(&*format!("p{}", round * PROGRAMS + number))).count();
        interrupt::sleep(Duration::from_secs(3))?;
        rows.push(row(&format!("after {}", (round + 1) * PROGRAMS), &agent, met)?);
        for number in 0..PROGRAMS {
            fs::remove_file(program.folder().join(format!("p{}", round * PROGRAMS + number)))?;
        }
    }
    let head = [
        "",
        "resident, MiB",
        "most resident, MiB",
        "kernel, MiB",
        "sum, MiB",
        "programs in the profile",
        "unwind tables",
        "given way",
    ];
    let table: Vec<Vec<String>> =
        rows.iter().map(|row| [vec![row.what.clone()], row.values().map(figure).to_vec()].concat()).collect();
    findings.table(&head, &table);
    findings.target("a new program's time without whole stacks, at most", until_whole, "ms", Bound::AtMost(200.0));
    let after: Vec<&Row> = rows.iter().skip(1).collect();
    let most = after.iter().map(|row| row.sum()).fold(0.0, f64::max);
    let (first, last) = (after.first().context("no round")?, after.last().context("no round")?);
    findings.target("resident and kernel memory", most * MIB / 1e6, "MB", Bound::AtMost(120.0));
    findings.target("growth from the first round to the last", last.sum() - first.sum(), "MiB", Bound::AtMost(4.0));
    Ok(())
}

/// How long new programs were sampled without whole stacks, the worst of them, in milliseconds.
fn until_whole(context: &Context, agent: &Agent, program: &Program, kinds: &[Vec<u8>; 2]) -> Result<f64> {
    let to = program.folder().join("profile");
    let mut profile = flame(context, agent, NEW_LENGTH, 999, &to)?;
    // Its clock ticks from then on.
    interrupt::sleep(Duration::from_secs(1))?;
    for number in 0..NEW {
        let path = program.folder().join(format!("new{number}"));
        // Numbers that no other program of this run has.
        write_program(&path, &kinds[number % 2], usize::MAX / 2 + number)?;
        let mut command = Command::new(&path);
        Process::start(command.arg("1").stdin(Stdio::null()).stdout(Stdio::null()))?.wait(LENGTH)?;
        interrupt::check()?;
    }
    profile.wait(NEW_LENGTH + Duration::from_secs(60))?;
    let folded = fs::read_to_string(&to)?;
    let mut worst: f64 = 0.0;
    for number in 0..NEW {
        let (whole, all) = weights(&folded, &format!("new{number}"));
        ensure!(all > 0.0, "new{number} was not sampled");
        eprintln!("new{number}: {:.1} ms of {:.1} ms without whole stacks", (all - whole) / 1e6, all / 1e6);
        worst = worst.max((all - whole) / 1e6);
    }
    Ok(worst)
}

/// The same code under another build-id and with other bytes.
fn write_program(path: &Path, bytes: &[u8], id: usize) -> Result<()> {
    /// Name size 4, description size 20, `NT_GNU_BUILD_ID` (3), "GNU\0".
    const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let at = bytes.windows(NOTE.len()).position(|window| window == NOTE).context("no build-id")? + NOTE.len();
    let mut bytes = bytes.to_vec();
    let place = bytes.get_mut(at..at + 8).context("no build-id")?;
    place.copy_from_slice(&(id as u64 + 1).to_ne_bytes());
    fs::write(path, bytes)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// What an agent holds at one time.
struct Row {
    what: String,
    resident: f64,
    most_resident: f64,
    kernel: f64,
    met: usize,
    tables: f64,
    evicted: f64,
}

impl Row {
    fn sum(&self) -> f64 {
        self.resident + self.kernel
    }

    fn values(&self) -> [f64; 7] {
        let Self { resident, most_resident, kernel, met, tables, evicted, .. } = *self;
        [resident, most_resident, kernel, self.sum(), met as f64, tables, evicted]
    }
}

fn row(what: &str, agent: &Agent, met: usize) -> Result<Row> {
    let kernel = bpf::memory(agent.id())?;
    let exposition = agent.scrape()?.exposition;
    let row = Row {
        what: what.to_owned(),
        resident: memory_mib(agent.id(), "VmRSS")? - mapped_maps_mib(agent.id())?,
        most_resident: memory_mib(agent.id(), "VmHWM")?,
        kernel: (kernel.maps_bytes + kernel.programs_bytes) as f64 / MIB,
        met,
        tables: exposition.sum("steth_unwind_tables", &[]),
        evicted: exposition.sum("steth_unwind_tables_evicted_total", &[]),
    };
    eprintln!("{what}: {:.1?}", row.values());
    Ok(row)
}
