//! Profiles as they are asked for: over HTTP and on the command line, by many at once, wrongly, and in every format.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::read::{DeflateDecoder, GzDecoder};
use prost::Message as _;
use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options, steth},
    cgroup::Group,
    flame::Folded,
    http, need_bpf,
    process::Process,
    programs::{Program, SPINS},
    skipped, unique_name, wait,
};

const SOON: Duration = Duration::from_secs(60);
const BARE: &[&str] = &["-O2", "-fomit-frame-pointer", "-g"];
const WHOLE: f64 = 0.98;

fn started(program: &Program, what: &str) -> Process {
    let process = program.start(&[what]).unwrap();
    process.wait_for_line("that it is ready", SOON, |line| (line == "ready").then_some(())).unwrap();
    process
}

fn asked(agent: &Agent, path: &str) -> http::Answer {
    http::get(&format!("http://{}{path}", agent.address())).unwrap()
}

/// What an answer in JSON says went wrong, and what to do.
fn problem(answer: &http::Answer) -> String {
    let json: Value = serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    let field = |name: &str| json[name].as_str().filter(|text| !text.is_empty()).unwrap_or_else(|| panic!("{json}"));
    format!("{}; {}", field("error"), field("hint"))
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    for (query, status, words) in [
        ("seconds=601", 400, "600"),
        ("seconds=0", 400, "seconds"),
        ("seconds=NaN", 400, "seconds"),
        ("seconds=soon", 400, "seconds"),
        ("frequency=0", 400, "999"),
        ("frequency=1000", 400, "999"),
        ("frequency=-1", 400, "frequency"),
        ("format=png", 400, "svg"),
        ("kind=gpu", 400, "off-cpu"),
        ("pid=1,x", 400, "pid"),
        ("pid=-1", 400, "pid"),
        ("slow=later", 400, "slow"),
        ("queries=0ms", 400, "1 ms"),
        ("queries=5ms&kind=wall", 400, "queries"),
        ("icicle=perhaps", 400, "icicle"),
        ("hertz=99", 400, "hertz"),
        ("pid=4194304", 404, "4194304"),
    ] {
        let answer = asked(&agent, &format!("/api/v1/flame?{query}"));
        assert_eq!(answer.status, status, "{query}: {answer:?}");
        let said = problem(&answer);
        assert!(said.contains(words), "{query}: {said}");
    }
    let answer = asked(&agent, "/debug/pprof/profile?format=svg");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(problem(&answer).contains("/api/v1/flame"), "{answer:?}");
}

/// Asks, and does not wait for the answer.
fn begin(agent: &Agent, query: &str) -> TcpStream {
    let mut stream = TcpStream::connect(agent.address()).unwrap();
    write!(stream, "GET /api/v1/flame?{query} HTTP/1.1\r\nHost: {}\r\n\r\n", agent.address()).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

fn state(agent: &Agent, probe: &str) -> anyhow::Result<String> {
    let answer = agent.get_json("/api/v1/probes")?;
    let all = answer["probes"].as_array().unwrap();
    let found = all.iter().find(|it| it["name"] == probe).unwrap_or_else(|| panic!("no {probe} in {answer}"));
    Ok(found["state"].as_str().unwrap().into())
}

#[test]
fn a_ninth_at_a_time_is_refused_and_who_hangs_up_ends_his_own() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    let pid = std::process::id();
    let mut clients: Vec<TcpStream> =
        (0..9).map(|_| begin(&agent, &format!("seconds=600&pid={pid}&kind=wall"))).collect();
    // Which of them comes last is not known; the others have no answer yet.
    let refused = wait::poll("one of nine profiles to be refused", SOON, || {
        Ok(clients.iter().position(|client| client.peek(&mut [0]).is_ok()))
    });
    let mut refused = clients.remove(refused.unwrap());
    let mut answer = [0; 1 << 10];
    refused.set_nonblocking(false).unwrap();
    let length = refused.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert!(answer.contains("8 profiles are being taken already") && answer.contains("wait until"), "{answer}");
    let sampling = ["profile_demand", "profile_return"];
    for probe in sampling {
        let attached = || Ok((state(&agent, probe)? == "attached").then_some(()));
        wait::poll(&format!("{probe} to be attached"), SOON, attached).unwrap();
    }
    drop(clients);
    for probe in sampling {
        let ready = || Ok((state(&agent, probe)? == "ready").then_some(()));
        wait::poll(&format!("{probe} to be let go"), SOON, ready).unwrap();
    }
    assert_eq!(asked(&agent, &format!("/api/v1/flame?seconds=0.1&pid={pid}")).status, 200);
}

#[test]
fn requests_at_the_same_time_get_each_its_own() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    let names = ["first", "second", "third"];
    let programs = names.map(|name| {
        let program = Program::build_with("spin", &SPINS.replace("inner", name), BARE).unwrap();
        let process = started(&program, "spin");
        (name, program, process)
    });
    let ask = |query: String| {
        let answer = asked(&agent, &format!("/api/v1/flame?format=folded&kind=cpu&{query}"));
        assert_eq!(answer.status, 200, "{query}: {answer:?}");
        Folded::read(&answer.body).unwrap()
    };
    let ask = &ask;
    thread::scope(|scope| {
        let all: Vec<_> = programs
            .iter()
            .zip([(99, 1.0), (997, 2.5), (499, 0.5)])
            .map(|((name, _, process), (hertz, seconds))| {
                let query = format!("pid={}&frequency={hertz}&seconds={seconds}", process.id());
                (name, hertz, scope.spawn(move || ask(query)))
            })
            .collect();
        for (name, hertz, asked) in all {
            let folded = asked.join().unwrap();
            let of_others = names.iter().filter(|it| it != &name).map(|it| folded.with(it)).sum::<u64>();
            assert_eq!(of_others, 0, "{name}: {folded:#?}");
            // A short profile at a low rate has some sixty samples: one that met a page on its way elsewhere is two per cent.
            let sample_ns = 1e9 / f64::from(hertz);
            let most_ns = |part: f64| (part * folded.ns() as f64).max(1.5 * sample_ns);
            let (elsewhere, not_whole) = (1.0 - folded.share(name), 1.0 - folded.whole());
            assert!(elsewhere * folded.ns() as f64 <= most_ns(0.03), "{name}: {folded:#?}");
            assert!(not_whole * folded.ns() as f64 <= most_ns(0.005), "{name}: {folded:#?}");
        }
    });
}

#[test]
fn who_comes_later_gets_nothing_from_before() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    let program = Program::build_with("spin", SPINS, BARE).unwrap();
    let process = started(&program, "wait");
    // Someone else has looked at the same thread for a while.
    let _other = begin(&agent, &format!("seconds=600&pid={}&kind=wall", process.id()));
    let attached = || Ok((state(&agent, "profile_return")? == "attached").then_some(()));
    wait::poll("sampling to begin", SOON, attached).unwrap();
    for _ in 0..2 {
        let path = format!("/api/v1/flame?seconds=1&kind=wall&format=folded&pid={}", process.id());
        let begun = Instant::now();
        let answer = asked(&agent, &path);
        let most = begun.elapsed().as_secs_f64();
        let seconds = Folded::read(&answer.body).unwrap().ns() as f64 / 1e9;
        assert!((WHOLE..most).contains(&seconds), "{seconds} s of {most}: {}", answer.body);
    }
}

#[test]
fn scrapers_of_profiles_get_pprof_in_gzip() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    let program = Program::build_with("spin", SPINS, BARE).unwrap();
    let _process = started(&program, "spin");
    let mut stream = TcpStream::connect(agent.address()).unwrap();
    let request = "GET /debug/pprof/profile?seconds=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: application/"), "{head}");
    let profile = Pprof::read(&answer[end + 4..]);
    assert!(profile.ns() > 0 && profile.strings.iter().any(|text| text == "inner"), "{:?}", profile.strings);
}

/// What is looked at of a pprof file.
#[derive(Clone, PartialEq, prost::Message)]
struct Pprof {
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(string, repeated, tag = "6")]
    strings: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sample {
    #[prost(int64, repeated, tag = "2")]
    values: Vec<i64>,
}

impl Pprof {
    fn read(bytes: &[u8]) -> Self {
        let mut message = Vec::new();
        GzDecoder::new(bytes).read_to_end(&mut message).unwrap();
        Self::decode(message.as_slice()).unwrap()
    }

    /// The first value counts samples; the others are times.
    fn ns(&self) -> u64 {
        self.samples.iter().flat_map(|sample| &sample.values[1..]).sum::<i64>().try_into().unwrap()
    }
}

/// What a file weighs, by its ending.
fn weight(path: &Path) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    match path.extension().unwrap().to_str().unwrap() {
        "svg" => {
            let (_, rest) = text.split_once("total_samples=\"").unwrap();
            rest.split_once('"').unwrap().0.parse().unwrap()
        }
        "html" => {
            let (_, rest) = text.split_once("<script type=\"text/plain\" id=\"data\">").unwrap();
            let packed = STANDARD.decode(rest.split_once('<').unwrap().0).unwrap();
            let page: Value = serde_json::from_reader(DeflateDecoder::new(packed.as_slice())).unwrap();
            page["tree"]["weights"]["ns"].as_array().unwrap().iter().map(|ns| ns.as_u64().unwrap()).sum()
        }
        "folded" => Folded::read(&text).unwrap().ns(),
        "gz" => Pprof::read(&bytes).ns(),
        "json" => {
            let file: Value = serde_json::from_slice(&bytes).unwrap();
            let threads = file["threads"].as_array().unwrap();
            let weights = threads.iter().flat_map(|thread| thread["samples"]["weight"].as_array().unwrap());
            weights.map(|ms| (ms.as_f64().unwrap() * 1e6).round() as u64).sum()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn every_format_is_written_by_its_ending_with_an_agent_and_without() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    let program = Program::build_with("spin", SPINS, BARE).unwrap();
    let process = started(&program, "wait");
    let folder = tempfile::tempdir().unwrap();
    let through = ["--agent", agent.address()];
    for (from, how) in [(&through[..], "agent"), (&["--alone"], "alone")] {
        for ending in ["svg", "html", "folded", "pb.gz", "json"] {
            let path = folder.path().join(format!("{how}.{ending}"));
            let (pid, out) = (process.id().to_string(), path.to_str().unwrap());
            let arguments = ["flame", "--config", "/dev/null", "-p", &pid, "--wall", "-d", "1s", "-o", out];
            let (code, said, talk) = steth(&[&arguments, from].concat()).unwrap();
            assert_eq!((code, said.trim()), (Some(0), out), "{talk}");
            // One thread, all the time: some tenths of a second come on top before the clock is stopped.
            let seconds = weight(&path) as f64 / 1e9;
            assert!((WHOLE..2.0).contains(&seconds), "{}: {seconds} s", path.display());
        }
    }
}

#[test]
fn what_cannot_be_written_is_said_before_samples_are_taken() {
    need_bpf!();
    let pid = std::process::id().to_string();
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none/x.svg");
    let ask = |more: &[&str]| {
        steth(&[&["flame", "--config", "/dev/null", "--alone", "-d", "500ms", "-p", &pid], more].concat()).unwrap()
    };
    for path in [missing.as_path(), folder.path()] {
        let path = path.to_str().unwrap();
        let (code, _, said) = ask(&["-o", path, "--format", "svg"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("cannot write") && said.contains(path), "{said}");
        assert!(!said.contains("taking samples"), "{said}");
    }
    let (code, _, said) = ask(&["-o", "/dev/full", "--format", "svg"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("/dev/full"), "{said}");
    let (code, _, said) = ask(&["-o", "profile.png"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains(".svg") && said.contains(".pb.gz"), "{said}");
    // A profile that fails leaves no file.
    let new = folder.path().join("new.svg");
    let (code, _, said) =
        steth(&["flame", "--config", "/dev/null", "--alone", "-p", "4194304", "-o", new.to_str().unwrap()]).unwrap();
    assert_eq!(code, Some(1), "{said}");
    assert!(!new.exists());
}

#[test]
fn an_empty_profile_says_why_through_an_agent_too() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    let program = Program::build_with("spin", SPINS, BARE).unwrap();
    let process = started(&program, "wait");
    let pid = process.id().to_string();
    let arguments =
        ["flame", "--config", "/dev/null", "--agent", agent.address(), "-p", &pid, "-d", "200ms", "-o", "-"];
    let (code, out, said) = steth(&arguments).unwrap();
    assert_eq!((code, out.as_str()), (Some(0), ""), "{said}");
    assert!(said.contains("no CPU time") && said.contains("--wall"), "{said}");
}

#[test]
fn a_control_group_is_asked_for_with_all_groups_in_it() {
    need_bpf!();
    let slice = unique_name("slc");
    let hierarchy = ["", "pids"].into_iter().find_map(|it| Group::make(it, &slice).ok().map(|group| (it, group)));
    let Some((hierarchy, outer)) = hierarchy else { skipped!("no control groups can be made here") };
    let inner = Group::make(hierarchy, &format!("{slice}/inner.service")).unwrap();
    let beside = Group::make(hierarchy, &format!("{slice}beside")).unwrap();
    let agent = Agent::start(&Options::default()).unwrap();
    let programs = [("first", Some(&outer)), ("second", Some(&inner)), ("third", Some(&beside)), ("fourth", None)];
    let programs = programs.map(|(name, group)| {
        let program = Program::build_with("spin", &SPINS.replace("waits", name), BARE).unwrap();
        let command = match group {
            Some(group) => group.command(&program.path, &["wait"]),
            None => program.command(&["wait"]),
        };
        let process = Process::start("spin", command).unwrap();
        process.wait_for_line("that it is ready", SOON, |line| (line == "ready").then_some(())).unwrap();
        (program, process)
    });
    let group = format!("/{slice}");
    let common = ["flame", "--config", "/dev/null", "-d", "1s", "--wall", "-o", "-", "--cgroup", &group];
    for how in [&["--agent", agent.address()][..], &["--alone"]] {
        let (code, out, said) = steth(&[&common[..], how].concat()).unwrap();
        assert_eq!(code, Some(0), "{said}");
        let folded = Folded::read(&out).unwrap();
        for name in ["first", "second"] {
            assert!((0.45..0.55).contains(&folded.share(name)), "{how:?}: {folded:#?}");
        }
        assert!(folded.with("third") + folded.with("fourth") == 0, "{how:?}: {folded:#?}");
    }
    drop(programs);
    let (code, _, said) = steth(&["flame", "--cgroup", "kubepods"]).unwrap();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("/proc/PID/cgroup"), "{said}");
}

#[test]
fn several_services_are_asked_of_an_agent() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    let programs = ["first", "second"].map(|name| {
        let program = Program::build_with("spin", &SPINS.replace("waits", name), BARE).unwrap();
        let process = started(&program, "wait");
        (program, process)
    });
    let [(one, _), (two, _)] = &programs;
    let arguments = ["flame", "--config", "/dev/null", "--agent", agent.address(), "-d", "1s", "--wall", "-o", "-"];
    let (code, out, said) =
        steth(&[&arguments[..], &["--service", &one.name, "--service", &two.name]].concat()).unwrap();
    assert_eq!(code, Some(0), "{said}");
    let folded = Folded::read(&out).unwrap();
    for name in ["first", "second"] {
        assert!((0.45..0.55).contains(&folded.share(name)), "{folded:#?}");
    }
}

#[test]
fn two_agents_take_profiles_at_the_same_time() {
    need_bpf!();
    let agents = [(); 2].map(|()| Agent::start(&Options::default()).unwrap());
    let program = Program::build_with("spin", SPINS, BARE).unwrap();
    let process = started(&program, "wait");
    let path = format!("/api/v1/flame?seconds=1&kind=wall&format=folded&pid={}", process.id());
    thread::scope(|scope| {
        let ask = |agent| {
            let path = &path;
            scope.spawn(move || asked(agent, path))
        };
        for asked in agents.each_ref().map(ask) {
            let answer = asked.join().unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            let folded = Folded::read(&answer.body).unwrap();
            let seconds = folded.ns() as f64 / 1e9;
            assert!((WHOLE..2.0).contains(&seconds) && folded.whole() >= 0.995, "{seconds} s: {folded:#?}");
        }
    });
}
