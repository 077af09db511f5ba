//! What must never be shown: a corpus of secrets in every form and at every place, cut at every byte.

use super::statement;

/// No two bytes of it in a row are anywhere else in the corpus.
const SECRET: &str = "ZqXjWvKyQz";
/// The same where only digits can stand.
const DIGITS: &str = "90817263545";

/// Every form of a literal; `@` is the secret and `#` its digits.
const FORMS: &[&str] = &[
    "'@'",
    "'a''@'",
    "'\"@'",
    "'$$@'",
    "'--@'",
    "'/*@'",
    "'a\\\\@'",
    "'\\@'",
    "E'@'",
    "E'\\'@'",
    "e'\\\\\\'@'",
    "E'a''@'",
    "E'\\x41@'",
    "U&'\\0041@'",
    "u&'!0041@' UESCAPE '!'",
    "B'@'",
    "X'@'",
    "x'#'",
    "N'@'",
    "n'a''@'",
    "'a'\n'@'",
    "E'a'\n'\\'@'",
    "'a' -- '\n '@'",
    "'@'\r\n'@'",
    "$$@$$",
    "$a$@$a$",
    "$a$ $$@$b$@$a$",
    "$_é1$'@$_é1$",
    "$$'@\"/*--$$",
    "#",
    "-#",
    "+#.#",
    ".#",
    "#.",
    "#e5",
    "1e#",
    "1.5E-#",
    "0x#AF",
    "0b#",
    "1_#",
    "#abc",
    "12@",
    "/*@*/1",
    "/*/*@*/@*/1",
    "1--@\n",
    "'é@'",
    "E'é\\'@'",
    "'\n@\n'",
    "'\u{0}@'",
    "DATE '@'",
    "'@'::text",
    "CAST('@' AS text)",
    "ARRAY['@','@']",
    "ROW('@', #)",
    "f('@', #)",
    "\"col\"'@'",
    "('@')",
    "-'@'",
    "1$$@$$",
    "$1$$@$$",
    "1E'\\'@'",
    "'@'E'\\'@'",
    "'@'$$@$$",
];

/// Forms that swallow what follows, or may, as the server reads backslashes.
const OPEN_FORMS: &[&str] = &[
    "'@", "'@''@''", "$$@", "$a$@$", "$a$@$a", "E'@\\", "E'@\\'", "\"@", "/*'@*/'@", "/*@", "--@", "'\\'@'", "'\\''@'",
    "u&'@",
];

/// Every place that a literal can stand in; `?` is where.
const PLACES: &[&str] = &[
    "?",
    "SELECT ?",
    "SELECT a FROM t WHERE b=? AND c = ?",
    "SELECT a FROM t WHERE b IN (?, ?,?)",
    "SELECT ?::text, ? AS x",
    "INSERT INTO t (a,b) VALUES (?, ?), (?, now())",
    "UPDATE t SET a=?,b = ? WHERE c<>?",
    "DELETE FROM t WHERE a LIKE ?",
    "CREATE ROLE bob LOGIN PASSWORD ?",
    "ALTER ROLE bob ENCRYPTED PASSWORD ? VALID UNTIL ?",
    "SET app.secret = ?",
    "SET app.secret TO ?, ?",
    "COPY t FROM ? WITH (DELIMITER ?)",
    "COPY t FROM stdin;\n?",
    "DO ?",
    "EXPLAIN SELECT ?",
    "PREPARE p AS SELECT ?",
    "EXECUTE p(?, ?)",
    "SELECT a FROM t LIMIT ? OFFSET ?",
    "NOTIFY c, ?",
    "COMMENT ON TABLE t IS ?",
    "CREATE FUNCTION f() RETURNS text AS ? LANGUAGE sql",
    "CREATE SUBSCRIPTION s CONNECTION ? PUBLICATION p",
    "SELECT a->>?, b[?], c||?",
    "SELECT 1; SELECT ?",
    "SELECT a FROM t WHERE a BETWEEN ? AND ?",
    "SELECT \"?\" , ?",
    "/* '@ */ SELECT ? -- '@\n, ?",
    "SELECT 'a' , ?",
    "SELECT a FROM t WHERE a LIKE 'x' ESCAPE '\\' AND b = ?",
    "CREATE TABLE t (a text DEFAULT ?)",
    "ALTER TABLE t ALTER a SET DEFAULT ?",
    "CALL p(?)",
    "SELECT (((?)))",
    "CREATE USER MAPPING FOR u SERVER s OPTIONS (user ?, password ?)",
    "FETCH ? FROM c",
    "SELECT a FROM f(?) WHERE x=?",
];

fn leaks(output: &str, secret: &str) -> bool {
    let output = output.to_ascii_lowercase();
    let secret = secret.to_ascii_lowercase();
    (0..secret.len() - 3).any(|start| output.contains(&secret[start..start + 4]))
}

fn assert_no_leak(sql: &[u8], truncated: bool) {
    let found = statement(sql, truncated);
    let shown = format!("{} {:?} {} {}", found.text, found.table, found.summary, found.operation.name());
    assert!(!leaks(&shown, SECRET) && !leaks(&shown, DIGITS), "{} gives {shown}", sql.escape_ascii());
}

/// Each place filled with each form. A quoted identifier is no literal, so its place is filled with a plain name.
pub(super) fn corpus() -> Vec<String> {
    let mut out = Vec::new();
    for place in PLACES {
        for form in FORMS {
            let form = form.replace('@', SECRET).replace('#', DIGITS);
            let filled = place.replace("\"?\"", "\"name\"").replace('@', SECRET).replace('?', &form);
            out.extend([filled.to_ascii_uppercase(), filled.to_ascii_lowercase(), filled]);
        }
        for form in OPEN_FORMS {
            let place = place.replace("\"?\"", "\"name\"");
            let head = place.split_inclusive('?').next().unwrap();
            let filled = head.replace('?', form).replace('@', SECRET);
            out.extend([filled.to_ascii_uppercase(), filled.to_ascii_lowercase(), filled]);
        }
    }
    out
}

#[test]
fn no_secret_in_any_form_at_any_place_is_shown_wherever_the_text_is_cut() {
    for (number, sql) in corpus().iter().enumerate() {
        assert_no_leak(sql.as_bytes(), false);
        // One in three, in turn upper, lower and as written: the cases differ in nothing else.
        let cuts = if number / 3 % 3 == number % 3 { 0..=sql.len() } else { sql.len()..=sql.len() };
        cuts.for_each(|end| assert_no_leak(&sql.as_bytes()[..end], true));
    }
}

#[test]
fn no_secret_is_shown_in_encodings_whose_characters_end_in_a_backslash() {
    for sql in [
        &b"select E'\x95\\', 'ZqXjWvKyQz', 'a'"[..],
        b"select '\x95\\', 'ZqXjWvKyQz', 'a'",
        b"select '\xff', 'ZqXjWvKyQz",
    ] {
        for end in 0..=sql.len() {
            assert_no_leak(&sql[..end], true);
        }
        assert_no_leak(sql, false);
    }
}
