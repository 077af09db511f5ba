//! What is no question and answer: streams of replication, copies that the client gives up, requests that are cancelled.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    time::Duration,
};

use steth_tests::{
    agent::{Agent, Options},
    exposition::Exposition,
    need_bpf, need_postgres, need_program,
    pgbench::{Endpoint, Mode, Pgbench},
    pgwire::Session,
    postgres::Postgres,
    process::{self, Process, send_signal},
    wait,
};

const STATEMENTS: &str = "steth_postgres_statements_total";
const CYCLES: &str = "steth_postgres_query_duration_seconds_count";
const ERRORS: &str = "steth_postgres_errors_total";
const ROLES: [&str; 2] = ["server", "client"];
const SOON: Duration = Duration::from_secs(60);

/// Conversations that went out of step, or in which more was under way than is followed.
fn lost(metrics: &Exposition) -> BTreeMap<String, f64> {
    let mut lost = metrics.sums_by("steth_records_lost_total", &[("map", "wires")], "reason");
    lost.retain(|_, count| *count > 0.0);
    lost
}

/// A base backup is taken over two connections: one asks and gets all files as COPY data, the other becomes a stream in both
/// directions. PostgreSQL logs each command that it takes on them.
#[test]
fn commands_of_replication_are_counted_and_their_streams_disturb_nobody() {
    need_postgres!();
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start_set(&[
        "wal_level=replica",
        "max_wal_senders=4",
        "log_replication_commands=on",
        "log_min_messages=log",
    ])
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut runs = 0.0;
    for (number, host) in ["127.0.0.1", postgres.folder().to_str().unwrap()].into_iter().enumerate() {
        let database = postgres.create_database().unwrap();
        let mut backup = postgres.program("pg_basebackup");
        backup.args(["-h", host, "-p", &postgres.port.to_string(), "-U", "postgres"]);
        backup.args(["-X", "stream", "-c", "fast", "--no-sync", "-D"]).arg(folder.path().join(number.to_string()));
        let backup = Process::start("pg_basebackup", backup).unwrap();
        let script = "select 1;\n";
        let beside = Pgbench { mode: Mode::Prepared, endpoint: Endpoint::Tcp, script, clients: 1, transactions: 500 };
        runs += beside.run(&postgres, &database).unwrap().transactions as f64;
        backup.finish(SOON).unwrap();
    }
    let metrics = agent.settled().unwrap();
    let log = postgres.log().unwrap();
    let taken = log.lines().filter(|line| line.contains("received replication command:")).count() as f64;
    assert!(taken >= 8.0, "two backups take more commands: {log}");
    let asked = |role| metrics.sum(CYCLES, &[("role", role), ("service", "pg_basebackup")]);
    let texts = metrics.sums_by(STATEMENTS, &[("service", "pg_basebackup")], "query");
    assert_eq!(asked("client"), taken, "{texts:?} of\n{log}");
    assert_eq!(lost(&metrics), BTreeMap::new());
    for role in ROLES {
        let of_bench = metrics.sum(CYCLES, &[("role", role), ("operation", "SELECT")]);
        assert!(of_bench >= runs, "{role}: {of_bench} of {runs}");
    }
}

#[test]
fn a_copy_that_the_client_gives_up_is_its_error_and_the_next_request_is_itself() {
    need_postgres!();
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    session.query("create table t (n int)").unwrap();
    for data in [&[][..], &["1\n"], &["1\n", "2\n3\n"]] {
        // query_canceled (PostgreSQL manual, appendix A).
        assert_eq!(session.copy_and_fail("copy t from stdin", data).unwrap().as_deref(), Some("57014"));
        assert_eq!(session.query("select count(*) from t").unwrap(), None);
    }
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let of =
            |name, operation| metrics.sum(name, &[("role", role), ("database", &database), ("operation", operation)]);
        let errors = metrics.sums_by(ERRORS, &[("role", role), ("database", &database)], "sqlstate");
        assert_eq!(errors.get("57014"), Some(&3.0), "{role}: {errors:?}");
        assert_eq!((of(CYCLES, "COPY"), of(STATEMENTS, "COPY")), (3.0, 0.0), "{role}");
        assert_eq!((of(CYCLES, "SELECT"), of(STATEMENTS, "SELECT")), (3.0, 3.0), "{role}");
    }
    assert_eq!(lost(&metrics), BTreeMap::new());
}

/// A psql that asks for something that takes a minute.
fn sleeper(postgres: &Postgres, host: &str, database: &str) -> Process {
    let mut psql = postgres.program("psql");
    psql.args(["-X", "-h", host, "-p", &postgres.port.to_string(), "-U", "postgres", "-d", database]);
    psql.args(["-c", "select pg_sleep(60)"]);
    Process::start("psql", psql).unwrap()
}

/// psql sends a CancelRequest over a connection of its own; this is neither a login nor a question.
#[test]
fn a_request_that_is_cancelled_is_an_error_and_the_cancelling_nothing() {
    need_postgres!();
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    for host in ["127.0.0.1", postgres.folder().to_str().unwrap()] {
        let mut psql = sleeper(&postgres, host, &database);
        let mut watcher = Session::open(&postgres, "postgres").unwrap();
        let sleeps = "do $$ begin while not exists (select from pg_stat_activity where wait_event = 'PgSleep') \
                      loop perform pg_stat_clear_snapshot(); end loop; end $$";
        assert_eq!(watcher.query(sleeps).unwrap(), None);
        psql.signal("INT").unwrap();
        psql.wait(SOON).unwrap();
    }
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let labels = [("role", role), ("database", database.as_str())];
        let errors = metrics.sums_by(ERRORS, &labels, "sqlstate");
        assert_eq!(errors, BTreeMap::from([("57014".to_owned(), 2.0)]), "{role}");
        assert_eq!(metrics.sum(CYCLES, &labels), 2.0, "{role}");
    }
    let server = format!("postgres:{}/cluster", postgres.folder().file_name().unwrap().to_str().unwrap());
    let logins = |database: &str| {
        let labels = [("service", server.as_str()), ("database", database)];
        metrics.histogram("steth_postgres_connection_setup_seconds", &labels).count
    };
    assert_eq!((logins(&database), logins("unknown")), (2.0, 0.0));
    assert_eq!(lost(&metrics), BTreeMap::new());
}

/// The server says so in place of its usual last word, and closes.
#[test]
fn a_query_whose_server_is_told_to_go_has_failed() {
    need_postgres!();
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    for host in ["127.0.0.1", postgres.folder().to_str().unwrap()] {
        let mut psql = sleeper(&postgres, host, &database);
        let others = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}' and state = 'active'"
        );
        let ended = || Ok((postgres.psql("postgres", &others)? == "t").then_some(()));
        wait::poll("a query to be ended", SOON, ended).unwrap();
        assert!(!psql.wait(SOON).unwrap().success());
    }
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let labels = [("role", role), ("database", database.as_str())];
        let errors = metrics.sums_by(ERRORS, &labels, "sqlstate");
        assert_eq!(errors.into_iter().collect::<Vec<_>>(), [("57P01".to_owned(), 2.0)], "{role}");
        assert_eq!(metrics.sum(CYCLES, &labels), 2.0, "{role}");
    }
    assert_eq!(lost(&metrics), BTreeMap::new());
    let slow = agent.get_json(&format!("/api/v1/postgres/slow?database={database}")).unwrap();
    let kept = slow["queries"].as_array().unwrap().iter().filter(|it| it["sqlstate"] == "57P01").count();
    assert_eq!(kept, 4, "{slow:#}");
}

/// Nobody says a word then: the process is killed, and the kernel closes the connection.
#[test]
fn a_query_whose_connection_breaks_off_has_failed() {
    need_postgres!();
    let sections = "[kernel]\nopen_files_interval = \"1s\"\n".to_owned();
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let running = format!("select pid from pg_stat_activity where datname = '{database}' and wait_event = 'PgSleep'");
    let begun = || Ok(postgres.psql("postgres", &running)?.parse().ok());
    let hosts = ["127.0.0.1", postgres.folder().to_str().unwrap()];
    for host in hosts {
        // The client goes first; the server finds out when its statement is done, which is told to end.
        let psql = sleeper(&postgres, host, &database);
        let server = wait::poll("the query", SOON, begun).unwrap();
        psql.signal("KILL").unwrap();
        psql.finish(SOON).unwrap_err();
        assert_eq!(postgres.psql("postgres", &format!("select pg_cancel_backend({server})")).unwrap(), "t");
        let gone = || Ok(begun()?.is_none().then_some(()));
        wait::poll("the server to see it", SOON, gone).unwrap();
    }
    for host in hosts {
        let mut psql = sleeper(&postgres, host, &database);
        let server = wait::poll("the query", SOON, begun).unwrap();
        // Its own cluster's: all sessions end with it, and the server starts anew.
        send_signal(server, "KILL").unwrap();
        assert!(!psql.wait(SOON).unwrap().success());
        wait::poll("the server to be back", SOON, || Ok(postgres.psql("postgres", "select 1").ok())).unwrap();
    }
    // The end that is left reads it from its socket, and of TCP the kernel reports both. That the other end of a unix socket is
    // gone is found at the second look at all open files: then nothing is known but how many waited.
    let unseen = [("map", "wires"), ("reason", "end_unseen")];
    let metrics =
        agent.scrape_until("unix sockets' ends", |all| all.sum("steth_records_lost_total", &unseen) >= 3.0).unwrap();
    for (role, queries) in [("server", 2.0), ("client", 3.0)] {
        let labels = [("role", role), ("database", database.as_str())];
        let errors = metrics.sums_by(ERRORS, &labels, "sqlstate");
        // Whether the server's last answer is sent before it is known that nobody listens is a race.
        let broken_off = errors.get("08006").copied().unwrap_or_default();
        let told = if role == "server" { errors.get("57014").copied().unwrap_or_default() } else { 0.0 };
        assert_eq!((broken_off + told, broken_off >= 1.0), (queries, true), "{role}: {errors:?}");
        assert_eq!(metrics.sum(CYCLES, &labels), queries, "{role}");
        assert_eq!(metrics.sum(STATEMENTS, &labels), 0.0, "{role}");
    }
    assert_eq!(lost(&metrics), BTreeMap::from([("end_unseen".to_owned(), 3.0)]));
    // Who read the end has a record of it.
    let slow = agent.get_json(&format!("/api/v1/postgres/slow?database={database}")).unwrap();
    let kept: Vec<_> = slow["queries"].as_array().unwrap().iter().map(|it| (&it["role"], &it["sqlstate"])).collect();
    assert_eq!(kept, [(&"client".into(), &"08006".into()); 2], "{slow:#}");
}

/// A client that reads by messages, to the end that a server makes instead of an answer.
const READS_MESSAGES: &str = r#"
import socket, struct, sys
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
body = struct.pack("!i", 196608) + b"user\0ann\0database\0" + sys.argv[2].encode() + b"\0\0"
sock.sendall(struct.pack("!i", len(body) + 4) + body)
assert sock.recvmsg(100)[0].endswith(b"Z\0\0\0\5I")
sock.sendall(b"Q\0\0\0\x0dselect 1\0")
assert sock.recvmsg(100)[0] == b""
"#;

#[test]
fn the_end_is_the_same_to_who_reads_by_messages() {
    need_bpf!();
    need_program!("python3");
    let agent = Agent::start(&Options::default()).unwrap();
    let database = format!("messages_{}", std::process::id());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("client.py");
    std::fs::write(&script, READS_MESSAGES).unwrap();
    let mut python = process::command("python3", None);
    python.arg(&script).args([&listener.local_addr().unwrap().port().to_string(), &database]);
    let client = Process::start("python3", python).unwrap();
    let mut server = listener.accept().unwrap().0;
    let startup = 4 + 4 + "user\0ann\0database\0".len() + database.len() + 2;
    server.read_exact(&mut vec![0; startup]).unwrap();
    server.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").unwrap();
    server.read_exact(&mut [0; 14]).unwrap();
    drop(server);
    client.finish(SOON).unwrap();
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let labels = [("role", role), ("database", database.as_str())];
        let errors = metrics.sums_by(ERRORS, &labels, "sqlstate");
        assert_eq!(errors, BTreeMap::from([("08006".to_owned(), 1.0)]), "{role}");
        assert_eq!(metrics.sum(CYCLES, &labels), 1.0, "{role}");
    }
    assert_eq!(lost(&metrics), BTreeMap::new());
    let slow = agent.get_json(&format!("/api/v1/postgres/slow?database={database}")).unwrap();
    let kept: Vec<_> = slow["queries"].as_array().unwrap().iter().map(|it| (&it["role"], &it["sqlstate"])).collect();
    assert_eq!(kept, [(&"client".into(), &"08006".into())], "{slow:#}");
}

/// As those do who write what trace it belongs to into each query: more texts than there are numbers of statements.
#[test]
fn queries_that_differ_in_their_comments_are_one_statement() {
    const QUERIES: u32 = 1_500;
    need_postgres!();
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    for number in 0..QUERIES {
        assert_eq!(session.query(&format!("select 1 /* traceparent='00-{number:032x}-01' */")).unwrap(), None);
    }
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let counted = metrics.sums_by(CYCLES, &[("role", role), ("database", &database)], "query");
        let counts: Vec<f64> = counted.values().copied().filter(|count| *count > 0.0).collect();
        assert_eq!(counts, [f64::from(QUERIES)], "{role}: {counted:?}");
    }
    assert_eq!(metrics.sum("steth_cells_full_total", &[("map", "statements")]), 0.0);
}

/// A client that has nothing more to ask may say so before it reads its answer. The server hangs up behind it, and then TCP has closed:
/// who reads it later than that reads what nobody follows any more.
#[test]
fn a_client_that_closes_its_half_gets_its_answer_and_nothing_has_failed() {
    need_postgres!();
    for (pause, may_be_seen) in [(Duration::ZERO, true), (Duration::from_millis(700), false)] {
        closes_its_half(pause, may_be_seen);
    }
}

fn closes_its_half(pause: Duration, may_be_seen: bool) {
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    session.send("select pg_sleep(0.2)").unwrap();
    session.stream().shutdown(Shutdown::Write).unwrap();
    std::thread::sleep(pause);
    assert_eq!(session.until_ready().unwrap(), None);
    let metrics = agent.settled().unwrap();
    let of = |role| {
        let labels = [("role", role), ("database", database.as_str())];
        [STATEMENTS, CYCLES, ERRORS].map(|name| metrics.sum(name, &labels))
    };
    assert_eq!(of("server"), [1.0, 1.0, 0.0]);
    let unseen = BTreeMap::from([("end_unseen".to_owned(), 1.0)]);
    let seen = ([1.0, 1.0, 0.0], BTreeMap::new());
    let found = (of("client"), lost(&metrics));
    // A busy machine may wake the client late.
    assert!(found == ([0.0; 3], unseen) || may_be_seen && found == seen, "{found:?}");
}

/// A server that hangs up on requests which it has not read resets the connection. What it said before is there to be read, but TCP has
/// closed by then: whether an answer is among it is not known.
#[test]
fn a_reset_behind_an_answer_makes_no_failed_query_of_it() {
    need_bpf!();
    let agent = Agent::start(&Options::default()).unwrap();
    let database = format!("reset_{}", std::process::id());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut server = listener.accept().unwrap().0;
    let startup = [&196_608u32.to_be_bytes()[..], format!("user\0ann\0database\0{database}\0\0").as_bytes()].concat();
    let startup = [&(startup.len() as u32 + 4).to_be_bytes()[..], &startup].concat();
    let query = b"Q\0\0\0\x0dselect 1\0";
    // Who says what to whom: all of it is read.
    let mut pass = |up: bool, said: &[u8], read: usize| {
        let (from, to) = if up { (&mut client, &mut server) } else { (&mut server, &mut client) };
        from.write_all(said).unwrap();
        to.read_exact(&mut vec![0; read]).unwrap();
    };
    let welcome = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    pass(true, &startup, startup.len());
    pass(false, welcome, welcome.len());
    pass(true, &[&query[..], query].concat(), query.len());
    server.write_all(b"E\0\0\0\x0cC53300\0\0Z\0\0\0\x05I").unwrap();
    drop(server);
    let unseen = [("map", "wires"), ("reason", "end_unseen")];
    let metrics =
        agent.scrape_until("the reset", |metrics| metrics.sum("steth_records_lost_total", &unseen) >= 2.0).unwrap();
    let errors = |role| metrics.sums_by(ERRORS, &[("role", role), ("database", &database)], "sqlstate");
    assert_eq!((errors("client"), errors("server")), (BTreeMap::new(), BTreeMap::from([("53300".to_owned(), 1.0)])));
    assert_eq!(lost(&metrics), BTreeMap::from([("end_unseen".to_owned(), 2.0)]));
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap_err();
    assert!(answer.ends_with(b"Z\0\0\0\x05I"), "the answer was there to be read: {answer:?}");
}
