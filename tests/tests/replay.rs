//! The captures of real traffic, replayed over loopback by every call that moves bytes, in pieces of every kind: what the
//! kernel's walker counts at both ends is what the walker on the host finds in the same capture.

#[allow(dead_code, reason = "the walker's own tests use the rest")]
#[path = "../../probes/tests/postgres/capture.rs"]
mod capture;
#[allow(dead_code, reason = "the walker's own tests use the rest")]
#[path = "../../probes/tests/postgres/conversation.rs"]
mod conversation;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use capture::Captured;
use conversation::{BATCH, Conversation, UNKNOWN};
use steth::postgres::statement;
use steth_probes::cell::{Role, TransactionOutcome};
use steth_tests::{
    agent::{Agent, Options},
    exposition::Exposition,
    need_bpf, need_program,
    programs::{Program, REPLAY, said_number},
};

const SOON: Duration = Duration::from_secs(60);

/// How bytes move, and how many at a time; 0 is as many as there are.
const WAYS: &[(&str, usize)] = &[
    ("write", 0),
    ("write", 1),
    ("write", 7),
    ("send", 100),
    ("writev", 0),
    ("writev", 3),
    ("pwritev2", 0),
    ("sendmsg", 0),
    ("sendmsg", 11),
];

/// What was found at one end, by what the figures are labelled with.
#[derive(Debug, Default)]
struct Found {
    /// Database, operation and fingerprint; the fingerprint of a batch is the kernel's own.
    queries: BTreeMap<(String, String, String), f64>,
    statements: BTreeMap<(String, String, String), f64>,
    rows: BTreeMap<(String, String, String), f64>,
    errors: BTreeMap<String, f64>,
    transactions: BTreeMap<String, f64>,
}

impl Found {
    fn add(&mut self, conversation: &Conversation) {
        let found = conversation.findings();
        let database = |name: &str| if name.is_empty() { "unknown" } else { name }.to_owned();
        let key = |database: &str, text: &str| key(database, text, found.cut.iter().any(|cut| cut == text));
        let mut current = "unknown".to_owned();
        for query in &found.queries {
            current = database(&query.database);
            *self.queries.entry(key(&current, &query.statement)).or_default() += 1.0;
        }
        // All statements of one connection are done in one database.
        for (text, rows) in &found.done {
            *self.statements.entry(key(&current, text)).or_default() += 1.0;
            if *rows > 0 {
                *self.rows.entry(key(&current, text)).or_default() += f64::from(*rows);
            }
        }
        for (_, sqlstate) in &found.errors {
            *self.errors.entry(sqlstate.clone()).or_default() += 1.0;
        }
        for (outcome, _) in &found.transactions {
            let name = if *outcome == TransactionOutcome::Commit { "commit" } else { "rollback" };
            *self.transactions.entry(name.to_owned()).or_default() += 1.0;
        }
    }

    fn read(metrics: &Exposition, service: &str, role: &str) -> Self {
        let labels = [("service", service), ("role", role)];
        let by_statement = |name: &str| {
            let mut sums = BTreeMap::new();
            for sample in metrics.matching(name, &labels).filter(|sample| sample.value > 0.0) {
                let label = |name: &str| sample.labels[name].clone();
                let query = if label("operation") == "BATCH" { String::new() } else { label("query") };
                *sums.entry((label("database"), label("operation"), query)).or_default() += sample.value;
            }
            sums
        };
        let by = |name: &str, label: &str| {
            let mut sums = metrics.sums_by(name, &labels, label);
            sums.retain(|_, sum| *sum > 0.0);
            sums.into_iter().collect()
        };
        Self {
            queries: by_statement("steth_postgres_query_duration_seconds_count"),
            statements: by_statement("steth_postgres_statements_total"),
            rows: by_statement("steth_postgres_rows_total"),
            errors: by("steth_postgres_errors_total", "sqlstate"),
            transactions: by("steth_postgres_transactions_total", "outcome"),
        }
    }
}

fn key(database: &str, text: &str, cut: bool) -> (String, String, String) {
    let (operation, query) = match text {
        UNKNOWN => ("UNKNOWN".to_owned(), UNKNOWN.trim_matches(['(', ')']).to_owned()),
        text if text.starts_with(BATCH) => ("BATCH".to_owned(), String::new()),
        text => {
            let known = statement(text.as_bytes(), cut);
            (known.operation.name().to_owned(), known.fingerprint.to_string())
        }
    };
    (database.to_owned(), operation, query)
}

/// All connections of all captures. `whole` are those that were captured from their beginning: the others are found at a
/// request that is moved in one piece.
fn connections(whole: bool) -> Vec<Captured> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/pgwire");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".pcap"))
        .collect();
    names.sort();
    let all = names.iter().flat_map(|name| capture::read(name)).filter(|captured| !captured.moves.is_empty());
    let begins = |captured: &Captured| captured.moves[0].0 && matches!(captured.moves[0].1[..], [0, ..]);
    all.filter(|captured| !whole || begins(captured)).collect()
}

fn script(captured: &Captured) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (up, moved) in &captured.moves {
        bytes.push(u8::from(*up));
        bytes.extend((moved.len() as u32).to_le_bytes());
        bytes.extend(moved);
    }
    bytes
}

fn expected(connections: &[Captured], end: Role) -> Found {
    let mut found = Found::default();
    for captured in connections {
        let mut conversation = Conversation::new(end);
        for (up, bytes) in &captured.moves {
            conversation.moves(*up, bytes);
        }
        // Some captures end in the midst of a request.
        conversation.breaks_off();
        found.add(&conversation);
    }
    found
}

#[test]
fn captures_replayed_by_any_call_in_any_pieces_are_counted_as_on_the_host() {
    need_bpf!();
    need_program!("gcc");
    let agent = Agent::start(&Options::default()).unwrap();
    let built = Program::build("rply", REPLAY).unwrap();
    let mut played = Vec::new();
    for (calls, chunk) in WAYS {
        let connections = connections(*chunk != 0);
        let folder = tempfile::tempdir().unwrap();
        let mut scripts = Vec::new();
        for (nth, captured) in connections.iter().enumerate() {
            let path = folder.path().join(nth.to_string());
            std::fs::write(&path, script(captured)).unwrap();
            scripts.push(path.to_str().unwrap().to_owned());
        }
        let [server, client] = ["rpsv", "rpcl"].map(|stem| built.under_another_name(stem).unwrap());
        let run = |program: &Program, end: &str, port: &str| {
            let chunk = chunk.to_string();
            let arguments = [end, calls, &chunk, port].into_iter().chain(scripts.iter().map(String::as_str));
            program.start(&arguments.collect::<Vec<_>>()).unwrap()
        };
        let serving = run(&server, "server", "0");
        let port = serving.wait_for_line("port=", SOON, |line| line.starts_with("port=").then(|| line.to_owned()));
        let port = said_number(&port.unwrap(), "port").unwrap().to_string();
        run(&client, "client", &port).finish(SOON).unwrap();
        serving.finish(SOON).unwrap();
        played.push((calls, chunk, connections, server, client));
    }
    let metrics = agent.settled().unwrap();
    for (calls, chunk, connections, server, client) in &played {
        for (program, role, end) in [(server, "server", Role::Server), (client, "client", Role::Client)] {
            let truth = expected(connections, end);
            assert!(truth.queries.len() > 10 && truth.errors.len() > 2, "the captures show something");
            let counted = Found::read(&metrics, &program.name, role);
            let what = format!("{role} by {calls} of {chunk} bytes");
            assert_eq!(counted.queries, truth.queries, "queries: {what}");
            assert_eq!(counted.statements, truth.statements, "statements: {what}");
            assert_eq!(counted.rows, truth.rows, "rows: {what}");
            assert_eq!(counted.errors, truth.errors, "errors: {what}");
            assert_eq!(counted.transactions, truth.transactions, "transactions: {what}");
        }
    }
}
