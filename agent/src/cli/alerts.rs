//! `steth alerts`: what a running agent would have people know, and what people tell it about that.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::{Failure, Outcome, agent, configuration, reach::Where, terminal};
use crate::{
    config::{alerts::AlertFile, moment, value::parse_duration},
    model::figure::figure,
    pipeline,
};

/// What `steth alerts` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steth alerts                                   what fires, and what is silenced
  steth alerts ack 3 --comment 'restarting it'
  steth alerts silence --label groupname=shop.service --for 1h --comment deploy
  steth alerts unsilence 1
  steth alerts test /etc/steth/alerts.toml       what these rules would have come to in the windows that the agent holds
  steth alerts record night.windows              keep those windows
  steth alerts test alerts.toml --windows night.windows")]
pub struct Arguments {
    /// What to do [default: list]
    #[command(subcommand)]
    command: Option<Command>,
    /// How answers are written
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    format: Format,
    #[command(flatten)]
    place: Where,
    /// Configuration file [default: /etc/steth/steth.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "STETH_CONFIG", global = true)]
    config: Option<PathBuf>,
}

/// What there is to do about alerts.
#[derive(Debug, Subcommand)]
enum Command {
    /// List alerts, silences and channels
    List,
    /// Take care of an alert: nobody is reminded of it any more
    Ack {
        /// Its number
        id: u64,
        #[command(flatten)]
        who: Who,
    },
    /// Tell nobody of some alerts for a while
    Silence {
        /// Of this rule
        #[arg(long, value_name = "NAME")]
        rule: Option<String>,
        /// With this value of a label, in which * stands for any text
        #[arg(long = "label", value_name = "NAME=VALUE")]
        labels: Vec<String>,
        /// For how long: 30m, 2h
        #[arg(long = "for", value_name = "TIME")]
        time: String,
        #[command(flatten)]
        who: Who,
    },
    /// End a silence
    Unsilence {
        /// Its number
        id: u64,
    },
    /// Say what rules would have come to in the windows that the agent holds
    Test {
        /// A file of rules
        file: PathBuf,
        /// In the windows of this file, which steth alerts record has made; needs no agent
        #[arg(long, value_name = "FILE")]
        windows: Option<PathBuf>,
    },
    /// Write the windows that the agent holds to a file, for steth alerts test
    Record {
        /// The file
        file: PathBuf,
    },
}

/// Who does it, and what they say.
#[derive(Debug, Args)]
struct Who {
    /// Who you are
    #[arg(long, env = "USER", default_value = "somebody")]
    by: String,
    /// What there is to say
    #[arg(long, default_value = "")]
    comment: String,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

const PATH: &str = "/api/v1/alerts";

/// Asks the agent, or tells it something, and prints its answer.
///
/// # Errors
/// When no agent answers, or it refuses.
pub fn alerts(arguments: &Arguments) -> Outcome {
    let config = configuration(arguments.config.as_deref(), vec![]).map_err(Failure::usage)?;
    let order = arguments.command.as_ref().map_or(Ok(None), order)?;
    let answer = match &arguments.command {
        Some(Command::Test { file, windows: Some(windows) }) => try_on_file(windows, file)?,
        _ => agent::json(&arguments.place.target(&config)?, "it holds the alerts", PATH, order.as_ref())?,
    };
    if let Some(Command::Record { file }) = &arguments.command {
        return record(&answer, file);
    }
    match arguments.format {
        Format::Json => terminal::result(&format!("{answer}\n")),
        Format::Text => terminal::result(&text(&answer)),
    }
}

/// What is posted; `None` to list.
fn order(command: &Command) -> Result<Option<Value>, Failure> {
    Ok(Some(match command {
        Command::List => return Ok(None),
        Command::Ack { id, who } => json!({ "action": "acknowledge", "id": id, "by": who.by, "comment": who.comment }),
        Command::Silence { rule, labels, time, who } => {
            let seconds = parse_duration(time).map_err(|why| Failure::usage(format!("--for {time}: {why}")))?.as_secs();
            let mut named = Map::new();
            for label in labels {
                let (name, value) = label
                    .split_once('=')
                    .ok_or_else(|| Failure::usage(format!("--label {label}: it is no NAME=VALUE")))?;
                named.insert(name.to_owned(), value.into());
            }
            let (by, comment) = (&who.by, &who.comment);
            json!({ "action": "silence", "rule": rule, "labels": named, "seconds": seconds, "by": by, "comment": comment })
        }
        Command::Unsilence { id } => json!({ "action": "unsilence", "id": id }),
        Command::Test { file, .. } => json!({ "action": "test", "rules": rules(file)? }),
        Command::Record { .. } => json!({ "action": "record" }),
    }))
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))
}

/// The text of a file with rules, if they are right: what is wrong is said with the file and its line, which an agent is not told.
fn rules(file: &Path) -> Result<String, Failure> {
    let text = String::from_utf8_lossy(&read(file)?).into_owned();
    AlertFile::parse(file, &text).map_err(|complaints| {
        let all: Vec<String> = complaints.iter().map(ToString::to_string).collect();
        Failure::failed(all.join("\n"))
    })?;
    Ok(text)
}

/// What an agent would have answered that held the windows of a file.
fn try_on_file(windows: &Path, rules: &Path) -> Result<Value, Failure> {
    let tried = pipeline::try_on_file(&read(windows)?, &self::rules(rules)?);
    tried.map(|tried| json!({ "tried": tried })).map_err(|why| Failure::failed(format!("{}: {why}", windows.display())))
}

/// Writes the windows of an answer to a file.
fn record(answer: &Value, file: &Path) -> Outcome {
    let recorded =
        answer.get("recorded").and_then(|it| Some((it.get("windows")?.as_u64()?, it.get("file")?.as_str()?)));
    let (windows, bytes) = recorded
        .and_then(|(windows, file)| Some((windows, BASE64_STANDARD.decode(file).ok()?)))
        .ok_or_else(|| Failure::failed("the agent's answer has no windows"))?;
    std::fs::write(file, &bytes)
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", file.display())))?;
    terminal::result(&format!("{windows} windows, {} bytes: {}\n", bytes.len(), file.display()))
}

/// An answer in words.
fn text(answer: &Value) -> String {
    if let Some(alert) = answer.get("alert") {
        return one(alert);
    }
    if let Some(silence) = answer.get("silence") {
        return self::silence(silence);
    }
    if let Some(tried) = answer.get("tried") {
        return self::tried(tried);
    }
    let mut out = String::new();
    let all = list(answer, "alerts");
    for alert in &all {
        out.push_str(&one(alert));
    }
    if all.is_empty() {
        let rules = answer.get("rules").and_then(Value::as_u64).unwrap_or_default();
        let _ = writeln!(out, "no alerts; {rules} rules are evaluated");
    }
    list(answer, "silences").iter().for_each(|one| out.push_str(&silence(one)));
    for channel in list(answer, "channels") {
        let count = |name: &str| channel.get(name).and_then(Value::as_u64).unwrap_or_default();
        let problem = channel.get("problem").and_then(Value::as_str).map(|_| words(&channel, "problem"));
        let problem = problem.map(|problem| format!("; {problem}")).unwrap_or_default();
        let (name, kind) = (words(&channel, "name"), words(&channel, "kind"));
        let _ = writeln!(out, "channel {name} ({kind}): {} sent, {} failed{problem}", count("sent"), count("failed"));
    }
    out
}

fn one(alert: &Value) -> String {
    let mut out = String::new();
    let number = |name: &str| alert.get(name).and_then(Value::as_f64);
    let state = words(alert, "state");
    let summary = match words(alert, "summary") {
        // Nothing is said of it before it fires.
        none if none.is_empty() => format!("{} {}", words(alert, "rule"), labels(alert)),
        summary => summary,
    };
    let _ = writeln!(out, "{} {state} {}: {summary}", number("id").unwrap_or_default(), words(alert, "severity"));
    let unit = words(alert, "unit");
    let said = |name: &str| number(name).map(|value| figure(value, &unit).trim_end().to_owned());
    let usual = said("usual").map(|usual| format!(", usually {usual}")).unwrap_or_default();
    let since = clock(alert, "firing_unix_ms").or_else(|| clock(alert, "pending_unix_ms")).unwrap_or_default();
    let until = clock(alert, "resolved_unix_ms").map(|until| format!(" until {until}")).unwrap_or_default();
    let (value, threshold) = (said("value").unwrap_or_default(), said("threshold").unwrap_or_default());
    let _ = writeln!(out, "  {value}{usual}, threshold {threshold}, since {since}{until}");
    for (title, name) in [("impact", "impact"), ("do", "step"), ("not told", "suppressed"), ("over", "resolved_by")] {
        let text = words(alert, name);
        if !text.is_empty() {
            let _ = writeln!(out, "  {title}: {text}");
        }
    }
    if let Some(known) = alert.get("acknowledged").filter(|known| known.is_object()) {
        let _ = writeln!(out, "  taken care of by {} {}", words(known, "by"), words(known, "comment"));
    }
    for finding in list(alert, "findings") {
        let _ = writeln!(out, "  found: {}", words(&finding, "conclusion"));
    }
    out
}

fn silence(silence: &Value) -> String {
    let id = silence.get("id").and_then(Value::as_u64).unwrap_or_default();
    let rule = match words(silence, "rule") {
        none if none.is_empty() => "any rule".into(),
        rule => rule,
    };
    let until = clock(silence, "until_unix_ms").unwrap_or_default();
    let (by, comment) = (words(silence, "by"), words(silence, "comment"));
    format!("silence {id}: {rule} {} until {until}, by {by} {comment}\n", labels(silence))
}

fn tried(tried: &Value) -> String {
    let mut out = String::new();
    let windows = tried.get("windows").and_then(Value::as_u64).unwrap_or_default();
    let moment = |name: &str| clock(tried, name).unwrap_or_default();
    let _ = writeln!(out, "{windows} windows from {} to {}", moment("from_unix_ms"), moment("to_unix_ms"));
    for rule in list(tried, "rules") {
        let alerts = list(&rule, "alerts");
        let number = |name: &str| rule.get(name).and_then(Value::as_f64);
        let series = number("series").unwrap_or_default();
        let range = number("least").zip(number("largest"));
        let range = range.map_or_else(
            || "no figure: no series, or too few observations".into(),
            |(least, largest)| format!("{series} series, figures from {least:.4} to {largest:.4}"),
        );
        let _ = writeln!(out, "{}: {range}; fired {} times", words(&rule, "rule"), alerts.len());
        for alert in alerts {
            one(&alert).lines().for_each(|line| out.push_str(&format!("  {line}\n")));
        }
    }
    out
}

fn list(of: &Value, name: &str) -> Vec<Value> {
    of.get(name).and_then(Value::as_array).cloned().unwrap_or_default()
}

fn labels(of: &Value) -> String {
    let labels = of.get("labels").and_then(Value::as_object).cloned().unwrap_or_default();
    let one = |(name, value): (&String, &Value)| printable(&format!("{name}={}", value.as_str().unwrap_or_default()));
    labels.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Text of an answer, without what a terminal would take for a command.
fn words(of: &Value, name: &str) -> String {
    printable(of.get(name).and_then(Value::as_str).unwrap_or_default())
}

fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}

fn clock(of: &Value, name: &str) -> Option<String> {
    let unix_ms = of.get(name).and_then(Value::as_u64)?;
    Some(moment::shown(SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_shown_with_its_figures_and_what_to_do_and_without_commands_to_the_terminal() {
        let answer = json!({
            "alerts": [{
                "id": 3, "rule": "fd", "state": "acknowledged", "severity": "warning", "summary": "shop\u{1b}[2J is full", "value": 0.9,
                "usual": 0.1, "threshold": 0.8, "unit": "ratio", "impact": "shop", "step": "close files", "labels": {},
                "pending_unix_ms": 0, "firing_unix_ms": 1_000, "acknowledged": {"by": "me", "comment": "on it"},
                "findings": [{"conclusion": "it leaks"}],
            }],
            "silences": [{"id": 1, "rule": null, "labels": {"service": "a*"}, "until_unix_ms": 5, "by": "me", "comment": ""}],
            "channels": [{"name": "ops", "kind": "webhook", "sent": 2, "failed": 1, "problem": "refused"}],
        });
        let text = text(&answer);
        for part in [
            "3 acknowledged warning: shop[2J is full",
            "90 %, usually 10 %, threshold 80 %, since ",
            "do: close files",
            "taken care of by me on it",
            "found: it leaks",
            "silence 1: any rule service=a* until ",
            "channel ops (webhook): 2 sent, 1 failed; refused",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn what_is_typed_becomes_an_order_or_is_refused() {
        let who = || Who { by: "me".into(), comment: String::new() };
        let silence =
            |labels: Vec<String>, time: &str| Command::Silence { rule: None, labels, time: time.into(), who: who() };
        let ordered = order(&silence(vec!["service=a=b".into()], "2h")).unwrap_or_default().unwrap();
        assert_eq!((&ordered["labels"]["service"], &ordered["seconds"]), (&json!("a=b"), &json!(7_200)));
        assert!(order(&silence(vec!["service".into()], "2h")).is_err());
        assert!(order(&silence(vec![], "soon")).is_err());
        assert!(order(&Command::List).is_ok_and(|order| order.is_none()));
    }
}
