//! The clock that people read is set forward and back while the agent runs (by libfaketime, for the agent alone): windows go on at
//! their pace, alerts are told once, what is sent keeps its order, and what a receiver refuses is counted.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options},
    alertmanager::Alertmanager,
    exposition::Exposition,
    need_bpf, need_postgres, need_program,
    observed::Observed,
    programs::{HOLD_RESOURCES, Program},
    prometheus::Prometheus,
    receiver::Receiver,
    sink::Sink,
    skipped,
    stage::{TOLD, find, hold_files},
    wait,
};

const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
const HOUR: i64 = 3_600;
const ARRIVES: Duration = Duration::from_secs(60);
/// How long the condition of the second rule must hold.
const LASTS: Duration = Duration::from_secs(40);

/// The clock of one agent.
struct Clock(PathBuf);

impl Clock {
    /// In a file of this folder, as the host's.
    fn new(folder: &Path) -> Self {
        let clock = Self(folder.join("clock"));
        clock.set(0);
        clock
    }

    /// So many seconds apart from the host's, from now on.
    fn set(&self, seconds: i64) {
        let written = self.0.with_extension("unfinished");
        std::fs::write(&written, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(written, &self.0).unwrap();
    }

    fn environment(&self) -> Vec<(String, String)> {
        let pairs = [
            ("LD_PRELOAD", LIBRARY),
            ("FAKETIME_TIMESTAMP_FILE", self.0.to_str().unwrap()),
            ("FAKETIME_CACHE_DURATION", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }
}

fn rule(name: &str, more: &str) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\nmetric = \"namedprocess_namegroup_worst_fd_ratio\"\nmatch = {{ groupname = \"hold-*\" }}\nabove \
         = 0.8\nsummary = \"{{groupname}} has used {{value}}\"\n{more}"
    )
}

/// A host that is kept busy by other tests may have an answer only at the second try.
fn scrape(agent: &Agent) -> Exposition {
    wait::poll("a scrape", ARRIVES, || Ok(agent.scrape().ok())).unwrap()
}

/// Waits for so many windows and returns their clocks: who went by a clock that is set would make none for an hour.
fn windows(agent: &Agent, count: usize) -> Vec<f64> {
    let mut clocks = vec![scrape(agent).sum("node_time_seconds", &[])];
    while clocks.len() <= count {
        let before = clocks.last().copied();
        let next = || Ok(Some(scrape(agent).sum("node_time_seconds", &[])).filter(|clock| Some(*clock) != before));
        clocks.push(wait::poll("another window", ARRIVES, next).unwrap());
    }
    clocks.split_off(1)
}

#[test]
fn a_clock_that_is_set_repeats_and_forgets_no_alert_and_holds_up_no_window() {
    need_bpf!();
    need_program!("gcc", "python3", "prometheus", "prometheus-alertmanager");
    if !Path::new(LIBRARY).exists() {
        skipped!("needs {LIBRARY}");
    }
    let folder = tempfile::tempdir().unwrap();
    let (sink, of_alertmanager) = (Sink::start().unwrap(), Sink::start().unwrap());
    let alertmanager = Alertmanager::start(&of_alertmanager.url()).unwrap();
    let prometheus = Prometheus::receiver().unwrap();
    // Away at first: what is made before and after the clock is set waits in one spool.
    let otlp = Receiver::start(&[
        "--first-answers",
        &["503"; 24].join(","),
        "--only",
        "node_time_seconds,node_context_switches_total",
    ]);
    let otlp = otlp.unwrap();
    let to = |name: &str, protocol: &str, url: &str| {
        format!(
            "[send.to.{name}]\nprotocol = \"{protocol}\"\nevery = \"1s\"\nlongest_pause = \"500ms\"\nendpoint = {{ url = \"{url}\" }}\n"
        )
    };
    let rules = folder.path().join("rules.toml");
    let channels = format!(
        "[[channel]]\nname = \"hook\"\nkind = \"webhook\"\nendpoint = {{ url = {:?} }}\n[[channel]]\nname = \"am\"\nkind = \
         \"alertmanager\"\nendpoint = {{ url = \"http://127.0.0.1:{}\" }}\n",
        sink.url(),
        alertmanager.port
    );
    let lasting = format!("for = \"{}s\"\n", LASTS.as_secs());
    std::fs::write(&rules, rule("at_once", "") + &rule("lasting", &lasting) + &channels).unwrap();
    // It looks at /proc alone: what is sent of it is told as all else is.
    let off = ["syscalls", "tcp", "sockets", "postgres", "tls", "wall"].map(|probe| format!("{probe} = false\n"));
    let sections = format!(
        "[probes]\n{}[window]\nlive = \"1s\"\nkept = \"1s\"\n[alerts]\ndefaults = false\nthrottle = \"1s\"\nrepeat = \
         \"30m\"\nfiles = [{:?}]\n[send]\nfolder = {:?}\n{}{}",
        off.concat(),
        rules.display().to_string(),
        folder.path().join("send").display().to_string(),
        to("write", "remote-write", &prometheus.write_url()),
        to("otlp", "otlp", &format!("http://127.0.0.1:{}/v1/metrics", otlp.port))
    );
    let clock = Clock::new(folder.path());
    let agent = Agent::start(&Options { sections, environment: clock.environment(), ..Options::default() }).unwrap();
    let figure = |name: &str, labels: &[(&str, &str)]| scrape(&agent).sum(name, labels);
    let of_write = [("destination", "write")];
    wait::poll("windows at Prometheus", ARRIVES, || {
        Ok(prometheus.history("node_time_seconds[2h]")?.pop().filter(|(_, all)| all.len() >= 3))
    })
    .unwrap();

    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let name = program.name.as_str();
    let mut holder = hold_files(&program);
    let began = Instant::now();
    let told = |rule: &str, status: &str| sink.wait_for(rule, TOLD, |post| find(post, rule, name, status)).unwrap();
    told("at_once", "firing");
    assert_eq!(figure("steth_send_dropped_total", &of_write), 0.0, "{}", agent.log());

    // An hour forward while one alert fires and one is pending, and back again.
    let at_first = scrape(&agent).sum("node_time_seconds", &[]);
    clock.set(HOUR);
    let ahead = windows(&agent, 5);
    assert!(ahead[4] - at_first > 3_600.0 && ahead[4] - at_first < 4_000.0, "{at_first} {ahead:?}");
    clock.set(0);
    let back = windows(&agent, 5);
    assert!((0.0..400.0).contains(&(back[4] - at_first)), "{at_first} {back:?}");
    let count = |sink: &Sink, rule: &str, status: &str| {
        sink.posts().iter().filter(|(_, post)| find(post, rule, name, status).is_some()).count()
    };
    // An hour back.
    clock.set(-HOUR);
    let behind = windows(&agent, 5);
    assert!((-3_600.0..-3_000.0).contains(&(behind[4] - at_first)), "{at_first} {behind:?}");
    clock.set(0);
    windows(&agent, 4);
    told("lasting", "firing");
    let posts = sink.posts();
    let (fired, _) = posts.iter().find(|(_, post)| find(post, "lasting", name, "firing").is_some()).unwrap();
    assert!(fired.duration_since(began) + Duration::from_secs(2) > LASTS, "{:?}", fired.duration_since(began));
    let held = || {
        let alerts = alertmanager.alerts().unwrap();
        alerts.into_iter().filter(|alert| alert["labels"]["groupname"] == name).collect::<Vec<Value>>()
    };
    // It goes by its own clock: of a host whose clock is behind it takes alerts for over, until they are told again.
    wait::poll("both at Alertmanager", TOLD * 2, || Ok((held().len() == 2).then_some(()))).unwrap();
    let lists = agent.get_json("/api/v1/alerts").unwrap();
    let now_ms = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    for alert in lists["alerts"].as_array().unwrap() {
        let since = alert["pending_unix_ms"].as_u64().unwrap();
        assert!(since <= now_ms && now_ms - since < 600_000, "{alert:#}");
    }
    for rule in ["at_once", "lasting"] {
        assert_eq!(count(&sink, rule, "firing"), 1, "{rule}: {:#?}", sink.posts());
    }
    holder.signal("KILL").unwrap();
    drop(holder.wait(TOLD));
    for rule in ["at_once", "lasting"] {
        told(rule, "resolved");
        let over = |post: &Value| find(post, rule, name, "resolved");
        of_alertmanager.wait_for("that it is over, by Alertmanager", TOLD, over).unwrap();
        assert_eq!((count(&sink, rule, "firing"), count(&sink, rule, "resolved")), (1, 1), "{rule}");
    }

    // This Prometheus takes no sample that is older than its newest: what it refused is counted, and the rest arrived.
    let refused = figure("steth_send_dropped_total", &[of_write[0], ("reason", "refused")]);
    let dropped = figure("steth_send_dropped_total", &of_write);
    eprintln!("refused by Prometheus: {refused} requests, of {dropped} that are lost");
    assert!(refused > 0.0 && refused == dropped, "{refused} of {dropped}: {}", agent.log());
    assert!(agent.log().contains("out of order"), "{}", agent.log());
    let samples = prometheus.history("node_time_seconds[3h] offset -2h").unwrap().pop().unwrap().1;
    assert!(samples.windows(2).all(|pair| pair[0].0 < pair[1].0), "{samples:?}");
    // The receiver of OTLP takes all: in the order in which windows ended, which a counter of the kernel tells.
    wait::poll("all that waited arrives", ARRIVES, || {
        Ok((figure("steth_send_spool_bytes", &[("destination", "otlp")]) == 0.0).then_some(()))
    })
    .unwrap();
    let points = otlp.points().unwrap();
    let of = |name: &str, key: &str| -> Vec<f64> {
        points.iter().filter(|point| point["name"] == name).map(|point| point[key].as_f64().unwrap()).collect()
    };
    let switches = of("node_context_switches_total", "value");
    assert!(switches.len() > 20 && switches.is_sorted(), "{switches:?}");
    let steps: Vec<f64> = of("node_time_seconds", "value").windows(2).map(|pair| pair[1] - pair[0]).collect();
    let far = |step: &&f64| step.abs() > 3_000.0;
    assert_eq!(steps.iter().filter(far).count(), 4, "{steps:?}");
    assert!(steps.iter().filter(|step| !far(step)).all(|step| *step > 0.0), "{steps:?}");
    assert_eq!(figure("steth_send_dropped_total", &[("destination", "otlp")]), 0.0, "{}", agent.log());
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
    assert!(agent.stop().unwrap().success());
}

#[test]
fn a_clock_that_is_set_holds_up_no_query_and_each_is_counted_with_its_own_time() {
    need_postgres!();
    if !Path::new(LIBRARY).exists() {
        skipped!("needs {LIBRARY}");
    }
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::new(folder.path());
    let agent = Agent::start(&Options { environment: clock.environment(), ..Options::default() }).unwrap();
    let observed = Observed::start().unwrap();
    let database = observed.database.clone();
    for apart in [HOUR, 0, -HOUR, 0] {
        clock.set(apart);
        windows(&agent, 10);
    }
    let unharmed = observed.end().unwrap();
    let metrics = agent.settled().unwrap();
    for role in ["client", "server"] {
        let of = |part: &str| {
            let name = format!("steth_postgres_query_duration_seconds_{part}");
            metrics.sum(&name, &[("database", &database), ("role", role)])
        };
        assert_eq!(of("count"), unharmed.transactions as f64, "{role}");
        // Those of pgbench have the way there and back as well.
        let most = unharmed.total.as_secs_f64();
        assert!(of("sum") > 0.0 && of("sum") <= most, "{role}: {} of {most} s at most", of("sum"));
    }
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
    assert!(agent.stop().unwrap().success());
}
