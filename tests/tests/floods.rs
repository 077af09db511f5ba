//! Floods of names: what they take is bounded, what they do not find room for is counted, others keep theirs, and whoever is
//! observed does not notice.

use std::fmt::Write;

use steth_tests::{
    agent::{Agent, Options},
    exposition::Exposition,
    need_bpf, need_postgres, need_program,
    observed::Observed,
    pgbouncer::Pgbouncer,
    pgwire::Session,
    programs::{CONNECT, PEERS, Program},
    skipped,
};

fn full(metrics: &Exposition, map: &str) -> f64 {
    metrics.sum("steth_cells_full_total", &[("map", map)])
}

fn errors(metrics: &Exposition, labels: &[(&str, &str)]) -> f64 {
    metrics.sum("steth_postgres_errors_total", labels)
}

/// Processors that the kernel keeps cells for, plugged in or not: `0-7`, `0,2-3` (kernel,
/// Documentation/admin-guide/cputopology.rst).
fn possible_processors() -> usize {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap();
    let last = list.trim().rsplit([',', '-']).next().unwrap();
    last.parse::<usize>().unwrap() + 1
}

#[test]
fn a_flood_of_peers_leaves_room_for_new_statements() {
    need_bpf!();
    need_program!("gcc");
    need_postgres!();
    const PEERS_CALLED: f64 = 1000.0;
    // Before the agent, so that what it takes to make a cluster takes no room.
    let observed = Observed::start().unwrap();
    // Some 1,800 cells, which are kept for each processor: the peers find no room for all of theirs.
    let sections = format!("[kernel]\nmemory = \"{}MiB\"\n", 10 * possible_processors());
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let flood = Program::build("peer", PEERS).unwrap();
    assert_eq!(flood.run(&[&PEERS_CALLED.to_string()]).unwrap(), format!("refused={PEERS_CALLED}"));
    let metrics = agent.settled().unwrap();
    let own = [("service", flood.name.as_str()), ("outcome", "refused")];
    let counted = metrics.sum("steth_tcp_connect_duration_seconds_count", &own);
    assert!(counted > 0.0 && counted + full(&metrics, "histograms") >= PEERS_CALLED, "{counted} of {PEERS_CALLED}");
    assert!(full(&metrics, "histograms") > 0.0, "there was room for all");

    observed.postgres.psql("postgres", "create database flooded").unwrap();
    let mut session = Session::open(&observed.postgres, "flooded").unwrap();
    for _ in 0..7 {
        session.query("select 'never seen before', 1 + 1").unwrap();
    }
    let metrics = agent.settled().unwrap();
    for role in ["client", "server"] {
        let own = [("database", "flooded"), ("role", role), ("operation", "SELECT")];
        assert_eq!(metrics.sum("steth_postgres_query_duration_seconds_count", &own), 7.0, "{role}");
    }
    assert!(agent.stop().unwrap().success());
    observed.end().unwrap();
}

#[test]
fn of_a_hundred_thousand_statements_each_is_counted() {
    need_bpf!();
    need_postgres!();
    const STATEMENTS: u32 = 100_000;
    // What `limits.shown_queries` is for agents of tests.
    const SHOWN: usize = 1000;
    let agent = Agent::start(&Options::default()).unwrap();
    let observed = Observed::start().unwrap();
    observed.postgres.psql("postgres", "create database flooded").unwrap();
    let mut session = Session::open(&observed.postgres, "flooded").unwrap();
    for statement in 0..STATEMENTS {
        assert_eq!(session.query(&format!("select 1 as c{statement}")).unwrap(), None);
    }
    let metrics = agent.settled().unwrap();
    for role in ["client", "server"] {
        let own = [("database", "flooded"), ("role", role)];
        for name in ["steth_postgres_query_duration_seconds_count", "steth_postgres_statements_total"] {
            assert_eq!(metrics.sum(name, &own), f64::from(STATEMENTS), "{role} {name}");
        }
        let other = [("database", "flooded"), ("role", role), ("query", "other")];
        assert!(metrics.sum("steth_postgres_query_duration_seconds_count", &other) > 0.0, "{role}");
        let shown = metrics.matching("steth_postgres_query_duration_seconds_count", &own).count();
        assert!(shown <= SHOWN + 1, "{role}: {shown} are shown");
    }
    assert_bounded(&metrics);
    assert!(agent.stop().unwrap().success());
    observed.end().unwrap();
}

/// A pooler takes them: a server's process for each would need the memory of a large machine. Both ends are on this host.
#[test]
fn queries_of_ten_thousand_connections_are_each_counted() {
    need_bpf!();
    need_postgres!();
    need_program!("pgbouncer");
    const CONNECTIONS: usize = 10_000;
    if let Some(why) = raise_descriptors(CONNECTIONS as u64 + 500) {
        skipped!("{why}");
    }
    let own = std::env::current_exe().unwrap();
    let own = own.file_name().unwrap().to_str().unwrap();
    // There is no room for the conversations of both ends, and there is.
    for (memory, room) in [("32MiB", false), ("96MiB", true)] {
        let sections = format!("[kernel]\nmemory = \"{memory}\"\n");
        let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
        let observed = Observed::start().unwrap();
        let pooler = Pgbouncer::start(&observed.postgres, "transaction", 10).unwrap();
        let database = observed.postgres.create_database().unwrap();
        let mut sessions: Vec<Session> =
            (0..CONNECTIONS).map(|_| Session::open_at(pooler.port, &database).unwrap()).collect();
        for _ in 0..2 {
            for session in &mut sessions {
                assert_eq!(session.query("select 'one of many'").unwrap(), None);
            }
        }
        let metrics = agent.settled().unwrap();
        let query = steth::postgres::statement(b"select 'one of many'", false).fingerprint.to_string();
        for (service, role) in [(own, "client"), ("pgbouncer", "server")] {
            let labels = [("service", service), ("role", role), ("query", query.as_str())];
            for name in ["steth_postgres_statements_total", "steth_postgres_query_duration_seconds_count"] {
                assert_eq!(metrics.sum(name, &labels), 2.0 * CONNECTIONS as f64, "{memory} {role}");
            }
            let idle = metrics.sum("steth_postgres_connections", &[("service", service), ("role", role)]);
            assert_eq!(idle >= CONNECTIONS as f64, room, "{memory} {role}: {idle} are shown");
        }
        // A conversation that is forgotten is found again by its next request; its names are not.
        assert_eq!(full(&metrics, "wires") == 0.0, room, "{memory}");
        assert_bounded(&metrics);
        observed.end().unwrap();
    }
}

/// An agent that has taken in a flood: four times what one at rest takes.
fn assert_bounded(metrics: &Exposition) {
    let resident = metrics.sum("steth_agent_resident_bytes", &[]);
    println!("{:.1} MiB are resident", resident / 1048576.0);
    assert!(resident < 128.0 * 1048576.0, "{resident} bytes");
}

/// Lets this process open so many files, if it may.
fn raise_descriptors(wanted: u64) -> Option<String> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives across the call.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0;
    (!known || !raised || limit.rlim_cur < wanted).then(|| format!("no more than {} files may be open", limit.rlim_max))
}

#[test]
fn a_flood_of_sqlstates_leaves_room_for_other_counters_and_loses_none() {
    need_bpf!();
    need_program!("gcc");
    need_postgres!();
    // Each is a cell at either end, of 8,192 that there are for everything.
    const STATES: u32 = 4000;
    let agent = Agent::start(&Options::default()).unwrap();
    let observed = Observed::start().unwrap();
    observed.postgres.psql("postgres", "create database flooded").unwrap();
    let mut session = Session::open(&observed.postgres, "flooded").unwrap();
    for state in 0..STATES {
        let mut sqlstate = String::from("S");
        let _ = write!(sqlstate, "{state:04}");
        let raised = session.query(&format!("do $$ begin raise sqlstate '{sqlstate}'; end $$")).unwrap();
        assert_eq!(raised.as_deref(), Some(sqlstate.as_str()));
    }
    let metrics = agent.settled().unwrap();
    assert!(full(&metrics, "counters") > 0.0, "there was room for all");
    for role in ["client", "server"] {
        let own = errors(&metrics, &[("database", "flooded"), ("role", role)]);
        let folded = errors(&metrics, &[("service", "other"), ("role", role), ("sqlstate", "other")]);
        // Errors of others on this host may be folded as well.
        assert!(own < f64::from(STATES) && own + folded >= f64::from(STATES), "{role}: {own} and {folded}");
    }

    let caller = Program::build("call", CONNECT).unwrap();
    caller.run(&["127.0.0.1", "1", "0", "0"]).unwrap();
    let metrics = agent.settled().unwrap();
    let refused = [("service", caller.name.as_str()), ("syscall", "connect"), ("errno", "ECONNREFUSED")];
    assert_eq!(metrics.sum("steth_syscall_errors_total", &refused), 1.0);
    assert!(agent.stop().unwrap().success());
    observed.end().unwrap();
}
