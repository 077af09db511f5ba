//! The automaton that a shape is made by, as tables: which state follows which on which byte, what goes into the hash, and
//! what else is to be done. Knows nothing of what is done then.

// States.
/// Nothing but white space or comments so far.
pub(super) const START: u8 = 0;
/// Behind punctuation or an operator.
pub(super) const OTHER: u8 = 1;
/// In white space.
pub(super) const SPACE: u8 = 2;
/// In a word or a parameter: digits count.
pub(super) const WORD: u8 = 3;
/// Behind an `e` that begins a word: `E'…'`.
pub(super) const WORD_E: u8 = 4;
/// Behind a `c` that begins the statement, a `d`, and `de`.
pub(super) const WORD_C: u8 = 5;
pub(super) const WORD_D: u8 = 6;
pub(super) const WORD_DE: u8 = 7;
/// In a run of digits that does not continue a word.
pub(super) const NUMBER: u8 = 8;
/// In `'…'`.
pub(super) const STRING: u8 = 9;
/// Behind a quote that ended a string, or is the first of two within it.
pub(super) const QUOTE: u8 = 10;
/// In `"…"`.
pub(super) const QUOTED: u8 = 11;
/// Behind `-`, of which two begin a comment.
pub(super) const MINUS: u8 = 12;
/// Behind `/`.
pub(super) const SLASH: u8 = 13;
/// The same at the beginning of a statement.
pub(super) const LEAD_MINUS: u8 = 14;
pub(super) const LEAD_SLASH: u8 = 15;
/// Behind `$`.
pub(super) const DOLLAR: u8 = 16;
/// Behind `&`, which may be that of `U&'…'`.
pub(super) const AMPERSAND: u8 = 17;
/// In `--…`.
pub(super) const LINE: u8 = 18;
/// In `/*…*/`, and there behind `*` and `/`.
pub(super) const BLOCK: u8 = 19;
pub(super) const BLOCK_STAR: u8 = 20;
pub(super) const BLOCK_SLASH: u8 = 21;
/// In `E'…'`, there behind a backslash, behind its end, and in white space behind that: it may go on in the next line.
pub(super) const ESCAPES: u8 = 22;
pub(super) const ESCAPED: u8 = 23;
pub(super) const ESCAPES_QUOTE: u8 = 24;
pub(super) const ESCAPES_GAP: u8 = 25;
/// In `$…` that may be the opening of a dollar quote.
pub(super) const TAG: u8 = 26;
/// In a dollar quote, and there in what may be its end.
pub(super) const BODY: u8 = 27;
pub(super) const BODY_TAG: u8 = 28;
/// Past what the automaton understands.
pub(super) const LOST: u8 = 29;
pub(super) const STATES: usize = 32;

// Classes of bytes.
pub(super) const C_OTHER: u8 = 0;
pub(super) const C_SPACE: u8 = 1;
pub(super) const C_NEWLINE: u8 = 2;
pub(super) const C_LETTER: u8 = 3;
pub(super) const C_LETTER_A: u8 = 4;
pub(super) const C_LETTER_C: u8 = 5;
pub(super) const C_LETTER_D: u8 = 6;
pub(super) const C_LETTER_E: u8 = 7;
pub(super) const C_LETTER_R: u8 = 8;
pub(super) const C_DIGIT: u8 = 9;
pub(super) const C_QUOTE: u8 = 10;
pub(super) const C_DOUBLE_QUOTE: u8 = 11;
pub(super) const C_MINUS: u8 = 12;
pub(super) const C_SLASH: u8 = 13;
pub(super) const C_STAR: u8 = 14;
pub(super) const C_DOLLAR: u8 = 15;
pub(super) const C_AMPERSAND: u8 = 16;
pub(super) const C_BACKSLASH: u8 = 17;
pub(super) const C_SEMICOLON: u8 = 18;
pub(super) const CLASSES: usize = 32;

// What goes into the hash. Marks lie above all bytes, so no byte is taken for one.
/// The byte itself.
pub(super) const KEEP: u16 = 0xff;
/// Nothing.
pub(super) const SKIP: u16 = 0;
pub(super) const MARK_STRING: u16 = 0x100;
pub(super) const MARK_NUMBER: u16 = 0x200;
pub(super) const MARK_SPACE: u16 = 0x300;
pub(super) const MARK_COMMENT: u16 = 0x500;
/// With the byte: the rest is verbatim.
pub(super) const MARK_VERBATIM: u16 = 0x400 | KEEP;

// What else is to be done, above the marks. Bytes that ask for it are taken one at a time.
pub(super) const ACTION: u32 = 11;
pub(super) const DOUBT: u16 = 1 << ACTION | MARK_VERBATIM;
pub(super) const BLANK: u16 = 2 << ACTION;
pub(super) const SEMICOLON: u16 = 3 << ACTION | KEEP;
pub(super) const CREATE: u16 = 4 << ACTION | KEEP;
pub(super) const LINE_BEGINS: u16 = 5 << ACTION | MARK_COMMENT;
pub(super) const LEAD_LINE_BEGINS: u16 = 6 << ACTION | MARK_COMMENT;
pub(super) const LINE_ENDS: u16 = 7 << ACTION | MARK_COMMENT;
pub(super) const BLOCK_BEGINS: u16 = 8 << ACTION | MARK_COMMENT;
pub(super) const LEAD_BLOCK_BEGINS: u16 = 9 << ACTION | MARK_COMMENT;
pub(super) const BLOCK_DEEPER: u16 = 10 << ACTION | MARK_COMMENT;
pub(super) const BLOCK_ENDS: u16 = 11 << ACTION | MARK_COMMENT;
pub(super) const TAG_BEGINS: u16 = 12 << ACTION | MARK_VERBATIM;
pub(super) const TAG_GOES_ON: u16 = 13 << ACTION | KEEP;
pub(super) const END_BEGINS: u16 = 14 << ACTION | KEEP;
pub(super) const END_GOES_ON: u16 = 15 << ACTION | KEEP;
pub(super) const END_ENDS: u16 = 16 << ACTION | KEEP;
pub(super) const DEALLOCATE: u16 = 17 << ACTION | KEEP;

/// The class of each byte, as the agent's lexer has them: bytes above 127 are letters.
pub(super) static CLASS: [u8; 256] = {
    let mut table = [C_OTHER; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = match byte as u8 {
            b' ' | b'\t' | 0x0b | 0x0c => C_SPACE,
            b'\n' | b'\r' => C_NEWLINE,
            b'a' | b'A' => C_LETTER_A,
            b'c' | b'C' => C_LETTER_C,
            b'd' | b'D' => C_LETTER_D,
            b'e' | b'E' => C_LETTER_E,
            b'r' | b'R' => C_LETTER_R,
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
            b';' => C_SEMICOLON,
            _ => C_OTHER,
        };
        byte += 1;
    }
    table
};

/// The state that follows each state on each class, times [`CLASSES`], so that the sum with a class is an index.
pub(super) static NEXT: [u16; STATES * CLASSES] = {
    let mut table = [0; STATES * CLASSES];
    let mut at = 0;
    while at < table.len() {
        table[at] = step((at / CLASSES) as u8, (at % CLASSES) as u8).0 as u16 * CLASSES as u16;
        at += 1;
    }
    table
};

/// What goes into the hash in each state on each class, and what else is to be done.
pub(super) static EMIT: [u16; STATES * CLASSES] = {
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
        (LOST.., _) => (LOST, KEEP),
        (STRING, C_QUOTE) => (QUOTE, SKIP),
        (STRING, C_BACKSLASH) => (STRING, DOUBT),
        (STRING, _) => (STRING, SKIP),
        (QUOTED, C_DOUBLE_QUOTE) => (OTHER, KEEP),
        (QUOTED, _) => (QUOTED, KEEP),
        // `''` within a string: it goes on, and has its mark already.
        (QUOTE, C_QUOTE) => (STRING, SKIP),
        (LINE, C_NEWLINE) => (SPACE, LINE_ENDS),
        (LINE, _) => (LINE, SKIP),
        (BLOCK_SLASH, C_STAR) => (BLOCK, BLOCK_DEEPER),
        (BLOCK_STAR, C_SLASH) => (SPACE, BLOCK_ENDS),
        (BLOCK..=BLOCK_SLASH, C_STAR) => (BLOCK_STAR, SKIP),
        (BLOCK..=BLOCK_SLASH, C_SLASH) => (BLOCK_SLASH, SKIP),
        (BLOCK..=BLOCK_SLASH, _) => (BLOCK, SKIP),
        (ESCAPES, C_QUOTE) => (ESCAPES_QUOTE, KEEP),
        (ESCAPES, C_BACKSLASH) => (ESCAPED, KEEP),
        (ESCAPES | ESCAPED, _) | (ESCAPES_QUOTE | ESCAPES_GAP, C_QUOTE) => (ESCAPES, KEEP),
        (ESCAPES_QUOTE | ESCAPES_GAP, C_SPACE | C_NEWLINE) => (ESCAPES_GAP, KEEP),
        (BODY, C_DOLLAR) => (BODY_TAG, END_BEGINS),
        (BODY_TAG, C_DOLLAR) => (BODY_TAG, END_ENDS),
        (BODY_TAG, C_LETTER..=C_DIGIT) => (BODY_TAG, END_GOES_ON),
        (BODY | BODY_TAG, _) => (BODY, KEEP),
        (TAG, C_LETTER..=C_DIGIT) => (TAG, TAG_GOES_ON),
        (TAG, C_DOLLAR) => (BODY, KEEP),
        (DOLLAR, C_DOLLAR) => (BODY, TAG_BEGINS),
        (DOLLAR, C_LETTER..=C_LETTER_R) => (TAG, TAG_BEGINS),
        // `$1` is a parameter.
        (DOLLAR, C_DIGIT) => (WORD, KEEP),
        (WORD..=WORD_DE, C_DOLLAR) => (WORD, DOUBT),
        (MINUS, C_MINUS) => (LINE, LINE_BEGINS),
        (LEAD_MINUS, C_MINUS) => (LINE, LEAD_LINE_BEGINS),
        (SLASH, C_STAR) => (BLOCK, BLOCK_BEGINS),
        (LEAD_SLASH, C_STAR) => (BLOCK, LEAD_BLOCK_BEGINS),
        // `E'…'`, `U&'…'` and their like.
        (WORD_E, C_QUOTE) => (ESCAPES, DOUBT),
        (WORD..=NUMBER | AMPERSAND | TAG | DOLLAR, C_QUOTE) => (STRING, DOUBT),
        (_, C_QUOTE) => (STRING, MARK_STRING),
        (START, C_SPACE | C_NEWLINE) => (START, BLANK),
        (SPACE, C_SPACE | C_NEWLINE) => (SPACE, SKIP),
        (_, C_SEMICOLON) => (START, SEMICOLON),
        (DOLLAR, _) => (OTHER, DOUBT),
        (_, C_SPACE | C_NEWLINE) => (SPACE, MARK_SPACE),
        (WORD_C, C_LETTER_R) => (WORD, CREATE),
        (WORD_D, C_LETTER_E) => (WORD_DE, KEEP),
        (WORD_DE, C_LETTER_A) => (WORD, DEALLOCATE),
        (WORD..=WORD_DE, C_LETTER..=C_DIGIT) => (WORD, KEEP),
        (NUMBER, C_DIGIT) => (NUMBER, SKIP),
        (_, C_DIGIT) => (NUMBER, MARK_NUMBER),
        (START, C_LETTER_C) => (WORD_C, KEEP),
        (START, C_LETTER_D) => (WORD_D, KEEP),
        (_, C_LETTER_E) => (WORD_E, KEEP),
        (_, C_LETTER..=C_LETTER_R) => (WORD, KEEP),
        (_, C_DOUBLE_QUOTE) => (QUOTED, KEEP),
        (START, C_MINUS) => (LEAD_MINUS, KEEP),
        (START, C_SLASH) => (LEAD_SLASH, KEEP),
        (_, C_MINUS) => (MINUS, KEEP),
        (_, C_SLASH) => (SLASH, KEEP),
        (_, C_DOLLAR) => (DOLLAR, KEEP),
        (_, C_AMPERSAND) => (AMPERSAND, KEEP),
        _ => (OTHER, KEEP),
    }
}
