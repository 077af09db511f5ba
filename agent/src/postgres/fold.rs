//! From tokens to what remains of a statement when its literals are gone: comments dropped, each literal one mark,
//! lists of literals and rows folded to one. Text and fingerprint are both made from this. Knows as much grammar as
//! that needs, and no tables.

use super::lexer::{Kind, Lexer, Token};

/// Lists nested deeper than this are kept as they are, so that folding stays linear.
const MAX_DEPTH: usize = 64;

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A keyword or identifier, in whatever case it was written.
    Word,
    /// An identifier in double quotes.
    Quoted,
    /// A literal; its bytes are not carried on.
    Literal,
    /// A parameter, which stands where a literal could.
    Parameter,
    /// Operators and punctuation.
    Symbol,
    /// The text was cut here.
    Cut,
}

/// One piece of a folded statement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub part: Part,
    pub text: &'a [u8],
    /// See [`Token::spaced`].
    pub spaced: bool,
    /// See [`Token::doubtful`].
    pub doubtful: bool,
}

impl Piece<'_> {
    /// Whether this is the given keyword, written in lower case.
    pub fn is(&self, word: &str) -> bool {
        self.part == Part::Word && self.text.eq_ignore_ascii_case(word.as_bytes())
    }

    /// Whether this is one of the given keywords, written in lower case.
    pub fn is_any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(word))
    }

    /// Whether this is the given operator or punctuation.
    pub fn is_symbol(&self, symbol: &str) -> bool {
        self.part == Part::Symbol && self.text == symbol.as_bytes()
    }

    /// A literal or what stands for one.
    pub fn is_value(&self) -> bool {
        matches!(self.part, Part::Literal | Part::Parameter)
    }

    fn same(&self, other: &Piece) -> bool {
        (self.is_value() && other.is_value())
            || (self.part == other.part
                && match self.part {
                    Part::Word => self.text.eq_ignore_ascii_case(other.text),
                    _ => self.text == other.text,
                })
    }
}

/// The pieces of a text; see [`Lexer::new`] for `truncated`.
pub(super) fn fold(text: &[u8], truncated: bool) -> Vec<Piece<'_>> {
    let mut folder = Folder::default();
    for token in Lexer::new(text, truncated) {
        folder.token(token);
    }
    folder.finish(truncated)
}

/// An open parenthesis or bracket, or the rows behind VALUES.
#[derive(Clone, Copy, Default)]
struct Frame {
    /// Elements that repeat the one before are dropped.
    folds: bool,
    /// Not a parenthesis but the list of rows behind VALUES.
    rows: bool,
    /// Where the current element starts.
    element: usize,
    /// Where the last element that was kept starts and ends.
    kept: Option<(usize, usize)>,
}

/// Where unquoted words are values that may be secret.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Setting {
    #[default]
    None,
    /// After SET, in the name of the setting; whether there was a name yet.
    Name(bool),
    /// After `=` or TO.
    Value,
}

#[derive(Default)]
struct Folder<'a> {
    out: Vec<Piece<'a>>,
    frames: Vec<Frame>,
    /// Open parentheses beyond [`MAX_DEPTH`].
    deeper: usize,
    /// The first two words of the statement.
    verb: Option<Piece<'a>>,
    object: Option<Piece<'a>>,
    setting: Setting,
    /// A COPY FROM STDIN was seen: what follows its semicolon in the same text may be the data.
    copies: bool,
    hides_rest: bool,
}

impl<'a> Folder<'a> {
    fn last(&self) -> Option<&Piece<'a>> {
        self.out.last()
    }

    fn last_is(&self, test: impl Fn(&Piece<'a>) -> bool) -> bool {
        self.last().is_some_and(test)
    }

    fn token(&mut self, token: Token<'a>) {
        let part = match token.kind {
            Kind::Word => Part::Word,
            Kind::Quoted => Part::Quoted,
            Kind::String | Kind::Number => Part::Literal,
            Kind::Parameter => Part::Parameter,
            Kind::Operator | Kind::Punctuation => Part::Symbol,
        };
        let mut piece = Piece { part, text: token.text, spaced: token.spaced, doubtful: token.doubtful };
        let hidden = self.is_hidden(&piece);
        self.context(&piece);
        if hidden {
            piece.part = Part::Literal;
        }
        if piece.part == Part::Literal {
            if token.kind == Kind::Number {
                self.take_sign();
            }
            piece.text = b"";
            // `'a' 'b'` is one string if a line break stands between, and no SQL otherwise.
            if self.last_is(|last| last.part == Part::Literal) {
                return;
            }
            if self.setting == Setting::Value
                && self.last_is(|last| last.is_symbol(","))
                && self.out.iter().rev().nth(1).is_some_and(Piece::is_value)
            {
                self.out.pop();
                return;
            }
        }
        self.structure(piece);
    }

    /// Follows the beginning of each statement as far as hiding its values needs.
    fn context(&mut self, piece: &Piece<'a>) {
        if piece.is_symbol(";") {
            self.hides_rest |= self.copies;
            (self.verb, self.object, self.setting) = (None, None, Setting::None);
            return;
        }
        if self.verb.is_none() {
            self.verb = Some(*piece);
        } else if self.object.is_none() {
            self.object = Some(*piece);
        }
        self.copies |= piece.is("stdin") && self.verb_is(&["copy"]) && self.last_is(|last| last.is("from"));
        self.setting = match self.setting {
            Setting::None if piece.is("set") && self.verb_is(&["set", "alter"]) => Setting::Name(false),
            Setting::Name(true) if piece.is_symbol("=") || piece.is("to") => Setting::Value,
            Setting::Name(_) if matches!(piece.part, Part::Word | Part::Quoted) => Setting::Name(true),
            Setting::Name(true) if piece.is_symbol(".") => Setting::Name(true),
            Setting::Name(_) => Setting::None,
            setting => setting,
        };
    }

    fn verb_is(&self, words: &[&str]) -> bool {
        self.verb.is_some_and(|verb| verb.is_any(words))
    }

    /// Whether a word is a value here: of a setting, of PASSWORD (which wants a string, but people forget the quotes),
    /// or TRUE, FALSE and NULL where an expression begins.
    fn is_hidden(&self, piece: &Piece) -> bool {
        if self.hides_rest {
            return true;
        }
        if !matches!(piece.part, Part::Word | Part::Quoted) {
            return false;
        }
        if self.setting == Setting::Value {
            return !piece.is("default");
        }
        let role = self.verb_is(&["create", "alter"])
            && self.object.is_some_and(|object| object.is_any(&["role", "user", "group"]));
        if role && self.last_is(|last| last.is("password")) && !piece.is("null") {
            return true;
        }
        piece.is_any(&["true", "false", "null"])
            && self.last_is(|last| {
                (last.part == Part::Symbol && !last.text.iter().any(|byte| b").;:]".contains(byte)))
                    || last.is_any(&["select", "then", "else", "returning"])
            })
    }

    /// Drops a sign that belongs to the number which follows: one that stands where no operand has ended.
    fn take_sign(&mut self) {
        let mut back = self.out.iter().rev();
        let sign = back.next().is_some_and(|last| last.is_symbol("-") || last.is_symbol("+"));
        let operand = back.next().is_some_and(|before| match before.part {
            Part::Word => !before.is_any(BEFORE_EXPRESSION),
            Part::Symbol => before.is_symbol(")") || before.is_symbol("]"),
            _ => true,
        });
        if sign && !operand {
            self.out.pop();
        }
    }

    /// Adds a piece, and folds the lists that it ends an element of.
    fn structure(&mut self, piece: Piece<'a>) {
        let comma = piece.is_symbol(",");
        let opens = piece.is_symbol("(") || piece.is_symbol("[");
        let closes = piece.is_symbol(")") || piece.is_symbol("]");
        if let Some(frame) = self.frames.last().copied().filter(|frame| frame.rows) {
            let first = self.out.len() == frame.element;
            let between_rows = comma && self.last_is(|last| last.is_symbol(")"));
            let next_row = piece.is_symbol("(") && (first || self.last_is(|last| last.is_symbol(",")));
            if !between_rows && !next_row {
                self.frames.pop();
            }
        }
        if opens {
            self.open();
        } else if closes && self.deeper > 0 {
            self.deeper -= 1;
        } else if closes {
            self.end_element();
            self.frames.pop();
        } else if comma && self.deeper == 0 && self.frames.last().is_some_and(|frame| !frame.rows) {
            self.end_element();
        } else if piece.is_any(&["select", "with", "table", "values"])
            && let Some(frame) = self.frames.last_mut()
            && frame.element == self.out.len()
        {
            frame.folds = false;
        }
        self.out.push(piece);
        let len = self.out.len();
        if self.deeper > 0 {
            return;
        }
        if let Some(frame) = self.frames.last_mut() {
            if opens || comma {
                frame.element = len;
            }
            if closes && frame.rows {
                self.end_element();
            }
        }
    }

    fn open(&mut self) {
        if self.deeper > 0 || self.frames.len() + 1 >= MAX_DEPTH {
            self.deeper += 1;
            return;
        }
        let at = self.out.len();
        if self.last_is(|last| last.is("values")) {
            self.frames.push(Frame { folds: true, rows: true, element: at, kept: None });
        }
        let nested = self.frames.last().is_some_and(|frame| frame.folds && frame.element == at);
        let listed = self.last_is(|last| last.is_any(&["in", "array"]));
        self.frames.push(Frame { folds: nested || listed, ..Frame::default() });
    }

    /// Drops the element that just ended, and the comma before it, if it repeats the one before.
    fn end_element(&mut self) {
        let len = self.out.len();
        let Some(frame) = self.frames.last_mut().filter(|frame| frame.folds) else { return };
        let element = self.out.get(frame.element..).unwrap_or_default();
        let kept = frame.kept.and_then(|(start, end)| self.out.get(start..end));
        let repeats = kept.is_some_and(|kept| {
            kept.len() == element.len()
                && kept.iter().zip(element).all(|(one, other)| one.same(other))
                && kept.iter().any(|piece| piece.is_value() || piece.is("default"))
        });
        if repeats {
            self.out.truncate(frame.element.saturating_sub(1));
            frame.element = self.out.len();
        } else {
            frame.kept = Some((frame.element, len));
        }
    }

    /// Closes the text. In a list that was cut, the last element is dropped if it could become another of the same:
    /// then a long INSERT has one fingerprint wherever the cut fell.
    fn finish(mut self, truncated: bool) -> Vec<Piece<'a>> {
        while self.last_is(|last| last.is_symbol(";")) {
            self.out.pop();
        }
        if !truncated {
            return self.out;
        }
        for frame in self.frames.iter().rev().filter(|frame| frame.folds) {
            let Some(kept) = frame.kept.and_then(|(start, end)| self.out.get(start..end)) else { continue };
            let element = self.out.get(frame.element..).unwrap_or_default();
            let whole = element.len().saturating_sub(1);
            if whole <= kept.len() && kept.iter().zip(element).take(whole).all(|(one, other)| one.same(other)) {
                let end = frame.kept.map_or(frame.element, |(_, end)| end);
                self.out.truncate(end);
            }
        }
        self.out.push(Piece { part: Part::Cut, text: b"", spaced: true, doubtful: false });
        self.out
    }
}

/// Keywords behind which an expression begins, so that a sign behind them belongs to the number that follows.
const BEFORE_EXPRESSION: &[&str] = &[
    "all",
    "and",
    "any",
    "as",
    "between",
    "by",
    "cache",
    "case",
    "default",
    "distinct",
    "else",
    "escape",
    "from",
    "having",
    "ilike",
    "in",
    "increment",
    "is",
    "like",
    "limit",
    "maxvalue",
    "minvalue",
    "not",
    "offset",
    "on",
    "or",
    "restart",
    "return",
    "returning",
    "select",
    "set",
    "similar",
    "some",
    "start",
    "then",
    "to",
    "using",
    "values",
    "when",
    "where",
    "with",
    "fetch",
    "forward",
    "backward",
    "absolute",
    "relative",
    "move",
    "next",
    "prior",
    "statistics",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parentheses_without_partner_and_without_end_are_survived() {
        for text in
            [")", "))) in (1,2", "values", "values (", "values (1),", "values (1), )", "in (,,,)", "in ()", "[)(]"]
        {
            for truncated in [false, true] {
                fold(text.as_bytes(), truncated);
            }
        }
        for piece in ["(", "in (", "in (1,", "values (", "array[", "((1,1),"] {
            let text = piece.repeat(100_000);
            assert!(!fold(text.as_bytes(), true).is_empty());
        }
    }
}
