//! What single cycles are told with: who is logged in, how many statements, and statements that could not be prepared.

use steth_probes::cell::Role;

use crate::{conversation::Conversation, detection::connected, messages::*};

#[test]
fn the_user_is_known_whatever_the_order_of_the_parameters() {
    let other = ("application_name", "test");
    for (parameters, user, database) in [
        (&[("user", "ann"), ("database", "shop"), other][..], "ann", "shop"),
        (&[("database", "shop"), ("user", "ann"), other], "ann", "shop"),
        (&[("database", "shop"), other, ("user", "ann")], "ann", "shop"),
        (&[other, ("user", "ann")], "ann", "ann"),
        (&[("user", "ann"), ("user", "bob"), ("database", "x"), ("database", "shop")], "bob", "shop"),
    ] {
        let packet = startup(196_608, parameters);
        for cut in 1..packet.len() {
            let mut conversation = Conversation::new(Role::Client);
            conversation.sends(&packet[..cut]).sends(&packet[cut..]).gets(&welcome());
            conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
            let seen = &conversation.findings().queries[0];
            assert_eq!((seen.user.as_str(), seen.database.as_str()), (user, database), "{parameters:?} cut at {cut}");
        }
    }
}

#[test]
fn a_cycle_tells_how_many_statements_it_held_in_a_pipeline_too() {
    let mut conversation = connected();
    conversation.sends(&all([parse("", "select a"), run(""), run(""), sync(), run(""), sync()]));
    let one = || all([bound(), complete("SELECT 1")]);
    conversation.gets(&all([parsed(), one(), one(), ready(b'I'), one(), ready(b'I')]));
    assert_eq!(conversation.findings().queries.iter().map(|query| query.statements).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn a_statement_that_could_not_be_prepared_is_told_by_its_text() {
    let mut conversation = connected();
    conversation.sends(&all([parse("s", "select wrong"), sync()])).gets(&all([error("42P01"), ready(b'I')]));
    assert_eq!(conversation.findings().refused, ["select wrong"]);
    assert_eq!(conversation.statements(), [""; 0]);
    // One that is executed in the same cycle is a query that failed.
    conversation.sends(&all([parse("", "select wrong"), run(""), sync()])).gets(&all([error("42P01"), ready(b'I')]));
    assert_eq!((conversation.findings().refused.len(), conversation.statements()), (1, vec!["select wrong"]));
    // What went well is not told.
    conversation.sends(&all([parse("s", "select right"), sync()])).gets(&all([parsed(), ready(b'I')]));
    assert_eq!(conversation.findings().refused.len(), 1);
}

#[test]
fn setting_up_a_connection_is_timed_from_its_first_byte_and_a_refused_login_is_none() {
    let packet = startup(196_608, &[("user", "ann"), ("database", "shop")]);
    let (begin, rest) = packet.split_at(3);
    let mut conversation = Conversation::new(Role::Client);
    conversation.moves_at(true, begin, 100, 110);
    conversation.moves_at(true, rest, 200, 210);
    // Asked for a password, which it sends.
    conversation.moves_at(false, &message(b'R', &[0, 0, 0, 3]), 300, 310);
    conversation.moves_at(true, &message(b'p', b"secret\0"), 400, 410);
    conversation.moves_at(false, &welcome(), 500, 510);
    assert_eq!(conversation.findings().connected, [410]);
    conversation.sends(&query("select 1")).gets(&all([error("42P01"), ready(b'I')]));
    assert_eq!((conversation.findings().connected.len(), &conversation.findings().login_failures), (1, &vec![]));

    let mut conversation = Conversation::new(Role::Server);
    conversation.sends(&packet).gets(&error("28P01"));
    assert_eq!(
        (&conversation.findings().connected, &conversation.findings().login_failures),
        (&vec![], &vec!["28P01".to_owned()])
    );
}

#[test]
fn of_a_conversation_met_in_its_middle_nobody_has_logged_in() {
    let mut conversation = Conversation::new(Role::Client);
    conversation.sends(&query("select 1")).gets(&all([error("42P01"), ready(b'I')]));
    conversation.gets(&ready(b'I'));
    assert_eq!((&conversation.findings().connected, &conversation.findings().login_failures), (&vec![], &vec![]));
}

#[test]
fn only_transactions_wait() {
    let mut conversation = connected();
    for (begun_ns, text, tag, status) in [
        (10_000, "select 1", "SELECT 1", b'I'),
        (20_000, "begin", "BEGIN", b'T'),
        (50_000, "select 2", "SELECT 1", b'T'),
        (90_000, "commit", "COMMIT", b'I'),
        (95_000, "select 3", "SELECT 1", b'I'),
    ] {
        conversation.moves_at(true, &query(text), begun_ns, begun_ns);
        conversation.moves_at(false, &all([complete(tag), ready(status)]), begun_ns + 1_000, begun_ns + 1_000);
    }
    let waited: Vec<u64> = conversation.findings().queries.iter().map(|query| query.waited_ns).collect();
    assert_eq!(waited, [0, 0, 29_000, 39_000, 0]);
}

#[test]
fn a_transaction_is_one_burst_and_outside_of_one_a_pause_parts_two() {
    let mut conversation = connected();
    for (begun_ns, tag, status) in [
        (100_000, "SELECT 1", b'I'),
        (101_000, "SELECT 1", b'I'),
        (900_000, "BEGIN", b'T'),
        (9_000_000, "SELECT 1", b'T'),
        (9_001_000, "COMMIT", b'I'),
        (9_002_000, "SELECT 1", b'I'),
    ] {
        conversation.moves_at(true, &query(tag), begun_ns, begun_ns);
        conversation.moves_at(false, &all([complete(tag), ready(status)]), begun_ns + 100, begun_ns + 100);
    }
    let turns: Vec<(bool, bool)> =
        conversation.findings().queries.iter().map(|query| (query.turn.begins, query.turn.ends)).collect();
    let (begins, ends, goes_on) = ((true, false), (false, true), (false, false));
    assert_eq!(turns, [begins, goes_on, begins, goes_on, ends, goes_on]);
}
