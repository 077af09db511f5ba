//! `steth explain`: why a service was slow, from a running agent, which alone has the past that is looked at.

use std::{fmt::Write as _, path::PathBuf, time::Duration, time::SystemTime};

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{
    Failure, Outcome,
    agent::{self, encoded},
    configuration,
    reach::Where,
    terminal,
};
use crate::config::moment::{self, exact};

/// What `steth explain` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  steth explain shop.service                        the last quarter of an hour
  steth explain shop.service --from 03:10 --to 03:20
  steth explain --format json | jq .cause           the whole host

The first line is the conclusion, the evidence follows: each figure with what is usual and the query that shows it. Events of
deployments are taken by POST /api/v1/events.")]
pub struct Arguments {
    /// Why this service was slow [default: the whole host]
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    /// From then on: 03:10, -10m or 2026-11-21T03:10 [default: a quarter of an hour ago]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,
    /// Until then [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, requires = "from")]
    to: Option<String>,
    /// How it is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    place: Where,
    /// Configuration file [default: /etc/steth/steth.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "STETH_CONFIG")]
    config: Option<PathBuf>,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Findings that are written out; the rest is counted.
const SHOWN: usize = 8;

/// Asks the agent and prints its answer.
///
/// # Errors
/// When no agent answers, or it has no answer.
pub fn explain(arguments: &Arguments) -> Outcome {
    let config = configuration(arguments.config.as_deref(), vec![]).map_err(Failure::usage)?;
    let path = path(arguments)?;
    let target = arguments.place.target(&config)?;
    let answer = agent::json(&target, "it keeps the past that is looked at", &path, None)?;
    match arguments.format {
        Format::Json => terminal::result(&format!("{answer}\n")),
        Format::Text => terminal::result(&text(&answer)),
    }
}

fn path(arguments: &Arguments) -> Result<String, Failure> {
    let mut path = "/api/v1/explain?".to_owned();
    if let Some(from) = &arguments.from {
        // Read here, so that hours are those of whoever types them.
        let period = moment::period(from, arguments.to.as_deref());
        let period = period.map_err(|why| Failure::usage(format!("--from, --to: {why}")))?;
        for (name, moment) in [("from", period.from), ("to", period.to)] {
            let _ = write!(path, "{name}={}&", encoded(&exact(moment)));
        }
    }
    if let Some(service) = &arguments.service {
        let _ = write!(path, "service={}", encoded(service));
    }
    Ok(path)
}

/// The answer in words: the conclusion, the findings with their figures, events, calls, what was looked at.
fn text(answer: &Value) -> String {
    let mut out = format!("{}\n", words(answer, "conclusion"));
    let list = |of: &Value, name: &str| of.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let findings = list(answer, "findings");
    for finding in findings.iter().take(SHOWN) {
        let _ = write!(out, "\n{}", words(finding, "conclusion"));
        if let Some(until) = finding.get("until_unix_ms").and_then(Value::as_u64) {
            let _ = write!(out, ", until {}", clock(until));
        }
        out.push('\n');
        for evidence in list(finding, "evidence") {
            let usual = evidence.get("usual").and_then(Value::as_f64);
            let usual = usual.map(|usual| format!(" (usually {})", number(usual))).unwrap_or_default();
            let value = evidence.get("value").and_then(Value::as_f64).map(number).unwrap_or_default();
            let whose = evidence.get("service").and_then(Value::as_str).unwrap_or("host");
            let (name, unit) = (words(&evidence, "name"), words(&evidence, "unit"));
            let _ = writeln!(out, "  {whose}: {name} {value} {unit}{usual}\n    {}", words(&evidence, "check"));
        }
    }
    if findings.len() > SHOWN {
        let _ = writeln!(out, "\n{} more: --format json has them", findings.len() - SHOWN);
    }
    for event in list(answer, "events") {
        let at = event.get("at_unix_ms").and_then(Value::as_u64).unwrap_or_default();
        let _ = write!(out, "\nevent {}: {}", clock(at), words(&event, "text"));
    }
    for edge in list(answer, "dependencies") {
        let _ = write!(out, "\n{} calls {}", words(&edge, "service"), words(&edge, "callee"));
    }
    let looked_at = answer.get("looked_at").cloned().unwrap_or_default();
    let figure = |name: &str| looked_at.get(name).and_then(Value::as_f64).map(number).unwrap_or_default();
    let _ = writeln!(
        out,
        "\nlooked at: {} series in {} windows of {} s; a change needs {} windows to be told from chance",
        figure("series"),
        figure("windows"),
        figure("window_seconds"),
        figure("windows_needed")
    );
    out
}

/// Text of an answer, without what a terminal would take for a command.
fn words(of: &Value, name: &str) -> String {
    let text = of.get(name).and_then(Value::as_str).unwrap_or_default();
    text.chars().filter(|character| !character.is_control()).collect()
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 || size == size.trunc() => format!("{value:.0}"),
        size if size >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.6}"),
    }
}

fn clock(unix_ms: u64) -> String {
    moment::shown(SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_conclusion_and_the_figures_follow_with_where_to_check_them() {
        let answer = serde_json::json!({
            "conclusion": "shop: slow\u{1b}[2J",
            "findings": [{
                "conclusion": "disk vda is busy", "until_unix_ms": null,
                "evidence": [{"name": "the disk was busy to", "service": null, "value": 1.0, "usual": 0.05,
                    "unit": "ratio", "check": "rate(x[1m])"}],
            }],
            "events": [{"at_unix_ms": 0, "text": "deploy"}],
            "dependencies": [{"service": "shop", "callee": "db"}],
            "looked_at": {"series": 70, "windows": 90, "window_seconds": 10.0, "windows_needed": 50},
        });
        let text = text(&answer);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "shop: slow[2J");
        assert_eq!(
            lines[2..5],
            ["disk vda is busy", "  host: the disk was busy to 1 ratio (usually 0.050)", "    rate(x[1m])"]
        );
        assert!(
            text.contains("deploy")
                && text.contains("shop calls db")
                && text.contains("70 series in 90 windows of 10 s")
        );
    }
}
