use super::*;
use crate::model::trace::TraceLine;

fn query() -> QueryRecord<'static> {
    QueryRecord {
        id: "00000000000000ff-1".into(),
        begun_unix_us: 1_700_000_000_000_000,
        duration_seconds: 0.02,
        first_byte_seconds: 0.01,
        service: "shop.service".into(),
        role: "client".into(),
        peer: "postgres:15/main".into(),
        port: 40_000,
        family: "inet".into(),
        database: "shop".into(),
        user: "web".into(),
        pid: 7,
        tid: 8,
        connection: "00000000000000ff".into(),
        statements: 1,
        rows: 3,
        outcome: "error".into(),
        sqlstate: Some("23505".into()),
        transaction: "failed".into(),
        slow: false,
        wall: Some([("lock".into(), 0.015), ("on_cpu".into(), 0.005)].into()),
        wait_event: Some("Lock:tuple".into()),
        wait_event_seconds: Some(0.015),
        workers: Vec::new(),
        flame: "".into(),
        operation: "INSERT".into(),
        query: "0123456789abcdef".into(),
        summary: "INSERT orders".into(),
        statement: "insert into \"Orders\" values (?)".into(),
    }
}

#[test]
fn a_cycle_passes_when_everything_that_is_asked_for_is_so() {
    let text = |text: &str| Some(text.to_owned());
    let admitting = [
        Filter::default(),
        Filter { pid: Some(7), ..Filter::default() },
        Filter { service: text("shop.service"), database: text("shop"), user: text("web"), ..Filter::default() },
        Filter { min_duration: Duration::from_millis(20), errors: true, ..Filter::default() },
        Filter { role: Some(Role::Client), statement: text("INTO \"orders\""), ..Filter::default() },
        Filter { statement: text("0123456789abcdef"), ..Filter::default() },
    ];
    let refusing = [
        Filter { pid: Some(8), ..Filter::default() },
        Filter { service: text("shop"), ..Filter::default() },
        Filter { database: text("sho"), ..Filter::default() },
        Filter { user: text("WEB"), ..Filter::default() },
        Filter { min_duration: Duration::from_millis(21), ..Filter::default() },
        Filter { role: Some(Role::Server), ..Filter::default() },
        Filter { statement: text("select"), ..Filter::default() },
        Filter { statement: text("0123456789abcde"), ..Filter::default() },
    ];
    for filter in admitting {
        assert!(filter.admits(&query()), "{filter:?}");
    }
    for filter in refusing {
        assert!(!filter.admits(&query()), "{filter:?}");
    }
    let fine = QueryRecord { sqlstate: None, ..query() };
    assert!(!Filter { errors: true, ..Filter::default() }.admits(&fine));
}

#[test]
fn a_line_is_read_back_as_it_was_written() {
    for line in [TraceLine::Query(Box::new(query())), TraceLine::Skipped { in_kernel: 1, in_agent: 2 }] {
        let text = serde_json::to_string(&line).unwrap();
        assert_eq!(serde_json::from_str::<TraceLine>(&text).unwrap(), line, "{text}");
    }
}
