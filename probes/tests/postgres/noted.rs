//! Statements whose text the wire did not show, told by what the server's process notes of itself.

use steth_probes::cell::Role;

use crate::{
    conversation::{Conversation, UNKNOWN},
    messages::*,
};

/// A server's end, in the middle of a session, whose process has run `noted` last.
fn server(noted: &str) -> Conversation {
    let mut conversation = Conversation::new(Role::Server);
    conversation.notes(noted);
    conversation
}

/// Executes a statement that was prepared under this name.
fn executes(conversation: &mut Conversation, name: &str) {
    conversation.sends(&all([run(name), sync()])).gets(&all([bound(), row("1"), complete("SELECT 1"), ready(b'I')]));
}

#[test]
fn a_statement_prepared_before_is_asked_for_once_and_then_known_by_its_name() {
    for name in ["old", ""] {
        let mut conversation = server("select 1");
        executes(&mut conversation, name);
        conversation.notes("something else");
        executes(&mut conversation, name);
        assert_eq!(conversation.statements(), ["select 1"; 2], "{name:?}");
        assert_eq!(conversation.done(), [("select 1", 1); 2], "{name:?}");
        assert_eq!(conversation.asked(), 1, "{name:?}");
    }
}

#[test]
fn a_portal_from_before_is_asked_for_but_gives_no_name_to_its_statement() {
    let mut conversation = server("select 1");
    conversation.sends(&all([run("old"), sync()])).gets(&all([bound(), row("1"), suspended(), ready(b'T')]));
    conversation.notes("fetch");
    conversation.sends(&all([execute("p", 0), sync()])).gets(&all([row("1"), complete("SELECT 1"), ready(b'T')]));
    executes(&mut conversation, "old");
    assert_eq!(conversation.statements(), ["select 1", "fetch", "select 1"]);
}

#[test]
fn of_several_statements_under_way_none_is_asked_for() {
    let mut conversation = server("the last one");
    conversation.sends(&all([run("a"), run("b"), sync()]));
    let answer = || all([bound(), complete("SELECT 1")]);
    conversation.gets(&all([answer(), answer(), ready(b'I')]));
    conversation.sends(&all([run("a"), sync(), run("b"), sync()])).gets(&all([answer(), ready(b'I')]));
    assert_eq!((conversation.statements(), conversation.asked()), (vec![UNKNOWN; 2], 0));
}

#[test]
fn what_was_bound_behind_an_execute_is_not_taken_for_it() {
    let mut conversation = server("bound");
    conversation.sends(&query("begin")).gets(&all([complete("BEGIN"), ready(b'T')]));
    conversation.sends(&all([execute("", 0), bind("", "b"), sync()]));
    conversation.gets(&all([complete("SELECT 1"), bound(), ready(b'I')]));
    assert_eq!((conversation.statements(), conversation.asked()), (vec!["begin", UNKNOWN], 0));
}

#[test]
fn what_was_parsed_behind_a_portal_is_not_taken_for_it() {
    let mut conversation = server("parsed");
    conversation.sends(&all([run("old"), parse("new", "parsed"), sync()]));
    conversation.gets(&all([bound(), complete("SELECT 1"), parsed(), ready(b'I')]));
    assert_eq!((conversation.statements(), conversation.asked()), (vec![UNKNOWN], 0));
}

#[test]
fn an_error_first_or_a_function_call_tells_nothing() {
    let mut conversation = server("the one before");
    conversation.sends(&all([run("missing"), sync()])).gets(&all([error("26000"), ready(b'I')]));
    conversation.sends(&message(b'F', &[0; 10])).gets(&all([message(b'V', &[0; 4]), ready(b'I')]));
    assert_eq!((conversation.statements(), conversation.asked()), (vec![UNKNOWN; 2], 0));
}

#[test]
fn a_client_is_not_asked() {
    let mut conversation = Conversation::new(Role::Client);
    conversation.notes("select 1");
    executes(&mut conversation, "old");
    assert_eq!((conversation.statements(), conversation.asked()), (vec![UNKNOWN], 0));
}
