//! A desk at which every question has the same answer, with every field filled in.

use super::*;

pub fn snapshot() -> Snapshot {
    let state = ProbeState::Unavailable { reason: "no \"BTF\"".into() };
    let lost = "system call times".into();
    Snapshot {
        at_unix_ms: 1_700_000_000_000,
        probes: vec![ProbeStatus {
            name: "sys_enter".into(),
            hook: "tp_btf/sys_enter".into(),
            state,
            lost,
            memory_bytes: 4096,
            runs: 7,
            run_ns: 700,
            missed: 3,
        }],
        services: vec![ServiceInfo { name: "nginx.service".into(), kind: ServiceKind::Unit, pids: vec![1, 2] }],
        ..Snapshot::default()
    }
}

fn traced(wanted: &Wanted) -> TraceLine<'static> {
    match wanted {
        Wanted::Queries(_) => TraceLine::Query(Box::new(query())),
        Wanted::Calls(_) => TraceLine::Call(CallRecord {
            begun_unix_us: 1_700_000_000_000_000,
            duration_seconds: 0.2,
            service: "shop.service".into(),
            pid: 7,
            tid: 8,
            thread: "worker".into(),
            syscall: "read".into(),
            result: Some(-11),
            errno: Some("EAGAIN".into()),
        }),
        Wanted::Tcp(_) => TraceLine::Tcp(TcpRecord {
            at_unix_us: 1_700_000_000_000_000,
            event: "connected".into(),
            duration_seconds: Some(0.2),
            service: "shop.service".into(),
            pid: Some(7),
            peer: "127.0.0.1:5432".into(),
            port: Some(40_000),
            family: Some("inet".into()),
            received_bytes: 1,
            sent_bytes: 2,
        }),
        Wanted::Executions(_) => TraceLine::Exec(ExecRecord {
            at_unix_us: 1_700_000_000_000_000,
            service: "shop.service".into(),
            pid: 7,
            parent: 1,
            uid: 1000,
            command: vec!["true".into()],
            is_cut: false,
        }),
    }
}

pub fn query() -> QueryRecord<'static> {
    QueryRecord {
        id: "0f-1".into(),
        begun_unix_us: 1_700_000_000_000_000,
        duration_seconds: 0.2,
        first_byte_seconds: 0.1,
        service: "shop.service".into(),
        role: "client".into(),
        peer: "127.0.0.1:5432".into(),
        port: 40_000,
        family: "inet".into(),
        database: "shop".into(),
        user: "web".into(),
        pid: 7,
        tid: 7,
        connection: "0f".into(),
        statements: 1,
        rows: 1,
        outcome: "error".into(),
        sqlstate: Some("57014".into()),
        transaction: "idle".into(),
        slow: true,
        wall: Some([("lock".into(), 0.15), ("on_cpu".into(), 0.05)].into()),
        wait_event: Some("Lock:tuple".into()),
        wait_event_seconds: Some(0.15),
        workers: vec![WorkerRecord {
            pid: 8,
            duration_seconds: 0.1,
            wall: [("on_cpu".into(), 0.06), ("disk".into(), 0.04)].into(),
            wait_event: Some("IO:DataFileRead".into()),
            wait_event_seconds: Some(0.04),
        }],
        flame: "/api/v1/flame?service=shop.service".into(),
        operation: "SELECT".into(),
        query: "0123456789abcdef".into(),
        summary: "SELECT orders".into(),
        statement: "select * from orders where id = ?".into(),
    }
}

pub fn repeat() -> RepeatRecord {
    RepeatRecord {
        begun_unix_us: 1_700_000_000_000_000,
        service: "shop.service".into(),
        role: "client",
        peer: "127.0.0.1:5432".into(),
        database: "shop".into(),
        user: "web".into(),
        pid: 7,
        count: 40,
        total_seconds: 0.25,
        burst_seconds: 0.5,
        share: 0.5,
        ended: true,
        query: "0123456789abcdef".into(),
        summary: "SELECT items".into(),
        statement: "select * from items where order_id = ?".into(),
    }
}

pub fn statements() -> Statements {
    let figures = StatementFigures {
        query: "0123456789abcdef".into(),
        operation: "SELECT".into(),
        summary: "SELECT orders".into(),
        statement: "select * from orders where id = ?".into(),
        service: "shop.service".into(),
        role: "client",
        database: "shop".into(),
        calls: 2,
        cycles: 2,
        errors: 1,
        rows: 3,
        total_seconds: 0.5,
        share: 1.0,
        wall: [("on_cpu".into(), 0.5)].into(),
        mean_seconds: 0.25,
        p50_seconds: 0.2,
        p95_seconds: 0.3,
        p99_seconds: 0.3,
    };
    Statements { at_unix_ms: 1, window_seconds: Some(10.0), total_seconds: 0.5, queries: vec![figures] }
}

pub fn finding() -> Finding {
    let figure = Evidence {
        name: "the disk was busy to".into(),
        service: None,
        value: 1.5,
        usual: Some(0.5),
        unit: "ratio",
        check: "sum(x)".into(),
    };
    let contender = Contender { service: "backup".into(), value: 2.5, usual: 0.5, unit: "B/s" };
    Finding {
        id: 1,
        kind: FindingKind::Saturation,
        about: "disk",
        part: "vda".into(),
        service: None,
        since_unix_ms: 1,
        until_unix_ms: None,
        conclusion: "disk vda is busy".into(),
        score: 0.5,
        evidence: vec![figure],
        contenders: vec![contender],
    }
}

pub fn event(text: &str) -> Event {
    Event { kind: EventKind::Posted, at_unix_ms: 1, service: None, text: text.into() }
}

pub fn explanation(service: Option<String>) -> Explanation {
    let (callee, cause) =
        ("postgres:15/main".to_owned(), Cause { kind: "saturation", about: "disk".into(), service: None });
    let edge = Dependency { service: "shop.service".into(), callee, is_local: true, bytes_per_second: 0.5 };
    Explanation {
        service,
        conclusion: "slow".into(),
        cause: Some(cause),
        findings: vec![finding()],
        events: vec![event("deploy")],
        dependencies: vec![edge],
        looked_at: LookedAt { window_seconds: 0.5, ..LookedAt::default() },
        ..Explanation::default()
    }
}

pub fn connections() -> Connections {
    let counts = ConnectionCounts { active: 1, idle: 2, idle_in_transaction: 1, encrypted_unseen: 0, total: 4 };
    let (service, server) = ("shop.service".into(), "postgres:15/main".into());
    let client = ClientConnections { service, pid: Some(7), server, counts, pool_size: Some(10) };
    let server = ServerConnections { service: "postgres:15/main".into(), counts, max_connections: Some(100) };
    Connections { at_unix_ms: 1, clients: vec![client], servers: vec![server] }
}

pub fn alert() -> Alert {
    Alert {
        id: 3,
        rule: "open_files_high".into(),
        severity: Severity::Warning,
        labels: [("groupname".to_owned(), "shop.service".to_owned())].into(),
        state: AlertState::Acknowledged,
        value: 0.9,
        usual: Some(0.1),
        threshold: 0.8,
        unit: "ratio".into(),
        summary: "a process has used 90 %".into(),
        impact: "shop.service".into(),
        step: "close files".into(),
        findings: vec![Noted { id: 1, conclusion: "memory leaks".into(), evidence: vec!["used 0.9: up".into()] }],
        pending_unix_ms: 1,
        firing_unix_ms: Some(1),
        resolved_unix_ms: Some(2),
        resolved_by: Some("it is not measured any more".into()),
        acknowledged: Some(Acknowledged { by: "me".into(), at_unix_ms: 1, comment: "on it".into() }),
        suppressed: Some(Suppressed::Silence),
    }
}

pub fn silence(rule: Option<String>) -> Silence {
    let labels = [("groupname".to_owned(), "shop*".to_owned())].into();
    let (by, comment) = ("me".into(), "deploy".into());
    Silence { id: 1, rule, labels, by, comment, since_unix_ms: 1, until_unix_ms: 2 }
}

pub fn alerts() -> Alerts {
    let problem = Some("http://x: connection refused".into());
    let channel = ChannelState { name: "ops".into(), kind: "webhook".into(), sent: 1, failed: 2, problem };
    Alerts { alerts: vec![alert()], silences: vec![silence(None)], channels: vec![channel], rules: 13 }
}

pub fn obeyed(order: AlertOrder) -> Result<AlertAnswer, AlertRefused> {
    match order {
        AlertOrder::Acknowledge { id: 3, .. } => Ok(AlertAnswer::Alert(Box::new(alert()))),
        AlertOrder::Acknowledge { id, .. } => Err(AlertRefused::Missing(format!("there is no alert {id}"))),
        AlertOrder::Silence { by, .. } if by.is_empty() => Err(AlertRefused::Wrong("by is empty".into())),
        AlertOrder::Silence { rule, .. } => Ok(AlertAnswer::Silence(silence(rule))),
        AlertOrder::Unsilence { .. } => Err(AlertRefused::Disabled),
        AlertOrder::Record {} => Ok(AlertAnswer::Recorded(Recorded { windows: 2, file: "AA==".into() })),
        AlertOrder::Test { .. } => {
            let rule =
                TriedRule { rule: "a".into(), series: 1, least: Some(0.1), largest: Some(0.9), alerts: vec![alert()] };
            Ok(AlertAnswer::Tried(Tried { windows: 2, from_unix_ms: 1, to_unix_ms: 2, rules: vec![rule] }))
        }
    }
}

fn setting(key: &str, value: &str) -> Setting {
    Setting { key: key.into(), value: value.into(), allowed: "true or false".into(), live: true }
}

/// A setting whose change nobody answers.
pub const NEVER_ANSWERED: &str = "never.answered";

/// A desk at which everything else has an answer; a trace of an empty service is refused.
pub fn answering() -> crate::model::query::Desk {
    let (desk, mut questions) = desk();
    tokio::spawn(async move {
        let mut unanswered = Vec::new();
        while let Some(question) = questions.recv().await {
            match question {
                Question::Statements(_, answer) => drop(answer.send(statements())),
                Question::Slow(_, _, answer) => {
                    let kept = SlowQueries { queries: vec![query()], ..SlowQueries::default() };
                    drop(answer.send(kept));
                }
                Question::Repeats(_, answer) => {
                    let repeats = Repeats { threshold: 10, repeats: vec![repeat()], ..Repeats::default() };
                    drop(answer.send(repeats));
                }
                Question::Explain(request) if request.service.as_deref() == Some("nobody") => {
                    let refused = NotExplained::NoService { name: "nobody".into(), like: None };
                    drop(request.answer.send(Err(refused)));
                }
                Question::Explain(request) => drop(request.answer.send(Ok(explanation(request.service)))),
                Question::Findings(answer) => drop(answer.send(Ok(Findings { findings: vec![finding()] }))),
                Question::Events(answer) => drop(answer.send(Ok(Events { events: vec![event("deploy")] }))),
                Question::Happened(posted, answer) if posted.text.is_empty() => {
                    drop(answer.send(Err(NotExplained::BadEvent("text is empty".into()))));
                }
                Question::Happened(posted, answer) => drop(answer.send(Ok(event(&posted.text)))),
                Question::Settings(SettingQuestion::List(answer)) => {
                    drop(answer.send(Settings { settings: vec![setting("probes.wall", "true")] }));
                }
                Question::Settings(SettingQuestion::Change(order, answer)) if order.key == NEVER_ANSWERED => {
                    unanswered.push(answer);
                }
                Question::Settings(SettingQuestion::Change(order, answer)) => {
                    drop(answer.send(match order.key.as_str() {
                        "listen" => Err(SettingRefused::OnlyInFile(order.key)),
                        "nothing" => Err(SettingRefused::Wrong("there is no such key".into())),
                        key => Ok(setting(key, &order.value)),
                    }))
                }
                Question::Alerts(AlertQuestion::List(answer)) => drop(answer.send(Ok(alerts()))),
                Question::Alerts(AlertQuestion::Order(order, answer)) => drop(answer.send(obeyed(order))),
                Question::Profile(request) => drop(request.answer.send(Err(ProfileRefused::TooMany(8)))),
                Question::Past(request) => {
                    let refused = ProfileRefused::NoPast(format!("nothing of {:?}", request.services));
                    drop(request.answer.send(Err(refused)));
                }
                Question::Connections(_, answer) => drop(answer.send(connections())),
                Question::Trace(request) if request.wanted.service() == Some("") => {
                    drop(request.answer.send(Err(TraceRefused::TooMany { most: 8 })));
                }
                Question::Trace(request) => {
                    request.answer.send(Ok(())).unwrap();
                    for line in [traced(&request.wanted), TraceLine::Skipped { in_kernel: 1, in_agent: 2 }] {
                        let line = serde_json::to_string(&line).unwrap() + "\n";
                        request.lines.send(line.into_bytes()).await.unwrap();
                    }
                }
            }
        }
    });
    desk
}
