//! What is found in captures of real traffic, whole and in pieces.

use steth_probes::{
    cell::{
        Loss, Role,
        TransactionOutcome::{Commit, Rollback},
    },
    postgres::{Phase, Wire},
};

use crate::{
    capture::{self, Captured},
    conversation::{Conversation, Findings, UNKNOWN},
};

const POSTGRES: &[&str] = &[
    "deepflow-error.pcap",
    "deepflow-pgsql-all.pcap",
    "deepflow-prepare_stat.pcap",
    "deepflow-simple_query.pcap",
    "zeek-greenhouse-app.pcap",
    "zeek-psql-aws-ssl-disable-15432.pcap",
    "zeek-psql-aws-ssl-disable.pcap",
    "zeek-psql-create-insert-select-delete-drop.pcap",
    "zeek-psql-insert-fail-drop-fail.pcap",
    "zeek-psql-login-fail.pcap",
    "zeek-psql-login-no-role.pcap",
    "zeek-psql-login-no-sslrequest.pcap",
    "zeek-psql-login-wrong.pcap",
    "zeek-psql-login.pcap",
    "zeek-psql-select-now.pcap",
];
const ENCRYPTED: &[&str] =
    &["zeek-psql-aws-ssl-preferred.pcap", "zeek-psql-aws-ssl-require-15432.pcap", "zeek-psql-aws-ssl-require.pcap"];
const OTHER: &[&str] = &["zeek-http-on-port-5432.pcap", "zeek-mysql-on-port-5432.pcap"];
const BAD: &[&str] = &["zeek-bad-backend-message-1.pcap", "zeek-bad-startup-message-1.pcap"];

fn everything() -> impl Iterator<Item = &'static str> {
    [POSTGRES, ENCRYPTED, OTHER, BAD].into_iter().flatten().copied()
}

/// Feeds a connection; each move goes through `cut`, and all its pieces take place at the moment of the whole.
fn feed(captured: &Captured, end: Role, mut cut: impl FnMut(usize, bool, &[u8]) -> Vec<Vec<u8>>) -> Conversation {
    let mut conversation = Conversation::new(end);
    for (nth, (up, bytes)) in captured.moves.iter().enumerate() {
        let at_ns = 1_000_000 * (nth as u64 + 1);
        for piece in cut(nth, *up, bytes) {
            if !piece.is_empty() {
                conversation.moves_at(*up, &piece, at_ns, at_ns + 10);
            }
        }
    }
    conversation
}

fn whole(captured: &Captured) -> Conversation {
    feed(captured, Role::Client, |_, _, bytes| vec![bytes.to_vec()])
}

/// The only connection of a capture.
fn only(name: &str) -> Conversation {
    let connections = capture::read(name);
    assert_eq!(connections.len(), 1, "{name}");
    whole(&connections[0])
}

/// The move that opens the conversation; detection must see it in one piece.
fn opening_move(captured: &Captured) -> Option<usize> {
    let mut conversation = Conversation::new(Role::Client);
    captured.moves.iter().position(|(up, bytes)| {
        conversation.moves(*up, bytes);
        conversation.wire.is_some() || conversation.findings().opaque
    })
}

/// What counts of a conversation's state. A mere candidate counts as none: a single byte makes one, the next ends it.
fn state(wire: &Option<Wire>) -> Option<(u8, u8, u8, bool)> {
    wire.filter(|wire| wire.phase != Phase::Candidate as u8)
        .map(|wire| (wire.phase, wire.transaction, wire.open, wire.is_active()))
}

#[test]
fn each_capture_cut_in_two_at_any_byte_gives_the_same_findings() {
    /// After so many more moves a difference has shown: a request and its reply, twice.
    const FOLLOWED: usize = 4;
    for name in everything() {
        for captured in capture::read(name) {
            let Some(opening) = opening_move(&captured) else { continue };
            let mut stages = vec![Conversation::new(Role::Client)];
            for (up, bytes) in &captured.moves {
                let mut next = stages[stages.len() - 1].clone();
                next.moves(*up, bytes);
                stages.push(next);
            }
            for (nth, (up, bytes)) in captured.moves.iter().enumerate().skip(opening + 1) {
                let end = captured.moves.len().min(nth + 1 + FOLLOWED);
                let at_ns = stages[nth + 1].clock_ns;
                for at in 1..bytes.len() {
                    let mut cut = stages[nth].clone();
                    cut.moves_at(*up, &bytes[..at], at_ns, at_ns);
                    cut.moves_at(*up, &bytes[at..], at_ns, at_ns);
                    cut.clock_ns = at_ns;
                    for (up, bytes) in &captured.moves[nth + 1..end] {
                        cut.moves(*up, bytes);
                    }
                    assert_eq!(cut.findings(), stages[end].findings(), "{name}, move {nth} cut at {at}");
                    assert_eq!(state(&cut.wire), state(&stages[end].wire), "{name}, move {nth} cut at {at}");
                }
            }
        }
    }
}

#[test]
fn each_capture_fed_byte_by_byte_gives_the_same_findings() {
    for name in everything() {
        for end in [Role::Client, Role::Server] {
            for captured in capture::read(name) {
                let expected = feed(&captured, end, |_, _, bytes| vec![bytes.to_vec()]);
                let opening = opening_move(&captured);
                let cut = feed(&captured, end, |nth, _, bytes| {
                    let size = if opening.is_none_or(|opening| nth <= opening) { bytes.len() } else { 1 };
                    bytes.chunks(size).map(<[u8]>::to_vec).collect()
                });
                assert_eq!(cut.findings(), expected.findings(), "{name}");
                assert_eq!(state(&cut.wire), state(&expected.wire), "{name}");
            }
        }
    }
}

#[test]
fn each_capture_with_moves_of_one_direction_joined_gives_the_same_statements() {
    for name in everything() {
        for captured in capture::read(name) {
            let expected = whole(&captured);
            let mut conversation = Conversation::new(Role::Client);
            for run in captured.moves.chunk_by(|one, other| one.0 == other.0) {
                let bytes: Vec<u8> = run.iter().flat_map(|(_, bytes)| bytes).copied().collect();
                conversation.moves(run[0].0, &bytes);
            }
            assert_eq!(conversation.statements(), expected.statements(), "{name}");
            assert_eq!(conversation.done(), expected.done(), "{name}");
        }
    }
}

#[test]
fn no_prefix_of_a_capture_leads_to_a_query_that_the_whole_does_not_have() {
    for name in everything() {
        for captured in capture::read(name) {
            let expected = whole(&captured);
            let total: usize = captured.moves.iter().map(|(_, bytes)| bytes.len()).sum();
            let stride = if total > 50_000 { 97 } else { 1 };
            for length in (0..total).step_by(stride) {
                let mut left = length;
                let prefix = feed(&captured, Role::Client, |_, _, bytes| {
                    let take = left.min(bytes.len());
                    left -= take;
                    vec![bytes[..take].to_vec()]
                });
                let (found, all): (&Findings, _) = (prefix.findings(), expected.findings());
                assert!(all.queries.starts_with(&found.queries), "{name}, {length} bytes");
                assert!(all.done.starts_with(&found.done), "{name}, {length} bytes");
                assert!(all.errors.starts_with(&found.errors), "{name}, {length} bytes");
                assert!(all.transactions.starts_with(&found.transactions), "{name}, {length} bytes");
            }
        }
    }
}

#[test]
fn an_opening_cut_in_two_is_found_late_but_nothing_is_invented() {
    for name in everything() {
        for captured in capture::read(name) {
            let expected = whole(&captured);
            let Some(opening) = opening_move(&captured) else { continue };
            for at in 1..captured.moves[opening].1.len() {
                let cut = feed(&captured, Role::Client, |nth, _, bytes| {
                    let at = if nth == opening { at } else { 0 };
                    vec![bytes[..at].to_vec(), bytes[at..].to_vec()]
                });
                let (found, all) = (cut.statements(), expected.statements());
                let late = all.len().saturating_sub(found.len());
                // A later start may not know the names that were prepared before.
                let same = found.iter().zip(&all[late..]).all(|(one, other)| one == other || *one == UNKNOWN);
                assert!(found.len() <= all.len() && same, "{name} cut at {at}: {found:?}");
            }
        }
    }
}

/// Two threads share a socket, and the one that reads is done before the other's call, which began earlier, returns. The one
/// query whose reply was seen first is lost and counted as that; all others keep their replies.
#[test]
fn a_reply_that_is_seen_before_its_request_costs_that_one_query_only() {
    let mut costly = 0;
    for name in everything() {
        for captured in capture::read(name) {
            let expected = whole(&captured);
            let Some(opening) = opening_move(&captured) else { continue };
            for nth in opening + 2..captured.moves.len() {
                let [(true, request), (false, reply)] = &captured.moves[nth - 1..=nth] else { continue };
                let mut swapped = Conversation::new(Role::Client);
                for (at, (up, bytes)) in captured.moves.iter().enumerate() {
                    let at_ns = 1_000_000 * (at as u64 + 1);
                    match nth.checked_sub(at) {
                        Some(1) => {}
                        Some(0) => {
                            swapped.moves_at(false, reply, at_ns, at_ns + 10);
                            swapped.moves_at(true, request, at_ns - 1_000_000, at_ns + 20);
                        }
                        _ => swapped.moves_at(*up, bytes, at_ns, at_ns + 10),
                    }
                }
                let what = format!("{name}, reply {nth} first");
                // Where a reply ends no cycle, its first byte is not that of an answer to anything.
                let [found, all] = [&swapped, &expected].map(|conversation| {
                    let queries = conversation.findings().queries.iter();
                    queries.map(|query| (query.statement.clone(), query.duration_ns)).collect::<Vec<_>>()
                });
                if found.len() == all.len() {
                    assert_eq!(found, all, "{what}");
                    continue;
                }
                costly += 1;
                let same = found.iter().zip(&all).take_while(|(one, other)| one == other).count();
                assert_eq!(&found[same..], &all[same + 1..], "{what}");
                assert_eq!(swapped.findings().lost[..], [Loss::PostgresOutOfStep], "{what}");
            }
        }
    }
    assert!(costly > 50, "{costly} replies are those of queries");
}

#[test]
fn attached_in_mid_stream_every_execute_is_counted_and_no_statement_is_guessed() {
    let connections = capture::read("deepflow-pgsql-all.pcap");
    assert_eq!((connections.len(), connections[0].port), (1, 8000), "not the port that is Postgres' own");
    let conversation = whole(&connections[0]);
    let found = conversation.findings();
    let requests = tags(&connections[0]);
    let count = |tag| requests.iter().filter(|&&seen| seen == tag).count();
    let unknown = conversation.statements().iter().filter(|statement| **statement == UNKNOWN).count();
    assert_eq!(found.queries.len(), count(b'E'));
    assert_eq!(unknown, count(b'E') - count(b'P'));
    assert_eq!(found.done.len(), count(b'E'));
    assert!(found.queries.iter().all(|query| query.duration_ns > 0));
    assert!(found.queries.iter().all(|query| (1..=query.duration_ns).contains(&query.first_byte_ns)));
    assert_eq!(conversation.statements()[0], "SELECT 'x'");
    assert!(found.lost.is_empty(), "{:?}", found.lost);
    assert_eq!((found.queries.len(), unknown), (EXECUTES, UNKNOWN_EXECUTES));
}

/// In `deepflow-pgsql-all`: all Execute messages, and those whose Parse came before the capture.
const EXECUTES: usize = 32;
const UNKNOWN_EXECUTES: usize = 26;

/// The type bytes of a connection's requests.
fn tags(captured: &Captured) -> Vec<u8> {
    let bytes: Vec<u8> = captured.moves.iter().filter(|(up, _)| *up).flat_map(|(_, bytes)| bytes).copied().collect();
    let mut rest = bytes.as_slice();
    let mut tags = Vec::new();
    while let [tag, a, b, c, d, ..] = rest {
        tags.push(*tag);
        rest = &rest[1 + u32::from_be_bytes([*a, *b, *c, *d]) as usize..];
    }
    tags
}

#[test]
fn what_is_not_postgres_is_not_counted() {
    for name in OTHER {
        let conversation = only(name);
        assert_eq!(conversation.findings(), &Findings::default(), "{name}");
        assert!(conversation.wire.is_none(), "{name}");
    }
}

#[test]
fn after_encryption_is_agreed_nothing_is_read() {
    for name in ENCRYPTED {
        for captured in capture::read(name) {
            let conversation = whole(&captured);
            assert_eq!(conversation.findings(), &Findings { opaque: true, ..Findings::default() }, "{name}");
        }
    }
}

#[test]
fn a_reply_of_impossible_length_is_counted_and_the_next_connection_is_not_affected() {
    let conversation = only("zeek-bad-backend-message-1.pcap");
    assert_eq!(conversation.findings(), &Findings { lost: vec![Loss::PostgresOutOfStep], ..Findings::default() });
    assert!(conversation.wire.is_none());
    assert_eq!(only("zeek-psql-select-now.pcap").statements(), ["select now()"]);
}

#[test]
fn a_start_up_packet_of_impossible_length_is_not_taken_for_postgres() {
    let conversation = only("zeek-bad-startup-message-1.pcap");
    assert_eq!(conversation.findings(), &Findings::default());
    assert!(conversation.wire.is_none());
}

#[test]
fn a_login_names_the_database_and_is_no_query() {
    for (name, database) in [
        ("zeek-psql-login.pcap", "zeek"),
        ("zeek-psql-aws-ssl-disable.pcap", "zeek"),
        ("zeek-psql-insert-fail-drop-fail.pcap", "postgres"),
    ] {
        let conversation = only(name);
        let wire = conversation.wire.unwrap();
        assert_eq!((wire.phase, wire.transaction), (Phase::Confirmed as u8, b'I'), "{name}");
        assert!(!wire.is_active() && wire.idle_ns > 0, "{name}");
        assert!(conversation.findings().queries.iter().all(|query| query.database == database), "{name}");
    }
    // By the clock of the replay.
    let expected = Findings { connected: vec![7_000_010], ..Findings::default() };
    assert_eq!(only("zeek-psql-login.pcap").findings(), &expected);
}

#[test]
fn failed_logins_are_errors_with_their_code_and_name_no_database() {
    for (name, sqlstate) in [
        ("zeek-psql-login-fail.pcap", "28P01"),
        ("zeek-psql-login-wrong.pcap", "28P01"),
        ("zeek-psql-login-no-role.pcap", "28000"),
    ] {
        let expected = Findings {
            errors: vec![(String::new(), sqlstate.to_owned())],
            login_failures: vec![sqlstate.to_owned()],
            ..Findings::default()
        };
        assert_eq!(only(name).findings(), &expected, "{name}");
    }
}

#[test]
fn a_simple_query_is_counted_with_its_rows_and_its_transaction() {
    for name in ["zeek-psql-select-now.pcap", "zeek-psql-aws-ssl-disable.pcap", "zeek-psql-aws-ssl-disable-15432.pcap"]
    {
        let conversation = only(name);
        let found = conversation.findings();
        assert_eq!(conversation.statements(), ["select now()"], "{name}");
        assert_eq!(found.queries[0].database, "zeek", "{name}");
        assert_eq!(conversation.done(), [("select now()", 1)], "{name}");
        assert_eq!(found.transactions, [(Commit, 1_000_010)], "{name}");
        assert_eq!((found.queries[0].first_byte_ns, found.queries[0].duration_ns), (1_000_000, 1_000_010), "{name}");
    }
}

#[test]
fn ddl_and_dml_are_counted_with_their_rows() {
    let conversation = only("zeek-psql-create-insert-select-delete-drop.pcap");
    let insert = "INSERT INTO t VALUES (42, 'forty-two', now())";
    let expected = [
        ("DROP TABLE IF EXISTS t", 0),
        ("CREATE TABLE IF NOT EXISTS t (i int, s varchar, t time)", 0),
        (insert, 1),
        (insert, 1),
        ("SELECT * from t", 2),
        ("DELETE FROM t", 2),
        ("DROP TABLE t", 0),
    ];
    assert_eq!(conversation.done(), expected);
    assert_eq!(conversation.statements(), expected.map(|(statement, _)| statement));
    assert!(conversation.findings().transactions.iter().all(|(outcome, _)| *outcome == Commit));
    assert_eq!(conversation.findings().transactions.len(), 7);
}

#[test]
fn failed_statements_are_queries_and_errors_but_not_done() {
    let conversation = only("zeek-psql-insert-fail-drop-fail.pcap");
    assert_eq!(conversation.sqlstates(), ["42804", "42P01"]);
    assert_eq!(conversation.statements().len(), 5);
    assert_eq!(conversation.done().len(), 3);
    let outcomes: Vec<_> = conversation.findings().transactions.iter().map(|(outcome, _)| *outcome).collect();
    assert_eq!(outcomes, [Commit, Commit, Rollback, Commit, Rollback]);
}

#[test]
fn an_applications_transactions_are_counted_from_begin_to_end() {
    let connections = capture::read("zeek-greenhouse-app.pcap");
    assert_eq!(connections.len(), 2);
    for (captured, database) in connections.iter().zip(["plant_service_db", "user_service_db"]) {
        let conversation = whole(captured);
        let found = conversation.findings();
        let statements = conversation.statements();
        let count = |text| statements.iter().filter(|statement| **statement == text).count();
        let outcomes = |wanted| found.transactions.iter().filter(|(outcome, _)| *outcome == wanted).count();
        assert!(found.queries.iter().all(|query| query.database == database));
        assert_eq!(found.queries.len(), captured.moves.iter().filter(|(_, bytes)| bytes[0] == b'Q').count());
        assert_eq!((outcomes(Commit), outcomes(Rollback)), (count("COMMIT"), count("ROLLBACK")));
        assert!(count("COMMIT") > 0 && count("ROLLBACK") > 0 && count("BEGIN") == found.transactions.len());
        // A transaction is more than its last statement: BEGIN, at least one more, and the end.
        assert!(found.transactions.iter().all(|(_, duration_ns)| *duration_ns >= 5_000_000));
        assert!(found.lost.is_empty() && found.errors.is_empty());
    }
}

#[test]
fn an_exchange_without_its_beginning_is_counted_as_far_as_it_is_seen() {
    assert_eq!(only("deepflow-simple_query.pcap").done(), [("delete  from test", 1)]);
    let error = only("deepflow-error.pcap");
    assert_eq!((error.sqlstates(), error.statements()), (vec!["42601"], vec![]));
    // The reply answers an Execute that the capture does not have.
    let prepared = only("deepflow-prepare_stat.pcap");
    assert_eq!((prepared.statements(), prepared.done()), (vec![], vec![(UNKNOWN, 0)]));
}

#[test]
fn the_short_way_of_frequent_messages_leads_to_the_same() {
    for captured in everything().flat_map(capture::read) {
        for end in [Role::Server, Role::Client] {
            let walk = |short_way| {
                let mut conversation = Conversation::new(end);
                conversation.short_way = short_way;
                captured.moves.iter().for_each(|(up, bytes)| conversation.moves(*up, bytes));
                conversation
            };
            let (short, long) = (walk(true), walk(false));
            assert_eq!(short.findings(), long.findings());
            assert_eq!(state(&short.wire), state(&long.wire));
        }
    }
}
