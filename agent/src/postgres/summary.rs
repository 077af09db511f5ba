//! What a statement does and to which tables, in few words. Knows as much grammar as that needs: where a verb or a
//! table's name can stand. What it does not understand it leaves out.

use super::fold::{Part, Piece};
use super::sanitise::lossy;

/// Longest summary: the semantic conventions' limit for `db.query.summary`.
const MAX_SUMMARY_BYTES: usize = 255;
/// Longest name of a table with its schema: two identifiers of 63 bytes and a dot (NAMEDATALEN).
const MAX_TABLE_BYTES: usize = 127;
/// More names of common table expressions than this are taken for tables.
const MAX_CTES: usize = 32;
/// Parentheses nested deeper than this are not looked into.
const MAX_DEPTH: usize = 64;

macro_rules! operations {
    ($( $(#[$meta:meta])* $variant:ident $name:literal, )+) => {
        /// What a statement does: the first word of the command, for a bounded label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Operation { $( #[doc = $name] $(#[$meta])* $variant, )+ }

        impl Operation {
            /// Every operation.
            pub const ALL: &[Self] = &[ $( Self::$variant, )+ ];

            /// Its name in upper case.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )+ }
            }
        }
    };
}

operations! {
    /// Also TABLE and VALUES, as the server's command tag has them.
    Select "SELECT",
    Insert "INSERT", Update "UPDATE", Delete "DELETE", Merge "MERGE",
    /// Also START TRANSACTION.
    Begin "BEGIN",
    /// Also END.
    Commit "COMMIT",
    /// Also ABORT.
    Rollback "ROLLBACK",
    Savepoint "SAVEPOINT", Release "RELEASE",
    Prepare "PREPARE", Execute "EXECUTE", Deallocate "DEALLOCATE",
    Declare "DECLARE", Fetch "FETCH", Move "MOVE", Close "CLOSE",
    Copy "COPY", Call "CALL", Do "DO", Explain "EXPLAIN",
    Set "SET", Reset "RESET", Show "SHOW", Discard "DISCARD",
    Listen "LISTEN", Unlisten "UNLISTEN", Notify "NOTIFY",
    Create "CREATE", Alter "ALTER", Drop "DROP", Truncate "TRUNCATE", Comment "COMMENT", Grant "GRANT", Revoke "REVOKE",
    Lock "LOCK", Analyze "ANALYZE", Vacuum "VACUUM", Cluster "CLUSTER", Reindex "REINDEX", Refresh "REFRESH",
    Checkpoint "CHECKPOINT",
    /// Anything else, nothing at all, or a WITH that was cut before its verb.
    Other "OTHER",
}

impl Operation {
    fn of(word: &Piece) -> Self {
        let alias = [("table", Self::Select), ("values", Self::Select), ("start", Self::Begin), ("end", Self::Commit)]
            .into_iter()
            .chain([("abort", Self::Rollback), ("analyse", Self::Analyze)])
            .find_map(|(alias, operation)| word.is(alias).then_some(operation));
        let named = || Self::ALL.iter().find(|it| **it != Self::Other && word.is(it.name())).copied();
        alias.or_else(named).unwrap_or(Self::Other)
    }

    /// Frames other statements rather than doing something itself.
    fn is_frame(self) -> bool {
        use Operation::*;
        matches!(self, Begin | Commit | Rollback | Savepoint | Release | Set | Reset | Show | Discard | Other)
    }

    /// Its table follows the verb, not FROM or INTO.
    fn is_direct(self) -> bool {
        use Operation::*;
        matches!(self, Update | Copy | Truncate | Lock | Analyze | Vacuum | Cluster | Refresh)
    }
}

/// See [`Statement`](super::Statement).
pub(super) struct Summary {
    pub operation: Operation,
    pub table: Option<String>,
    pub text: String,
}

/// Summarises all statements of a text, as far as it can be shown.
pub(super) fn summarise(pieces: &[Piece]) -> Summary {
    let shown = pieces.iter().position(|piece| piece.doubtful || piece.part == Part::Cut).unwrap_or(pieces.len());
    let shown = pieces.get(..shown).unwrap_or_default();
    let mut writer = Writer::default();
    let mut best: Option<(Operation, Option<String>)> = None;
    for statement in shown.split(|piece| piece.is_symbol(";")).filter(|pieces| !pieces.is_empty()) {
        let mut reader = Reader::new(statement, &mut writer);
        reader.read();
        let found = (reader.operation, reader.main.or(reader.first));
        match &best {
            Some((operation, _)) if !operation.is_frame() || found.0.is_frame() => {}
            _ => best = Some(found),
        }
    }
    let (operation, table) = best.unwrap_or((Operation::Other, None));
    Summary { operation, table, text: writer.text }
}

/// Adds names as long as they fit.
#[derive(Default)]
struct Writer {
    text: String,
    full: bool,
}

impl Writer {
    fn add(&mut self, name: &str) {
        self.full |= self.text.len() + 1 + name.len() > MAX_SUMMARY_BYTES;
        if self.full {
            return;
        }
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(name);
    }
}

/// What is known at one depth of parentheses.
#[derive(Clone, Copy, Default)]
struct Scope {
    /// A verb was read at this depth, so FROM and JOIN name tables; in `extract(day from x)` they do not.
    query: bool,
    /// A comma is followed by another table.
    list: bool,
    /// In the list of WITH.
    with: bool,
}

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Anything,
    /// A table, or a function if a parenthesis follows, or a subquery.
    Source,
    /// A table, behind which a parenthesis holds its columns.
    Target,
}

struct Reader<'p, 'a, 'w> {
    pieces: &'p [Piece<'a>],
    writer: &'w mut Writer,
    operation: Operation,
    /// The verb was read; in WITH it comes late.
    has_verb: bool,
    scopes: Vec<Scope>,
    depth: usize,
    /// The depth that the statement's own verb stands at.
    base: usize,
    expect: Expect,
    ctes: Vec<String>,
    main: Option<String>,
    first: Option<String>,
}

impl<'p, 'a, 'w> Reader<'p, 'a, 'w> {
    fn new(pieces: &'p [Piece<'a>], writer: &'w mut Writer) -> Self {
        Self {
            pieces,
            writer,
            operation: Operation::Other,
            has_verb: false,
            scopes: vec![Scope::default()],
            depth: 0,
            base: 0,
            expect: Expect::Anything,
            ctes: Vec::new(),
            main: None,
            first: None,
        }
    }

    fn at(&self, index: usize) -> Option<&'p Piece<'a>> {
        self.pieces.get(index)
    }

    fn is(&self, index: usize, word: &str) -> bool {
        self.at(index).is_some_and(|piece| piece.is(word))
    }

    fn is_symbol(&self, index: usize, symbol: &str) -> bool {
        self.at(index).is_some_and(|piece| piece.is_symbol(symbol))
    }

    fn before(&self, index: usize) -> Option<&'p Piece<'a>> {
        index.checked_sub(1).and_then(|before| self.at(before))
    }

    fn scope(&mut self) -> Option<&mut Scope> {
        // Depth beyond the limit has no scope of its own, and is not looked into.
        if self.depth >= MAX_DEPTH { None } else { self.scopes.last_mut() }
    }

    fn read(&mut self) {
        let start = self.pieces.iter().take_while(|piece| piece.is_symbol("(")).count();
        for _ in 0..start {
            self.open();
        }
        self.base = self.depth;
        let written = self.writer.text.len();
        let mut index = start;
        while let Some(piece) = self.at(index) {
            index = match piece.part {
                Part::Word | Part::Quoted => self.word(index, piece, index == start),
                _ => self.symbol(index, piece),
            };
        }
        if self.writer.text.len() == written {
            self.writer.add(Operation::Other.name());
        }
    }

    fn open(&mut self) {
        self.depth += 1;
        if self.depth < MAX_DEPTH {
            self.scopes.push(Scope::default());
        }
    }

    /// Reads punctuation, operators and values; returns where to go on.
    fn symbol(&mut self, index: usize, piece: &Piece) -> usize {
        if piece.is_symbol("(") {
            let direct = self.expect == Expect::Target && self.operation != Operation::Copy;
            // Options: VACUUM (FULL) t, EXPLAIN (ANALYZE) SELECT.
            if direct || self.before(index).is_some_and(|it| it.is("explain")) {
                return self.skip_parenthesis(index);
            }
            // In FROM (a JOIN b …) a table may follow.
            if self.expect == Expect::Target {
                self.expect = Expect::Anything;
            }
            self.open();
            return index + 1;
        }
        if piece.is_symbol(")") {
            if self.depth < MAX_DEPTH && self.scopes.len() > 1 {
                self.scopes.pop();
            }
            self.depth = self.depth.saturating_sub(1);
        }
        let lists = piece.is_symbol(",") && self.scope().is_some_and(|scope| scope.list);
        self.expect = if lists { Expect::Source } else { Expect::Anything };
        index + 1
    }

    /// The index behind the parenthesis that opens at `index`.
    fn skip_parenthesis(&self, index: usize) -> usize {
        let mut depth = 0usize;
        for (at, piece) in self.pieces.iter().enumerate().skip(index) {
            if piece.is_symbol("(") {
                depth += 1;
            } else if piece.is_symbol(")") {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
        }
        self.pieces.len()
    }

    /// Reads a word or a quoted identifier; returns where to go on.
    fn word(&mut self, index: usize, piece: &Piece, first: bool) -> usize {
        if piece.part == Part::Word && self.verb(index, piece, first) {
            return index + 1;
        }
        let qualified = self.before(index).is_some_and(|before| before.is_symbol("."));
        if self.expect != Expect::Anything {
            if piece.is_any(SKIPPED) {
                return index + 1;
            }
            if !piece.is_any(NO_TABLE) {
                return self.table(index);
            }
            self.expect = Expect::Anything;
        }
        if piece.part == Part::Word && !qualified {
            self.clause(index, piece);
        }
        index + 1
    }

    /// Takes the word for a verb if it is one.
    fn verb(&mut self, index: usize, piece: &Piece, first: bool) -> bool {
        let before = self.before(index);
        let follows = |word: &str| self.is(index + 1, word);
        let main = self.depth == self.base && !self.has_verb;
        if first && piece.is("with") {
            if let Some(scope) = self.scope() {
                scope.with = true;
            }
            return true;
        }
        let grants = matches!(self.operation, Operation::Grant | Operation::Revoke)
            || before.is_some_and(|before| {
                before.is_any(&["grant", "revoke", "."])
                    || (before.is("for") && matches!(self.operation, Operation::Create | Operation::Alter))
            });
        let is_verb = first
            || (piece.is("select") && !grants)
            || (piece.is("insert") && follows("into"))
            || (piece.is("delete") && follows("from"))
            || (piece.is("merge") && follows("into"))
            || (piece.is("update")
                && !follows("set")
                && before.is_some_and(|before| {
                    before.is_symbol("(")
                        || before.is_any(&["as", "explain", "analyze", "verbose", "also", "instead"])
                        || (before.is_symbol(")") && (main || self.operation == Operation::Explain))
                }))
            || (main && piece.is_any(&["values", "table"]) && before.is_some_and(|before| before.is_symbol(")")));
        if !is_verb {
            return false;
        }
        let operation = Operation::of(piece);
        if main {
            self.operation = operation;
            self.has_verb = true;
        }
        self.writer.add(operation.name());
        let starts_list =
            matches!(operation, Operation::Truncate | Operation::Lock | Operation::Vacuum | Operation::Analyze);
        if let Some(scope) = self.scope() {
            *scope = Scope { query: operation != Operation::Other, list: starts_list, with: false };
        }
        self.expect = if operation.is_direct() || piece.is("table") { Expect::Target } else { Expect::Anything };
        if matches!(operation, Operation::Create | Operation::Alter | Operation::Drop) {
            self.object(index + 1);
        }
        true
    }

    /// Names what a CREATE, ALTER or DROP is about.
    fn object(&mut self, index: usize) {
        let rest = self.pieces.get(index..).unwrap_or_default();
        let kind = rest
            .iter()
            .take_while(|piece| piece.part == Part::Word)
            .take(5)
            .find_map(|piece| OBJECTS.iter().find(|object| piece.is(object)));
        if let Some(kind) = kind {
            self.writer.add(&kind.to_ascii_uppercase());
        }
    }

    /// Looks at a keyword that is no verb.
    fn clause(&mut self, index: usize, piece: &Piece) {
        use Operation::{Alter, Copy, Create, Delete, Drop, Merge};
        let (operation, base) = (self.operation, self.depth == self.base);
        let distinct = self.before(index).is_some_and(|before| before.is("distinct"));
        let parenthesis = self.is_symbol(index + 1, "(");
        let defines = base && matches!(operation, Create | Alter | Drop) && self.first.is_none();
        let Some(scope) = self.scope() else { return };
        if scope.with {
            let named =
                self.before(index).is_some_and(|before| before.is_any(&["with", "recursive"]) || before.is_symbol(","));
            if named && !piece.is("recursive") {
                self.cte(piece);
            }
            return;
        }
        if (piece.is("from") && scope.query && !distinct && !(base && operation == Copy))
            || (piece.is("using") && base && matches!(operation, Delete | Merge) && !parenthesis)
        {
            scope.list = true;
            self.expect = Expect::Source;
        } else if piece.is("join") && scope.query {
            self.expect = Expect::Source;
        } else if piece.is("into") && scope.query {
            self.expect = Expect::Target;
        } else if defines && piece.is_any(&["table", "view"]) || (defines && operation == Create && piece.is("on")) {
            scope.list = operation == Drop;
            self.expect = Expect::Target;
        } else if piece.is_any(ENDS_FROM) {
            scope.list = false;
        }
    }

    fn cte(&mut self, piece: &Piece) {
        if self.ctes.len() < MAX_CTES {
            self.ctes.push(part_of_name(piece));
        }
    }

    /// Reads a table's name that starts at `index`.
    fn table(&mut self, index: usize) -> usize {
        let expect = std::mem::replace(&mut self.expect, Expect::Anything);
        let mut name = String::new();
        let mut next = index;
        while let Some(piece) = self.at(next).filter(|piece| matches!(piece.part, Part::Word | Part::Quoted)) {
            if name.len() <= MAX_TABLE_BYTES {
                name.push_str(&part_of_name(piece));
            }
            next += 1;
            if !self.is_symbol(next, ".") {
                break;
            }
            name.push('.');
            next += 1;
        }
        let function = expect == Expect::Source && self.is_symbol(next, "(");
        if !function && name.len() <= MAX_TABLE_BYTES && !self.ctes.contains(&name) {
            self.writer.add(&name);
            if self.depth == self.base && self.has_verb && self.main.is_none() {
                self.main = Some(name.clone());
            }
            self.first.get_or_insert(name);
        }
        // The parenthesis of a function or of a list of columns is read as any other.
        next
    }
}

/// An identifier as it is shown: quotes go where the name means the same without.
fn part_of_name(piece: &Piece) -> String {
    if piece.part == Part::Word {
        return lossy(piece.text).to_ascii_lowercase();
    }
    let inner = piece.text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or_default();
    let plain = inner.first().is_some_and(|byte| !byte.is_ascii_digit())
        && inner.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_');
    lossy(if plain { inner } else { piece.text })
}

/// Words between a keyword and the table that it announces.
const SKIPPED: &[&str] = &[
    "only",
    "lateral",
    "table",
    "if",
    "not",
    "exists",
    "concurrently",
    "full",
    "freeze",
    "verbose",
    "analyze",
    "materialized",
    "view",
    "into",
    "from",
];

/// Words that are no table where one is expected.
const NO_TABLE: &[&str] =
    &["select", "values", "with", "where", "set", "as", "on", "rows", "using", "group", "order", "limit"];

/// Keywords behind which a comma no longer separates tables.
const ENDS_FROM: &[&str] = &[
    "where",
    "set",
    "group",
    "order",
    "having",
    "limit",
    "offset",
    "union",
    "intersect",
    "except",
    "returning",
    "window",
    "values",
    "when",
    "for",
    "do",
    "in",
];

/// What a CREATE, ALTER or DROP can be about, as far as the summary tells.
const OBJECTS: &[&str] = &[
    "table",
    "index",
    "view",
    "sequence",
    "schema",
    "database",
    "role",
    "user",
    "group",
    "function",
    "procedure",
    "trigger",
    "type",
    "domain",
    "extension",
    "policy",
    "publication",
    "subscription",
    "server",
    "system",
    "tablespace",
    "rule",
];
