//! A kernel without a hook, or without a field of its structures: what needs it is named, all else runs, and whoever is observed
//! does not notice.

use std::path::Path;

use steth_tests::{
    agent::{Agent, Options, steth},
    exposition::Exposition,
    need_bpf, need_postgres, need_program,
    observed::Observed,
    programs::{CONNECT, Program},
    wait,
};

const BTF: &str = "/sys/kernel/btf/vmlinux";

fn attached(metrics: &Exposition) -> Vec<String> {
    let mut attached = metrics.sums_by("steth_probe_attached", &[], "probe");
    attached.retain(|_, value| *value == 1.0);
    attached.into_keys().collect()
}

/// An application beside all of it, where the machine bears one.
fn observed() -> Option<Observed> {
    (!wait::is_slow()).then(|| Observed::start().unwrap())
}

/// One line of what doctor says of each probe: its state, why, and what is lost.
fn doctor(sections: &str) -> Vec<serde_json::Value> {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("steth.toml");
    std::fs::write(&config, sections).unwrap();
    let (code, report, said) = steth(&["doctor", "--json", "--config", config.to_str().unwrap()]).unwrap();
    assert_eq!(code, Some(0), "{report}{said}");
    let lines = report.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.filter(|line: &serde_json::Value| line["kind"] == "probe").collect()
}

/// What this agent counts of a process that connects once and is refused: system calls and connects.
fn counted(agent: &Agent, connect: &Program) -> (bool, bool) {
    let counts = |metrics: &Exposition, program: &Program| {
        ["steth_syscall_duration_seconds_count", "steth_tcp_connect_duration_seconds_count"]
            .map(|name| metrics.sum(name, &[("service", program.name.as_str())]) > 0.0)
    };
    // When anything of the second shows, all of the first does. A marker would need the probes that may be missing.
    let [first, second] = ["a", "b"].map(|_| connect.under_another_name("conn").unwrap());
    let mut shown = [false; 2];
    for program in [&first, &second] {
        // Nobody listens on port 1.
        program.run(&["127.0.0.1", "1", "0", "0"]).unwrap();
        let anything = |metrics: &Exposition| counts(metrics, program).contains(&true);
        shown = counts(&agent.scrape_until("anything of the process", anything).unwrap(), &first);
    }
    (shown[0], shown[1])
}

/// Left out together: such as have nothing to do with each other, at most one of which shows in what is counted.
const LEFT_OUT: &[&[&str]] = &[
    &["sched_process_fork", "tcp_retransmit_skb"],
    &["sched_process_exec", "tcp_send_reset"],
    &["sys_exit", "tcp_receive_reset"],
    &["sys_enter", "sched_switch"],
    &["inet_sock_set_state", "sk_data_ready", "sched_process_exit", "signal_generate"],
];

fn without(probes: &[&str]) -> String {
    format!("[kernel]\nwithout = {probes:?}\n")
}

#[test]
fn without_any_probe_the_rest_runs() {
    need_bpf!();
    need_program!("gcc");
    need_postgres!();
    let observed = observed();
    let connect = Program::build("conn", CONNECT).unwrap();
    let all = attached(&Agent::start(&Options::default()).unwrap().scrape().unwrap());
    let mut tried = LEFT_OUT.concat();
    tried.sort_unstable();
    let mut names = steth_probes::catalog::NAMES.to_vec();
    names.sort_unstable();
    assert_eq!(tried, names);
    for left_out in LEFT_OUT {
        let agent = Agent::start(&Options { sections: without(left_out), ..Options::default() }).unwrap();
        let rest: Vec<_> = all.iter().filter(|name| !left_out.contains(&name.as_str())).cloned().collect();
        assert_eq!(attached(&agent.scrape().unwrap()), rest, "without {left_out:?}");
        // Without it the process is counted under the service of whoever started it.
        if !left_out.contains(&"sched_process_exec") {
            let calls = !left_out.contains(&"sys_enter") && !left_out.contains(&"sys_exit");
            let connects = !left_out.contains(&"inet_sock_set_state");
            assert_eq!(counted(&agent, &connect), (calls, connects), "without {left_out:?}");
        }
        assert!(agent.stop().unwrap().success());
    }
    observed.map(Observed::end).transpose().unwrap();
}

#[test]
fn doctor_says_what_is_lost_without_a_probe() {
    need_bpf!();
    let names = steth_probes::catalog::NAMES;
    let report = doctor(&without(names));
    for name in names {
        let line = report.iter().find(|line| line["name"] == *name).unwrap();
        assert_eq!(line["state"], "off", "{line}");
        assert!(line["lost"].as_str().is_some_and(|lost| !lost.is_empty()), "{line}");
    }
}

#[test]
fn a_probe_that_does_not_exist_cannot_be_left_out() {
    let line = "without = [\"sys_entry\"]";
    let refusal = Agent::refused(&Options { sections: format!("[kernel]\n{line}\n"), ..Options::default() }).unwrap();
    assert_eq!(refusal.code, Some(2));
    assert!(refusal.said.contains(&refusal.place_of(line).unwrap()), "{}", refusal.said);
    assert!(refusal.said.contains("did you mean `sys_enter`"), "{}", refusal.said);
}

/// The running kernel's type information, in which one member bears another name of the same length.
fn kernel_without(member: &str, path: &Path) -> String {
    let mut types = std::fs::read(BTF).unwrap();
    let name = [b"\0", member.as_bytes(), b"\0"].concat();
    let places: Vec<usize> = (0..types.len() - name.len()).filter(|at| types[*at..].starts_with(&name)).collect();
    // Names are stored once (kernel, Documentation/bpf/btf.rst, "String Section").
    let [at] = places[..] else { panic!("{member} stands at {places:?}") };
    types[at + 1] = b'?';
    std::fs::write(path, types).unwrap();
    format!("[kernel]\nbtf = \"{}\"\n", path.display())
}

/// A field, the probes that are not whole without it, and whether connects are counted all the same.
struct Case {
    field: &'static str,
    stopped: &'static [(&'static str, &'static str)],
    connects: bool,
}

const UNAVAILABLE: &str = "unavailable";
const PARTIAL: &str = "partial";
const CASES: &[Case] = &[
    Case {
        field: "tcp_sock.srtt_us",
        stopped: &[("inet_sock_set_state", UNAVAILABLE), ("sys_exit", PARTIAL)],
        connects: false,
    },
    Case {
        field: "inet_sock.inet_sport",
        stopped: &[("inet_sock_set_state", UNAVAILABLE), ("tcp_send_reset", UNAVAILABLE), ("sys_exit", PARTIAL)],
        connects: false,
    },
    Case {
        field: "fdtable.max_fds",
        stopped: &[
            ("sk_data_ready", UNAVAILABLE),
            ("sched_switch", UNAVAILABLE),
            ("sys_exit", PARTIAL),
            ("tls_enter", UNAVAILABLE),
            ("tls_return", UNAVAILABLE),
            ("tls_free", UNAVAILABLE),
            ("profile_always", UNAVAILABLE),
            ("profile_demand", UNAVAILABLE),
            ("profile_return", UNAVAILABLE),
        ],
        connects: true,
    },
    Case { field: "task_struct.sched_info.run_delay", stopped: &[("sched_switch", PARTIAL)], connects: true },
    Case { field: "sock.sk_drops", stopped: &[], connects: true },
];

#[test]
fn a_field_that_this_kernel_lacks_stops_only_what_reads_it() {
    need_bpf!();
    need_program!("gcc");
    need_postgres!();
    let observed = observed();
    let connect = Program::build("conn", CONNECT).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let with_all = doctor("");
    for Case { field, stopped, connects } in CASES {
        let (_, member) = field.rsplit_once('.').unwrap();
        let sections = kernel_without(member, &folder.path().join(member));
        for (line, with_all) in doctor(&sections).iter().zip(&with_all) {
            let name = line["name"].as_str().unwrap();
            assert_eq!(line["name"], with_all["name"]);
            // What takes samples is attached when somebody asks.
            let working = if name.starts_with("profile_") { "ready" } else { "attached" };
            if with_all["state"] != working {
                let reason = with_all["reason"].as_str().unwrap_or_default();
                assert!(reason.starts_with("this kernel has no tracepoint"), "{with_all}");
                assert_eq!(line["state"], with_all["state"], "without {field}: {line}");
                continue;
            }
            let state = stopped.iter().find(|(stopped, _)| *stopped == name).map_or(working, |(_, state)| state);
            assert_eq!(line["state"], state, "without {field}: {line}");
            if state != working {
                assert_eq!(line["reason"], format!("this kernel has no {field}"), "{line}");
                assert!(line["lost"].as_str().is_some_and(|lost| !lost.is_empty()), "{line}");
            }
        }
        let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
        assert_eq!(counted(&agent, &connect), (true, *connects), "without {field}");
        let log = agent.log();
        assert_eq!(log.contains(field), !stopped.is_empty(), "{log}");
        assert!(agent.stop().unwrap().success());
    }
    observed.map(Observed::end).transpose().unwrap();
}

#[test]
fn a_kernel_on_which_nobody_can_be_named_still_runs_what_names_nobody() {
    need_bpf!();
    let folder = tempfile::tempdir().unwrap();
    let sections = kernel_without("dfl_cgrp", &folder.path().join("btf"));
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    assert_eq!(attached(&agent.scrape().unwrap()), ["tcp_receive_reset", "tcp_retransmit_skb"]);
    assert!(agent.stop().unwrap().success());
}
