//! `/proc/stat`: CPU time, interrupts, context switches, forks. Does not turn CPU time into series, `cpu` does.
//!
//! By hand: procfs drops the CPUs' numbers, which are not their positions once a CPU is offline, and leaves out
//! the interrupts.

use super::{Files, Problem, malformed, push};
use crate::model::{catalog::host, snapshot::Series};

/// What `/proc/stat` says. A field that this kernel lacks is `None`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) cpus: Vec<CpuTicks>,
    pub(super) interrupts: Option<u64>,
    pub(super) context_switches: Option<u64>,
    pub(super) forks: Option<u64>,
    pub(super) boot_unix_seconds: Option<u64>,
    pub(super) running: Option<u64>,
    pub(super) blocked: Option<u64>,
}

/// One CPU's time by mode, in clock ticks since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuTicks {
    pub(super) cpu: u32,
    /// In the order of [`MODES`]; guest and guest_nice are contained in user and nice.
    pub(super) ticks: [u64; MODES.len()],
}

/// The columns of a `cpuN` line, see proc_stat(5).
pub(super) const MODES: [&str; 10] =
    ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest_user", "guest_nice"];

/// Reads `/proc/stat`.
pub(super) fn read(files: &mut Files) -> Result<Stat, Problem> {
    let path = files.in_proc("stat");
    let stat = parse(files.text(&path)?);
    if stat.cpus.is_empty() { Err(malformed(&path, "no line for any CPU")) } else { Ok(stat) }
}

/// Adds what is not about one CPU.
pub(super) fn push_totals(stat: &Stat, out: &mut Vec<Series>) {
    for (metric, value) in [
        (&host::INTERRUPTS, stat.interrupts),
        (&host::CONTEXT_SWITCHES, stat.context_switches),
        (&host::FORKS, stat.forks),
        (&host::BOOT_TIME, stat.boot_unix_seconds),
        (&host::PROCS_RUNNING, stat.running),
        (&host::PROCS_BLOCKED, stat.blocked),
    ] {
        if let Some(value) = value {
            push(out, metric, &[], value as f64);
        }
    }
}

fn parse(text: &str) -> Stat {
    let mut stat = Stat::default();
    for line in text.lines() {
        let Some((key, rest)) = line.split_once(' ') else { continue };
        let first = || rest.split_ascii_whitespace().next().and_then(|number| number.parse().ok());
        match key {
            "intr" => stat.interrupts = first(),
            "ctxt" => stat.context_switches = first(),
            "processes" => stat.forks = first(),
            "btime" => stat.boot_unix_seconds = first(),
            "procs_running" => stat.running = first(),
            "procs_blocked" => stat.blocked = first(),
            _ => {
                if let Some(cpu) = key.strip_prefix("cpu").and_then(|number| number.parse().ok()) {
                    let mut ticks = [0; MODES.len()];
                    for (ticks, text) in ticks.iter_mut().zip(rest.split_ascii_whitespace()) {
                        *ticks = text.parse().unwrap_or(0);
                    }
                    stat.cpus.push(CpuTicks { cpu, ticks });
                }
            }
        }
    }
    stat
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
cpu  30 0 0 60 0 0 0 0 0 0
cpu0 10 1 2 20 3 4 5 6 7 8
cpu2 20 0 0 40 0 0 0 0 0 0
intr 318805 0 9 0
ctxt 495067
btime 1795218272
processes 9520
procs_running 6
procs_blocked 1
softirq 1 2 3
";

    #[test]
    fn a_cpu_keeps_its_number_when_another_is_offline() {
        let stat = parse(TEXT);
        assert_eq!(stat.cpus.iter().map(|cpu| cpu.cpu).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(stat.cpus[0].ticks, [10, 1, 2, 20, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn totals_bear_node_exporters_names() {
        let mut out = Vec::new();
        push_totals(&parse(TEXT), &mut out);
        let values = crate::host::tests::values(&out);
        assert_eq!(
            values,
            [
                "node_intr_total 318805",
                "node_context_switches_total 495067",
                "node_forks_total 9520",
                "node_boot_time_seconds 1795218272",
                "node_procs_running 6",
                "node_procs_blocked 1",
            ]
        );
    }

    #[test]
    fn columns_that_an_old_kernel_lacks_are_zero() {
        assert_eq!(parse("cpu0 1 2 3 4\n").cpus[0].ticks, [1, 2, 3, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse(""), Stat::default());
    }
}
