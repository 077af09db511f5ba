//! Central endpoints that are away for a while, and an agent that is killed meanwhile: what arrives at a real Prometheus and at a
//! receiver of OpenTelemetry's own package is what was sent, in order, once.

use std::{
    cell::Cell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options},
    exposition::Exposition,
    http, need_bpf, need_program,
    network::free_port,
    prometheus::Prometheus,
    receiver::Receiver,
    wait,
};

const ARRIVES: Duration = Duration::from_secs(120);
/// How far apart the windows are that are sent; between two there is time to look what became of the last.
const EVERY: Duration = Duration::from_secs(3);
/// The least that a spool may hold.
const SMALL_SPOOL: &str = "1MiB";
const SMALL_SPOOL_BYTES: u64 = 1 << 20;
/// What is compared with each window at the receiver of OTLP.
const ONLY: &str = "node_time_seconds,node_context_switches_total";

fn agent(folder: &Path, write: &str, otlp: u16) -> Agent {
    let to = |name: &str, protocol: &str, url: &str| {
        format!(
            "[send.to.{name}]\nprotocol = \"{protocol}\"\nevery = \"{}s\"\nlongest_pause = \"500ms\"\nendpoint = {{ url = \"{url}\" }}\n",
            EVERY.as_secs()
        )
    };
    // It looks at /proc alone: what is sent of it is told as all else is, and others on this host do not make it much.
    let off = ["syscalls", "tcp", "sockets", "postgres", "tls", "wall"].map(|probe| format!("{probe} = false\n"));
    let sections = format!(
        "[window]\nlive = \"1s\"\nkept = \"1s\"\n[probes]\n{}[send]\nfolder = \"{}\"\n{}{}",
        off.concat(),
        folder.display(),
        to("write", "remote-write", write),
        to("otlp", "otlp", &format!("http://127.0.0.1:{otlp}/v1/metrics"))
    );
    Agent::start(&Options { sections, ..Options::default() }).unwrap()
}

/// A host that is kept busy by other tests may have an answer only at the second try.
fn scrape(agent: &Agent) -> Exposition {
    wait::poll("a scrape", ARRIVES, || Ok(agent.scrape().ok())).unwrap()
}

fn figure(agent: &Agent, name: &str, destination: &str) -> f64 {
    scrape(agent).sum(name, &[("destination", destination)])
}

/// Scrapes the agent for so long.
fn watch(agent: &Agent, length: Duration, scrapes: &mut Vec<Exposition>) {
    let began = Instant::now();
    while began.elapsed() < length {
        scrapes.push(scrape(agent));
        // Not in step with the windows that are sent, so that some are met.
        std::thread::sleep((EVERY * 10 / 9).min(length.saturating_sub(began.elapsed())));
    }
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn points_of(points: &[Value], name: &str) -> Vec<(u64, f64)> {
    let of_name = points.iter().filter(|point| point["name"] == name);
    of_name.map(|point| (point["time"].as_u64().unwrap() / 1_000_000, point["value"].as_f64().unwrap())).collect()
}

/// Windows follow each other, but for the time between two agents, and none comes again, but for one that was taken without a word
/// as the receiver went away. An agent on a host that is kept busy leaves some out.
fn assert_in_order(what: &str, times_ms: &[u64]) {
    let gaps: Vec<i64> = times_ms.windows(2).map(|pair| pair[1].cast_signed() - pair[0].cast_signed()).collect();
    assert!(gaps.iter().all(|gap| *gap >= 0), "{what}: out of order: {gaps:?}");
    assert!(gaps.iter().filter(|gap| **gap == 0).count() <= 1, "{what}: sent again: {gaps:?}");
    eprintln!("{what}: the longest time between two windows is {} ms", gaps.iter().max().unwrap());
    let longest = i64::try_from(EVERY.as_millis()).unwrap() * 4;
    assert!(gaps.iter().filter(|gap| **gap > longest).count() <= 1, "{what}: missing: {gaps:?}");
}

/// Waits until Prometheus has taken as many samples since it started as the agent has sent.
fn assert_counted(prometheus: &Prometheus, agent: &Agent) {
    let url = format!("http://127.0.0.1:{}/metrics", prometheus.port);
    let counts = Cell::default();
    let same = wait::poll("samples that are counted at both ends", ARRIVES, || {
        let taken = Exposition::parse(&http::get(&url)?.body)?.sum("prometheus_tsdb_head_samples_appended_total", &[]);
        counts.set((taken, figure(agent, "steth_send_samples_total", "write")));
        Ok((counts.get().0 == counts.get().1).then_some(()))
    });
    eprintln!("samples by remote write, arrived and sent: {:?}", counts.get());
    same.unwrap();
}

fn outage(length: Duration) {
    let (folder, mut prometheus) = (tempfile::tempdir().unwrap(), Prometheus::receiver().unwrap());
    let port = free_port().unwrap();
    let receiver = || Receiver::start(&["--port", &port.to_string(), "--only", ONLY]).unwrap();
    let before = receiver();
    let url = prometheus.write_url();
    let first = agent(folder.path(), &url, port);
    let mut scrapes = Vec::new();
    wait::poll("three windows arrive", ARRIVES, || {
        let there = prometheus.history("node_time_seconds[10m]")?.pop().is_some_and(|(_, all)| all.len() >= 3);
        Ok((there && points_of(&before.points()?, "node_time_seconds").len() >= 3).then_some(()))
    })
    .unwrap();
    watch(&first, EVERY * 2, &mut scrapes);
    assert_counted(&prometheus, &first);

    let (mut second, mut after, mut sent_before, mut of_before) = (None, None, 0.0, (Vec::new(), 0));
    let began = Instant::now();
    prometheus
        .outage(|| {
            // Right after a request: the next one is a window away.
            let counted = before.point_count()?;
            wait::poll("another request", ARRIVES, || Ok((before.point_count()? != counted).then_some(())))?;
            of_before = (before.points()?, before.point_count()?);
            drop(before);
            watch(&first, length / 2, &mut scrapes);
            for destination in ["write", "otlp"] {
                let oldest = figure(&first, "steth_send_oldest_seconds", destination);
                assert!(oldest > length.as_secs_f64() / 2.0 - 10.0, "{destination}: {oldest}");
                assert_eq!(figure(&first, "steth_send_dropped_total", destination), 0.0, "{}", first.log());
            }
            sent_before = figure(&first, "steth_send_samples_total", "otlp");
            // Killed, without a word.
            drop(first);
            let agent = agent(folder.path(), &url, port);
            watch(&agent, length.saturating_sub(began.elapsed()), &mut scrapes);
            for destination in ["write", "otlp"] {
                let bytes = figure(&agent, "steth_send_spool_bytes", destination);
                eprintln!("{destination}: {:.0} KiB wait after {:.0} s", bytes / 1024.0, began.elapsed().as_secs_f64());
            }
            second = Some(agent);
            after = Some(receiver());
            Ok(())
        })
        .unwrap();
    let (second, after, back) = (second.unwrap(), after.unwrap(), Instant::now());
    for destination in ["write", "otlp"] {
        wait::poll("all that waited arrives", ARRIVES, || {
            Ok(Some(()).filter(|()| figure(&second, "steth_send_spool_bytes", destination) == 0.0))
        })
        .unwrap();
        eprintln!("{destination}: nothing waits {:.1} s after", back.elapsed().as_secs_f64());
        assert_eq!(figure(&second, "steth_send_dropped_total", destination), 0.0, "{}", second.log());
        let failed = second
            .scrape()
            .unwrap()
            .sum("steth_send_failed_total", &[("destination", destination), ("reason", "refused")]);
        assert_eq!(failed, 0.0, "{}", second.log());
    }
    // All samples and points that were taken, by both sides' counts.
    assert_counted(&prometheus, &second);
    let counts = Cell::default();
    let arrived = wait::poll("points that are counted at both ends", ARRIVES, || {
        let (before, since) = (of_before.1, after.point_count()?);
        counts.set([before as f64, since as f64, sent_before, figure(&second, "steth_send_samples_total", "otlp")]);
        let [taken_before, taken, sent_before, sent] = counts.get();
        Ok((taken_before + taken == sent_before + sent).then_some(before + since))
    });
    eprintln!("points of OTLP, arrived and sent, by the first and the second of each: {:?}", counts.get());
    let points: Vec<Value> = of_before.0.into_iter().chain(after.points().unwrap()).collect();

    let minutes = 5 + length.as_secs() / 60;
    let (_, windows) = prometheus.history(&format!("node_time_seconds[{minutes}m]")).unwrap().pop().unwrap();
    assert_in_order("remote write", &windows.iter().map(|(at_ms, _)| *at_ms).collect::<Vec<_>>());
    let times = points_of(&points, "node_time_seconds");
    assert_in_order("OTLP", &times.iter().map(|(at_ms, _)| *at_ms).collect::<Vec<_>>());
    let arrived = arrived.unwrap();
    eprintln!(
        "{} windows by remote write, {} by OTLP, of {arrived} points; {} scrapes",
        windows.len(),
        times.len(),
        scrapes.len()
    );
    let least = usize::try_from(length.as_secs() / EVERY.as_secs()).unwrap() * 8 / 10;
    assert!(windows.len() >= least && times.len() >= least, "{} and {} of {least}", windows.len(), times.len());

    let switches: BTreeMap<u64, f64> = points_of(&points, "node_context_switches_total").into_iter().collect();
    let (mut by_write, mut by_otlp) = (0, 0);
    for scrape in &scrapes {
        let clock = scrape.sum("node_time_seconds", &[]);
        if let Some((at_ms, _)) = times.iter().find(|(_, value)| *value == clock) {
            assert_eq!(switches[at_ms], scrape.sum("node_context_switches_total", &[]));
            by_otlp += 1;
        }
        if let Some((at_ms, _)) = windows.iter().find(|(_, value)| *value == clock) {
            assert_same(&prometheus, *at_ms, scrape);
            by_write += 1;
        }
    }
    eprintln!(
        "{by_write} windows at Prometheus and {by_otlp} at the receiver of OTLP were scraped, too, and are the same"
    );
    assert!(by_write >= 3 && by_otlp >= 3, "{by_write} and {by_otlp} of {} scrapes", scrapes.len());
}

/// All that was scraped of a window is at Prometheus, and nothing else.
fn assert_same(prometheus: &Prometheus, at_ms: u64, scrape: &Exposition) {
    let at = format!("{{job=\"steth\"}}[900ms] @ {}.{:03}", at_ms / 1_000, at_ms % 1_000);
    let mut arrived = BTreeMap::new();
    for (mut series, samples) in prometheus.history(&at).unwrap() {
        series.labels.retain(|name, _| !["job", "instance"].contains(&name.as_str()));
        for (_, value) in samples.into_iter().filter(|(time, value)| *time == at_ms && !value.is_nan()) {
            arrived.insert((series.name.clone(), series.labels.clone()), value);
        }
    }
    let mut scraped = 0;
    // Counted by each exposition for itself.
    for sample in scrape.samples.iter().filter(|sample| sample.name != "steth_duplicate_series_total") {
        let labels = sample.labels.iter().filter(|(_, value)| !value.is_empty());
        let labels: BTreeMap<String, String> = labels.map(|(name, value)| (name.clone(), value.clone())).collect();
        assert_eq!(arrived.get(&(sample.name.clone(), labels)), Some(&sample.value), "{sample:?}");
        scraped += 1;
    }
    assert_eq!(arrived.len(), scraped);
}

/// The segment files of a spool, the oldest first, with their sizes.
fn segments(folder: &Path) -> Vec<(PathBuf, u64)> {
    let files =
        |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let all = files(folder).into_iter().filter(|path| path.is_dir()).flat_map(|folder| files(&folder));
    let mut segments: Vec<_> = all
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .map(|path| (path.clone(), path.metadata().unwrap().len()))
        .collect();
    segments.sort();
    segments
}

/// Nobody listens until the oldest have given way; then the agent is killed, and what it leaves is damaged.
#[test]
fn a_spool_that_is_full_or_damaged_loses_the_oldest_and_the_damaged_and_counts_them() {
    need_program!("python3");
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port().unwrap());
    let start = || {
        let sections = format!(
            "[window]\nlive = \"100ms\"\nkept = \"1s\"\n[probes]\nsyscalls = false\ntcp = false\nsockets = false\npostgres = false\n\
             tls = false\nwall = false\nprofiles = false\n[send]\nfolder = \"{}\"\n[send.to.otlp]\nprotocol = \"otlp\"\n\
             every = \"1s\"\nlongest_pause = \"500ms\"\nspool = \"{SMALL_SPOOL}\"\n\
             endpoint = {{ url = \"http://127.0.0.1:{port}/v1/metrics\" }}\n",
            folder.path().display(),
        );
        Agent::start(&Options { sections, ..Options::default() }).unwrap()
    };
    let dropped = |agent: &Agent, reason: &str| {
        scrape(agent).sum("steth_send_dropped_total", &[("destination", "otlp"), ("reason", reason)])
    };
    let first = start();
    let began_ms = now_ms();
    let gave_way = || Ok(Some(dropped(&first, "spool_full")).filter(|count| *count >= 3.0));
    wait::poll("the oldest give way", ARRIVES, gave_way).unwrap();
    let full: u64 = segments(folder.path()).iter().map(|(_, bytes)| bytes).sum();
    assert!(full <= SMALL_SPOOL_BYTES, "{full} bytes are on disk");
    drop(first);
    let left = segments(folder.path());
    let (spoilt, bytes) = left[left.len() / 2].clone();
    let file = std::fs::File::options().write(true).open(&spoilt).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0x5a; 200], bytes / 2).unwrap();

    let receiver = Receiver::start(&["--port", &port.to_string(), "--only", ONLY]).unwrap();
    let second = start();
    let restarted_ms = now_ms();
    let later = || {
        let points = points_of(&receiver.points()?, "node_time_seconds");
        Ok(Some(points).filter(|points| points.iter().filter(|(at_ms, _)| *at_ms > restarted_ms).count() >= 3))
    };
    let points = wait::poll("what is left, and new windows behind it", ARRIVES, later).unwrap();
    assert_eq!((dropped(&second, "damaged"), dropped(&second, "spool_full")), (1.0, 0.0), "{}", second.log());
    assert!(second.log().contains("is damaged or cut off"), "{}", second.log());
    let times: Vec<u64> = points.iter().map(|(at_ms, _)| *at_ms).collect();
    assert!(times.is_sorted_by(|before, after| before < after), "out of order, or twice: {times:?}");
    let old = times.iter().filter(|at_ms| **at_ms < restarted_ms).count();
    assert!(
        old >= left.len() && times[0] > began_ms + 2_000,
        "{old} of before, the first {} ms after",
        times[0] - began_ms
    );
    assert!(second.stop().unwrap().success());
}

/// Of a minute, or of so many seconds as `OUTAGE_SECONDS` says.
#[test]
fn an_outage_and_a_killed_agent_leave_no_gap() {
    need_bpf!();
    need_program!("prometheus", "python3");
    let seconds = std::env::var("OUTAGE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    outage(Duration::from_secs(seconds.unwrap_or(60)));
}

/// What README.md says of it, under "Many hosts".
#[test]
#[ignore = "takes eleven minutes"]
fn an_outage_of_ten_minutes_and_a_killed_agent_leave_no_gap() {
    need_bpf!();
    need_program!("prometheus", "python3");
    outage(Duration::from_secs(600));
}
