//! Plays all incidents and a quiet time, and prints what was named first. For `cargo xtask incidents`: arguments are the minutes
//! of the quiet time, and which tables.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use steth_tests::incidents::{self, EVERYDAY, HELD_OUT, Outcome, Quiet};

fn main() -> Result<()> {
    if let Some(why) = incidents::missing() {
        bail!("incidents on the live kernel: {why}");
    }
    let mut arguments = std::env::args().skip(1);
    let minutes: u64 = arguments.next().context("how many quiet minutes?")?.parse()?;
    let tables = arguments.next().unwrap_or_default();
    if matches!(&*tables, "" | "everyday") {
        show("Every day", &incidents::play(EVERYDAY)?);
    }
    if matches!(&*tables, "" | "held-out") {
        show("Held out", &incidents::play(HELD_OUT)?);
    }
    if minutes > 0 {
        let Quiet { findings, looked_at } = incidents::rest(Duration::from_secs(60 * minutes))?;
        println!(
            "\nQuiet: {} findings in {minutes} minutes, {} windows of a second",
            findings.len(),
            looked_at["windows"]
        );
        for finding in findings {
            println!("  {}: {}", finding["kind"].as_str().unwrap_or_default(), text(&finding["conclusion"]));
        }
    }
    Ok(())
}

fn show(title: &str, outcome: &Outcome) {
    let right = outcome.played.iter().filter(|one| one.is_right).count();
    println!("\n{title}: {right} of {} first causes are right", outcome.played.len());
    println!("| incident | expected | found | |\n|---|---|---|---|");
    for one in &outcome.played {
        let expected: Vec<String> = one.expected.iter().map(|(kind, about, _)| format!("{kind} {about}")).collect();
        let cause = &one.answer["cause"];
        let (_, _, whose) = one.expected.first().cloned().unwrap_or_default();
        let of = match cause["service"].as_str() {
            Some(service) if service != whose => format!(" of {service}"),
            _ => String::new(),
        };
        let found = match cause.is_null() {
            true => "nothing".to_owned(),
            false => format!("{} {}{of}", text(&cause["kind"]), text(&cause["about"])),
        };
        let verdict = if one.is_right { "right" } else { "wrong" };
        println!("| {} | {} | {found} | {verdict} |", one.name, expected.join(" or "));
    }
    for one in outcome.played.iter().filter(|one| !one.is_right) {
        println!("wrong: {}: {}", one.name, text(&one.answer["conclusion"]));
    }
    for (name, why) in &outcome.skipped {
        println!("skipped: {name}: {why}");
    }
    for finding in &outcome.of_quiet {
        println!("found about a quiet service: {}", text(&finding["conclusion"]));
    }
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or("no answer")
}
