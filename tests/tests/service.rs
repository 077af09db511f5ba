//! The agent as a confined service: what its unit allows suffices for every probe, it gives up what it does not need, and it
//! tells the service manager how it is.

use std::{
    collections::BTreeMap,
    os::unix::{fs::MetadataExt, net::UnixDatagram},
    process::Command,
    time::Duration,
};

use steth_tests::{
    agent::{Agent, Options, steth},
    confined::{Confined, UNIT, of_unit, setpriv},
    need_bpf, need_program, need_root,
    process::{Process, User, command},
    skipped, wait,
};

/// What `systemd-analyze security` may say at most: 10 is a service that may do everything.
const EXPOSURE: f64 = 3.0;
/// Several windows, on a busy machine.
const SEEN: Duration = Duration::from_secs(30);

/// Name and state of every probe, as the agent says.
fn probes(agent: &Agent) -> BTreeMap<String, String> {
    let answer = agent.get_json("/api/v1/probes").unwrap();
    let word = |probe: &serde_json::Value, key: &str| probe[key].as_str().unwrap().to_owned();
    answer["probes"].as_array().unwrap().iter().map(|probe| (word(probe, "name"), word(probe, "state"))).collect()
}

/// The value of a line of `/proc/PID/status`, of every thread.
fn of_threads(agent: &Agent, key: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", agent.id())).unwrap();
    let status = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok());
    status
        .map(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim_start_matches(':').trim().to_owned()
        })
        .collect()
}

#[test]
fn the_unit_is_little_exposed() {
    need_program!("systemd-analyze");
    let unit = format!("{}/../packaging/steth.service", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager", &unit]).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let Some((_, level)) = said.rsplit_once("steth.service: ") else {
        skipped!("this systemd-analyze judges no files: {}", String::from_utf8_lossy(&output.stderr));
    };
    let level: f64 = level.split_whitespace().next().unwrap().parse().unwrap();
    println!("exposure: {level}");
    assert!(level <= EXPOSURE, "{said}");
}

#[test]
fn each_capability_of_the_unit_has_its_reason() {
    let capabilities = of_unit("CapabilityBoundingSet");
    assert_eq!(capabilities, of_unit("AmbientCapabilities"));
    assert!(capabilities.contains(&"CAP_BPF"));
    for capability in capabilities {
        assert!(UNIT.lines().any(|line| line.starts_with(&format!("# {capability}: "))), "why {capability}?");
    }
}

#[test]
fn what_the_unit_allows_suffices_for_every_probe() {
    need_bpf!();
    need_program!("setpriv");
    let of_root = probes(&Agent::start(&Options::default()).unwrap());
    let copy = Confined::copy().unwrap();
    let options = copy.as_nobody(&setpriv(&of_unit("CapabilityBoundingSet")), "").unwrap();
    let agent = Agent::start(&options).unwrap();
    assert_eq!(probes(&agent), of_root);
    assert!(of_root.values().filter(|state| *state == "attached").count() > 8, "{of_root:?}");
    // Root's processes have their names, and the kernel's functions too.
    agent.settled().unwrap();
    // Where all else is idle.
    let mut copies = command("dd", None);
    copies.args(["if=/dev/zero", "of=/dev/null", "bs=1"]);
    let _busy = Process::start("dd", copies).unwrap();
    let answer = steth(&["flame", "--agent", agent.address(), "--all", "-d", "1s", "-F", "199", "-o", "-"]).unwrap();
    assert!(answer.1.contains("syscall"), "no function of the kernel in: {answer:?}");
    // Processes that root may not read either are no matter of the unit.
    let log = agent.log();
    let denied: Vec<&str> =
        log.lines().filter(|line| line.contains("denied") && !line.contains("could not be read fully")).collect();
    assert!(denied.is_empty(), "{denied:?}");
    println!("{} probes as for root; {} lines of stacks", of_root.len(), answer.1.lines().count());
}

#[test]
fn with_file_capabilities_nobody_runs_every_probe() {
    need_bpf!();
    need_program!("setpriv", "setcap");
    let of_root = probes(&Agent::start(&Options::default()).unwrap());
    let copy = Confined::copy().unwrap();
    let names = of_unit("CapabilityBoundingSet").join(",").to_lowercase();
    let given = Command::new("setcap").arg(format!("{names}=ep")).arg(copy.program()).output().unwrap();
    if !given.status.success() {
        skipped!("needs a file system with file capabilities: {}", String::from_utf8_lossy(&given.stderr));
    }
    let mut options = copy.as_nobody(&[], "").unwrap();
    // It may not enter root's folders before it is executed.
    options.user = None;
    let agent = Agent::start(&options).unwrap();
    assert_eq!(of_threads(&agent, "Uid").iter().filter(|uid| !uid.starts_with("65534")).count(), 0);
    assert_eq!(probes(&agent), of_root);
    agent.settled().unwrap();
}

#[test]
fn what_is_not_needed_is_given_up_in_every_thread() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    agent.scrape().unwrap();
    let numbers: BTreeMap<&str, u32> = BTreeMap::from([
        ("CAP_DAC_READ_SEARCH", 2),
        ("CAP_SYS_PTRACE", 19),
        ("CAP_SYS_ADMIN", 21),
        ("CAP_SYSLOG", 34),
        ("CAP_PERFMON", 38),
        ("CAP_BPF", 39),
    ]);
    let of_unit: u64 = of_unit("CapabilityBoundingSet").iter().map(|name| 1 << numbers[name]).sum();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        for held in of_threads(&agent, set) {
            let held = u64::from_str_radix(&held, 16).unwrap();
            assert_eq!(held & !of_unit, 0, "{set}: {held:x} is more than {of_unit:x}");
        }
    }
    assert!(of_threads(&agent, "NoNewPrivs").iter().all(|set| set == "1"));
    assert!(of_threads(&agent, "CapEff").len() > 2, "an agent of one thread shows nothing");

    // Without TLS, what only TLS needs goes as well.
    let sections = "[probes]\ntls = false\n".to_owned();
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    for held in of_threads(&agent, "CapEff") {
        let held = u64::from_str_radix(&held, 16).unwrap();
        assert_eq!(held & 1 << numbers["CAP_SYS_ADMIN"], 0, "{held:x}");
    }
}

/// A process that may not be dumped has files in /proc that belong to root: see proc(5).
#[test]
fn a_running_agent_is_in_no_core_dump() {
    need_root!();
    let Some(nobody) = User::named("nobody") else { skipped!("needs a user nobody") };
    let agent = Agent::start(&Options { user: Some(nobody.clone()), ..Options::default() }).unwrap();
    let owner = |pid: u32| std::fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
    assert_eq!(owner(agent.id()), 0);
    let sleeper = command("sleep", Some(&nobody)).arg("60").spawn();
    let mut sleeper = sleeper.unwrap();
    let belongs = wait::poll("a process of nobody's", SEEN, || Ok((owner(sleeper.id()) == nobody.uid).then_some(())));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    belongs.unwrap();
}

#[test]
fn the_service_manager_hears_what_the_agent_does() {
    need_root!();
    let copy = Confined::copy().unwrap();
    let path = copy.folder().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SEEN)).unwrap();
    let heard = |what: &str| {
        let mut buffer = [0; 1024];
        let deadline = std::time::Instant::now() + SEEN;
        loop {
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {what}: {error}"));
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.lines().any(|line| line == what) {
                return text;
            }
            assert!(std::time::Instant::now() < deadline, "no {what}");
        }
    };
    let wrapper = copy.folder().join("start");
    let lines = format!(
        "#!/bin/sh\nexport NOTIFY_SOCKET={} WATCHDOG_USEC=400000\nexec {} \"$@\"\n",
        path.display(),
        copy.program().display()
    );
    std::fs::write(&wrapper, lines).unwrap();
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let agent = Agent::start(&copy.options(Some(wrapper))).unwrap();
    assert!(heard("READY=1").contains(&format!("STATUS=serving {}", agent.url)));
    let (mut beats, since) = (0, std::time::Instant::now());
    while since.elapsed() < Duration::from_secs(2) {
        heard("WATCHDOG=1");
        beats += 1;
    }
    // Every 0.2 s; at least one in each 0.4 s keeps systemd content.
    assert!((5..=12).contains(&beats), "{beats} in 2 s");
    let kill = |signal: &str| {
        let status = Command::new("kill").args(["-s", signal, &agent.id().to_string()]).status().unwrap();
        assert!(status.success());
    };
    kill("HUP");
    assert!(heard("RELOADING=1").contains("MONOTONIC_USEC="));
    assert!(heard("READY=1").contains("STATUS=reloaded"));
    kill("TERM");
    heard("STOPPING=1");
    assert!(agent.stop().unwrap().success());
}
