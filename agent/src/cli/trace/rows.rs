//! A row for each line of a trace, as people read it.

use std::fmt::{self, Write as _};

use crate::model::{
    query::QueryRecord,
    trace::{CallRecord, ExecRecord, TcpRecord, TraceLine},
};

/// Above rows of Postgres queries.
pub const QUERIES: &str = "TIME (UTC)       ROLE    SERVICE               PID      PEER                   DATABASE      USER          \
     DURATION  FIRST BYTE    ROWS  OUTCOME  WALL                            STATEMENT\n";

/// Above rows of system calls.
pub const CALLS: &str =
    "TIME (UTC)       SERVICE               PID      TID      THREAD           SYSCALL              DURATION  RESULT\n";
/// Above rows of TCP events.
pub const TCP: &str = "TIME (UTC)       EVENT           SERVICE               PID      PEER                    PORT  DURATION    RECEIVED        SENT\n";
/// Above rows of executions.
pub const EXECUTIONS: &str = "TIME (UTC)       SERVICE               PID      PARENT   UID    COMMAND\n";

/// Puts a line into words.
pub fn row(out: &mut String, line: &TraceLine) {
    let mut row = String::new();
    // Writing to a string cannot fail.
    let _ = match line {
        TraceLine::Query(query) => row_of_query(&mut row, query),
        TraceLine::Call(call) => row_of_call(&mut row, call),
        TraceLine::Tcp(tcp) => row_of_tcp(&mut row, tcp),
        TraceLine::Exec(exec) => row_of_execution(&mut row, exec),
        TraceLine::Skipped { .. } => Ok(()),
    };
    // Threads, services and databases bear names that others gave them: a terminal must take them for nothing but text.
    out.extend(row.chars().flat_map(|character| {
        let escaped = character.is_control().then(|| character.escape_default());
        escaped.into_iter().flatten().chain((!character.is_control()).then_some(character))
    }));
}

fn row_of_call(out: &mut String, call: &CallRecord) -> fmt::Result {
    let CallRecord { service, pid, tid, thread, syscall, .. } = call;
    let (time, duration) = (time(call.begun_unix_us), length(call.duration_seconds));
    let result = match (&call.errno, call.result) {
        (Some(errno), _) => errno.to_string(),
        (None, Some(result)) => result.to_string(),
        (None, None) => "(address)".into(),
    };
    write!(out, "{time}  {service:<20}  {pid:<7}  {tid:<7}  {thread:<15}  {syscall:<18}  {duration:>9}  {result}")
}

fn row_of_tcp(out: &mut String, tcp: &TcpRecord) -> fmt::Result {
    let known = |number: Option<u32>| number.map_or_else(|| "-".into(), |number| number.to_string());
    let TcpRecord { event, service, peer, received_bytes, sent_bytes, .. } = tcp;
    let (time, pid, port) = (time(tcp.at_unix_us), known(tcp.pid), known(tcp.port.map(u32::from)));
    let service = if service.is_empty() { "-" } else { service };
    let duration = tcp.duration_seconds.map_or_else(|| "-".into(), length);
    write!(
        out,
        "{time}  {event:<14}  {service:<20}  {pid:<7}  {peer:<21}  {port:>5}  {duration:>8}  {received_bytes:>10}  \
         {sent_bytes:>10}"
    )
}

fn row_of_execution(out: &mut String, exec: &ExecRecord) -> fmt::Result {
    let ExecRecord { service, pid, parent, uid, command, is_cut, .. } = exec;
    let time = time(exec.at_unix_us);
    let command = if command.is_empty() { "(unknown)".to_owned() } else { command.join(" ") };
    let cut = if *is_cut { " …" } else { "" };
    write!(out, "{time}  {service:<20}  {pid:<7}  {parent:<7}  {uid:<5}  {command}{cut}")
}

fn row_of_query(out: &mut String, query: &QueryRecord) -> fmt::Result {
    let QueryRecord { role, service, pid, peer, database, user, rows, .. } = query;
    let (time, duration, first) =
        (time(query.begun_unix_us), length(query.duration_seconds), length(query.first_byte_seconds));
    let outcome = query.sqlstate.as_ref().unwrap_or(&query.outcome);
    let peer = if peer.is_empty() { &query.family } else { peer };
    let statement =
        if query.statement.is_empty() { format!("({})", query.operation) } else { query.statement.to_string() };
    write!(
        out,
        "{time}  {role:<6}  {service:<20}  {pid:<7}  {peer:<21}  {database:<12}  {user:<12}  {duration:>8}  {first:>10}  \
         {rows:>6}  {outcome:<7}  {wall:<30}  {statement}",
        wall = wall(query)
    )
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
pub(super) mod tests {
    use super::*;

    pub fn query() -> QueryRecord<'static> {
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
        let mut text = QUERIES.to_owned();
        row(&mut text, &TraceLine::Query(Box::new(query())));
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
        row(&mut text, &TraceLine::Query(Box::new(failed)));
        let expected = "\
TIME (UTC)       ROLE    SERVICE               PID      PEER                   DATABASE      USER          DURATION  FIRST BYTE    ROWS  OUTCOME  WALL                            STATEMENT
22:13:20.123456  client  shop.service          4711     unix                   shop          web            12.35ms       250us       3  ok       -                               select * from orders where id = ?
22:13:20.123456  client  shop.service          4711     127.0.0.1:5432         shop          web             1.500s       250us       3  22012    80% lock Lock:transactionid     (UNKNOWN)";
        assert_eq!(text, expected);
    }

    #[test]
    fn rows_of_calls_events_and_executions_stand_below_their_heads() {
        let call = |thread: &'static str, result, errno: Option<&'static str>| {
            TraceLine::Call(CallRecord {
                begun_unix_us: 1_700_000_000_123_456,
                duration_seconds: 0.012_345,
                service: "shop.service".into(),
                pid: 4711,
                tid: 4712,
                thread: thread.into(),
                syscall: "pread64".into(),
                result,
                errno: errno.map(Into::into),
            })
        };
        let tcp = |pid, port, duration_seconds| {
            TraceLine::Tcp(TcpRecord {
                at_unix_us: 1_700_000_000_123_456,
                event: "retransmitted".into(),
                duration_seconds,
                service: "shop.service".into(),
                pid,
                peer: "10.0.0.1:5432".into(),
                port,
                family: Some("inet".into()),
                received_bytes: 12,
                sent_bytes: 345,
            })
        };
        let exec = TraceLine::Exec(ExecRecord {
            at_unix_us: 1_700_000_000_123_456,
            service: "cron.service".into(),
            pid: 4711,
            parent: 1,
            uid: 0,
            command: vec!["sh".into(), "-c".into(), "echo\n\u{1b}[31m".into()],
            is_cut: true,
        });
        let mut text = CALLS.to_owned();
        let hostile = "a\u{1b}[31m\nb";
        for line in
            [call("worker", Some(4096), None), call("worker", Some(-2), Some("ENOENT")), call(hostile, None, None)]
        {
            row(&mut text, &line);
            text.push('\n');
        }
        text.push_str(TCP);
        for line in [tcp(Some(4711), Some(40_000), Some(1.5)), tcp(None, None, None)] {
            row(&mut text, &line);
            text.push('\n');
        }
        text.push_str(EXECUTIONS);
        row(&mut text, &exec);
        let expected = "\
TIME (UTC)       SERVICE               PID      TID      THREAD           SYSCALL              DURATION  RESULT
22:13:20.123456  shop.service          4711     4712     worker           pread64               12.35ms  4096
22:13:20.123456  shop.service          4711     4712     worker           pread64               12.35ms  ENOENT
22:13:20.123456  shop.service          4711     4712     a\\u{1b}[31m\\nb         pread64               12.35ms  (address)
TIME (UTC)       EVENT           SERVICE               PID      PEER                    PORT  DURATION    RECEIVED        SENT
22:13:20.123456  retransmitted   shop.service          4711     10.0.0.1:5432          40000    1.500s          12         345
22:13:20.123456  retransmitted   shop.service          -        10.0.0.1:5432              -         -          12         345
TIME (UTC)       SERVICE               PID      PARENT   UID    COMMAND
22:13:20.123456  cron.service          4711     1        0      sh -c echo\\n\\u{1b}[31m …";
        assert_eq!(text, expected);
    }
}
