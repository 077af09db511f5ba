//! Recognises a statement that was seen before while its bytes pass by: a hash of SQL text that is blind to the
//! literals which clients write into it. Knows just enough of SQL to be never wrong, and not what a statement means;
//! that is the agent's lexer's business.
//!
//! The promise: two texts of the same shape have the same fingerprint in the agent (but for collisions of 64 bits), so
//! the kernel need not ask about the second. The reverse does not hold, and need not.
//!
//! The hash is taken of a reduced text: each `'…'` becomes one mark, each run of digits outside a word another, each run
//! of white space a third, each comment marks where it begins and ends (what tells a trace stands in comments, another for each
//! request); everything else stays. Where strings cannot be told by one look at each byte (prefixes as in `E'…'`, dollar
//! quotes, backslashes in strings) the rest of the text is hashed as it is.
//!
//! It also says where one statement of a simple query ends and the next begins: at a semicolon that stands in no string,
//! comment, dollar quote, nor, after CREATE, in parentheses or between BEGIN and END of a routine's body. What it does not
//! know: that `standard_conforming_strings` is off, or that an encoding uses ASCII within its characters.
//!
//! Nearly all bytes take three table look-ups, two branches and one multiplication. No branch depends on the automaton's
//! state, so the verifier has no states to multiply; what is rare is done byte by byte in a function of its own.

mod table;

use table::{
    ACTION, BLANK, BLOCK, BLOCK_BEGINS, BLOCK_DEEPER, BLOCK_ENDS, BLOCK_SLASH, BODY_TAG, CLASS, CLASSES, CREATE,
    DEALLOCATE, EMIT, END_BEGINS, END_ENDS, END_GOES_ON, KEEP, LEAD_BLOCK_BEGINS, LEAD_LINE_BEGINS, LINE, LINE_BEGINS,
    LINE_ENDS, LOST, MARK_VERBATIM, NEXT, OTHER, QUOTED, SEMICOLON, SKIP, START, STATES, STRING, TAG_BEGINS,
    TAG_GOES_ON, WORD, WORD_DE,
};

use crate::{
    postgres::{NAME_LEN, hash_name, push_hash},
    record::record,
};

/// FNV-1a, 64 bits (draft-eastlake-fnv).
const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

record! {
    /// The shape of the statement so far.
    pub struct Shape {
        /// Hash of the reduced text.
        pub hash: u64,
        /// Hash of the name behind DEALLOCATE.
        pub name: u64,
        /// Hash of the tag of the dollar quote under way, or of the word before the one under way.
        pub tag: u32,
        /// Hash of the word under way, or of what may be a closing tag.
        pub word: u32,
        /// Where in the text the automaton is: one of the states below, times [`CLASSES`].
        pub state: u16,
        /// [`KEEP`] past the first doubt, 0 before it.
        pub keep: u16,
        /// What is known of a statement that begins with CREATE or DEALLOCATE; 0 if it does not.
        pub special: u8,
        /// Block comments that are open; with [`LEADING`] if nothing but comments stands before them.
        pub comments: u8,
        /// Parentheses that are open, after CREATE; bytes of the name, after DEALLOCATE.
        pub parentheses: u8,
        /// BEGIN and CASE that are open in the body of a function or procedure.
        pub begins: u8,
    }
}

/// What became of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Taken {
    /// It belongs to the statement.
    Text = 0,
    /// The statement has not begun yet: white space, or the semicolon of an empty one.
    Blank = 1,
    /// It is the semicolon behind the statement.
    Semicolon = 2,
}

/// In [`Shape::comments`]: only comments stand before this one.
const LEADING: u8 = 0x80;

// What is known of a statement that begins with CREATE or DEALLOCATE.
const IN_CREATE: u8 = 1;
const BEHIND_CREATE: u8 = 2;
const BEHIND_OR: u8 = 3;
const BEHIND_REPLACE: u8 = 4;
/// It makes a function or a procedure, whose body may be `BEGIN ATOMIC …; …; END`.
const ROUTINE: u8 = 5;
/// It makes something else; a rule's actions may be `(…; …)`.
const NO_ROUTINE: u8 = 6;
const IN_DEALLOCATE: u8 = 7;
const BEHIND_DEALLOCATE: u8 = 8;
const BEHIND_PREPARE: u8 = 9;
const BEHIND_NAME: u8 = 10;

/// Stands for the hash of a name: all of them.
pub const ALL_NAMES: u64 = 0;

const WORD_BASIS: u32 = 0x811c_9dc5;

/// FNV-1a, 32 bits.
const fn push_word(hash: u32, byte: u8) -> u32 {
    (hash ^ byte as u32).wrapping_mul(0x0100_0193)
}

const fn word(text: &[u8]) -> u32 {
    let mut hash = WORD_BASIS;
    let mut at = 0;
    while at < text.len() {
        hash = push_word(hash, text[at]);
        at += 1;
    }
    hash
}

const W_CREATE: u32 = word(b"create");
const W_OR: u32 = word(b"or");
const W_REPLACE: u32 = word(b"replace");
const W_FUNCTION: u32 = word(b"function");
const W_PROCEDURE: u32 = word(b"procedure");
const W_BEGIN: u32 = word(b"begin");
const W_ATOMIC: u32 = word(b"atomic");
const W_CASE: u32 = word(b"case");
const W_END: u32 = word(b"end");
const W_DEALLOCATE: u32 = word(b"deallocate");
const W_PREPARE: u32 = word(b"prepare");
const W_ALL: u32 = word(b"all");

/// Whether a state is one in a word.
#[inline(always)]
const fn is_word(state: u8) -> bool {
    matches!(state, WORD..=WORD_DE)
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
        Self {
            hash: OFFSET_BASIS,
            name: 0,
            tag: 0,
            word: 0,
            state: START as u16 * CLASSES as u16,
            keep: 0,
            special: 0,
            comments: 0,
            parentheses: 0,
            begins: 0,
        }
    }

    #[inline(always)]
    fn index(&self, byte: u8) -> usize {
        // The mask proves to the verifier that a state which came from a map is within the tables. Of a sum the compiler leaves
        // it where it is; it would draw it into an `|`, whose bounds Linux 6.1 does not know.
        self.state.wrapping_add(CLASS[byte as usize] as u16) as usize & (STATES * CLASSES - 1)
    }

    /// Takes the next byte if that is all there is to do; false if it must go through [`take`](Self::take).
    #[inline(always)]
    pub fn push(&mut self, byte: u8) -> bool {
        let at = self.index(byte);
        let emit = EMIT[at];
        if emit >> ACTION != 0 {
            return false;
        }
        self.state = NEXT[at];
        self.hash(emit, byte);
        true
    }

    #[inline(always)]
    fn hash(&mut self, emit: u16, byte: u8) {
        let emit = emit | self.keep;
        if emit != SKIP {
            // A mark without KEEP hides the byte.
            let seen = (emit & !KEEP) | (emit & byte as u16);
            self.hash = (self.hash ^ seen as u64).wrapping_mul(PRIME);
        }
    }

    /// Whether each byte must go through [`take`](Self::take).
    #[inline(always)]
    pub fn is_careful(&self) -> bool {
        self.special != 0
    }

    /// Takes the next byte, whatever it is.
    #[inline(never)]
    pub fn take(&mut self, byte: u8) -> Taken {
        let at = self.index(byte);
        let (before, emit) = ((self.state / CLASSES as u16) as u8, EMIT[at]);
        if emit == BLANK {
            return Taken::Blank;
        }
        if emit == SEMICOLON && self.special != 0 && is_word(before) {
            self.end_word();
        }
        if emit == SEMICOLON && !self.is_nested() {
            return if before == START { Taken::Blank } else { Taken::Semicolon };
        }
        self.state = NEXT[at];
        self.act(emit, byte);
        self.hash(emit, byte);
        if self.special != 0 {
            self.follow(before, byte);
        }
        // Comments before a statement are none of its text.
        if self.state == START as u16 { Taken::Blank } else { Taken::Text }
    }

    /// Whether a semicolon belongs to the statement.
    #[inline(always)]
    fn is_nested(&self) -> bool {
        self.special < IN_DEALLOCATE && (self.parentheses != 0 || self.begins != 0)
    }

    #[inline(always)]
    fn act(&mut self, emit: u16, byte: u8) {
        if emit & MARK_VERBATIM == MARK_VERBATIM {
            self.keep = KEEP;
        }
        match emit {
            SEMICOLON => self.go(OTHER),
            CREATE => {
                self.special = IN_CREATE;
                self.word = push_word(WORD_BASIS, b'c');
            }
            DEALLOCATE => {
                self.special = IN_DEALLOCATE;
                self.word = push_word(push_word(WORD_BASIS, b'd'), b'e');
            }
            LINE_BEGINS => self.comments = 0,
            LEAD_LINE_BEGINS => self.comments = LEADING,
            BLOCK_BEGINS => self.comments = 1,
            LEAD_BLOCK_BEGINS => self.comments = LEADING | 1,
            BLOCK_DEEPER if self.comments | LEADING == u8::MAX => self.go(LOST),
            BLOCK_DEEPER => self.comments += 1,
            BLOCK_ENDS | LINE_ENDS => {
                if self.comments & !LEADING > 1 {
                    self.comments -= 1;
                    self.go(BLOCK);
                } else if self.comments & LEADING != 0 {
                    self.go(START);
                }
            }
            TAG_BEGINS if byte == b'$' => self.tag = WORD_BASIS,
            TAG_BEGINS => self.tag = push_word(WORD_BASIS, byte),
            TAG_GOES_ON => self.tag = push_word(self.tag, byte),
            END_BEGINS => self.word = WORD_BASIS,
            END_GOES_ON => self.word = push_word(self.word, byte),
            END_ENDS if self.word == self.tag => self.go(OTHER),
            END_ENDS => self.word = WORD_BASIS,
            _ => {}
        }
    }

    #[inline(always)]
    fn go(&mut self, state: u8) {
        self.state = state as u16 * CLASSES as u16;
    }

    /// Follows a statement that begins with CREATE, much as `psql` does (PostgreSQL 15, `src/fe_utils/psqlscan.l`): within it
    /// a semicolon may stand in parentheses or in the body of a routine. And one that begins with DEALLOCATE, to its name.
    #[inline(always)]
    fn follow(&mut self, before: u8, byte: u8) {
        let now = (self.state / CLASSES as u16) as u8;
        if is_word(now) {
            if !is_word(before) {
                self.word = WORD_BASIS;
                self.begin_name();
            }
            let byte = byte.to_ascii_lowercase();
            self.word = push_word(self.word, byte);
            self.push_name(byte);
            return;
        }
        if is_word(before) {
            self.end_word();
        }
        if self.special >= BEHIND_DEALLOCATE {
            self.follow_quoted_name(before, now, byte);
        } else if !matches!(now, STRING..=QUOTED | LINE..=BODY_TAG) {
            match byte {
                b'(' => self.parentheses = self.parentheses.saturating_add(1),
                b')' => self.parentheses = self.parentheses.saturating_sub(1),
                _ => {}
            }
        }
    }

    #[inline(always)]
    fn end_word(&mut self) {
        let word = self.word;
        // It ends but once, also where a semicolon stands behind it.
        self.word = 0;
        let before = core::mem::replace(&mut self.tag, word);
        match self.special {
            IN_CREATE => self.special = if word == W_CREATE { BEHIND_CREATE } else { 0 },
            BEHIND_CREATE if word == W_OR => self.special = BEHIND_OR,
            BEHIND_OR if word == W_REPLACE => self.special = BEHIND_REPLACE,
            BEHIND_CREATE | BEHIND_REPLACE if word == W_FUNCTION || word == W_PROCEDURE => self.special = ROUTINE,
            ROUTINE if self.parentheses > 0 => {}
            ROUTINE if word == W_ATOMIC && before == W_BEGIN => self.begins = 1,
            ROUTINE if word == W_CASE && self.begins > 0 => self.begins = self.begins.saturating_add(1),
            ROUTINE if word == W_END => self.begins = self.begins.saturating_sub(1),
            ROUTINE => {}
            IN_DEALLOCATE => self.special = if word == W_DEALLOCATE { BEHIND_DEALLOCATE } else { 0 },
            BEHIND_DEALLOCATE if word == W_PREPARE => self.special = BEHIND_PREPARE,
            BEHIND_DEALLOCATE | BEHIND_PREPARE if word == W_ALL => {
                self.name = ALL_NAMES;
                self.special = BEHIND_NAME;
            }
            BEHIND_DEALLOCATE.. => self.special = BEHIND_NAME,
            _ => self.special = NO_ROUTINE,
        }
    }

    #[inline(always)]
    fn begin_name(&mut self) {
        self.name = hash_name(b"");
        if self.special >= BEHIND_DEALLOCATE {
            self.parentheses = 0;
        }
    }

    #[inline(always)]
    fn push_name(&mut self, byte: u8) {
        self.name = push_hash(self.name, byte);
        if self.special >= BEHIND_DEALLOCATE {
            self.parentheses = self.parentheses.saturating_add(1);
        }
    }

    /// A quoted name; a doubled quote within it is one.
    #[inline(always)]
    fn follow_quoted_name(&mut self, before: u8, now: u8, byte: u8) {
        match (before == QUOTED, now == QUOTED) {
            (false, true) if self.special == BEHIND_NAME => self.push_name(byte),
            (false, true) => {
                self.begin_name();
                self.special = BEHIND_NAME;
            }
            (true, true) => self.push_name(byte),
            _ => {}
        }
    }

    /// The name that a statement frees, if it is DEALLOCATE with a name that was read in full; or [`ALL_NAMES`].
    #[inline(never)]
    pub fn freed(&self) -> Option<u64> {
        let word = self.word;
        let named = match self.special {
            BEHIND_DEALLOCATE | BEHIND_PREPARE if !is_word((self.state / CLASSES as u16) as u8) => false,
            BEHIND_DEALLOCATE | BEHIND_PREPARE if word == W_ALL => return Some(ALL_NAMES),
            BEHIND_DEALLOCATE => word != W_PREPARE,
            BEHIND_PREPARE | BEHIND_NAME => true,
            _ => false,
        };
        // The server cuts names at NAMEDATALEN.
        if named && (self.parentheses as usize) < NAME_LEN { Some(self.name) } else { None }
    }

    /// Whether nothing but white space and comments was pushed.
    #[inline(always)]
    pub fn is_blank(&self) -> bool {
        let state = (self.state / CLASSES as u16) as u8;
        state == START || (LINE..=BLOCK_SLASH).contains(&state) && self.comments & LEADING != 0
    }

    /// The shape of all that was pushed; never 0, so that 0 can say "none".
    #[inline(always)]
    pub fn finish(&self) -> u64 {
        if self.hash == 0 { 1 } else { self.hash }
    }
}

#[cfg(test)]
mod tests;
