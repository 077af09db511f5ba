//! Postgres behind TLS in programs of all kinds: OpenSSL through each of its functions, shared and linked statically, asked for and
//! from the first byte; and Go, which brings its own.

use std::{path::Path, process::Command, time::Duration};

use steth_tests::{
    agent::{Agent, Options},
    need_postgres, need_program,
    postgres::Postgres,
    process,
    programs::{Program, TLS, TLS_GO, said_number},
    skipped,
};

const COUNT: &str = "steth_postgres_query_duration_seconds_count";
const QUERIES: &str = "50";
const SOON: Duration = Duration::from_secs(60);

const SHARED: [&str; 2] = ["-lssl", "-lcrypto"];
const STATIC: [&str; 2] = ["-l:libssl.a", "-l:libcrypto.a"];

/// The program of `tls.c`, linked in this way and with this macro.
fn build(libraries: [&str; 2], ex: bool) -> Program {
    Program::compiled("tls", |folder, path| {
        let source = folder.join("tls.c");
        std::fs::write(&source, TLS)?;
        let mut gcc = Command::new("gcc");
        gcc.args(["-O1", "-Wall", "-Wextra", "-Werror"]).args(ex.then_some("-DEX")).arg("-o").args([path, &source]);
        gcc.args(libraries).args(["-ldl", "-pthread"]);
        Ok(gcc)
    })
    .unwrap()
}

/// The first file of Debian's libssl-dev that is not there.
fn missing() -> Option<&'static str> {
    let files = ["/usr/include/openssl/ssl.h", "/usr/lib/x86_64-linux-gnu/libssl.a"];
    files.into_iter().find(|file| !Path::new(file).exists())
}

/// Has the program ask, once it is there and that has been seen.
fn ask(program: &Program, port: impl ToString, database: &str, how: &str, seen: impl FnOnce()) {
    let mut asking = program.start(&["ask", &port.to_string(), database, how, QUERIES]).unwrap();
    asking.wait_for_line("ready", SOON, |line| (line == "ready").then_some(())).unwrap();
    seen();
    asking.say("go").unwrap();
    asking.finish(SOON).unwrap();
}

/// What holds OpenSSL is found when it is first mapped, which takes a moment.
fn find(agent: &Agent, file: &str) {
    let followed = || Ok(agent.log().lines().any(|line| line.ends_with(file)).then_some(()));
    steth_tests::wait::poll("the agent to find OpenSSL", SOON, followed).unwrap();
}

#[test]
fn every_function_of_openssl_is_followed_shared_and_static() {
    need_postgres!();
    need_program!("gcc", "openssl");
    if let Some(file) = missing() {
        skipped!("no {file} (libssl-dev)");
    }
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start_tls().unwrap();
    let mut ran = Vec::new();
    for (libraries, ex) in [(SHARED, false), (SHARED, true), (STATIC, false), (STATIC, true)] {
        let (program, database) = (build(libraries, ex), postgres.create_database().unwrap());
        let followed = match libraries {
            SHARED => "libssl.so.3".to_owned(),
            _ => program.path.display().to_string(),
        };
        ask(&program, postgres.port, &database, "asked", || find(&agent, &followed));
        ran.push((format!("{libraries:?} ex: {ex}"), program, database));
    }
    let metrics = agent.settled().unwrap();
    for (what, program, database) in ran {
        let server = metrics.sum(COUNT, &[("role", "server"), ("database", &database)]);
        let client = metrics.sum(COUNT, &[("role", "client"), ("service", &program.name), ("database", &database)]);
        assert_eq!((server, client), (50.0, 50.0), "{what}");
    }
    for reason in ["out_of_step", "memory_unreadable"] {
        assert_eq!(metrics.sum("steth_records_lost_total", &[("reason", reason)]), 0.0, "{reason}");
    }
}

/// PostgreSQL 15 does not take TLS from the first byte, so a relay does in its place.
#[test]
fn tls_from_the_first_byte_is_followed_at_both_its_ends() {
    need_postgres!();
    need_program!("gcc", "openssl");
    if let Some(file) = missing() {
        skipped!("no {file} (libssl-dev)");
    }
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start_tls().unwrap();
    let own = |name: &str| postgres.folder().join("cluster").join(name).display().to_string();
    let (certificate, key) = (own("server.crt"), own("server.key"));
    for ex in [false, true] {
        let database = postgres.create_database().unwrap();
        let (relay, client) = (build(SHARED, ex), build(SHARED, ex));
        let arguments = ["relay", &postgres.port.to_string(), &certificate, &key];
        let relaying = relay.start(&arguments).unwrap();
        let port = relaying.wait_for_line("its port", SOON, |line| said_number(line, "port").ok()).unwrap();
        ask(&client, port, &database, "direct", || find(&agent, "libssl.so.3"));
        relaying.finish(SOON).unwrap();
        let metrics = agent.settled().unwrap();
        for (role, service) in [("client", &client.name), ("server", &relay.name), ("client", &relay.name)] {
            let labels = [("role", role), ("service", service.as_str()), ("database", database.as_str())];
            assert_eq!(metrics.sum(COUNT, &labels), 50.0, "{role} {service}, ex: {ex}");
        }
        assert_eq!(metrics.sum("steth_postgres_encrypted_unseen_total", &[("service", &client.name)]), 0.0);
    }
}

#[test]
fn go_is_counted_as_unseen_and_its_server_is_not() {
    need_postgres!();
    need_program!("go", "openssl");
    let agent = Agent::start(&Options::default()).unwrap();
    let postgres = Postgres::start_tls().unwrap();
    let database = postgres.create_database().unwrap();
    let program = Program::compiled("tls-go", |folder, path| {
        let source = folder.join("tls.go");
        std::fs::write(&source, TLS_GO)?;
        let mut go = process::command("go", None);
        go.current_dir(folder).env("GOCACHE", folder.join("cache")).env("GOFLAGS", "-mod=mod").env("CGO_ENABLED", "0");
        go.args(["build", "-o"]).args([path, &source]);
        Ok(go)
    })
    .unwrap();
    program.run(&[&postgres.port.to_string(), &database, QUERIES]).unwrap();
    let metrics = agent.settled().unwrap();
    assert_eq!(metrics.sum(COUNT, &[("role", "server"), ("database", &database)]), 50.0);
    let service = program.name.as_str();
    assert_eq!(metrics.sum(COUNT, &[("role", "client"), ("service", service)]), 0.0);
    let unseen = metrics.sums_by("steth_postgres_encrypted_unseen_total", &[("service", service)], "reason");
    assert_eq!(unseen.into_iter().filter(|it| it.1 > 0.0).collect::<Vec<_>>(), [("no_openssl".to_owned(), 1.0)]);
}
