use std::{collections::BTreeSet, io::Read, sync::atomic::AtomicBool};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

mod access;
mod answers;

use self::answers::*;
use super::*;
use crate::model::{
    alert::{
        Acknowledged, Alert, AlertAnswer, AlertOrder, AlertQuestion, AlertRefused, AlertState, Alerts, ChannelState,
        Noted, Recorded, Silence, Suppressed, Tried, TriedRule,
    },
    finding::{
        Cause, Contender, Dependency, Event, EventKind, Events, Evidence, Explanation, Finding, FindingKind, Findings,
        LookedAt, NotExplained,
    },
    probe::{ProbeState, ProbeStatus},
    profile::Draw,
    query::{
        ClientConnections, ConnectionCounts, Connections, Desk, QueryRecord, Question, RepeatRecord, Repeats,
        ServerConnections, SlowQueries, StatementFigures, Statements, WorkerRecord, desk,
    },
    rule::Severity,
    sample::ProfileRefused,
    settings::{Setting, SettingQuestion, SettingRefused, Settings},
    snapshot::{ServiceInfo, ServiceKind, SnapshotHandle, handle_and_publisher},
    trace::{CallRecord, ExecRecord, TcpRecord, TraceLine, TraceRefused, Wanted},
};

const BOUNDS: Bounds = Bounds { connections: 8, timeout: Duration::from_secs(5) };

/// A server with a pipeline that always has the same snapshot.
struct Stage {
    address: SocketAddr,
    server: Server,
}

fn content(snapshots: SnapshotHandle, desk: Desk, expositions: Arc<[Exposition]>) -> Content {
    let draw: Draw = Arc::new(|_, _, _| Err("not here".into()));
    Content { snapshots, desk, expositions, draw, knows_format: |_| Ok(()), tickets: Tickets::default() }
}

/// A guard as it is by default, but without audit log.
fn open() -> Guard {
    let mut config = Config::default();
    config.audit.what = crate::config::Audited::None;
    config.http.rate = 1_000_000;
    Guard::start(&config).unwrap()
}

async fn stage_with(bounds: Bounds, render: Render) -> Stage {
    guarded(bounds, render, open()).await
}

async fn guarded(bounds: Bounds, render: Render, guard: Guard) -> Stage {
    let (snapshots, mut publisher) = handle_and_publisher();
    let latest = Arc::new(snapshot());
    publisher.publish(Arc::clone(&latest));
    tokio::spawn(async move {
        while let Some(request) = publisher.requested().await {
            request.answer(Arc::clone(&latest));
        }
    });
    let bound = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = bound.address();
    let media_types = ["text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0"];
    let expositions = media_types.map(|media_type| Exposition { media_type, render: Arc::clone(&render) });
    let content = content(snapshots, answering(), expositions.into());
    Stage { address, server: bound.serve(content, bounds, guard) }
}

async fn stage() -> Stage {
    stage_with(BOUNDS, Arc::new(|_| b"steth_build_info 1\n".repeat(200).into())).await
}

impl Stage {
    /// Sends bytes and returns all that comes back until the server hangs up.
    async fn send(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        // A connection that is reset while its answer is read is as closed as any.
        let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.expect("the server hangs up");
        answer
    }

    async fn ask(&self, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
        let answer = self.send(request.as_bytes()).await;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
    }

    async fn get_json(&self, path: &str) -> (u16, serde_json::Value) {
        let (head, body) = self.ask("GET", path, "").await;
        assert!(head.contains("content-type: application/json"), "{head}");
        (status(&head), serde_json::from_slice(&body).unwrap())
    }
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn metrics_are_served_at_both_paths_in_the_format_that_is_asked_for() {
    let stage = stage().await;
    for path in ["/metrics", "/api/metrics", "/metrics?name=x"] {
        let (head, body) = stage.ask("GET", path, "").await;
        assert_eq!(status(&head), 200);
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(body.starts_with(b"steth_build_info 1\n"));
    }
    let (head, body) = stage.ask("HEAD", "/metrics", "").await;
    assert_eq!((status(&head), body.len()), (200, 0));
    let (head, _) = stage.ask("GET", "/metrics", "accept: application/openmetrics-text; version=1.0.0\r\n").await;
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
}

#[tokio::test]
async fn the_api_shows_probes_and_services_of_the_snapshot() {
    let stage = stage().await;
    let (status, probes) = stage.get_json("/api/v1/probes").await;
    assert_eq!(status, 200);
    assert_eq!(probes["at_unix_ms"], 1_700_000_000_000u64);
    assert_eq!(probes["probes"][0]["state"], "unavailable");
    assert_eq!(probes["probes"][0]["reason"], "no \"BTF\"");
    let (status, services) = stage.get_json("/api/v1/services").await;
    assert_eq!(status, 200);
    assert_eq!(services["services"][0], serde_json::json!({"name": "nginx.service", "kind": "unit", "pids": [1, 2]}));
}

#[tokio::test]
async fn wrong_paths_and_methods_are_errors_in_json_with_a_hint() {
    let stage = stage().await;
    let (status, problem) = stage.get_json("/metric").await;
    assert_eq!(status, 404);
    assert_eq!(problem["error"], "there is nothing at /metric");
    assert!(problem["hint"].as_str().unwrap().contains("/metrics"));
    let (head, body) = stage.ask("DELETE", "/metrics", "").await;
    assert!(head.starts_with("HTTP/1.1 405 ") && head.to_lowercase().contains("allow: get"), "{head}");
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["hint"], "use GET or HEAD");
}

#[tokio::test]
async fn a_trace_ends_when_the_pipeline_lets_go_and_a_refusal_says_why() {
    let stage = stage().await;
    let (head, body) = stage.ask("GET", "/api/v1/postgres/trace?pid=7&min_duration=10ms&errors=true", "").await;
    assert!(status(&head) == 200 && head.contains("content-type: application/x-ndjson"), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("{\"kind\":\"skipped\",\"in_kernel\":1,\"in_agent\":2}\n"));
    let (status, problem) = stage.get_json("/api/v1/postgres/trace?service=").await;
    assert_eq!((status, &problem["error"]), (503, &"8 traces run already, which is the most there may be".into()));
}

#[tokio::test]
async fn a_parameter_that_cannot_be_is_refused_with_what_is_allowed() {
    let stage = stage().await;
    for (path, words) in [
        ("queries?role=both", "role = \"both\": allowed are client and server"),
        ("queries?window=5", "window = \"5\": a duration needs a unit"),
        ("queries?sort=color", "sort = \"color\": allowed are time, calls, errors, rows, mean, p99"),
        ("slow?limit=-1", "limit"),
        ("slow?datbase=x", "unknown field `datbase`"),
        ("trace?min_duration=soon", "min_duration = \"soon\": it is not a duration"),
    ] {
        let (status, problem) = stage.get_json(&format!("/api/v1/postgres/{path}")).await;
        assert_eq!(status, 400, "{path}");
        assert!(problem["error"].as_str().unwrap().contains(words), "{path}: {problem}");
    }
}

#[tokio::test]
async fn a_profile_of_the_past_is_asked_for_by_its_time_alone() {
    let stage = stage().await;
    for (query, code, words) in [
        ("from=-10m&to=-5m&service=x", 404, "nothing of [\"x\"]"),
        ("from=-10m&against_from=-20m&against_to=-10m", 404, "nothing of []"),
        ("from=-5m&to=-10m", 400, "from, to: -10m does not lie after -5m"),
        ("from=soon", 400, "from, to: \"soon\": it is no point in time"),
        ("to=-5m", 400, "to is given without from"),
        ("against_to=-5m&from=-1m", 400, "against_to is given without against_from"),
        ("against_from=-5m", 400, "against_from is given without from"),
        ("from=-5m&pid=1", 400, "pid cannot be asked for together with from"),
        ("from=-5m&kind=wall", 400, "kind cannot be asked for together with from"),
    ] {
        let (status, problem) = stage.get_json(&format!("/api/v1/flame?{query}")).await;
        assert_eq!(status, code, "{query}: {problem}");
        assert!(problem["error"].as_str().unwrap().contains(words), "{query}: {problem}");
    }
}

#[tokio::test]
async fn orders_about_alerts_are_carried_out_or_refused_with_a_reason_and_answers_are_as_described() {
    let stage = stage().await;
    let document = document();
    let schema = &document["components"]["schemas"]["AlertAnswer"];
    for (body, code, words) in [
        (r#"{"action":"acknowledge","id":3,"by":"me"}"#, 200, "open_files_high"),
        (r#"{"action":"acknowledge","id":4,"by":"me"}"#, 404, "there is no alert 4"),
        (r#"{"action":"silence","rule":"x","seconds":60,"by":"me","comment":"c"}"#, 200, "until_unix_ms"),
        (r#"{"action":"silence","seconds":60,"by":""}"#, 400, "by is empty"),
        (r#"{"action":"silence","secnds":60,"by":"me"}"#, 400, "unknown field `secnds`"),
        (r#"{"action":"unsilence","id":1}"#, 503, "alerts.enabled is false"),
        (r#"{"action":"test","rules":""}"#, 200, "tried"),
        (r#"{"action":"record"}"#, 200, "recorded"),
        (r#"{"action":"dance"}"#, 400, "unknown variant `dance`"),
    ] {
        let head = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        let request =
            format!("POST /api/v1/alerts HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{head}\r\n{body}");
        let answer = String::from_utf8(stage.send(request.as_bytes()).await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")) && answer.contains(words), "{body}: {answer}");
        if code == 200 {
            let json = answer.split_once("\r\n\r\n").unwrap().1;
            assert_described(&document, schema, &serde_json::from_str(json).unwrap(), body);
        }
    }
}

#[tokio::test]
async fn an_event_is_taken_as_json_alone_and_not_more_than_a_page_of_it() {
    let stage = stage().await;
    let post = async |media_type: &str, body: &str| {
        let head = format!("content-type: {media_type}\r\ncontent-length: {}\r\n", body.len());
        let request =
            format!("POST /api/v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{head}\r\n{body}");
        String::from_utf8(stage.send(request.as_bytes()).await).unwrap()
    };
    let answer = post("application/json; charset=utf-8", r#"{"text":"deploy 1.2"}"#).await;
    assert!(answer.starts_with("HTTP/1.1 201 ") && answer.contains(r#""text":"deploy 1.2""#), "{answer}");
    let huge = format!(r#"{{"text":"{}"}}"#, "x".repeat(10_000));
    for (media_type, body, code, words) in [
        ("text/plain", r#"{"text":"x"}"#, 415, "application/json"),
        ("application/json", r#"{"text":""}"#, 400, "text is empty"),
        ("application/json", r#"{"txt":"x"}"#, 400, "unknown field `txt`"),
        ("application/json", "nonsense", 400, "an event is such as"),
        ("application/json", &huge, 413, "limit"),
    ] {
        let answer = post(media_type, body).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")) && answer.contains(words), "{answer}");
    }
}

#[tokio::test]
async fn what_cannot_be_explained_says_why() {
    let stage = stage().await;
    for (query, code, words) in [
        ("service=nobody", 404, "there is no service"),
        ("to=-5m", 400, "to is given without from"),
        ("from=soon", 400, "no point in time"),
        ("servce=x", 400, "unknown field `servce`"),
    ] {
        let (status, problem) = stage.get_json(&format!("/api/v1/explain?{query}")).await;
        assert_eq!(status, code, "{query}: {problem}");
        assert!(problem["error"].as_str().unwrap().contains(words), "{query}: {problem}");
    }
    assert_eq!(stage.get_json("/api/v1/explain?from=-5m&to=-1m").await.1["service"], serde_json::Value::Null);
}

#[tokio::test]
async fn ready_is_503_until_the_first_snapshot() {
    let (snapshots, publisher) = handle_and_publisher();
    let bound = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = bound.address();
    let content = content(snapshots, desk().0, [].into());
    let stage = Stage { address, server: bound.serve(content, BOUNDS, open()) };
    assert_eq!(stage.get_json("/-/ready").await.0, 503);
    assert_eq!(status(&stage.ask("GET", "/-/healthy", "").await.0), 200);
    publisher.publish(Arc::new(snapshot()));
    assert_eq!(status(&stage.ask("GET", "/-/ready", "").await.0), 200);
    drop(publisher);
    let (status, problem) = stage.get_json("/metrics").await;
    assert_eq!((status, &problem["error"]), (503, &"there is no snapshot: the pipeline has stopped".into()));
}

#[tokio::test]
async fn a_panic_ends_the_request_and_not_the_server() {
    let first = AtomicBool::new(true);
    let render: Render = Arc::new(move |_| {
        assert!(!first.swap(false, std::sync::atomic::Ordering::Relaxed), "this panic belongs to the test");
        b"fine\n"[..].into()
    });
    let stage = stage_with(BOUNDS, render).await;
    assert_eq!(stage.get_json("/metrics").await.0, 500);
    assert_eq!(stage.ask("GET", "/metrics", "").await.1, b"fine\n");
}

#[tokio::test]
async fn a_pipeline_that_does_not_answer_is_a_503_in_time() {
    let (snapshots, _silent) = handle_and_publisher();
    let bound = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = bound.address();
    let content = content(snapshots, desk().0, [].into());
    let server = bound.serve(content, Bounds { timeout: Duration::from_millis(200), ..BOUNDS }, open());
    assert_eq!(Stage { address, server }.get_json("/metrics").await.0, 503);
}

#[tokio::test]
async fn whoever_sends_a_request_too_slowly_is_hung_up_on_and_the_others_are_served() {
    let stage =
        stage_with(Bounds { connections: 2, timeout: Duration::from_millis(300) }, Arc::new(|_| b"fine\n"[..].into()))
            .await;
    let started = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(stage.address).await.unwrap();
        stream.write_all(b"GET /metrics HT").await.unwrap();
        slow.push(stream);
    }
    assert_eq!(stage.ask("GET", "/metrics", "").await.1, b"fine\n");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    for mut stream in slow {
        let mut rest = Vec::new();
        let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.expect("hung up on");
    }
}

#[tokio::test]
async fn whoever_does_not_take_the_answer_is_hung_up_on() {
    let bounds = Bounds { connections: 1, timeout: Duration::from_millis(300) };
    // More than the socket buffers of both ends hold.
    let stage = stage_with(bounds, Arc::new(|_| vec![b'#'; 64 << 20].into())).await;
    let mut slow = TcpStream::connect(stage.address).await.unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    assert_eq!(status(&stage.ask("GET", "/-/healthy", "").await.0), 200, "the one connection is free again");
}

#[tokio::test]
async fn hostile_bytes_are_refused_and_the_server_goes_on() {
    let stage = stage().await;
    let mut noise = vec![0u8; 4096];
    let mut state = 1u32;
    noise.iter_mut().for_each(|byte| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    });
    let long_header = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(1 << 20));
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10_000));
    let postgres_startup = [0, 0, 0, 8, 4, 210, 22, 47];
    let requests: [&[u8]; 9] = [
        &noise,
        long_header.as_bytes(),
        many_headers.as_bytes(),
        &postgres_startup,
        b"\r\n\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"GET /%00%ff/../../etc/passwd HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    ];
    for request in requests {
        let answer = stage.send(request).await;
        let head = String::from_utf8_lossy(&answer);
        assert!(head.is_empty() || head.starts_with("HTTP/1.1 4"), "{head}");
    }
    assert_eq!(status(&stage.ask("GET", "/metrics", "").await.0), 200);
}

#[tokio::test]
async fn stopping_lets_a_request_in_progress_end_and_refuses_new_ones() {
    let (entered, in_progress) = std::sync::mpsc::channel();
    let render: Render = Arc::new(move |_| {
        let _ = entered.send(());
        std::thread::sleep(Duration::from_millis(200));
        b"fine\n"[..].into()
    });
    let stage = stage_with(BOUNDS, render).await;
    let address = stage.address;
    let client = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    tokio::task::spawn_blocking(move || in_progress.recv().unwrap()).await.unwrap();
    stage.server.stop(Duration::from_secs(5)).await;
    assert!(client.join().unwrap().ends_with("fine\n"));
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn stopping_does_not_wait_for_idle_connections() {
    let stage = stage().await;
    let mut idle = TcpStream::connect(stage.address).await.unwrap();
    idle.write_all(b"GET /-/healthy HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut some = [0; 15];
    idle.read_exact(&mut some).await.unwrap();
    let started = Instant::now();
    stage.server.stop(Duration::from_secs(5)).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_taken_port_is_named_with_what_to_do() {
    let stage = stage().await;
    let (address, port) = (stage.address, stage.address.port());
    assert_eq!(
        bind(address).await.unwrap_err().to_string(),
        format!(
            "cannot listen on {address}: the port is taken. To see who has it: ss -ltnp 'sport = :{port}'. To use another: \
             --listen 127.0.0.1:PORT, or the key `listen`"
        )
    );
}

fn document() -> serde_json::Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[tokio::test]
async fn the_openapi_file_describes_every_path_and_answer() {
    let document = document();
    let described = document["paths"].as_object().unwrap();
    assert_eq!(
        described.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        PATHS.iter().copied().collect::<BTreeSet<_>>()
    );
    let stage = stage().await;
    for (path, operations) in described {
        let (head, body) = stage.ask("GET", path, "").await;
        let answer = &operations["get"]["responses"][status(&head).to_string()]["content"];
        let media_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap();
        let media_type = media_type.split(';').next().unwrap();
        assert!(answer.get(media_type).is_some(), "{path} answers with {media_type}: {head}");
        // A stream comes in chunks, with their lengths on lines of their own.
        for line in body.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{")) {
            let body: serde_json::Value = serde_json::from_slice(line).unwrap();
            let name = answer[media_type]["schema"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap();
            assert_described(&document, &document["components"]["schemas"][name], &body, path);
        }
    }
}

/// That every field of an answer is in its schema, and every required field of the schema in the answer.
fn assert_described(document: &serde_json::Value, schema: &serde_json::Value, value: &serde_json::Value, at: &str) {
    let named =
        schema["$ref"].as_str().map(|name| &document["components"]["schemas"][name.rsplit('/').next().unwrap()]);
    let schema = named.unwrap_or(schema);
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                // A map by names that are not known beforehand has one schema for all.
                let described = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                let described = described.unwrap_or_else(|| panic!("{at}.{name} is not described"));
                assert_described(document, described, field, &format!("{at}.{name}"));
            }
            for required in schema["required"].as_array().into_iter().flatten() {
                assert!(fields.contains_key(required.as_str().unwrap()), "{at} lacks {required}");
            }
        }
        serde_json::Value::Array(items) => {
            items.iter().for_each(|item| assert_described(document, &schema["items"], item, at));
        }
        serde_json::Value::String(text) => {
            assert_eq!(schema["type"], "string", "{at}");
            let allowed = schema["enum"].as_array();
            assert!(allowed.is_none_or(|words| words.iter().any(|word| word == text)), "{at} = {text}");
        }
        serde_json::Value::Number(number) if number.is_f64() => assert_eq!(schema["type"], "number", "{at}"),
        serde_json::Value::Number(_) => assert_eq!(schema["type"], "integer", "{at}"),
        serde_json::Value::Bool(_) => assert_eq!(schema["type"], "boolean", "{at}"),
        serde_json::Value::Null => assert_eq!(schema["nullable"], true, "{at}"),
    }
}
