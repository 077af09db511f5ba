//! What a statement's text, fingerprint and summary promise together: tables of examples, random bytes.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    time::{Duration, Instant},
};

use super::{Operation, Statement, statement};

fn whole(text: &str) -> Statement {
    statement(text.as_bytes(), false)
}

#[test]
fn sanitised_texts_read_as_expected() {
    for (sql, expected) in [
        ("SELECT * FROM Users WHERE id=42 AND name = 'O''Brien'", "select * from users where id = ? and name = ?"),
        ("select\n\t1 -- one\n , /* two */ 2.5e-3", "select ?, ?"),
        ("SELECT a FROM t WHERE a IN (1, 2,3) AND b in('x')", "select a from t where a in (?) and b in (?)"),
        ("SELECT a FROM t WHERE a IN ($1,$2,$3)", "select a from t where a in ($1)"),
        ("SELECT a FROM t WHERE (a,b) IN ((1,2),(3,4))", "select a from t where (a, b) in ((?))"),
        ("SELECT a FROM t WHERE a IN ('x'::uuid, 'y'::uuid)", "select a from t where a in (?::uuid)"),
        ("SELECT a FROM t WHERE a = ANY(ARRAY[1,2,3]::int[])", "select a from t where a = any (array[?]::int[])"),
        ("INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y')", "insert into t (a, b) values (?)"),
        ("INSERT INTO t VALUES (1, now(), 2), (3, now(), 4)", "insert into t values (?, now(), ?)"),
        ("INSERT INTO t VALUES (1, NULL, true) RETURNING id", "insert into t values (?) returning id"),
        ("INSERT INTO t VALUES (DEFAULT), (DEFAULT)", "insert into t values (default)"),
        ("SELECT f(1, 2), count(*) FROM t1", "select f(?, ?), count(*) from t1"),
        ("SELECT a FROM t WHERE a IN (SELECT b, b FROM u)", "select a from t where a in (select b, b from u)"),
        ("SELECT a-1, a - -1, -1, +.5, (-1), a[1]-1", "select a - ?, a - ?, ?, ?, (?), a[?] - ?"),
        ("SELECT a FROM t WHERE a = -1 LIMIT -1", "select a from t where a = ? limit ?"),
        ("SELECT \"Weird Name\".\"Col\" FROM T", "select \"Weird Name\".\"Col\" from t"),
        ("SELECT x->>'k', y @> '{}' , z::numeric(10,2) FROM t;", "select x ->> ?, y @> ?, z::numeric(?, ?) from t"),
        ("SELECT DATE '2020-01-01', INTERVAL '1' DAY", "select date ?, interval ? day"),
        ("SELECT a FROM t WHERE a IS NULL AND b = NULL", "select a from t where a is null and b = ?"),
        ("CREATE ROLE bob LOGIN PASSWORD 'x'", "create role bob login password ?"),
        ("ALTER USER bob PASSWORD hunter2", "alter user bob password ?"),
        ("ALTER USER bob PASSWORD NULL", "alter user bob password null"),
        ("SET app.key = 'x'", "set app.key = ?"),
        ("SET search_path TO tenant_1, public", "set search_path to ?"),
        ("SET LOCAL statement_timeout TO DEFAULT", "set local statement_timeout to default"),
        ("ALTER ROLE x SET work_mem = huge", "alter role x set work_mem = ?"),
        ("UPDATE t SET a = b, c = 'x'", "update t set a = b, c = ?"),
        ("DO $x$ begin perform 'a'; end $x$", "do ?"),
        ("COPY t (a) FROM stdin;", "copy t (a) from stdin"),
        ("COPY t FROM stdin;\n1\tsecret\n\\.\nselect 1", "copy t from stdin; ?"),
        ("EXECUTE p(1, 'x')", "execute p(?, ?)"),
        ("PREPARE p (int) AS SELECT $1", "prepare p (int) as select $1"),
        ("SELECT $12345678", "select ?"),
        ("SELECT 'it\\'s secret'", "select ? …"),
        ("SELECT a LIKE 'x' ESCAPE '\\', 'b'", "select a like ? escape ?, ?"),
        ("SELECT 'a' 'b', 'c'\n'd'", "select ?, ?"),
        ("BEGIN; UPDATE t SET a = 1;;", "begin; update t set a = ?"),
        ("SELECT é, \"a\nb\" FROM t", "select é, \"a\u{fffd}b\" from t"),
        ("", ""),
        (" -- nothing", ""),
    ] {
        assert_eq!(whole(sql).text, expected, "{sql}");
    }
}

#[test]
fn a_cut_text_ends_with_a_mark_and_a_long_one_is_cut() {
    assert_eq!(statement(b"select 'secr", true).text, "select ? …");
    assert_eq!(statement(b"insert into t values (1, 'a'), (2, 'b'), (3", true).text, "insert into t values (?) …");
    for name in ["a", "é", "a, "] {
        let text = whole(&format!("select {}", name.repeat(10_000))).text;
        assert!(text.len() <= super::sanitise::MAX_TEXT_BYTES && text.ends_with('…'), "{} bytes", text.len());
    }
}

/// Texts in a row have one fingerprint, rows differ.
pub(super) const CLASSES: &[&[&str]] = &[
    &[
        "select a from t where b = 1",
        "SELECT a\n FROM t /* x */ WHERE b='x' -- y",
        "select a from t where b = $1",
        "select a from t where b=-1.5e-3;",
        "select a from t where b = E'\\''",
        "select a from t where b = $$x$$",
        "select a from t where b = 'x'\n'y'",
        "select a from t where b = U&'x'",
        "select a from t where b = null",
        "select a from t where b = 0x1F",
        "select a from t where b = true",
        "Select A From T Where B = 1_000",
    ],
    &["select a from t where b = c"],
    &["select a from t where b is null"],
    &["select a from t where b in (1)", "select a from t where b in (1, 2)", "select a from t where b IN($1, -2, 'x')"],
    &["select a from t where b in (c, d)"],
    &["select a from t where b not in (1)"],
    &["select a from t1 where b = 1"],
    &["select a from t2 where b = 1"],
    &["select a from \"T\" where b = 1"],
    &["select a from t where b > 1"],
    &["select a from t where b = 1 and c = 1"],
    &["select f(1)"],
    &["select f(1, 2)"],
    &["insert into t values (1, 2)", "insert into t values (1, 2), (3, 4)", "insert into t values ($1, $2), ($3, $4)"],
    &["insert into t values (1, now())", "insert into t values (1, now()), (2, now()), (3, now())"],
    &["insert into t values (1, now()), (now(), 1)"],
    &["select a from t where b = 1::int", "select a from t where b = $1 :: INT"],
    &["select a from t where b = array[1]", "select a from t where b = array[1,2,3]"],
    &["set a = b", "set a = 'c'", "SET a = d, e"],
    &["set a to b"],
    &["select a - 1", "select a -1"],
    &["select a, -1"],
    &["select 'a"],
    &[""],
];

#[test]
fn fingerprints_are_equal_within_a_class_and_differ_between_classes() {
    let mut classes = std::collections::HashMap::new();
    for class in CLASSES {
        let first = whole(class[0]).fingerprint;
        for sql in *class {
            assert_eq!(whole(sql).fingerprint, first, "{sql} against {}", class[0]);
        }
        assert_eq!(classes.insert(first, class[0]), None, "{}", class[0]);
    }
}

#[test]
fn fingerprints_never_change() {
    for (sql, expected) in [
        ("", "cbf29ce484222325"),
        ("SELECT a FROM t WHERE b = 1", "651ca20d59463af0"),
        ("INSERT INTO \"T\" (a) VALUES (1), (2)", "911e0a27e7538717"),
    ] {
        assert_eq!(whole(sql).fingerprint.to_string(), expected, "{sql}");
    }
}

#[test]
fn a_cut_statement_is_never_taken_for_a_whole_one_and_a_cut_list_has_one_fingerprint() {
    let sql = "insert into t (a, b) values (1, now()), (2, now()), (3, now()), (4, now())";
    let first_row = sql.find("),").unwrap() + 3;
    let mut seen = None;
    for end in 0..=sql.len() {
        let cut = statement(&sql.as_bytes()[..end], true).fingerprint;
        assert_ne!(cut, statement(&sql.as_bytes()[..end], false).fingerprint);
        if end >= first_row {
            assert_eq!(*seen.get_or_insert(cut), cut, "cut after {}", &sql[..end]);
        }
    }
}

#[test]
fn summaries_name_operations_and_tables_in_order() {
    use Operation::*;
    for (sql, operation, table, summary) in [
        ("SELECT * FROM users", Select, "users", "SELECT users"),
        (
            "select a from public.users u, \"Orders\" join \"items\" using (id) where a in (1, b)",
            Select,
            "public.users",
            "SELECT public.users \"Orders\" items",
        ),
        ("select * from (select * from orders) o", Select, "orders", "SELECT SELECT orders"),
        ("(select a from x) union (select b from y)", Select, "x", "SELECT x SELECT y"),
        ("select extract(day from ts), a is distinct from b from t", Select, "t", "SELECT t"),
        ("select * from generate_series(1, 2) g, t", Select, "t", "SELECT t"),
        ("select 1", Select, "", "SELECT"),
        ("table users", Select, "users", "SELECT users"),
        ("values (1)", Select, "", "SELECT"),
        ("insert into shipping (a, b) select a, b from orders", Insert, "shipping", "INSERT shipping SELECT orders"),
        ("insert into t (a) values (1) on conflict (a) do update set a = 1", Insert, "t", "INSERT t"),
        ("update only t set a = 1 from u where x", Update, "t", "UPDATE t u"),
        ("delete from t using u where a", Delete, "t", "DELETE t u"),
        ("merge into t using u on a when matched then update set a = 1", Merge, "t", "MERGE t u"),
        ("with x as (select a from s) select * from x join t on true", Select, "t", "SELECT s SELECT t"),
        (
            "with recursive x(n) as (select 1), y as (delete from d returning *) insert into t select * from x, y",
            Insert,
            "t",
            "SELECT DELETE d INSERT t SELECT",
        ),
        ("with x as (select 1) update t set a = 1", Update, "t", "SELECT UPDATE t"),
        ("with x as (select a from s", Other, "s", "SELECT s"),
        ("select a from t for update", Select, "t", "SELECT t"),
        ("select a from t where exists (select 1 from u)", Select, "t", "SELECT t SELECT u"),
        ("begin", Begin, "", "BEGIN"),
        ("START TRANSACTION", Begin, "", "BEGIN"),
        ("end", Commit, "", "COMMIT"),
        ("begin; update accounts set a = 1; commit", Update, "accounts", "BEGIN UPDATE accounts COMMIT"),
        ("create table if not exists t (a int references u(id))", Create, "t", "CREATE TABLE t"),
        ("create unique index concurrently i on t (a)", Create, "t", "CREATE INDEX t"),
        ("create view v as select a from t", Create, "v", "CREATE VIEW v SELECT t"),
        ("create role bob password 'x'", Create, "", "CREATE ROLE"),
        ("alter table only t add column a int", Alter, "t", "ALTER TABLE t"),
        ("drop table if exists a, b", Drop, "a", "DROP TABLE a b"),
        ("truncate table a, b", Truncate, "a", "TRUNCATE a b"),
        ("copy t (a) from stdin", Copy, "t", "COPY t"),
        ("copy (select a from t) to stdout", Copy, "t", "COPY SELECT t"),
        ("vacuum (full, analyze) t", Vacuum, "t", "VACUUM t"),
        ("explain (analyze) update t set a = 1", Explain, "t", "EXPLAIN UPDATE t"),
        ("explain analyze select a from t", Explain, "t", "EXPLAIN SELECT t"),
        ("prepare p (int) as select a from t", Prepare, "t", "PREPARE SELECT t"),
        ("declare c cursor for select a from t", Declare, "t", "DECLARE SELECT t"),
        ("grant select, insert on t to bob", Grant, "", "GRANT"),
        ("set a = b", Set, "", "SET"),
        ("identify_system", Other, "", "OTHER"),
        ("hunter2 from t", Other, "", "OTHER"),
        ("", Other, "", ""),
        ("select 'a\\' from secret", Select, "", "SELECT"),
    ] {
        let found = whole(sql);
        assert_eq!((found.operation, found.table.as_deref().unwrap_or_default()), (operation, table), "{sql}");
        assert_eq!(found.summary, summary, "{sql}");
    }
    let long = whole(&format!("select a from {}", vec!["some_table"; 100].join(", "))).summary;
    assert!(long.len() <= 255 && long.ends_with(" some_table"), "{long}");
}

/// A fixed pseudo-random sequence.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    pub(super) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// Fragments that the automata of lexer and shape turn on.
pub(super) const FRAGMENTS: &[&str] = &[
    "'",
    "''",
    "\"",
    "$",
    "$$",
    "$a$",
    "$1",
    "\\",
    "-",
    "--",
    "/",
    "/*",
    "*/",
    "*",
    "\n",
    " ",
    "\t",
    "e",
    "E'",
    "U&",
    "&",
    "b'",
    "1",
    "23",
    "0x",
    ".",
    "..",
    "1.5",
    "_",
    "a",
    "t1",
    "é",
    "(",
    ")",
    ",",
    ";",
    "[",
    "]",
    "::",
    ":",
    "=",
    "+",
    "in",
    " in (",
    "values",
    "values (",
    "select ",
    " from ",
    "set ",
    " to ",
    "null",
    "1,",
    "copy ",
    "stdin",
    "array[",
    "\u{0}",
    "password ",
];

/// Makes one run from a fixed seed, or runs from others for the seconds of `STETH_FUZZ_SECONDS`.
pub(super) fn fuzz(run: impl Fn(&mut Random)) {
    let seconds = std::env::var("STETH_FUZZ_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let Some(seconds) = seconds else { return run(&mut Random(1)) };
    let (started, mut seed) = (Instant::now(), RandomState::new().hash_one(0));
    while started.elapsed() < Duration::from_secs(seconds) {
        println!("seed {seed}");
        run(&mut Random(seed));
        seed = seed.wrapping_add(1);
    }
}

#[test]
fn fuzz_bytes_and_fragments_neither_panic_nor_exceed_the_bounds() {
    fuzz(random_bytes_and_fragments);
}

fn random_bytes_and_fragments(random: &mut Random) {
    for round in 0..60_000 {
        let mut text = Vec::new();
        for _ in 0..random.below(40) {
            if round % 3 == 0 {
                text.push(random.below(256) as u8);
            } else {
                text.extend_from_slice(random.pick(FRAGMENTS).as_bytes());
            }
        }
        for truncated in [false, true] {
            let found = statement(&text, truncated);
            assert!(found.text.len() <= super::sanitise::MAX_TEXT_BYTES && found.summary.len() <= 255);
            assert!(!found.text.chars().any(char::is_control));
        }
    }
}

#[test]
fn time_is_linear_in_the_text() {
    for piece in FRAGMENTS.iter().chain(&[
        "in (1,",
        "((1,1),",
        "values (1),(2",
        "from a, ",
        "with a as (",
        "+-",
        "(((a",
        "explain (",
    ]) {
        let text = piece.repeat(1 << 15);
        let started = Instant::now();
        statement(text.as_bytes(), true);
        assert!(started.elapsed().as_secs() < 10, "{piece}");
    }
}
