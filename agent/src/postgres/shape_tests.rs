//! What the kernel's shapes promise the parser: texts of one shape have one fingerprint, and statements are cut where the
//! lexer sees a semicolon.

use std::collections::{HashMap, hash_map::Entry};

use steth_probes::shape::{Shape, Taken};

use super::{
    Fingerprint,
    lexer::Lexer,
    secrecy_tests::corpus,
    statement,
    tests::{CLASSES, FRAGMENTS, Random, fuzz},
};

/// The statements of a text as the kernel cuts them out, each with its shape.
fn shapes(text: &[u8]) -> Vec<(u64, &[u8])> {
    let (mut shape, mut from, mut found) = (Shape::new(), 0, Vec::new());
    for (at, byte) in text.iter().enumerate() {
        match shape.take(*byte) {
            Taken::Text => continue,
            Taken::Blank => {}
            Taken::Semicolon => {
                found.push((shape.finish(), &text[from..at]));
                shape = Shape::new();
            }
        }
        from = at + 1;
    }
    found.push((shape.finish(), &text[from..]));
    found
}

/// Remembers the fingerprint that each shape had.
#[derive(Default)]
struct Shapes {
    seen: HashMap<(u64, bool), (Fingerprint, Vec<u8>)>,
    shared: usize,
}

impl Shapes {
    fn check(&mut self, text: &[u8]) {
        for (shape, part) in shapes(text) {
            self.check_statement(shape, part);
        }
    }

    fn check_statement(&mut self, shape: u64, text: &[u8]) {
        for truncated in [false, true] {
            let fingerprint = statement(text, truncated).fingerprint;
            match self.seen.entry((shape, truncated)) {
                Entry::Vacant(entry) => {
                    entry.insert((fingerprint, text.to_vec()));
                }
                Entry::Occupied(entry) => {
                    let (first, seen) = entry.get();
                    assert_eq!(fingerprint, *first, "{} and {}", text.escape_ascii(), seen.escape_ascii());
                    self.shared += usize::from(seen != text);
                }
            }
        }
    }
}

#[test]
fn fuzz_texts_of_one_shape_have_one_fingerprint() {
    fuzz(texts_of_one_shape);
}

fn texts_of_one_shape(random: &mut Random) {
    let mut shapes = Shapes::default();
    for class in CLASSES {
        class.iter().for_each(|sql| shapes.check(sql.as_bytes()));
    }
    for sql in corpus() {
        shapes.check(sql.as_bytes());
    }
    // Short texts of few fragments, so that shapes meet often.
    for _ in 0..80_000 {
        let text: String = (0..random.below(7)).map(|_| random.pick(FRAGMENTS)).collect();
        shapes.check(text.as_bytes());
        shapes.check(vary(random, &text).as_bytes());
    }
    assert!(shapes.shared > 10_000, "only {} texts shared a shape with another: this test shows little", shapes.shared);
}

/// Changes what a shape may be blind to, and sometimes what it may not.
fn vary(random: &mut Random, text: &str) -> String {
    let mut out = String::new();
    for char in text.chars() {
        match (char, random.below(4)) {
            ('0'..='9', 0) => out.push_str("77"),
            ('0'..='9', 1) => out.push('0'),
            (' ' | '\n' | '\t', 0) => out.push_str(" \n"),
            (' ' | '\n' | '\t', 1) => out.push('\r'),
            ('\'', 0) => out.push_str("'a"),
            ('\'', 1) => out.push_str("'''"),
            // Within a comment, more of it.
            ('*', 0) => out.push_str("*x'\""),
            ('*', 1) => out.push_str("*\n/* $$ */"),
            ('-', 0) => out.push_str("--'/*"),
            ('a'..='z', 0) if random.below(8) == 0 => {}
            _ => out.push(char),
        }
    }
    out
}

#[test]
fn every_short_text_over_the_bytes_that_matter_keeps_the_promise_of_shapes() {
    let alphabet = b"'\"$-/*\\ \n1ae&._";
    let mut shapes = Shapes::default();
    let mut text = Vec::new();
    for number in 0..alphabet.len().pow(4) {
        text.clear();
        let mut rest = number;
        while rest > 0 {
            text.push(alphabet[rest % alphabet.len()]);
            rest /= alphabet.len();
        }
        shapes.check(&text);
    }
}

#[test]
fn fuzz_the_kernel_cuts_statements_where_the_lexer_sees_a_semicolon() {
    fuzz(cut_statements);
}

fn cut_statements(random: &mut Random) {
    // Pieces that every server reads alike, with something between them.
    const PIECES: &[&str] = &[
        ";",
        ";",
        "; ",
        "'a;'",
        "''';'",
        "E';\\';'",
        "e'\\\\'",
        "U&'\\;'",
        "b'1'",
        "\"a;\"",
        "\"\"\";\"",
        "$$;'$$",
        "$a$;$$;$a$",
        "$1",
        "--;\n",
        "-- ' \n",
        "/*;*/",
        "/*/*;*/;'*/",
        "- -1",
        "/ 2",
        "* 3",
        "a",
        "e",
        "c",
        "de",
        "é",
        "cr",
        "1",
        " ",
        "\n",
        "select ",
        "(",
        ")",
        "&",
        ".5",
        "::int",
    ];
    let mut cut = 0;
    for _ in 0..100_000 {
        let text: String =
            (0..random.below(12)).flat_map(|_| [random.pick(PIECES), random.pick(&[" ", "\n", "/**/"])]).collect();
        let tokens: Vec<_> = Lexer::new(text.as_bytes(), false).collect();
        assert!(tokens.iter().all(|token| !token.doubtful), "{text:?}");
        let expected = tokens
            .split(|token| token.text == b";")
            .filter(|part| !part.is_empty())
            .map(|part| part.iter().flat_map(|token| token.text).copied().collect::<Vec<u8>>());
        let parts = shapes(text.as_bytes());
        let found = parts
            .iter()
            .map(|(_, part)| Lexer::new(part, false).flat_map(|token| token.text).copied().collect::<Vec<u8>>());
        let (expected, found): (Vec<_>, Vec<_>) = (expected.collect(), found.filter(|part| !part.is_empty()).collect());
        assert_eq!(found, expected, "{text:?}");
        cut += usize::from(found.len() > 1);
    }
    assert!(cut > 10_000, "only {cut} texts were cut");
}
