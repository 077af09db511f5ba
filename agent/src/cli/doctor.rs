//! `steth doctor`: what this kernel, user and machine allow; what became of every probe and what it takes.

use std::{fmt::Write, path::PathBuf};

use clap::Args;
use serde_json::json;

use super::{
    Failure, Outcome, configuration,
    terminal::{self, Paint},
};
use crate::{
    model::probe::{ProbeState, ProbeStatus, Verdict},
    pipeline::{self, Examination},
};

/// What `steth doctor` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steth doctor                     a table for people
  steth doctor --json | jq 'select(.kind == \"probe\" and .state != \"attached\")'

Exit code 3: no probe can run on this host; the table says why.")]
pub struct Arguments {
    /// Write one JSON object a line
    #[arg(long)]
    json: bool,
    /// Configuration file [default: /etc/steth/steth.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "STETH_CONFIG")]
    config: Option<PathBuf>,
}

/// Examines the host and prints what was found.
///
/// # Errors
/// When the configuration is wrong, or when no probe can run.
pub fn run(arguments: &Arguments) -> Outcome {
    let config = configuration(arguments.config.as_deref(), vec![]).map_err(Failure::usage)?;
    let examination = pipeline::examine(&config);
    let of_profiles = if config.probes.profiles { config.profile.memory_bytes } else { 0 };
    let budget_bytes = config.kernel.memory_bytes + of_profiles;
    terminal::result(&match arguments.json {
        true => lines(&examination, budget_bytes),
        false => table(&examination, budget_bytes, Paint::stdout()),
    })?;
    match examination.ability.probes_can_run() {
        true => Ok(()),
        false => Err(Failure::missing("no probe can run on this host; host metrics can")),
    }
}

fn table(examination: &Examination, budget_bytes: u64, paint: Paint) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", paint.title("Host"));
    for finding in examination.ability.findings() {
        let verdict = match finding.verdict {
            Verdict::Good => paint.good("ok      "),
            Verdict::Degraded => paint.warn("limited "),
            Verdict::Missing => paint.bad("missing "),
        };
        let _ = writeln!(out, "  {verdict} {:<10}  {}", finding.name, finding.found);
        if !finding.advice.is_empty() {
            let _ = writeln!(out, "{:23}{}", "", finding.advice);
        }
    }

    let _ = writeln!(out, "\n{}", paint.title("Probes"));
    let name_width = examination.probes.iter().map(|probe| probe.name.len()).max().unwrap_or_default();
    let hook_width = examination.probes.iter().map(|probe| probe.hook.len()).max().unwrap_or_default();
    for probe in &examination.probes {
        let state = match &probe.state {
            ProbeState::Attached => paint.good("attached   "),
            ProbeState::Ready => paint.good("ready      "),
            ProbeState::Partial { .. } => paint.warn("partial    "),
            ProbeState::Unavailable { .. } => paint.bad("unavailable"),
            ProbeState::Off => "off        ".into(),
        };
        let (name, hook, memory) = (&probe.name, &probe.hook, mebibytes(probe.memory_bytes));
        let line = format!("  {state}  {name:<name_width$}  {hook:<hook_width$}  {memory:>9}  {}", run_time(probe));
        let _ = writeln!(out, "{}", line.trim_end());
        for (what, text) in explanations(probe) {
            let _ = writeln!(out, "{:15}{what} {text}", "");
        }
    }
    if examination.probes.is_empty() {
        let _ = writeln!(out, "  none");
    }

    let _ = writeln!(
        out,
        "\nKernel memory: {} of {} (kernel.memory and profile.memory)",
        mebibytes(examination.kernel_memory_bytes),
        mebibytes(budget_bytes)
    );
    out
}

fn explanations(probe: &ProbeStatus) -> Vec<(&'static str, String)> {
    match &probe.state {
        ProbeState::Attached | ProbeState::Ready => vec![],
        ProbeState::Partial { reason } | ProbeState::Unavailable { reason } => {
            vec![("why: ", reason.clone()), ("lost:", probe.lost.clone())]
        }
        ProbeState::Off => vec![("lost:", probe.lost.clone())],
    }
}

fn run_time(probe: &ProbeStatus) -> String {
    match probe.run_ns.checked_div(probe.runs) {
        Some(mean_ns) => format!("{} runs, {mean_ns} ns each", probe.runs),
        None => String::new(),
    }
}

fn lines(examination: &Examination, budget_bytes: u64) -> String {
    let abilities = examination.ability.findings().into_iter().map(|finding| tagged("ability", json!(finding)));
    let probes = examination.probes.iter().map(|probe| tagged("probe", json!(probe)));
    let total = json!({ "kernel_memory_bytes": examination.kernel_memory_bytes, "budget_bytes": budget_bytes });
    abilities.chain(probes).chain([tagged("total", total)]).map(|line| format!("{line}\n")).collect()
}

fn tagged(kind: &str, mut line: serde_json::Value) -> serde_json::Value {
    if let Some(fields) = line.as_object_mut() {
        fields.insert("kind".into(), kind.into());
    }
    line
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.2} MiB", bytes as f64 / (1u64 << 20) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::probe::{Btf, HostAbility, Lockdown, Privileges};

    fn probe(name: &str, hook: &str, state: ProbeState) -> ProbeStatus {
        let lost = format!("everything about {name}");
        ProbeStatus {
            name: name.into(),
            hook: hook.into(),
            state,
            lost,
            memory_bytes: 1 << 20,
            runs: 0,
            run_ns: 0,
            missed: 0,
        }
    }

    fn examination() -> Examination {
        let no_tracepoint = "this kernel has no tracepoint tcp_probe".to_string();
        Examination {
            kernel_memory_bytes: 4 << 20,
            ability: HostAbility {
                kernel_release: "6.1.0-28-amd64".into(),
                architecture: "x86_64".into(),
                machine: "2 × Example CPU, 4096 MiB".into(),
                btf: Btf::Missing {
                    path: "/sys/kernel/btf/vmlinux".into(),
                    reason: "No such file or directory".into(),
                },
                privileges: Privileges {
                    uid: 1000,
                    missing_capabilities: vec!["CAP_PERFMON", "CAP_BPF"],
                    curtailed: vec![],
                },
                lockdown: Lockdown::Off,
                bpf_stats: Some(false),
            },
            probes: vec![
                ProbeStatus { runs: 20, run_ns: 2_400, ..probe("sys_enter", "tp_btf/sys_enter", ProbeState::Attached) },
                probe("sys_exit", "tp_btf/sys_exit", ProbeState::Partial { reason: "no BTF".into() }),
                probe("tcp_rtt", "tp_btf/tcp_probe", ProbeState::Unavailable { reason: no_tracepoint }),
                probe("sockets", "tp_btf/sock_send_length", ProbeState::Off),
            ],
        }
    }

    #[test]
    fn the_table_is_as_in_the_golden_text() {
        let expected = "\
Host
  ok       kernel      Linux 6.1.0-28-amd64 x86_64
  ok       machine     2 × Example CPU, 4096 MiB
  missing  BTF         /sys/kernel/btf/vmlinux: No such file or directory
                       the kernel must be built with CONFIG_DEBUG_INFO_BTF: it checks probes against its own type information
  missing  privileges  user 1000 without CAP_PERFMON, CAP_BPF
                       run as root, or through systemd with these as AmbientCapabilities=; until then only host metrics
  ok       lockdown    off
  limited  bpf_stats   off
                       run counts and times of probes are not measured; sysctl -w kernel.bpf_stats_enabled=1

Probes
  attached     sys_enter  tp_btf/sys_enter          1.00 MiB  20 runs, 120 ns each
  partial      sys_exit   tp_btf/sys_exit           1.00 MiB
               why:  no BTF
               lost: everything about sys_exit
  unavailable  tcp_rtt    tp_btf/tcp_probe          1.00 MiB
               why:  this kernel has no tracepoint tcp_probe
               lost: everything about tcp_rtt
  off          sockets    tp_btf/sock_send_length   1.00 MiB
               lost: everything about sockets

Kernel memory: 4.00 MiB of 32.00 MiB (kernel.memory and profile.memory)
";
        assert_eq!(table(&examination(), 32 << 20, Paint(false)), expected);
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = lines(&examination(), 32 << 20);
        let all: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kinds: Vec<_> = all.iter().map(|line| line["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, [["ability"; 6].as_slice(), &["probe"; 4], &["total"]].concat());
        assert_eq!(
            all[7],
            json!({
                "kind": "probe", "name": "sys_exit", "hook": "tp_btf/sys_exit", "state": "partial",
                "reason": "no BTF", "lost": "everything about sys_exit", "memory_bytes": 1 << 20, "runs": 0, "run_ns": 0,
                "missed": 0,
            })
        );
        assert_eq!(all[10], json!({ "kind": "total", "kernel_memory_bytes": 4 << 20, "budget_bytes": 32 << 20 }));
    }
}
