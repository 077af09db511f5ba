//! Single events and profiles that are sent to a central endpoint, and endpoints whose proofs are exchanged while the agent runs.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options},
    need_bpf, need_postgres, need_program,
    pgwire::Session,
    postgres::Postgres,
    process::{Process, command},
    programs::{HOLD_RESOURCES, Program, SPINS},
    prometheus::Prometheus,
    receiver::{Certificates, Receiver},
    wait,
};

/// What something takes to arrive, on a busy machine.
const ARRIVES: Duration = Duration::from_secs(90);
const RULE: &str = "[[rule]]\nname = \"files\"\nmetric = \"namedprocess_namegroup_worst_fd_ratio\"\nabove = 0.8\nseverity = \
                    \"critical\"\nsummary = \"{groupname} has used {value}\"\nstep = \"close some\"\n";

fn to(name: &str, protocol: &str, endpoint: &str) -> String {
    format!(
        "[send.to.{name}]\nprotocol = \"{protocol}\"\nevery = \"1s\"\nlongest_pause = \"500ms\"\nendpoint = {{ {endpoint} }}\n"
    )
}

fn agent(folder: &Path, sections: &str) -> Agent {
    // Nobody here talks by OpenSSL, and looking for it in all that runs on this host takes its time.
    agent_with(folder, "[probes]\ntls = false\n", sections)
}

/// One that looks at /proc alone: what is sent of it is told as all else is.
fn agent_of_host(folder: &Path, sections: &str) -> Agent {
    let off = ["syscalls", "tcp", "sockets", "postgres", "tls", "wall"].map(|probe| format!("{probe} = false\n"));
    agent_with(folder, &format!("[probes]\n{}", off.concat()), sections)
}

fn agent_with(folder: &Path, own: &str, sections: &str) -> Agent {
    let sections = format!("{own}[send]\nfolder = \"{}\"\n{sections}", folder.join("send").display());
    Agent::start(&Options { sections, alerts: Some(folder.join("alerts")), ..Options::default() }).unwrap()
}

fn figure(agent: &Agent, name: &str, labels: &[(&str, &str)]) -> f64 {
    // A host that is kept busy by other tests may have an answer only at the second try.
    let scrape = wait::poll("a scrape", ARRIVES, || Ok(agent.scrape().ok())).unwrap();
    scrape.sum(name, labels)
}

/// The first record that is it.
fn record(receiver: &Receiver, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    wait::poll(what, ARRIVES, || Ok(receiver.records()?.into_iter().find(|record| is(record)))).unwrap()
}

#[test]
fn alerts_and_slow_queries_arrive_as_logs_once_also_over_a_killed_agent() {
    need_bpf!();
    need_postgres!();
    need_program!("python3", "gcc");
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start(&["--first-answers", "503"]).unwrap());
    let rules = folder.path().join("rules.toml");
    std::fs::write(&rules, RULE).unwrap();
    let sections = format!(
        "{}[window]\nlive = \"100ms\"\nkept = \"1s\"\n[alerts]\ndefaults = false\nfiles = [{:?}]\n[postgres]\nslow_query = \
         \"100ms\"\n",
        to("logs", "otlp-logs", &format!("url = \"http://127.0.0.1:{}/v1/logs\"", receiver.port)),
        rules.display().to_string()
    );
    let first = agent(folder.path(), &sections);
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    session.query("select pg_sleep(0.2), 'secret'").unwrap();
    session.query("select 1 / 0").unwrap();
    let of = |record: &Value, name: &str| record["attributes"][name].clone();
    let is_query = |record: &Value| {
        record["event"] == "steth.postgres.query"
            && of(record, "db.namespace") == database.as_str()
            && of(record, "steth.postgres.query.role") == "server"
    };
    let slow = record(&receiver, "the slow query", |it| is_query(it) && of(it, "db.response.status_code").is_null());
    assert_eq!((of(&slow, "db.system.name"), of(&slow, "db.operation.name")), ("postgresql".into(), "SELECT".into()));
    let text = of(&slow, "db.query.text");
    assert!(text.as_str().unwrap().contains("pg_sleep(?)") && !slow.to_string().contains("secret"), "{slow:#}");
    assert!(of(&slow, "steth.postgres.query.duration_seconds").as_f64().unwrap() >= 0.2, "{slow:#}");
    let cluster = postgres.folder().file_name().unwrap().to_str().unwrap();
    assert!(slow["resource"]["service.name"].as_str().unwrap().contains(cluster), "{slow:#}");
    assert!(slow["observed"].as_u64() >= slow["time"].as_u64() && slow["severity"] == "WARN", "{slow:#}");
    let failed =
        record(&receiver, "the failed query", |it| is_query(it) && !of(it, "db.response.status_code").is_null());
    assert_eq!((of(&failed, "db.response.status_code"), &failed["severity"]), ("22012".into(), &"ERROR".into()));

    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let mut shell = command("sh", None);
    shell.args(["-c", "ulimit -n 100 && exec \"$0\" 90 1"]).arg(&program.path);
    let mut holder = Process::start("hold", shell).unwrap();
    let in_state = |record: &Value, state: &str| {
        record["event"] == "steth.alert"
            && record["resource"]["service.name"] == program.name.as_str()
            && of(record, "steth.alert.state") == state
    };
    let firing = record(&receiver, "the alert", |it| in_state(it, "firing"));
    assert_eq!((&firing["severity"], of(&firing, "steth.alert.rule")), (&"ERROR".into(), "files".into()));
    assert!(
        firing["body"].as_str().unwrap().starts_with(&format!("firing: {} has used 9", program.name)),
        "{firing:#}"
    );
    assert_eq!(of(&firing, "steth.alert.step"), "close some");
    let found = record(&receiver, "what is found", |it| {
        it["event"] == "steth.finding" && it["resource"]["service.name"] == program.name.as_str()
    });
    assert!(
        found["body"].as_str().unwrap().starts_with(&format!("a process of {} has used 9", program.name)),
        "{found:#}"
    );
    assert_eq!(figure(&first, "steth_send_failed_total", &[("reason", "server_error")]), 1.0);

    // Killed, without a word: the next one knows what was told.
    drop(first);
    let second = agent(folder.path(), &sections);
    let count = |state: &str| receiver.records().unwrap().iter().filter(|record| in_state(record, state)).count();
    let windows = || figure(&second, "steth_alert_evaluation_seconds_total", &[]);
    for _ in 0..4 {
        let before = windows();
        wait::poll("another window", ARRIVES, || Ok((windows() > before).then_some(()))).unwrap();
    }
    holder.signal("KILL").unwrap();
    drop(holder.wait(ARRIVES));
    let over = record(&receiver, "that it is over", |it| in_state(it, "resolved"));
    assert_eq!((&over["severity"], over["time"].as_u64() > firing["time"].as_u64()), (&"INFO".into(), true));
    assert_eq!((count("firing"), count("resolved"), count("pending")), (1, 1, 0));
    assert_eq!(figure(&second, "steth_send_dropped_total", &[]), 0.0, "{}", second.log());
}

/// What Go's own reader of pprof has to say of a file.
fn read_by_go(file: &str) -> String {
    let mut go = command("go", None);
    go.args(["tool", "pprof", "-raw", file]);
    Process::start("go", go).unwrap().finish(ARRIVES).unwrap()
}

#[test]
fn each_piece_of_the_profile_arrives_by_service_and_can_be_read() {
    need_bpf!();
    need_program!("python3", "gcc", "go");
    let (folder, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let receiver = Receiver::of_profiles(kept.path()).unwrap();
    let url = |path: &str| format!("url = \"http://127.0.0.1:{}{path}\"", receiver.port);
    let sections = format!(
        "{}{}[profile]\nhertz = 99\npiece = \"2s\"\n[probes]\ntcp = true\n",
        to("pyroscope", "pyroscope", &url("/ingest")),
        to("parca", "parca", &url("/profiles/writeraw"))
    );
    let agent = agent_with(folder.path(), "", &sections);
    let program = Program::build_with("spin", SPINS, &["-O2", "-fomit-frame-pointer", "-g"]).unwrap();
    let _process = program.start(&["spin"]).unwrap();
    for kind in ["pyroscope", "parca"] {
        // Its unwind table is made behind those of all that runs on this host.
        let (profile, read) = wait::poll(kind, ARRIVES, || {
            let profiles = receiver.profiles()?;
            let ours = |it: &Value| it["kind"] == kind && it["labels"]["service_name"] == program.name.as_str();
            let ours = profiles.into_iter().rev().find(ours);
            let ours = ours.map(|profile| (read_by_go(profile["file"].as_str().unwrap()), profile));
            Ok(ours.filter(|(read, _)| read.contains("inner")).map(|(read, profile)| (profile, read)))
        })
        .unwrap();
        assert!(read.contains("samples/count cpu/nanoseconds"), "{read}");
        assert!(read.contains(&program.name), "{read}");
        let instance = profile["labels"]["instance"].as_str().unwrap();
        assert!(!instance.is_empty(), "{profile:#}");
        if kind == "pyroscope" {
            let said = |name: &str| profile["said"][name].as_str().unwrap().to_owned();
            let lasted = said("until").parse::<u64>().unwrap() - said("from").parse::<u64>().unwrap();
            assert!(profile["application"] == "steth.cpu" && said("sampleRate") == "99", "{profile:#}");
            assert!((1..=10).contains(&lasted), "{profile:#}");
        } else {
            assert_eq!(profile["labels"]["__name__"], "process_cpu");
        }
    }

    // Pieces go on arriving of a clock that ticks otherwise, and of programs that are loaded anew.
    let sampled_at = |hertz: &'static str, after: u64| {
        let is_new = move |it: &Value| {
            let said = |name: &str| it["said"][name].as_str().unwrap_or_default().to_owned();
            said("sampleRate") == hertz && said("from").parse().is_ok_and(|from: u64| from > after)
        };
        wait::poll(hertz, ARRIVES, || Ok(receiver.profiles()?.into_iter().find(|it| is_new(it)))).unwrap()
    };
    agent.reload("hertz = 99", "hertz = 49").unwrap();
    sampled_at("49", 0);
    agent.reload("tcp = true", "tcp = false").unwrap();
    let is_off =
        || Ok((figure(&agent, "steth_probe_attached", &[("probe", "inet_sock_set_state")]) == 0.0).then_some(()));
    wait::poll("that programs without TCP run", ARRIVES, is_off).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    sampled_at("49", now);
    assert_eq!(figure(&agent, "steth_send_dropped_total", &[]), 0.0, "{}", agent.log());
}

#[test]
fn certificates_and_tokens_that_are_exchanged_are_used_without_a_restart() {
    need_bpf!();
    need_program!("python3", "openssl");
    let (folder, certificates) = (tempfile::tempdir().unwrap(), Certificates::make().unwrap());
    let path = |name: &str| certificates.path(name).display().to_string();
    let tls = ["--tls", &path("own.pem"), &path("own.key"), &path("ca.pem")];
    let receiver = Receiver::start(&[&tls[..], &["--token", "the-token"]].concat()).unwrap();
    let file = |name: &str| folder.path().join(name);
    let put = |name: &str, content: &[u8]| std::fs::write(file(name), content).unwrap();
    let of = |name: &str| std::fs::read(certificates.path(name)).unwrap();
    // Nothing is right at first.
    put("ca", &of("other.pem"));
    put("certificate", &of("other.pem"));
    put("key", &of("other.key"));
    put("token", b"old\n");
    let shown = |name: &str| file(name).display().to_string();
    let endpoint = format!(
        "url = \"https://localhost:{}/v1/metrics\", ca_file = {:?}, certificate = {{ file = {:?}, key_file = {:?} }}, \
         bearer_token_file = {:?}",
        receiver.port,
        shown("ca"),
        shown("certificate"),
        shown("key"),
        shown("token")
    );
    let agent = agent_of_host(folder.path(), &to("central", "otlp", &endpoint));
    let fails = |reason: &str| {
        let count = || figure(&agent, "steth_send_failed_total", &[("reason", reason)]);
        let before = count();
        wait::poll(reason, ARRIVES, || Ok((count() > before + 1.0).then_some(()))).unwrap();
    };
    fails("tls");
    // The server is known; it does not know us.
    put("ca", &of("ca.pem"));
    fails("tls");
    // A key that does not belong to the certificate, as while files are exchanged one after the other.
    put("certificate", &of("own.pem"));
    fails("setup");
    put("key", &of("own.key"));
    fails("refused");
    assert!(receiver.points().unwrap().is_empty());
    put("token", b"the-token\n");
    wait::poll("data points", ARRIVES, || Ok(Some(()).filter(|()| !receiver.points().unwrap().is_empty()))).unwrap();
    assert!(agent.log().contains("send.to.central: its certificates were exchanged"), "{}", agent.log());
}

#[test]
fn remote_write_of_the_second_version_arrives_whole_and_who_does_not_know_it_is_found_out() {
    need_bpf!();
    need_program!("python3", "prometheus");
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::run("remote_write.py", &[]).unwrap());
    let prometheus = Prometheus::receiver().unwrap();
    // This Prometheus knows the first version alone, and answers that all is well.
    let sections = format!(
        "{}{}[window]\nlive = \"1s\"\nkept = \"1s\"\n",
        to("second", "remote-write-2", &format!("url = \"http://127.0.0.1:{}/\"", receiver.port)),
        to("first", "remote-write-2", &format!("url = \"{}\"", prometheus.write_url()))
    );
    let agent = agent_of_host(folder.path(), &sections);
    let mut compared = 0;
    wait::poll("windows that were scraped and arrived", ARRIVES, || {
        let scrape = agent.scrape()?;
        let clock = scrape.sum("node_time_seconds", &[]);
        std::thread::sleep(Duration::from_secs(2));
        let points = receiver.points()?;
        let Some(time) = points.iter().find(|it| it["name"] == "node_time_seconds" && it["value"] == clock) else {
            return Ok(None);
        };
        let mut arrived: HashMap<(String, BTreeMap<String, String>), &Value> = HashMap::new();
        for point in points.iter().filter(|point| point["time"] == time["time"]) {
            let mut labels: BTreeMap<String, String> = serde_json::from_value(point["labels"].clone())?;
            labels.retain(|name, _| !["__name__", "job", "instance"].contains(&name.as_str()));
            let name = point["name"].as_str().unwrap().to_owned();
            assert!(arrived.insert((name, labels), point).is_none(), "{point} came twice");
        }
        // Counted by each exposition for itself.
        for sample in scrape.samples.iter().filter(|it| it.name != "steth_duplicate_series_total") {
            let labels = sample.labels.iter().filter(|(_, value)| !value.is_empty());
            let labels = labels.map(|(name, value)| (name.clone(), value.clone())).collect();
            let found = arrived.get(&(sample.name.clone(), labels)).map(|point| &point["value"]);
            assert_eq!(found, Some(&sample.value.into()), "{sample:?}");
        }
        compared += 1;
        Ok((compared >= 2).then_some(()))
    })
    .unwrap();
    let points = receiver.points().unwrap();
    let kind = |name: &str| points.iter().find(|it| it["name"] == name).map(|it| it["type"].clone());
    assert_eq!(kind("node_load1"), Some("gauge".into()));
    assert_eq!(kind("node_cpu_seconds_total"), Some("counter".into()));
    assert_eq!(kind("steth_profile_walk_seconds_bucket"), Some("histogram".into()));
    let of = |name: &str, destination: &str| figure(&agent, name, &[("destination", destination)]);
    let (samples, bytes) = (of("steth_send_samples_total", "second"), of("steth_send_bytes_total", "second"));
    eprintln!("remote write 2.0: {:.1} bytes a sample, {samples} samples", bytes / samples);
    assert_eq!(of("steth_send_rejected_samples_total", "second"), 0.0);
    assert!(of("steth_send_rejected_samples_total", "first") > 0.0);
    assert!(agent.log().contains("it does not say that it understands remote write 2.0"), "{}", agent.log());
}
