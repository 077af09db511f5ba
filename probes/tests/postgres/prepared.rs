//! Names of prepared statements and portals: whose text they stand for, and when that is not known any more.

use crate::{
    conversation::{Conversation, UNKNOWN},
    detection::connected,
    messages::*,
};

fn prepared(name: &str, text: &str) -> Conversation {
    let mut conversation = connected();
    conversation.sends(&all([parse(name, text), sync()])).gets(&all([parsed(), ready(b'I')]));
    conversation
}

/// Executes the statement of a name and says which one that was.
fn ran<'a>(conversation: &'a mut Conversation, name: &str) -> &'a str {
    conversation.sends(&all([run(name), sync()])).gets(&all([bound(), complete("SELECT 1"), ready(b'I')]));
    conversation.statements().last().unwrap()
}

#[test]
fn a_named_statement_is_known_until_it_is_closed() {
    let mut conversation = prepared("s", "select a");
    assert_eq!(ran(&mut conversation, "s"), "select a");
    assert_eq!(ran(&mut conversation, "s"), "select a");
    assert_eq!(ran(&mut conversation, "other"), UNKNOWN);
    conversation.sends(&all([close_statement("s"), sync()])).gets(&all([closed(), ready(b'I')]));
    assert_eq!(ran(&mut conversation, "s"), UNKNOWN);
}

#[test]
fn a_name_used_again_stands_for_the_new_text() {
    let mut conversation = prepared("s", "select a");
    conversation.sends(&all([close_statement("s"), parse("s", "select b"), sync()]));
    conversation.gets(&all([closed(), parsed(), ready(b'I')]));
    assert_eq!(ran(&mut conversation, "s"), "select b");
}

#[test]
fn a_portal_is_not_a_statement_of_the_same_name() {
    let mut conversation = prepared("x", "select a");
    conversation.sends(&all([parse("y", "select b"), bind("x", "y"), execute("x", 0), run("x"), sync()]));
    conversation.gets(&all([parsed(), bound(), complete("SELECT 1"), bound(), complete("SELECT 2"), ready(b'I')]));
    assert_eq!(conversation.done(), [("select b", 1), ("select a", 2)]);
}

#[test]
fn a_name_whose_parse_failed_does_not_stand_for_the_failed_text() {
    for name in ["s", ""] {
        let mut conversation = connected();
        conversation.sends(&all([parse(name, "selec a"), sync()])).gets(&all([error("42601"), ready(b'I')]));
        assert_eq!(ran(&mut conversation, name), UNKNOWN, "{name:?}");
    }
}

#[test]
fn a_name_whose_parse_was_refused_as_taken_is_not_guessed() {
    let mut conversation = prepared("s", "select a");
    conversation.sends(&all([parse("s", "select b"), sync()])).gets(&all([error("42P05"), ready(b'I')]));
    assert_eq!(ran(&mut conversation, "s"), UNKNOWN);
}

#[test]
fn a_statement_that_fails_when_executed_stays_prepared() {
    for name in ["s", ""] {
        let mut conversation = connected();
        conversation.sends(&all([parse(name, "select a"), run(name), sync()]));
        conversation.gets(&all([parsed(), bound(), error("22012"), ready(b'I')]));
        assert_eq!(ran(&mut conversation, name), "select a", "{name:?}");
    }
}

#[test]
fn parse_messages_that_the_server_skipped_prepare_nothing() {
    let mut conversation = prepared("s", "select a");
    let batch = [parse("bad", "selec"), close_statement("s"), parse("s", "select b"), parse("", "select c"), sync()];
    conversation.sends(&all(batch)).gets(&all([error("42601"), ready(b'I')]));
    for name in ["bad", "s", ""] {
        assert_eq!(ran(&mut conversation, name), UNKNOWN, "{name:?}");
    }
}

#[test]
fn a_failed_parse_does_not_take_back_those_of_the_next_cycle() {
    let mut conversation = connected();
    conversation.sends(&all([parse("s", "selec a"), sync(), parse("t", "select b"), sync()]));
    conversation.gets(&all([error("42601"), ready(b'I'), parsed(), ready(b'I')]));
    assert_eq!(ran(&mut conversation, "s"), UNKNOWN);
    assert_eq!(ran(&mut conversation, "t"), "select b");
}

#[test]
fn more_parses_under_way_than_are_watched_leave_their_names_unknown() {
    let mut conversation = connected();
    let names: Vec<String> = (0..20).map(|nth| format!("s{nth}")).collect();
    let texts: Vec<String> = (0..20).map(|nth| format!("select a{nth}")).collect();
    for (name, text) in names.iter().zip(&texts) {
        conversation.sends(&parse(name, text));
    }
    conversation.sends(&sync()).gets(&parsed().repeat(20)).gets(&ready(b'I'));
    for (nth, name) in names.iter().enumerate() {
        let expected = if nth < steth_probes::postgres::PARSES { texts[nth].as_str() } else { UNKNOWN };
        assert_eq!(ran(&mut conversation, name), expected);
    }
    // Room is back.
    conversation.sends(&all([parse("s19", "select b"), sync()])).gets(&all([parsed(), ready(b'I')]));
    assert_eq!(ran(&mut conversation, "s19"), "select b");
}

#[test]
fn a_simple_query_puts_an_end_to_the_unnamed_statement() {
    let mut conversation = prepared("", "select a");
    conversation.sends(&query("select b")).gets(&all([complete("SELECT 1"), ready(b'I')]));
    assert_eq!(ran(&mut conversation, ""), UNKNOWN);
}

#[test]
fn after_deallocate_all_or_discard_all_no_name_is_known() {
    for (text, tag) in [("DEALLOCATE ALL", "DEALLOCATE ALL"), ("discard all", "DISCARD ALL")] {
        for extended in [false, true] {
            let mut conversation = prepared("s", "select a");
            assert_eq!(ran(&mut conversation, "s"), "select a");
            let request = if extended { all([parse("", text), run(""), sync()]) } else { query(text) };
            conversation.sends(&request).gets(&all([complete(tag), ready(b'I')]));
            assert_eq!(ran(&mut conversation, "s"), UNKNOWN, "{text}");
            // A name used again is known again.
            conversation.sends(&all([parse("s", "select b"), sync()])).gets(&all([parsed(), ready(b'I')]));
            assert_eq!(ran(&mut conversation, "s"), "select b");
        }
    }
}

#[test]
fn other_forms_of_discard_leave_the_names() {
    let mut conversation = prepared("s", "select a");
    for tag in ["DISCARD PLANS", "DISCARD TEMP", "DISCARD SEQUENCES"] {
        conversation.sends(&query(&tag.to_lowercase())).gets(&all([complete(tag), ready(b'I')]));
    }
    assert_eq!(ran(&mut conversation, "s"), "select a");
}

#[test]
fn deallocate_frees_the_name_it_names_and_no_other() {
    for text in ["DEALLOCATE s", "deallocate prepare S;", "DEALLOCATE \"s\"", "select 1; deallocate s; select 2"] {
        for extended in [false, true] {
            let mut conversation = prepared("s", "select a");
            conversation.sends(&all([parse("t", "select b"), sync()])).gets(&all([parsed(), ready(b'I')]));
            let request = if extended { all([parse("", text), run(""), sync()]) } else { query(text) };
            if extended && text.contains("select") {
                continue;
            }
            conversation.sends(&request).gets(&all([complete("DEALLOCATE"), ready(b'I')]));
            assert_eq!(ran(&mut conversation, "s"), UNKNOWN, "{text}");
            assert_eq!(ran(&mut conversation, "t"), "select b", "{text}");
        }
    }
}

#[test]
fn a_prepared_deallocate_that_is_executed_again_leaves_no_name_known() {
    let mut conversation = prepared("s", "select a");
    let done = all([complete("DEALLOCATE"), ready(b'I')]);
    conversation
        .sends(&all([parse("d", "deallocate s"), run("d"), sync()]))
        .gets(&all([parsed(), bound()]))
        .gets(&done);
    conversation.sends(&all([parse("s", "select b"), sync()])).gets(&all([parsed(), ready(b'I')]));
    assert_eq!(ran(&mut conversation, "s"), "select b");
    conversation.sends(&all([run("d"), sync()])).gets(&bound()).gets(&done);
    assert_eq!(ran(&mut conversation, "s"), UNKNOWN);
}

#[test]
fn a_name_prepared_by_sql_is_not_guessed() {
    let mut conversation = prepared("s", "select a");
    conversation.sends(&query("deallocate s; prepare s as select b"));
    conversation.gets(&all([complete("DEALLOCATE"), complete("PREPARE"), ready(b'I')]));
    assert_eq!(ran(&mut conversation, "s"), UNKNOWN);
    conversation.sends(&query("execute s")).gets(&all([complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.done().last(), Some(&("execute s", 1)), "what was sent");
}

#[test]
fn what_was_sent_to_a_name_before_its_parse_was_refused_is_not_guessed() {
    let mut conversation = prepared("s", "select a");
    conversation.sends(&all([parse("s", "select b"), sync(), run("s"), sync()]));
    conversation.gets(&all([error("42P05"), ready(b'I'), bound(), complete("SELECT 1"), ready(b'I')]));
    assert_eq!((conversation.statements(), conversation.done()), (vec![UNKNOWN], vec![(UNKNOWN, 1)]));
}

#[test]
fn what_was_bound_to_the_unnamed_statement_before_its_parse_was_skipped_is_not_guessed() {
    let mut conversation = prepared("", "select a");
    conversation.sends(&all([run("nowhere"), parse("", "select b"), sync(), run(""), sync()]));
    conversation.gets(&all([error("26000"), ready(b'I'), bound(), complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.done(), [(UNKNOWN, 1)]);
}

#[test]
fn a_name_closed_since_its_parse_was_refused_is_not_guessed() {
    let mut conversation = prepared("s", "select a");
    let late = all([bind("", "s"), close_statement("s"), execute("", 0), sync()]);
    conversation.sends(&all([parse("s", "select b"), sync(), late]));
    conversation.gets(&all([error("42P05"), ready(b'I'), bound(), closed(), complete("SELECT 1"), ready(b'I')]));
    assert_eq!(conversation.done(), [(UNKNOWN, 1)]);
}

#[test]
fn a_portal_bound_before_its_parse_was_refused_is_not_guessed() {
    for portal in ["", "p"] {
        let mut conversation = prepared("s", "select a");
        conversation.sends(&all([query("begin"), parse("s", "select b"), sync(), bind(portal, "s"), flush()]));
        conversation.gets(&all([complete("BEGIN"), ready(b'T'), error("42P05"), ready(b'T'), bound()]));
        conversation.sends(&all([execute(portal, 0), sync()])).gets(&all([complete("SELECT 1"), ready(b'T')]));
        assert_eq!(conversation.done().last(), Some(&(UNKNOWN, 1)), "{portal:?}");
    }
}

#[test]
fn a_portal_whose_bind_was_refused_is_not_guessed() {
    let mut conversation = prepared("s", "select a");
    conversation.sends(&all([parse("t", "select b"), bind("p", "s"), execute("p", 1), sync()]));
    conversation.gets(&all([parsed(), bound(), suspended(), ready(b'T')]));
    conversation.sends(&all([bind("p", "t"), sync()])).gets(&all([error("42P03"), ready(b'E')]));
    // After a rollback to a savepoint the older portal is there still.
    conversation.sends(&all([execute("p", 1), sync()])).gets(&all([suspended(), ready(b'T')]));
    assert_eq!(conversation.statements().last(), Some(&UNKNOWN));
    assert_eq!(ran(&mut conversation, "t"), "select b");
}

#[test]
fn a_conversation_found_anew_knows_no_names() {
    let mut conversation = prepared("s", "select a");
    conversation.gets(b"\0\0\0\0\0\0\0\0");
    assert_eq!(ran(&mut conversation, "s"), UNKNOWN);
}
