//! Who may reach a real agent, and how: TLS, tokens, roles, what is written down, and what is switched while it runs.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use steth_tests::{
    agent::{Agent, Options, steth},
    exposition::Exposition,
    need_bpf, need_program,
    receiver::Certificates,
    tokens::Tokens,
    wait,
};

const SEEN: Duration = Duration::from_secs(60);

fn port(agent: &Agent) -> &str {
    agent.address().rsplit_once(':').unwrap().1
}

/// Asks over plain HTTP; the status and the body.
fn ask(agent: &Agent, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port(agent).parse().unwrap())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n{token}\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// `steth alerts` through a URL; the exit code and all that was said.
fn alerts(agent: &Agent, more: &[&str]) -> (Option<i32>, String) {
    let url = format!("https://localhost:{}", port(agent));
    let (code, out, said) = steth(&[&["alerts", "--url", &url], more].concat()).unwrap();
    (code, out + &said)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn another_address_than_loopback_is_refused_without_tls_and_tokens() {
    let refusal = Agent::refused(&Options { listen: Some("0.0.0.0:0".into()), ..Options::default() }).unwrap();
    assert_eq!(refusal.code, Some(2));
    assert!(refusal.said.contains("only loopback is served without TLS and tokens"), "{}", refusal.said);
    assert!(refusal.said.contains("steth token new"), "{}", refusal.said);
    let tokens = Tokens::make().unwrap();
    let sections =
        format!("[http]\ncertificate = \"/nonexistent\"\nkey = \"/nonexistent\"\ntokens = {:?}\n", tokens.file());
    let refusal =
        Agent::refused(&Options { listen: Some("0.0.0.0:0".into()), sections, ..Options::default() }).unwrap();
    assert!(
        refusal.code == Some(1) && refusal.said.contains("http.certificate = \"/nonexistent\""),
        "{}",
        refusal.said
    );
}

#[test]
fn with_tls_and_a_token_an_agent_answers_from_any_address_and_secrets_are_exchanged_while_it_runs() {
    need_program!("openssl");
    let (certificates, tokens) = (Certificates::make().unwrap(), Tokens::make().unwrap());
    let own = |name: &str| tokens.path(name);
    for name in ["own.pem", "own.key"] {
        fs::copy(certificates.path(name), own(name)).unwrap();
    }
    let sections = format!(
        "[http]\ntimeout = \"60s\"\ncertificate = {:?}\nkey = {:?}\ntokens = {:?}\n",
        own("own.pem"),
        own("own.key"),
        tokens.file()
    );
    let agent = Agent::start(&Options { listen: Some("0.0.0.0:0".into()), sections, ..Options::default() }).unwrap();
    assert!(agent.url.starts_with("https://0.0.0.0:"), "{}", agent.url);

    // In the open nothing is said but that.
    let (status, body) = ask(&agent, "GET", "/metrics", Some(&tokens.token("viewer").unwrap()), "");
    assert!(status == 400 && body.contains("this port speaks HTTPS"), "{status} {body}");

    let (ca, viewer) = (certificates.path("ca.pem"), tokens.path("viewer"));
    let secure = ["--ca-file", text(&ca)];
    let as_viewer = [&secure[..], &["--token-file", text(&viewer)]].concat();
    let (code, said) = alerts(&agent, &as_viewer);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = alerts(&agent, &secure);
    assert!(code == Some(1) && said.contains("a token is needed"), "{said}");
    let (code, said) = alerts(&agent, &[&["unsilence", "1"], &as_viewer[..]].concat());
    assert!(code == Some(1) && said.contains("this is for the role operator, and you have viewer"), "{said}");
    let (code, said) =
        alerts(&agent, &["--ca-file", text(&certificates.path("other.pem")), "--token-file", text(&viewer)]);
    assert!(code == Some(1) && said.contains("no TLS with https://localhost"), "{said}");
    // Without --ca-file those that the host trusts, who did not sign it.
    let (code, said) = alerts(&agent, &["--token-file", text(&viewer)]);
    assert!(code == Some(1) && said.contains("no TLS with https://localhost"), "{said}");

    // A new token, then a new certificate, which nobody trusts.
    let old = tokens.token("viewer").unwrap();
    let line = tokens.add("viewer").unwrap();
    fs::write(tokens.file(), line).unwrap();
    agent.reload("", "").unwrap();
    wait::poll("the new token", SEEN, || Ok(Some(()).filter(|()| alerts(&agent, &as_viewer).0 == Some(0)))).unwrap();
    fs::write(&viewer, &old).unwrap();
    let (code, said) = alerts(&agent, &as_viewer);
    assert!(code == Some(1) && said.contains("this token is not known here"), "{said}");
    for (from, to) in [("other.pem", "own.pem"), ("other.key", "own.key")] {
        fs::copy(certificates.path(from), own(to)).unwrap();
    }
    agent.reload("", "").unwrap();
    let refused = || Ok(Some(()).filter(|()| alerts(&agent, &as_viewer).1.contains("no TLS with")));
    wait::poll("the new certificate", SEEN, refused).unwrap();

    // A token that is no more, in a file that is none: who relies on its revocation is told that nothing was taken over.
    fs::write(tokens.file(), "# nobody\nthis is no token\n").unwrap();
    let config = agent.config.to_str().unwrap();
    let (code, _, said) = steth(&["config", "check", "--files", config]).unwrap();
    assert!(code == Some(2) && said.contains("tokens"), "{code:?} {said}");
    agent.reload("", "").unwrap();
    wait::poll("a refusal", SEEN, || {
        Ok(agent.log().contains("SIGHUP: the new configuration is refused").then_some(()))
    })
    .unwrap();

    // Nothing of it is where others can read it.
    let proc = PathBuf::from(format!("/proc/{}", agent.id()));
    let shown = ["cmdline", "environ"].map(|name| fs::read(proc.join(name)).unwrap_or_default()).concat();
    let audit = fs::read_to_string(agent.audit.join("audit.jsonl")).unwrap();
    for secret in [
        old,
        tokens.token("viewer").unwrap(),
        tokens.token("admin").unwrap(),
        fs::read_to_string(own("own.key")).unwrap(),
    ] {
        let secret = secret.trim();
        assert!(!String::from_utf8_lossy(&shown).contains(secret) && !agent.log().contains(secret));
        assert!(!audit.contains(secret));
    }
    assert_eq!(fs::metadata(agent.audit.join("audit.jsonl")).unwrap().permissions().mode() & 0o777, 0o600);
    let lines: Vec<serde_json::Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let has = |who: Option<&str>, method: &str, status: u16| {
        let is = |line: &&serde_json::Value| {
            line["who"].as_str() == who && line["method"] == method && line["status"] == status
        };
        assert!(lines.iter().find(is).is_some(), "{who:?} {method} {status}: {audit}");
    };
    has(Some("viewer"), "GET", 200);
    has(Some("viewer"), "POST", 403);
    has(None, "GET", 401);
}

#[test]
fn where_clients_need_certificates_a_token_alone_is_not_enough() {
    need_program!("openssl");
    let (certificates, tokens) = (Certificates::make().unwrap(), Tokens::make().unwrap());
    let (ca, own, key) = (certificates.path("ca.pem"), certificates.path("own.pem"), certificates.path("own.key"));
    let sections = format!(
        "[http]\ntimeout = \"60s\"\ncertificate = {own:?}\nkey = {key:?}\nclient_ca = {ca:?}\ntokens = {:?}\n",
        tokens.file()
    );
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let viewer = tokens.path("viewer");
    let asked = ["--ca-file", text(&ca), "--token-file", text(&viewer)];
    assert_eq!(alerts(&agent, &asked).0, Some(1));
    let (stranger, its_key) = (certificates.path("other.pem"), certificates.path("other.key"));
    let as_stranger = [&asked[..], &["--certificate", text(&stranger), "--key", text(&its_key)]].concat();
    assert_eq!(alerts(&agent, &as_stranger).0, Some(1));
    let (code, said) = alerts(&agent, &[&asked[..], &["--certificate", text(&own), "--key", text(&key)]].concat());
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn an_admin_switches_features_while_the_agent_runs_and_a_reload_switches_them_back() {
    need_bpf!();
    let tokens = Tokens::make().unwrap();
    let sections =
        format!("[http]\ntimeout = \"60s\"\ntokens = {:?}\n[probes]\nown = true\ntls = false\n", tokens.file());
    let agent = Agent::start(&Options { sections, ..Options::default() }).unwrap();
    let (viewer, admin) = (tokens.token("viewer").unwrap(), tokens.token("admin").unwrap());
    let scrape = || {
        let (status, text) = ask(&agent, "GET", "/metrics", Some(&viewer), "");
        assert_eq!(status, 200, "{text}");
        Exposition::parse(&text).unwrap()
    };
    let is = |feature: &str, state: &str| {
        scrape().sum("steth_feature_state", &[("feature", feature), ("state", state)]) == 1.0
    };
    let attached = |probe: &str| scrape().sum("steth_probe_attached", &[("probe", probe)]) == 1.0;
    // The first window says it.
    let begun = || Ok(Some(()).filter(|()| is("wall", "on") && is("tls", "off") && attached("inet_sock_set_state")));
    wait::poll("the features", SEEN, begun).unwrap();
    for (token, order, status) in [
        (&viewer, r#"{"key":"probes.tcp","value":"false"}"#, 403),
        (&admin, r#"{"key":"probes.tcp","value":"maybe"}"#, 400),
        (&admin, r#"{"key":"listen","value":"0.0.0.0:1"}"#, 409),
        (&admin, r#"{"key":"alerts.files","value":"/etc/shadow"}"#, 409),
        (&admin, r#"{"key":"probes.tcp","value":"false"}"#, 200),
        (&admin, r#"{"key":"host.node","value":"false"}"#, 200),
    ] {
        assert_eq!(ask(&agent, "POST", "/api/v1/settings", Some(token), order).0, status, "{order}");
    }
    let gone =
        || Ok(Some(()).filter(|()| is("tcp", "off") && !attached("inet_sock_set_state") && attached("sys_exit")));
    wait::poll("tcp switched off", SEEN, gone).unwrap();
    let families = scrape();
    assert!(families.sum("node_load1", &[]) == 0.0 && is("syscalls", "on"));
    let (_, probes) = ask(&agent, "GET", "/api/v1/probes", Some(&viewer), "");
    assert!(probes.contains(r#"{"feature":"tcp","state":"off"}"#), "{probes}");
    // All others too, and with the last of them no program is left.
    for key in ["wall", "sockets", "postgres", "profiles", "syscalls"].map(|feature| format!("probes.{feature}")) {
        let order = format!(r#"{{"key":"{key}","value":"false"}}"#);
        assert_eq!(ask(&agent, "POST", "/api/v1/settings", Some(&admin), &order).0, 200, "{order}");
    }
    let order = r#"{"key":"host.processes","value":"false"}"#;
    assert_eq!(ask(&agent, "POST", "/api/v1/settings", Some(&admin), order).0, 200);
    let none = || {
        let metrics = scrape();
        let off = metrics.sum("steth_feature_state", &[("state", "off")]);
        let (left, groups) =
            (metrics.sum("steth_probe_attached", &[]), metrics.sum("namedprocess_namegroup_num_procs", &[]));
        Ok((off == 7.0 && groups == 0.0 && !attached("sys_exit") && !attached("sched_switch")).then_some(left))
    };
    println!("programs that stay, for who is who: {}", wait::poll("all switched off", SEEN, none).unwrap());
    // The file says otherwise, and something else that is new.
    agent.reload("tls = false", "tls = false\nwall = false").unwrap();
    let back = || {
        Ok(Some(()).filter(|()| is("tcp", "on") && is("syscalls", "on") && is("wall", "off") && attached("sys_exit")))
    };
    wait::poll("what the file says", SEEN, back).unwrap();
    assert!(agent.stop().unwrap().success());
}
