//! Conversations that were made up at random: valid ones, whose truth a server in the fewest words knows, and bytes that are
//! none. Some thousand of each, always the same; `cargo xtask fuzz` goes on with others for as long as it is told.

use std::time::{Duration, Instant};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use steth_probes::{cell::Role, postgres::Wire};

use crate::{
    conversation::{BATCH, Conversation, Findings, UNKNOWN},
    messages::*,
    server::{AHEAD, Asked, Extended, Moves, NAMES, Request, Server, Sql, Truth},
};

/// Tries `check` on values of a strategy: `cases` of them, or for the seconds of `STETH_FUZZ_SECONDS`.
fn fuzz<S: Strategy>(strategy: S, cases: u32, check: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    let seconds = std::env::var("STETH_FUZZ_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let Some(seconds) = seconds else {
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        TestRunner::new_with_rng(config, rng).run(&strategy, check).unwrap_or_else(|error| panic!("{error}"));
        return;
    };
    let (started, mut tried) = (Instant::now(), 0_u64);
    while started.elapsed() < Duration::from_secs(seconds) {
        TestRunner::new(config.clone()).run(&strategy, &check).unwrap_or_else(|error| panic!("{error}"));
        tried += u64::from(cases);
    }
    println!("{tried} cases in {seconds} s");
}

fn sql() -> impl Strategy<Value = Sql> {
    prop_oneof![
        6 => (0..8_u8).prop_map(Sql::Select),
        4 => (0..4_u8).prop_map(Sql::Update),
        1 => Just(Sql::Fails),
        2 => Just(Sql::Begin),
        2 => Just(Sql::Commit),
        1 => Just(Sql::Rollback),
        1 => Just(Sql::CopyOut),
        1 => (1..NAMES).prop_map(Sql::Deallocate),
        1 => prop_oneof![3 => Just(Sql::Select(0)), 1 => Just(Sql::DeallocateAll)],
    ]
}

fn extended(sql: impl Strategy<Value = Sql>) -> impl Strategy<Value = Vec<Extended>> {
    let refused = prop_oneof![8 => Just(false), 1 => Just(true)];
    let name = || prop_oneof![Just(0_u8), 1..NAMES];
    (
        proptest::collection::vec((name(), sql, refused), 0..2),
        proptest::collection::vec(
            prop_oneof![
                4 => (name(), name()).prop_map(|(portal, name)| Extended::Bind { portal, name }),
                5 => (name(), any::<bool>()).prop_map(|(portal, suspends)| Extended::Execute { portal, suspends }),
                1 => (1..NAMES).prop_map(Extended::CloseStatement),
                1 => Just(Extended::Flush),
            ],
            0..6,
        ),
        any::<bool>(),
    )
        .prop_map(|(parses, rest, usual)| {
            let mut messages = Vec::new();
            for (name, sql, refused) in parses {
                messages.push(Extended::Parse { name, sql, refused });
                // Mostly what drivers do.
                if usual {
                    messages.push(Extended::Bind { portal: 0, name });
                    messages.push(Extended::Execute { portal: 0, suspends: false });
                }
            }
            messages.extend(rest);
            messages
        })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => proptest::collection::vec(sql(), 0..5).prop_map(Request::Simple),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(extended, fails)| Request::CopyIn { extended, fails }),
        6 => extended(sql()).prop_map(Request::Batch),
    ]
}

/// With savepoints the tag ROLLBACK says two things, told apart by what follows: here each cycle has one statement.
fn request_with_savepoints() -> impl Strategy<Value = Request> {
    let sql = || {
        prop_oneof![
            4 => sql(),
            2 => Just(Sql::Begin),
            2 => Just(Sql::Savepoint),
            2 => Just(Sql::RollbackTo),
            1 => Just(Sql::Fails),
        ]
    };
    prop_oneof![
        sql().prop_map(|sql| Request::Simple(vec![sql])),
        sql().prop_map(|sql| {
            let parse = Extended::Parse { name: 0, sql, refused: false };
            let execute = Extended::Execute { portal: 0, suspends: false };
            Request::Batch(vec![parse, Extended::Bind { portal: 0, name: 0 }, execute])
        }),
    ]
}

/// How the bytes come: pieces and order, from one number.
#[derive(Clone, Copy, Debug)]
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        // Knuth's MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// A session's bytes, one way and the other, with what must have come before.
struct Session {
    server: Server,
    /// Pieces towards the server, each with the bytes from it that its sender waits for.
    up: Vec<(usize, Vec<u8>)>,
    /// Pieces from the server, each with the bytes towards it that it answers.
    down: Vec<(usize, Vec<u8>)>,
}

impl Session {
    fn new(requests: &[Request], chance: &mut Chance) -> Self {
        let mut session = Self { server: Server::default(), up: Vec::new(), down: Vec::new() };
        let greeting = vec![(true, startup(3 << 16, &[("user", "ann"), ("database", "shop")])), (false, welcome())];
        let (mut sent, mut answered) = (0, 0);
        let mut answered_after = Vec::new();
        session.add(greeting, &mut sent, &mut answered, 0, chance);
        answered_after.push(answered);
        for request in requests {
            let moves = session.server.serve(request);
            let awaited = answered_after[answered_after.len().saturating_sub(AHEAD)].max(answered_after[0]);
            session.add(moves, &mut sent, &mut answered, awaited, chance);
            answered_after.push(answered);
        }
        session
    }

    fn add(&mut self, moves: Moves, sent: &mut usize, answered: &mut usize, awaited: usize, chance: &mut Chance) {
        let mut awaited = awaited;
        for (up, bytes) in moves {
            if up {
                *sent += bytes.len();
                self.up.push((awaited, bytes));
                continue;
            }
            // COPY data waits for the server to ask for it.
            if bytes.first() == Some(&b'G') {
                awaited = *answered + bytes.len();
            }
            let unasked = [notice(), notification(), parameter()];
            let bytes = match chance.below(8) {
                nth @ 0..=2 => [unasked[nth].clone(), bytes].concat(),
                _ => bytes,
            };
            if awaited > *answered {
                awaited = *answered + bytes.len();
            }
            *answered += bytes.len();
            self.down.push((*sent, bytes));
        }
    }

    /// The moves as they may take place: pieces of any size, as far ahead as the protocol lets them.
    fn moves(&self, chance: &mut Chance) -> Moves {
        let mut moves: Moves = Vec::new();
        let (mut sent, mut got) = (0, 0);
        let size = [1, 7, 100, 100_000][chance.below(4)];
        let mut left =
            [&self.up, &self.down].map(|pieces| pieces.iter().cloned().collect::<std::collections::VecDeque<_>>());
        while left.iter().any(|pieces| !pieces.is_empty()) {
            let ready = [
                left[0].front().is_some_and(|(needs, _)| *needs <= got),
                left[1].front().is_some_and(|(needs, _)| *needs <= sent),
            ];
            let side = match ready {
                [true, true] => chance.below(2),
                [true, false] => 0,
                [false, true] => 1,
                [false, false] => panic!("both ends wait"),
            };
            let Some((needs, mut bytes)) = left[side].pop_front() else { unreachable!() };
            let rest = bytes.split_off(bytes.len().min(1 + chance.below(size)));
            if side == 0 {
                sent += bytes.len()
            } else {
                got += bytes.len()
            }
            if !rest.is_empty() {
                left[side].push_front((needs, rest));
            }
            match moves.last_mut() {
                // Several messages in one call.
                Some((up, last)) if *up == (side == 0) && chance.below(2) == 0 => last.extend(bytes),
                _ => moves.push((side == 0, bytes)),
            }
        }
        moves
    }
}

fn feed(conversation: &mut Conversation, moves: &Moves) {
    for (up, bytes) in moves {
        if !bytes.is_empty() {
            conversation.moves(*up, bytes);
        }
    }
}

fn is(truth: &Truth, found: &str, asked: &Asked) -> bool {
    found.trim_end() == asked.text || found == UNKNOWN && (asked.doubtful || truth.refused.contains(&asked.text))
}

fn check_truth(conversation: &Conversation, server: &Server) -> Result<(), TestCaseError> {
    let truth = &server.truth;
    let done = conversation.done();
    prop_assert!(
        done.len() == truth.done.len()
            && done
                .iter()
                .zip(&truth.done)
                .all(|((text, rows), (asked, count))| is(truth, text, asked) && rows == count),
        "{done:?} instead of {:?}",
        truth.done
    );
    prop_assert_eq!(conversation.sqlstates(), truth.errors.iter().map(String::as_str).collect::<Vec<_>>());
    let outcomes: Vec<_> = conversation.findings().transactions.iter().map(|(outcome, _)| *outcome).collect();
    prop_assert_eq!(outcomes, truth.transactions.clone());
    let statements = conversation.statements();
    prop_assert_eq!(statements.len(), truth.cycles.len());
    for (found, asked) in statements.iter().zip(&truth.cycles) {
        let Some(asked) = asked else { continue };
        if asked.iter().any(|one| one.doubtful || truth.refused.contains(&one.text)) {
            continue;
        }
        let same = asked.iter().all(|one| one.text == asked[0].text);
        let right =
            if same { is(truth, found, &asked[0]) || found.starts_with(BATCH) } else { found.starts_with(BATCH) };
        prop_assert!(right, "{found} instead of {asked:?}");
    }
    prop_assert!(conversation.findings().lost.is_empty(), "{:?}", conversation.findings().lost);
    prop_assert!(!conversation.wire.unwrap().is_active());
    Ok(())
}

#[test]
fn fuzz_valid_conversations_are_counted_as_the_server_knows_them() {
    fuzz((proptest::collection::vec(request(), 1..12), any::<u64>()), 3_000, |(requests, chance)| {
        let mut chance = Chance(chance);
        let session = Session::new(&requests, &mut chance);
        for end in [Role::Client, Role::Server] {
            let mut conversation = Conversation::new(end);
            feed(&mut conversation, &session.moves(&mut chance));
            check_truth(&conversation, &session.server)?;
        }
        Ok(())
    });
}

#[test]
fn fuzz_savepoints_end_no_transaction() {
    fuzz((proptest::collection::vec(request_with_savepoints(), 1..20), any::<u64>()), 2_000, |(requests, chance)| {
        let mut chance = Chance(chance);
        let session = Session::new(&requests, &mut chance);
        let mut conversation = Conversation::new(Role::Client);
        feed(&mut conversation, &session.moves(&mut chance));
        check_truth(&conversation, &session.server)
    });
}

/// Whoever comes late counts what is left, knows no name from before, and takes no statement for another. Each request waits
/// for its answer here: of a pipeline that was under way nobody can know how long it is.
#[test]
fn fuzz_attached_at_any_byte_nothing_is_attributed_wrongly() {
    fuzz(
        (proptest::collection::vec(request(), 1..8), any::<u64>(), any::<prop::sample::Index>()),
        3_000,
        |(requests, chance, from)| {
            let mut chance = Chance(chance);
            let mut server = Server::default();
            let mut moves: Moves = Vec::new();
            for request in &requests {
                // What one end sends before the other speaks comes in pieces of its own.
                for (up, bytes) in server.serve(request) {
                    match moves.last_mut() {
                        Some((last, before)) if *last == up => before.extend(bytes),
                        _ => moves.push((up, bytes)),
                    }
                }
            }
            let total: usize = moves.iter().map(|(_, bytes)| bytes.len()).sum();
            let mut skip = from.index(total);
            let mut conversation = Conversation::new(if chance.below(2) == 0 { Role::Client } else { Role::Server });
            for (up, bytes) in &moves {
                let taken = skip.min(bytes.len());
                skip -= taken;
                if taken < bytes.len() {
                    conversation.moves(*up, &bytes[taken..]);
                }
            }
            let done = conversation.done();
            let truth = &server.truth.done;
            prop_assert!(done.len() <= truth.len(), "{done:?} of {truth:?}");
            let late = &truth[truth.len() - done.len()..];
            let right = done.iter().zip(late).all(|((text, rows), (asked, truth))| {
                rows == truth && (*text == UNKNOWN || text.trim_end() == asked.text)
            });
            prop_assert!(right, "{done:?} instead of the end of {truth:?}");
            Ok(())
        },
    );
}

/// What counts of a conversation's state. A mere candidate counts as none.
fn state(wire: &Option<Wire>) -> Option<(u8, u8, bool)> {
    wire.filter(|wire| wire.phase != 1).map(|wire| (wire.phase, wire.transaction, wire.is_active()))
}

/// Without times, which are those of the pieces.
fn timeless(findings: &Findings) -> Findings {
    let mut findings = findings.clone();
    for query in &mut findings.queries {
        (query.duration_ns, query.first_byte_ns, query.waited_ns, query.turn.begins) = (0, 0, 0, false);
    }
    findings.connected.fill(0);
    findings.transactions.iter_mut().for_each(|(_, duration_ns)| *duration_ns = 0);
    findings
}

/// Messages that are mostly valid but make little sense together, and bytes that are none.
fn anything() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let bytes = proptest::collection::vec(any::<u8>(), 1..40);
    let tagged = (any::<u8>(), 0..40_u32, bytes.clone())
        .prop_map(|(tag, length, body)| [&[tag][..], &length.to_be_bytes(), &body].concat());
    let text = proptest::collection::vec(
        prop_oneof![
            Just("'"),
            Just("$"),
            Just("$a$"),
            Just(";"),
            Just("/*"),
            Just("*/"),
            Just("--"),
            Just("\n"),
            Just("\\"),
            Just("E'"),
            Just("\""),
            Just("create function "),
            Just("begin atomic "),
            Just("end"),
            Just("("),
            Just(")"),
            Just("deallocate "),
            Just("a1 "),
        ],
        0..30,
    );
    prop_oneof![
        2 => (any::<bool>(), bytes),
        1 => (any::<bool>(), tagged),
        3 => text.prop_map(|words| (true, query(&words.concat()))),
        8 => request().prop_map(|request| (true, Server::default().serve(&request).into_iter().filter(|one| one.0).flat_map(|one| one.1).collect())),
        8 => request().prop_map(|request| (false, Server::default().serve(&request).into_iter().filter(|one| !one.0).flat_map(|one| one.1).collect())),
        1 => Just((true, ssl_request())),
        1 => Just((false, b"N".to_vec())),
        1 => Just((true, cancel_request())),
    ]
}

#[test]
fn fuzz_any_split_of_any_stream_leads_to_the_same() {
    let moves = proptest::collection::vec(anything(), 0..12);
    fuzz((moves, any::<u64>(), any::<bool>()), 4_000, |(moves, chance, begins)| {
        let mut chance = Chance(chance);
        let [mut whole, mut cut] = [(); 2].map(|()| Conversation::new(Role::Client));
        if begins {
            for conversation in [&mut whole, &mut cut] {
                conversation.sends(&startup(3 << 16, &[("user", "ann")])).gets(&welcome());
            }
        }
        for (up, bytes) in moves.iter().filter(|(_, bytes)| !bytes.is_empty()) {
            // The opening is judged by the piece that it comes in; see `an_opening_may_be_cut_anywhere`.
            let size = if whole.wire.is_none() { bytes.len() } else { [1, 3, 50][chance.below(3)] };
            whole.moves(*up, bytes);
            for piece in bytes.chunks(size) {
                cut.moves(*up, piece);
                // After a break the rest of the piece is lost to one, and may be an opening to the other.
                if cut.wire.is_none() && whole.wire.is_none() {
                    break;
                }
            }
            prop_assert_eq!(timeless(whole.findings()), timeless(cut.findings()));
            prop_assert_eq!(state(&whole.wire), state(&cut.wire));
            if whole.wire.is_none() {
                cut = whole.clone();
            }
        }
        Ok(())
    });
}
