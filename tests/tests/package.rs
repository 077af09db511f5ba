//! The packages on a clean Debian 12: installed, asked, upgraded, removed, purged; by hand, and under systemd as the manual has it.
//! `cargo xtask package --test` makes them and the Debian, and says where they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use steth_tests::{
    confined::{MOST_EXPOSED, exposure},
    machine::Machine,
    need_bpf, need_program, need_root, skipped, wait,
};

const MANUAL: &str = include_str!("../../docs/operations.md");
/// What an operator reads, and where each of these finds the others.
const MANUALS: [&str; 6] =
    ["README.md", "SECURITY.md", "docs/operations.md", "docs/tour.md", "docs/tour-top.svg", "docs/configuration.md"];
/// What the next .rpm says of itself.
const NEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "-2");
/// What systemd does by itself, on a busy machine.
const SOON: Duration = Duration::from_secs(90);

/// What `cargo xtask package --test` says, or why the test is skipped.
macro_rules! given {
    ($name:expr) => {
        match std::env::var_os($name) {
            Some(path) => PathBuf::from(path),
            None => skipped!("needs {}: run `cargo xtask package --test`", $name),
        }
    };
}

/// Every file that is there, but for what tools keep about themselves.
fn files(machine: &Machine) -> BTreeSet<String> {
    let found = machine
        .run("find / -xdev -not -path '/var/lib/dpkg/*' -not -path '/var/cache/*' -not -path '/var/log/*' -print");
    found.unwrap().lines().map(str::to_owned).collect()
}

fn put(machine: &Machine, deb: &PathBuf, at: &str) {
    let to = machine.path(at);
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(deb, to).unwrap();
}

#[test]
fn it_is_installed_upgraded_with_kept_settings_removed_and_purged_without_a_trace() {
    need_root!();
    let (root, deb, next) = (given!("STETH_CLEAN_ROOT"), given!("STETH_DEB"), given!("STETH_NEXT_DEB"));
    let machine = Machine::copy(&root).unwrap();
    put(&machine, &deb, "/steth.deb");
    put(&machine, &next, "/next.deb");
    let before = files(&machine);
    let run = |command: &str| machine.run(command).unwrap();
    run("dpkg --install /steth.deb");
    assert_eq!(run("steth --version"), format!("steth {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(run("steth config check /etc/steth/steth.toml"), "/etc/steth/steth.toml: valid");
    let doctor = run("steth doctor");
    assert!(doctor.contains("sys_exit") && !doctor.contains("unavailable"), "{doctor}");
    for page in ["steth", "steth-run", "steth-flame", "steth-config-check"] {
        assert!(run(&format!("man --pager=cat {page}")).contains("SYNOPSIS"), "{page}");
    }
    run("bash -n /usr/share/bash-completion/completions/steth");
    let documents =
        ["copyright", "LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md", "steth.cdx.json", "examples/alerts.toml"];
    for file in documents.into_iter().chain(MANUALS) {
        let there = machine.path(&format!("/usr/share/doc/steth/{file}")).exists();
        assert!(there, "no {file} in {}", run("ls /usr/share/doc/steth"));
    }
    assert!(machine.run("test -L /etc/systemd/system/multi-user.target.wants/steth.service").is_ok(), "not enabled");
    run("systemd-analyze verify --man=no steth.service");

    run(
        "echo '# ours' >> /etc/steth/steth.toml && mkdir -p /var/lib/private/steth && touch /var/lib/private/steth/kept",
    );
    // Its configuration is another one, too: ours stays, and its lies beside it.
    run("dpkg --force-confdef --force-confold --install /next.deb");
    assert!(run("dpkg-query --show steth").ends_with("-2"));
    assert!(run("tail -n 1 /etc/steth/steth.toml") == "# ours", "an upgrade took our settings away");
    assert_eq!(run("tail -n 1 /etc/steth/steth.toml.dpkg-dist"), "# of the next version");
    run("dpkg --remove steth");
    assert!(machine.run("command -v steth").is_err());
    assert!(machine.path("/etc/steth/steth.toml").exists() && machine.path("/var/lib/private/steth/kept").exists());
    run("dpkg --purge steth");
    let after = files(&machine);
    let (left, lost): (Vec<_>, Vec<_>) = (after.difference(&before).collect(), before.difference(&after).collect());
    assert!(left.is_empty() && lost.is_empty(), "left behind: {left:?}; lost: {lost:?}");
    println!("{} files before and after", before.len());
}

/// The commands of the manual, each on a line of its own.
fn commands() -> Vec<&'static str> {
    let blocks = MANUAL.split("\n```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    blocks.flat_map(str::lines).collect()
}

fn probes(machine: &Machine, address: &str) -> BTreeMap<String, String> {
    let text = machine.run(&format!("curl -sf {address}/api/v1/probes")).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let word = |probe: &serde_json::Value, key: &str| probe[key].as_str().unwrap().to_owned();
    answer["probes"].as_array().unwrap().iter().map(|probe| (word(probe, "name"), word(probe, "state"))).collect()
}

#[test]
fn each_command_of_the_manual_works_under_systemd_and_so_does_what_it_promises() {
    need_bpf!();
    need_program!("unshare", "nsenter");
    let (root, deb, next) = (given!("STETH_CLEAN_ROOT"), given!("STETH_DEB"), given!("STETH_NEXT_DEB"));
    let mut machine = Machine::copy(&root).unwrap();
    put(&machine, &deb, "/steth_1_amd64.deb");
    put(&machine, &next, "/next/steth.deb");
    // As the manual says to those who upgrade unattended: nobody is there to be asked about the other configuration.
    let unattended = "Dpkg::Options { \"--force-confdef\"; \"--force-confold\"; };\n";
    std::fs::write(machine.path("/etc/apt/apt.conf.d/50unattended"), unattended).unwrap();
    machine.boot().unwrap();
    let log = || machine.run("journalctl --unit steth --no-pager").unwrap_or_default();
    let show = |key: &str| machine.run(&format!("systemctl show steth --value --property={key}")).unwrap();
    let (mut ran, mut looked_at) = (0, Vec::new());
    for command in commands() {
        if command.starts_with("setcap") || command.starts_with("getcap") {
            // Part of libcap2-bin, which is not on every machine; tests/tests/service.rs runs it.
            continue;
        }
        let said = machine.run(command).unwrap_or_else(|error| panic!("{error:#}\n{}", log()));
        ran += 1;
        looked_at.push(command);
        match command {
            "systemctl is-active steth" => serves(&machine, &show),
            "systemd-analyze security steth --no-pager" => {
                assert!(exposure(&said).unwrap() <= MOST_EXPOSED, "{said}");
            }
            "systemctl reload steth" => a_wrong_file_is_refused(&machine, &show),
            "systemctl restart steth" if machine.path("/etc/systemd/system/steth.service.d/token.conf").exists() => {
                the_secret_is_there(&machine, &show("MainPID"));
                a_dead_or_hung_agent_is_started_anew(&machine, &show);
            }
            "apt-get remove --yes steth" => {
                assert!(machine.path("/etc/steth/steth.toml").exists(), "configuration went with remove");
                assert!(machine.path("/var/lib/private/steth/profiles").exists(), "state went with remove");
            }
            "apt-get purge --yes steth" => {
                for path in ["/etc/steth", "/var/lib/steth", "/var/lib/private/steth", "/usr/bin/steth"] {
                    assert!(std::fs::symlink_metadata(machine.path(path)).is_err(), "{path} is left");
                }
            }
            _ => {
                drop(said);
                looked_at.pop();
            }
        }
    }
    // Three times it serves: before the upgrade, after it, and after going back.
    let expected = ["is-active", "systemd-analyze", "reload", "restart", "is-active", "is-active", "remove", "purge"];
    let all = looked_at.len() == expected.len() && looked_at.iter().zip(expected).all(|(is, word)| is.contains(word));
    assert!(all, "the manual no longer says what is looked at: {looked_at:?}");
    println!("{ran} commands, and what they promise: {looked_at:?}");
}

/// As the service's user, with every probe that root has.
fn serves(machine: &Machine, show: &dyn Fn(&str) -> String) {
    let pid = show("MainPID");
    let status = machine.run(&format!("cat /proc/{pid}/status")).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t")?.split('\t').next()).unwrap();
    assert!(uid.parse::<u32>().unwrap() >= 61184, "the service runs as {uid}");
    assert!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"), "{status}");
    assert!(show("StatusText").starts_with("serving http://127.0.0.1:9464/metrics"), "{}", show("StatusText"));
    let of_service = probes(machine, "127.0.0.1:9464");
    machine.run("systemd-run --quiet --unit=by-hand --setenv=STETH_RUN_LOCK=/run/by-hand --setenv=STETH_LISTEN=127.0.0.1:9999 steth run").unwrap();
    let ready = || Ok(machine.run("curl -sf 127.0.0.1:9999/-/ready").ok());
    wait::poll("the agent of root", SOON, ready).unwrap();
    assert_eq!(of_service, probes(machine, "127.0.0.1:9999"));
    machine.run("systemctl stop by-hand").unwrap();
    let log = machine.run("journalctl --unit steth --no-pager").unwrap();
    assert!(!log.contains("denied") && !log.contains("not permitted"), "{log}");
    println!("as uid {uid}, {} probes as for root", of_service.len());
}

fn a_wrong_file_is_refused(machine: &Machine, show: &dyn Fn(&str) -> String) {
    machine.run("cp /etc/steth/steth.toml /root/ && echo 'nonsense = 1' >> /etc/steth/steth.toml").unwrap();
    let refused = machine.run("systemctl reload steth");
    assert!(refused.is_err() && show("ActiveState") == "active", "{refused:?}");
    // Nor is it started with that again and again.
    assert!(machine.run("systemctl restart steth").is_err());
    assert_eq!((show("ActiveState").as_str(), show("NRestarts").as_str()), ("failed", "0"));
    machine.run("mv /root/steth.toml /etc/steth/ && systemctl start steth").unwrap();
    let log = machine.run("journalctl --unit steth --no-pager").unwrap();
    assert!(log.contains("nonsense"), "{log}");
}

fn the_secret_is_there(machine: &Machine, pid: &str) {
    let path = format!("/proc/{pid}/root/run/credentials/steth.service/token");
    assert_eq!(machine.run(&format!("cat {path}")).unwrap(), "a secret");
    let shown = machine.run(&format!("cat /proc/{pid}/cmdline /proc/{pid}/environ; journalctl --unit steth")).unwrap();
    assert!(!shown.contains("a secret"), "{shown}");
}

fn a_dead_or_hung_agent_is_started_anew(machine: &Machine, show: &dyn Fn(&str) -> String) {
    let quick =
        "printf '[Service]\\nRestartSec=1s\\nWatchdogSec=3s\\n' > /run/systemd/system/steth.service.d/quick.conf";
    machine
        .run(&format!("mkdir -p /run/systemd/system/steth.service.d && {quick} && systemctl daemon-reload"))
        .unwrap();
    machine.run("systemctl restart steth").unwrap();
    for signal in ["KILL", "STOP"] {
        let pid = show("MainPID");
        machine.run(&format!("kill -s {signal} {pid}")).unwrap();
        let anew = || {
            Ok((show("ActiveState") == "active" && ![pid.as_str(), "0"].contains(&show("MainPID").as_str()))
                .then_some(()))
        };
        wait::poll(&format!("another agent after SIG{signal}"), SOON, anew).unwrap();
    }
    let log = machine.run("journalctl --unit steth --no-pager").unwrap();
    assert!(log.contains("Watchdog timeout"), "{log}");
    machine
        .run("rm -r /run/systemd/system/steth.service.d && systemctl daemon-reload && systemctl restart steth")
        .unwrap();
}

#[test]
fn the_rpm_holds_what_the_deb_holds_and_asks_for_what_it_needs() {
    need_program!("rpm", "dpkg-deb", "sh");
    let (deb, rpm) = (given!("STETH_DEB"), given!("STETH_RPM"));
    let shell = |command: &str| {
        let output = Command::new("sh").args(["-c", command]).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let (deb, rpm) = (deb.display(), rpm.display());
    let of_deb = shell(&format!("dpkg-deb --fsys-tarfile {deb} | tar --list"));
    let of_rpm = shell(&format!("rpm -qpl --nosignature {rpm}"));
    let names = |text: &str| -> BTreeSet<String> {
        let files = text.lines().filter(|line| !line.ends_with('/')).filter_map(|line| line.rsplit('/').next());
        files.map(|name| name.trim_end_matches(".gz").to_owned()).collect()
    };
    let (of_deb, of_rpm) = (names(&of_deb), names(&of_rpm));
    let apart: Vec<_> = of_deb.symmetric_difference(&of_rpm).collect();
    assert!(apart.is_empty(), "only in one of both: {apart:?}");
    assert_eq!(shell(&format!("rpm -qpc --nosignature {rpm}")).trim(), "/etc/steth/steth.toml");
    let needs = shell(&format!("rpm -qpR --nosignature {rpm}"));
    assert!(needs.contains("libc.so.6(GLIBC_"), "{needs}");
    let depends = shell(&format!("dpkg-deb --field {deb} Depends"));
    assert!(depends.contains("libc6 (>= 2."), "{depends}");
    println!("{} files; {}", of_deb.len(), depends.trim());
}

/// In a root that has no packages of this kind, so that what it depends on is not known to be there: a Debian is what there is.
#[test]
fn the_rpm_is_installed_by_rpm_upgraded_and_erased_with_changed_settings_kept() {
    need_root!();
    need_program!("rpm");
    let (root, rpm, next) = (given!("STETH_CLEAN_ROOT"), given!("STETH_RPM"), given!("STETH_NEXT_RPM"));
    let machine = Machine::copy(&root).unwrap();
    let rpm_says = |arguments: &[&str]| {
        let output = Command::new("rpm").arg("--root").arg(machine.path("/")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let before = files(&machine);
    rpm_says(&["--install", "--nodeps", "--nosignature", rpm.to_str().unwrap()]);
    assert_eq!(machine.run("steth --version").unwrap(), format!("steth {}", env!("CARGO_PKG_VERSION")));
    // Nothing differs from what the package says of its files.
    assert_eq!(rpm_says(&["--verify", "--nodeps", "steth"]), "");
    machine.run("echo '# ours' >> /etc/steth/steth.toml").unwrap();
    // The next version's configuration is another one, too: ours stays, and its lies beside it.
    rpm_says(&["--upgrade", "--nodeps", "--nosignature", next.to_str().unwrap()]);
    assert_eq!(rpm_says(&["--query", "--queryformat", "%{VERSION}-%{RELEASE}", "steth"]), NEXT);
    assert_eq!(machine.run("steth --version").unwrap(), format!("steth {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(machine.run("tail -n 1 /etc/steth/steth.toml").unwrap(), "# ours");
    assert_eq!(machine.run("tail -n 1 /etc/steth/steth.toml.rpmnew").unwrap(), "# of the next version");
    // What is still shipped is still there: the old version's last words take nothing of the new one's.
    let differs = rpm_says(&["--query", "--state", "steth"]);
    assert!(differs.lines().all(|line| line.starts_with("normal")), "{differs}");
    for file in MANUALS {
        assert!(machine.path(&format!("/usr/share/doc/steth/{file}")).exists(), "the upgrade took {file} away");
    }
    rpm_says(&["--erase", "steth"]);
    assert!(machine.run("command -v steth").is_err());
    let after = files(&machine);
    let left: Vec<_> = after.difference(&before).filter(|path| path.contains("steth")).collect();
    assert!(left.iter().all(|path| path.starts_with("/etc/steth")), "{left:?}");
    assert_eq!(machine.run("tail -n 1 /etc/steth/steth.toml.rpmsave").unwrap(), "# ours");
}

#[test]
fn the_program_of_the_tarball_runs_where_it_lies() {
    need_program!("tar", "sh");
    let tarball = given!("STETH_TARBALL");
    let folder = tempfile::tempdir().unwrap();
    let status =
        Command::new("tar").arg("--extract").arg("--file").arg(&tarball).arg("--directory").arg(folder.path()).status();
    assert!(status.unwrap().success());
    let top = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let checked =
        Command::new(top.join("steth")).args(["config", "check"]).arg(top.join("steth.toml")).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    for file in [
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "copyright",
        "man/steth.1",
        "completions/_steth",
        "steth.service",
        "steth.cdx.json",
        "grafana/steth.json",
        "prometheus/steth.rules.yml",
        "alerts.toml",
        "CHANGELOG.md",
    ]
    .into_iter()
    .chain(MANUALS)
    {
        assert!(top.join(file).exists(), "no {file}");
    }
}
