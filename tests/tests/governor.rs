//! The governor, live: a load that makes steth cost too much, what it does about it, and what comes back.

use std::time::Duration;

use steth_tests::{
    agent::{Agent, Options},
    need_bpf, need_program,
    process::{self, Process},
    programs::Program,
    wait,
};

/// Hundreds of thousands of the shortest system calls a second, on each of two CPUs; says how many when it is told to end.
const LOAD: &str = r#"
    #include <signal.h>
    #include <stdio.h>
    #include <sys/prctl.h>
    #include <sys/wait.h>
    #include <unistd.h>
    #include <sys/syscall.h>
    static volatile sig_atomic_t over;
    static void end(int signal) { (void)signal; over = 1; }
    int main(void) {
        signal(SIGTERM, end);
        int child = fork();
        // Whatever ends the one, nothing is to be left of the other.
        if (!child) prctl(PR_SET_PDEATHSIG, SIGKILL);
        unsigned long calls = 0;
        while (!over) { syscall(SYS_getppid); calls++; }
        if (child) { kill(child, SIGTERM); waitpid(child, 0, 0); fprintf(stderr, "calls %lu\n", calls); }
    }"#;

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_load_that_makes_steth_too_dear_costs_a_feature_which_comes_back_when_it_is_calm() {
    need_bpf!();
    need_program!("gcc");
    let load = Program::build("load", LOAD).unwrap();
    // Far beyond what an agent without load takes, and far below what this load makes it take.
    let sections = "[budget]\nsoft = \"4%\"\nhard = \"4%\"\ninterval = \"500ms\"\n[http]\ntimeout = \"60s\"\n[window]\nlive = \"1s\"\n[probes]\nown = true\ntls = false\nprofiles = false\n";
    let agent = Agent::start(&Options { sections: sections.into(), ..Options::default() }).unwrap();
    let is = |feature: &str, state: &str| {
        // Whoever looks all the time is what steth spends its time on.
        std::thread::sleep(Duration::from_secs(1));
        let labels = [("feature", feature), ("state", state)];
        anyhow::Ok(agent.scrape()?.sum("steth_feature_state", &labels) == 1.0)
    };
    assert!(is("syscalls", "on").unwrap());
    let running = Process::start("load", process::command(&load.path, None)).unwrap();
    let held = || Ok(is("syscalls", "held")?.then_some(()));
    wait::poll("syscalls held", PATIENCE, held).unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    assert!(agent.log().contains("syscalls is switched off until it is calm"), "{}", agent.log());
    let probes = agent.get_json("/api/v1/probes").unwrap();
    let features = probes["features"].as_array().unwrap();
    assert!(features.iter().any(|it| it["feature"] == "syscalls" && it["state"] == "held"), "{probes}");
    assert_eq!(probes["budget"]["hard"], 0.04);
    let events = agent.get_json("/api/v1/events").unwrap();
    let is_told = |event: &serde_json::Value| {
        event["kind"] == "budget" && event["text"].as_str().unwrap().contains("syscalls is switched off")
    };
    assert!(events["events"].as_array().unwrap().iter().any(is_told), "{events}");
    let metrics = agent.scrape().unwrap();
    assert!(metrics.sum("steth_governor_steps_total", &[("direction", "down")]) >= 1.0);
    assert!(metrics.sum("steth_budget_used_ratio", &[]) > 0.0);
    // What is left is within the budget, under the same load.
    let within = || {
        std::thread::sleep(Duration::from_secs(1));
        Ok((agent.scrape()?.sum("steth_budget_used_ratio", &[]) <= 0.04).then_some(()))
    };
    wait::poll("a cost within the budget", PATIENCE, within)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    // The load is as it was, and ends as it would.
    running.signal("TERM").unwrap();
    running.wait_for_line("its calls", PATIENCE, |line| line.strip_prefix("calls ")?.parse::<u64>().ok()).unwrap();
    let back = || Ok(is("syscalls", "on")?.then_some(()));
    wait::poll("syscalls again", PATIENCE, back).unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    assert!(agent.log().contains("syscalls is switched on again"), "{}", agent.log());
    assert!(agent.stop().unwrap().success());
}

#[test]
fn a_budget_that_cannot_be_kept_ends_with_everything_off_and_the_host_still_measured() {
    need_bpf!();
    let sections = "[budget]\nsoft = \"0.001%\"\nhard = \"0.001%\"\ninterval = \"500ms\"\n[http]\ntimeout = \"60s\"\n[window]\nlive = \"1s\"\n[probes]\nown = true\ntls = false\n";
    let agent = Agent::start(&Options { sections: sections.into(), ..Options::default() }).unwrap();
    let exhausted = || {
        std::thread::sleep(Duration::from_secs(1));
        Ok(agent.log().contains("nothing is left that could be switched off").then_some(()))
    };
    wait::poll("all held", PATIENCE, exhausted).unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    assert!(agent.log().contains("samples of the past are taken only 5 times a second"), "{}", agent.log());
    let none = || {
        let attached = |probe: &str| anyhow::Ok(agent.scrape()?.sum("steth_probe_attached", &[("probe", probe)]));
        Ok((attached("sys_exit")? == 0.0 && attached("inet_sock_set_state")? == 0.0).then_some(()))
    };
    wait::poll("the last probes gone", PATIENCE, none).unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    let metrics = agent.scrape().unwrap();
    assert_eq!(metrics.sum("steth_feature_state", &[("state", "held")]), 6.0);
    assert!(
        metrics.sum("node_load1", &[]) > 0.0 && metrics.sum("steth_probe_attached", &[("probe", "sys_exit")]) == 0.0
    );
    // More may be spent: everything is as it was asked for.
    agent.reload("\"0.001%\"", "\"90%\"").unwrap();
    let all = || {
        std::thread::sleep(Duration::from_secs(1));
        Ok((agent.scrape()?.sum("steth_probe_attached", &[("probe", "sys_exit")]) == 1.0).then_some(()))
    };
    wait::poll("all on", PATIENCE, all).unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    assert!(agent.stop().unwrap().success());
}
