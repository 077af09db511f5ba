//! Many requests under way, each with a Sync of its own: more than have a place with their connection.

use steth_probes::{
    cell::Loss,
    postgres::{CYCLES, PUT_OFF},
};

use crate::{
    conversation::{Conversation, UNKNOWN},
    detection::connected,
    messages::*,
};

fn request(text: &str) -> Vec<u8> {
    all([parse("", text), run(""), sync()])
}

fn reply(tag: &str) -> Vec<u8> {
    all([parsed(), bound(), complete(tag), ready(b'I')])
}

/// The reply to a request whose statement cannot be prepared.
fn refusal() -> Vec<u8> {
    all([error("42P01"), ready(b'I')])
}

fn text(number: usize) -> String {
    format!("select {}", char::from(b'a' + u8::try_from(number % 26).unwrap()))
}

fn sends(conversation: &mut Conversation, numbers: std::ops::Range<usize>) {
    for number in numbers {
        conversation.sends(&request(&text(number)));
    }
}

#[test]
fn each_of_many_requests_is_matched_with_its_reply() {
    let mut conversation = connected();
    sends(&mut conversation, 0..100);
    for number in 0..40 {
        conversation.gets(&reply(&format!("SELECT {number}")));
    }
    // Those that come while others wait stand behind them.
    sends(&mut conversation, 100..120);
    conversation.gets(&all([parsed(), bound(), error("22012"), ready(b'I')]));
    for number in 41..120 {
        conversation.gets(&reply(&format!("SELECT {number}")));
    }
    let texts: Vec<String> = (0..120).map(text).collect();
    assert_eq!(conversation.statements(), texts);
    let done: Vec<_> =
        (0..120).filter(|number| *number != 40).map(|number| (texts[number].as_str(), number as u32)).collect();
    assert_eq!(conversation.done(), done);
    assert_eq!(conversation.sqlstates(), ["22012"]);
    assert!(conversation.findings().lost.is_empty() && !conversation.wire.unwrap().is_active());
}

#[test]
fn of_several_statements_in_each_of_many_requests_the_replies_are_matched_while_there_is_room() {
    let mut conversation = connected();
    let pair = all([parse("", "select a"), run(""), parse("", "select b"), run(""), sync()]);
    for _ in 0..15 {
        conversation.sends(&pair);
    }
    for _ in 0..15 {
        let half = |tag| all([parsed(), bound(), complete(tag)]);
        conversation.gets(&all([half("SELECT 1"), half("SELECT 2"), ready(b'I')]));
    }
    assert_eq!(conversation.done(), [("select a", 1), ("select b", 2)].repeat(15));
    assert!(conversation.findings().lost.is_empty());
}

#[test]
fn a_refused_statement_is_not_taken_for_that_of_a_request_that_was_put_off() {
    let mut conversation = connected();
    let named = |name, text| all([parse(name, text), bind("", name), execute("", 0), sync()]);
    conversation.sends(&named("s", "select a"));
    for _ in 0..20 {
        conversation.sends(&all([bind("", "s"), execute("", 0), sync()]));
    }
    conversation.sends(&named("t", "select b"));
    conversation.gets(&refusal());
    // "s" stands for an older statement, if for any.
    for _ in 0..20 {
        conversation.gets(&all([bound(), complete("SELECT 1"), ready(b'I')]));
    }
    conversation.gets(&reply("SELECT 2"));
    let done = conversation.done();
    assert!(done[..20].iter().all(|(statement, _)| *statement == UNKNOWN), "{done:?}");
    assert_eq!(done[20..], [("select b", 2)]);
    let statements = conversation.statements();
    assert!(statements[1..21].iter().all(|statement| *statement == UNKNOWN), "{statements:?}");
    assert_eq!(statements.last(), Some(&"select b"));
    assert_eq!(conversation.wire.unwrap().doubted, 0);
}

#[test]
fn more_requests_than_there_is_room_for_are_counted_as_lost_until_the_connection_is_idle() {
    let mut conversation = connected();
    let most = CYCLES + PUT_OFF as usize;
    sends(&mut conversation, 0..most + 3);
    assert_eq!(conversation.findings().lost, [Loss::PipelineTooDeep; 3]);
    conversation.gets(&reply("SELECT 1"));
    sends(&mut conversation, 0..1);
    assert_eq!(conversation.findings().lost, [Loss::PipelineTooDeep; 4]);
    for _ in 0..most + 3 {
        conversation.gets(&reply("SELECT 1"));
    }
    let texts: Vec<String> = (0..most).map(text).collect();
    assert_eq!(conversation.statements(), texts);
    is_right_again(&mut conversation);
    assert_eq!(conversation.findings().lost.len(), 4);
}

#[test]
fn requests_whose_room_others_needed_are_counted_as_lost_until_the_connection_is_idle() {
    let mut conversation = connected();
    sends(&mut conversation, 0..20);
    conversation.needs_room();
    for _ in 0..20 {
        conversation.gets(&reply("SELECT 1"));
    }
    assert_eq!(conversation.statements(), ["select a"]);
    assert_eq!(conversation.findings().lost, [Loss::PipelineTooDeep; 19]);
    assert_eq!(conversation.wire.unwrap().doubted, 0);
    is_right_again(&mut conversation);
}

fn is_right_again(conversation: &mut Conversation) {
    assert!(!conversation.wire.unwrap().is_active());
    conversation.sends(&request("select z")).gets(&reply("SELECT 1"));
    assert_eq!(conversation.done().last(), Some(&("select z", 1)));
    assert_eq!(conversation.statements().last(), Some(&"select z"));
}
