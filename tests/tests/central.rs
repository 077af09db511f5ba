//! What is sent to a central endpoint: a real Prometheus, and a receiver of OpenTelemetry's own package.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use steth_tests::{
    agent::{Agent, Options, steth},
    exposition::Exposition,
    need_bpf, need_postgres, need_program,
    observed::Observed,
    process::{self, Process},
    prometheus::Prometheus,
    receiver::{Certificates, Receiver},
    wait,
};

const ARRIVES: Duration = Duration::from_secs(60);

/// An agent that sends a window each second.
fn agent(folder: &Path, endpoint: &str, protocol: &str, windows: &str) -> Agent {
    let sections = format!(
        "{windows}[send]\nfolder = \"{}\"\n[send.to.central]\nprotocol = \"{protocol}\"\nevery = \"1s\"\n\
         longest_pause = \"500ms\"\nendpoint = {{ {endpoint} }}\n",
        folder.display()
    );
    Agent::start(&Options { sections, ..Options::default() }).unwrap()
}

/// Scrapes by the time that they are of, as the host's clock had it then.
fn scrapes(agent: &Agent, for_: Duration) -> Vec<Exposition> {
    let late = Instant::now() + for_;
    let mut scrapes = Vec::new();
    while Instant::now() < late {
        scrapes.push(agent.scrape().unwrap());
        std::thread::sleep(Duration::from_millis(200));
    }
    scrapes
}

/// Windows that last long enough for a scrape and what is sent to be of the same.
const LONG_WINDOWS: &str = "[window]\nlive = \"1s\"\nkept = \"1s\"\n";

fn figure(agent: &Agent, name: &str) -> f64 {
    agent.scrape().unwrap().sum(name, &[("destination", "central")])
}

type Key = (String, BTreeMap<String, String>);

#[test]
fn what_prometheus_gets_is_what_a_scrape_shows() {
    need_bpf!();
    need_program!("prometheus");
    let (folder, prometheus) = (tempfile::tempdir().unwrap(), Prometheus::receiver().unwrap());
    let agent = agent(folder.path(), &format!("url = \"{}\"", prometheus.write_url()), "remote-write", LONG_WINDOWS);
    let scrapes = scrapes(&agent, Duration::from_secs(8));
    let sent =
        wait::poll(
            "all arrives",
            ARRIVES,
            || Ok(Some(()).filter(|()| figure(&agent, "steth_send_spool_bytes") == 0.0)),
        );
    sent.unwrap();
    let mut at: BTreeMap<u64, BTreeMap<Key, f64>> = BTreeMap::new();
    for (mut series, samples) in prometheus.history("{job=\"steth\"}[5m]").unwrap() {
        assert_eq!(series.labels.remove("job").as_deref(), Some("steth"));
        assert!(series.labels.remove("instance").is_some());
        for (at_ms, value) in samples {
            let key = (series.name.clone(), series.labels.clone());
            assert_eq!(at.entry(at_ms).or_default().insert(key, value), None, "{series:?}");
        }
    }
    let mut compared = 0;
    for scrape in &scrapes {
        let clock = scrape.sum("node_time_seconds", &[]);
        let key = ("node_time_seconds".to_owned(), BTreeMap::new());
        let Some(arrived) = at.values().find(|samples| samples.get(&key) == Some(&clock)) else { continue };
        let scraped: BTreeMap<Key, f64> = scrape
            .samples
            .iter()
            // Counted by each exposition for itself.
            .filter(|sample| sample.name != "steth_duplicate_series_total")
            .map(|sample| {
                // An empty label is none.
                let labels = sample.labels.iter().filter(|(_, value)| !value.is_empty());
                let labels = labels.map(|(name, value)| (name.clone(), value.clone())).collect();
                ((sample.name.clone(), labels), sample.value)
            })
            .collect();
        let missing: Vec<_> = scraped.iter().filter(|(key, value)| arrived.get(key) != Some(value)).take(5).collect();
        assert!(missing.is_empty(), "scraped, and not arrived: {missing:?}");
        // Ended series have no number; beyond them nothing arrives that is not scraped.
        assert_eq!(arrived.values().filter(|value| !value.is_nan()).count(), scraped.len());
        compared += 1;
    }
    assert!(compared >= 3, "{compared} of {} scrapes were of a window that was sent", scrapes.len());
    let (samples, bytes) = (figure(&agent, "steth_send_samples_total"), figure(&agent, "steth_send_bytes_total"));
    eprintln!("remote write: {:.1} bytes a sample, {samples} samples", bytes / samples);
    assert_eq!(figure(&agent, "steth_send_dropped_total"), 0.0);
}

#[test]
fn a_receiver_that_hangs_holds_up_no_window() {
    need_bpf!();
    need_postgres!();
    let observed = Observed::start().unwrap();
    let (folder, silent) = (tempfile::tempdir().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let url = format!("url = \"http://{}/\", timeout = \"4s\"", silent.local_addr().unwrap());
    let agent = agent(folder.path(), &url, "remote-write", LONG_WINDOWS);
    let begun = Instant::now();
    let clocks: Vec<f64> =
        scrapes(&agent, Duration::from_secs(10)).iter().map(|one| one.sum("node_time_seconds", &[])).collect();
    assert!(begun.elapsed() < Duration::from_secs(13), "{:?}", begun.elapsed());
    // Whoever waited for the receiver would wait for its four seconds.
    assert!(clocks.windows(2).all(|pair| pair[1] - pair[0] < 3.0), "{clocks:?}");
    let scrape = agent.scrape().unwrap();
    assert!(scrape.sum("steth_send_failed_total", &[("reason", "timeout")]) >= 1.0);
    assert!(scrape.sum("steth_send_spool_bytes", &[]) > 0.0);
    assert!(agent.log().contains("send.to.central: http://127.0.0.1:"), "{}", agent.log());
    let begun = Instant::now();
    assert!(agent.stop().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    observed.end().unwrap();
}

#[test]
fn a_full_disk_is_told_once_and_the_newest_wait_in_memory() {
    need_bpf!();
    let disk = SmallDisk::mount().unwrap();
    let agent = agent(&disk.0.path().join("spool"), "url = \"http://127.0.0.1:1/\"", "remote-write", "");
    wait::poll("more waits than the disk holds", ARRIVES, || {
        Ok(Some(()).filter(|()| figure(&agent, "steth_send_spool_bytes") > f64::from(192 << 10)))
    })
    .unwrap();
    assert_eq!(figure(&agent, "steth_send_dropped_total"), 0.0, "{}", agent.log());
    assert!(agent.log().contains("cannot write: No space left on device"), "{}", agent.log());
    assert_eq!(agent.log().matches("No space left").count(), 1, "{}", agent.log());
    // Before the disk is taken from under it.
    drop(agent);
}

/// A file system of 128 KiB; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut mount = process::command("mount", None);
        mount.args(["-t", "tmpfs", "-o", "size=128k", "none"]).arg(folder.path());
        Process::start("mount", mount)?.finish(Duration::from_secs(10))?;
        Ok(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut umount = process::command("umount", None);
        umount.arg("--lazy").arg(self.0.path());
        let _ = Process::start("umount", umount).and_then(|umount| umount.finish(Duration::from_secs(10)));
    }
}

#[test]
fn an_otlp_receiver_gets_the_figures_under_the_names_of_the_conventions() {
    need_bpf!();
    need_program!("python3");
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start(&["--first-answers", "503,429"]).unwrap());
    let url = format!("url = \"http://127.0.0.1:{}/v1/metrics\"", receiver.port);
    let agent = agent(folder.path(), &url, "otlp", LONG_WINDOWS);
    let scrapes = scrapes(&agent, Duration::from_secs(6));
    wait::poll("all arrives", ARRIVES, || Ok(Some(()).filter(|()| figure(&agent, "steth_send_spool_bytes") == 0.0)))
        .unwrap();
    let points = receiver.points().unwrap();
    let named = |name: &str| points.iter().filter(|point| point["name"] == name).collect::<Vec<_>>();
    let mut compared = 0;
    for scrape in &scrapes {
        let clock = scrape.sum("node_time_seconds", &[]);
        let Some(time) = named("node_time_seconds").iter().find(|point| point["value"] == clock).map(|it| &it["time"])
        else {
            continue;
        };
        compared += 1;
        let of = |name: &str| named(name).into_iter().filter(|point| point["time"] == *time).collect::<Vec<_>>();
        let cpu = of("system.cpu.time");
        let scraped = scrape.matching("node_cpu_seconds_total", &[]).collect::<Vec<_>>();
        assert_eq!(cpu.len(), scraped.len());
        for sample in scraped {
            let found = cpu.iter().find(|point| {
                point["attributes"]["cpu.logical_number"] == sample.labels["cpu"].as_str()
                    && point["attributes"]["cpu.mode"] == sample.labels["mode"].as_str()
            });
            assert_eq!(found.unwrap()["value"], sample.value, "{sample:?}");
        }
        assert!(cpu[0]["unit"] == "s" && cpu[0]["kind"] == "sum", "{}", cpu[0]);
        let resident = scrape.matching("namedprocess_namegroup_memory_bytes", &[("memtype", "resident")]);
        for sample in resident {
            let found = of("process.memory.usage")
                .into_iter()
                .find(|point| point["resource"]["service.name"] == sample.labels["groupname"].as_str());
            assert_eq!(found.unwrap()["value"], sample.value, "{sample:?}");
        }
        let counts: f64 = of("steth_syscall_duration_seconds").iter().filter_map(|point| point["count"].as_f64()).sum();
        assert_eq!(counts, scrape.sum("steth_syscall_duration_seconds_count", &[]));
    }
    assert!(compared >= 2, "{compared} of {} scrapes were of a window that was sent", scrapes.len());
    let failed = |reason| agent.scrape().unwrap().sum("steth_send_failed_total", &[("reason", reason)]);
    assert_eq!((failed("server_error"), failed("throttled")), (1.0, 1.0));
    let (samples, bytes) = (figure(&agent, "steth_send_samples_total"), figure(&agent, "steth_send_bytes_total"));
    eprintln!("OTLP: {:.1} bytes a data point, {samples} points", bytes / samples);
}

#[test]
fn both_sides_prove_who_they_are() {
    need_bpf!();
    need_program!("python3", "openssl");
    let (folder, certificates) = (tempfile::tempdir().unwrap(), Certificates::make().unwrap());
    let path = |name: &str| certificates.path(name).display().to_string();
    let tls = ["--tls", &path("own.pem"), &path("own.key"), &path("ca.pem")];
    let receiver = Receiver::start(&[&tls[..], &["--token", "the-token"]].concat()).unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "the-token\n").unwrap();
    let url = format!("url = \"https://localhost:{}/v1/metrics\"", receiver.port);
    let proof = format!("bearer_token_file = \"{}\"", token.display());
    let own = format!("certificate = {{ file = \"{}\", key_file = \"{}\" }}", path("own.pem"), path("own.key"));
    let trusted = format!("ca_file = \"{}\"", path("ca.pem"));
    let start = |endpoint: &[&str], name: &str| agent(&folder.path().join(name), &endpoint.join(", "), "otlp", "");
    let failed = |agent: &Agent, reason: &str| {
        wait::poll(reason, ARRIVES, || {
            let count = agent.scrape()?.sum("steth_send_failed_total", &[("reason", reason)]);
            Ok(Some(()).filter(|()| count > 0.0))
        })
        .unwrap();
        assert!(!agent.log().contains("the-token"), "{}", agent.log());
    };
    // A server that nobody knows; a client without a certificate; one without the token.
    failed(&start(&[&url, &proof, &own], "1"), "tls");
    failed(&start(&[&url, &proof, &trusted], "2"), "tls");
    failed(&start(&[&url, &own, &trusted], "3"), "refused");
    assert_eq!(receiver.points().unwrap().len(), 0);
    let agent = start(&[&url, &proof, &own, &trusted], "4");
    wait::poll("data points", ARRIVES, || Ok(Some(()).filter(|()| !receiver.points().unwrap().is_empty()))).unwrap();
    assert_eq!(figure(&agent, "steth_send_failed_total"), 0.0, "{}", agent.log());
}

#[test]
fn a_wrong_destination_is_told_by_config_check() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("steth.toml");
    std::fs::write(&file, "[send.to.central]\nprotocol = \"otlp\"\nendpoint.url = \"central\"\n").unwrap();
    let (code, said, _) = steth(&["config", "check", file.to_str().unwrap()]).unwrap();
    assert_eq!(code, Some(2));
    assert!(said.starts_with(&format!("{}:3: send.to: central: a url begins with http", file.display())), "{said}");
}
