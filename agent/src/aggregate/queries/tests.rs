use std::sync::Arc;

use steth_probes::cell::Role;

use super::*;
use crate::{
    aggregate::{Limits, StatementName},
    model::event::Reading,
};

const ALL: Selection =
    Selection { service: None, role: None, database: None, window: None, sort: Sort::Time, limit: 10 };

fn key(role: Role, statement: u32) -> CellKey {
    CellKey { kind: HistogramKind::PostgresQuery as u8, sub: role as u8, service: 1, a: 1, b: statement }
}

fn names() -> Names {
    let mut names = Names::default();
    names.set_service(1, Arc::from("shop.service"));
    names.set_database(1, "shop".into());
    // Two shapes of one statement, and another.
    for (number, query) in [(2, "aa"), (3, "aa"), (4, "bb")] {
        let (fingerprint, summary, text) = (query.into(), format!("SELECT {query}"), format!("select ? from {query}"));
        names.set_statement(number, StatementName { fingerprint, operation: "SELECT", summary, text });
    }
    names
}

fn histogram(durations_ns: &[u64], tally: [u64; 2]) -> Histogram {
    let mut histogram = Histogram::zeroed();
    for ns in durations_ns {
        histogram.sum_ns += ns;
        histogram.buckets[steth_probes::histogram::bucket_of(*ns)] += 1;
    }
    histogram.tally = tally;
    histogram
}

fn reading(cells: Vec<(CellKey, Histogram)>, failed: u64) -> Reading {
    let histograms = cells.into_iter().map(|(key, cell)| (HistogramKind::PostgresQuery, key, cell)).collect();
    let failures = CellKey { kind: CounterKind::PostgresFailed as u8, ..key(Role::Client, 2) };
    Reading { histograms, counters: vec![(CounterKind::PostgresFailed, failures, failed)], ..Reading::default() }
}

fn totals() -> Totals {
    Totals::new(Limits { services: 10, syscalls: 10, peers: 10, queries: 1 })
}

#[test]
fn shapes_of_one_statement_are_one_and_shares_are_of_all_that_is_selected() {
    let mut totals = totals();
    totals.absorb(reading(
        vec![
            (key(Role::Client, 2), histogram(&[1_000_000, 2_000_000], [2, 5])),
            (key(Role::Client, 3), histogram(&[3_000_000], [4, 1])),
            (key(Role::Client, 4), histogram(&[2_000_000], [1, 0])),
            (key(Role::Server, 2), histogram(&[500_000], [1, 0])),
        ],
        7,
    ));
    let found = totals.statements(&names(), &Selection { role: Some(Role::Client), ..ALL });
    let [first, second] = found.queries.as_slice() else { panic!("{found:?}") };
    assert_eq!((first.query.as_str(), first.calls, first.cycles, first.rows, first.errors), ("aa", 6, 3, 6, 7));
    assert_eq!((first.share, second.share, found.total_seconds), (0.75, 0.25, 0.008));
    assert_eq!(first.statement, "select ? from aa");
    assert!((0.0018..0.0022).contains(&first.p50_seconds) && (0.0028..0.0032).contains(&first.p99_seconds));
    assert_eq!(totals.statements(&names(), &ALL).queries.len(), 3, "the limits of what is shown do not matter here");
    let other = Selection { database: Some("other".into()), ..ALL };
    assert_eq!(totals.statements(&names(), &other).queries, []);
}

#[test]
fn a_link_to_a_flame_graph_can_be_asked_for_as_it_is() {
    assert_eq!(
        flame("a b&c.service", 1_700_000_000_123_456, 2_500_000),
        "/api/v1/flame?service=a%20b%26c.service&from=2023-11-14T22:13:20.123Z&to=2023-11-14T22:13:22.624Z"
    );
}

#[test]
fn sorting_and_the_limit_choose_what_goes_first() {
    let mut totals = totals();
    totals.absorb(reading(
        vec![
            (key(Role::Client, 2), histogram(&[1_000, 1_000, 1_000, 9_000_000], [4, 0])),
            (key(Role::Client, 4), histogram(&[5_000_000], [1, 9])),
        ],
        1,
    ));
    for (sort, first) in [
        (Sort::Time, "aa"),
        (Sort::Calls, "aa"),
        (Sort::Errors, "aa"),
        (Sort::Rows, "bb"),
        (Sort::Mean, "bb"),
        (Sort::P99, "aa"),
    ] {
        let found = totals.statements(&names(), &Selection { sort, limit: 1, ..ALL });
        assert_eq!(found.queries.iter().map(|query| query.query.as_str()).collect::<Vec<_>>(), [first], "{sort:?}");
        assert_eq!(found.total_seconds, 0.014_003, "what the limit leaves out is in the whole");
    }
}

#[test]
fn a_window_holds_what_came_in_it_and_the_oldest_gives_way() {
    let mut totals = totals();
    totals.absorb(reading(vec![(key(Role::Client, 2), histogram(&[1_000_000], [1, 1]))], 1));
    totals.close_window();
    totals.absorb(reading(vec![(key(Role::Client, 2), histogram(&[1_000_000, 4_000_000], [2, 5]))], 3));
    let of = |totals: &Totals, length: Duration| {
        let found = totals.statements(&names(), &Selection { window: Some(length), ..ALL });
        found.queries.first().map(|query| (query.calls, query.cycles, query.rows, query.errors, query.total_seconds))
    };
    assert_eq!(of(&totals, Duration::ZERO), Some((1, 1, 4, 2, 0.004)), "the window under way");
    assert_eq!(of(&totals, Duration::from_secs(3_600)), Some((2, 2, 5, 3, 0.005)));
    for _ in 0..=WINDOWS {
        totals.close_window();
    }
    assert_eq!(of(&totals, Duration::from_secs(3_600)), None);
    assert!(totals.statements(&names(), &ALL).queries.len() == 1, "the totals stay");
}

#[test]
fn an_id_is_the_same_each_time_and_tells_nothing_of_where_the_kernel_has_a_socket() {
    let of = |connection, begun_ns| id(&QuerySeen { connection, begun_ns, ..QuerySeen::any() });
    let first = of(0x1234_5678_FFFF_8881, 7);
    assert_eq!(first, of(0x1234_5678_FFFF_8881, 7));
    assert!(first != of(0x1234_5678_FFFF_8881, 8) && first != of(0x1234_5678_FFFF_8882, 7));
    assert!(first.len() == 16 && !first.contains("12345678") && !first.contains("ffff8881"), "{first}");
}
