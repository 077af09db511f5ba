//! A secret in every form that a literal can have, cut at every byte, sent to a live server: it is nowhere in what the agent
//! says, logs, serves or traces. `agent/src/postgres/secrecy_tests.rs` holds many more texts against the sanitiser alone.

use steth_probes::postgres::TEXT_LEN;
use steth_tests::{
    agent::{Agent, Options},
    http, need_postgres,
    pgwire::Session,
    postgres::Postgres,
    trace::Trace,
};

/// Whatever part of it is seen, four letters in a row are.
const SECRET: &str = "ZqXjWvKyQz";
/// As digits, which other figures may hold by chance: eight in a row do not come so.
const DIGITS: &str = "947110008153";

/// `@` is the secret and `#` its digits.
const FORMS: &[&str] = &[
    "'@'",
    "'a''@'",
    "'\\@'",
    "E'\\'@'",
    "e'\\x41@'",
    "U&'\\0041@'",
    "u&'!0041@' UESCAPE '!'",
    "B'@'",
    "X'#'",
    "N'@'",
    "'a'\n'@'",
    "'a' -- '\n '@'",
    "$$@$$",
    "$a$ $$@$b$@$a$",
    "$_1$'@$_1$",
    "#",
    "-#.#",
    "1e#",
    "0x#",
    "1_#",
    "12@",
    "/*@*/1",
    "/*/*@*/@*/1",
    "1--@\n",
    "DATE '@'",
    "'@'::text",
    "ARRAY['@', '@']",
    "'@'E'\\'@'",
];

const PLACES: &[&str] = &["SELECT ?, ?", "SELECT 1 FROM pg_class WHERE relname IN (?, ?)", "SET app.secret = ?"];

fn leaks(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let found = |secret: &str, length: usize| {
        let secret = secret.to_ascii_lowercase();
        (0..=secret.len() - length).map(|at| secret[at..at + length].to_owned()).find(|part| text.contains(part))
    };
    found(SECRET, 4).or_else(|| found(DIGITS, 8))
}

#[test]
fn a_leak_would_be_found() {
    assert_eq!(leaks("select 'xjwvk'").as_deref(), Some("xjwv"));
    assert_eq!(leaks("steth_x_total 4.711000815e9\nselect 94711000").as_deref(), Some("94711000"));
    assert_eq!(leaks("select ?, 4711 from zqx"), None);
}

#[test]
fn no_literal_is_seen_in_metrics_logs_traces_or_answers() {
    need_postgres!();
    let postgres = Postgres::start().unwrap();
    let database = postgres.create_database().unwrap();
    // Prepared before the agent comes, so that the server's process tells their text.
    let mut older = Session::open(&postgres, &database).unwrap();
    let mut prepared = Vec::new();
    for (nth, form) in FORMS.iter().enumerate() {
        let text = format!("SELECT {}, {nth} AS older", form.replace('@', SECRET).replace('#', DIGITS));
        if older.prepare(&format!("older{nth}"), &text).is_ok() {
            prepared.push(format!("older{nth}"));
        }
    }
    assert!(prepared.len() > 10, "most are SQL: {prepared:?}");
    let sections =
        "[log]\nlevel = \"trace\"\n[postgres]\nslow_query = \"1ms\"\nslow_rate = 10000\nkept_queries = 5000\n";
    let agent = Agent::start(&Options { sections: sections.to_owned(), ..Options::default() }).unwrap();
    let through = ["--agent", agent.address(), "--database", &database];
    let traces = [Trace::begin(&through).unwrap(), Trace::plain(&through).unwrap()];

    let mut session = Session::open(&postgres, &database).unwrap();
    let mut sent = 0;
    for form in FORMS {
        let form = form.replace('@', SECRET).replace('#', DIGITS);
        for place in PLACES {
            let text = place.replace('?', &form);
            // As one query; as another's beginning; prepared; many times, as in a loop.
            session.query(&text).unwrap();
            let _ = session.prepare("", &text);
            sent += 2;
        }
        let text = PLACES[0].replace('?', &form);
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            session.query(&text[..end]).unwrap();
            session.query_in_two(&text, end).unwrap();
            sent += 2;
        }
        // What is longer than the agent looks at is cut in its midst.
        for before in (TEXT_LEN as usize - 24..TEXT_LEN as usize).step_by(3) {
            let begin = "SELECT ";
            session.query(&format!("{begin}{:<1$}{form}, 1", "1,", before - begin.len())).unwrap();
            sent += 1;
        }
    }
    for name in &prepared {
        older.execute(name, &[]).unwrap();
    }
    session.query("create role teller login password 'ZqXjWvKyQz'").unwrap();
    session.prepare("p", "select $1::text").unwrap();
    for _ in 0..20 {
        session.execute("p", &[SECRET]).unwrap();
        session.query(&format!("select '{SECRET}', {DIGITS}")).unwrap();
    }
    session.query("copy (select 'ZqXjWvKyQz') to stdout").unwrap();
    session.query("select pg_sleep(0.01) as the_end").unwrap();

    for trace in &traces {
        trace.wait_for("the_end").unwrap();
    }
    agent.settled().unwrap();
    let mut outputs = vec![("the metrics".to_owned(), agent.scrape_raw().unwrap())];
    for path in [
        "postgres/queries?limit=1000",
        "postgres/queries?window=5m&limit=1000",
        "postgres/slow?limit=1000",
        "postgres/n_plus_one?limit=1000",
        "postgres/connections",
        "findings",
        "events",
        "alerts",
        "services",
        "probes",
    ] {
        let answer = http::get(&format!("http://{}/api/v1/{path}", agent.address())).unwrap();
        assert_eq!(answer.status, 200);
        outputs.push((path.to_owned(), answer.body));
    }
    outputs.extend(traces.map(|trace| ("a trace".to_owned(), trace.text().unwrap())));
    outputs.push(("the log".to_owned(), agent.log()));
    for (what, text) in &outputs {
        if let Some(part) = leaks(text) {
            let line = text.lines().find(|line| line.to_ascii_lowercase().contains(&part)).unwrap_or_default();
            panic!("{part} in {what}: {line}");
        }
    }
    assert!(outputs[0].1.contains("older"), "what the server noted is told");
    // It was all seen, and found its way into each that tells of statements.
    let telling = |what: &str| {
        ["the metrics", "a trace"].contains(&what) || ["queries", "slow"].iter().any(|path| what.contains(path))
    };
    for (what, text) in outputs.iter().filter(|(what, _)| telling(what)) {
        let told = text.matches("select ?").count() + text.matches(&database).count();
        assert!(told > 20, "{what} says too little of {sent} queries: {text}");
    }
}
