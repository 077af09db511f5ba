//! What Postgres conversations show beside durations: errors, transactions, rows, states, batches, and sessions that
//! are older than the agent.

use std::collections::BTreeMap;

use steth_tests::{
    agent::{Agent, Options},
    exposition::{Exposition, Labels},
    need_postgres,
    pgwire::Session,
    postgres::Postgres,
};

const COUNT: &str = "steth_postgres_query_duration_seconds_count";
const STATEMENTS: &str = "steth_postgres_statements_total";
const ROWS: &str = "steth_postgres_rows_total";
const ROLES: [&str; 2] = ["server", "client"];

/// An agent that sees every connection from its beginning, and a cluster.
fn start() -> (Agent, Postgres) {
    let agent = Agent::start(&Options::default()).unwrap();
    (agent, Postgres::start().unwrap())
}

fn by(metrics: &Exposition, name: &str, labels: Labels<'_>, label: &str) -> BTreeMap<String, f64> {
    let mut sums = metrics.sums_by(name, labels, label);
    sums.retain(|_, sum| *sum > 0.0);
    sums
}

fn map<const N: usize>(pairs: [(&str, f64); N]) -> BTreeMap<String, f64> {
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

#[test]
fn errors_are_counted_by_sqlstate_and_database() {
    need_postgres!();
    let (agent, postgres) = start();
    let databases = [1, 2].map(|times| (times, postgres.create_database().unwrap()));
    for (times, database) in &databases {
        let mut session = Session::open(&postgres, database).unwrap();
        session.query("create table t (n int primary key); insert into t values (1)").unwrap();
        session.prepare("add", "insert into t values ($1)").unwrap();
        session.prepare("divide", "select 1 / $1::int").unwrap();
        for _ in 0..*times {
            assert_eq!(session.query("select 1 / 0").unwrap().as_deref(), Some("22012"));
            assert_eq!(session.query("select * from nowhere").unwrap().as_deref(), Some("42P01"));
            assert_eq!(session.query("insert into t values (1)").unwrap().as_deref(), Some("23505"));
            assert_eq!(session.execute("divide", &["0"]).unwrap().as_deref(), Some("22012"));
            assert_eq!(session.execute("add", &["1"]).unwrap().as_deref(), Some("23505"));
            assert_eq!(session.execute("add", &["x"]).unwrap().as_deref(), Some("22P02"));
            assert_eq!(session.execute("divide", &["1"]).unwrap(), None);
        }
    }
    let metrics = agent.settled().unwrap();
    for (times, database) in &databases {
        let times = f64::from(*times);
        // division_by_zero, invalid_text_representation, unique_violation, undefined_table (PostgreSQL manual, appendix A).
        let truth = map([("22012", 2.0), ("22P02", 1.0), ("23505", 2.0), ("42P01", 1.0)].map(|(k, n)| (k, n * times)));
        for role in ROLES {
            let labels = [("role", role), ("database", database.as_str())];
            assert_eq!(by(&metrics, "steth_postgres_errors_total", &labels, "sqlstate"), truth, "{role}");
        }
    }
}

#[test]
fn commits_and_rollbacks_are_counted() {
    need_postgres!();
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    let mut run = |statements: &[&str]| {
        for statement in statements {
            session.query(statement).unwrap();
        }
    };
    // Commits: a statement alone is a transaction, too.
    for _ in 0..5 {
        run(&["begin", "select 1", "select 2", "commit"]);
    }
    run(&["select 1"; 3]);
    // Rollbacks: asked for; a commit after an error; an error alone.
    for _ in 0..4 {
        run(&["begin", "select 1", "rollback"]);
    }
    run(&["begin", "select 1 / 0", "commit"]);
    run(&["select 1 / 0"]);
    // To a savepoint is no end.
    run(&["begin", "savepoint s", "select 1 / 0", "rollback to s", "select 1", "commit"]);
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let labels = [("role", role), ("database", database.as_str())];
        let outcomes = by(&metrics, "steth_postgres_transactions_total", &labels, "outcome");
        assert_eq!(outcomes, map([("commit", 9.0), ("rollback", 6.0)]), "{role}");
        let durations = metrics.histogram("steth_postgres_transaction_duration_seconds", &labels);
        assert_eq!(durations.count, 15.0, "{role}");
    }
}

#[test]
fn rows_are_those_that_postgres_counts() {
    need_postgres!();
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    for statement in [
        "create table t (n int)",
        "insert into t select generate_series(1, 1234)",
        "update t set n = n + 1 where n <= 1000",
        "delete from t where n > 1100",
        "select * from t",
        "select 1 where false",
    ] {
        assert_eq!(session.query(statement).unwrap(), None, "{statement}");
    }
    session.prepare("some", "select * from t limit $1::int").unwrap();
    for limit in ["0", "1", "77", "1000"] {
        assert_eq!(session.execute("some", &[limit]).unwrap(), None);
    }
    let counted = postgres.stat_statements(&database).unwrap();
    let (calls, rows) = counted.iter().fold((0, 0), |(calls, rows), one| (calls + one.calls, rows + one.rows));
    // The table has rows up to 1234, of which 1101 and above go (1001 twice).
    assert_eq!((calls, rows), (10, 1234 + 1000 + 134 + 1100 + 1078));
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let labels = [("role", role), ("database", database.as_str())];
        assert_eq!(metrics.sum(ROWS, &labels), rows as f64, "{role}");
        assert_eq!(metrics.sum(STATEMENTS, &labels), calls as f64, "{role}");
        let operations = by(&metrics, ROWS, &labels, "operation");
        let truth = [("DELETE", 134.0), ("INSERT", 1234.0), ("SELECT", 2178.0), ("UPDATE", 1000.0)];
        assert_eq!(operations, map(truth), "{role}");
    }
}

#[test]
fn connections_are_shown_by_state() {
    need_postgres!();
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    let mut sessions: Vec<Session> = (0..6).map(|_| Session::open(&postgres, &database).unwrap()).collect();
    let states = |metrics: &Exposition, role| {
        let labels = [("role", role), ("database", database.as_str())];
        by(metrics, "steth_postgres_connections", &labels, "state")
    };
    let assert_states = |truth: BTreeMap<String, f64>| {
        let metrics = agent.settled().unwrap();
        for role in ROLES {
            assert_eq!(states(&metrics, role), truth, "{role}");
        }
    };
    assert_states(map([("idle", 6.0)]));
    for session in &mut sessions[..3] {
        session.query("begin").unwrap();
    }
    sessions[3].query("select 1").unwrap();
    // Waits for a lock that the first session holds, so that it is known how long.
    sessions[0].query("select pg_advisory_lock(1)").unwrap();
    for session in &mut sessions[4..] {
        session.send("select pg_advisory_xact_lock(1)").unwrap();
    }
    assert_states(map([("active", 2.0), ("idle", 1.0), ("idle_in_transaction", 3.0)]));
    sessions[0].query("select pg_advisory_unlock(1)").unwrap();
    for session in &mut sessions[4..] {
        session.until_ready().unwrap();
    }
    for session in &mut sessions[..3] {
        session.query("rollback").unwrap();
    }
    assert_states(map([("idle", 6.0)]));
    drop(sessions);
    agent
        .scrape_until("the end of the sessions", |metrics| ROLES.iter().all(|role| states(metrics, role).is_empty()))
        .unwrap();
}

#[test]
fn a_closed_unix_socket_is_no_connection() {
    need_postgres!();
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    postgres.psql(&database, "select 1").unwrap();
    let metrics = agent.settled().unwrap();
    let labels = [("database", database.as_str())];
    assert_eq!(metrics.sum(STATEMENTS, &labels), 2.0, "it was seen, from both ends");
    agent
        .scrape_until("the end of the session", |metrics| {
            by(metrics, "steth_postgres_connections", &labels, "state").is_empty()
        })
        .unwrap();
}

#[test]
fn several_statements_in_one_query_are_one_cycle() {
    need_postgres!();
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    postgres.psql(&database, "select 1; select 2").unwrap();
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let labels = [("role", role), ("database", database.as_str())];
        let counted = [COUNT, STATEMENTS, ROWS].map(|name| metrics.sum(name, &labels));
        assert_eq!(counted, [1.0, 2.0, 2.0], "{role}");
        let outcomes = by(&metrics, "steth_postgres_transactions_total", &labels, "outcome");
        assert_eq!(outcomes, map([("commit", 1.0)]), "{role}: one transaction");
    }
}

/// The statement's text went by before the agent came: the server's process is asked for it, and nobody makes up which
/// one it is for the client.
#[test]
fn a_statement_older_than_the_agent_is_told_by_the_server() {
    need_postgres!();
    const EXECUTIONS: u32 = 25;
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    session.prepare("old", "select relname from pg_class where relpages <> $1::int limit 3").unwrap();
    let agent = Agent::start(&Options::default()).unwrap();
    for n in 0..EXECUTIONS {
        // Each returns three rows.
        assert_eq!(session.execute("old", &[&(n + 10).to_string()]).unwrap(), None);
    }
    let metrics = agent.settled().unwrap();
    let cluster = format!("postgres:{}/cluster", postgres.folder().file_name().unwrap().to_str().unwrap());
    let own = std::env::current_exe().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let executions = f64::from(EXECUTIONS);
    let truth = [(COUNT, executions), (STATEMENTS, executions), (ROWS, 3.0 * executions)];
    for (name, count) in truth {
        let server = [("role", "server"), ("service", cluster.as_str()), ("database", "unknown")];
        let counted = by(&metrics, name, &server, "query");
        assert_eq!(counted.values().collect::<Vec<_>>(), [&count], "{name}: {counted:?}");
        let query = counted.keys().next().unwrap();
        let named = [("query", query.as_str()), ("summary", "SELECT pg_class")];
        assert_eq!(metrics.sum("steth_postgres_query_info", &named), 1.0, "{name}");
        // Another run of this test at the same time is the same client.
        let client = [("role", "client"), ("service", own.as_str()), ("database", "unknown")];
        let counted = by(&metrics, name, &client, "query");
        assert!(counted.len() == 1 && counted["unknown"] >= count, "{name}: {counted:?} of {count}");
    }
}

/// Neither text, parameters, what the server says of them, nor what roles are made with.
#[test]
fn no_secret_reaches_the_metrics_or_the_most_talkative_log() {
    need_postgres!();
    const SECRET: &str = "hunter2secret";
    let sections = "[log]\nlevel = \"trace\"\n".to_owned();
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    for statement in [
        format!("select '{SECRET}'"),
        format!("select $tag${SECRET}$tag$ where 'a' <> E'{SECRET}\\n'"),
        format!("create role {database} password '{SECRET}'"),
        format!("drop role {database} -- {SECRET}"),
        format!("select 1 /* {SECRET} */"),
        format!("set application_name = '{SECRET}'"),
        format!("select '{SECRET}; select 'a"),
        format!("select '{SECRET}'::int"),
    ] {
        session.query(&statement).unwrap();
    }
    session.prepare("one", &format!("select $1::text || '{SECRET}'")).unwrap();
    assert_eq!(session.execute("one", &[SECRET]).unwrap(), None);
    session.prepare("number", "select $1::int").unwrap();
    assert_eq!(session.execute("number", &[SECRET]).unwrap().as_deref(), Some("22P02"));
    agent.settled().unwrap();
    let (text, log) = (agent.scrape_raw().unwrap(), agent.log());
    assert!(text.contains(&database), "the statements were seen");
    assert!(log.contains("TRACE"), "the log is as talkative as can be: {log}");
    let found: Vec<&str> = text.lines().chain(log.lines()).filter(|line| line.contains(SECRET)).collect();
    assert!(found.is_empty(), "{found:#?}");
}

/// Several in one simple query, as scripts and migrations have them: each counts by itself, as PostgreSQL counts them.
#[test]
fn each_statement_of_a_query_is_counted_as_postgres_counts_it() {
    need_postgres!();
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    let none: Option<&str> = None;
    for (query, error) in [
        ("create table t (n int, s text); create table u (n int)", none),
        ("begin; insert into t values (1, 'a;b'), (2, E'c\\';d'); update t set n = n + 1; commit", none),
        ("begin; insert into t values (3, $x$;$x$); commit; begin; delete from t where n = 3; rollback;", none),
        ("select n from t where s <> ';' -- a; b\n; /* c; /* d; */ */ select count(*) from t;", none),
        ("select n as a from t; select 1 / 0; select n as b from t", Some("22012")),
        ("create rule r as on insert to u do also (insert into t values (9, ';'); delete from u where n = 9)", none),
        ("create function f() returns bigint begin atomic select 1; select count(*) from t; end; select f()", none),
        ("do $$ begin perform 1; perform 2; end $$; select 'x' as \"a;b\"", none),
        (" ; ;; ", none),
    ] {
        assert_eq!(session.query(query).unwrap().as_deref(), error, "{query}");
    }
    drop(session);
    // A failed statement is counted here as asked for, there not at all.
    let counted = postgres.stat_statements(&database).unwrap();
    let mut truth: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for one in counted {
        let fingerprint = steth::postgres::statement(one.text.as_bytes(), false).fingerprint.to_string();
        let sum = truth.entry(fingerprint).or_default();
        *sum = (sum.0 + one.calls as f64, sum.1 + one.rows as f64);
    }
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let labels = [("role", role), ("database", database.as_str())];
        let done = by(&metrics, STATEMENTS, &labels, "query");
        let rows = by(&metrics, ROWS, &labels, "query");
        for (fingerprint, (calls, count)) in &truth {
            assert_eq!(done.get(fingerprint), Some(calls), "{role} {fingerprint}: {done:?}");
            assert_eq!(rows.get(fingerprint).copied().unwrap_or_default(), *count, "{role} {fingerprint}: {rows:?}");
        }
        assert_eq!(done.len(), truth.len(), "{role}: {done:?} {truth:?}");
        let outcomes = by(&metrics, "steth_postgres_transactions_total", &labels, "outcome");
        let asked = postgres
            .psql(
                "postgres",
                &format!(
                    "select pg_stat_clear_snapshot(); \
                     select xact_rollback from pg_stat_database where datname = '{database}'"
                ),
            )
            .unwrap();
        assert_eq!(outcomes["rollback"], asked.trim().parse::<f64>().unwrap(), "{role}: {outcomes:?}");
        // Tables 1, insert and update 1, insert 1, selects 1, rule 1, function and its call 1, do and select 1, nothing 1.
        assert_eq!(outcomes["commit"], 8.0, "{role}");
    }
}

/// Names that were prepared stand for nothing after DISCARD ALL, and never for what they were.
#[test]
fn after_discard_all_a_name_is_not_taken_for_what_it_was() {
    need_postgres!();
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    for forget in ["discard all", "deallocate all", "deallocate s"] {
        session.prepare("s", "select 1 as old").unwrap();
        assert_eq!(session.execute("s", &[]).unwrap(), None);
        session.query(forget).unwrap();
        // Prepared where the wire shows it as nothing but text.
        session.query("prepare s as select 2 as new").unwrap();
        assert_eq!(session.execute("s", &[]).unwrap(), None);
        session.query("deallocate s").unwrap();
    }
    let fingerprint = |text: &str| steth::postgres::statement(text.as_bytes(), false).fingerprint.to_string();
    let (old, new) = (fingerprint("select 1 as old"), fingerprint("prepare s as select 2 as new"));
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let labels = [("role", role), ("database", database.as_str())];
        for name in [COUNT, STATEMENTS] {
            let counted = by(&metrics, name, &labels, "query");
            // The server's process notes the text of PREPARE for what it prepared.
            let (unknown, prepared) = if role == "server" { (None, 6.0) } else { (Some(&3.0), 3.0) };
            let found = (counted[&old], counted[&new], counted.get("unknown"));
            assert_eq!(found, (3.0, prepared, unknown), "{role} {name}: {counted:?}");
        }
    }
}
