use super::*;
use crate::{
    config::Config,
    model::rule::{Function, Severity, Side},
};

fn read(text: &str) -> Result<AlertFile, Vec<String>> {
    AlertFile::parse(Path::new("a.toml"), text).map_err(|all| all.iter().map(ToString::to_string).collect())
}

/// A rule with these lines instead of, or beside, those of a valid one.
fn rule(lines: &str) -> String {
    let mut text = "[[rule]]\nname = \"one\"\n".to_owned();
    for line in ["metric = \"node_load1\"", "above = 1.0", "summary = \"x\""] {
        let key = line.split(' ').next().unwrap();
        if !lines.lines().any(|given| given.split(' ').next() == Some(key)) {
            text.push_str(&format!("{line}\n"));
        }
    }
    text + lines + "\n"
}

#[test]
fn the_shipped_rules_are_read_and_cover_what_is_promised() {
    let shipped = AlertFile::parse(Path::new(SHIPPED_NAME), SHIPPED).unwrap();
    let names: Vec<&str> = shipped.rules.iter().map(|rule| rule.name.as_str()).collect();
    for promised in [
        "memory_high",
        "memory_critical",
        "cpu_high",
        "postgres_connections_high",
        "postgres_pool_high",
        "postgres_query_slow",
        "postgres_errors_high",
        "open_files_high",
        "disk_full_soon",
        "service_crash_loop",
        "records_lost",
    ] {
        assert!(names.contains(&promised), "{promised}");
    }
    assert!(shipped.channels.is_empty() && *AlertFile::shipped() == shipped);
    for rule in &shipped.rules {
        let texts = [&rule.summary, &rule.impact, &rule.step];
        assert!(texts.iter().all(|text| !text.0.is_empty()), "{} has a text for each purpose", rule.name);
    }
    assert_eq!(shipped.contradictions(&[]), []);
}

#[test]
fn a_rule_is_what_is_written() {
    let text = rule(
        "metric = \"steth_postgres_query_duration_seconds\"\nmatch = { role = [\"server\", \"c*\"] }\nfunction = \"quantile\"\n\
         quantile = 0.99\nwithin = \"5m\"\nby = [\"service\"]\nbelow = 0.5\nclear = 0.7\nfor = \"90s\"\nseverity = \"critical\"\n\
         at_least = 7\nstep = \"ask {service} for {value}\"",
    );
    let read = read(&text.replace("above = 1.0\n", "")).unwrap();
    let rule = &read.rules[0];
    assert_eq!((&rule.function, rule.severity, rule.at_least), (&Function::Quantile(0.99), Severity::Critical, 7));
    assert_eq!((rule.condition.side, rule.condition.threshold, rule.condition.clear), (Side::Below, 0.5, 0.7));
    assert_eq!((rule.within, rule.held), (Duration::from_secs(300), Duration::from_secs(90)));
    assert_eq!((rule.by.as_slice(), rule.of.with[0].patterns.len(), rule.unit()), (&["service"][..], 2, "s"));
}

#[test]
fn what_is_wrong_with_a_rule_is_said_with_its_line() {
    let histogram = "metric = \"steth_postgres_query_duration_seconds\"";
    for (lines, line, why) in [
        ("name = \"two\"", 0, "duplicate key"),
        ("metric = \"node_lod1\"", 5, "there is no metric \"node_lod1\"; did you mean `node_load1`?"),
        ("metrc = \"x\"", 6, "unknown field `metrc`"),
        ("match = { service = \"x\" }", 6, "node_load1 has no label \"service\"; allowed: none"),
        ("function = \"rate\"", 6, "node_load1 is a gauge, which has no rate"),
        ("function = \"raet\"", 6, "there is no function \"raet\"; did you mean `rate`?"),
        ("function = \"quantile\"", 6, "a quantile needs `quantile`"),
        ("function = \"quantile\"\nquantile = \"95\"", 7, "invalid type"),
        ("function = \"quantile\"\nquantile = 95.0", 6, "allowed: between 0 and 1"),
        ("function = \"ratio\"", 6, "a ratio needs `over`"),
        ("function = \"ratio\"\nover = \"node_forks_total\"", 6, "gauges by gauges"),
        ("over = \"node_load5\"", 6, "`over` belongs to a ratio"),
        ("over_match = { a = \"b\" }", 6, "belong to `over`, which is missing"),
        ("function = \"time_to_limit\"", 6, "needs `limit`"),
        ("function = \"deviation\"", 6, "a deviation needs `of`"),
        ("of = \"rate\"", 6, "`of` belongs to"),
        (histogram, 5, "has no value of its own"),
        ("for = \"5\"", 6, "a duration needs a unit"),
        ("within = \"2h\"", 6, "allowed: up to 1h"),
        ("by = [\"cpu\"]", 6, "has no label \"cpu\""),
        ("clear = 2.0", 6, "clear = 2 is never reached"),
        ("below = 1.0", 1, "needs one of `above` and `below`"),
        ("summary = \"{servce}\"", 5, "there is no {servce} here"),
        ("severity = \"bad\"", 6, "unknown variant `bad`"),
    ] {
        let said = read(&rule(lines)).expect_err(lines).join("\n");
        let place = if line == 0 { "a.toml:".to_owned() } else { format!("a.toml:{line}: ") };
        assert!(said.starts_with(&place) && said.contains(why), "{lines}:\n{said}");
    }
    let two = format!("{}\n{}", rule("above = 1"), rule("metric = \"nothing\"").replace("one", "b d"));
    assert_eq!(read(&two).unwrap_err().len(), 2, "all rules are looked at");
}

#[test]
fn a_channel_is_what_is_written_or_says_what_it_lacks() {
    let text = "[[channel]]\nname = \"ops\"\nkind = \"alertmanager\"\nleast = \"critical\"\nendpoint = { url = \"http://127.0.0.1:9093\" }\n\
                [[channel]]\nname = \"chat\"\nkind = \"slack\"\nurl_file = \"/etc/steth/slack\"\n\
                [[channel]]\nname = \"mail\"\nkind = \"email\"\nemail = { host = \"mail\", from = \"a@b\", to = [\"c@d\"] }\n";
    let channels = read(text).unwrap().channels;
    let kinds: Vec<&str> = channels.iter().map(|channel| channel.kind.name()).collect();
    assert_eq!((kinds, channels[0].least), (vec!["alertmanager", "slack", "email"], Severity::Critical));
    for (text, why) in [
        ("name = \"a\"\nkind = \"webhok\"", "a.toml:3: there is no \"webhok\"; did you mean `webhook`?"),
        ("name = \"a\"\nkind = \"webhook\"", "has endpoint = { url"),
        ("name = \"a\"\nkind = \"slack\"\nurl_file = \"slack\"", "no"),
        ("name = \"a b\"\nkind = \"slack\"\nurl_file = \"/slack\"", "\"a b\" is no name"),
        ("name = \"a\"\nkind = \"email\"\nemail = { host = \"x\", from = \"a\", to = [] }", "email.to is empty"),
    ] {
        let said = read(&format!("[[channel]]\n{text}\n")).expect_err(text).join("\n");
        assert!(said.contains(why), "{text}:\n{said}");
    }
}

#[test]
fn files_replace_shipped_rules_and_what_is_wrong_is_left_out_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("alerts.toml");
    let config = |alerts: &str| Config::parse(Path::new("steth.toml"), &format!("[alerts]\n{alerts}\n"));
    let with = |more: &str| config(&format!("files = [{:?}]\n{more}", file.to_str().unwrap()));
    std::fs::write(&file, rule("").replace("one", "cpu_high")).unwrap();
    let shipped = AlertFile::shipped().rules.len();
    let read = with("without = [\"records_lost\"]").unwrap().alerts.book;
    assert_eq!(read.rules.len(), shipped - 1);
    assert_eq!(read.rules.iter().find(|rule| rule.name == "cpu_high").unwrap().of.metric.name, "node_load1");
    assert_eq!(with("defaults = false").unwrap().alerts.book.rules.len(), 1);

    std::fs::write(&file, rule("inhibited_by = [\"nobody\"]\nby = [\"x\"]")).unwrap();
    for (given, why) in [
        (with(""), "alerts.toml:7: node_load1 has no label \"x\""),
        (config("files = [\"/nowhere/a.toml\"]"), "/nowhere/a.toml: cannot read the rules"),
        (config("without = [\"nobody\"]"), "there is no such rule"),
    ] {
        let read = given.unwrap();
        assert_eq!(read.alerts.book.rules.len(), shipped);
        let said = read.whole().unwrap_err().to_string();
        assert!(said.contains(why), "{said}");
    }
    let said = config("files = [\"a.toml\"]").unwrap_err().to_string();
    assert!(said.contains("\"a.toml\" is no absolute path"), "{said}");

    std::fs::write(&file, rule("by = [\"x\"]") + &rule("").replace("one", "two")).unwrap();
    let read = with("defaults = false").unwrap().alerts;
    let names: Vec<&str> = read.book.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!((names, read.left_out.len()), (vec!["two"], 1), "one of them is right");
    std::fs::write(&file, rule("inhibited_by = [\"one\", \"nobody\", \"cpu_high\"]")).unwrap();
    let read = with("").unwrap().alerts;
    let one = read.book.rules.iter().find(|rule| rule.name == "one").unwrap();
    assert_eq!((one.inhibited_by.as_slice(), read.left_out.len()), (&["cpu_high".to_owned()][..], 2));
    std::fs::write(&file, "[[rule]]\nname = 1\n").unwrap();
    let read = with("").unwrap().alerts;
    assert_eq!((read.book.rules.len(), read.left_out.len()), (shipped, 1));
}
