//! Syscall figures against a known program and against strace.

use std::collections::BTreeMap;

use steth_tests::{
    agent::{Agent, Options},
    exposition::Exposition,
    need_bpf, need_program,
    programs::{Program, SYSCALL_MIX, said_number},
    strace,
};

const DURATION: &str = "steth_syscall_duration_seconds";
const ERRORS: &str = "steth_syscall_errors_total";

/// getppid, pipe, missing, sleeps, bad_close: see the program.
const MIX: [u64; 5] = [10_001, 500, 37, 50, 23];

fn mix() -> (Program, Vec<String>) {
    (Program::build("mix", SYSCALL_MIX).unwrap(), MIX.iter().map(u64::to_string).collect())
}

/// Counts of a service by syscall.
fn counts(metrics: &Exposition, name: &str, service: &str) -> BTreeMap<String, f64> {
    metrics.sums_by(name, &[("service", service)], "syscall")
}

#[test]
fn counts_errors_and_sums_are_those_of_strace_on_the_same_run() {
    need_bpf!();
    need_program!("gcc", "strace");
    let agent = Agent::start(&Options::default()).unwrap();
    let (program, arguments) = mix();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let trace = strace::run(&program.path, &arguments).unwrap();
    let metrics = agent.settled().unwrap();

    // execve begins in one service and ends in another; exit and exit_group never return: no side counts those.
    let mut truth = trace.syscalls.clone();
    truth.remove("execve");
    let mut ours = counts(&metrics, &format!("{DURATION}_count"), &program.name);
    ours.remove("execve");
    let calls: BTreeMap<String, f64> = truth.iter().map(|(name, one)| (name.clone(), one.calls as f64)).collect();
    assert_eq!(ours, calls);

    let mut ours = counts(&metrics, ERRORS, &program.name);
    ours.retain(|_, errors| *errors > 0.0);
    let errors = truth.iter().filter(|(_, one)| one.errors > 0);
    assert_eq!(ours, errors.map(|(name, one)| (name.clone(), one.errors as f64)).collect());

    // strace stops a thread before the kernel's enter event and after its exit event (Linux,
    // kernel/entry/common.c), so its time holds ours; it prints whole microseconds.
    let sums = counts(&metrics, &format!("{DURATION}_sum"), &program.name);
    for (name, one) in &truth {
        assert!(sums[name] > 0.0 && sums[name] <= one.seconds + 1e-6, "{name}: {} of {}", sums[name], one.seconds);
    }
    // A sleep is never shorter than asked for, so this sum is bounded from both sides.
    assert!(sums["nanosleep"] >= MIX[3] as f64 * 1e-3, "{}", sums["nanosleep"]);
}

#[test]
fn counts_errors_and_sums_are_the_known_ones() {
    need_bpf!();
    need_program!("gcc");
    let agent = Agent::start(&Options::default()).unwrap();
    let (program, arguments) = mix();
    let said = program.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let metrics = agent.settled().unwrap();

    let [getppid, pipe, missing, sleeps, bad_close] = MIX.map(|count| count as f64);
    let count = |syscall: &str, kind: &str| {
        metrics.sum(&format!("{DURATION}_count"), &[("service", &program.name), ("syscall", syscall), ("kind", kind)])
    };
    // Two threads and a child of the program made these.
    assert_eq!((count("getppid", "work"), count("getppid", "wait")), (getppid, 0.0));
    assert_eq!((count("nanosleep", "work"), count("nanosleep", "wait")), (0.0, sleeps));
    assert_eq!(count("openat", "work"), missing);
    assert_eq!(count("close", "work"), bad_close);
    // The last words are one write more.
    assert_eq!((count("read", "work"), count("write", "work")), (pipe, pipe + 1.0));
    assert_eq!((count("clone", "work"), count("clone3", "work")), (1.0, 1.0));
    assert_eq!(count("exit_group", "work") + count("exit_group", "wait"), 0.0);

    let errors = |syscall: &str, errno: &str| {
        metrics.sum(ERRORS, &[("service", &program.name), ("syscall", syscall), ("errno", errno)])
    };
    assert_eq!((errors("openat", "ENOENT"), errors("close", "EBADF")), (missing, bad_close));
    assert_eq!(metrics.sum(ERRORS, &[("service", &program.name), ("syscall", "getppid")]), 0.0);

    let slept = metrics.histogram(DURATION, &[("service", &program.name), ("syscall", "nanosleep")]);
    let outside = said_number(&said, "sleep_ns").unwrap() as f64 / 1e9;
    assert!((sleeps * 1e-3..=outside).contains(&slept.sum), "{} of {outside}", slept.sum);
    for (bound, count) in &slept.buckets {
        assert!(*bound >= 1e-3 || *count == 0.0, "{count} sleeps of 1 ms took less than {bound} s");
    }
    assert_eq!(slept.buckets.last(), Some(&(f64::INFINITY, sleeps)));
}

#[test]
fn nothing_is_lost_on_the_way() {
    need_bpf!();
    need_program!("gcc");
    let agent = Agent::start(&Options::default()).unwrap();
    let (program, arguments) = mix();
    program.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let metrics = agent.settled().unwrap();
    let attached = metrics.sums_by("steth_probe_attached", &[], "probe");
    assert!(attached.values().any(|attached| *attached == 1.0), "{attached:?}");
    for name in ["steth_records_lost_total", "steth_cells_full_total"] {
        let lost: Vec<_> = metrics.matching(name, &[]).filter(|sample| sample.value > 0.0).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
    assert!(agent.stop().unwrap().success());
}
