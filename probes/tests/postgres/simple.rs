//! The simple query protocol, COPY, function calls, and what the server says unasked.

use steth_probes::{
    cell::{Loss, TransactionOutcome::Commit},
    postgres::TEXT_LEN,
};

use crate::{conversation::UNKNOWN, detection::connected, messages::*};

#[test]
fn several_statements_in_one_query_are_one_cycle_and_one_transaction() {
    let mut conversation = connected();
    let text = "BEGIN; UPDATE t SET a = b; COMMIT";
    conversation.sends(&query(text));
    conversation.gets(&all([complete("BEGIN"), complete("UPDATE 3"), complete("COMMIT"), ready(b'I')]));
    assert_eq!(conversation.statements(), [text]);
    assert_eq!(conversation.done(), [(text, 0), (text, 3), (text, 0)]);
    assert_eq!(conversation.findings().transactions.len(), 1);
    assert_eq!(conversation.findings().transactions[0].0, Commit);
}

#[test]
fn an_empty_query_is_a_cycle_without_a_statement() {
    let mut conversation = connected();
    conversation.sends(&query("")).gets(&all([message(b'I', b""), ready(b'I')]));
    conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.statements(), ["", "select 1"]);
    assert_eq!(conversation.done(), [("select 1", 1)]);
}

#[test]
fn time_runs_from_the_call_with_the_first_byte_to_the_call_with_ready_for_query() {
    let mut conversation = connected();
    let request = query("select a from t");
    let (first, rest) = request.split_at(3);
    conversation.moves_at(true, first, 100_000, 100_010);
    conversation.moves_at(true, rest, 100_020, 100_030);
    // Unasked, so no first byte.
    conversation.moves_at(false, &all([notice(), parameter(), notification()]), 100_100, 100_110);
    let reply = all([columns(), row("1"), complete("SELECT 1"), ready(b'I')]);
    let (first, rest) = reply.split_at(2);
    conversation.moves_at(false, first, 100_200, 100_210);
    conversation.moves_at(false, &rest[..rest.len() - 1], 100_300, 100_310);
    conversation.moves_at(false, &rest[rest.len() - 1..], 100_400, 100_410);
    let query = &conversation.findings().queries[0];
    assert_eq!((query.first_byte_ns, query.duration_ns), (200, 410));
    assert_eq!(conversation.wire.unwrap().idle_ns, 100_410);
}

#[test]
fn what_the_server_says_unasked_is_no_reply() {
    let mut conversation = connected();
    conversation.gets(&notification()).gets(&parameter());
    conversation.sends(&query("select 1"));
    conversation.gets(&all([notice(), notification(), columns(), notice(), row("1"), parameter()]));
    conversation.gets(&all([complete("SELECT 1"), notification(), ready(b'I')])).gets(&notification());
    assert_eq!(conversation.done(), [("select 1", 1)]);
    assert!(conversation.sqlstates().is_empty(), "a notice is no error");
}

#[test]
fn an_error_without_a_code_is_still_an_error() {
    let mut conversation = connected();
    conversation.sends(&query("select 1")).gets(&all([message(b'E', b"SERROR\0\0"), ready(b'I')]));
    assert_eq!(conversation.sqlstates(), ["00000"]);
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
fn a_function_call_is_a_query_whose_statement_is_unknown() {
    let mut conversation = connected();
    conversation.sends(&message(b'F', &[0; 14])).gets(&all([message(b'V', &[0; 8]), ready(b'I')]));
    conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.statements(), [UNKNOWN, "select 1"]);
}

#[test]
fn a_long_statement_is_cut_and_said_to_be() {
    let body = "x".repeat(65_536);
    let mut conversation = connected();
    conversation.sends(&query(&body)).gets(&all([complete("SELECT 1"), ready(b'I')]));
    let kept = "x".repeat(TEXT_LEN as usize);
    assert_eq!(conversation.statements(), [kept.as_str()]);
    assert_eq!(conversation.findings().cut, [kept]);
    conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.statements()[1], "select 1");
}

#[test]
fn a_statement_of_just_the_kept_length_is_not_cut() {
    let body = "x".repeat(TEXT_LEN as usize);
    for request in [query(&body), all([parse("", &body), run(""), sync()])] {
        let mut conversation = connected();
        conversation.sends(&request).gets(&all([complete("SELECT 1"), ready(b'I')]));
        assert_eq!(conversation.statements(), [body.as_str()]);
        assert!(conversation.findings().cut.is_empty());
    }
}

#[test]
fn a_reply_read_before_its_request_had_returned_does_not_shift_those_that_follow() {
    let mut conversation = connected();
    let reply = all([complete("SELECT 1"), ready(b'I')]);
    conversation.moves_at(false, &reply, 100_200, 100_200);
    conversation.moves_at(true, &query("select 1"), 100_000, 100_300);
    conversation.moves_at(true, &query("select a"), 200_000, 200_000);
    conversation.moves_at(false, &reply, 200_500, 200_500);
    assert_eq!(conversation.statements(), ["select a"]);
    assert_eq!(conversation.findings().queries[0].duration_ns, 500);
    assert_eq!(conversation.findings().lost, [Loss::PostgresOutOfStep]);
}
