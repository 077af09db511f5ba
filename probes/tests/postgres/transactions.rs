//! Transactions as ReadyForQuery tells them.

use steth_probes::cell::{
    Role,
    TransactionOutcome::{self, Commit, Rollback},
};

use crate::{conversation::Conversation, detection::connected, messages::*};

/// Runs simple queries, each with its tags and the state after it; a tag of five characters in capitals and digits that
/// begins with a digit is an error.
fn run(conversation: &mut Conversation, queries: &[(&[&str], u8)]) -> Vec<(TransactionOutcome, u64)> {
    for (tags, status) in queries {
        conversation.sends(&query("select 1"));
        let replies = tags.iter().map(|tag| {
            if tag.len() == 5 && tag.starts_with(|first: char| first.is_ascii_digit()) {
                error(tag)
            } else {
                complete(tag)
            }
        });
        conversation.gets(&[replies.collect::<Vec<_>>().concat(), ready(*status)].concat());
    }
    conversation.findings().transactions.clone()
}

#[test]
fn a_query_outside_a_transaction_is_one_of_its_own() {
    let found = run(&mut connected(), &[(&["SELECT 1"], b'I'), (&["42P01"], b'I')]);
    assert_eq!(found, [(Commit, 1_000), (Rollback, 1_000)]);
}

#[test]
fn a_transaction_lasts_from_begin_to_its_end() {
    for (tag, outcome) in [("COMMIT", Commit), ("ROLLBACK", Rollback), ("PREPARE TRANSACTION", Commit)] {
        for begin in ["BEGIN", "START TRANSACTION"] {
            let queries: [(&[&str], u8); 3] = [(&[begin], b'T'), (&["SELECT 1"], b'T'), (&[tag], b'I')];
            assert_eq!(run(&mut connected(), &queries), [(outcome, 5_000)], "{tag}");
        }
    }
}

#[test]
fn a_failed_transaction_is_rolled_back() {
    let ended_by_commit: [(&[&str], u8); 3] = [(&["BEGIN"], b'T'), (&["22012"], b'E'), (&["ROLLBACK"], b'I')];
    assert_eq!(run(&mut connected(), &ended_by_commit), [(Rollback, 5_000)]);
    let failed_commit: [(&[&str], u8); 2] = [(&["BEGIN"], b'T'), (&["23503"], b'I')];
    assert_eq!(run(&mut connected(), &failed_commit), [(Rollback, 3_000)]);
}

#[test]
fn a_savepoint_ends_no_transaction() {
    let queries: [(&[&str], u8); 5] = [
        (&["BEGIN"], b'T'),
        (&["SAVEPOINT"], b'T'),
        (&["22012"], b'E'),
        (&["ROLLBACK"], b'T'),
        (&["RELEASE", "COMMIT"], b'I'),
    ];
    assert_eq!(run(&mut connected(), &queries), [(Commit, 9_000)]);
}

#[test]
fn the_last_command_of_a_cycle_need_not_be_the_end() {
    for (tags, outcome) in
        [(&["BEGIN", "INSERT 0 1", "ROLLBACK"][..], Rollback), (&["BEGIN", "SAVEPOINT", "ROLLBACK", "COMMIT"], Commit)]
    {
        assert_eq!(run(&mut connected(), &[(tags, b'I')]), [(outcome, 1_000)], "{tags:?}");
    }
}

#[test]
fn what_follows_the_end_of_a_transaction_in_one_cycle_is_the_next_one() {
    for (tags, outcomes) in [
        (&["BEGIN", "COMMIT", "RESET"][..], &[Commit, Commit][..]),
        (&["BEGIN", "INSERT 0 1", "COMMIT", "BEGIN", "INSERT 0 1", "ROLLBACK"], &[Commit, Rollback]),
        (&["BEGIN", "COMMIT", "BEGIN", "COMMIT", "BEGIN", "COMMIT"], &[Commit; 3]),
        (&["INSERT 0 1", "COMMIT", "SELECT 1", "SELECT 1"], &[Commit, Commit]),
        (&["BEGIN", "ROLLBACK", "22012"], &[Rollback, Rollback]),
        (&["BEGIN", "COMMIT", "SELECT 1", "22012"], &[Commit, Rollback]),
        (&["BEGIN", "SAVEPOINT", "ROLLBACK", "SELECT 1", "COMMIT"], &[Commit]),
        (&["BEGIN", "PREPARE TRANSACTION", "SELECT 1"], &[Commit, Commit]),
    ] {
        let found = run(&mut connected(), &[(tags, b'I')]);
        assert_eq!(found.iter().map(|(outcome, _)| *outcome).collect::<Vec<_>>(), outcomes, "{tags:?}");
    }
    let queries: [(&[&str], u8); 2] = [(&["BEGIN"], b'T'), (&["COMMIT", "RESET"], b'I')];
    // All that the wire shows of the second is that it began after the reply had.
    assert_eq!(run(&mut connected(), &queries), [(Commit, 3_000), (Commit, 0)]);
    let queries: [(&[&str], u8); 2] = [(&["BEGIN", "COMMIT", "BEGIN"], b'T'), (&["COMMIT"], b'I')];
    assert_eq!(run(&mut connected(), &queries), [(Commit, 1_000), (Commit, 2_000)]);
}

#[test]
fn one_transaction_may_follow_the_other_in_one_cycle() {
    let queries: [(&[&str], u8); 4] =
        [(&["BEGIN"], b'T'), (&["COMMIT"], b'T'), (&["ROLLBACK", "BEGIN"], b'T'), (&["COMMIT"], b'I')];
    assert_eq!(run(&mut connected(), &queries), [(Commit, 3_000), (Rollback, 3_000), (Commit, 2_000)]);
}

#[test]
fn a_transaction_whose_beginning_was_not_seen_is_not_counted() {
    for first in [&[(&["SELECT 1"][..], b'T'), (&["COMMIT"], b'I')][..], &[(&["COMMIT"], b'I')]] {
        let mut conversation = Conversation::new(Role::Client);
        assert!(run(&mut conversation, first).is_empty());
        assert_eq!(run(&mut conversation, &[(&["BEGIN"], b'T'), (&["COMMIT"], b'I')]), [(Commit, 3_000)]);
    }
    let mut conversation = Conversation::new(Role::Client);
    assert_eq!(run(&mut conversation, &[(&["BEGIN"], b'T'), (&["COMMIT"], b'I')]), [(Commit, 3_000)]);
}

#[test]
fn idle_in_transaction_is_told_from_idle() {
    let mut conversation = connected();
    for (tags, status) in [(&["BEGIN"], b'T'), (&["22012"], b'E'), (&["ROLLBACK"], b'I')] {
        run(&mut conversation, &[(tags, status)]);
        let wire = conversation.wire.unwrap();
        assert!(!wire.is_active());
        assert_eq!(wire.transaction, status);
        assert_eq!(wire.transaction_ns != 0, status != b'I');
        conversation.sends(&query("select 1"));
        assert!(conversation.wire.unwrap().is_active());
        conversation.gets(&all([complete("SELECT 1"), ready(status)]));
    }
}
