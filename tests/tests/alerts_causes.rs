//! Shipped rules, each fired by its real cause on this host and over with it: memory, CPU, connections, a disk that fills, records
//! that are lost. The times of rules are short; of memory the threshold is where this host is now, and a little more.

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
    postgres::Postgres,
    process::{Process, command},
    programs::{HOLD_RESOURCES, Program},
    skipped,
    stage::{Stage, TOLD},
};

const LONG: Duration = Duration::from_secs(120);

#[test]
fn memory_that_is_taken_is_told_and_over_when_it_is_given_back() {
    need_bpf!();
    need_program!("gcc");
    let metrics = Agent::start(&Options::default()).unwrap().scrape().unwrap();
    let total = metrics.sum("node_memory_MemTotal_bytes", &[]);
    let used = 1.0 - metrics.sum("node_memory_MemAvailable_bytes", &[]) / total;
    if used > 0.8 {
        skipped!("{:.0} % of the memory are used already", used * 100.0);
    }
    // A twelfth of all memory is taken; others on this host may take or give back a fiftieth meanwhile.
    let high = format!("above = {:.3}\nclear = {:.3}", used + 0.05, used + 0.03);
    let stage = Stage::with("", &[("above = 0.8\nclear = 0.75", high.as_str()), ("for = \"20s\"", "for = \"3s\"")]);
    let agent = stage.agent();
    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let mut holder = program.start(&["1", &format!("{}", (total as u64 / 12) >> 20)]).unwrap();
    holder.wait_for_line("ready", TOLD, |line| (line == "ready").then_some(())).unwrap();
    let alert = stage.told_of("memory_high", None, "firing", TOLD);
    assert!(alert["annotations"]["summary"].as_str().unwrap().starts_with("memory of "), "{alert:#}");
    assert!(alert["annotations"]["step"].as_str().unwrap().contains("steth explain"), "{alert:#}");
    holder.signal("KILL").unwrap();
    drop(holder.wait(TOLD));
    stage.told_of("memory_high", None, "resolved", TOLD);
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
