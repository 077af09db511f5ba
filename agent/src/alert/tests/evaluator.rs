use super::*;
use crate::alert::evaluate::{MOST_GROUPS, MOST_HELD};

/// What a rule is about, its lines, and windows with the figure that each makes.
type Row = (&'static str, String, Vec<(Vec<Series>, Option<f64>)>);

const LOAD: &str = "[[rule]]\nname = \"a\"\nsummary = \"x\"\nabove = 1.0\n";

#[test]
fn each_function_makes_the_figure_that_its_name_says() {
    let load = |value: f64| vec![series("node_load1", "", value)];
    let forks = |value: f64| vec![series("node_forks_total", "", value)];
    let queries =
        |count: f64| vec![series("steth_postgres_query_duration_seconds", "service=db,role=server,database=d", count)];
    let started = |at: f64| vec![series("namedprocess_namegroup_oldest_start_time_seconds", "groupname=a", at)];
    let failing = |errors: f64, count: f64| {
        let mut all = queries(count);
        all.push(series("steth_postgres_errors_total", "service=db,role=server,database=d,sqlstate=42601", errors));
        all
    };
    let memory = |left: f64| {
        vec![series("node_memory_MemAvailable_bytes", "", left), series("node_memory_MemTotal_bytes", "", 100.0)]
    };
    let histogram = "metric = \"steth_postgres_query_duration_seconds\"\n";
    let ratio = "metric = \"steth_postgres_errors_total\"\nfunction = \"ratio\"\nover = \"steth_postgres_query_duration_seconds\"\n\
                 by = [\"service\"]\nat_least = 10\n";
    let rest = "metric = \"node_memory_MemAvailable_bytes\"\nfunction = \"ratio\"\nover = \"node_memory_MemTotal_bytes\"\nrest = true\n";
    let table: Vec<Row> = vec![
        (
            "value",
            "metric = \"node_load1\"\n".into(),
            vec![(load(3.0), Some(3.0)), (vec![], None), (load(1.0), Some(1.0))],
        ),
        (
            "average of a gauge",
            "metric = \"node_load1\"\nfunction = \"average\"\nwithin = \"30s\"\n".into(),
            vec![(load(3.0), Some(3.0)), (load(6.0), Some(4.5)), (load(9.0), Some(6.0)), (load(12.0), Some(9.0))],
        ),
        (
            "rate of the host's counter, which begins before it is seen, and anew",
            "metric = \"node_forks_total\"\nfunction = \"rate\"\n".into(),
            vec![(forks(1_000.0), None), (forks(1_050.0), Some(5.0)), (forks(20.0), Some(2.0))],
        ),
        (
            "rate of a histogram",
            format!("{histogram}function = \"rate\"\n"),
            vec![(queries(5.0), None), (queries(25.0), Some(2.0)), (queries(25.0), Some(0.0))],
        ),
        (
            "quantile of enough durations",
            format!("{histogram}function = \"quantile\"\nquantile = 0.95\nwithin = \"20s\"\n"),
            vec![
                (queries(0.0), None),
                (queries(19.0), None),
                (queries(40.0), Some(0.010_48)),
                (queries(40.0), Some(0.010_48)),
            ],
        ),
        (
            "average of durations",
            format!("{histogram}function = \"average\"\nat_least = 1\n"),
            vec![(queries(0.0), None), (queries(1.0), Some(0.01)), (queries(1.0), None)],
        ),
        (
            "ratio of counts, without errors none",
            ratio.into(),
            vec![
                (queries(100.0), None),
                (queries(120.0), Some(0.0)),
                (failing(5.0, 140.0), Some(0.25)),
                (failing(9.0, 145.0), None),
            ],
        ),
        ("what a ratio leaves", rest.into(), vec![(memory(30.0), Some(0.7)), (memory(0.0), Some(1.0))]),
        (
            "changes, where nothing is there not counted",
            "metric = \"namedprocess_namegroup_oldest_start_time_seconds\"\nfunction = \"changes\"\nwithin = \"30s\"\n"
                .into(),
            vec![
                (started(5.0), Some(0.0)),
                (started(6.0), Some(1.0)),
                (started(0.0), None),
                (started(7.0), Some(2.0)),
                (started(7.0), Some(1.0)),
            ],
        ),
    ];
    for (what, rule, windows) in table {
        let mut watched = Watched::new(&format!("{LOAD}{rule}"));
        for (at, (series, expected)) in windows.into_iter().enumerate() {
            let value = watched.value(series);
            let close = match (value, expected) {
                (Some(value), Some(expected)) => (value - expected).abs() <= expected.abs() * 0.07,
                (value, expected) => value == expected,
            };
            assert!(close, "{what}, window {at}: {value:?}, expected {expected:?}");
        }
    }
}

#[test]
fn a_line_meets_its_limit_when_it_would_and_never_if_it_leads_away() {
    let rule = "[[rule]]\nname = \"a\"\nsummary = \"x\"\nbelow = 1.0\nmetric = \"node_filesystem_avail_bytes\"\n\
                function = \"time_to_limit\"\nlimit = 0.0\nwithin = \"5m\"\n";
    let left = |value: f64| vec![series("node_filesystem_avail_bytes", "device=a,mountpoint=/,fstype=ext4", value)];
    let mut watched = Watched::new(rule);
    // A byte a second, so that a thousand are left after 900 s.
    let values: Vec<Option<f64>> =
        (0..30).map(|window| watched.value(left(1_300.0 - f64::from(window) * 10.0))).collect();
    assert!(values[..11].iter().all(Option::is_none), "too few windows draw no line");
    let last = values.last().copied().flatten().unwrap();
    assert!((last - 1_010.0).abs() < 1.0, "{last}");
    assert_eq!(watched.value(left(0.0)), Some(0.0), "what is full is full now");

    let mut growing = Watched::new(rule);
    let last = (0..30).filter_map(|window| growing.value(left(1_000.0 + f64::from(window)))).last().unwrap();
    assert!(last > 1e8, "{last}");
    let mut jumped = Watched::new(rule);
    let last = (0..30).filter_map(|at| jumped.value(left(if at < 15 { 1_000.0 } else { 500.0 }))).last().unwrap();
    assert!(last > 1e8, "one jump is no line: {last}");
}

#[test]
fn a_deviation_is_measured_by_the_series_own_past() {
    let rule = "[[rule]]\nname = \"a\"\nsummary = \"x\"\nabove = 5.0\nmetric = \"node_load1\"\nfunction = \"deviation\"\nof = \"value\"\n";
    let load = |value: f64| vec![series("node_load1", "", value)];
    let mut watched = Watched::new(rule);
    let noise = |at: u32| 10.0 + f64::from(at * 7 % 5) - 2.0;
    let quiet: Vec<Option<f64>> = (0..60).map(|at| watched.value(load(noise(at)))).collect();
    assert!(quiet[..30].iter().all(Option::is_none), "without a past there is no deviation");
    assert!(quiet[30..].iter().all(|value| value.is_some_and(|value| value.abs() < 5.0)), "{quiet:?}");
    assert!(watched.value(load(40.0)).unwrap() > 10.0);
    // What never moved has a spread of its own, too.
    let mut still = Watched::new(rule);
    for _ in 0..40 {
        still.value(load(1.0));
    }
    assert_eq!(still.value(load(1.0)), Some(0.0));
    assert!(still.value(load(1.5)).unwrap().is_finite());
}

#[test]
fn series_are_chosen_and_added_up_by_their_labels() {
    let rule = "[[rule]]\nname = \"a\"\nsummary = \"x\"\nabove = 5.0\nmetric = \"steth_postgres_connections\"\n\
                match = { role = \"server\", service = \"db*\" }\nwithout = { state = \"idle\" }\nby = [\"service\"]\n";
    let one = |labels: &str| series("steth_postgres_connections", labels, 1.0);
    let mut watched = Watched::new(rule);
    let figures = watched.push(vec![
        one("service=db1,role=server,database=a,state=active"),
        one("service=db1,role=server,database=b,state=active"),
        one("service=db1,role=server,database=b,state=idle"),
        one("service=db2,role=server,database=a,state=active"),
        one("service=db2,role=client,database=a,state=active"),
        one("service=shop,role=server,database=a,state=active"),
        series("node_load1", "", 9.0),
    ]);
    let found: Vec<(&str, f64)> = figures.iter().map(|it| (it.labels[0].as_str(), it.reading.value)).collect();
    assert_eq!(found, [("db1", 2.0), ("db2", 1.0)]);
}

#[test]
fn groups_are_bounded_and_what_finds_no_room_is_counted() {
    let load = "[[rule]]\nsummary = \"x\"\nabove = 5.0\nmetric = \"namedprocess_namegroup_num_procs\"\n";
    let text: String = (0..6).map(|at| format!("{load}name = \"r{at}\"\n")).collect();
    let mut watched = Watched::new(&text);
    let all = (0..1_000).map(|at| series("namedprocess_namegroup_num_procs", &format!("groupname=s{at}"), 1.0));
    let figures = watched.push(all.collect());
    let (groups, refused) = watched.evaluator.counts();
    assert_eq!((figures.len(), groups, refused), (MOST_GROUPS, MOST_GROUPS, 6_000 - MOST_GROUPS as u64));
    // What is gone gives its place back in an hour.
    for _ in 0..361 {
        watched.push(vec![]);
    }
    assert_eq!(watched.evaluator.counts().0, 0);
}

#[test]
fn rules_that_look_far_back_have_fewer_groups() {
    let rule = "[[rule]]\nsummary = \"x\"\nabove = 5.0\nmetric = \"namedprocess_namegroup_num_procs\"\n\
                function = \"average\"\nwithin = \"1h\"\n";
    let text: String = (0..4).map(|at| format!("{rule}name = \"r{at}\"\n")).collect();
    let mut watched = Watched::new(&text);
    let all = (0..500).map(|at| series("namedprocess_namegroup_num_procs", &format!("groupname=s{at}"), 1.0));
    watched.push(all.collect());
    // An hour has 360 windows of ten seconds.
    let most = MOST_HELD / 360;
    assert_eq!(watched.evaluator.counts(), (most, 2_000 - most as u64));
}

#[test]
fn rules_that_stay_keep_what_they_know_when_others_change() {
    let rate =
        "[[rule]]\nname = \"f\"\nsummary = \"x\"\nabove = 5.0\nmetric = \"node_forks_total\"\nfunction = \"rate\"\n";
    let mut watched = Watched::new(rate);
    watched.push(vec![series("node_forks_total", "", 10.0)]);
    watched.evaluator.replace(rules(&format!("{LOAD}metric = \"node_load1\"\n{rate}")));
    assert_eq!(watched.value(vec![series("node_forks_total", "", 20.0)]), Some(1.0));
}
