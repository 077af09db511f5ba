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
