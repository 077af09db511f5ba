//! Process figures against `/proc`, and what becomes of processes that live for a moment.

use std::{path::Path, time::Duration};

use steth_tests::{
    agent::{Agent, Options},
    exposition::{Exposition, Sample},
    need_bpf, need_program,
    programs::{HOLD_RESOURCES, Program, SHORT_LIVED, SPAWNER},
};

const SOON: Duration = Duration::from_secs(20);

/// A number of `/proc/<pid>/status`, in bytes.
fn status_bytes(process: &Path, key: &str) -> f64 {
    let status = std::fs::read_to_string(process.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    // Every such line is in kB, and means KiB (proc(5)).
    line.trim().strip_suffix(" kB").unwrap().parse::<f64>().unwrap() * 1024.0
}

#[test]
fn files_and_memory_are_those_of_proc() {
    need_program!("gcc");
    let agent = Agent::start(&Options::default()).unwrap();
    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let holder = program.start(&["150", "32"]).unwrap();
    holder.wait_for_line("ready", SOON, |line| (line == "ready").then_some(())).unwrap();
    let group = [("groupname", program.name.as_str())];
    let memory = |metrics: &Exposition, kind: &str| {
        metrics.sum("namedprocess_namegroup_memory_bytes", &[("groupname", &program.name), ("memtype", kind)])
    };
    let metrics = agent
        .scrape_until("the program with all its memory", |metrics| memory(metrics, "resident") >= f64::from(32 << 20))
        .unwrap();

    // It waits for its input from here on, so nothing changes between two reads.
    let process = holder.proc_folder();
    let open = std::fs::read_dir(process.join("fd")).unwrap().count();
    assert_eq!(metrics.sum("namedprocess_namegroup_open_filedesc", &group), open as f64);
    assert!(open >= 150);
    assert_eq!(memory(&metrics, "resident"), status_bytes(&process, "VmRSS"));
    assert_eq!(memory(&metrics, "virtual"), status_bytes(&process, "VmSize"));
    assert_eq!(memory(&metrics, "swapped"), status_bytes(&process, "VmSwap"));
    assert_eq!(metrics.sum("namedprocess_namegroup_num_procs", &group), 1.0);
    assert_eq!(metrics.sum("namedprocess_namegroup_num_threads", &group), 1.0);

    let limits = std::fs::read_to_string(process.join("limits")).unwrap();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let limit: f64 = limit.split_whitespace().next().unwrap().parse().unwrap();
    let ratio = metrics.sum("namedprocess_namegroup_worst_fd_ratio", &group);
    assert!((ratio - open as f64 / limit).abs() < 1e-9, "{ratio}");

    holder.finish(SOON).unwrap();
    agent
        .scrape_until("the end of the program", |metrics| {
            metrics.sum("namedprocess_namegroup_num_procs", &[("groupname", &program.name)]) == 0.0
        })
        .unwrap();
}

/// 50,000 in all: every one is attributed, by the name it inherits or the one it takes, and nothing is lost.
#[test]
fn processes_of_a_moment_are_all_attributed() {
    need_bpf!();
    need_program!("gcc");
    const FORKED: u32 = 40_000;
    const EXECUTED: u32 = 10_000;
    let agent = Agent::start(&Options::default()).unwrap();
    let (spawner, short) = (Program::build("spwn", SPAWNER).unwrap(), Program::build("shrt", SHORT_LIVED).unwrap());
    let arguments = [&FORKED.to_string(), &EXECUTED.to_string(), short.path.to_str().unwrap()];
    let said = spawner.run(&arguments).unwrap();
    assert_eq!(said, format!("forked={FORKED} executed={EXECUTED}"));

    let metrics = agent.settled().unwrap();
    let getppid = |service: &Program| {
        let labels = [("service", service.name.as_str()), ("syscall", "getppid")];
        metrics.sum("steth_syscall_duration_seconds_count", &labels)
    };
    assert_eq!((getppid(&spawner), getppid(&short)), (f64::from(FORKED), f64::from(EXECUTED)));
    for name in ["steth_records_lost_total", "steth_cells_full_total"] {
        // The kernel refuses a task its storage while another program on that CPU is at it. That is counted, and made up for
        // at the task's next event: the figures above are whole.
        let is_made_up_for =
            |sample: &&Sample| sample.labels["map"] == "tasks" && sample.labels["reason"] == "no_memory";
        let lost: Vec<_> =
            metrics.matching(name, &[]).filter(|sample| sample.value > 0.0 && !is_made_up_for(sample)).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
    assert!(agent.stop().unwrap().success());
}
