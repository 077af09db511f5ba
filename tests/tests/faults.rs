//! What goes wrong with the agent itself, and around it: what becomes of it, and that the application which it observes notices
//! nothing. The table of faults in docs/operations.md names these tests.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use steth_tests::{
    agent::{Agent, Options, binary},
    cgroup::Group,
    confined, need_postgres, need_program,
    observed::Observed,
    pgwire::Session,
    postgres::Postgres,
    process::{self, Process},
    programs::{ASKER, Program, SUCCESSOR, said_number},
    skipped, unique_name, wait,
};

const SOON: Duration = Duration::from_secs(60);

/// Faults of one test are not those of another.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lock and state of agents that follow each other.
fn state(folder: &Path) -> Options {
    Options {
        lock: Some(folder.join("lock")),
        profiles: Some(folder.join("profiles")),
        alerts: Some(folder.join("alerts")),
        audit: Some(folder.join("audit")),
        ..Options::default()
    }
}

/// What the kernel has of its own for programs, maps and links: the name in `fdinfo`, and the command that goes through their
/// numbers (`enum bpf_cmd`, linux/bpf.h).
const OBJECTS: [(&str, i64); 3] = [("prog_id:", 11), ("map_id:", 12), ("link_id:", 31)];

/// Those that a process holds.
fn held(pid: u32) -> BTreeSet<(usize, u32)> {
    let folder = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts = folder.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let mut held = BTreeSet::new();
    for line in texts.collect::<Vec<_>>().iter().flat_map(|text| text.lines()) {
        for (kind, (key, _)) in OBJECTS.iter().enumerate() {
            held.extend(line.strip_prefix(key).and_then(|id| Some((kind, id.trim().parse().ok()?))));
        }
    }
    held
}

/// Those that there are.
fn in_kernel() -> BTreeSet<(usize, u32)> {
    let mut all = BTreeSet::new();
    for (kind, (_, command)) in OBJECTS.iter().enumerate() {
        // start_id, next_id, open_flags of `union bpf_attr`
        let mut attributes = [0_u32; 3];
        // SAFETY: the attributes are as long as is said.
        while unsafe { libc::syscall(libc::SYS_bpf, *command, attributes.as_mut_ptr(), size_of_val(&attributes)) } == 0
        {
            all.insert((kind, attributes[1]));
            attributes = [attributes[1], 0, 0];
        }
    }
    all
}

/// How many bytes of the code of OpenSSL differ in a process's memory from the file: breakpoints.
fn breakpoints(pid: u32) -> usize {
    use std::os::unix::fs::FileExt;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let line = maps.lines().find(|line| line.contains("libssl") && line.contains(" r-xp ")).unwrap();
    let fields: Vec<&str> = line.split_whitespace().collect();
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let (begin, end) = fields[0].split_once('-').unwrap();
    let (begin, end, offset) = (hexadecimal(begin), hexadecimal(end), hexadecimal(fields[2]));
    let read = |path: &Path, at: u64| {
        let mut bytes = vec![0; usize::try_from(end - begin).unwrap()];
        let length = fs::File::open(path).unwrap().read_at(&mut bytes, at).unwrap();
        bytes.truncate(length);
        bytes
    };
    let (memory, file) = (read(Path::new(&format!("/proc/{pid}/mem")), begin), read(Path::new(fields[5]), offset));
    memory.iter().zip(&file).filter(|(one, other)| one != other).count()
}

#[test]
fn killed_at_any_moment_it_leaves_nothing_in_the_kernel_and_the_next_start_is_clean() {
    need_postgres!();
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let observed = Observed::of(Postgres::start_tls().unwrap()).unwrap();
    let (mut most, mut longest, mut breakpoints_seen) = (0, Duration::ZERO, 0);
    for delay_ms in [0, 30, 100, 200, 400, 700, 1_000, 1_500, 2_500, 5_000] {
        let (mut process, _folder) = Agent::begin(&state(folder.path())).unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        // Nothing is made between the look and the kill.
        process.signal("STOP").unwrap();
        let objects = held(process.id());
        breakpoints_seen = breakpoints_seen.max(breakpoints(observed.postgres.id()));
        let since = Instant::now();
        process.signal("KILL").unwrap();
        assert_eq!(process.wait(SOON).unwrap().signal(), Some(9));
        let gone = || Ok(in_kernel().is_disjoint(&objects).then_some(()));
        wait::poll("nothing of it in the kernel", SOON, gone).unwrap();
        (most, longest) = (most.max(objects.len()), longest.max(since.elapsed()));
    }
    // While it holds more than usually: samples of a profile, and old programs beside new ones.
    for busy in ["a profile", "a reload"] {
        let agent = Agent::start(&state(folder.path())).unwrap();
        let profile = format!("http://{}/api/v1/flame?seconds=30", agent.address());
        let asking = match busy {
            "a profile" => Some(std::thread::spawn(move || steth_tests::http::get(&profile))),
            _ => {
                agent.reload("[run]", "[probes]\nwall = false\n[run]").unwrap();
                None
            }
        };
        std::thread::sleep(Duration::from_secs(1));
        agent.signal("STOP").unwrap();
        let objects = held(agent.id());
        agent.signal("KILL").unwrap();
        let gone = || Ok(in_kernel().is_disjoint(&objects).then_some(()));
        wait::poll("nothing of it in the kernel", SOON, gone).unwrap();
        assert_eq!(agent.stop().unwrap().signal(), Some(9), "{busy}");
        assert!(asking.is_none_or(|asking| asking.join().unwrap().is_err()), "it ended before");
        println!("killed during {busy}: {} programs, maps and links are gone", objects.len());
    }
    println!("killed: up to {most} programs, maps and links of one agent are gone after {longest:?}");
    assert!(most > 20, "{most}: it was killed too early each time");
    assert!(breakpoints_seen > 0, "there was nothing to take away");
    // An agent of somebody else sets the same ones.
    let none = || Ok((breakpoints(observed.postgres.id()) == 0).then_some(()));
    wait::poll("no breakpoint in OpenSSL", SOON, none).unwrap();
    assert_the_next_start_is_clean(folder.path());
    observed.end().unwrap();
}

/// A script that enters a group and becomes the agent.
fn within(group: &Group, folder: &Path) -> PathBuf {
    let script = folder.join("start");
    let (procs, program) = (group.folder().join("cgroup.procs"), binary().unwrap());
    let text = format!("#!/bin/sh\necho $$ > {}\nexec {} \"$@\"\n", procs.display(), program.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

fn begin_within(group: &Group, folder: &Path) -> (Process, tempfile::TempDir) {
    Agent::begin(&Options { program: Some(within(group, folder)), ..state(folder) }).unwrap()
}

fn assert_the_next_start_is_clean(folder: &Path) {
    let agent = Agent::start(&state(folder)).unwrap();
    agent.settled().unwrap();
    assert!(agent.stop().unwrap().success());
}

#[test]
fn without_memory_it_is_killed_and_the_next_start_is_clean() {
    need_postgres!();
    let _alone = alone();
    let group = match Group::with_memory(&unique_name("oom"), 12 << 20) {
        Ok(group) => group,
        Err(error) => skipped!("{error:#}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let observed = Observed::start().unwrap();
    let (mut process, _folder) = begin_within(&group, folder.path());
    assert_eq!(process.wait(SOON).unwrap().signal(), Some(9), "{}", process.log());
    assert_the_next_start_is_clean(folder.path());
    observed.end().unwrap();
}

#[test]
fn when_memory_runs_out_under_load_it_is_killed_and_the_next_start_is_clean() {
    need_postgres!();
    let _alone = alone();
    let group = match Group::with_memory(&unique_name("less"), 512 << 20) {
        Ok(group) => group,
        Err(error) => skipped!("{error:#}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let observed = Observed::start().unwrap();
    let (mut process, _folder) = begin_within(&group, folder.path());
    process.wait_for_line("its address", SOON, |line| line.starts_with("ready: ").then_some(())).unwrap();
    let mut session = Session::open(&observed.postgres, &observed.database).unwrap();
    let mut statements = 0;
    // What it could do without, such as pages of its program, is taken first; so the limit follows it.
    let killed = || {
        for _ in 0..500 {
            statements += 1;
            assert_eq!(session.query(&format!("select 1 as c{statements}"))?, None);
        }
        let is_gone = fs::read_to_string(group.folder().join("cgroup.procs"))?.is_empty();
        if !is_gone {
            // Nothing to be taken back now may be so a moment later.
            let _ = group.limit_to_what_it_has();
        }
        Ok(is_gone.then_some(()))
    };
    wait::poll("the agent to be killed", SOON, killed).unwrap();
    assert_eq!(process.wait(SOON).unwrap().signal(), Some(9), "{}", process.log());
    println!("memory: killed after {statements} new statements");
    assert_the_next_start_is_clean(folder.path());
    observed.end().unwrap();
}

#[test]
fn within_the_memory_of_its_unit_it_lives_also_under_load() {
    need_postgres!();
    need_program!("gcc");
    let _alone = alone();
    let [high, limit] = ["MemoryHigh", "MemoryMax"].map(|key| {
        let mebibytes: u64 = confined::of_unit(key)[0].strip_suffix('M').unwrap().parse().unwrap();
        mebibytes << 20
    });
    let group = match Group::with_memory(&unique_name("mem"), limit) {
        Ok(group) => group,
        Err(error) => skipped!("{error:#}"),
    };
    let folder = tempfile::tempdir().unwrap();
    let observed = Observed::start().unwrap();
    let agent =
        Agent::start(&Options { program: Some(within(&group, folder.path())), ..state(folder.path()) }).unwrap();
    let mut session = Session::open(&observed.postgres, &observed.database).unwrap();
    for statement in 0..20_000 {
        assert_eq!(session.query(&format!("select 1 as c{statement}")).unwrap(), None);
    }
    agent.settled().unwrap();
    let peak = ["memory.max_usage_in_bytes", "memory.peak"].map(|file| fs::read_to_string(group.folder().join(file)));
    let peak: u64 = peak.into_iter().flatten().next().unwrap().trim().parse().unwrap();
    println!("memory: at most {} MiB of {} with 20,000 statements", peak >> 20, high >> 20);
    // Beyond that the kernel slows down whoever takes more.
    assert!(peak < high, "{peak}");
    assert!(agent.stop().unwrap().success());
    observed.end().unwrap();
}

/// A file system without room; unmounted when dropped.
struct FullDisk(tempfile::TempDir);

impl FullDisk {
    fn mount() -> anyhow::Result<Self> {
        let disk = Self(tempfile::tempdir()?);
        let mut mount = process::command("mount", None);
        mount.args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(disk.0.path());
        Process::start("mount", mount)?.finish(SOON)?;
        let full = fs::write(disk.0.path().join("filler"), vec![1; 128 << 10]).unwrap_err();
        anyhow::ensure!(full.kind() == std::io::ErrorKind::StorageFull, "{full}");
        Ok(disk)
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        let mut umount = process::command("umount", None);
        umount.arg("--lazy").arg(self.0.path());
        let _ = Process::start("umount", umount).and_then(|umount| umount.finish(SOON));
    }
}

#[test]
fn with_a_full_disk_below_all_that_it_keeps_it_says_so_counts_it_and_goes_on() {
    need_postgres!();
    let _alone = alone();
    let (disk, elsewhere) = (FullDisk::mount().unwrap(), tempfile::tempdir().unwrap());
    let rules = elsewhere.path().join("rules.toml");
    fs::write(&rules, "[[rule]]\nname = \"always\"\nmetric = \"node_load1\"\nabove = -1.0\nsummary = \"x\"\n").unwrap();
    let sections = format!(
        "[profile]\npiece = \"2s\"\n[window]\nlive = \"1s\"\nkept = \"1s\"\n[alerts]\nfiles = [{rules:?}]\n[send]\nfolder = \
         {:?}\n[send.to.central]\nprotocol = \"remote-write\"\nendpoint.url = \"http://127.0.0.1:1/\"\n",
        disk.0.path().join("send")
    );
    // The lock is what /run is for.
    let agent = Agent::start(&Options { sections, lock: None, ..state(disk.0.path()) }).unwrap();
    let observed = Observed::start().unwrap();
    let transactions = |agent: &Agent| {
        let own = [("database", observed.database.as_str()), ("role", "server")];
        agent.settled().unwrap().sum("steth_postgres_query_duration_seconds_count", &own)
    };
    let before = transactions(&agent);
    // Each counts what it could not write.
    let lost = [
        ("steth_records_lost_total", ("map", "pieces")),
        ("steth_alerts_lost_total", ("reason", "state")),
        ("steth_audit_lines_total", ("outcome", "refused")),
    ];
    let all_counted = || {
        let metrics = agent.scrape()?;
        Ok(lost.iter().all(|(name, label)| metrics.sum(name, &[*label]) >= 2.0).then_some(()))
    };
    wait::poll("all losses to be counted, twice", SOON, all_counted)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", agent.log()));
    let after = transactions(&agent);
    assert!(after > before, "{after}");
    // And says so, once.
    for folder in ["send", "profiles", "alerts", "audit"] {
        let path = disk.0.path().join(folder).display().to_string();
        let log = agent.log();
        let said = log.lines().filter(|line| line.contains("No space left on device") && line.contains(&path)).count();
        assert_eq!(said, 1, "{folder}: {log}");
    }
    // Nothing is lost of what is to be sent: the newest waits in memory.
    let metrics = agent.scrape().unwrap();
    assert!(metrics.sum("steth_send_spool_bytes", &[]) > 0.0);
    assert!(agent.stop().unwrap().success());
    observed.end().unwrap();
}

#[test]
fn two_agents_at_once_count_the_same() {
    need_postgres!();
    need_program!("gcc");
    let _alone = alone();
    let agents = [(); 2].map(|()| Agent::start(&Options::default()).unwrap());
    let observed = Observed::start().unwrap();
    let database = observed.database.clone();
    std::thread::sleep(Duration::from_secs(5));
    let unharmed = observed.end().unwrap();
    for agent in agents {
        let metrics = agent.settled().unwrap();
        for role in ["client", "server"] {
            let own = [("database", database.as_str()), ("role", role)];
            let counted = metrics.sum("steth_postgres_query_duration_seconds_count", &own);
            assert_eq!(counted, unharmed.transactions as f64, "{role}");
        }
        assert!(agent.stop().unwrap().success());
    }
}

#[test]
fn of_events_by_the_hundred_thousand_a_second_each_is_counted() {
    need_postgres!();
    need_program!("gcc");
    let _alone = alone();
    const CALLS: u64 = 3_000_000;
    let agent = Agent::start(&Options::default()).unwrap();
    let observed = Observed::start().unwrap();
    let program = Program::build("rush", ASKER).unwrap();
    let mut asker = program.start(&[]).unwrap();
    asker.wait_for_line("ready", SOON, |line| (line == "ready").then_some(())).unwrap();
    let since = Instant::now();
    asker.say(&CALLS.to_string()).unwrap();
    asker.wait_for_line("asked", SOON, |line| line.starts_with("asked=").then_some(())).unwrap();
    println!(
        "events: {:.0} system calls a second for {:?}",
        CALLS as f64 / since.elapsed().as_secs_f64(),
        since.elapsed()
    );
    let metrics = agent.settled().unwrap();
    let own = [("service", program.name.as_str()), ("syscall", "getppid")];
    assert_eq!(metrics.sum("steth_syscall_duration_seconds_count", &own), CALLS as f64);
    assert_eq!(metrics.sum("steth_records_lost_total", &[("reason", "ring_full")]), 0.0);
    assert!(agent.stop().unwrap().success());
    observed.end().unwrap();
}

/// How long nobody reads the ring: what is lost is names, all counts stay.
const SUSPENDED: Duration = Duration::from_secs(60);

#[test]
fn suspended_for_a_minute_with_a_full_ring_it_loses_names_says_how_many_and_no_count() {
    need_postgres!();
    let _alone = alone();
    let sections = "[kernel]\nring = \"64KiB\"\n".to_owned();
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let observed = Observed::start().unwrap();
    let (database, mut statements) = (observed.database.clone(), 0);
    let lost = |agent: &Agent| {
        let metrics = agent.settled().unwrap();
        (metrics.sum("steth_records_lost_total", &[("reason", "ring_full")]), metrics)
    };
    let (before, _) = lost(&agent);
    agent.signal("STOP").unwrap();
    let since = Instant::now();
    let mut session = Session::open(&observed.postgres, &database).unwrap();
    while since.elapsed() < SUSPENDED {
        // Each is new, and so a record.
        assert_eq!(session.query(&format!("select 1 as \"c{statements}{}\"", "x".repeat(40))).unwrap(), None);
        statements += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    agent.signal("CONT").unwrap();
    let unharmed = observed.end().unwrap();
    let (after, metrics) = lost(&agent);
    println!("suspended: {} records lost of {statements} new statements in {SUSPENDED:?}", after - before);
    assert!(after > before);
    for role in ["client", "server"] {
        let own = [("database", database.as_str()), ("role", role)];
        let counted = metrics.sum("steth_postgres_query_duration_seconds_count", &own);
        assert_eq!(counted, (unharmed.transactions + statements) as f64, "{role}");
    }
    assert!(agent.stop().unwrap().success());
}

#[test]
fn an_observed_program_that_becomes_another_build_in_place_answers_all_and_stays_one_service() {
    need_postgres!();
    need_program!("gcc");
    let _alone = alone();
    let agent = Agent::start(&Options::default()).unwrap();
    let observed = Observed::start().unwrap();
    let old = Program::build_with("succ", SUCCESSOR, &["-DVERSION='1'", "-Wl,--build-id"]).unwrap();
    let new = Program::build_with("succ", SUCCESSOR, &["-DVERSION='2'", "-Wl,--build-id"]).unwrap();
    let server = old.start(&[]).unwrap();
    let port = server.wait_for_line("its port", SOON, |line| said_number(line, "port").ok()).unwrap() as u16;
    let ask = || -> std::io::Result<u8> {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(b"?")?;
        let mut version = [0];
        stream.read_exact(&mut version)?;
        Ok(version[0])
    };
    let mut answers: Vec<u8> = (0..200).map(|_| ask().unwrap()).collect();
    // As a package manager does: beside it, and then in its place.
    fs::copy(&new.path, old.folder().join("next")).unwrap();
    fs::rename(old.folder().join("next"), &old.path).unwrap();
    server.signal("HUP").unwrap();
    answers.extend((0..200).map(|_| ask().unwrap()));
    server.wait_for_line("the new build", SOON, |line| (line == "runs 2").then_some(())).unwrap();
    answers.extend((0..200).map(|_| ask().unwrap()));
    assert!(answers.is_sorted() && answers[0] == b'1' && answers[599] == b'2', "{answers:?}");
    let metrics = agent.settled().unwrap();
    let own = [("service", old.name.as_str()), ("syscall", "accept")];
    assert_eq!(metrics.sum("steth_syscall_duration_seconds_count", &own), 600.0);
    assert!(agent.stop().unwrap().success());
    observed.end().unwrap();
}

#[test]
fn an_observed_process_that_is_moved_to_another_group_is_counted_on() {
    need_postgres!();
    need_program!("gcc");
    let _alone = alone();
    let unit = format!("{}.service", unique_name("movd"));
    let group = match Group::make("", &format!("{}.slice/{unit}", unique_name("slc"))) {
        Ok(group) => group,
        Err(error) => skipped!("{error:#}"),
    };
    let agent = Agent::start(&Options::default()).unwrap();
    let observed = Observed::start().unwrap();
    let program = Program::build("movd", ASKER).unwrap();
    let mut asker = program.start(&[]).unwrap();
    let mut ask = |times: u32| {
        asker.say(&times.to_string()).unwrap();
        asker.wait_for_line("asked", SOON, |line| (line == format!("asked={times}")).then_some(())).unwrap();
        asker.id()
    };
    let pid = ask(300);
    group.enter(pid).unwrap();
    ask(500);
    let metrics = agent.settled().unwrap();
    let counted = [program.name.as_str(), unit.as_str()].map(|service| {
        metrics.sum("steth_syscall_duration_seconds_count", &[("service", service), ("syscall", "getppid")])
    });
    println!("moved: {counted:?} before and after, by the old name and the new one");
    assert_eq!(counted, [800.0, 0.0]);
    assert!(agent.stop().unwrap().success());
    observed.end().unwrap();
}
