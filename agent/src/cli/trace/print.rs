//! Lines of a trace as people or programs want them. Knows neither where they come from nor which are wanted.

use std::fmt::Write as _;

use serde_json::json;

use crate::{
    cli::{Failure, Outcome, terminal},
    model::query::{QueryRecord, TraceLine},
};

/// Writes lines to stdout as they come.
pub struct Printer {
    json: bool,
    /// The beginning of a line whose end is still to come.
    rest: Vec<u8>,
    text: String,
    headed: bool,
    queries: u64,
    in_kernel: u64,
    in_agent: u64,
}

impl Printer {
    /// Nothing was written yet.
    pub fn new(json: bool) -> Self {
        Self { json, rest: Vec::new(), text: String::new(), headed: json, queries: 0, in_kernel: 0, in_agent: 0 }
    }

    /// Takes a piece of the lines, which may end anywhere. False when nobody reads any more.
    ///
    /// # Errors
    /// When stdout cannot be written, or when the lines are not those of a trace.
    pub fn take(&mut self, piece: &[u8]) -> Result<bool, Failure> {
        terminal::wanted(&self.digest(piece)?)
    }

    fn digest(&mut self, piece: &[u8]) -> Result<String, Failure> {
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(piece);
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let (lines, rest) = bytes.split_at(whole);
        self.rest = rest.to_vec();
        if !std::mem::replace(&mut self.headed, true) {
            self.text.push_str(HEAD);
        }
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            self.line(line)?;
        }
        Ok(std::mem::take(&mut self.text))
    }

    fn line(&mut self, line: &[u8]) -> Outcome {
        let unknown = |error| Failure::failed(format!("a line of the trace cannot be read: {error}"));
        match serde_json::from_slice::<TraceLine>(line).map_err(unknown)? {
            TraceLine::Query(query) => {
                self.queries += 1;
                match self.json {
                    true => self.text.push_str(&String::from_utf8_lossy(line)),
                    false => row(&mut self.text, &query),
                }
                self.text.push('\n');
            }
            TraceLine::Skipped { in_kernel, in_agent } => (self.in_kernel, self.in_agent) = (in_kernel, in_agent),
        }
        Ok(())
    }

    /// Says what was skipped.
    ///
    /// # Errors
    /// When stdout cannot be written.
    pub fn end(&self) -> Outcome {
        let Self { queries, in_kernel, in_agent, .. } = *self;
        if self.json {
            let total = json!({
                "kind": "total", "queries": queries, "skipped_in_kernel": in_kernel, "skipped_in_agent": in_agent,
            });
            terminal::result(&format!("{total}\n"))?;
        }
        let skipped = match in_kernel + in_agent {
            0 => "none skipped".to_owned(),
            _ => format!("skipped: {in_kernel} in the kernel (of any service), {in_agent} in the agent"),
        };
        terminal::talk(&format!("{queries} queries, {skipped}"));
        Ok(())
    }
}

const HEAD: &str = "TIME (UTC)       ROLE    SERVICE               PID      PEER                   DATABASE      USER          \
     DURATION  FIRST BYTE    ROWS  OUTCOME  WALL                            STATEMENT\n";

fn row(out: &mut String, query: &QueryRecord) {
    let QueryRecord { role, service, pid, peer, database, user, rows, .. } = query;
    let (time, duration, first) =
        (time(query.begun_unix_us), length(query.duration_seconds), length(query.first_byte_seconds));
    let outcome = query.sqlstate.as_ref().unwrap_or(&query.outcome);
    let peer = if peer.is_empty() { &query.family } else { peer };
    let statement =
        if query.statement.is_empty() { format!("({})", query.operation) } else { query.statement.to_string() };
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "{time}  {role:<6}  {service:<20}  {pid:<7}  {peer:<21}  {database:<12}  {user:<12}  {duration:>8}  {first:>10}  \
         {rows:>6}  {outcome:<7}  {wall:<30}  {statement}",
        wall = wall(query)
    );
}

/// What most of its time was spent with, where that is known: the state, its share, and what Postgres says of it.
fn wall(query: &QueryRecord) -> String {
    let largest = query.wall.iter().flatten().max_by(|(_, a), (_, b)| a.total_cmp(b));
    let Some((state, seconds)) = largest else { return "-".into() };
    let share = 100.0 * seconds / query.duration_seconds.max(f64::MIN_POSITIVE);
    match &query.wait_event {
        // A process that hardly waited says nothing of where its time went.
        Some(event) if state != "on_cpu" && state != "run_queue" => format!("{share:.0}% {state} {event}"),
        _ => format!("{share:.0}% {state}"),
    }
}

/// Time of day to the microsecond.
fn time(unix_us: u64) -> String {
    let (seconds, us) = (unix_us / 1_000_000, unix_us % 1_000_000);
    format!("{:02}:{:02}:{:02}.{us:06}", seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}

fn length(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.0}us", s * 1e6),
        s if s < 1.0 => format!("{:.2}ms", s * 1e3),
        s => format!("{s:.3}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> QueryRecord<'static> {
        QueryRecord {
            id: "0f-1".into(),
            begun_unix_us: 1_700_000_000_123_456,
            duration_seconds: 0.012_345,
            first_byte_seconds: 0.000_25,
            service: "shop.service".into(),
            role: "client".into(),
            peer: "".into(),
            port: 0,
            family: "unix".into(),
            database: "shop".into(),
            user: "web".into(),
            pid: 4711,
            tid: 4711,
            connection: "0f".into(),
            statements: 1,
            rows: 3,
            outcome: "ok".into(),
            sqlstate: None,
            transaction: "idle".into(),
            slow: false,
            wall: None,
            wait_event: None,
            wait_event_seconds: None,
            workers: Vec::new(),
            flame: "".into(),
            operation: "SELECT".into(),
            query: "aa".into(),
            summary: "SELECT orders".into(),
            statement: "select * from orders where id = ?".into(),
        }
    }

    #[test]
    fn a_row_is_as_in_the_golden_text() {
        let mut text = HEAD.to_owned();
        row(&mut text, &query());
        text.push('\n');
        let failed = QueryRecord {
            sqlstate: Some("22012".into()),
            peer: "127.0.0.1:5432".into(),
            duration_seconds: 1.5,
            wall: Some([("lock".into(), 1.2), ("on_cpu".into(), 0.3)].into()),
            wait_event: Some("Lock:transactionid".into()),
            wait_event_seconds: Some(1.2),
            operation: "UNKNOWN".into(),
            statement: "".into(),
            ..query()
        };
        row(&mut text, &failed);
        let expected = "\
TIME (UTC)       ROLE    SERVICE               PID      PEER                   DATABASE      USER          DURATION  FIRST BYTE    ROWS  OUTCOME  WALL                            STATEMENT
22:13:20.123456  client  shop.service          4711     unix                   shop          web            12.35ms       250us       3  ok       -                               select * from orders where id = ?
22:13:20.123456  client  shop.service          4711     127.0.0.1:5432         shop          web             1.500s       250us       3  22012    80% lock Lock:transactionid     (UNKNOWN)";
        assert_eq!(text, expected);
    }

    #[test]
    fn lines_may_be_cut_anywhere_and_what_is_no_line_is_refused() {
        let lines = [TraceLine::Query(Box::new(query())), TraceLine::Skipped { in_kernel: 1, in_agent: 2 }];
        let bytes: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        for cut in 0..bytes.len() {
            let (mut printer, mut text) = (Printer::new(true), String::new());
            for piece in [&bytes.as_bytes()[..cut], &bytes.as_bytes()[cut..]] {
                text.push_str(&printer.digest(piece).unwrap());
            }
            assert_eq!(text.lines().count(), 1, "cut at {cut}");
            assert_eq!((printer.queries, printer.in_kernel, printer.in_agent), (1, 1, 2), "cut at {cut}");
        }
        assert!(Printer::new(true).digest(b"hello\n").is_err());
    }
}
