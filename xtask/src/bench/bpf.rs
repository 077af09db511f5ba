//! What the kernel says about the programs and maps that a process holds: time they ran, memory they take.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context, Result};

use crate::workspace;

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Lets the kernel count runs and run time of programs; puts back what was there when dropped. Costs each run some
/// tens of nanoseconds, so nothing else is measured meanwhile.
pub struct Stats {
    before: String,
}

/// A loaded program.
pub struct Program {
    id: u32,
    pub name: String,
    /// Since it was loaded, while counting was on.
    pub runs: u64,
    pub run_ns: u64,
}

/// Memory in the kernel.
pub struct Memory {
    pub programs_bytes: u64,
    pub maps_bytes: u64,
}

impl Stats {
    /// # Errors
    /// The setting cannot be changed.
    pub fn on() -> Result<Self> {
        let before = fs::read_to_string(STATS).with_context(|| format!("cannot read {STATS}"))?;
        fs::write(STATS, "1").with_context(|| format!("cannot write {STATS}"))?;
        Ok(Self { before })
    }

    /// Whether somebody else has it on.
    pub fn are_on() -> bool {
        fs::read_to_string(STATS).is_ok_and(|text| text.trim() == "1")
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        if let Err(error) = fs::write(STATS, self.before.trim()) {
            eprintln!("cannot put {STATS} back to {}: {error}", self.before.trim());
        }
    }
}

/// The programs that a process holds, with their counts.
///
/// # Errors
/// Its descriptors cannot be read.
pub fn programs(pid: u32) -> Result<Vec<Program>> {
    let all = descriptors(pid)?;
    let number = |fields: &BTreeMap<String, String>, key: &str| fields.get(key)?.parse().ok();
    let program = |fields: &BTreeMap<String, String>| {
        let id = number(fields, "prog_id")?;
        let name = name(u32::try_from(id).ok()?).unwrap_or_else(|| format!("program {id}"));
        let (runs, run_ns) = (number(fields, "run_cnt")?, number(fields, "run_time_ns")?);
        Some(Program { id: u32::try_from(id).ok()?, name, runs, run_ns })
    };
    Ok(all.programs.values().filter_map(program).collect())
}

/// `BPF_PROG_TYPE_PERF_EVENT` of `enum bpf_prog_type` (linux/bpf.h).
const PERF_EVENT: &str = "7";

/// Runs and run time of those programs of a process that clocks and counters drive; nothing of a process that is gone.
pub fn driven_by_clocks(pid: u32) -> (u64, u64) {
    let all = descriptors(pid).unwrap_or_default();
    let clocks = all.programs.values().filter(|fields| fields.get("prog_type").is_some_and(|kind| kind == PERF_EVENT));
    let number = |fields: &BTreeMap<String, String>, key: &str| {
        fields.get(key).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0)
    };
    clocks.fold((0, 0), |(runs, ns), fields| (runs + number(fields, "run_cnt"), ns + number(fields, "run_time_ns")))
}

/// Whether a process holds kernel programs, and a link of each to what runs it.
pub fn is_attached(pid: u32) -> bool {
    let all = descriptors(pid).unwrap_or_default();
    !all.programs.is_empty() && all.links.len() >= all.programs.len()
}

/// What was added since `before`, most time first.
pub fn since(before: &[Program], after: Vec<Program>) -> Vec<Program> {
    let mut added: Vec<Program> = after
        .into_iter()
        .map(|program| {
            let old = before.iter().find(|old| old.id == program.id);
            let (runs, run_ns) = old.map_or((0, 0), |old| (old.runs, old.run_ns));
            Program { runs: program.runs - runs, run_ns: program.run_ns - run_ns, ..program }
        })
        .filter(|program| program.runs > 0)
        .collect();
    added.sort_by_key(|program| std::cmp::Reverse(program.run_ns));
    added
}

/// The memory of all programs and maps that a process holds.
///
/// # Errors
/// Its descriptors cannot be read.
pub fn memory(pid: u32) -> Result<Memory> {
    let all = descriptors(pid)?;
    let sum = |some: &BTreeMap<String, BTreeMap<String, String>>| {
        some.values().filter_map(|fields| fields.get("memlock")?.parse::<u64>().ok()).sum()
    };
    Ok(Memory { programs_bytes: sum(&all.programs), maps_bytes: sum(&all.maps) })
}

/// How many programs that can trace are loaded, by anybody.
pub fn tracers() -> usize {
    let listed = workspace::output_of(Command::new("bpftool").args(["prog", "show"])).unwrap_or_default();
    let kinds = [": tracing ", ": raw_tracepoint ", ": tracepoint ", ": kprobe ", ": perf_event "];
    listed.lines().filter(|line| kinds.iter().any(|kind| line.contains(kind))).count()
}

/// By id, as one of them may be held twice; values are the lines of /proc/PID/fdinfo (kernel/bpf/syscall.c,
/// `bpf_prog_show_fdinfo`, `bpf_map_show_fdinfo` and `bpf_link_show_fdinfo`).
#[derive(Default)]
struct Descriptors {
    programs: BTreeMap<String, BTreeMap<String, String>>,
    maps: BTreeMap<String, BTreeMap<String, String>>,
    links: BTreeMap<String, BTreeMap<String, String>>,
}

fn descriptors(pid: u32) -> Result<Descriptors> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut all = Descriptors::default();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))? {
        // Descriptors that are closed meanwhile are not ours to miss.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let fields: BTreeMap<String, String> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect();
        if let (Some(id), true) = (fields.get("prog_id"), fields.contains_key("prog_type")) {
            all.programs.insert(id.clone(), fields);
        } else if let Some(id) = fields.get("link_id") {
            all.links.insert(id.clone(), fields);
        } else if let Some(id) = fields.get("map_id") {
            all.maps.insert(id.clone(), fields);
        }
    }
    Ok(all)
}

/// `12: tracing  name sys_enter  tag …`
fn name(id: u32) -> Option<String> {
    let listed = workspace::output_of(Command::new("bpftool").args(["prog", "show", "id", &id.to_string()]))?;
    let mut words = listed.split_whitespace().skip_while(|word| *word != "name");
    words.nth(1).map(str::to_owned)
}
