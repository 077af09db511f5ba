//! Query figures against pgbench's own log and against `pg_stat_statements`.

use std::collections::{BTreeMap, BTreeSet};

use steth_tests::{
    agent::{Agent, Options},
    exposition::Exposition,
    need_postgres,
    pgbench::{Endpoint, Mode, Pgbench, Run},
    postgres::Postgres,
};

const DURATION: &str = "steth_postgres_query_duration_seconds";
const COUNT: &str = "steth_postgres_query_duration_seconds_count";
const ROLES: [&str; 2] = ["server", "client"];

/// An agent that sees every connection from its beginning, and a cluster.
fn start() -> (Agent, Postgres) {
    let agent = Agent::start(&Options::default()).unwrap();
    (agent, Postgres::start().unwrap())
}

fn by(metrics: &Exposition, role: &str, database: &str, label: &str) -> Vec<(String, f64)> {
    metrics.sums_by(COUNT, &[("role", role), ("database", database)], label).into_iter().collect()
}

/// A statement whose literals differ from transaction to transaction, and that is still one statement.
const SINGLE: &str = "\\set id random(1, 100000)\nselect :id + 1;\n";
const TRANSACTION: &str = "\\set id random(1, 100000)\nbegin;\nselect :id + 1;\nselect 'x', :id - 1;\ncommit;\n";

/// A statement that is prepared is parsed in a cycle of its own, which executes nothing: that is no query.
#[test]
fn every_query_is_counted_once_in_every_mode_over_every_socket() {
    need_postgres!();
    let (agent, postgres) = start();
    let mut runs = Vec::new();
    for (mode, endpoint) in Mode::ALL.into_iter().flat_map(|mode| Endpoint::ALL.map(|endpoint| (mode, endpoint))) {
        for (script, operations) in
            [(SINGLE, &[("SELECT", 1)][..]), (TRANSACTION, &[("BEGIN", 1), ("COMMIT", 1), ("SELECT", 2)])]
        {
            let database = postgres.create_database().unwrap();
            let run =
                Pgbench { mode, endpoint, script, clients: 2, transactions: 500 }.run(&postgres, &database).unwrap();
            runs.push((mode, endpoint, operations, database, run));
        }
    }
    let metrics = agent.settled().unwrap();
    for (mode, endpoint, operations, database, run) in &runs {
        let expected: Vec<(String, f64)> =
            operations.iter().map(|(name, each)| ((*name).to_owned(), (run.transactions * each) as f64)).collect();
        let statements: u64 = operations.iter().map(|(_, each)| each).sum();
        assert_counted_by_postgres(&postgres, database, *mode, &expected);
        for role in ROLES {
            let what = format!("{role} {mode:?} {endpoint:?} {operations:?}");
            assert_eq!(by(&metrics, role, database, "operation"), expected, "{what}");
            let queries = by(&metrics, role, database, "query");
            assert_eq!(queries.len() as u64, statements, "one fingerprint for each statement: {what}: {queries:?}");
            for (fingerprint, count) in queries {
                assert!(fingerprint.len() == 16 && fingerprint.bytes().all(|digit| digit.is_ascii_hexdigit()));
                assert_eq!(count, run.transactions as f64, "{what} {fingerprint}");
            }
        }
        let services: Vec<String> = by(&metrics, "client", database, "service").into_iter().map(|one| one.0).collect();
        assert_eq!(services, ["pgbench"]);
        let services = by(&metrics, "server", database, "service");
        assert!(
            services.len() == 1 && services[0].0.starts_with("postgres:"),
            "the cluster, not its backends: {services:?}"
        );

        if operations.len() > 1 {
            let transactions = [("role", "server"), ("database", database.as_str())];
            let counted = metrics.sum("steth_postgres_transactions_total", &transactions);
            assert_eq!(counted, run.transactions as f64);
        }
    }
}

/// PostgreSQL's own count is the same truth; see `stat_statements` for what it leaves out of prepared utility
/// statements.
fn assert_counted_by_postgres(postgres: &Postgres, database: &str, mode: Mode, expected: &[(String, f64)]) {
    let mut counted: BTreeMap<String, f64> = BTreeMap::new();
    for statement in postgres.stat_statements(database).unwrap() {
        let operation = statement.text.split_whitespace().next().unwrap().to_uppercase();
        *counted.entry(operation).or_default() += statement.calls as f64;
    }
    for (operation, count) in expected {
        if mode != Mode::Prepared || operation == "SELECT" {
            assert_eq!(counted.get(operation), Some(count), "{mode:?} {operation}: {counted:?}");
        }
    }
}

/// A busy machine lengthens what pgbench sees of some runs: a pause between its clock and its system call is in its figure and
/// not in ours. A fault of ours is in every run.
const ROUNDS: usize = 3;

/// The truth of each round beside the client's histogram of it, by mode and endpoint.
fn rounds(
    postgres: &Postgres,
    bench: impl Fn(Mode, Endpoint) -> Pgbench<'static>,
    modes: &[Mode],
) -> Vec<(String, Vec<(String, Run)>)> {
    let kinds = modes.iter().flat_map(|mode| Endpoint::ALL.map(|endpoint| (*mode, endpoint)));
    let run = |bench: &Pgbench<'_>| -> (String, Run) {
        let database = postgres.create_database().unwrap();
        let run = bench.run(postgres, &database).unwrap();
        (database, run)
    };
    kinds
        .map(|(mode, endpoint)| {
            let bench = bench(mode, endpoint);
            (format!("{mode:?} {endpoint:?}"), (0..ROUNDS).map(|_| run(&bench)).collect())
        })
        .collect()
}

/// One query in one transaction of one client, so that pgbench's latency of the transaction is the query's.
#[test]
fn median_p99_and_mean_of_the_client_are_those_of_pgbench() {
    need_postgres!();
    let (agent, postgres) = start();
    let bench = |mode, endpoint| Pgbench { mode, endpoint, script: SINGLE, clients: 1, transactions: 2_000 };
    let kinds = rounds(&postgres, bench, &Mode::ALL);
    let metrics = agent.settled().unwrap();
    for (what, rounds) in &kinds {
        let mut means = Vec::new();
        let mut quantiles: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (database, run) in rounds {
            let ours = metrics.histogram(DURATION, &[("role", "client"), ("database", database)]);
            assert_eq!(ours.count, run.transactions as f64);
            means.push((ours.mean().unwrap(), run.mean()));
            let listed = format!("/api/v1/postgres/queries?role=client&database={database}");
            let listed = &agent.get_json(&listed).unwrap()["queries"][0];
            for (quantile, near, field) in [(0.5, 0.02, "p50"), (0.95, 0.01, "p95"), (0.99, 0.005, "p99")] {
                let ours = ours.quantile(quantile).unwrap();
                let told = listed[format!("{field}_seconds")].as_f64().unwrap();
                // Where few lie, as between the times of a quiet and those of a busy machine, neighbours in rank are far apart.
                let [least, most] = [quantile - near, quantile + near].map(|quantile| run.quantile(quantile));
                // Within its bucket, an eighth wide, a quantile is a guess: where a busy machine makes it long, that counts for more.
                let tolerance = |truth: f64| (0.02 * truth + 20e-6).max(truth / 8.0);
                let bounds = least - tolerance(least)..=most + tolerance(most);
                let missed = quantiles.entry(field).or_default();
                if !(bounds.contains(&ours) && bounds.contains(&told)) {
                    missed.push(format!("metrics {ours} s, API {told} s, pgbench {bounds:?} s"));
                }
            }
        }
        assert_near(what, &means);
        for (field, missed) in quantiles {
            assert!(missed.len() < ROUNDS, "{what} {field} in every round: {missed:?}");
        }
    }
}

/// Where buckets are wide against the tolerance the exact sum tells: 10 ms asked for, and what came on top.
#[test]
fn the_mean_of_slow_queries_is_that_of_pgbench() {
    need_postgres!();
    let (agent, postgres) = start();
    let script = "select pg_sleep(0.01);\n";
    let bench = |mode, endpoint| Pgbench { mode, endpoint, script, clients: 1, transactions: 50 };
    let kinds = rounds(&postgres, bench, &[Mode::Extended]);
    let metrics = agent.settled().unwrap();
    for (what, rounds) in &kinds {
        let mean = |role, database: &str| {
            metrics.histogram(DURATION, &[("role", role), ("database", database)]).mean().unwrap()
        };
        let client = rounds.iter().map(|(database, run)| (mean("client", database), run.mean()));
        assert_near(what, &client.collect::<Vec<_>>());
        for (database, _) in rounds {
            let [server, client] = ROLES.map(|role| mean(role, database));
            assert!((0.01..=client).contains(&server), "the server is inside the client: {server} s of {client} s");
        }
    }
}

/// Pairs of our mean and pgbench's, in seconds. Ours lies within pgbench's, always; pgbench writes whole microseconds.
fn assert_near(what: &str, means: &[(f64, f64)]) {
    let is_inside = |(ours, truth): &(f64, f64)| *ours <= truth + 1e-6;
    let is_near = |(ours, truth): &(f64, f64)| truth - ours <= 0.02 * truth + 20e-6;
    assert!(means.iter().all(is_inside), "{what}: longer than pgbench's (ours, pgbench's): {means:?} s");
    assert!(means.iter().any(is_near), "{what}: far from pgbench's in every round (ours, pgbench's): {means:?} s");
}

#[test]
fn statements_and_results_of_any_size_are_followed() {
    need_postgres!();
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    let long = format!("select length('{}')", "x".repeat(100_000));
    postgres.psql(&database, &long).unwrap();
    postgres.psql(&database, "select repeat('y', 1000) from generate_series(1, 20000)").unwrap();
    postgres.psql(&database, "select repeat('z', 30000000)").unwrap();
    // The same connection goes on after each of them when a session runs several.
    let script = "select repeat('w', 200000);\nselect 1;\n";
    let run = Pgbench { mode: Mode::Prepared, endpoint: Endpoint::Tcp, script, clients: 1, transactions: 50 };
    run.run(&postgres, &database).unwrap();
    let counted = postgres.stat_statements(&database).unwrap();
    let (calls, rows) = counted.iter().fold((0, 0), |(calls, rows), one| (calls + one.calls, rows + one.rows));
    assert_eq!((calls, rows), (3 + 100, 1 + 20_000 + 1 + 100));
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let labels = [("role", role), ("database", database.as_str())];
        assert_eq!(metrics.sum(COUNT, &labels), calls as f64, "{role}");
        assert_eq!(metrics.sum("steth_postgres_rows_total", &labels), rows as f64, "{role}");
    }
}

#[test]
fn sessions_of_a_moment_are_attributed() {
    need_postgres!();
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    for _ in 0..20 {
        postgres.psql(&database, "select 1").unwrap();
    }
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        assert_eq!(by(&metrics, role, &database, "operation"), [("SELECT".to_owned(), 20.0)], "{role}");
    }
    assert_eq!(by(&metrics, "client", &database, "service"), [("psql".to_owned(), 20.0)]);
}

#[test]
fn errors_are_counted_by_sqlstate() {
    need_postgres!();
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    for _ in 0..3 {
        postgres.psql(&database, "select * from nowhere").unwrap_err();
    }
    postgres.psql(&database, "select 1 / 0").unwrap_err();
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let labels = [("role", role), ("database", database.as_str())];
        let errors = metrics.sums_by("steth_postgres_errors_total", &labels, "sqlstate");
        // undefined_table and division_by_zero (PostgreSQL manual, appendix A).
        assert_eq!(errors.into_iter().collect::<Vec<_>>(), [("22012".to_owned(), 1.0), ("42P01".to_owned(), 3.0)]);
    }
}

#[test]
fn no_literal_reaches_the_metrics() {
    need_postgres!();
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    postgres.psql(&database, "select 'hunter2secret' where 4711000815 > 1").unwrap();
    agent.settled().unwrap();
    let text = agent.scrape_raw().unwrap() + &agent.log();
    let found: BTreeSet<_> = ["hunter2secret", "4711000815"].into_iter().filter(|word| text.contains(word)).collect();
    assert!(found.is_empty(), "{found:?}");
    assert!(text.contains(&database), "the query itself was seen");
}
