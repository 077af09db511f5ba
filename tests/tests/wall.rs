//! What wall time is spent with: of requests to Postgres whose reason for being slow is known, and of threads that each spend
//! theirs in one known way.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use steth_tests::{
    agent::{Agent, Options, steth},
    cgroup::Group,
    need_bpf, need_postgres, need_program,
    pgwire::Session,
    postgres::Postgres,
    process::{self, Process},
    programs::{Program, SPINS, STATES, said_number},
    skipped,
    slow::{assert_event, assert_top, seconds, slow},
    wait,
};

/// A request that takes this long is told.
const SLOW: Duration = Duration::from_millis(30);
/// Requests of each kind.
const REQUESTS: usize = 20;
const SOON: Duration = Duration::from_secs(30);

fn start() -> (Agent, Postgres) {
    let postgres = Postgres::start().unwrap();
    (watch(), postgres)
}

/// An agent that tells of slow requests.
fn watch() -> Agent {
    let sections = format!("[postgres]\nslow_query = \"{}ms\"\nslow_rate = 1000\n", SLOW.as_millis());
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    // What processes of the server note is found in its first windows.
    agent.settled().unwrap();
    agent
}

fn backend_of(postgres: &Postgres, database: &str) -> u32 {
    let who = format!("select pid from pg_stat_activity where datname = '{database}' and pid <> pg_backend_pid()");
    postgres.psql(database, &who).unwrap().parse().unwrap()
}

fn run(program: &str, arguments: &[&str]) {
    let mut command = process::command(program, None);
    command.args(arguments);
    Process::start(program, command).unwrap().finish(SOON).unwrap();
}

/// Whoever else is busy on this machine has to wait for this process.
fn prefer(pid: u32) {
    run("chrt", &["--rr", "--pid", "1", &pid.to_string()]);
}

/// CPU and run-queue time of a process with one thread, as the kernel has it.
fn schedstat(pid: u32) -> [f64; 2] {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let mut numbers = text.split_whitespace().map(|number| number.parse::<f64>().unwrap() / 1e9);
    [numbers.next().unwrap(), numbers.next().unwrap()]
}

/// CPU time that the host took from this machine.
fn stolen() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let ticks: f64 = text.lines().next().and_then(|all| all.split_whitespace().nth(8)).unwrap().parse().unwrap();
    ticks / 100.0
}

const COMPUTES: &str = "select count(md5(g::text)) from generate_series(1, 150000) g";

#[test]
fn a_request_that_computes_is_on_a_cpu_as_long_as_the_kernel_says() {
    need_postgres!();
    need_program!("chrt");
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    let backend = backend_of(&postgres, &database);
    prefer(backend);
    let (before, stolen_before) = (schedstat(backend), stolen());
    for _ in 0..REQUESTS {
        assert_eq!(session.query(COMPUTES).unwrap(), None);
    }
    let (after, stolen) = (schedstat(backend), stolen() - stolen_before);
    let queries = slow(&agent, backend, "generate_series", REQUESTS);
    assert_top(&queries, "on_cpu");
    let all = |state| queries.iter().map(|query| seconds(query, state)).sum::<f64>();
    let (unknown, computed) = (all("unknown"), after[0] - before[0]);
    assert!(unknown < 0.02 * computed, "{unknown} of {computed} is unknown");
    for (at, state) in ["on_cpu", "run_queue"].into_iter().enumerate() {
        let (ours, truth) = (all(state), after[at] - before[at]);
        let tolerance = 0.02 * computed + stolen + unknown;
        assert!((ours - truth).abs() < tolerance, "{state}: {ours}, the kernel says {truth} ± {tolerance}");
    }

    // The same in the figures of the statement, and those of its service.
    let metrics = agent.settled().unwrap();
    let labels = [("role", "server"), ("database", database.as_str())];
    let duration = metrics.sum("steth_postgres_query_duration_seconds_sum", &labels);
    let wall = metrics.sum("steth_postgres_wall_seconds_total", &labels);
    assert!((wall / duration - 1.0).abs() < 0.01, "{wall} of {duration}");
    let path = format!("/api/v1/postgres/queries?role=server&database={database}");
    let statements = agent.get_json(&path).unwrap();
    let computes = statements["queries"].as_array().unwrap().iter().find(|one| one["calls"] == REQUESTS).unwrap();
    let on_cpu = computes["wall"]["on_cpu"].as_f64().unwrap();
    assert!(on_cpu > 0.5 * computes["total_seconds"].as_f64().unwrap(), "{computes}");
}

#[test]
fn a_request_whose_cpu_belongs_to_others_is_in_a_run_queue() {
    need_postgres!();
    need_program!("taskset", "setsid", "gcc");
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    let backend = backend_of(&postgres, &database);
    let busy = Program::build("busy", SPINS).unwrap();
    // Each in a session of its own: the kernel may share a CPU out among sessions first.
    let neighbour = || {
        let mut command = process::command("setsid", None);
        command.arg(&busy.path).arg("spin");
        Process::start("spins", command).unwrap()
    };
    let neighbours: Vec<Process> = (0..4).map(|_| neighbour()).collect();
    for pid in neighbours.iter().map(Process::id).chain([backend]) {
        run("taskset", &["-p", "1", &pid.to_string()]);
    }
    for _ in 0..REQUESTS {
        session.query("select count(md5(g::text)) from generate_series(1, 30000) g").unwrap();
    }
    drop(neighbours);
    assert_top(&slow(&agent, backend, "generate_series", REQUESTS), "run_queue");
    let metrics = agent.settled().unwrap();
    let name = metrics.matching("steth_runqueue_wait_seconds_count", &[("service", &busy.name)]).count();
    assert_eq!(name, 1, "the neighbours wait for each other");
}

#[test]
fn a_request_that_waits_for_a_row_is_in_a_lock_though_it_polls() {
    need_postgres!();
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    postgres.psql(&database, "create table t (id int primary key, n int)").unwrap();
    postgres.psql(&database, "insert into t values (1, 0)").unwrap();
    let mut waiter = Session::open(&postgres, &database).unwrap();
    let backend = backend_of(&postgres, &database);
    let mut holder = Session::open(&postgres, &database).unwrap();
    for _ in 0..REQUESTS {
        holder.query("begin").unwrap();
        holder.query("update t set n = n + 1 where id = 1").unwrap();
        waiter.send("update t set n = n - 1 where id = 1").unwrap();
        // The lock takes most of it also where an emulated CPU takes as long for the rest.
        thread::sleep(wait::patient(3 * SLOW));
        holder.query("commit").unwrap();
        assert_eq!(waiter.until_ready().unwrap(), None);
        // Between requests it waits in the same call for its client.
        thread::sleep(SLOW);
    }
    let queries = slow(&agent, backend, "update", REQUESTS);
    assert_top(&queries, "lock");
    assert_event(&queries, &["Lock:transactionid", "Lock:tuple"]);
}

#[test]
fn a_request_whose_client_does_not_read_waits_for_it() {
    need_postgres!();
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    let backend = backend_of(&postgres, &database);
    for _ in 0..REQUESTS {
        // More than the buffers of both sockets hold.
        session.send("select repeat('x', 100000) from generate_series(1, 300)").unwrap();
        thread::sleep(Duration::from_millis(200));
        session.until_ready().unwrap();
    }
    let queries = slow(&agent, backend, "repeat", REQUESTS);
    assert_top(&queries, "client");
    assert_event(&queries, &["Client:ClientWrite"]);
}

#[test]
fn a_request_that_sleeps_does_so_and_one_behind_it_stands_behind_it() {
    need_postgres!();
    need_program!("chrt");
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    let backend = backend_of(&postgres, &database);
    prefer(backend);
    for _ in 0..REQUESTS {
        session.query("select pg_sleep(0.05)").unwrap();
    }
    let queries = slow(&agent, backend, "pg_sleep", REQUESTS);
    assert_top(&queries, "timeout");
    assert_event(&queries, &["Timeout:PgSleep"]);

    session.send_together(&["select 'first', pg_sleep(0.2)", "select 'second', 2, pg_sleep(0.1)"]).unwrap();
    session.until_ready().unwrap();
    session.until_ready().unwrap();
    let queries = slow(&agent, backend, "pg_sleep", REQUESTS + 2);
    assert_top(&queries[..1], "pipeline");
    let second = &queries[0];
    let [behind, asleep] = ["pipeline", "timeout"].map(|state| seconds(second, state));
    assert!((0.15..0.3).contains(&behind) && (0.09..0.2).contains(&asleep), "{second}");
}

/// Reads a second from a disk that is slow: however fast the disk below is, and its host's memory, a read takes milliseconds.
const READS_PER_SECOND: u32 = 200;

/// A group whose processes have a slow disk below the folder of temporary files; without it the test is skipped.
macro_rules! slow_disk {
    () => {
        match Group::with_slow_disk(&steth_tests::unique_name("slow"), &std::env::temp_dir(), READS_PER_SECOND) {
            Ok(group) => group,
            Err(error) => skipped!("needs a disk that can be made slow: {error:#}"),
        }
    };
}

/// Pages that are read one by one, from a file that is in nobody's memory.
#[test]
fn a_request_that_reads_cold_pages_waits_for_the_disk() {
    const PAGES: usize = 100;
    const TURNS: usize = 20;
    need_postgres!();
    need_program!("dd", "chrt");
    let disk = slow_disk!();
    // So that it reads most pages from files.
    let postgres = Postgres::start_set(&["shared_buffers=2MB"]).unwrap();
    let agent = watch();
    let database = postgres.create_database().unwrap();
    // One row a page.
    let rows = (TURNS + 1) * PAGES;
    for statement in [
        "create table t (id int, pad text)".to_owned(),
        "alter table t alter pad set storage plain".to_owned(),
        format!("insert into t select g, repeat('x', 6000) from generate_series(1, {rows}) g"),
        "create index on t (id)".to_owned(),
        "vacuum analyze t".to_owned(),
    ] {
        postgres.psql(&database, &statement).unwrap();
    }
    let file = postgres.psql(&database, "checkpoint; select pg_relation_filepath('t')").unwrap();
    let file = postgres.folder().join("cluster").join(file);
    drop_cached(&file);
    let mut session = Session::open(&postgres, &database).unwrap();
    session.query("set enable_seqscan = off; set effective_io_concurrency = 0").unwrap();
    let backend = backend_of(&postgres, &database);
    prefer(backend);
    disk.enter(backend).unwrap();
    for turn in 0..TURNS {
        drop_cached(&file);
        let ids = format!("select g * {TURNS} + {turn} from generate_series(1, {PAGES}) g");
        session.query(&format!("select sum(length(pad)) from t where id = any(array({ids}))")).unwrap();
    }
    let queries = slow(&agent, backend, "length", TURNS);
    assert_top(&queries, "disk");
    assert_event(&queries, &["IO:DataFileRead"]);
}

/// Writes a file out and has the kernel forget what it keeps of it.
fn drop_cached(file: &Path) {
    let of = format!("of={}", file.display());
    run("dd", &[&of, "oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"]);
}

#[test]
fn of_a_request_that_began_before_the_agent_nothing_is_told() {
    need_postgres!();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    let backend = backend_of(&postgres, &database);
    session.send("select 'early', pg_sleep(8)").unwrap();
    let sections = format!("[postgres]\nslow_query = \"{}ms\"\n", SLOW.as_millis());
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    session.until_ready().unwrap();
    for _ in 0..3 {
        session.query("select 'late', pg_sleep(0.05)").unwrap();
    }
    let queries = slow(&agent, backend, "pg_sleep", 3);
    assert_top(&queries[..2], "timeout");
    let whole = |query: &&Value| query["duration_seconds"].as_f64().unwrap() > 1.0;
    for early in queries.iter().filter(whole) {
        assert!(seconds(early, "unknown") > 1.0, "{early}");
    }
}

#[test]
fn a_backend_that_ends_in_the_middle_of_a_request_takes_nothing_with_it() {
    need_postgres!();
    let (agent, postgres) = start();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    let backend = backend_of(&postgres, &database);
    session.send("select pg_sleep(60)").unwrap();
    thread::sleep(Duration::from_secs(1));
    run("kill", &["-KILL", &backend.to_string()]);
    assert!(session.until_ready().is_err());
    // The server starts anew, and so does all.
    let again = || Ok(Session::open(&postgres, &database).ok());
    let mut session = wait::poll("the server to be back", SOON, again).unwrap();
    let backend = backend_of(&postgres, &database);
    session.query("select pg_sleep(0.05)").unwrap();
    assert_top(&slow(&agent, backend, "pg_sleep", 1), "timeout");
    let labels = [("role", "server"), ("database", database.as_str()), ("state", "unknown")];
    let unknown = agent.settled().unwrap().sum("steth_postgres_wall_seconds_total", &labels);
    assert!(unknown < 1.0, "{unknown} s of the request that was cut off");
}

const SERVICE_WALL: &str = "steth_service_wall_seconds_total";

#[test]
fn each_thread_adds_a_second_a_second_where_it_spends_it() {
    need_bpf!();
    need_program!("gcc");
    let agent = Agent::start(&Options::default()).unwrap();
    let program = Program::build("states", STATES).unwrap();
    let of = |state| [("service", program.name.as_str()), ("state", state)];
    let begun = Instant::now();
    let running = program.start(&["4000"]).unwrap();
    // While they go on: what waits is told as it waits.
    let so_far = |metrics: &steth_tests::exposition::Exposition| {
        ["sleep", "lock", "poll", "network", "other"].iter().all(|state| metrics.sum(SERVICE_WALL, &of(state)) > 1.0)
    };
    let metrics = agent.scrape_until("waits of a second, before they end", so_far).unwrap();
    let elapsed = begun.elapsed().as_secs_f64();
    assert!(metrics.sum(SERVICE_WALL, &of("lock")) <= elapsed, "{elapsed}");
    let said = running.finish(SOON).unwrap();
    let lived = begun.elapsed().as_secs_f64();
    let truth = said_number(&said, "us").unwrap() as f64 / 1e6;

    let metrics = agent.settled().unwrap();
    for (state, threads) in [("sleep", 2.0), ("lock", 1.0), ("poll", 1.0), ("network", 1.0), ("other", 1.0)] {
        let (ours, truth) = (metrics.sum(SERVICE_WALL, &of(state)), threads * truth);
        assert!((ours - truth).abs() < 0.05 * truth + 0.05, "{state}: {ours} of {truth}");
    }
    let runs: f64 = ["on_cpu", "run_queue"].iter().map(|state| metrics.sum(SERVICE_WALL, &of(state))).sum();
    // A switch may go by unseen: what was spent since the one before it is then unknown, and not guessed.
    let unknown = metrics.sum(SERVICE_WALL, &of("unknown"));
    // While the program starts and ends, all seven may be in the run queue; an emulated machine is seconds in that.
    let most = 1.05 * truth + 0.1 + 7.0 * (lived - truth);
    let sum = runs + unknown;
    assert!((0.95 * truth - 0.1..most).contains(&sum), "{runs} and {unknown} of {truth}, at most {most}");
    assert!(unknown < 0.02 * 7.0 * truth, "{unknown} of seven threads' {truth}");
}

/// The first read of a file past all caches.
#[test]
fn a_process_that_reads_past_the_cache_waits_for_the_disk() {
    need_bpf!();
    need_program!("dd");
    let disk = slow_disk!();
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(&Options::default()).unwrap();
    let name = format!("dd-{}", std::process::id());
    let (copy, file) = (folder.path().join(&name), folder.path().join("file"));
    run("cp", &["/bin/dd", copy.to_str().unwrap()]);
    run("dd", &["if=/dev/urandom", &format!("of={}", file.display()), "bs=1M", "count=1", "conv=fsync", "status=none"]);
    let input = format!("if={}", file.display());
    let reads = disk.command(&copy, &[&input, "of=/dev/null", "iflag=direct", "bs=4k", "status=none"]);
    Process::start("reads", reads).unwrap().finish(SOON).unwrap();
    let metrics = agent.settled().unwrap();
    let of = |state| metrics.sum(SERVICE_WALL, &[("service", name.as_str()), ("state", state)]);
    let all = metrics.sum(SERVICE_WALL, &[("service", name.as_str())]);
    let (disk, unknown) = (of("disk"), of("unknown"));
    let waits = all - of("on_cpu") - of("run_queue") - unknown;
    let told = format!("disk {disk} of {waits} waits, {unknown} unknown, {all} in all");
    assert!(disk > 0.95 * waits && disk > 0.2 * all && unknown < 0.05 * all, "{told}");
}

#[test]
fn switched_off_nothing_is_told_and_nothing_runs() {
    need_bpf!();
    let sections = "[probes]\nwall = false\n";
    let agent = Agent::start(&Options { sections: sections.into(), ..Options::default() }).unwrap();
    let metrics = agent.settled().unwrap();
    for metric in [SERVICE_WALL, "steth_postgres_wall_seconds_total", "steth_runqueue_wait_seconds_count"] {
        assert_eq!(metrics.matching(metric, &[]).count(), 0, "{metric}");
    }
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("steth.toml");
    fs::write(&config, sections).unwrap();
    let (code, out, _) = steth(&["doctor", "--json", "--config", config.to_str().unwrap()]).unwrap();
    assert_eq!(code, Some(0));
    let probes = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let switch = probes.filter(|line| line["name"] == "sched_switch").map(|line| line["state"].clone());
    assert_eq!(switch.collect::<Vec<_>>(), ["ready"]);
}
