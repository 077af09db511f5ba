//! How people are told: mail over an encrypted way, Slack, a storm of conditions; and rules that are tried on windows of a file.

use std::time::Instant;

use serde_json::Value;
use steth_tests::{
    agent::steth,
    exposition::Exposition,
    need_bpf, need_program,
    process::{Process, command},
    programs::{HOLD_RESOURCES, Program},
    receiver::{Certificates, Receiver},
    sink::Sink,
    stage::{Stage, TOLD, hold_files},
    wait,
};

#[test]
fn mail_goes_over_an_encrypted_way_or_not_at_all() {
    need_bpf!();
    need_program!("python3", "openssl", "gcc");
    let certificates = Certificates::make().unwrap();
    let path = |name: &str| certificates.path(name).display().to_string();
    let server = |more: &[&str]| {
        Receiver::run("smtp.py", &[&[&path("own.pem"), &path("own.key"), "steth", "the-password"], more].concat())
            .unwrap()
    };
    let (right, plain) = (server(&[]), server(&["plain"]));
    let folder = tempfile::tempdir().unwrap();
    let (password, wrong) = (folder.path().join("password"), folder.path().join("wrong"));
    std::fs::write(&password, "the-password\n").unwrap();
    std::fs::write(&wrong, "another\n").unwrap();
    let channel = |name: &str, port: u16, authority: &str, password: &std::path::Path| {
        format!(
            "[[channel]]\nname = \"{name}\"\nkind = \"email\"\nemail = {{ host = \"localhost\", port = {port}, ca_file = {:?}, \
             username = \"steth\", password_file = {:?}, from = \"steth@example.org\", to = [\"ops@example.org\", \
             \"a@example.org\"] }}\n",
            path(authority),
            password.display().to_string()
        )
    };
    let stage = Stage::new(
        &[
            channel("mail", right.port, "ca.pem", &password),
            channel("stranger", right.port, "other.pem", &password),
            channel("liar", right.port, "ca.pem", &wrong),
            channel("open", plain.port, "ca.pem", &password),
        ]
        .concat(),
    );
    let agent = stage.agent();
    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let mut holder = hold_files(&program);
    let mail = |what: &str, begin: &str| {
        let is_it = |mail: &Value| {
            let body = mail["body"].as_str().unwrap();
            mail["subject"].as_str().unwrap().starts_with(begin) && body.contains(&program.name)
        };
        wait::poll(what, TOLD, || Ok(right.mails()?.into_iter().find(is_it))).unwrap()
    };
    let firing = mail("a mail", "[FIRING:");
    assert_eq!((&firing["encrypted"], &firing["proven"]), (&true.into(), &true.into()), "{firing:#}");
    assert_eq!((&firing["sender"], &firing["to"][1]), (&"steth@example.org".into(), &"a@example.org".into()));
    assert!(firing["subject"].as_str().unwrap().contains("open_files_high on "), "{firing:#}");
    for part in ["has used 9", "  since 2", "  step: ls -l /proc/PID/fd", "  impact: "] {
        assert!(firing["body"].as_str().unwrap().contains(part), "{part}: {firing:#}");
    }
    for name in ["stranger", "liar", "open"] {
        let failed = |all: &Exposition| {
            let of = |outcome| all.sum("steth_alert_notices_total", &[("channel", name), ("outcome", outcome)]);
            of("failed") > 0.0 && of("arrived") == 0.0
        };
        agent.scrape_until(&format!("a failed notice of {name}"), failed).unwrap();
    }
    assert!(plain.mails().unwrap().is_empty() && !agent.log().contains("the-password"), "{}", agent.log());
    holder.signal("KILL").unwrap();
    drop(holder.wait(TOLD));
    mail("a mail that it is over", "[RESOLVED:");
    assert!(agent.stop().unwrap().success());
}

#[test]
fn what_was_found_stands_with_its_evidence_and_a_step_in_the_message_of_each_channel() {
    need_bpf!();
    need_program!("python3", "openssl", "gcc");
    let (certificates, slack) = (Certificates::make().unwrap(), Sink::start().unwrap());
    let path = |name: &str| certificates.path(name).display().to_string();
    let server = Receiver::run("smtp.py", &[&path("own.pem"), &path("own.key"), "steth", "the-password"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (password, url) = (folder.path().join("password"), folder.path().join("slack.url"));
    std::fs::write(&password, "the-password\n").unwrap();
    std::fs::write(&url, slack.url()).unwrap();
    let channels = format!(
        "[[channel]]\nname = \"chat\"\nkind = \"slack\"\nurl_file = {:?}\n[[channel]]\nname = \"mail\"\nkind = \"email\"\nemail = {{ \
         host = \"localhost\", port = {}, ca_file = {:?}, username = \"steth\", password_file = {:?}, from = \
         \"steth@example.org\", to = [\"ops@example.org\"] }}\n",
        url.display().to_string(),
        server.port,
        path("ca.pem"),
        password.display().to_string()
    );
    // What is found is found in the windows before it is told.
    let lasts = ("clear = 0.7\nsummary = \"a process", "clear = 0.7\nfor = \"15s\"\nsummary = \"a process");
    let stage = Stage::with(&channels, &[lasts]);
    let agent = stage.agent();
    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let name = program.name.as_str();
    let _holder = hold_files(&program);
    let found = format!("a process of {name} has used 9");
    let evidence = format!("namedprocess_namegroup_worst_fd_ratio{{groupname=\"{name}\"}}");
    let step = "ls -l /proc/PID/fd";
    let alert = stage.told("open_files_high", name, "firing");
    let said = |part: &str| alert["annotations"][part].as_str().unwrap_or_default().to_owned();
    let findings = said("findings");
    eprintln!("{findings}");
    assert!(findings.lines().any(|line| line.starts_with(&found)), "{alert:#}");
    assert!(findings.lines().any(|line| line.starts_with("  ") && line.contains(&evidence)), "{alert:#}");
    assert!(said("step").starts_with(step), "{alert:#}");
    let holds_all = |text: &str| [&found, &evidence, step].iter().all(|part| text.contains(*part));
    let mail = wait::poll("a mail", TOLD, || {
        let of_us = |mail: &Value| mail["body"].as_str().is_some_and(|body| body.contains(name));
        Ok(server.mails()?.into_iter().find(of_us))
    })
    .unwrap();
    assert!(holds_all(mail["body"].as_str().unwrap()), "{mail:#}");
    let in_chat = |post: &Value| {
        let blocks = post["blocks"].as_array()?.iter();
        blocks.filter_map(|block| block["text"]["text"].as_str()).find(|text| text.contains(name)).map(str::to_owned)
    };
    let text = slack.wait_for("a post to Slack", TOLD, in_chat).unwrap();
    assert!(holds_all(&text) && text.contains("_findings_: "), "{text}");
    assert!(agent.stop().unwrap().success());
}

/// What Slack takes (docs.slack.dev/reference/block-kit/blocks): at most 50 blocks, in a section a text of 1 to 3,000 characters.
fn assert_taken_by_slack(message: &Value) {
    assert!(message["text"].as_str().is_some_and(|text| !text.is_empty()), "{message:#}");
    let blocks = message["blocks"].as_array().unwrap();
    assert!((1..=50).contains(&blocks.len()), "{}", blocks.len());
    for block in blocks {
        assert_eq!((&block["type"], &block["text"]["type"]), (&"section".into(), &"mrkdwn".into()), "{block:#}");
        let length = block["text"]["text"].as_str().unwrap().chars().count();
        assert!((1..=3_000).contains(&length), "{length}");
    }
}

#[test]
fn a_storm_of_a_thousand_conditions_is_a_handful_of_notices_and_a_count() {
    need_bpf!();
    const SERVICES: usize = 500;
    let slack = Sink::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().join("slack.url");
    std::fs::write(&url, slack.url()).unwrap();
    let rule = |name: &str, metric: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\nmetric = \"namedprocess_namegroup_{metric}\"\nmatch = {{ groupname = \"storm-*\" \
             }}\nabove = 0.5\nsummary = \"{{groupname}} <is> there\"\n"
        )
    };
    let channel =
        format!("[[channel]]\nname = \"chat\"\nkind = \"slack\"\nurl_file = {:?}\n", url.display().to_string());
    let stage = Stage::of_rules(&(rule("procs", "num_procs") + &rule("threads", "num_threads")), &channel);
    let agent = stage.agent();
    std::fs::copy("/bin/sleep", folder.path().join("storm")).unwrap();
    let began = Instant::now();
    let processes: Vec<Process> = (0..SERVICES)
        .map(|at| {
            let program = folder.path().join(format!("storm-{at:03}"));
            std::fs::hard_link(folder.path().join("storm"), &program).unwrap();
            let mut sleep = command(&program, None);
            sleep.arg("600");
            Process::start("storm", sleep).unwrap()
        })
        .collect();
    eprintln!("{SERVICES} services after {:?}", began.elapsed());
    // The last notice of each rule holds what fires, or counts it.
    let last = |sink: &Sink, rule: &str| {
        let posts = sink.posts();
        let of_rule = posts.iter().rev().find(|(_, post)| post["groupLabels"]["alertname"] == rule);
        of_rule.map_or(0, |(_, post)| {
            let shown = post["alerts"].as_array().unwrap().len();
            assert!(shown <= 50, "{shown}");
            shown + post["truncatedAlerts"].as_u64().unwrap() as usize
        })
    };
    wait::poll("all are told or counted", TOLD, || {
        let all = [last(&stage.sink, "procs"), last(&stage.sink, "threads")];
        Ok((all == [SERVICES; 2]).then_some(()))
    })
    .unwrap();
    let (notices, took) = (stage.sink.posts().len(), began.elapsed().as_secs());
    eprintln!("{notices} notices of {} conditions in {took} s", 2 * SERVICES);
    // Each rule at most once a second, which is its pace here; by default it is once in ten.
    assert!(notices as u64 <= 2 * (took + 2), "{notices} in {took} s");
    agent
        .scrape_until("all of them, counted", |all| {
            all.sum("steth_alerts", &[("state", "firing")]) >= 2.0 * SERVICES as f64
        })
        .unwrap();
    let metrics = agent.scrape().unwrap();
    assert_eq!(metrics.sum("steth_alerts_lost_total", &[]), 0.0);
    wait::poll("Slack is told of both rules", TOLD, || Ok((slack.posts().len() >= 2).then_some(()))).unwrap();
    for (_, message) in slack.posts() {
        assert_taken_by_slack(&message);
        assert!(!message.to_string().contains("<is>"), "{message:#}");
    }
    let all = slack.posts().iter().map(|(_, message)| message.to_string()).collect::<String>();
    assert!(all.contains("firing") && all.contains("&lt;is&gt; there") && all.contains(" more"), "{all}");
    drop(processes);
    assert!(agent.stop().unwrap().success());
}

#[test]
fn rules_are_tried_on_the_windows_of_a_file_without_an_agent() {
    need_bpf!();
    need_program!("gcc");
    let stage = Stage::new("");
    let agent = stage.agent();
    let program = Program::build("hold", HOLD_RESOURCES).unwrap();
    let holder = hold_files(&program);
    stage.told("open_files_high", &program.name, "firing");
    let (file, rules) = (stage.folder().join("night.windows"), stage.rules());
    let (file, rules) = (file.to_str().unwrap(), rules.to_str().unwrap());
    let (code, said, talk) = steth(&["alerts", "--agent", agent.address(), "record", file]).unwrap();
    assert!(code == Some(0) && said.contains(" windows, "), "{said} {talk}");
    drop(holder);
    assert!(agent.stop().unwrap().success());
    // Nobody listens there any more.
    let tried = |file: &str| steth(&["alerts", "--agent", "127.0.0.1:1", "test", rules, "--windows", file]).unwrap();
    let (code, said, talk) = tried(file);
    let summary = format!("a process of {} has used 9", program.name);
    assert!(code == Some(0) && said.contains(&summary) && said.contains("open_files_high: "), "{said} {talk}");
    let whole = std::fs::read(file).unwrap();
    std::fs::write(file, &whole[..whole.len() - 3]).unwrap();
    let (code, _, talk) = tried(file);
    assert!(code == Some(1) && talk.contains("night.windows: the file is cut off or damaged in block"), "{talk}");
    let (code, _, talk) = tried(rules);
    assert!(code == Some(1) && talk.contains("this is no file of recorded windows"), "{talk}");
    assert_eq!(tried("/nonexistent").0, Some(2));
}
