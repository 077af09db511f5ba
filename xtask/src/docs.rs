//! `cargo xtask docs`: the pages that are made from the program itself, so that they cannot lag behind it.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    build::{self, Profile},
    workspace,
};

/// A page and the arguments of `steth` that print it.
const PAGES: [(&str, &[&str]); 4] = [
    ("docs/metrics.md", &["docs", "metrics"]),
    ("docs/configuration.md", &["docs", "config"]),
    ("packaging/grafana/steth.json", &["docs", "dashboard"]),
    ("packaging/prometheus/steth.rules.yml", &["docs", "rules"]),
];

/// Whether to write.
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask docs\n  cargo xtask docs --check")]
pub struct Arguments {
    /// Writes nothing; fails if a page is out of date
    #[arg(long)]
    check: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let binary = build::steth(Profile::Release)?;
    if arguments.check { check(&binary) } else { write(&binary) }
}

/// Fails if a page is not what the program says now.
pub fn check(binary: &Path) -> Result<()> {
    for (page, arguments) in PAGES {
        let now = printed(binary, arguments)?;
        let written = fs::read_to_string(workspace::root().join(page)).unwrap_or_default();
        if let Some(line) = first_difference(&written, &now) {
            bail!("{page}:{line}: out of date; run `cargo xtask docs` and commit the result");
        }
    }
    Ok(())
}

fn write(binary: &Path) -> Result<()> {
    for (page, arguments) in PAGES {
        let path = workspace::root().join(page);
        let text = printed(binary, arguments)?;
        fs::create_dir_all(path.parent().unwrap_or(workspace::root()))
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {page}"))?;
        eprintln!("wrote {page}");
    }
    Ok(())
}

fn printed(binary: &Path, arguments: &[&str]) -> Result<String> {
    let shown = format!("steth {}", arguments.join(" "));
    let output = Command::new(binary)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    if !output.status.success() {
        bail!("failed ({}): {shown}", output.status);
    }
    if output.stdout.is_empty() {
        bail!("`{shown}` printed nothing");
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed what is not UTF-8"))
}

/// The first line, from 1, in which the texts differ.
fn first_difference(left: &str, right: &str) -> Option<usize> {
    if left == right {
        return None;
    }
    let same = left.lines().zip(right.lines()).take_while(|(left, right)| left == right).count();
    Some(same + 1)
}

#[cfg(test)]
mod tests {
    use super::first_difference;

    #[test]
    fn the_first_changed_missing_or_added_line_is_named() {
        assert_eq!(first_difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some(2));
        assert_eq!(first_difference("a\n", "a\nb\n"), Some(2));
        assert_eq!(first_difference("", "a\n"), Some(1));
        assert_eq!(first_difference("a", "a\n"), Some(2));
    }
}
