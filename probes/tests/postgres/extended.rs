//! The extended protocol: batches, pipelines, portals, and errors amidst them.

use steth_probes::{cell::Loss, postgres::STATEMENTS};

use crate::{
    conversation::{BATCH, UNKNOWN},
    detection::connected,
    messages::*,
};

#[test]
fn all_messages_in_one_write_are_one_query() {
    let mut conversation = connected();
    conversation.sends(&all([parse("", "select 1"), bind("", ""), describe(""), execute("", 0), sync()]));
    conversation.gets(&all([parsed(), bound(), columns(), row("1"), complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.statements(), ["select 1"]);
    assert_eq!(conversation.done(), [("select 1", 1)]);
}

#[test]
fn dml_without_rows_to_return_is_matched() {
    let mut conversation = connected();
    conversation.sends(&all([parse("", "update t"), bind("", ""), describe(""), execute("", 0), sync()]));
    conversation.gets(&all([parsed(), bound(), no_data(), complete("UPDATE 7"), ready(b'I')]));
    assert_eq!(conversation.done(), [("update t", 7)]);
}

#[test]
fn preparing_alone_is_no_query_but_its_error_counts() {
    let mut conversation = connected();
    conversation.sends(&all([parse("s", "select 1"), sync()])).gets(&all([parsed(), ready(b'I')]));
    conversation.sends(&all([parse("t", "selec"), sync()])).gets(&all([error("42601"), ready(b'I')]));
    assert!(conversation.statements().is_empty());
    assert_eq!(conversation.sqlstates(), ["42601"]);
}

#[test]
fn parse_then_flush_then_execute_is_one_cycle_of_a_known_statement() {
    let mut conversation = connected();
    conversation.sends(&all([parse("s", "select 1"), flush()])).gets(&parsed());
    conversation.sends(&all([run("s"), sync()])).gets(&all([bound(), complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.statements(), ["select 1"]);
    assert_eq!(conversation.findings().queries[0].duration_ns, 3_000);
    assert_eq!(conversation.findings().queries[0].first_byte_ns, 1_000);
}

#[test]
fn a_batch_of_one_statement_is_that_statement_however_long() {
    for count in [2, STATEMENTS, STATEMENTS + 1, 200, 1000] {
        let mut conversation = connected();
        conversation.sends(&parse("", "insert x")).sends(&run("").repeat(count)).sends(&sync());
        conversation.gets(&parsed()).gets(&all([bound(), complete("INSERT 0 2")]).repeat(count)).gets(&ready(b'I'));
        assert_eq!(conversation.statements(), ["insert x"]);
        assert_eq!(conversation.done(), vec![("insert x", 2); count]);
        assert!(conversation.findings().lost.is_empty());
    }
}

#[test]
fn a_mixed_batch_has_a_number_of_its_own_and_its_replies_their_statements() {
    let mut conversation = connected();
    let write = |name: &str, text: &str| all([parse("", text), run(name)]);
    let batch = all([write("", "select a"), write("", "insert b"), write("", "delete c"), sync()]);
    let reply = |tag: &str| all([parsed(), bound(), complete(tag)]);
    let replies = all([reply("SELECT 1"), reply("INSERT 0 2"), reply("DELETE 3"), ready(b'I')]);
    for _ in 0..2 {
        conversation.sends(&batch).gets(&replies);
    }
    let done = [("select a", 1), ("insert b", 2), ("delete c", 3)];
    assert_eq!(conversation.done(), [done, done].concat());
    let statements = conversation.statements();
    assert_eq!(statements.len(), 2);
    assert!(statements[0].starts_with(BATCH) && statements[0] == statements[1], "{statements:?}");
}

#[test]
fn batches_that_differ_only_in_repetitions_share_a_number() {
    let mut conversation = connected();
    for name in ["begin", "insert", "commit"] {
        conversation.sends(&all([parse(name, name), sync()])).gets(&all([parsed(), ready(b'I')]));
    }
    for count in [1, 2, 10] {
        conversation.sends(&all([run("begin"), run("insert").repeat(count), run("commit"), sync()]));
        conversation.gets(&all([complete("BEGIN"), complete("INSERT 0 1").repeat(count), complete("COMMIT")]));
        conversation.gets(&ready(b'I'));
    }
    let statements = conversation.statements();
    assert!(statements[0].starts_with(BATCH) && statements.iter().all(|one| *one == statements[0]), "{statements:?}");
    assert_eq!(conversation.findings().transactions.len(), 3);
}

#[test]
fn cycles_under_way_at_one_time_each_have_their_own_times() {
    let mut conversation = connected();
    for (nth, text) in ["select a", "select b", "select c"].into_iter().enumerate() {
        let at_ns = 100_000 + 100 * nth as u64;
        conversation.moves_at(true, &all([parse("", text), run(""), sync()]), at_ns, at_ns);
    }
    for nth in 0..3 {
        let at_ns = 200_000 + 1_000 * nth;
        conversation.moves_at(false, &all([parsed(), bound(), row("1")]), at_ns, at_ns);
        conversation.moves_at(false, &all([complete("SELECT 1"), ready(b'I')]), at_ns + 10, at_ns + 20);
    }
    let times: Vec<_> =
        conversation.findings().queries.iter().map(|query| (query.first_byte_ns, query.duration_ns)).collect();
    assert_eq!(times, [(100_000, 100_020), (100_900, 100_920), (101_800, 101_820)]);
    assert_eq!(conversation.statements(), ["select a", "select b", "select c"]);
}

#[test]
fn after_an_error_the_server_skips_to_sync_and_later_replies_are_matched() {
    let mut conversation = connected();
    let step = |text: &str| all([parse("", text), run("")]);
    conversation.sends(&all([step("select a"), step("select b"), step("select c"), sync()]));
    conversation.sends(&all([step("select d"), sync()]));
    conversation.gets(&all([parsed(), bound(), complete("SELECT 1"), error("22012"), ready(b'I')]));
    conversation.gets(&all([parsed(), bound(), complete("SELECT 4"), ready(b'I')]));
    assert_eq!(conversation.done(), [("select a", 1), ("select d", 4)]);
    assert_eq!(conversation.statements().len(), 2);
    assert_eq!(conversation.statements()[1], "select d");
    assert_eq!(conversation.sqlstates(), ["22012"]);
}

#[test]
fn a_portal_with_a_row_limit_is_one_statement_in_several_cycles() {
    let mut conversation = connected();
    conversation.sends(&all([parse("", "select a"), bind("p", ""), execute("p", 1), sync()]));
    conversation.gets(&all([parsed(), bound(), row("1"), suspended(), ready(b'T')]));
    conversation.sends(&all([execute("p", 1), sync()])).gets(&all([row("2"), suspended(), ready(b'T')]));
    conversation.sends(&all([execute("p", 1), sync()])).gets(&all([complete("SELECT 0"), ready(b'T')]));
    assert_eq!(conversation.statements(), ["select a"; 3]);
    assert_eq!(conversation.done(), [("select a", 0)]);
}

#[test]
fn copy_in_by_the_extended_protocol_is_followed_by_a_second_sync() {
    let mut conversation = connected();
    conversation.sends(&all([parse("", "copy t from stdin"), run(""), sync()]));
    conversation.gets(&all([parsed(), bound(), message(b'G', &[0; 3])]));
    conversation.sends(&all([message(b'd', b"1\n"), message(b'c', b""), sync()]));
    conversation.gets(&all([complete("COPY 1"), ready(b'I')]));
    assert!(!conversation.wire.unwrap().is_active());
    conversation.sends(&all([parse("", "select 1"), run(""), sync()]));
    conversation.gets(&all([parsed(), bound(), complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.done(), [("copy t from stdin", 1), ("select 1", 1)]);
    assert_eq!(conversation.statements(), ["copy t from stdin", "select 1"]);
}

#[test]
fn more_statements_than_are_followed_are_unknown_and_counted_until_the_next_cycle() {
    let mut conversation = connected();
    let pair = all([parse("", "select a"), run(""), parse("", "select b"), run("")]);
    let count = STATEMENTS / 2 + 3;
    conversation.sends(&pair.repeat(count)).sends(&sync());
    // Sent while the first is under way: its replies are matched all the same.
    conversation.gets(&all([parsed(), bound(), complete("SELECT 1")]));
    conversation.sends(&all([parse("", "select c"), run(""), sync()]));
    conversation.gets(&all([parsed(), bound(), complete("SELECT 1")]).repeat(2 * count - 1)).gets(&ready(b'I'));
    conversation.gets(&all([parsed(), bound(), complete("SELECT 9"), ready(b'I')]));
    let done = conversation.done();
    assert_eq!(done.len(), 2 * count + 1);
    let known = ["select a", "select b"].into_iter().cycle().take(STATEMENTS);
    assert!(known.eq(done.iter().take(STATEMENTS).map(|(statement, _)| *statement)));
    assert!(done[STATEMENTS..2 * count].iter().all(|(statement, _)| *statement == UNKNOWN));
    assert_eq!(done[2 * count], ("select c", 9));
    assert_eq!(conversation.findings().lost, vec![Loss::PipelineTooDeep; 2 * count - STATEMENTS]);
    assert_eq!(conversation.statements().len(), 2);
}
