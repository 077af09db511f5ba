//! SQL text from the wire, made safe and recognisable before anything else sees it: literals and comments go, what
//! remains is shown, fingerprinted and summarised. Knows nothing of connections, times or the protocol.
//!
//! The lexer is ours, because it has to read bytes of any encoding that were cut anywhere, and to hide when in doubt:
//! - `sqlparser` wants UTF-8 and gives up on a text whose last literal is cut;
//! - `squawk_lexer` goes on there, but wants UTF-8 as well, and as looked at ended `E'a\'b'` at its second quote;
//! - `pg_query` is Postgres' own parser, built from C; it refuses a cut or wrong statement, and those are seen too.

mod fingerprint;
mod fold;
mod lexer;
mod sanitise;
#[cfg(test)]
mod secrecy_tests;
#[cfg(test)]
mod shape_tests;
mod summary;
#[cfg(test)]
mod tests;

pub use fingerprint::Fingerprint;
pub use summary::Operation;

/// What may be known of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The statement on one line, without literals and comments, of at most 4 KiB; `…` at the end if it goes on.
    pub text: String,
    /// By which it is recognised.
    pub fingerprint: Fingerprint,
    /// What it does. Of several in one text: the first that is more than transaction control or a setting.
    pub operation: Operation,
    /// The table that the operation is done to, or else the first that is named; with its schema if that is given.
    pub table: Option<String>,
    /// Operations and tables in their order, as OpenTelemetry's `db.query.summary`: `INSERT archive SELECT users`.
    /// At most 255 bytes, cut between names.
    pub summary: String,
}

/// Reads one SQL text, as a Query or Parse message holds it, without its closing zero. `truncated` says that the text
/// goes on beyond `bytes`; its fingerprint is then another than that of the same statement seen whole.
///
/// Takes time and memory in proportion to the text.
pub fn statement(bytes: &[u8], truncated: bool) -> Statement {
    let pieces = fold::fold(bytes, truncated);
    let summary = summary::summarise(&pieces);
    Statement {
        text: sanitise::text(&pieces),
        fingerprint: fingerprint::fingerprint(&pieces),
        operation: summary.operation,
        table: summary.table,
        summary: summary.text,
    }
}
