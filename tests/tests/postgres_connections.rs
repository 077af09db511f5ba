//! Connections and what is done with them: logins, transactions that wait, bounds, and statements in a loop.

use std::{io::Write, net::TcpStream, time::Duration};

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options},
    need_postgres,
    pgwire::Session,
    postgres::{HARNESS_DATABASE, Postgres, USER},
    process::Process,
    wait,
};

const ROLES: [&str; 2] = ["server", "client"];
const SOON: Duration = Duration::from_secs(30);

#[test]
fn logins_are_timed_and_refused_ones_counted_by_sqlstate() {
    need_postgres!();
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    for _ in 0..5 {
        postgres.psql(&database, "select 1").unwrap();
    }
    let nowhere = format!("{database}_gone");
    for _ in 0..3 {
        postgres.psql(&nowhere, "select 1").unwrap_err();
    }
    let mut psql = postgres.program("psql");
    psql.args(["-X", "-h", "127.0.0.1", "-p", &postgres.port.to_string(), "-U", "nobody_known", "-d", &database]);
    Process::start("psql", psql).unwrap().wait(SOON).unwrap();
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let labels = [("role", role), ("database", database.as_str())];
        let setup = metrics.histogram("steth_postgres_connection_setup_seconds", &labels);
        assert_eq!(setup.count, 5.0, "{role}");
        assert!(setup.mean().unwrap() > 1e-4, "{role}: a login is answered by a new process");
        let failures = |database: &str| {
            let labels = [("role", role), ("database", database)];
            metrics.sums_by("steth_postgres_login_failures_total", &labels, "sqlstate").into_iter().collect::<Vec<_>>()
        };
        // invalid_catalog_name and invalid_authorization_specification (PostgreSQL manual, appendix A). A database that
        // nobody was let into bears no name: anybody could make names up.
        assert_eq!(failures(&nowhere), [], "{role}");
        assert_eq!(failures("unknown"), [("3D000".to_owned(), 3.0)], "{role}");
        assert_eq!(failures(&database), [("28000".to_owned(), 1.0)], "{role}");
    }
}

#[test]
fn the_time_that_transactions_wait_for_their_clients_is_told() {
    need_postgres!();
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    session.query("select 1").unwrap();
    let open = agent.scrape_until("no transaction that waits", |metrics| {
        metrics.sum("steth_postgres_idle_in_transaction_oldest_seconds", &[("database", &database)]) == 0.0
    });
    open.unwrap();
    session.query("begin").unwrap();
    // The wait under way grows from window to window.
    let oldest = |role: &str, least: f64| {
        let labels = [("role", role), ("database", database.as_str())];
        let metrics = agent.scrape_until("the transaction that waits", |metrics| {
            metrics.sum("steth_postgres_idle_in_transaction_oldest_seconds", &labels) > least
        });
        metrics.unwrap().sum("steth_postgres_idle_in_transaction_oldest_seconds", &labels)
    };
    let waited = ROLES.map(|role| oldest(role, oldest(role, 0.0)));
    session.query("commit").unwrap();
    session.query("select 2").unwrap();
    let metrics = agent.settled().unwrap();
    for (role, waited) in ROLES.into_iter().zip(waited) {
        let labels = [("role", role), ("database", database.as_str())];
        let waits = metrics.histogram("steth_postgres_idle_in_transaction_seconds", &labels);
        assert_eq!(waits.count, 1.0, "{role}: only a transaction waits");
        assert!(waits.sum >= waited, "{role}: {} of {waited}", waits.sum);
        assert_eq!(metrics.sum("steth_postgres_idle_in_transaction_oldest_seconds", &labels), 0.0);
    }
}

#[test]
fn the_bounds_of_server_and_pool_stand_beside_the_connections() {
    need_postgres!();
    let sections = "[postgres]\npools = { \"shop.service\" = 20, \"api\" = 5 }\n".to_owned();
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let postgres = Postgres::start().unwrap();
    let truth: f64 = postgres.psql(HARNESS_DATABASE, "show max_connections").unwrap().parse().unwrap();
    let server = format!("postgres:{}/cluster", postgres.folder().file_name().unwrap().to_str().unwrap());
    let metrics = agent.settled().unwrap();
    assert_eq!(metrics.sum("steth_postgres_max_connections", &[("service", &server)]), truth);
    let pools: Vec<_> = metrics.sums_by("steth_postgres_pool_size", &[], "service").into_iter().collect();
    assert_eq!(pools, [("api".to_owned(), 5.0), ("shop.service".to_owned(), 20.0)]);
}

#[test]
fn connections_are_shown_by_client_process_and_by_server() {
    need_postgres!();
    let own = std::env::current_exe().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let sections = format!("[postgres]\npools = {{ \"{own}\" = 7 }}\n");
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let [mut holds, mut waits, mut idles] = [(); 3].map(|()| Session::open(&postgres, &database).unwrap());
    holds.query("begin").unwrap();
    holds.query("select pg_advisory_xact_lock(1)").unwrap();
    idles.query("select 1").unwrap();
    let path = format!("/api/v1/postgres/connections?database={database}");
    std::thread::scope(|scope| {
        scope.spawn(|| waits.query("select pg_advisory_lock(1)").unwrap());
        let found = wait::poll("one of each", SOON, || {
            let found = agent.get_json(&path)?;
            Ok((found["servers"][0]["active"] == 1 && found["clients"][0]["active"] == 1).then_some(found))
        });
        holds.query("commit").unwrap();
        let found = found.unwrap();
        for list in ["clients", "servers"] {
            assert_eq!(found[list].as_array().unwrap().len(), 1, "{found}");
            let counts = ["active", "idle", "idle_in_transaction", "encrypted_unseen", "total"]
                .map(|state| found[list][0][state].as_u64().unwrap());
            assert_eq!(counts, [1, 1, 1, 0, 3], "{found}");
        }
        let (client, server) = (&found["clients"][0], &found["servers"][0]);
        assert_eq!((&client["pid"], &client["pool_size"]), (&std::process::id().into(), &7.into()), "{found}");
        let cluster = format!("postgres:{}/cluster", postgres.folder().file_name().unwrap().to_str().unwrap());
        assert_eq!((&server["service"], &server["max_connections"]), (&cluster.into(), &100.into()), "{found}");
    });
    let other = agent.get_json(&format!("{path}_other")).unwrap();
    assert_eq!((&other["clients"], &other["servers"]), (&Value::Array(vec![]), &Value::Array(vec![])));
}

#[test]
fn a_statement_in_a_loop_is_told_with_its_count_and_its_share() {
    need_postgres!();
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    session.query("create table items (n int)").unwrap();
    // One request of a program that asks for each row of an answer.
    session.query("begin").unwrap();
    session.query("select generate_series(1, 25)").unwrap();
    for n in 1..=25 {
        session.query(&format!("select * from items where n = {n}")).unwrap();
    }
    session.query("commit").unwrap();
    // What stays below the threshold in each transaction is none, however many there are.
    for _ in 0..4 {
        session.query("begin").unwrap();
        for n in 1..=9 {
            session.query(&format!("delete from items where n = {n}")).unwrap();
        }
        session.query("commit").unwrap();
    }
    drop(session);
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let found = agent.get_json(&format!("/api/v1/postgres/n_plus_one?database={database}&role={role}")).unwrap();
        let repeats = found["repeats"].as_array().unwrap();
        let loops: Vec<&Value> = repeats.iter().filter(|one| one["ended"] == true).collect();
        let [one] = loops.as_slice() else { panic!("{role}: {repeats:#?}") };
        assert_eq!(
            (&one["count"], &one["statement"]),
            (&25.into(), &"select * from items where n = ?".into()),
            "{role}"
        );
        assert_eq!((&one["user"], &found["threshold"]), (&USER.into(), &10.into()), "{role}");
        let (share, total) = (one["share"].as_f64().unwrap(), one["total_seconds"].as_f64().unwrap());
        assert!(share > 0.0 && share <= 1.0 && total > 0.0, "{role}: {one}");
        let labels = [("role", role), ("database", database.as_str())];
        let counted: Vec<_> =
            metrics.sums_by("steth_postgres_n_plus_one_total", &labels, "query").into_iter().collect();
        assert_eq!(counted, [(one["query"].as_str().unwrap().to_owned(), 1.0)], "{role}");
    }
}

/// How many make a loop, and what pause parts two of them, is for whoever runs the agent to say.
#[test]
fn what_makes_a_loop_is_configured() {
    need_postgres!();
    let sections = "[postgres]\nn_plus_one = 4\nn_plus_one_gap = \"1m\"\n".to_owned();
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let postgres = Postgres::start().unwrap();
    let [below, at] = [3, 4].map(|count| {
        let database = postgres.create_database().unwrap();
        let mut session = Session::open(&postgres, &database).unwrap();
        for n in 1..=count {
            session.query(&format!("select {n} as step")).unwrap();
        }
        database
    });
    agent.settled().unwrap();
    for (database, loops) in [(below, 0), (at, 1)] {
        for role in ROLES {
            let path = format!("/api/v1/postgres/n_plus_one?database={database}&role={role}");
            let found = agent.get_json(&path).unwrap();
            let repeats = found["repeats"].as_array().unwrap();
            assert_eq!((&found["threshold"], repeats.len()), (&4.into(), loops), "{role}: {found:#}");
            // The server reads the end of its client; the client's own end nobody tells.
            assert!(role == "client" || repeats.iter().all(|one| one["ended"] == true), "{found:#}");
        }
    }
}

#[test]
fn a_loop_outside_of_a_transaction_is_told_while_it_runs_and_when_its_client_goes() {
    need_postgres!();
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let script: String = (1..=33).map(|n| format!("select {n} as step;\n")).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("loop.sql");
    std::fs::write(&file, script).unwrap();
    let mut psql = postgres.program("psql");
    psql.args(["-X", "-q", "-U", USER, "-p", &postgres.port.to_string(), "-h"]).arg(postgres.folder());
    psql.args(["-d", &database, "-f"]).arg(&file);
    Process::start("psql", psql).unwrap().finish(SOON).unwrap();
    for role in ROLES {
        let found = agent.get_json(&format!("/api/v1/postgres/n_plus_one?database={database}&role={role}")).unwrap();
        let repeats = found["repeats"].as_array().unwrap();
        assert!(!repeats.is_empty(), "{role}");
        // A machine that is busy elsewhere may pause the client and so part the burst.
        let count: u64 = repeats.iter().map(|one| one["count"].as_u64().unwrap()).sum();
        assert!((10..=33).contains(&count) && repeats.iter().all(|one| one["ended"] == true), "{role}: {repeats:#?}");
        let service = repeats[0]["service"].as_str().unwrap();
        assert!(if role == "client" { service == "psql" } else { service.starts_with("postgres:") });
    }
}

#[test]
fn what_is_no_login_is_no_refused_one() {
    need_postgres!();
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start().unwrap();
    let server = format!("postgres:{}/cluster", postgres.folder().file_name().unwrap().to_str().unwrap());
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 0, 0, 8, 4, 210, 22, 47], &[0, 0, 0, 9, 0, 3, 0, 0, 0]] {
        let mut stream = TcpStream::connect(("127.0.0.1", postgres.port)).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
    }
    let metrics = agent.settled().unwrap();
    let setup =
        metrics.histogram("steth_postgres_connection_setup_seconds", &[("service", &server), ("database", "unknown")]);
    assert_eq!(setup.count, 0.0);
}
