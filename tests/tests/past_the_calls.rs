//! Bytes that go past the calls which are walked, by sendfile and io_uring, at the client's end: the server's end counts each
//! query all the same, and at the client's none is taken for another.

use std::{
    collections::BTreeMap,
    io::{Seek as _, SeekFrom, Write as _},
    os::fd::AsRawFd as _,
};

use io_uring::{IoUring, opcode, types::Fd};
use steth::postgres::statement;
use steth_tests::{
    agent::{Agent, Options},
    need_postgres,
    pgwire::Session,
    postgres::Postgres,
    skipped,
};

const STATEMENTS: &str = "steth_postgres_statements_total";
const SEEN: &str = "select 1 as seen";
const HIDDEN: &str = "select 2 as hidden, 3 as too";
const ROUNDS: usize = 20;

/// A simple query as it stands on the wire.
fn message(statement: &str) -> Vec<u8> {
    let length = u32::try_from(statement.len() + 5).unwrap();
    [b"Q", &length.to_be_bytes()[..], statement.as_bytes(), b"\0"].concat()
}

fn by_sendfile(session: &mut Session) {
    let bytes = message(HIDDEN);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    // SAFETY: both descriptors are open; the file's own offset is used.
    let sent =
        unsafe { libc::sendfile(session.stream().as_raw_fd(), file.as_raw_fd(), std::ptr::null_mut(), bytes.len()) };
    assert_eq!(sent, bytes.len() as isize);
    assert_eq!(session.until_ready().unwrap(), None);
}

fn by_ring(ring: &mut IoUring, session: &mut Session) {
    let bytes = message(HIDDEN);
    let socket = Fd(session.stream().as_raw_fd());
    let send = opcode::Send::new(socket, bytes.as_ptr(), u32::try_from(bytes.len()).unwrap()).build();
    // SAFETY: the bytes outlive the operation, whose end is waited for.
    unsafe { ring.submission().push(&send).unwrap() };
    ring.submit_and_wait(1).unwrap();
    assert_eq!(ring.completion().next().unwrap().result(), i32::try_from(bytes.len()).unwrap());
    assert_eq!(session.until_ready().unwrap(), None);
}

/// Seen and hidden queries in turn.
fn mix(session: &mut Session, mut hidden: impl FnMut(&mut Session)) {
    for _ in 0..ROUNDS {
        assert_eq!(session.query(SEEN).unwrap(), None);
        hidden(session);
    }
}

fn check(way: &str, hidden: impl FnMut(&mut Session)) {
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    let agent = Agent::start(&Options::default()).unwrap();
    let mut session = Session::open(&postgres, &database).unwrap();
    mix(&mut session, hidden);
    let metrics = agent.settled().unwrap();
    let of = |role: &str| -> BTreeMap<String, f64> {
        metrics.sums_by(STATEMENTS, &[("role", role), ("database", &database)], "query").into_iter().collect()
    };
    let name = |text: &str| statement(text.as_bytes(), false).fingerprint.to_string();
    let rounds = ROUNDS as f64;
    assert_eq!(of("server"), BTreeMap::from([(name(SEEN), rounds), (name(HIDDEN), rounds)]), "{way}");
    let client = of("client");
    let seen = client.get(&name(SEEN)).copied().unwrap_or_default();
    assert!(seen <= rounds, "{way}: hidden ones are taken for those that were seen: {client:?}");
    assert!(!client.contains_key(&name(HIDDEN)), "{way}: {client:?}");
    let lost = metrics.sum("steth_records_lost_total", &[("map", "wires"), ("reason", "out_of_step")]);
    let unknown = client.get("unknown").copied().unwrap_or_default();
    assert!(lost + unknown > 0.0, "{way}: nothing says that some are missing: {client:?}");
}

#[test]
fn what_sendfile_sends_is_no_other_query() {
    need_postgres!();
    check("sendfile", by_sendfile);
}

#[test]
fn what_io_uring_sends_is_no_other_query() {
    need_postgres!();
    match IoUring::new(4) {
        Ok(mut ring) => check("io_uring", |session| by_ring(&mut ring, session)),
        Err(error) => skipped!("this kernel or user has no io_uring: {error}"),
    }
}

/// The request is seen here, and its answer is not.
fn answer_by_ring(ring: &mut IoUring, session: &mut Session) {
    session.send(HIDDEN).unwrap();
    let socket = Fd(session.stream().as_raw_fd());
    let mut said = Vec::new();
    while !said.ends_with(b"Z\0\0\0\x05I") {
        let mut block = [0; 4096];
        let take = opcode::Recv::new(socket, block.as_mut_ptr(), 4096).build();
        // SAFETY: the block outlives the operation, whose end is waited for.
        unsafe { ring.submission().push(&take).unwrap() };
        ring.submit_and_wait(1).unwrap();
        let length = usize::try_from(ring.completion().next().unwrap().result()).unwrap();
        said.extend_from_slice(&block[..length]);
    }
}

#[test]
fn answers_that_io_uring_takes_are_no_other_query_s() {
    need_postgres!();
    match IoUring::new(4) {
        Ok(mut ring) => check("answers by io_uring", |session| answer_by_ring(&mut ring, session)),
        Err(error) => skipped!("this kernel or user has no io_uring: {error}"),
    }
}
