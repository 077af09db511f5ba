//! Shipped rules, each fired by its real cause on this host and over with it: memory, CPU, connections, a pool, open files, a disk
//! that fills, records that are lost, cells without room. The times of rules are short; of memory and of the host's open files the
//! threshold is where this host is now, and a little more.

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use steth_tests::{
    agent::{Agent, Options},
    need_bpf, need_postgres, need_program,
    pgwire::Session,
    postgres::{Postgres, USER},
    process::{Process, command},
    programs::{HOLD_RESOURCES, PEERS, Program},
    skipped,
    stage::{Stage, TOLD},
    unique_name, wait,
};

const LONG: Duration = Duration::from_secs(120);

/// All memory of this host in bytes, and the share of it that is used, as the rules see it.
fn memory() -> (f64, f64) {
    let metrics = Agent::start(&Options::default()).unwrap().scrape().unwrap();
    let total = metrics.sum("node_memory_MemTotal_bytes", &[]);
    (total, 1.0 - metrics.sum("node_memory_MemAvailable_bytes", &[]) / total)
}

/// Takes a twelfth of all memory; others on this host may take or give back a fiftieth meanwhile.
fn take_memory(program: &Program, total: f64) -> Process {
    let holder = program.start(&["1", &format!("{}", (total as u64 / 12) >> 20)]).unwrap();
    holder.wait_for_line("ready", TOLD, |line| (line == "ready").then_some(())).unwrap();
    holder
}

/// Thresholds of a rule.
fn bounds(above: f64, clear: f64) -> String {
    format!("above = {above}\nclear = {clear}")
}

#[test]
fn memory_that_is_taken_is_told_and_over_when_it_is_given_back() {
    need_bpf!();
    need_program!("gcc");
    let (total, used) = memory();
    if used > 0.8 {
        skipped!("{:.0} % of the memory are used already", used * 100.0);
    }
    let high = bounds(used + 0.05, used + 0.03);
    let stage = Stage::with("", &[("above = 0.8\nclear = 0.75", high.as_str()), ("for = \"20s\"", "for = \"3s\"")]);
    let agent = stage.agent();
    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let mut holder = take_memory(&program, total);
    let alert = stage.told_of("memory_high", None, "firing", TOLD);
    assert!(alert["annotations"]["summary"].as_str().unwrap().starts_with("memory of "), "{alert:#}");
    assert!(alert["annotations"]["step"].as_str().unwrap().contains("steth explain"), "{alert:#}");
    holder.signal("KILL").unwrap();
    drop(holder.wait(TOLD));
    stage.told_of("memory_high", None, "resolved", TOLD);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn memory_that_is_nearly_gone_is_told_at_once_and_inhibits_the_warning() {
    need_bpf!();
    need_program!("gcc");
    let (total, used) = memory();
    if used > 0.8 {
        skipped!("{:.0} % of the memory are used already", used * 100.0);
    }
    let (critical, high) = (bounds(used + 0.05, used + 0.03), bounds(used + 0.04, used + 0.03));
    let stage = Stage::with(
        "",
        &[
            ("above = 0.9\nclear = 0.85", critical.as_str()),
            ("above = 0.8\nclear = 0.75", high.as_str()),
            ("for = \"20s\"", "for = \"3s\""),
        ],
    );
    let agent = stage.agent();
    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let mut holder = take_memory(&program, total);
    let alert = stage.told_of("memory_critical", None, "firing", TOLD);
    assert_eq!(alert["labels"]["severity"], "critical", "{alert:#}");
    assert!(alert["annotations"]["summary"].as_str().unwrap().starts_with("memory of "), "{alert:#}");
    assert!(alert["annotations"]["impact"].as_str().unwrap().contains("kill processes"), "{alert:#}");
    wait::poll("the warning, which nobody is told of", TOLD, || {
        let listed = agent.get_json("/api/v1/alerts")?;
        let is_it = |alert: &serde_json::Value| {
            alert["rule"] == "memory_high" && alert["state"] == "firing" && alert["suppressed"] == "inhibition"
        };
        Ok(listed["alerts"].as_array().unwrap().iter().any(is_it).then_some(()))
    })
    .unwrap();
    let of_warning = |post: &serde_json::Value| post["groupLabels"]["alertname"] == "memory_high";
    assert!(!stage.sink.posts().iter().any(|(_, post)| of_warning(post)), "{:#?}", stage.sink.posts());
    holder.signal("KILL").unwrap();
    drop(holder.wait(TOLD));
    stage.told_of("memory_critical", None, "resolved", TOLD);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn processors_that_are_busy_are_told_and_over_when_they_rest() {
    need_bpf!();
    let stage =
        Stage::with("", &[("above = 0.8\nclear = 0.7\nfor = \"60s\"", "above = 0.8\nclear = 0.7\nfor = \"5s\"")]);
    let agent = stage.agent();
    let ends = Arc::new(AtomicBool::new(false));
    let processors = std::thread::available_parallelism().unwrap().get();
    let workers: Vec<_> = (0..processors)
        .map(|_| {
            let ends = Arc::clone(&ends);
            std::thread::spawn(move || while !ends.load(Ordering::Relaxed) {})
        })
        .collect();
    let alert = stage.told_of("cpu_high", None, "firing", TOLD);
    assert!(alert["annotations"]["summary"].as_str().unwrap().starts_with("the CPUs of "), "{alert:#}");
    ends.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    // As soon as nothing else keeps this host busy.
    stage.told_of("cpu_high", None, "resolved", LONG);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn connections_near_the_servers_limit_are_told_and_over_when_they_are_closed() {
    need_bpf!();
    need_postgres!();
    let stage = Stage::new("");
    // Before it, so that it is known by its own process what it allows.
    let postgres = Postgres::start_set(&["max_connections=20"]).unwrap();
    let service = format!("postgres:{}/cluster", postgres.folder().file_name().unwrap().to_str().unwrap());
    let agent = stage.agent();
    // Nineteen of twenty, but for those that are reserved to superusers, as this user is.
    let sessions: Vec<Session> = (0..19)
        .map(|_| {
            let mut session = Session::open(&postgres, "postgres").unwrap();
            session.query("select 1").unwrap();
            session
        })
        .collect();
    let alert = stage.told("postgres_connections_high", &service, "firing");
    let summary = alert["annotations"]["summary"].as_str().unwrap();
    assert!(summary.ends_with("95 % of the connections that it allows"), "{alert:#}");
    drop(sessions);
    stage.told("postgres_connections_high", &service, "resolved");
    assert!(agent.stop().unwrap().success());
}

#[test]
fn a_pool_that_is_nearly_used_up_is_told_and_over_when_connections_are_given_back() {
    need_bpf!();
    need_postgres!();
    let stage = Stage::new("");
    let postgres = Postgres::start().unwrap();
    // A service of its own: other tests are clients, too.
    let (folder, client) = (tempfile::tempdir().unwrap(), unique_name("pool"));
    let program = folder.path().join(&client);
    std::fs::copy(postgres.programs.join("psql"), &program).unwrap();
    let agent = stage.agent_with(&format!("[postgres]\npools = {{ \"{client}\" = 10 }}\n"));
    let open = || {
        let mut session = command(&program, None);
        session.args(["-X", "-q", "-A", "-t", "-U", USER, "-p", &postgres.port.to_string(), "-h"]);
        session.arg(postgres.folder()).args(["-d", "postgres"]);
        let mut session = Process::start(&client, session).unwrap();
        session.say("select 1;").unwrap();
        session.wait_for_line("an answer", TOLD, |line| (line == "1").then_some(())).unwrap();
        session
    };
    let sessions: Vec<Process> = (0..10).map(|_| open()).collect();
    let alert = stage.told("postgres_pool_high", &client, "firing");
    let summary = alert["annotations"]["summary"].as_str().unwrap();
    assert_eq!(summary, format!("{client} has 100 % of the connections that its pool holds"), "{alert:#}");
    drop(sessions);
    stage.told("postgres_pool_high", &client, "resolved");
    assert!(agent.stop().unwrap().success());
}

/// Descriptors that the host has open, and how many it allows (proc(5), /proc/sys/fs/file-nr).
fn open_files_of_host() -> (f64, f64) {
    let text = std::fs::read_to_string("/proc/sys/fs/file-nr").unwrap();
    let figures: Vec<f64> = text.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
    (figures[0], figures[2])
}

#[test]
fn open_files_of_the_host_are_told_and_over_when_they_are_closed() {
    need_bpf!();
    need_program!("gcc");
    let (open, most) = open_files_of_host();
    if open + 100_000.0 > most {
        skipped!("{open} of {most} open files are used already");
    }
    // Of what the host allows few are taken; others on this host may open or close a few thousand meanwhile.
    let bounds = bounds((open + 10_000.0) / most, (open + 6_000.0) / most) + "\nseverity = \"critical\"";
    let stage = Stage::with("", &[("above = 0.8\nclear = 0.7\nseverity = \"critical\"", bounds.as_str())]);
    let agent = stage.agent();
    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let mut shell = command("sh", None);
    shell.args(["-c", "ulimit -n 20000 && exec \"$0\" 18000 1"]).arg(&program.path);
    let mut holder = Process::start("hold", shell).unwrap();
    holder.wait_for_line("ready", TOLD, |line| (line == "ready").then_some(())).unwrap();
    let alert = stage.told_of("open_files_of_host_high", None, "firing", TOLD);
    assert_eq!(alert["labels"]["severity"], "critical", "{alert:#}");
    let summary = alert["annotations"]["summary"].as_str().unwrap();
    assert!(summary.ends_with(" of the open files that it allows"), "{alert:#}");
    holder.signal("KILL").unwrap();
    drop(holder.wait(TOLD));
    stage.told_of("open_files_of_host_high", None, "resolved", TOLD);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn cells_without_room_are_told_and_over_when_nobody_asks_for_more() {
    need_bpf!();
    need_program!("gcc");
    let stage = Stage::new("");
    let processors = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    let last: usize = processors.trim().rsplit([',', '-']).next().unwrap().parse().unwrap();
    // As little as there may be: some 1,800 cells, which are kept for each processor.
    let agent = stage.agent_with(&format!("[kernel]\nmemory = \"{}MiB\"\n", 10 * (last + 1)));
    let flood = Program::build("peer", PEERS).unwrap();
    let begins = std::time::Instant::now();
    let is_told = || {
        let is_it = |alert: &serde_json::Value| {
            alert["labels"]["alertname"] == "cells_full"
                && alert["labels"]["map"] == "histograms"
                && alert["status"] == "firing"
        };
        stage.sink.posts().iter().any(|(_, post)| post["alerts"].as_array().is_some_and(|all| all.iter().any(is_it)))
    };
    while !is_told() {
        assert!(begins.elapsed() < LONG, "{:#?}", agent.get_json("/api/v1/alerts"));
        flood.run(&["1000"]).unwrap();
    }
    let alert = stage.told_of("cells_full", Some(("map", "histograms")), "firing", TOLD);
    let summary = alert["annotations"]["summary"].as_str().unwrap();
    assert!(summary.starts_with("steth has no room in histograms for "), "{alert:#}");
    assert!(alert["annotations"]["step"].as_str().unwrap().contains("kernel.memory"), "{alert:#}");
    stage.told_of("cells_full", Some(("map", "histograms")), "resolved", LONG);
    assert!(agent.stop().unwrap().success());
}

/// A file system of 64 MiB on a disk of its own; unmounted when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (image, mount) = (folder.path().join("image"), folder.path().join("disk"));
        File::create(&image)?.set_len(64 << 20)?;
        std::fs::create_dir(&mount)?;
        let run = |program: &str, arguments: &[&str], paths: &[&Path]| {
            let mut it = command(program, None);
            it.args(arguments).args(paths);
            Process::start(program, it)?.finish(TOLD)
        };
        run("mkfs.ext4", &["-q", "-F", "-m", "0"], &[&image])?;
        run("mount", &["-o", "loop"], &[&image, &mount])?;
        Ok(Self(folder))
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mut umount = command("umount", None);
        umount.arg("--lazy").arg(self.path());
        let _ = Process::start("umount", umount).and_then(|umount| umount.finish(TOLD));
    }
}

#[test]
fn a_disk_that_fills_is_told_before_it_is_full_and_over_when_it_is_emptied() {
    need_bpf!();
    need_program!("mkfs.ext4", "losetup");
    let disk = match Disk::mount() {
        Ok(disk) => disk,
        Err(error) => skipped!("no file system of its own: {error:#}"),
    };
    // So far back as the windows of half a minute reach, not of half an hour: what was before it is forgotten sooner.
    let stage = Stage::with(
        "",
        &[
            ("within = \"30m\"", "within = \"20s\""),
            ("for = \"60s\"\nsummary = \"{mountpoint}", "for = \"3s\"\nsummary = \"{mountpoint}"),
        ],
    );
    let agent = stage.agent();
    let path = disk.path().join("fills");
    let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let mountpoint = disk.path().display().to_string();
    let ends = Arc::new(AtomicBool::new(false));
    let writer = {
        let ends = Arc::clone(&ends);
        std::thread::spawn(move || {
            for _ in 0..100 {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                file.write_all(&[1; 256 << 10]).unwrap();
                file.sync_all().unwrap();
                std::thread::sleep(Duration::from_millis(500));
            }
        })
    };
    let alert = stage.told_of("disk_full_soon", Some(("mountpoint", &mountpoint)), "firing", TOLD);
    let free = disk_free(&agent, &mountpoint);
    assert!(free > f64::from(8 << 20), "it was full already: {free}");
    let summary = alert["annotations"]["summary"].as_str().unwrap();
    assert!(summary.starts_with(&format!("{mountpoint} will be full in ")), "{alert:#}");
    ends.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    std::fs::remove_file(&path).unwrap();
    stage.told_of("disk_full_soon", Some(("mountpoint", &mountpoint)), "resolved", LONG);
    assert!(agent.stop().unwrap().success());
}

fn disk_free(agent: &Agent, mountpoint: &str) -> f64 {
    agent.scrape().unwrap().sum("node_filesystem_avail_bytes", &[("mountpoint", mountpoint)])
}

#[test]
fn records_that_are_lost_are_told_and_over_when_none_is_any_more() {
    need_bpf!();
    need_postgres!();
    let stage = Stage::new("");
    let postgres = Postgres::start().unwrap();
    let agent = stage.agent_with("[kernel]\nring = \"64KiB\"\nring_interval = \"1s\"\n");
    let mut session = Session::open(&postgres, "postgres").unwrap();
    // Texts that were never seen, several times as many as the ring holds, for as long as it takes until somebody is told.
    let begins = std::time::Instant::now();
    let told = |status: &str| {
        let is_it = |alert: &serde_json::Value| {
            alert["labels"]["alertname"] == "records_lost"
                && alert["labels"]["map"] == "records"
                && alert["status"] == status
        };
        stage.sink.posts().iter().any(|(_, post)| post["alerts"].as_array().is_some_and(|all| all.iter().any(is_it)))
    };
    for statement in 0.. {
        if told("firing") {
            break;
        }
        assert!(begins.elapsed() < LONG, "{:#?}", agent.get_json("/api/v1/alerts"));
        let mut text = String::from("select 1");
        while text.len() < 3_900 {
            let _ = write!(text, ", 1 as statement_{statement}");
        }
        session.query(&text).unwrap();
    }
    let alert = stage.told_of("records_lost", Some(("map", "records")), "firing", TOLD);
    assert!(alert["annotations"]["summary"].as_str().unwrap().contains("records: ring_full"), "{alert:#}");
    stage.told_of("records_lost", Some(("map", "records")), "resolved", LONG);
    assert!(agent.stop().unwrap().success());
}
