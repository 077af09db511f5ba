//! COPY in and out, how it fails, and replication, which is COPY both ways (manual, "COPY Operations" and "Streaming
//! Replication Protocol").

use steth_probes::cell::Role;

use crate::{conversation::Conversation, detection::connected, messages::*};

fn data(rows: &str) -> Vec<u8> {
    message(b'd', rows.as_bytes())
}

fn done() -> Vec<u8> {
    message(b'c', b"")
}

fn copy_fail() -> Vec<u8> {
    message(b'f', b"no more\0")
}

fn copy_in() -> Vec<u8> {
    message(b'G', &[0; 3])
}

/// The next query is matched with its reply.
fn goes_on(conversation: &mut Conversation) {
    let before = conversation.done().len();
    conversation.sends(&query("select 9")).gets(&all([columns(), row("9"), complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.done()[before..], [("select 9", 1)]);
    assert!(!conversation.wire.unwrap().is_active() && conversation.findings().lost.is_empty());
}

#[test]
fn copy_in_and_out_are_one_query_each() {
    let mut conversation = connected();
    let data = message(b'd', &b"1\ttext\n".repeat(1000));
    conversation.sends(&query("copy t from stdin")).gets(&message(b'G', &[0; 3]));
    for _ in 0..5 {
        conversation.sends(&data);
    }
    conversation.sends(&message(b'c', b"")).gets(&all([complete("COPY 5000"), ready(b'I')]));
    conversation.sends(&query("copy t to stdout")).gets(&message(b'H', &[0; 3])).gets(&data);
    conversation.gets(&all([message(b'c', b""), complete("COPY 1000"), ready(b'I')]));
    conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.done(), [("copy t from stdin", 5000), ("copy t to stdout", 1000), ("select 1", 1)]);
    assert_eq!(conversation.statements().len(), 3);
    assert!(conversation.findings().lost.is_empty());
}

#[test]
fn a_failed_copy_is_an_error_and_the_next_query_is_matched() {
    let mut conversation = connected();
    conversation.sends(&query("copy t from stdin")).gets(&message(b'G', &[0; 3]));
    conversation.sends(&message(b'd', b"1\n")).sends(&message(b'f', b"no more\0"));
    conversation.gets(&all([error("57014"), ready(b'I')]));
    conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.sqlstates(), ["57014"]);
    assert_eq!(conversation.statements(), ["copy t from stdin", "select 1"]);
    assert_eq!(conversation.done(), [("select 1", 1)]);
}

#[test]
fn a_copy_that_the_server_breaks_off_ignores_the_data_that_was_under_way() {
    for extended in [false, true] {
        let mut conversation = connected();
        let request = all([parse("", "copy t from stdin"), run(""), sync()]);
        conversation.sends(&if extended { request } else { query("copy t from stdin") }).gets(&copy_in());
        conversation.sends(&data("1\n")).sends(&data("x\n"));
        conversation.gets(&error("22P02"));
        // Sent before the error was read.
        conversation.sends(&data("2\n")).sends(&if extended { all([done(), sync()]) } else { done() });
        conversation.gets(&ready(b'I'));
        assert_eq!(conversation.sqlstates(), ["22P02"]);
        assert_eq!((conversation.statements(), conversation.done()), (vec!["copy t from stdin"], vec![]));
        goes_on(&mut conversation);
    }
}

#[test]
fn a_failed_copy_by_the_extended_protocol_is_followed_by_a_second_sync() {
    let mut conversation = connected();
    conversation.sends(&all([parse("", "copy t from stdin"), run(""), sync()])).gets(&all([
        parsed(),
        bound(),
        copy_in(),
    ]));
    conversation.sends(&all([data("1\n"), copy_fail(), sync()])).gets(&all([error("57014"), ready(b'I')]));
    assert_eq!((conversation.sqlstates(), conversation.statements()), (vec!["57014"], vec!["copy t from stdin"]));
    goes_on(&mut conversation);
}

#[test]
fn a_copy_amidst_the_statements_of_a_query_is_one_of_them() {
    let mut conversation = connected();
    conversation.sends(&query("begin; copy t from stdin; copy t to stdout; commit"));
    conversation.gets(&all([complete("BEGIN"), copy_in()]));
    conversation.sends(&all([data("1\n"), done()]));
    conversation.gets(&all([complete("COPY 1"), message(b'H', &[0; 3]), data("1\n"), data("2\n"), done()]));
    conversation.gets(&all([complete("COPY 2"), complete("COMMIT"), ready(b'I')]));
    let expected = [("begin", 0), ("copy t from stdin", 1), ("copy t to stdout", 2), ("commit", 0)];
    assert_eq!(conversation.done(), expected);
    goes_on(&mut conversation);
}

#[test]
fn data_that_looks_like_messages_is_data() {
    let mut conversation = connected();
    let fake = all([complete("SELECT 1"), error("22012"), ready(b'I'), query("select x")]);
    conversation.sends(&query("copy t to stdout")).gets(&all([message(b'H', &[0; 3]), message(b'd', &fake), done()]));
    conversation.gets(&all([complete("COPY 1"), ready(b'I')]));
    conversation.sends(&query("copy t from stdin")).gets(&copy_in());
    conversation.sends(&all([message(b'd', &fake), done()])).gets(&all([complete("COPY 1"), ready(b'I')]));
    assert_eq!(conversation.done(), [("copy t to stdout", 1), ("copy t from stdin", 1)]);
    assert!(conversation.sqlstates().is_empty());
    goes_on(&mut conversation);
}

/// A walsender's connection: `IDENTIFY_SYSTEM`, then a stream both ways.
fn replication(end: Role) -> Conversation {
    let mut conversation = Conversation::new(end);
    let parameters = [("user", "ann"), ("database", "shop"), ("replication", "database")];
    conversation.sends(&startup(3 << 16, &parameters)).gets(&welcome());
    conversation.sends(&query("IDENTIFY_SYSTEM"));
    conversation.gets(&all([columns(), row("7"), complete("IDENTIFY_SYSTEM"), ready(b'I')]));
    conversation
        .sends(&query("START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '1', publication_names '\"p;q\"')"));
    conversation.gets(&message(b'W', &[0; 3]));
    for _ in 0..20 {
        conversation.gets(&data("w some bytes of the log")).sends(&data("r a standby's status"));
    }
    conversation
}

#[test]
fn a_replication_stream_is_one_query_that_ends_when_the_stream_does() {
    for end in [Role::Client, Role::Server] {
        let mut conversation = replication(end);
        assert!(conversation.wire.unwrap().is_active() && conversation.done().len() == 1);
        conversation.sends(&done()).gets(&all([data("k"), done()]));
        // The server says twice that it ended.
        conversation.gets(&all([complete("START_REPLICATION"), complete("START_REPLICATION"), ready(b'I')]));
        let text = "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '1', publication_names '\"p;q\"')";
        assert_eq!(conversation.done(), [("IDENTIFY_SYSTEM", 0), (text, 0)]);
        assert_eq!(conversation.statements(), ["IDENTIFY_SYSTEM", text]);
        goes_on(&mut conversation);
    }
}

#[test]
fn a_physical_stream_may_end_with_the_next_timeline() {
    let mut conversation = replication(Role::Client);
    conversation.gets(&done()).sends(&done());
    let timeline = all([columns(), row("2")]);
    conversation.gets(&all([timeline, complete("START_REPLICATION"), complete("START_REPLICATION"), ready(b'I')]));
    assert_eq!(conversation.done().len(), 2);
    goes_on(&mut conversation);
}

#[test]
fn a_replication_stream_that_breaks_off_is_an_error() {
    let mut conversation = replication(Role::Client);
    conversation.gets(&all([error("58P01"), ready(b'I')]));
    assert_eq!((conversation.sqlstates(), conversation.done().len()), (vec!["58P01"], 1));
    goes_on(&mut conversation);
}

#[test]
fn a_connection_met_in_mid_copy_is_counted_from_its_next_query_on() {
    for up in [false, true] {
        let mut conversation = Conversation::new(Role::Server);
        for _ in 0..3 {
            conversation.moves(up, &data("1\n2\n"));
        }
        if up {
            conversation.sends(&done());
        }
        conversation.gets(&all([complete("COPY 6"), ready(b'I')]));
        assert!(conversation.done().is_empty() && conversation.wire.is_none());
        goes_on(&mut conversation);
    }
}
