//! Profiles of whole Postgres requests, and profiles that somebody ends early, through an agent.

use std::time::{Duration, Instant};

use steth_tests::{
    agent::{Agent, Options, binary, without_settings},
    flame::{Folded, Line},
    http, need_bpf, need_postgres,
    pgwire::Session,
    postgres::Postgres,
    process::{self, Process},
    programs::{Program, SPINS},
    wait,
};

const SOON: Duration = Duration::from_secs(60);

/// Without looking for OpenSSL in all programs, which takes the longest of an agent's start.
fn options() -> Options {
    Options { sections: "[probes]\ntls = false\n".into(), ..Options::default() }
}

/// `steth flame` through an agent, on its way to a file.
struct Flame(Process, tempfile::TempDir);

impl Flame {
    /// Begins one, and waits until the program runs that it needs.
    fn begin(agent: &Agent, probe: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("steth-flame-").tempdir().unwrap();
        let mut command = process::command(binary().unwrap(), None);
        without_settings(&mut command);
        command.args(["flame", "--config", "/dev/null", "--agent", agent.address(), "-o"]);
        command.arg(folder.path().join("out.folded")).args(arguments);
        let process = Process::start("flame", command).unwrap();
        wait::poll(&format!("{probe} to run"), SOON, || {
            // An agent on a machine that is busy may not answer in time.
            let Ok(answer) = agent.get_json("/api/v1/probes") else { return Ok(None) };
            let all = answer["probes"].as_array().unwrap();
            Ok(all.iter().any(|it| it["name"] == probe && it["state"] == "attached").then_some(()))
        })
        .unwrap();
        Self(process, folder)
    }

    /// Ends it as Ctrl-C does. What it wrote, and what it said.
    fn end(mut self) -> (Folded, String) {
        self.0.signal("INT").unwrap();
        let status = self.0.wait(SOON).unwrap();
        assert!(status.success(), "{status}: {}", self.0.log());
        let written = std::fs::read_to_string(self.1.path().join("out.folded")).unwrap();
        (Folded::read(&written).unwrap(), self.0.log())
    }
}

/// That of the server's statement with this text.
fn fingerprint(agent: &Agent, database: &str, text: &str) -> String {
    let path = format!("/api/v1/postgres/queries?role=server&database={database}&limit=100");
    let found = wait::poll(&format!("a statement with {text}"), SOON, || {
        let Ok(answer) = agent.get_json(&path) else { return Ok(None) };
        let all = answer["queries"].as_array().unwrap();
        let found = all.iter().find(|it| it["statement"].as_str().is_some_and(|it| it.contains(text)));
        Ok(found.map(|it| it["query"].as_str().unwrap().to_owned()))
    });
    found.unwrap()
}

#[test]
fn a_profile_of_slow_queries_weighs_what_each_took_by_who_served_and_who_made_it() {
    need_postgres!();
    const SLOW: u32 = 5;
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let agent = Agent::start(&options()).unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    session.query("select pg_sleep(0.15)").unwrap();
    let flame = Flame::begin(&agent, "profile_return", &["--all", "--queries", "100ms", "-d", "60s"]);
    let mut made = Duration::ZERO;
    for _ in 0..SLOW {
        let begun = Instant::now();
        session.query("select pg_sleep(0.15)").unwrap();
        made += begun.elapsed();
        for _ in 0..20 {
            session.query("select 1").unwrap();
        }
    }
    let (folded, said) = flame.end();
    let is_query = |line: &Line| line.frames.last().is_some_and(|it| it.starts_with("[query "));
    assert!(folded.0.iter().all(is_query), "{folded:#?}");
    // On a busy machine others take long as well.
    let name = format!("[query {}]", fingerprint(&agent, &database, "pg_sleep"));
    let own = folded.only(|line| line.has(&name));
    let served = own.only(|line| line.has("PostgresMain"));
    let asked = own.only(|line| line.has("start_thread") && line.has("__libc_recv"));
    let (least, most) = (u64::from(SLOW) * 150_000_000, u64::try_from(made.as_nanos()).unwrap());
    for (whose, part) in [("the server", &served), ("the client", &asked)] {
        assert!((least..=most).contains(&part.ns()), "{whose}: {} ns of {least} to {most}: {folded:#?}", part.ns());
        assert!(part.whole() >= 0.995, "{whose}: {folded:#?}");
    }
    assert!(said.contains("ended early"), "{said}");
    let told = wait::poll("its figures", SOON, || Ok(agent.settled().ok())).unwrap();
    let samples = told.sum("steth_profile_samples_total", &[("trigger", "long_request")]);
    assert!(samples >= f64::from(2 * SLOW), "{samples}, once at each end: {folded:#?}");
}

#[test]
fn ctrl_c_has_an_agent_hand_over_what_there_is() {
    need_bpf!();
    let agent = Agent::start(&options()).unwrap();
    let program = Program::build_with("spin", SPINS, &["-O2", "-g"]).unwrap();
    let process = program.start(&["spin"]).unwrap();
    process.wait_for_line("that it is ready", SOON, |line| (line == "ready").then_some(())).unwrap();
    let begun = Instant::now();
    let flame = Flame::begin(&agent, "profile_demand", &["-p", &process.id().to_string(), "-d", "300s"]);
    // So that there is something.
    wait::poll("samples", SOON, || {
        let Ok(told) = agent.settled() else { return Ok(None) };
        Ok((told.sum("steth_profile_samples_total", &[("trigger", "demand")]) > 20.0).then_some(()))
    })
    .unwrap();
    let (folded, said) = flame.end();
    let most = begun.elapsed();
    assert!(folded.share("inner") > 0.9 && folded.ns() > 200_000_000, "{folded:#?}");
    let lasted =
        said.split("it lasted ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_else(|| panic!("{said}"));
    let lasted = Duration::from_secs_f64(lasted.parse().unwrap());
    assert!(lasted < most && said.contains("of 300.0 s"), "{lasted:?} of {most:?}: {said}");
    let order = http::post_json(&format!("http://{}/api/v1/flame", agent.address()), r#"{"end": "mine"}"#).unwrap();
    assert_eq!(order.status, 404, "{order:?}");
}
