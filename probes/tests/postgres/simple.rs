//! The simple query protocol, COPY, function calls, and what the server says unasked.

use steth_probes::{
    cell::{
        Loss, Role,
        TransactionOutcome::{Commit, Rollback},
    },
    postgres::{CYCLES, STATEMENTS, TEXT_LEN},
};

use crate::{
    conversation::{BATCH, Conversation, UNKNOWN},
    detection::connected,
    messages::*,
};

#[test]
fn each_statement_of_a_query_is_counted_by_itself_and_all_are_one_cycle() {
    let mut conversation = connected();
    conversation.sends(&query("BEGIN; UPDATE t SET a = 'b;c' ;\n COMMIT;"));
    conversation.gets(&all([complete("BEGIN"), complete("UPDATE 3"), complete("COMMIT"), ready(b'I')]));
    assert_eq!(conversation.done(), [("BEGIN", 0), ("UPDATE t SET a = 'b;c' ", 3), ("COMMIT", 0)]);
    assert!(conversation.statements().len() == 1 && conversation.statements()[0].starts_with(BATCH));
    assert_eq!(conversation.findings().transactions, [(Commit, 1_000)]);
    // The same as one by one, or as a batch of the extended protocol.
    conversation.sends(&query("COMMIT")).gets(&all([complete("COMMIT"), ready(b'I')]));
    let parts = ["BEGIN", "UPDATE t SET a = 'x' ", "COMMIT"].map(|text| all([parse("", text), run("")]));
    conversation.sends(&all([parts.concat(), sync()])).gets(&ready(b'I'));
    let statements = conversation.statements();
    assert_eq!((statements[1], statements[2]), ("COMMIT", statements[0]));
}

#[test]
fn after_an_error_the_rest_of_a_query_is_skipped_and_later_replies_are_matched() {
    let mut conversation = connected();
    conversation.sends(&query("select a; select b; select c; select d"));
    conversation.sends(&query("select e; select f"));
    conversation.gets(&all([complete("SELECT 1"), complete("SELECT 2"), error("22012"), ready(b'I')]));
    conversation.gets(&all([complete("SELECT 5"), complete("SELECT 6"), ready(b'I')]));
    assert_eq!(conversation.done(), [("select a", 1), ("select b", 2), ("select e", 5), ("select f", 6)]);
    assert_eq!(conversation.sqlstates(), ["22012"]);
    assert!(conversation.findings().lost.is_empty());
}

#[test]
fn what_waits_for_an_answer_when_the_connection_breaks_off_has_failed() {
    let mut alone = connected();
    alone.sends(&query("select 1")).reads_its_end();
    assert_eq!((alone.statements(), alone.sqlstates()), (vec!["select 1"], vec!["08006"]));
    let mut closed = connected();
    closed.sends(&query("select 1")).breaks_off();
    assert_eq!((closed.statements(), closed.sqlstates()), (alone.statements(), alone.sqlstates()), "both ways are one");
    // Half a row has come.
    let mut half = connected();
    half.sends(&query("select 1")).gets(b"D\0\0\0\x20\0").reads_its_end();
    assert_eq!((half.statements(), half.sqlstates()), (vec!["select 1"], vec!["08006"]));
    // An error has, and nothing behind it.
    let mut failed = connected();
    failed.sends(&query("select 1")).gets(&error("53300")).reads_its_end();
    assert_eq!((failed.statements(), failed.sqlstates()), (vec!["select 1"], vec!["53300"]));
    for several in 2..=CYCLES {
        let mut deep = connected();
        let texts: Vec<_> = (0..several).map(|nth| format!("select a{nth}")).collect();
        texts.iter().for_each(|text| {
            deep.sends(&query(text));
        });
        deep.gets(&error("22012")).reads_its_end();
        let codes: Vec<_> = (0..several).map(|nth| if nth == 0 { "22012" } else { "08006" }).collect();
        assert_eq!((deep.statements(), deep.sqlstates()), (texts.iter().map(String::as_str).collect(), codes));
    }
    let mut transaction = connected();
    transaction.sends(&query("begin")).gets(&all([complete("BEGIN"), ready(b'T')]));
    transaction.sends(&query("select 1")).reads_its_end();
    assert_eq!(transaction.findings().transactions.iter().map(|it| it.0).collect::<Vec<_>>(), [Rollback]);
    // A server may tell that error of another connection of its own, as postgres_fdw does, and goes on.
    let mut goes_on = connected();
    goes_on.sends(&query("select a")).sends(&query("select b"));
    goes_on.gets(&all([error("08006"), ready(b'I'), complete("SELECT 7"), ready(b'I')]));
    assert_eq!((goes_on.statements(), goes_on.done()), (vec!["select a", "select b"], vec![("select b", 7)]));
    // A stream of replication has no answer.
    let mut stream = connected();
    stream.sends(&query("START_REPLICATION 0/0")).gets(b"W\0\0\0\x07\0\0\0").reads_its_end();
    // Nobody waits; nobody has been let in; not known to be Postgres.
    let mut idle = connected();
    idle.reads_its_end();
    let mut refused = Conversation::new(Role::Client);
    refused.sends(&startup(196_608, &[("user", "app")])).gets(&error("28P01")).reads_its_end();
    let mut candidate = Conversation::new(Role::Client);
    candidate.sends(&query("select 1")).reads_its_end();
    assert!(refused.findings().connected.is_empty());
    for quiet in [idle, refused, candidate, stream] {
        assert_eq!(quiet.statements().len(), 0);
    }
}

/// It closes the connection then, without ReadyForQuery.
#[test]
fn a_query_in_whose_midst_the_server_goes_has_failed() {
    for code in ["57P01", "57P02", "57P04", "25P04"] {
        let mut conversation = connected();
        conversation.sends(&query("select 1")).gets(&error(code));
        assert_eq!((conversation.statements(), conversation.sqlstates()), (vec!["select 1"], vec![code]));
        assert!(conversation.findings().lost.is_empty());
    }
    let mut idle = connected();
    idle.gets(&error("57P01"));
    assert_eq!((idle.statements().len(), idle.sqlstates()), (0, vec!["57P01"]));
    // Nor are its last words counted twice if the connection's end is seen, too.
    let mut told = connected();
    told.sends(&query("select 1")).gets(&error("57P01")).reads_its_end();
    assert_eq!((told.statements(), told.sqlstates()), (vec!["select 1"], vec!["57P01"]));
    // Others are followed by ReadyForQuery, and counted once.
    let mut stays = connected();
    stays.sends(&query("select 1")).gets(&all([error("57014"), ready(b'I')]));
    assert_eq!(stays.statements(), ["select 1"]);
}

#[test]
fn one_statement_several_times_is_that_statement() {
    let mut conversation = connected();
    conversation.sends(&query("insert into t values (1); insert into t values (22);insert into t values (3)"));
    conversation.gets(&all([complete("INSERT 0 1").repeat(3), ready(b'I')]));
    assert_eq!(conversation.statements(), ["insert into t values (1)"]);
    assert_eq!(conversation.done(), [("insert into t values (1)", 1); 3]);
}

#[test]
fn a_query_of_empty_statements_is_answered_once() {
    for text in [";", " ; ;", "-- nothing", ";; /* nothing; */ --"] {
        let mut conversation = connected();
        conversation.sends(&query(text)).gets(&all([message(b'I', b""), ready(b'I')]));
        conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
        assert_eq!(conversation.statements().len(), 2, "{text}");
        assert_eq!(conversation.done(), [("select 1", 1)], "{text}");
    }
}

#[test]
fn the_statements_of_a_query_that_has_too_many_are_unknown_from_there_on() {
    for extra in [0, 1, 5] {
        let mut conversation = connected();
        let texts: Vec<String> = (0..STATEMENTS + extra).map(|nth| format!("select a{nth}")).collect();
        conversation.sends(&query(&texts.join(";")));
        conversation.gets(&complete("SELECT 1").repeat(texts.len())).gets(&ready(b'I'));
        conversation.sends(&query("select 1")).gets(&all([complete("SELECT 1"), ready(b'I')]));
        let known = texts[..STATEMENTS].iter().map(String::as_str).chain([UNKNOWN].into_iter().cycle().take(extra));
        let done = conversation.done();
        assert!(known.chain(["select 1"]).eq(done.iter().map(|(statement, _)| *statement)), "{done:?}");
        assert_eq!(conversation.findings().lost, vec![Loss::PipelineTooDeep; usize::from(extra > 0)]);
    }
}

#[test]
fn what_stands_behind_a_statement_too_long_to_read_is_unknown() {
    let mut conversation = connected();
    let long = format!("select {}", "x".repeat(TEXT_LEN as usize));
    conversation.sends(&query(&format!("select a; {long}; select b")));
    conversation.gets(&all([complete("SELECT 1"), complete("SELECT 2"), complete("SELECT 3"), ready(b'I')]));
    assert_eq!(conversation.done(), [("select a", 1), (&long[..TEXT_LEN as usize], 2), (UNKNOWN, 3)]);
    // What each statement takes counts, not the whole.
    let half = format!("select {}", "y".repeat(TEXT_LEN as usize / 2));
    conversation.sends(&query(&format!("{half};{half};{half}; select c")));
    conversation.gets(&all([complete("SELECT 1").repeat(3), complete("SELECT 4"), ready(b'I')]));
    assert_eq!(conversation.done()[3..], [(half.as_str(), 1), (&half, 1), (&half, 1), ("select c", 4)]);
}

#[test]
fn a_rules_actions_and_a_routines_body_are_one_statement() {
    for text in [
        "CREATE RULE r AS ON INSERT TO t DO ALSO (select a; select b)",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC select a; select b; END",
        "DO $x$ begin perform 1; end $x$",
    ] {
        let mut conversation = connected();
        conversation.sends(&query(&format!("{text}; select 1"))).gets(&all([
            complete("X"),
            complete("SELECT 1"),
            ready(b'I'),
        ]));
        assert_eq!(conversation.done(), [(text, 0), ("select 1", 1)]);
    }
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
