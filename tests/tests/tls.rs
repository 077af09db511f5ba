//! Postgres behind TLS: counted as plain Postgres is where programs call OpenSSL, and said to be unseen where they do not.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use steth_tests::{
    agent::{Agent, Options},
    exposition::{Exposition, Labels},
    need_bpf, need_postgres, need_program,
    network::free_port,
    pgbench::{Endpoint, Mode, Pgbench},
    postgres::{Postgres, USER},
    process::{self, Process},
    skipped, wait,
};

const COUNT: &str = "steth_postgres_query_duration_seconds_count";
const UNSEEN: &str = "steth_postgres_encrypted_unseen_total";
const ROLES: [&str; 2] = ["server", "client"];
const SOON: Duration = Duration::from_secs(60);

fn by(metrics: &Exposition, name: &str, labels: Labels<'_>, label: &str) -> BTreeMap<String, f64> {
    let mut sums = metrics.sums_by(name, labels, label);
    sums.retain(|_, sum| *sum > 0.0);
    sums
}

/// psql behind TLS, told what to do line by line.
fn psql(postgres: &Postgres, database: &str, libraries: Option<&Path>) -> Process {
    let mut psql = postgres.program("psql");
    psql.env("PGSSLMODE", "require").args(["-X", "-q", "-A", "-t", "-U", USER, "-h", "127.0.0.1"]);
    psql.args(["-p", &postgres.port.to_string(), "-d", database]);
    if let Some(libraries) = libraries {
        psql.env("LD_LIBRARY_PATH", libraries);
    }
    Process::start("psql", psql).unwrap()
}

/// Sends statements and waits for the answer of the last one.
fn ask(psql: &mut Process, statements: &[&str], answer: &str) {
    for statement in statements {
        psql.say(statement).unwrap();
    }
    psql.say(&format!("select '{answer}';")).unwrap();
    psql.wait_for_line(answer, SOON, |line| (line == answer).then_some(())).unwrap();
}

const SCRIPT: &str = "\\set id random(1, 100000)\nbegin;\nselect :id + 1;\nselect 'x', :id - 1;\ncommit;\n";

#[test]
fn every_query_is_counted_once_in_every_mode_at_both_ends() {
    need_postgres!();
    need_program!("openssl");
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start_tls().unwrap();
    let mut runs = Vec::new();
    for mode in Mode::ALL {
        let database = postgres.create_database().unwrap();
        let pgbench = Pgbench { mode, endpoint: Endpoint::Tls, script: SCRIPT, clients: 2, transactions: 500 };
        runs.push((mode, pgbench.run(&postgres, &database).unwrap(), database));
    }
    let metrics = agent.settled().unwrap();
    for (mode, run, database) in &runs {
        let transactions = run.transactions as f64;
        let operations = [("BEGIN", 1.0), ("COMMIT", 1.0), ("SELECT", 2.0)];
        let truth: BTreeMap<String, f64> =
            operations.map(|(operation, each)| (operation.to_owned(), each * transactions)).into();
        let counted = postgres.stat_statements(database).unwrap();
        let selects: u64 = counted.iter().filter(|one| one.text.starts_with("select")).map(|one| one.calls).sum();
        assert_eq!(selects, 2 * run.transactions, "{mode:?}: {counted:?}");
        for role in ROLES {
            let labels = [("role", role), ("database", database.as_str())];
            assert_eq!(by(&metrics, COUNT, &labels, "operation"), truth, "{role} {mode:?}");
            let queries = by(&metrics, COUNT, &labels, "query");
            assert_eq!(queries.len(), 4, "one fingerprint for each statement: {role} {mode:?}: {queries:?}");
        }
    }
    for reason in ["out_of_step", "memory_unreadable", "tls_walks_interrupted"] {
        assert_eq!(metrics.sum("steth_records_lost_total", &[("reason", reason)]), 0.0, "{reason}");
    }
}

/// A record holds 16 KiB at most, and the socket takes less than the whole at a time.
#[test]
fn statements_and_answers_of_many_records_are_followed() {
    need_postgres!();
    need_program!("openssl");
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start_tls().unwrap();
    let database = postgres.create_database().unwrap();
    let mut psql = psql(&postgres, &database, None);
    for length in [10_000, 16_340, 16_380, 16_390, 40_000, 300_000] {
        let text = "x".repeat(length);
        ask(&mut psql, &[&format!("select length('{text}');"), &format!("select repeat('x', {length});")], "done");
    }
    // More than all buffers between the two ends hold.
    let text = "y".repeat(8 << 20);
    ask(&mut psql, &[&format!("select length('{text}');")], "big");
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let labels = [("role", role), ("database", database.as_str())];
        assert_eq!(metrics.sum(COUNT, &labels), 6.0 * 3.0 + 2.0, "{role}");
    }
    assert_eq!(metrics.sum("steth_records_lost_total", &[("reason", "out_of_step")]), 0.0);
}

#[test]
fn a_session_older_than_the_agent_is_followed_from_its_next_query() {
    need_postgres!();
    need_program!("openssl");
    let postgres = Postgres::start_tls().unwrap();
    let database = postgres.create_database().unwrap();
    let mut psql = psql(&postgres, &database, None);
    ask(&mut psql, &["create table older (n int);"], "before");
    let agent = Agent::start(&Options::default()).unwrap();
    for n in 0..20 {
        ask(&mut psql, &["select count(*) from older;"], &format!("after{n}"));
    }
    let metrics = agent.settled().unwrap();
    let cluster = format!("postgres:{}/cluster", postgres.folder().file_name().unwrap().to_str().unwrap());
    let server = [("role", "server"), ("service", cluster.as_str())];
    let truth: BTreeMap<String, f64> = [("SELECT".to_owned(), 40.0)].into();
    assert_eq!(by(&metrics, COUNT, &server, "operation"), truth);
    let queries: Vec<f64> = by(&metrics, COUNT, &server, "query").into_values().collect();
    assert_eq!(queries, [20.0, 20.0]);
    // psql of other tests is the same service; this table's statement is of this one alone.
    let summary = [("summary", "SELECT older")];
    let query = by(&metrics, "steth_postgres_query_info", &summary, "query").into_keys().next().unwrap();
    assert_eq!(metrics.sum(COUNT, &[("role", "client"), ("query", query.as_str())]), 20.0);
}

/// What was prepared before the agent came is told by the server's process.
#[test]
fn statements_prepared_before_the_agent_are_told_by_the_server() {
    need_postgres!();
    need_program!("openssl");
    let postgres = Postgres::start_tls().unwrap();
    let database = postgres.create_database().unwrap();
    let (agent, run) = std::thread::scope(|scope| {
        let pgbench = scope.spawn(|| {
            let script = "select 1;\n\\sleep 20 ms\n";
            Pgbench { mode: Mode::Prepared, endpoint: Endpoint::Tls, script, clients: 1, transactions: 500 }
                .run(&postgres, &database)
        });
        let prepared =
            "select count(*) from pg_stat_activity where query = 'select 1;' and datname = current_database()";
        let begun = || Ok((postgres.psql(&database, prepared)? == "1").then_some(()));
        steth_tests::wait::poll("the first query", SOON, begun).unwrap();
        (Agent::start(&Options::default()).unwrap(), pgbench.join().unwrap().unwrap())
    });
    let metrics = agent.settled().unwrap();
    let cluster = format!("postgres:{}/cluster", postgres.folder().file_name().unwrap().to_str().unwrap());
    let queries = by(&metrics, COUNT, &[("role", "server"), ("service", cluster.as_str())], "query");
    let known = steth::postgres::statement(b"select 1;", false).fingerprint.to_string();
    assert_eq!(queries.keys().collect::<Vec<_>>(), [&known], "{queries:?} of {}", run.transactions);
    assert!(queries[&known] > 0.0 && queries[&known] < run.transactions as f64);
}

/// Wheels bring OpenSSL along under names of their own.
#[test]
fn openssl_is_found_under_any_name_also_when_it_is_loaded_late() {
    need_postgres!();
    need_program!("openssl");
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start_tls().unwrap();
    let database = postgres.create_database().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let installed = Path::new("/usr/lib/x86_64-linux-gnu/libssl.so.3");
    let other = folder.path().join("bundled-3e69114b.code");
    std::fs::copy(installed, &other).unwrap();
    std::os::unix::fs::symlink(&other, folder.path().join("libssl.so.3")).unwrap();
    let mut psql = psql(&postgres, &database, Some(folder.path()));
    ask(&mut psql, &[], "connected");
    let followed = || Ok(agent.log().contains("bundled-3e69114b.code").then_some(()));
    steth_tests::wait::poll("the agent to find the library", SOON, followed).unwrap();
    ask(&mut psql, &["create table bundled (n int);"], "first");
    for n in 0..10 {
        ask(&mut psql, &["select * from bundled;"], &format!("next{n}"));
    }
    let metrics = agent.settled().unwrap();
    let query = by(&metrics, "steth_postgres_query_info", &[("summary", "SELECT bundled")], "query");
    let query = query.into_keys().next().unwrap();
    for role in ROLES {
        assert_eq!(metrics.sum(COUNT, &[("role", role), ("query", query.as_str())]), 10.0, "{role}");
    }
}

/// The kernel waits at each probe that it detaches: that the agent takes so long is no reason to cut it off.
#[test]
fn an_agent_that_follows_many_copies_of_openssl_ends_well() {
    need_bpf!();
    need_program!("openssl");
    let folder = tempfile::tempdir().unwrap();
    let copies: Vec<_> = (0..4).map(|n| folder.path().join(format!("copy-{n}.so")).display().to_string()).collect();
    for copy in &copies {
        std::fs::copy("/usr/lib/x86_64-linux-gnu/libssl.so.3", copy).unwrap();
    }
    let mut user = process::command("sh", None);
    user.env("LD_PRELOAD", copies.join(":")).args(["-c", "echo loaded; read line"]);
    let user = Process::start("sh", user).unwrap();
    user.wait_for_line("loaded", SOON, |line| (line == "loaded").then_some(())).unwrap();
    let agent = Agent::start(&Options::default()).unwrap();
    let log = agent.log();
    for n in 0..copies.len() {
        assert!(log.contains(&format!("follows OpenSSL in {}/copy-{n}.so", folder.path().display())), "{log}");
    }
    assert!(agent.stop().unwrap().success());
}

#[test]
fn https_is_no_postgres() {
    need_postgres!();
    need_program!("openssl");
    let agent = Agent::start(&Options::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut make = process::command("openssl", None);
    make.current_dir(folder.path()).args(["req", "-new", "-x509", "-days", "2", "-nodes", "-newkey", "rsa:2048"]);
    make.args(["-subj", "/CN=localhost", "-keyout", "key", "-out", "certificate"]);
    Process::start("openssl", make).unwrap().finish(SOON).unwrap();
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let mut serve = process::command("openssl", None);
    serve.current_dir(folder.path()).args(["s_server", "-www", "-key", "key", "-cert", "certificate"]);
    let server = Process::start("s_server", {
        serve.args(["-accept", &address]);
        serve
    })
    .unwrap();
    server.wait_for_line("ACCEPT", SOON, |line| (line == "ACCEPT").then_some(())).unwrap();
    for _ in 0..5 {
        let mut client = process::command("openssl", None);
        client.args(["s_client", "-quiet", "-connect", &address]);
        let mut client = Process::start("s_client", client).unwrap();
        client.say("GET / HTTP/1.0\r\n\r").unwrap();
        client.wait_for_line("the answer", SOON, |line| line.starts_with("HTTP/1.0 200").then_some(())).unwrap();
    }
    let metrics = agent.settled().unwrap();
    let service = [("service", "openssl")];
    assert!(metrics.sum("steth_tcp_bytes_total", &service) > 0.0, "it was seen");
    for name in [COUNT, "steth_postgres_connections", UNSEEN] {
        assert_eq!(metrics.sum(name, &service), 0.0, "{name}");
    }
}

/// Asks for encryption as a client does; returns the answer's byte.
fn ask_for_encryption(stream: &mut (impl Read + Write), code: u32) -> u8 {
    stream.write_all(&[8u32.to_be_bytes(), code.to_be_bytes()].concat()).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    answer[0]
}

/// `NEGOTIATE_SSL_CODE` and `NEGOTIATE_GSS_CODE` of PostgreSQL's `pqcomm.h`.
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

fn own_name() -> String {
    std::env::current_exe().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}

fn unseen(metrics: &Exposition, reason: &str) -> f64 {
    metrics.sum(UNSEEN, &[("service", &own_name()), ("reason", reason)])
}

/// This test's own process uses no OpenSSL: after its request it sends what nobody understands.
#[test]
fn what_is_encrypted_by_other_means_is_counted_with_its_reason() {
    need_postgres!();
    need_program!("openssl");
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start_tls().unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", postgres.port)).unwrap();
    assert_eq!(ask_for_encryption(&mut stream, SSL), b'S');
    let open = [("service", own_name()), ("state", "encrypted_unseen".to_owned())];
    let open = open.each_ref().map(|(label, value)| (*label, value.as_str()));
    agent
        .scrape_until("the open connection", |metrics| metrics.sum("steth_postgres_connections", &open) >= 1.0)
        .unwrap();
    drop(stream);
    agent.scrape_until("its end", |metrics| unseen(metrics, "no_openssl") >= 1.0).unwrap();

    // Not every build of PostgreSQL has GSSAPI: this one only says that it accepts.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut server, _) = listener.accept().unwrap();
            server.read_exact(&mut [0; 8]).unwrap();
            server.write_all(b"G").unwrap();
        });
        assert_eq!(ask_for_encryption(&mut stream, GSS), b'G');
    });
    drop(stream);
    agent.scrape_until("GSSAPI at both ends", |metrics| unseen(metrics, "gss") >= 2.0).unwrap();

    // TLS from the first byte, told by its ALPN.
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.write_all(&direct_hello()).unwrap();
    let mut server = listener.accept().unwrap().0;
    server.read_exact(&mut vec![0; direct_hello().len()]).unwrap();
    let before = unseen(&agent.settled().unwrap(), "no_openssl");
    drop((stream, server));
    agent.scrape_until("direct TLS at both ends", |metrics| unseen(metrics, "no_openssl") >= before + 2.0).unwrap();
}

/// TLS that began before the agent says nothing of what it carries but by its port, the one that is registered for Postgres.
#[test]
fn what_was_encrypted_by_other_means_before_the_agent_is_counted_by_its_port() {
    need_bpf!();
    // An address of this test's own: port 5432 may be in use on others.
    let own = std::net::Ipv4Addr::from(0x7f4d_0000 + std::process::id() % 0xffff + 1);
    let listener = match TcpListener::bind((own, 5432)) {
        Ok(listener) => listener,
        Err(error) => skipped!("port 5432 is taken on all addresses: {error}"),
    };
    let elsewhere = TcpListener::bind((own, 0)).unwrap();
    let pair = |listener: &TcpListener| {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        [client, listener.accept().unwrap().0]
    };
    let pairs = [&listener, &elsewhere].map(pair);
    let agent = Agent::start(&Options::default()).unwrap();
    let young = pair(&listener);
    // A record of application data (RFC 8446, 5.1).
    let record = [&[23, 3, 3, 0, 32][..], &[7; 32]].concat();
    let talk = |[client, server]: &[TcpStream; 2]| {
        for (mut from, mut to) in [(client, server), (server, client)] {
            from.write_all(&record).unwrap();
            to.read_exact(&mut vec![0; record.len()]).unwrap();
        }
    };
    let counted = |metrics: &Exposition| {
        pairs.iter().chain([&young]).for_each(talk);
        unseen(metrics, "older") >= 2.0
    };
    let metrics = agent.scrape_until("both ends", counted).unwrap();
    assert_eq!(unseen(&metrics, "older"), 2.0, "those of the other port, and of the younger connection, are none");
    assert_eq!(unseen(&metrics, "no_openssl"), 0.0);
}

/// Over a unix socket PostgreSQL refuses both, and goes on in plain text.
#[test]
fn a_session_goes_on_in_plain_text_after_a_refusal() {
    need_postgres!();
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let socket = postgres.folder().join(format!(".s.PGSQL.{}", postgres.port));
    let mut stream = UnixStream::connect(socket).unwrap();
    assert_eq!(ask_for_encryption(&mut stream, GSS), b'N');
    assert_eq!(ask_for_encryption(&mut stream, SSL), b'N');
    let startup = format!("user\0{USER}\0database\0{database}\0\0");
    let length = u32::try_from(startup.len() + 8).unwrap();
    stream.write_all(&[&length.to_be_bytes(), &196_608u32.to_be_bytes(), startup.as_bytes()].concat()).unwrap();
    let until_ready = |stream: &mut UnixStream| {
        let (mut said, mut some) = (Vec::new(), [0; 4096]);
        while !said.ends_with(b"Z\0\0\0\x05I") {
            let length = stream.read(&mut some).unwrap();
            assert!(length > 0, "the server hung up");
            said.extend_from_slice(&some[..length]);
        }
    };
    until_ready(&mut stream);
    for _ in 0..3 {
        stream.write_all(b"Q\0\0\0\x0dselect 1\0").unwrap();
        until_ready(&mut stream);
    }
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        assert_eq!(metrics.sum(COUNT, &[("role", role), ("database", database.as_str())]), 3.0, "{role}");
    }
}

/// A ClientHello that asks for `postgresql` in ALPN (RFC 8446, 4.1.2; RFC 7301, 3.1).
fn direct_hello() -> Vec<u8> {
    let extensions = b"\0\x10\0\x0d\0\x0b\x0apostgresql";
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend(b"\0\0\x02\x13\x01\x01\0");
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let length = body.len() as u16;
    [&[22, 3, 1][..], &(length + 4).to_be_bytes(), &[1, 0], &length.to_be_bytes(), &body].concat()
}

/// Nobody says a word then: the process is killed, and the kernel closes the connection.
#[test]
fn a_query_whose_connection_breaks_off_has_failed() {
    need_postgres!();
    need_program!("openssl");
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start_tls().unwrap();
    let database = postgres.create_database().unwrap();
    let running = format!("select pid from pg_stat_activity where datname = '{database}' and wait_event = 'PgSleep'");
    let begun = || Ok(postgres.psql("postgres", &running)?.parse::<u32>().ok());
    let sleeper = || {
        let mut psql = psql(&postgres, &database, None);
        psql.say("select pg_sleep(60);").unwrap();
        let server = wait::poll("the query", SOON, begun).unwrap();
        (psql, server)
    };
    // The client goes first; the server finds out when its statement is done, which is told to end.
    let (mut client, server) = sleeper();
    client.signal("KILL").unwrap();
    client.wait(SOON).unwrap();
    assert_eq!(postgres.psql("postgres", &format!("select pg_cancel_backend({server})")).unwrap(), "t");
    wait::poll("the server to see it", SOON, || Ok(begun()?.is_none().then_some(()))).unwrap();
    // Its own cluster's: all sessions end with it, and the server starts anew.
    let (mut client, server) = sleeper();
    process::send_signal(server, "KILL").unwrap();
    assert!(!client.wait(SOON).unwrap().success());
    let metrics = agent.settled().unwrap();
    for role in ROLES {
        let labels = [("role", role), ("database", database.as_str())];
        let mut errors = by(&metrics, "steth_postgres_errors_total", &labels, "sqlstate");
        // Whether the server's last answer is sent before it is known that nobody listens is a race.
        let told = if role == "server" { errors.remove("57014").unwrap_or_default() } else { 0.0 };
        assert_eq!(errors.into_iter().collect::<Vec<_>>(), [("08006".to_owned(), 2.0 - told)], "{role}");
        assert_eq!(metrics.sum(COUNT, &labels), 2.0, "{role}");
    }
    assert_eq!(by(&metrics, "steth_records_lost_total", &[("map", "wires")], "reason"), BTreeMap::new());
}

#[test]
fn tls_that_is_switched_off_is_counted_as_disabled() {
    need_postgres!();
    need_program!("openssl");
    let sections = "[probes]\ntls = false\n".to_owned();
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let postgres = Postgres::start_tls().unwrap();
    let database = postgres.create_database().unwrap();
    let pgbench = Pgbench { mode: Mode::Simple, endpoint: Endpoint::Tls, script: SCRIPT, clients: 2, transactions: 50 };
    pgbench.run(&postgres, &database).unwrap();
    let cluster = format!("postgres:{}/cluster", postgres.folder().file_name().unwrap().to_str().unwrap());
    // pgbench asks for the server's version on a connection of its own.
    let disabled = [("service", cluster.as_str()), ("reason", "disabled")];
    let metrics = agent.scrape_until("the connections", |metrics| metrics.sum(UNSEEN, &disabled) >= 2.0).unwrap();
    assert_eq!(metrics.sum(COUNT, &[("database", database.as_str())]), 0.0);
}

/// OpenSSL encrypts into memory, and the program sends it: as asyncio does.
const MEMORY: &str = r#"
import socket, ssl, struct, sys
port, database = int(sys.argv[1]), sys.argv[2]
sock = socket.create_connection(("127.0.0.1", port))
sock.sendall(struct.pack("!ii", 8, 80877103))
assert sock.recv(1) == b"S"
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(coming, going)
def do(what, *arguments):
    while True:
        try:
            return what(*arguments)
        except ssl.SSLWantReadError:
            if going.pending: sock.sendall(going.read())
            coming.write(sock.recv(65536))
        finally:
            if going.pending: sock.sendall(going.read())
def until_ready():
    data = b""
    while not data.endswith(b"Z\0\0\0\5I"):
        data += do(tls.read, 65536)
do(tls.do_handshake)
body = struct.pack("!i", 196608) + b"user\0postgres\0database\0" + database.encode() + b"\0\0"
do(tls.write, struct.pack("!i", len(body) + 4) + body)
until_ready()
for _ in range(20):
    do(tls.write, b"Q" + struct.pack("!i", 13) + b"select 1\0")
    until_ready()
"#;

#[test]
fn openssl_that_works_on_memory_is_counted_with_its_reason() {
    need_postgres!();
    need_program!("openssl", "python3");
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start_tls().unwrap();
    let database = postgres.create_database().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("client.py");
    std::fs::write(&script, MEMORY).unwrap();
    let mut python = process::command("python3", None);
    python.arg(&script).args([&postgres.port.to_string(), &database]);
    Process::start("python3", python).unwrap().finish(SOON).unwrap();
    let metrics = agent.settled().unwrap();
    assert_eq!(metrics.sum(COUNT, &[("role", "server"), ("database", database.as_str())]), 20.0);
    assert_eq!(metrics.sum(COUNT, &[("role", "client"), ("database", database.as_str())]), 0.0);
    let reasons = by(&metrics, UNSEEN, &[("reason", "memory_bio")], "service");
    assert!(reasons.keys().any(|service| service.starts_with("python")), "{reasons:?}");
}
