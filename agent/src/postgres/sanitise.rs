//! The text of a statement that may be shown: one line, lower case, without literals, of bounded length. Knows how to
//! write pieces, not what they mean.

use super::fold::{Part, Piece};

/// Longest sanitised text; the rest is cut.
pub(super) const MAX_TEXT_BYTES: usize = 4096;

/// What stands for the rest of a text that was cut, on the wire or here.
pub(super) const CUT: &str = "…";

/// A parameter number has at most this many bytes with its `$`: the protocol has 65535 of them. What is longer may be
/// anything.
const MAX_PARAMETER_BYTES: usize = 6;

/// Writes a statement.
pub(super) fn text(pieces: &[Piece]) -> String {
    let mut out = String::new();
    let mut before = None;
    for piece in pieces {
        let written = match piece.part {
            _ if piece.doubtful => CUT.into(),
            Part::Word => lossy(piece.text).to_ascii_lowercase(),
            Part::Quoted | Part::Symbol => lossy(piece.text),
            Part::Parameter if piece.text.len() <= MAX_PARAMETER_BYTES => lossy(piece.text),
            Part::Parameter | Part::Literal => "?".into(),
            Part::Cut => CUT.into(),
        };
        if before.is_some_and(|before| is_apart(before, piece)) {
            out.push(' ');
        }
        if out.len() + written.len() + 1 + CUT.len() > MAX_TEXT_BYTES {
            out.push_str(CUT);
            break;
        }
        out.push_str(&written);
        if piece.doubtful {
            break;
        }
        before = Some(piece);
    }
    out
}

/// The bytes as UTF-8 on one line. What is neither is replaced, so that no terminal acts on it.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char })
        .collect()
}

/// Whether a space belongs between two pieces.
fn is_apart(before: &Piece, piece: &Piece) -> bool {
    let is_one = |piece: &Piece, symbols: &[&str]| symbols.iter().any(|symbol| piece.is_symbol(symbol));
    let is_name = matches!(before.part, Part::Word | Part::Quoted);
    if is_one(before, &["(", "[", ".", "::"]) || is_one(piece, &[")", "]", ",", ";", ".", "::"]) {
        return false;
    }
    if piece.is_symbol("[") {
        return !is_name && !is_one(before, &[")", "]"]) && !before.is_value();
    }
    // A function's name or a table's: as it was written.
    if piece.is_symbol("(") && is_name && !before.is_any(BEFORE_PARENTHESIS) {
        return piece.spaced;
    }
    true
}

/// Keywords that are no functions.
const BEFORE_PARENTHESIS: &[&str] = &[
    "all",
    "and",
    "any",
    "as",
    "by",
    "case",
    "distinct",
    "else",
    "except",
    "exists",
    "from",
    "having",
    "in",
    "intersect",
    "into",
    "is",
    "join",
    "lateral",
    "limit",
    "not",
    "offset",
    "on",
    "or",
    "over",
    "return",
    "returning",
    "select",
    "set",
    "some",
    "then",
    "union",
    "using",
    "values",
    "when",
    "where",
    "with",
];
