//! A host of its own that booted with systemd: the package from its installation to its purge, with a database that is watched.
//! `cargo xtask vm-test` boots one for each kernel; `package.rs` goes through the manual's commands in a container.

use std::{
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use steth_tests::{
    confined::{MOST_EXPOSED, exposure},
    exposition::Exposition,
    http, need_postgres, need_program,
    pgbench::{Endpoint, Mode, Pgbench},
    postgres::Postgres,
    skipped, wait,
};

const AGENT: &str = "127.0.0.1:9464";
/// Some windows, on a busy machine.
const SOON: Duration = Duration::from_secs(30);
/// An emulated machine takes minutes to load what others load in a second; nothing but the unit's times is changed.
const SLOW: &str = "[Service]\nTimeoutStartSec=15min\nWatchdogSec=10min\n";
const QUERIES: &str = "steth_postgres_query_duration_seconds_count";

/// What a command says; it must not fail.
fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).env("DEBIAN_FRONTEND", "noninteractive").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{command}: {said}\n{}\n{}", String::from_utf8_lossy(&output.stderr), log());
    said
}

fn log() -> String {
    let output = Command::new("journalctl").args(["--unit", "steth", "--no-pager", "--lines", "60"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

fn show(key: &str) -> String {
    sh(&format!("systemctl show steth --value --property={key}"))
}

/// Every query of a run is counted once, at both ends.
fn counts(postgres: &Postgres) {
    let database = postgres.create_database().unwrap();
    let bench =
        Pgbench { mode: Mode::Prepared, endpoint: Endpoint::Tcp, script: "select 1;", clients: 2, transactions: 250 };
    let run = bench.run(postgres, &database).unwrap();
    for role in ["server", "client"] {
        let mut counted = 0.0;
        let all = wait::poll(&format!("all queries of the {role}"), SOON, || {
            let text = http::get(&format!("http://{AGENT}/metrics"))?.body;
            counted = Exposition::parse(&text)?.sum(QUERIES, &[("role", role), ("database", &database)]);
            Ok((counted >= run.transactions as f64).then_some(()))
        });
        all.unwrap_or_else(|error| panic!("{error}: {counted} of {}\n{}", run.transactions, log()));
        assert_eq!(counted, run.transactions as f64, "{role}");
    }
    println!("{} queries of pgbench counted at both ends", run.transactions);
}

/// The functions of a server that works are in a flame graph of the whole host.
fn draws(postgres: &Postgres) {
    let (ended, database) = (AtomicBool::new(false), postgres.create_database().unwrap());
    let picture = std::thread::scope(|scope| {
        scope.spawn(|| {
            let script = "select count(*) from generate_series(1, 20000);";
            while !ended.load(Ordering::Relaxed) {
                let bench =
                    Pgbench { mode: Mode::Simple, endpoint: Endpoint::Unix, script, clients: 1, transactions: 10 };
                bench.run(postgres, &database).unwrap();
            }
        });
        let drawn = Command::new("steth")
            .args(["flame", "--agent", AGENT, "--all", "-d", "10s", "-o", "/tmp/flame.svg"])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .output();
        ended.store(true, Ordering::Relaxed);
        let drawn = drawn.unwrap();
        assert!(drawn.status.success(), "{}\n{}", String::from_utf8_lossy(&drawn.stderr), log());
        std::fs::read_to_string("/tmp/flame.svg").unwrap()
    });
    assert!(picture.contains("<svg"), "{}", picture.chars().take(300).collect::<String>());
    // The first is in every backend, the second runs this query; both are exported by Debian's server.
    for function in ["PostgresMain", "ExecutorRun"] {
        assert!(picture.contains(function), "no {function} in {} bytes", picture.len());
    }
    println!("a flame graph of {} bytes with the server's functions", picture.len());
}

/// As a user of its own, nothing denied, never restarted, each probe there that this kernel has hooks for.
fn runs_confined() -> String {
    assert_eq!((show("ActiveState").as_str(), show("NRestarts").as_str()), ("active", "0"), "{}", log());
    let pid = show("MainPID");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').next()).unwrap();
    assert!(uid.parse::<u32>().unwrap() >= 61184, "the service runs as {uid}");
    assert!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"), "{status}");
    let answer: serde_json::Value =
        serde_json::from_str(&http::get(&format!("http://{AGENT}/api/v1/probes")).unwrap().body).unwrap();
    let probes = answer["probes"].as_array().unwrap();
    let runs = probes.iter().filter(|probe| ["attached", "ready"].contains(&probe["state"].as_str().unwrap()));
    let runs = runs.count();
    // sk_data_ready came with Linux 6.3, and OpenSSL's three have nothing to be attached to before a program uses it.
    assert!(runs + 4 >= probes.len(), "{answer:#}");
    let log = sh("journalctl --unit steth --no-pager");
    assert!(!log.contains("denied") && !log.contains("not permitted"), "{log}");
    let analysed = sh("systemd-analyze security steth.service --no-pager");
    let exposed = exposure(&analysed).unwrap();
    assert!(exposed <= MOST_EXPOSED, "{analysed}");
    println!("{runs} of {} probes as user {uid}, exposed {exposed} of 10", probes.len());
    pid
}

#[test]
fn a_booted_host_is_served_from_installation_to_purge() {
    if std::env::var_os("STETH_INSTALL_HERE").is_none() {
        skipped!("needs a host of its own to install on: run `cargo xtask vm-test --only installed`");
    }
    need_postgres!();
    need_program!("systemctl", "systemd-analyze", "dpkg", "journalctl");
    let [deb, next] = ["STETH_DEB", "STETH_NEXT_DEB"].map(|key| std::env::var(key).unwrap());
    std::fs::create_dir_all("/etc/systemd/system/steth.service.d").unwrap();
    std::fs::write("/etc/systemd/system/steth.service.d/slow.conf", SLOW).unwrap();
    sh(&format!("dpkg --install {deb}"));
    let first = runs_confined();
    let postgres = Postgres::start().unwrap();
    counts(&postgres);
    draws(&postgres);

    sh("echo '# ours' >> /etc/steth/steth.toml");
    sh(&format!("dpkg --force-confdef --force-confold --install {next}"));
    assert!(sh("dpkg-query --show steth").ends_with("-2"));
    assert_eq!(sh("tail -n 1 /etc/steth/steth.toml"), "# ours");
    assert_ne!(runs_confined(), first, "the old agent still runs");
    counts(&postgres);

    sh("dpkg --remove steth");
    assert!(http::get(&format!("http://{AGENT}/metrics")).is_err(), "an agent that is removed still answers");
    assert!(!Path::new("/usr/bin/steth").exists() && Path::new("/etc/steth/steth.toml").exists());
    assert!(Path::new("/var/lib/private/steth").exists(), "state went with remove");
    sh("dpkg --purge steth");
    for path in ["/etc/steth", "/var/lib/steth", "/var/lib/private/steth", "/var/cache/steth"] {
        assert!(std::fs::symlink_metadata(path).is_err(), "{path} is left");
    }
    println!("on Linux {}", sh("uname -r"));
}
