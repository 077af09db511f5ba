//! What the kernel's shapes promise the parser: texts of one shape have one fingerprint.

use std::collections::{HashMap, hash_map::Entry};

use steth_probes::shape::Shape;

use super::{
    Fingerprint, statement,
    tests::{CLASSES, FRAGMENTS, Random, corpus},
};

fn shape(text: &[u8]) -> u64 {
    let mut shape = Shape::new();
    text.iter().for_each(|byte| shape.push(*byte));
    shape.finish()
}

/// Remembers the fingerprint that each shape had.
#[derive(Default)]
struct Shapes {
    seen: HashMap<(u64, bool), (Fingerprint, Vec<u8>)>,
    shared: usize,
}

impl Shapes {
    fn check(&mut self, text: &[u8]) {
        for truncated in [false, true] {
            let fingerprint = statement(text, truncated).fingerprint;
            match self.seen.entry((shape(text), truncated)) {
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
fn texts_of_one_shape_have_one_fingerprint() {
    let mut shapes = Shapes::default();
    for class in CLASSES {
        class.iter().for_each(|sql| shapes.check(sql.as_bytes()));
    }
    for sql in corpus() {
        shapes.check(sql.as_bytes());
    }
    // Short texts of few fragments, so that shapes meet often.
    let mut random = Random(2);
    for _ in 0..80_000 {
        let text: String = (0..random.below(7)).map(|_| random.pick(FRAGMENTS)).collect();
        shapes.check(text.as_bytes());
        shapes.check(vary(&mut random, &text).as_bytes());
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
