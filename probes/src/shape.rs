//! Recognises a statement that was seen before while its bytes pass by: a hash of SQL text that is blind to the
//! literals which clients write into it. Knows just enough of SQL to be never wrong, and not what a statement means;
//! that is the agent's lexer's business.
//!
//! The promise: two texts of the same shape have the same fingerprint in the agent (but for collisions of 64 bits), so
//! the kernel need not ask about the second. The reverse does not hold, and need not.
//!
//! The hash is taken of a reduced text: each `'…'` becomes one mark, each run of digits outside a word another, each run
//! of white space a third, everything else stays. Where strings and comments cannot be told apart by one look at each
//! byte (comments, prefixes as in `E'…'`, dollar quotes, backslashes in strings) the rest of the text is hashed as it is.
//!
//! Three table look-ups, one branch and one multiplication per byte: 18 BPF instructions. No branch depends on the
//! automaton's state, so the verifier has no states to multiply.

use crate::record::record;

/// FNV-1a, 64 bits (draft-eastlake-fnv).
const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

record! {
    /// The shape of the text so far.
    pub struct Shape {
        /// Hash of the reduced text.
        pub hash: u64,
        /// Where in the text the automaton is: one of the states below, times 16.
        pub state: u32,
        /// Zero.
        pub _pad: [u8; 4],
    }
}

// States.
/// At the start, behind punctuation or an operator.
const OTHER: u8 = 0;
/// In white space.
const SPACE: u8 = 1;
/// In a word or a parameter: digits count.
const WORD: u8 = 2;
/// In a run of digits that does not continue a word.
const NUMBER: u8 = 3;
/// In `'…'`.
const STRING: u8 = 4;
/// Behind a quote that ended a string, or is the first of two within it.
const QUOTE: u8 = 5;
/// In `"…"`.
const QUOTED: u8 = 6;
/// Behind `-`, of which two begin a comment.
const MINUS: u8 = 7;
/// Behind `/`.
const SLASH: u8 = 8;
/// Behind `$`.
const DOLLAR: u8 = 9;
/// Behind `&`, which may be that of `U&'…'`.
const AMPERSAND: u8 = 10;
/// Past what the automaton understands: every byte counts.
const VERBATIM: u8 = 11;
const STATES: usize = 16;

// Classes of bytes.
const C_OTHER: u8 = 0;
const C_SPACE: u8 = 1;
const C_LETTER: u8 = 2;
const C_DIGIT: u8 = 3;
const C_QUOTE: u8 = 4;
const C_DOUBLE_QUOTE: u8 = 5;
const C_MINUS: u8 = 6;
const C_SLASH: u8 = 7;
const C_STAR: u8 = 8;
const C_DOLLAR: u8 = 9;
const C_AMPERSAND: u8 = 10;
const C_BACKSLASH: u8 = 11;
const CLASSES: usize = 16;

// What goes into the hash. Marks lie above all bytes, so no byte is taken for one.
/// The byte itself.
const KEEP: u16 = 0xff;
/// Nothing.
const SKIP: u16 = 0;
const MARK_STRING: u16 = 0x100;
const MARK_NUMBER: u16 = 0x200;
const MARK_SPACE: u16 = 0x300;
/// With the byte: the rest is verbatim.
const MARK_VERBATIM: u16 = 0x400 | KEEP;

/// The class of each byte, as the agent's lexer has them: bytes above 127 are letters.
static CLASS: [u8; 256] = {
    let mut table = [C_OTHER; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => C_SPACE,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => C_LETTER,
            b'0'..=b'9' => C_DIGIT,
            b'\'' => C_QUOTE,
            b'"' => C_DOUBLE_QUOTE,
            b'-' => C_MINUS,
            b'/' => C_SLASH,
            b'*' => C_STAR,
            b'$' => C_DOLLAR,
            b'&' => C_AMPERSAND,
            b'\\' => C_BACKSLASH,
            _ => C_OTHER,
        };
        byte += 1;
    }
    table
};

/// The state that follows each state on each class, times [`CLASSES`]: as a byte, the sum with a class needs no bound
/// check that the verifier could miss, and the look-ups of successive bytes follow closely.
static NEXT: [u8; STATES * CLASSES] = {
    let mut table = [0; STATES * CLASSES];
    let mut at = 0;
    while at < table.len() {
        table[at] = step((at / CLASSES) as u8, (at % CLASSES) as u8).0 * CLASSES as u8;
        at += 1;
    }
    table
};

/// What goes into the hash in each state on each class.
static EMIT: [u16; STATES * CLASSES] = {
    let mut table = [0; STATES * CLASSES];
    let mut at = 0;
    while at < table.len() {
        table[at] = step((at / CLASSES) as u8, (at % CLASSES) as u8).1;
        at += 1;
    }
    table
};

/// The next state, and what goes into the hash.
const fn step(state: u8, class: u8) -> (u8, u16) {
    match (state, class) {
        (VERBATIM, _) => (VERBATIM, KEEP),
        (STRING, C_QUOTE) => (QUOTE, SKIP),
        (STRING, C_BACKSLASH) => (VERBATIM, MARK_VERBATIM),
        (STRING, _) => (STRING, SKIP),
        (QUOTED, C_DOUBLE_QUOTE) => (OTHER, KEEP),
        (QUOTED, _) => (QUOTED, KEEP),
        // `''` within a string: it goes on, and has its mark already.
        (QUOTE, C_QUOTE) => (STRING, SKIP),
        (MINUS, C_MINUS) | (SLASH, C_STAR) => (VERBATIM, MARK_VERBATIM),
        // `$1` is a parameter; anything else behind `$` may be the tag of a dollar quote.
        (DOLLAR, C_DIGIT) => (WORD, KEEP),
        (DOLLAR, _) => (VERBATIM, MARK_VERBATIM),
        // `E'…'`, `U&'…'` and their like.
        (WORD | NUMBER | AMPERSAND, C_QUOTE) => (VERBATIM, MARK_VERBATIM),
        (_, C_QUOTE) => (STRING, MARK_STRING),
        (SPACE, C_SPACE) => (SPACE, SKIP),
        (_, C_SPACE) => (SPACE, MARK_SPACE),
        (WORD, C_DIGIT) => (WORD, KEEP),
        (NUMBER, C_DIGIT) => (NUMBER, SKIP),
        (_, C_DIGIT) => (NUMBER, MARK_NUMBER),
        (_, C_LETTER) => (WORD, KEEP),
        (_, C_DOUBLE_QUOTE) => (QUOTED, KEEP),
        (_, C_MINUS) => (MINUS, KEEP),
        (_, C_SLASH) => (SLASH, KEEP),
        (_, C_DOLLAR) => (DOLLAR, KEEP),
        (_, C_AMPERSAND) => (AMPERSAND, KEEP),
        _ => (OTHER, KEEP),
    }
}

impl Default for Shape {
    fn default() -> Self {
        Self::new()
    }
}

impl Shape {
    /// The shape of no text yet.
    #[inline(always)]
    pub const fn new() -> Self {
        Self { hash: OFFSET_BASIS, state: OTHER as u32, _pad: [0; 4] }
    }

    /// Takes the next byte of the text.
    #[inline(always)]
    pub fn push(&mut self, byte: u8) {
        // The mask proves to the verifier that a state which came from a map is within the tables.
        let at = ((self.state & 0xff) | CLASS[byte as usize] as u32) as u8 as usize;
        self.state = NEXT[at] as u32;
        let emit = EMIT[at];
        if emit != SKIP {
            // A mark without KEEP hides the byte.
            let seen = (emit & !KEEP) | (emit & byte as u16);
            self.hash = (self.hash ^ seen as u64).wrapping_mul(PRIME);
        }
    }

    /// The shape of all that was pushed; never 0, so that 0 can say "none".
    #[inline(always)]
    pub fn finish(&self) -> u64 {
        if self.hash == 0 { 1 } else { self.hash }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> u64 {
        let mut shape = Shape::new();
        text.bytes().for_each(|byte| shape.push(byte));
        shape.finish()
    }

    #[test]
    fn inlined_literals_and_white_space_do_not_change_the_shape() {
        for (one, other) in [
            ("select a from t where b = 1", "select a from t where b = 123456"),
            ("select a from t where b = 'x'", "select a from t where b = 'O''Brien -- /* $$ \" é'"),
            ("select a from t where b = ''", "select a from t where b = ''''"),
            ("select a\n from  t", "select a from\tt"),
            ("select -1, 1.5, (2)", "select -20, 34.75, (0)"),
            ("select a[1], $1, b", "select a[22], $1, b"),
            ("update t1 set a = 'x' where \"B 1\" = 5", "update t1 set a = 'yy' where \"B 1\" = 66"),
        ] {
            assert_eq!(shape(one), shape(other), "{one} against {other}");
        }
    }

    #[test]
    fn everything_but_literals_changes_the_shape() {
        let texts = [
            "",
            " ",
            "select a from t1",
            "select a from t2",
            "select a from t",
            "select a from \"t1\"",
            "select a from \"t 1\"",
            "select a from \"t  1\"",
            "select $1",
            "select $2",
            "select 1",
            "select '1'",
            "select a1",
            "select a11",
            "select -1",
            "select 1 1",
            "select 1.1",
            "select 1 -- a",
            "select 1 -- b",
            "select 1 /* a",
            "select $$a$$",
            "select $$b$$",
            "select $a$1$a$",
            "select E'1'",
            "select E'2'",
            "select U&'1'",
            "select U&'2'",
            "select X'1'",
            "select 'a\\'",
            "select 'a\\'1",
            "select 'a' 'b'",
            "select \u{100}",
        ];
        for (at, one) in texts.iter().enumerate() {
            for other in &texts[at + 1..] {
                assert_ne!(shape(one), shape(other), "{one} against {other}");
            }
        }
    }

    #[test]
    fn past_the_first_doubt_every_byte_counts() {
        for doubt in ["--", "/*", "'\\", "$$", "$a", "$ ", "e'", "1'", "u&'", "n'", "_'", "é'"] {
            let texts = ["1", "2", "'a'", "'b'", " ", "  "].map(|rest| shape(&format!("select {doubt}{rest}")));
            for (at, one) in texts.iter().enumerate() {
                assert!(!texts[at + 1..].contains(one), "{doubt}");
            }
        }
    }

    #[test]
    fn a_state_that_is_not_one_is_survived() {
        let mut shape = Shape { hash: 0, state: u32::MAX, _pad: [0; 4] };
        (0..=255).for_each(|byte| shape.push(byte));
        assert_ne!(Shape { hash: 0, ..shape }.finish(), 0);
    }
}
