//! Postgres through a pooler that lends few connections to many clients: each query passes two servers and two clients, and each
//! of the four counts it once.

use std::collections::BTreeMap;

use steth_tests::{
    agent::{Agent, Options},
    exposition::Exposition,
    need_postgres, need_program,
    pgbench::{Endpoint, Mode, Pgbench, Run},
    pgbouncer::Pgbouncer,
    postgres::Postgres,
};

const SUM: &str = "steth_postgres_query_duration_seconds_sum";
const COUNT: &str = "steth_postgres_query_duration_seconds_count";
/// `select ?`, of which the pooler asks none itself.
const SCRIPT: &str = "begin;\nselect 4711;\ncommit;\n";
const CLIENTS: u32 = 8;
const TRANSACTIONS: u32 = 100;

fn run(postgres: &Postgres, pooler: &Pgbouncer, database: &str, mode: Mode) -> Run {
    let endpoint = Endpoint::Tcp;
    let bench = Pgbench { mode, endpoint, script: SCRIPT, clients: CLIENTS, transactions: TRANSACTIONS };
    bench.run_at(postgres, database, pooler.port).unwrap()
}

/// How often what pgbench asked was counted, by role and service.
fn counted(agent: &Agent, metrics: &Exposition, database: &str) -> BTreeMap<(&'static str, String), f64> {
    let mut counted = BTreeMap::new();
    for role in ["client", "server"] {
        let path = format!("/api/v1/postgres/queries?role={role}&database={database}&limit=100");
        let all = agent.get_json(&path).unwrap();
        let asked = all["queries"].as_array().unwrap().iter().find(|it| {
            // Sessions that are older than the agent have no other statements than these.
            it["statement"].as_str().is_some_and(|text| text.eq_ignore_ascii_case("select ?"))
        });
        let query = asked.unwrap_or_else(|| panic!("{role}: {all:#}"))["query"].as_str().unwrap().to_owned();
        let labels = [("role", role), ("database", database), ("query", query.as_str())];
        for (service, count) in metrics.sums_by(COUNT, &labels, "service") {
            let known = if service.starts_with("postgres:") { "postgres".to_owned() } else { service };
            *counted.entry((role, known)).or_default() += count;
        }
    }
    counted
}

fn assert_all_count(counted: &BTreeMap<(&'static str, String), f64>, queries: f64, what: &str) {
    let ends = [("client", "pgbench"), ("client", "pgbouncer"), ("server", "pgbouncer"), ("server", "postgres")];
    let expected = ends.map(|(role, service)| ((role, service.to_owned()), queries));
    assert_eq!(*counted, BTreeMap::from(expected), "{what}");
}

#[test]
fn queries_through_a_pooler_are_counted_once_at_each_of_four_ends() {
    need_postgres!();
    need_program!("pgbouncer");
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start().unwrap();
    for (pool, mode) in [
        ("transaction", Mode::Simple),
        ("transaction", Mode::Extended),
        ("session", Mode::Extended),
        ("session", Mode::Prepared),
    ] {
        let database = postgres.create_database().unwrap();
        let lent = if pool == "session" { CLIENTS } else { 2 };
        let pooler = Pgbouncer::start(&postgres, pool, lent).unwrap();
        let truth = run(&postgres, &pooler, &database, mode);
        let metrics = agent.settled().unwrap();
        let what = format!("{pool} {mode:?}");
        assert_all_count(&counted(&agent, &metrics, &database), truth.transactions as f64, &what);
        // Who waits for a connection to be lent does so at the client's end, and not at the server's.
        let seconds = |role| metrics.sum(SUM, &[("role", role), ("database", &database)]);
        let (client, server) = (seconds("client"), seconds("server"));
        assert!(client > 0.0 && server > 0.0, "{what}: {client} s, {server} s");
    }
}

#[test]
fn a_pooler_that_is_older_than_the_agent_is_followed_as_well() {
    need_postgres!();
    need_program!("pgbouncer");
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let pooler = Pgbouncer::start(&postgres, "transaction", 2).unwrap();
    // Its two connections to the server are open from then on.
    run(&postgres, &pooler, &database, Mode::Simple);
    let agent = Agent::start(&Options::default()).unwrap();
    let truth = run(&postgres, &pooler, &database, Mode::Extended);
    let metrics = agent.settled().unwrap();
    // The database of a session that began before the agent is not known at its ends.
    let known = |role, service: &str| {
        let all = metrics.sums_by(COUNT, &[("role", role)], "service");
        all.into_iter().filter(|(name, _)| name.starts_with(service)).map(|(_, count)| count).sum::<f64>()
    };
    let statements = 3.0 * truth.transactions as f64;
    for (role, service) in
        [("client", "pgbench"), ("server", "pgbouncer"), ("client", "pgbouncer"), ("server", "postgres:")]
    {
        let count = known(role, service);
        assert!(count >= statements && count < 1.02 * statements + 20.0, "{role} {service}: {count} of {statements}");
    }
}
