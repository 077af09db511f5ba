use steth_probes::cell::Role;
use tokio::sync::{mpsc, oneshot};

use super::{listeners::MOST, *};
use crate::model::trace::{Of, TraceRefused, Wanted};

fn seen(pid: u32, duration_ns: u64) -> QuerySeen {
    QuerySeen { pid, tid: pid, duration_ns, ..QuerySeen::any() }
}

fn traced(pid: u32, duration_ns: u64) -> Traced {
    Traced::Query(Box::new(seen(pid, duration_ns)))
}

fn listen(told: &mut Told, filter: Filter, room: usize) -> mpsc::Receiver<Vec<u8>> {
    let (lines, heard) = mpsc::channel(room);
    let (answer, mut answered) = oneshot::channel();
    let length = Duration::from_secs(60);
    let waits = told.listen(TraceRequest { wanted: Wanted::Queries(filter), length, lines, answer }, 5);
    assert!(waits.is_some() && answered.try_recv().is_err(), "it has not begun yet");
    heard
}

fn text(heard: &mut mpsc::Receiver<Vec<u8>>) -> String {
    let mut all = Vec::new();
    while let Ok(piece) = heard.try_recv() {
        all.extend(piece);
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn everybody_hears_what_they_asked_for() {
    let mut told = Told::new(&Config::default());
    let mut all = listen(&mut told, Filter::default(), 4);
    let mut one = listen(&mut told, Filter { pid: Some(2), ..Filter::default() }, 4);
    told.tell(&Names::default(), &[traced(1, 10), traced(2, 20)], 5);
    assert_eq!(text(&mut all).lines().count(), 2);
    let heard = text(&mut one);
    assert!(heard.lines().count() == 1 && heard.contains("\"pid\":2,"), "{heard}");
}

#[test]
fn what_whoever_listens_does_not_take_is_counted_and_said() {
    let mut told = Told::new(&Config::default());
    let mut heard = listen(&mut told, Filter::default(), 2);
    for _ in 0..3 {
        told.tell(&Names::default(), &[traced(1, 10), traced(1, 10)], 5);
    }
    assert_eq!(text(&mut heard).lines().count(), 2, "the first piece");
    told.tell(&Names::default(), &[], 8);
    assert_eq!(text(&mut heard), "{\"kind\":\"skipped\",\"in_kernel\":3,\"in_agent\":4}\n");
    told.tell(&Names::default(), &[], 8);
    assert_eq!(text(&mut heard), "", "said once");
}

#[test]
fn who_is_slow_is_told_at_the_end_how_many_were_skipped() {
    let mut told = Told::new(&Config::default());
    let (lines, mut heard) = mpsc::channel(2);
    let (answer, _answered) = oneshot::channel();
    let wanted = Wanted::Queries(Filter::default());
    assert!(told.listen(TraceRequest { wanted, length: Duration::ZERO, lines, answer }, 0).is_some());
    for _ in 0..3 {
        told.tell(&Names::default(), &[traced(1, 10)], 0);
    }
    assert!(told.part() && !told.is_heard());
    let heard = text(&mut heard);
    assert!(heard.ends_with("{\"kind\":\"skipped\",\"in_kernel\":0,\"in_agent\":2}\n"), "{heard}");
    assert_eq!(heard.lines().count(), 2, "{heard}");
}

#[test]
fn the_kernel_tells_what_all_filters_together_need_and_nothing_while_nobody_listens() {
    let mut told = Told::new(&Config::default());
    let base = watch(&Config::default());
    assert_eq!((base.floor_ns, base.traced_ns), (100_000_000, u64::MAX));
    let ms = Duration::from_millis;
    let shop = Filter { service: Some("shop".into()), pid: Some(7), min_duration: ms(10), ..Filter::default() };
    let heard = listen(&mut told, shop.clone(), 1);
    let now = told.watch(base);
    assert_eq!((now.floor_ns, now.traced_ns, now.pid, now.by_service), (10_000_000, 10_000_000, 7, 1));
    assert!(told.wants("shop") && !told.wants("other"));
    let other = listen(&mut told, Filter { pid: Some(8), min_duration: ms(20), ..shop }, 1);
    assert_eq!(told.watch(base).pid, 0);
    let everything = listen(&mut told, Filter::default(), 1);
    let now = told.watch(base);
    assert_eq!((now.floor_ns, now.pid, now.by_service), (0, 0, 0));
    drop((heard, other, everything));
    assert!(told.part() && !told.is_heard());
    assert_eq!(told.watch(base).floor_ns, base.floor_ns);
}

#[test]
fn the_kernel_tells_of_calls_events_and_executions_only_who_wants_them() {
    let mut told = Told::new(&Config::default());
    let base = watch(&Config::default());
    let mut add = |wanted| {
        let (lines, heard) = mpsc::channel(1);
        let (answer, _answered) = oneshot::channel();
        let length = Duration::from_secs(60);
        assert!(told.listen(TraceRequest { wanted, length, lines, answer }, 0).is_some());
        (heard, told.watch(base))
    };
    let none = (base.calls_ns, base.tcp, base.executions, base.traced_ns);
    assert_eq!(none, (u64::MAX, 0, 0, u64::MAX));
    let one =
        Of { pid: Some(7), service: Some("shop".into()), min_duration: Duration::from_millis(1), ..Of::default() };
    let (_calls, now) = add(Wanted::Calls(one));
    assert_eq!((now.calls_ns, now.calls_pid, now.calls_by_service), (1_000_000, 7, 1));
    assert_eq!((now.tcp, now.executions, now.traced_ns, now.floor_ns), (0, 0, u64::MAX, base.floor_ns));
    let (_tcp, now) = add(Wanted::Tcp(Of::default()));
    assert_eq!((now.tcp, now.executions, now.calls_pid, now.calls_by_service), (1, 0, 7, 1));
    let (_all, now) = add(Wanted::Calls(Of::default()));
    assert_eq!((now.calls_ns, now.calls_pid, now.calls_by_service), (0, 0, 0));
    let (_executions, now) = add(Wanted::Executions(Of::default()));
    assert_eq!((now.executions, now.traced_ns), (1, u64::MAX));
}

#[test]
fn the_kept_cycles_are_bounded_and_the_newest_come_first() {
    let mut config = Config::default();
    config.postgres.kept_queries = 2;
    let mut told = Told::new(&config);
    (1..=3).for_each(|pid| told.keep(seen(pid, 1)));
    let pids = |filter: &Filter, limit| -> Vec<u32> {
        told.slow(&Names::default(), filter, limit, 0).queries.iter().map(|query| query.pid).collect()
    };
    assert_eq!(pids(&Filter::default(), 10), [3, 2]);
    assert_eq!(pids(&Filter::default(), 1), [3]);
    assert_eq!(pids(&Filter { pid: Some(2), ..Filter::default() }, 10), [2]);
}

#[test]
fn a_repetition_is_kept_once_with_what_was_told_of_it_last() {
    let mut told = Told::new(&Config::default());
    let seen = |begun_ns, count, ended| RepeatSeen {
        begun_ns,
        told_ns: begun_ns + 4_000,
        busy_ns: 1_000,
        connection: 1,
        statement: 2,
        count,
        service: 1,
        database: 0,
        user: 0,
        peer: 0,
        pid: 1,
        role: Role::Client,
        ended,
    };
    for (begun_ns, count, ended) in [(1, 10, false), (1, 20, false), (1, 23, true), (2, 10, false)] {
        told.keep_repeat(seen(begun_ns, count, ended));
    }
    let all = Selection {
        service: None,
        role: None,
        database: None,
        window: None,
        sort: crate::model::query::Sort::Time,
        limit: 10,
    };
    let kept = told.repeats(&Names::default(), &all).repeats;
    let found: Vec<_> = kept.iter().map(|repeat| (repeat.count, repeat.ended, repeat.share)).collect();
    assert_eq!(found, [(10, false, 0.25), (23, true, 0.25)]);
    let server = Selection { role: Some(Role::Server), ..all };
    assert_eq!(told.repeats(&Names::default(), &server).repeats, []);
    (0..1_000).for_each(|begun_ns| told.keep_repeat(seen(begun_ns, 10, false)));
    assert_eq!(told.repeats.len(), MOST_REPEATS);
}

#[test]
fn there_is_a_bound_on_traces() {
    let mut told = Told::new(&Config::default());
    let _heard: Vec<_> = (0..MOST).map(|_| listen(&mut told, Filter::default(), 1)).collect();
    let (lines, _) = mpsc::channel(1);
    let (answer, mut answered) = oneshot::channel();
    let wanted = Wanted::Queries(Filter::default());
    assert!(told.listen(TraceRequest { wanted, length: Duration::ZERO, lines, answer }, 0).is_none());
    assert_eq!(answered.try_recv().unwrap(), Err(TraceRefused::TooMany { most: MOST }));
}
