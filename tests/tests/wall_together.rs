//! What wall time of requests to Postgres is spent with where several processes are about it: parallel workers, and others that
//! hold a lightweight lock.

use std::{thread, time::Duration};

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options},
    need_postgres,
    pgwire::Session,
    postgres::Postgres,
    slow::{assert_event, assert_top, seconds, slow, slow_of},
};

/// A request that takes this long is told.
const SLOW: Duration = Duration::from_millis(30);

/// An agent that tells of slow requests.
fn watch() -> Agent {
    let sections = format!("[postgres]\nslow_query = \"{}ms\"\nslow_rate = 1000\n", SLOW.as_millis());
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    // What processes of the server note is found in its first windows.
    agent.settled().unwrap();
    agent
}

/// Its leader does not take part, so all of the work is theirs.
#[test]
fn the_parallel_workers_of_a_request_are_told_with_it() {
    const TURNS: usize = 5;
    const WORKERS: usize = 2;
    need_postgres!();
    let postgres = Postgres::start().unwrap();
    let agent = watch();
    let database = postgres.create_database().unwrap();
    postgres.psql(&database, "create table t as select g from generate_series(1, 300000) g").unwrap();
    postgres.psql(&database, "vacuum analyze t").unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    for set in [
        "min_parallel_table_scan_size = 0",
        "parallel_setup_cost = 0",
        "parallel_tuple_cost = 0",
        "max_parallel_workers_per_gather = 2",
        "parallel_leader_participation = off",
    ] {
        session.query(&format!("set {set}")).unwrap();
    }
    // Another backend's workers, at the same time, are its own.
    let mut other = Session::open(&postgres, &database).unwrap();
    other.query("set parallel_setup_cost = 0; set min_parallel_table_scan_size = 0").unwrap();
    let backend: u32 = {
        let who = "select pid from pg_stat_activity where query like 'set parallel_leader%'";
        postgres.psql(&database, who).unwrap().parse().unwrap()
    };
    for _ in 0..TURNS {
        other.send("select count(md5(g::text || 'other')) from t").unwrap();
        session.query("select count(md5(md5(g::text))) from t").unwrap();
        other.until_ready().unwrap();
    }
    // What is cached needs no workers' disk, and what is counted by one process none at all.
    session.query("set max_parallel_workers_per_gather = 0").unwrap();
    session.query("select count(md5(md5(g::text))), 'alone' from t").unwrap();
    let queries = slow(&agent, backend, "md5", TURNS + 1);
    let (alone, together): (Vec<&Value>, Vec<&Value>) =
        queries.iter().partition(|query| query["statement"].as_str().unwrap().contains("),"));
    assert_eq!((alone.len(), together.len()), (1, TURNS), "{queries:#?}");
    assert_eq!(alone[0]["workers"].as_array().unwrap().len(), 0, "{}", alone[0]);
    let mut workers = Vec::new();
    for query in together {
        let of_it = query["workers"].as_array().unwrap();
        assert_eq!(of_it.len(), WORKERS, "{query}");
        assert!(
            seconds(query, "ipc") > 0.5 * query["duration_seconds"].as_f64().unwrap(),
            "it waits for them: {query}"
        );
        let computed: f64 = of_it.iter().map(|worker| seconds(worker, "on_cpu")).sum();
        assert!(computed > seconds(query, "on_cpu"), "they do the work: {query}");
        for worker in of_it {
            let duration = worker["duration_seconds"].as_f64().unwrap();
            let sum: f64 = worker["wall"].as_object().unwrap().values().filter_map(Value::as_f64).sum();
            assert!((sum / duration - 1.0).abs() < 0.01, "{sum} of {duration}: {worker}");
            assert!(duration < query["duration_seconds"].as_f64().unwrap(), "{query}");
            assert!(seconds(worker, "unknown") < 0.1 * duration, "{worker}");
            workers.push(worker["pid"].as_u64().unwrap());
        }
    }
    workers.sort_unstable();
    workers.dedup();
    assert_eq!(workers.len(), TURNS * WORKERS, "each is a process of its own");
    // Beside what the cycles themselves spent.
    let metrics = agent.settled().unwrap();
    let computed = metrics.sum("steth_postgres_worker_wall_seconds_total", &[("state", "on_cpu")]);
    let told: f64 = queries
        .iter()
        .flat_map(|query| query["workers"].as_array().unwrap())
        .map(|worker| seconds(worker, "on_cpu"))
        .sum();
    assert!(computed > told, "{computed}, of which {told} was told");
}

/// How many of those who insert the server itself says to wait so, of how many, looked at until all have ended.
fn looked(postgres: &Postgres, database: &str, how: &str, running: &[thread::ScopedJoinHandle<()>]) -> (u32, u32) {
    let look = format!(
        "select concat(count(*) filter (where {how}), ' ', count(*)) from pg_stat_activity \
         where state = 'active' and query like 'insert%'"
    );
    let (mut waiting, mut all) = (0, 0);
    while !running.iter().all(thread::ScopedJoinHandle::is_finished) {
        let counts = postgres.psql(database, &look).unwrap();
        let (some, any) = counts.split_once(' ').unwrap();
        waiting += some.parse::<u32>().unwrap();
        all += any.parse::<u32>().unwrap();
    }
    (waiting, all)
}

/// Many write so much at a time that all of them stand before the few pages of the log that are kept in memory: whoever writes
/// one out has the others wait.
#[test]
fn a_request_that_waits_for_the_log_is_in_a_lightweight_lock() {
    const SESSIONS: usize = 12;
    const TURNS: usize = 5;
    need_postgres!();
    let set = [
        "fsync=on",
        "wal_buffers=32kB",
        "synchronous_commit=off",
        "wal_sync_method=open_datasync",
        "shared_buffers=64MB",
    ];
    let postgres = Postgres::start_set(&set).unwrap();
    let agent = watch();
    let database = postgres.create_database().unwrap();
    for table in 0..SESSIONS {
        let create = format!("create table t{table} (pad text); alter table t{table} alter pad set storage plain");
        postgres.psql(&database, &create).unwrap();
    }
    let sessions: Vec<Session> = (0..SESSIONS).map(|_| Session::open(&postgres, &database).unwrap()).collect();
    let said = thread::scope(|scope| {
        let mut running = Vec::new();
        for (table, mut session) in sessions.into_iter().enumerate() {
            running.push(scope.spawn(move || {
                for _ in 0..TURNS {
                    // Each to a table of its own, so that they share nothing but the log.
                    let insert = format!("insert into t{table} select repeat('x', 6000) from generate_series(1, 200)");
                    assert_eq!(session.query(&insert).unwrap(), None);
                }
            }));
        }
        looked(&postgres, &database, "wait_event_type = 'LWLock'", &running)
    });
    assert!(2 * said.0 > said.1, "the server says that {} of {} looks met such a lock", said.0, said.1);
    let queries = slow_of(&agent, &format!("database={database}"), "insert", SESSIONS * TURNS * 9 / 10);
    assert_top(&queries, "lock");
    assert_event(&queries, &["LWLock:WALWrite", "LWLock:WALBufMapping", "LWLock:WALInsert"]);
}

/// All insert into one page of an index whose order is asked of a slow function: whoever compares holds the page, as it does while
/// it waits for a disk, and the others wait for that.
#[test]
fn a_request_that_waits_for_a_page_that_others_hold_is_in_a_lightweight_lock() {
    const SESSIONS: usize = 8;
    const TURNS: usize = 6;
    need_postgres!();
    let postgres = Postgres::start().unwrap();
    let agent = watch();
    let database = postgres.create_database().unwrap();
    let setup = "create function compared(a int, b int) returns int language plpgsql immutable as $$
                     begin perform pg_sleep(0.01); return btint4cmp(a, b); end $$;
                 create operator class compared_ops for type int using btree as
                     operator 1 <, operator 2 <=, operator 3 =, operator 4 >=, operator 5 >, function 1 compared(int, int);
                 create table hot (n int) with (autovacuum_enabled = off);
                 insert into hot select generate_series(1, 4);
                 create index on hot using btree (n compared_ops)";
    postgres.psql(&database, setup).unwrap();
    let sessions: Vec<Session> = (0..SESSIONS).map(|_| Session::open(&postgres, &database).unwrap()).collect();
    let said = thread::scope(|scope| {
        let mut running = Vec::new();
        for (number, mut session) in sessions.into_iter().enumerate() {
            running.push(scope.spawn(move || {
                for turn in 0..TURNS {
                    assert_eq!(session.query(&format!("insert into hot values ({})", number + turn)).unwrap(), None);
                    // Whoever is woken comes first: who has just held the page does not take it again at once.
                    thread::sleep(SLOW);
                }
            }));
        }
        looked(&postgres, &database, "wait_event = 'BufferContent'", &running)
    });
    assert!(2 * said.0 > said.1, "the server says that {} of {} looks met such a lock", said.0, said.1);
    let mut queries = slow_of(&agent, &format!("database={database}"), "insert", SESSIONS * TURNS * 9 / 10);
    // Before all of them wait, and once the first are through, some find it free.
    queries.sort_by_key(|query| query["begun_unix_us"].as_u64());
    let crowded = &queries[SESSIONS..queries.len() - SESSIONS];
    assert_top(crowded, "lock");
    assert_event(crowded, &["LWLock:BufferContent"]);
}
