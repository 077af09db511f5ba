//! Who is admitted to what, and what is written down of it.

use std::{fs, path::PathBuf};

use super::*;
use crate::config::tokens::{self, Role};

/// A server with a token of each role, an audit log and a rate.
struct Guarded {
    stage: Stage,
    folder: tempfile::TempDir,
    tokens: Vec<(Role, String)>,
    config: Config,
}

async fn stage_of_roles(rate: usize) -> Guarded {
    let folder = tempfile::tempdir().unwrap();
    let tokens: Vec<_> = Role::ALL.iter().map(|(_, role)| (*role, tokens::fresh().unwrap())).collect();
    let lines: Vec<_> = tokens.iter().map(|(role, token)| tokens::line(role.name(), *role, token)).collect();
    let path = folder.path().join("tokens");
    fs::write(&path, lines.join("\n")).unwrap();
    let mut config = Config::default();
    config.http.tokens = Some(path);
    config.http.rate = rate;
    config.audit.folder = folder.path().join("audit");
    let guard = Guard::start(&config).unwrap();
    let stage = guarded(BOUNDS, Arc::new(|_| b"steth_build_info 1\n".to_vec().into()), guard).await;
    Guarded { stage, folder, tokens, config }
}

impl Guarded {
    async fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String, String) {
        let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        let length = body.len();
        let head = format!("{token}content-type: application/json\r\ncontent-length: {length}\r\n");
        let request = format!("{method} {path} HTTP/1.1\r\nhost: any.name\r\nconnection: close\r\n{head}\r\n{body}");
        let answer = String::from_utf8(self.stage.send(request.as_bytes()).await).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (status(head), head.to_owned(), body.to_owned())
    }

    fn token(&self, role: Role) -> Option<&str> {
        self.tokens.iter().find(|(of, _)| *of == role).map(|(_, token)| token.as_str())
    }

    /// The lines of the audit log, when there are so many.
    async fn audited(&self, count: usize) -> Vec<serde_json::Value> {
        let path: PathBuf = self.folder.path().join("audit/audit.jsonl");
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let text = fs::read_to_string(&path).unwrap_or_default();
            if text.lines().count() >= count {
                return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            }
            assert!(Instant::now() < until, "{text}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Every operation of the OpenAPI file: path, method, the least role, an order that is one.
fn operations() -> Vec<(String, String, Option<Role>, &'static str)> {
    let document = document();
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    assert_eq!(document["security"], serde_json::json!([{ "token": [] }]));
    let mut all = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let role = match operation.get("x-role") {
                Some(role) => Some(Role::named(role.as_str().unwrap()).unwrap()),
                None => {
                    assert_eq!(operation["security"], serde_json::json!([]), "{method} {path}");
                    None
                }
            };
            let body = match (method.as_str(), path.as_str()) {
                ("get", _) => "",
                (_, "/api/v1/alerts") => r#"{"action":"acknowledge","id":3,"by":"me"}"#,
                // No order: one that names a profile that is not being taken is answered with 404.
                (_, "/api/v1/flame") => "{}",
                (_, "/api/v1/events") => r#"{"text":"deploy"}"#,
                _ => r#"{"key":"probes.wall","value":"false"}"#,
            };
            all.push((path.clone(), method.to_uppercase(), role, body));
        }
    }
    assert!(all.len() > PATHS.len());
    all
}

#[tokio::test]
async fn each_operation_is_for_the_role_that_the_openapi_file_says_and_for_those_above() {
    let stage = stage_of_roles(1_000_000).await;
    for (path, method, needed, body) in operations() {
        for (presented, role) in [(None, None), (Some("steth_wrong"), None)]
            .into_iter()
            .chain(stage.tokens.iter().map(|(role, token)| (Some(token.as_str()), Some(*role))))
        {
            let (status, head, answer) = stage.ask(&method, &path, presented, body).await;
            let expected = match (needed, role) {
                (None, _) => None,
                (Some(_), None) => Some(401),
                (Some(needed), Some(role)) => (role < needed).then_some(403),
            };
            match expected {
                Some(code) => {
                    assert_eq!(status, code, "{method} {path} as {role:?}: {answer}");
                    assert!(answer.contains("steth token new") && !answer.contains("steth_wrong"), "{answer}");
                    assert_eq!(head.contains("www-authenticate: Bearer"), code == 401, "{head}");
                }
                None => {
                    assert!(![401, 403, 404, 405].contains(&status), "{method} {path} as {role:?}: {status} {answer}")
                }
            }
        }
    }
    // What there is not is not told to who has no token.
    assert_eq!(stage.ask("GET", "/nothing", None, "").await.0, 401);
    assert_eq!(stage.ask("GET", "/nothing", stage.token(Role::Viewer), "").await.0, 404);
}

#[tokio::test]
async fn a_viewer_sees_no_statement_at_any_path() {
    let stage = stage_of_roles(1_000_000).await;
    // As `answers` makes them.
    let texts = ["select * from orders", "select * from items"];
    let mut seen_by_operator = 0;
    for (path, method, _, body) in operations().into_iter().filter(|(_, method, ..)| method == "GET") {
        let (_, head, answer) = stage.ask(&method, &path, stage.token(Role::Viewer), body).await;
        for text in texts {
            assert!(!answer.contains(text) && !head.contains(text), "{path} shows a viewer {text:?}: {answer}");
        }
        let (_, _, answer) = stage.ask(&method, &path, stage.token(Role::Operator), body).await;
        seen_by_operator += usize::from(texts.iter().any(|text| answer.contains(text)));
    }
    assert_eq!(seen_by_operator, 4, "queries, slow, n_plus_one and trace");
}

#[tokio::test]
async fn every_answer_bears_the_headers_that_hold_browsers_back() {
    let stage = stage_of_roles(1_000_000).await;
    for (path, method, _, body) in operations() {
        for token in [None, stage.token(Role::Admin)] {
            let (_, head, _) = stage.ask(&method, &path, token, body).await;
            for line in [
                "x-content-type-options: nosniff",
                "x-frame-options: DENY",
                "referrer-policy: no-referrer",
                "cache-control: no-store",
                "cross-origin-resource-policy: same-origin",
                "content-security-policy: default-src 'none';",
            ] {
                assert!(head.contains(line), "{path} lacks {line}: {head}");
            }
        }
    }
}

#[tokio::test]
async fn the_audit_log_says_who_read_and_changed_what_from_where_and_no_token() {
    let stage = stage_of_roles(1_000_000).await;
    stage.ask("GET", "/metrics?x=1", stage.token(Role::Viewer), "").await;
    let order = r#"{"action":"acknowledge","id":3,"by":"me"}"#;
    stage.ask("POST", "/api/v1/alerts", stage.token(Role::Operator), order).await;
    stage.ask("POST", "/api/v1/settings", stage.token(Role::Admin), r#"{"key":"probes.wall","value":"false"}"#).await;
    stage.ask("POST", "/api/v1/settings", stage.token(Role::Viewer), r#"{"key":"probes.wall","value":"false"}"#).await;
    stage.ask("GET", "/metrics", Some("steth_wrong"), "").await;
    let lines = stage.audited(5).await;
    let shown = |line: &serde_json::Value| {
        let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
        format!(
            "{} {} {} {} {} {}",
            text("who"),
            text("role"),
            text("method"),
            text("path"),
            line["status"],
            text("changed")
        )
    };
    assert_eq!(
        lines.iter().map(shown).collect::<Vec<_>>(),
        [
            "viewer viewer GET /metrics 200 -",
            "operator operator POST /api/v1/alerts 200 acknowledged alert 3 as me",
            "admin admin POST /api/v1/settings 200 probes.wall = false",
            "viewer viewer POST /api/v1/settings 403 -",
            "- - GET /metrics 401 -",
        ]
    );
    assert!(lines.iter().all(|line| line["from"].as_str().unwrap().starts_with("127.0.0.1:")));
    assert_eq!(lines[0]["query"], "x=1");
    let text = fs::read_to_string(stage.folder.path().join("audit/audit.jsonl")).unwrap();
    assert!(!text.contains("steth_"), "{text}");
}

#[tokio::test]
async fn a_change_is_written_down_though_nobody_waits_for_its_answer() {
    let stage = stage_of_roles(1_000_000).await;
    let body = format!(r#"{{"key":"{NEVER_ANSWERED}","value":"false"}}"#);
    let head = "POST /api/v1/settings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let token = stage.token(Role::Admin).unwrap();
    let request = format!("{head}content-length: {}\r\nauthorization: Bearer {token}\r\n\r\n{body}", body.len());
    let mut stream = TcpStream::connect(stage.stage.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    // It is asked for by then, or at least not answered.
    assert!(timeout(Duration::from_millis(200), stream.read_u8()).await.is_err());
    drop(stream);
    let line = stage.audited(1).await.remove(0);
    assert_eq!((line["who"].as_str(), line["status"].as_u64()), (Some("admin"), Some(499)), "{line}");
    assert_eq!(line["changed"], format!("perhaps: {NEVER_ANSWERED} = false"));
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again_and_others_are_served() {
    let stage = stage_of_roles(2).await;
    let mut refused = None;
    for _ in 0..10 {
        let (status, head, _) = stage.ask("GET", "/metrics", stage.token(Role::Viewer), "").await;
        if status == 429 {
            refused = Some(head);
            break;
        }
        assert_eq!(status, 200);
    }
    assert!(refused.expect("a refusal").contains("retry-after: 1"));
    assert_eq!(stage.ask("GET", "/metrics", stage.token(Role::Admin), "").await.0, 200);
    // Guessing is dear: one wrong token, and the peer without one has to wait.
    assert_eq!(stage.ask("GET", "/metrics", Some("steth_guess"), "").await.0, 401);
    let (status, head, _) = stage.ask("GET", "/metrics", Some("steth_guess"), "").await;
    assert!(status == 429 && head.contains("retry-after: "), "{head}");
    let refused = |reason: &str| {
        let series = stage.stage.server.series();
        let one = series.iter().find(|series| series.labels.first().is_some_and(|label| *label == *reason)).unwrap();
        format!("{:?}", one.value)
    };
    assert_ne!(refused("rate"), refused("tls"));
}

#[tokio::test]
async fn tokens_are_exchanged_without_a_restart_and_a_broken_file_changes_nothing() {
    let stage = stage_of_roles(1_000_000).await;
    let path = stage.config.http.tokens.clone().unwrap();
    let next = tokens::fresh().unwrap();
    fs::write(&path, "this is no line").unwrap();
    stage.stage.server.reload(&stage.config);
    assert_eq!(stage.ask("GET", "/metrics", stage.token(Role::Viewer), "").await.0, 200);
    fs::write(&path, tokens::line("next", Role::Viewer, &next)).unwrap();
    stage.stage.server.reload(&stage.config);
    assert_eq!(stage.ask("GET", "/metrics", stage.token(Role::Viewer), "").await.0, 401);
    assert_eq!(stage.ask("GET", "/metrics", Some(&next), "").await.0, 200);
    // An address that others reach is never left without them, whatever is read again.
    let open = Config { listen: ([0, 0, 0, 0], 1).into(), ..Config::default() };
    stage.stage.server.reload(&open);
    assert_eq!(stage.ask("GET", "/metrics", None, "").await.0, 401);
}

#[tokio::test]
async fn without_tokens_loopback_is_an_operator_and_pages_of_other_names_get_nothing() {
    let stage = stage().await;
    assert_eq!(stage.get_json("/api/v1/postgres/slow").await.0, 200);
    let (status, problem) = stage.get_json("/api/v1/settings").await;
    assert!(status == 403 && problem["hint"].as_str().unwrap().contains("http.tokens"), "{problem}");
    let answer = stage.send(b"GET /metrics HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with(b"HTTP/1.1 421 "), "{}", String::from_utf8_lossy(&answer));
}
