//! Where one token of a statement ends and the next begins, by Postgres' own lexical rules (manual, section 4.1, and
//! `src/backend/parser/scan.l`). Knows nothing of grammar or of what is secret.
//!
//! Text is bytes as they were on the wire: of any encoding, cut anywhere, hostile. Each byte is looked at a bounded
//! number of times. Where the wire does not say how the server reads a text, see [`Token::doubtful`].

/// Operators are shorter than identifiers may be (NAMEDATALEN); a longer run is read in pieces, so that the rule
/// about a trailing sign stays linear.
const MAX_OPERATOR_BYTES: usize = 63;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or an identifier without quotes.
    Word,
    /// An identifier in double quotes, with its quotes (and `U&`).
    Quoted,
    /// A string or bit string of any form, or what a cut left of it or of a quoted identifier.
    String,
    /// A number, and whatever letters are glued to its end.
    Number,
    /// `$1`.
    Parameter,
    /// An operator.
    Operator,
    /// Any other byte, and `::`, `:=`, `..`.
    Punctuation,
}

/// One token of the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub kind: Kind,
    /// Its bytes, quotes included.
    pub text: &'a [u8],
    /// White space or a comment stands before it.
    pub spaced: bool,
    /// The server may have read the text before this token in another way, by which this token is part of a literal:
    /// a backslash before a quote while `standard_conforming_strings` is off, a multi-byte character whose last byte
    /// looks like a backslash, a dollar quote glued to a word. Do not show it.
    pub doubtful: bool,
}

/// How backslashes in a string are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backslash {
    /// As itself: `'…'`, `N'…'`, `U&'…'`, `B'…'`, `X'…'`.
    Plain,
    /// It makes the next byte plain: `E'…'`.
    Escape,
}

/// An iterator over the tokens of a text.
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    truncated: bool,
    /// Bytes above 127 are UTF-8, so that none of them hides a backslash.
    utf8: bool,
    doubtful: bool,
    /// The last token was the word ESCAPE, whose argument `'\'` is one character and not doubtful.
    after_escape: bool,
}

impl<'a> Lexer<'a> {
    /// Reads `text`, of which `truncated` says that it goes on beyond what was seen.
    pub fn new(text: &'a [u8], truncated: bool) -> Self {
        let utf8 = match std::str::from_utf8(text) {
            Ok(_) => true,
            Err(error) => error.error_len().is_none(),
        };
        Self { text, at: 0, truncated, utf8, doubtful: false, after_escape: false }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_while(&mut self, test: impl Fn(u8) -> bool) {
        self.at += self.rest().iter().take_while(|byte| test(**byte)).count();
    }

    /// Skips white space and comments; says whether there were any.
    fn skip_space(&mut self) -> bool {
        let start = self.at;
        loop {
            self.skip_while(is_space);
            match (self.peek(0), self.peek(1)) {
                (Some(b'-'), Some(b'-')) => self.skip_while(|byte| !is_newline(byte)),
                (Some(b'/'), Some(b'*')) => self.skip_block_comment(),
                _ => return self.at > start,
            }
        }
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0usize;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth = depth.saturating_sub(1);
                    self.at += 2;
                    if depth == 0 {
                        return;
                    }
                }
                (Some(_), _) => self.at += 1,
                (None, _) => return,
            }
        }
    }

    /// A string from its opening quote on, with all its continuations on later lines.
    fn string(&mut self, backslash: Backslash) -> Kind {
        let start = self.at;
        self.at += 1;
        // Whether the bytes before this one end in an odd number of backslashes.
        let mut escaped = false;
        while let Some(byte) = self.peek(0) {
            match byte {
                b'\\' if backslash == Backslash::Escape => {
                    let before = self.at.checked_sub(1).and_then(|at| self.text.get(at));
                    self.doubtful |= !self.utf8 && before.is_some_and(|byte| !byte.is_ascii());
                    self.at += 2;
                }
                b'\'' => {
                    self.doubtful |= escaped && !(self.after_escape && self.at == start + 2);
                    escaped = false;
                    if self.peek(1) == Some(b'\'') {
                        self.at += 2;
                        continue;
                    }
                    self.at += 1;
                    if !self.continues() {
                        break;
                    }
                }
                _ => {
                    escaped = byte == b'\\' && !escaped;
                    self.at += 1;
                }
            }
        }
        self.at = self.at.min(self.text.len());
        Kind::String
    }

    /// Steps over white space with a line break and the quote behind it, if that is what follows: the string goes on.
    fn continues(&mut self) -> bool {
        let end = self.at;
        let mut broken = false;
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(byte), _) if is_space(byte) => {
                    broken |= is_newline(byte);
                    self.at += 1;
                }
                (Some(b'-'), Some(b'-')) => self.skip_while(|byte| !is_newline(byte)),
                (Some(b'\''), _) if broken => {
                    self.at += 1;
                    return true;
                }
                _ => {
                    self.at = end;
                    return false;
                }
            }
        }
    }

    /// An identifier from its opening double quote on. One that does not end may be anything.
    fn quoted(&mut self) -> Kind {
        self.at += 1;
        loop {
            self.skip_while(|byte| byte != b'"');
            match (self.peek(0), self.peek(1)) {
                (Some(_), Some(b'"')) => self.at += 2,
                (Some(_), _) => {
                    self.at += 1;
                    return Kind::Quoted;
                }
                (None, _) => return Kind::String,
            }
        }
    }

    /// A parameter, a dollar-quoted string, or a stray `$`.
    fn dollar(&mut self) -> Kind {
        if self.peek(1).is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
            self.skip_while(|byte| byte.is_ascii_digit());
            return Kind::Parameter;
        }
        let start = self.at;
        self.at += 1;
        if self.peek(0).is_some_and(is_word_start) {
            self.skip_while(|byte| is_word(byte) && byte != b'$');
        }
        match self.peek(0) {
            Some(b'$') => self.at += 1,
            // The cut may have gone through the opening tag.
            None if self.truncated => return Kind::String,
            _ => {
                self.at = start + 1;
                return Kind::Punctuation;
            }
        }
        let delimiter = self.text.get(start..self.at).unwrap_or_default();
        // A delimiter has `$` only at its ends, so the comparisons never overlap by more than that byte.
        loop {
            self.skip_while(|byte| byte != b'$');
            if self.rest().starts_with(delimiter) {
                self.at += delimiter.len();
                return Kind::String;
            }
            if self.peek(0).is_none() {
                return Kind::String;
            }
            self.at += 1;
        }
    }

    /// A number. Letters glued to it belong to it (`0x1F`, `1_000`, and junk, which later servers refuse and earlier
    /// ones took for a word), but for the prefix of a string.
    fn number(&mut self) -> Kind {
        let digit = |byte: u8| byte.is_ascii_digit() || byte == b'_';
        self.skip_while(digit);
        if self.peek(0) == Some(b'.') && self.peek(1) != Some(b'.') {
            self.at += 1;
            self.skip_while(digit);
        }
        if let (Some(b'e' | b'E'), Some(b'+' | b'-'), Some(b'0'..=b'9')) = (self.peek(0), self.peek(1), self.peek(2)) {
            self.at += 2;
            self.skip_while(digit);
        }
        if self.peek(0).is_some_and(is_word_start) && self.prefix().is_none() {
            self.skip_while(is_word);
        }
        Kind::Number
    }

    /// The prefix of a string or quoted identifier that starts here: its length, how to read on.
    fn prefix(&self) -> Option<(usize, Prefix)> {
        let first = self.peek(0)?.to_ascii_lowercase();
        match (first, self.peek(1)?, self.peek(2)) {
            (b'e', b'\'', _) => Some((1, Prefix::String(Backslash::Escape))),
            (b'b' | b'x' | b'n', b'\'', _) => Some((1, Prefix::String(Backslash::Plain))),
            (b'u', b'&', Some(b'\'')) => Some((2, Prefix::String(Backslash::Plain))),
            (b'u', b'&', Some(b'"')) => Some((2, Prefix::Quoted)),
            _ => None,
        }
    }

    /// A word, or the string or quoted identifier whose prefix it is.
    fn word(&mut self) -> Kind {
        if let Some((len, prefix)) = self.prefix() {
            self.at += len;
            return match prefix {
                Prefix::String(backslash) => self.string(backslash),
                Prefix::Quoted => self.quoted(),
            };
        }
        let start = self.at;
        self.skip_while(is_word);
        let dollars = self.text.get(start..self.at).unwrap_or_default().iter().filter(|byte| **byte == b'$').count();
        self.doubtful |= dollars > 1;
        Kind::Word
    }

    /// An operator: the longest run that no comment starts in, less its trailing signs unless one of `~!@#^&|`?%`
    /// stands before them.
    fn operator(&mut self) -> Kind {
        let rest = self.rest();
        let comment =
            |at: usize| matches!((rest.get(at), rest.get(at + 1)), (Some(b'-'), Some(b'-')) | (Some(b'/'), Some(b'*')));
        let mut len = 1;
        while len < MAX_OPERATOR_BYTES && rest.get(len).copied().is_some_and(is_operator) && !comment(len) {
            len += 1;
        }
        let run = rest.get(..len).unwrap_or_default();
        if !run.iter().rev().skip(1).any(|byte| b"~!@#^&|`?%".contains(byte)) {
            let signs = run.iter().rev().take_while(|byte| b"+-".contains(byte)).count();
            len = (len - signs).max(1);
        }
        self.at += len;
        Kind::Operator
    }
}

/// What follows a prefix.
enum Prefix {
    String(Backslash),
    Quoted,
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let spaced = self.skip_space();
        let (start, doubtful) = (self.at, self.doubtful);
        let kind = match (self.peek(0)?, self.peek(1)) {
            (b'\'', _) => self.string(Backslash::Plain),
            (b'"', _) => self.quoted(),
            (b'$', _) => self.dollar(),
            (b'0'..=b'9', _) | (b'.', Some(b'0'..=b'9')) => self.number(),
            (b'.', Some(b'.')) | (b':', Some(b':' | b'=')) => {
                self.at += 2;
                Kind::Punctuation
            }
            (byte, _) if is_word_start(byte) => self.word(),
            (byte, _) if is_operator(byte) => self.operator(),
            _ => {
                self.at += 1;
                Kind::Punctuation
            }
        };
        let text = self.text.get(start..self.at).unwrap_or_default();
        self.after_escape = kind == Kind::Word && text.eq_ignore_ascii_case(b"escape");
        Some(Token { kind, text, spaced, doubtful })
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

fn is_word(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn is_operator(byte: u8) -> bool {
    b"~!@#^&|`?+-*/%<>=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<(Kind, &str)> {
        Lexer::new(text.as_bytes(), false).map(|token| (token.kind, std::str::from_utf8(token.text).unwrap())).collect()
    }

    #[test]
    fn every_form_of_string_is_one_token() {
        for text in [
            "'a''b'",
            "'a\\b'",
            "E'a\\'b'",
            "e'a\\\\'",
            "U&'d\\0061'",
            "u&'x'",
            "B'01'",
            "X'1F'",
            "n'x'",
            "$$a'b$$",
            "$x$a$$b$y$c$x$",
            "$_é1$a$_é1$",
            "'a'\n'b'",
            "'a' -- c\n  'b'",
            "E'a'\n'b\\'c'",
            "'a'\r\n\t'b'",
            "''",
            "''''",
            "E'\\\\'\n'\\''",
            "'open",
            "$a$open$a",
            "E'open\\",
            "\"open",
        ] {
            assert_eq!(tokens(text), [(Kind::String, text)], "{text}");
        }
    }

    #[test]
    fn every_form_of_number_is_one_token_and_a_digit_in_a_word_is_none() {
        for text in
            ["1", "1.", ".5", "1.5", "1e5", "1E+5", "1.5e-3", "0x1F", "0b01", "0o17", "1_000", "1_000.5_0", "1abc"]
        {
            assert_eq!(tokens(text), [(Kind::Number, text)], "{text}");
        }
        for text in ["t1", "col_2", "a1e5", "é1", "_1", "a$1"] {
            assert_eq!(tokens(text), [(Kind::Word, text)], "{text}");
        }
        assert_eq!(tokens("1..10"), [(Kind::Number, "1"), (Kind::Punctuation, ".."), (Kind::Number, "10")]);
        assert_eq!(tokens("1E'\\''"), [(Kind::Number, "1"), (Kind::String, "E'\\''")]);
        assert_eq!(tokens("1$$x$$"), [(Kind::Number, "1"), (Kind::String, "$$x$$")]);
        assert_eq!(tokens("$1$$x$$"), [(Kind::Parameter, "$1"), (Kind::String, "$$x$$")]);
    }

    #[test]
    fn operators_end_before_comments_and_signs() {
        let operators = |text| tokens(text).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        assert_eq!(operators("a=-1"), ["a", "=", "-", "1"]);
        assert_eq!(operators("a@-1"), ["a", "@-", "1"]);
        assert_eq!(operators("a<>--x\n1"), ["a", "<>", "1"]);
        assert_eq!(operators("a+/*x*/1"), ["a", "+", "1"]);
        assert_eq!(operators("a->>'b'"), ["a", "->>", "'b'"]);
        assert_eq!(operators("a::int[]"), ["a", "::", "int", "[", "]"]);
        assert_eq!(operators("a +- 1"), ["a", "+", "-", "1"]);
    }

    #[test]
    fn comments_nest_and_separate() {
        for text in ["a/* /* ' */ \" */b", "a--'\nb", "a/**/b", "a/***/b", "a /*/ */ b", "a--\rb"] {
            assert_eq!(tokens(text), [(Kind::Word, "a"), (Kind::Word, "b")], "{text}");
        }
        assert_eq!(tokens("a/* /* */ b"), [(Kind::Word, "a")]);
    }

    #[test]
    fn a_text_that_the_server_may_read_in_another_way_is_doubtful_from_there_on() {
        let doubtful = |text: &[u8]| Lexer::new(text, false).last().is_some_and(|token| token.doubtful);
        for text in [&b"'it\\'s x'"[..], b"'a\\'', 'b'", b"E'\x95\\', 'x'", b"do$$ x $$"] {
            assert!(doubtful(text), "{}", text.escape_ascii());
        }
        for text in [&b"like 'a' escape '\\' and b"[..], b"'a\\b' x", b"'a\\\\' x", "E'é\\'' x".as_bytes(), b"v$x y"] {
            assert!(!doubtful(text), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn time_is_linear_in_the_text() {
        for piece in
            ["'", "$", "$a", "$a$b", "+-", "/*", "*/", "--\n", "'\n", "E'\\", "\"", "1e", "u&", "((", "in (1,", "- "]
        {
            let text = piece.repeat(1 << 15);
            let started = std::time::Instant::now();
            let count = Lexer::new(text.as_bytes(), true).count();
            assert!(started.elapsed().as_secs() < 5, "{piece}: {count} tokens");
        }
    }
}
