//! Single queries as they are told: traced while someone listens, kept when slow or failed, summed up by statement.

use std::time::Duration;

use serde_json::Value;
use steth::postgres::statement;
use steth_tests::{
    agent::{Agent, Options, steth},
    http, need_postgres, need_program,
    pgbench::{Endpoint, Mode, Pgbench},
    pgwire::Session,
    postgres::{Postgres, USER},
    process::Process,
    trace::Trace,
};

const SOON: Duration = Duration::from_secs(30);
/// Some hundred microseconds. What is answered before pgbench has looked at its clock again takes no time in its log.
const SHORT: &str = "select count(*) from generate_series(1, 2000);\n";

fn field<'a>(queries: &'a [Value], name: &str) -> Vec<&'a str> {
    queries.iter().map(|query| query[name].as_str().unwrap()).collect()
}

#[test]
fn a_trace_tells_everything_that_is_known_of_a_query() {
    need_postgres!();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    postgres.psql(&database, "create role teller superuser login").unwrap();
    let agent = Agent::start(&Options::default()).unwrap();
    for through in [&["--alone"][..], &["--agent", agent.address()]] {
        let trace = Trace::begin(&[through, &["--database", &database]].concat()).unwrap();
        let mut psql = postgres.program("psql");
        psql.args(["-X", "-q", "-h", "127.0.0.1", "-p", &postgres.port.to_string(), "-U", "teller", "-d", &database]);
        psql.args(["-c", "select 4711 from generate_series(1, 3)", "-c", "begin", "-c", "select 1 / 0"]);
        Process::start("psql", psql).unwrap().wait(SOON).unwrap();
        let (queries, total) = trace.end(6).unwrap();
        assert_eq!((&total["skipped_in_kernel"], &total["skipped_in_agent"]), (&0.into(), &0.into()));
        for role in ["client", "server"] {
            let of: Vec<Value> = queries.iter().filter(|query| query["role"] == role).cloned().collect();
            let what = format!("{role} {through:?}: {of:#?}");
            assert_eq!(field(&of, "operation"), ["SELECT", "BEGIN", "SELECT"], "{what}");
            assert_eq!(field(&of, "statement")[0], "select ? from generate_series(?, ?)", "{what}");
            assert_eq!(field(&of, "outcome"), ["ok", "ok", "error"], "{what}");
            assert_eq!(of[2]["sqlstate"], "22012", "{what}");
            assert_eq!(field(&of, "transaction"), ["idle", "open", "failed"], "{what}");
            assert_eq!(of.iter().map(|query| query["rows"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 0, 0], "{what}");
            for query in &of {
                assert_eq!(
                    (&query["user"], &query["database"]),
                    (&"teller".into(), &database.as_str().into()),
                    "{what}"
                );
                assert_eq!((&query["statements"], &query["family"]), (&1.into(), &"inet".into()), "{what}");
                let (duration, first) = (&query["duration_seconds"], &query["first_byte_seconds"]);
                assert!(0.0 < first.as_f64().unwrap() && first.as_f64() <= duration.as_f64(), "{what}");
                let service = query["service"].as_str().unwrap();
                assert!(if role == "client" { service == "psql" } else { service.starts_with("postgres:") }, "{what}");
                let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
                assert!((now - 60_000_000..=now).contains(&query["begun_unix_us"].as_u64().unwrap()), "{what}");
            }
            if role == "server" {
                assert_eq!(of[0]["port"], postgres.port, "{what}");
                assert_eq!(of[0]["peer"], "127.0.0.1", "{what}");
            }
        }
    }
}

#[test]
fn filters_choose_what_is_told() {
    need_postgres!();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let agent = Agent::start(&Options::default()).unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    let with = |arguments: &[&str]| Trace::begin(&[&["--agent", agent.address()], arguments].concat()).unwrap();
    let me = std::process::id().to_string();
    let mut traces = [
        with(&["--database", &database, "--role", "client", "--errors"]),
        with(&["--database", &database, "--role", "server", "--min-duration", "50ms"]),
        with(&["--pid", &me, "--statement", "pg_sleep"]),
        with(&["--database", &database, "--user", USER, "--service", "no such service"]),
        with(&["--pid", &me]),
    ]
    .into_iter();
    for statement in ["select 1", "select pg_sleep(0.06)", "select * from nowhere"] {
        session.query(statement).unwrap();
    }
    let told: Vec<usize> = [1, 1, 1, 0, 3].to_vec();
    let mut last = Vec::new();
    for queries in told.clone() {
        // The last of them has heard everything by the time that it has heard its own.
        let (found, _) = traces.next().unwrap().end(queries).unwrap();
        assert_eq!(found.len(), queries, "{found:#?}");
        last.push(found);
    }
    assert_eq!(last[0][0]["sqlstate"], "42P01");
    assert!(last[1][0]["duration_seconds"].as_f64().unwrap() >= 0.06);
    assert_eq!(field(&last[2], "statement"), ["select pg_sleep(?)"]);
}

#[test]
fn a_trace_ends_with_its_agent_and_an_agent_in_time_with_its_traces() {
    need_postgres!();
    let agent = Agent::start(&Options::default()).unwrap();
    let trace = Trace::begin(&["--agent", agent.address()]).unwrap();
    assert!(agent.stop().unwrap().success());
    trace.ended().unwrap();
    let (code, _, said) = steth(&["trace", "postgres", "--agent", "127.0.0.1:1", "-d", "1s"]).unwrap();
    assert_eq!((code, said.contains("no agent answers at 127.0.0.1:1")), (Some(1), true), "{said}");
}

#[test]
fn a_trace_under_load_tells_every_query_or_says_how_many_it_skipped() {
    need_postgres!();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let agent = Agent::start(&Options::default()).unwrap();
    let trace = Trace::begin(&["--agent", agent.address(), "--database", &database, "--role", "client"]).unwrap();
    let script = "select 1;\n";
    let run = Pgbench { mode: Mode::Prepared, endpoint: Endpoint::Unix, script, clients: 2, transactions: 20_000 };
    let run = run.run(&postgres, &database).unwrap();
    // The last line of all: everything before it was told or skipped by then.
    postgres.psql(&database, "select 'the end' as the_end").unwrap();
    trace.wait_for("the_end").unwrap();
    let (queries, total) = trace.end(1).unwrap();
    let skipped = total["skipped_in_kernel"].as_u64().unwrap() + total["skipped_in_agent"].as_u64().unwrap();
    let traced = queries.len() as u64;
    assert!(traced <= run.transactions + 1 && traced + skipped > run.transactions, "{traced} told, {skipped} skipped");
}

/// Of queries so short that microseconds count; the matrix of drivers has long ones, of which a hundredth is more. pgbench's
/// clock stands around one query here, in C, so next to nothing of its own is in it.
#[test]
fn medians_of_short_queries_are_those_of_pgbench() {
    need_postgres!();
    need_program!("openssl");
    let postgres = Postgres::start().unwrap();
    postgres.encrypt().unwrap();
    let agent = Agent::start(&Options::default()).unwrap();
    for endpoint in [Endpoint::Unix, Endpoint::Tcp, Endpoint::Tls] {
        let database = postgres.create_database().unwrap();
        let trace = Trace::begin(&["--agent", agent.address(), "--database", &database, "--role", "client"]).unwrap();
        let bench = Pgbench { mode: Mode::Extended, endpoint, script: SHORT, clients: 1, transactions: 2_001 };
        let run = bench.run(&postgres, &database).unwrap();
        let (queries, total) = trace.end(2_001).unwrap();
        assert_eq!(total["skipped_in_kernel"], 0, "{endpoint:?}");
        let mut ours: Vec<f64> =
            queries.iter().map(|query| query["duration_seconds"].as_f64().unwrap() * 1e6).collect();
        ours.sort_by(f64::total_cmp);
        let (ours, truth) = (ours[1_000], run.quantile(0.5) * 1e6);
        println!("{endpoint:?}: at the median {ours:.1} µs, pgbench says {truth:.1} µs");
        assert!((ours - truth).abs() <= f64::max(20.0, 0.01 * truth), "{endpoint:?}: {ours:.1} µs of {truth:.1} µs");
    }
}

#[test]
fn slow_and_failed_queries_are_kept_up_to_a_rate() {
    need_postgres!();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let sections = "[postgres]\nslow_query = \"50ms\"\nslow_rate = 5\n".to_owned();
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    session.query("select 1").unwrap();
    let begun = std::time::Instant::now();
    session.query("select pg_sleep(0.06), 'secret'").unwrap();
    let took = begun.elapsed().as_secs_f64();
    session.query("select * from nowhere").unwrap();
    // Prepared in a cycle that executes nothing.
    session.prepare("wrong", "select * from nowhere_else").unwrap_err();
    let path = format!("/api/v1/postgres/slow?database={database}&role=client");
    let kept = agent.get_json(&path).unwrap();
    let queries = kept["queries"].as_array().unwrap();
    assert_eq!(kept["slow_seconds"], 0.05);
    assert_eq!(
        field(queries, "statement"),
        ["select * from nowhere_else", "select * from nowhere", "select pg_sleep(?), ?"],
        "the newest first"
    );
    assert_eq!(queries.iter().map(|query| query["slow"].as_bool().unwrap()).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(field(queries, "user"), [USER; 3]);
    let slow = queries.last().unwrap();
    let seconds = |name: &str| slow[name].as_f64().unwrap();
    assert!((0.06..=took).contains(&seconds("duration_seconds")), "{slow:#}");
    assert!((0.06..=seconds("duration_seconds")).contains(&seconds("first_byte_seconds")), "{slow:#}");
    // The server is older than the agent, which has met it as an address so far.
    let (address, cluster) = (format!("127.0.0.1:{}", postgres.port), postgres.folder().file_name().unwrap().display());
    let peers = [address, format!("postgres:{cluster}/cluster")];
    assert!(peers.contains(&slow["peer"].as_str().unwrap().to_owned()), "{slow:#}");
    let expected = serde_json::json!({
        "database": database, "role": "client", "family": "inet", "operation": "SELECT", "summary": "SELECT",
        "outcome": "ok", "sqlstate": null, "transaction": "idle", "rows": 1, "statements": 1, "pid": std::process::id(),
        "query": statement(b"select pg_sleep(0.06), 'secret'", false).fingerprint.to_string(),
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&slow[name], value, "{name}: {slow:#}");
    }
    for name in ["connection", "service"] {
        assert_eq!(field(queries, name), [slow[name].as_str().unwrap(); 3], "{name}");
    }
    let before = kept["suppressed"].as_u64().unwrap();
    for _ in 0..50 {
        session.query("select * from nowhere").unwrap();
    }
    let kept = agent.get_json(&format!("{path}&limit=1000&errors=true")).unwrap();
    let (shown, suppressed) =
        (kept["queries"].as_array().unwrap().len(), kept["suppressed"].as_u64().unwrap() - before);
    assert!(shown < 52 && suppressed > 0, "{shown} kept, {suppressed} suppressed");
}

#[test]
fn statements_are_listed_by_their_time_with_what_postgres_counts() {
    need_postgres!();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let agent = Agent::start(&Options::default()).unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    session.query("create table t (n int)").unwrap();
    for n in 1..=20 {
        session.query(&format!("insert into t values ({n}), ({n})")).unwrap();
    }
    for _ in 0..3 {
        session.query("select n / 0 from t").unwrap();
        session.query("select pg_sleep(0.02)").unwrap();
    }
    agent.settled().unwrap();
    for window in ["", "&window=5m"] {
        let path = format!("/api/v1/postgres/queries?database={database}&role=client{window}");
        let found = agent.get_json(&path).unwrap();
        assert_eq!(found["window_seconds"].is_null(), window.is_empty());
        let queries = found["queries"].as_array().unwrap();
        assert_eq!(queries[0]["statement"], "select pg_sleep(?)");
        assert!(queries[0]["share"].as_f64().unwrap() > 0.3 && queries[0]["p50_seconds"].as_f64().unwrap() > 0.018);
        let shares: f64 = queries.iter().map(|query| query["share"].as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-9);
        let of = |operation: &str, text: &str| {
            let is =
                |query: &&Value| query["operation"] == operation && query["statement"].as_str().unwrap().contains(text);
            queries.iter().find(is).unwrap_or_else(|| panic!("{operation} {text}: {queries:#?}"))
        };
        let insert = of("INSERT", "into t");
        assert_eq!((&insert["calls"], &insert["rows"], &insert["errors"]), (&20.into(), &40.into(), &0.into()));
        let wrong = of("SELECT", "n / ?");
        assert_eq!((&wrong["calls"], &wrong["cycles"], &wrong["errors"]), (&0.into(), &3.into(), &3.into()));
    }
    let most =
        agent.get_json(&format!("/api/v1/postgres/queries?database={database}&role=server&sort=rows&limit=1")).unwrap();
    assert_eq!(field(most["queries"].as_array().unwrap(), "operation"), ["INSERT"]);
    let answer = http::get(&format!("http://{}/api/v1/postgres/queries?sort=colour", agent.address())).unwrap();
    assert!(answer.status == 400 && answer.body.contains("allowed are time, calls"), "{}", answer.body);
    let answer = http::get(&format!("http://{}/api/v1/postgres/slow?datbase=x", agent.address())).unwrap();
    assert!(answer.status == 400 && answer.body.contains("datbase"), "{}", answer.body);
}
