//! What the README has a newcomer type: the commands of its first chapters, in their order, and what it takes to be there before
//! them. Knows the text, not where commands run.

use anyhow::{Context, Result, ensure};

/// The chapters of somebody who has just come. `cargo xtask package --test` types those about packages, and `tests/tests/readme.rs`
/// what is asked of an agent that runs.
const CHAPTERS: [&str; 2] = ["Two commands", "What it needs"];
/// How the sentence begins that says what a machine has to have; packages of Debian stand in it as code.
const PRESUPPOSED: &str = "On a fresh Debian 12 with ";

/// One thing that a newcomer types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub command: String,
    pub kind: Kind,
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Starts the agent, which goes on until Ctrl-C.
    Agent,
    /// Holds for the shell in which it is typed, so for all that follow.
    Setting,
    /// Runs to its end, beside the agent.
    Beside,
    /// Runs to its end, for a quarter of an hour, after the agent has ended: it starts its own.
    Test,
    /// Is not for newcomers.
    LongTest,
}

impl Step {
    fn of(command: &str) -> Self {
        let words: Vec<&str> = command.split_whitespace().collect();
        let kind = match &words[..] {
            ["cargo", "xtask", "run", ..] => Kind::Agent,
            ["cargo", "xtask", "test", flags @ ..] if flags.contains(&"--long") => Kind::LongTest,
            ["cargo", "xtask", "test", ..] => Kind::Test,
            ["export", ..] => Kind::Setting,
            _ => Kind::Beside,
        };
        Self { command: command.to_owned(), kind }
    }
}

/// The commands, as they stand there.
///
/// # Errors
/// A chapter is gone, or none of its commands starts the agent.
pub fn steps(readme: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for title in CHAPTERS {
        let chapter = chapter(readme, title);
        let commands = commands(chapter.with_context(|| format!("README.md has no chapter `{title}` any more"))?);
        steps.extend(commands.into_iter().map(Step::of));
    }
    let first = steps.iter().find(|step| step.kind != Kind::Setting);
    ensure!(
        first.is_some_and(|step| step.kind == Kind::Agent),
        "the first command of README.md does not start the agent: the others would find none"
    );
    Ok(steps)
}

/// The packages of Debian that the README takes for granted.
///
/// # Errors
/// It does not say so in the way that is known here.
pub fn presupposed(readme: &str) -> Result<Vec<&str>> {
    let (_, rest) =
        readme.split_once(PRESUPPOSED).with_context(|| format!("README.md has no sentence `{PRESUPPOSED}…`"))?;
    let packages: Vec<&str> = code(rest.split("\n\n").next().unwrap_or_default()).collect();
    ensure!(!packages.is_empty(), "README.md names no package after `{PRESUPPOSED}`");
    Ok(packages)
}

/// The port of this host that the commands ask.
pub fn port(steps: &[Step]) -> Option<u16> {
    let after = steps.iter().find_map(|step| step.command.split_once("127.0.0.1:"))?.1;
    after.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

fn chapter<'a>(readme: &'a str, title: &str) -> Option<&'a str> {
    let (_, rest) = readme.split_once(&format!("\n## {title}\n"))?;
    Some(rest.split("\n## ").next().unwrap_or(rest))
}

/// Those in blocks of a shell, those that root's prompt stands before, and settings of the shell in the text between.
fn commands(chapter: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut block = None;
    for line in chapter.lines() {
        match (line.strip_prefix("```"), block) {
            (Some(kind), None) => block = Some(kind),
            (Some(_), Some(_)) => block = None,
            (None, Some("sh")) => found.push(line.split(" #").next().unwrap_or(line).trim()),
            (None, Some("console")) => found.extend(line.strip_prefix("# ")),
            (None, Some(_)) => {}
            (None, None) => found.extend(code(line).filter(|code| code.starts_with("export "))),
        }
    }
    found.retain(|command| !command.is_empty() && !command.starts_with('#'));
    found
}

/// What stands between backquotes.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = include_str!("../../../README.md");
    const SHORT: &str = "\
# steth

## Two commands

On a fresh Debian 12 with `git`, `gcc` and
a toolchain:

```sh
cargo xtask run           # starts the agent
cargo xtask test
# only a comment
cargo xtask test --long   # takes long
```

Ask `it`, and `export PATH=$PWD/target/release:$PATH` before:

```sh
curl -s 127.0.0.1:9999/metrics | grep ^steth
```

## Install

```sh
cargo xtask package
```

## What it needs

```console
# steth doctor
Host
  ok  kernel
```

```toml
listen = \"127.0.0.1:1\"
```
";

    fn known(readme: &str) -> Vec<(String, Kind)> {
        steps(readme).unwrap().into_iter().map(|step| (step.command, step.kind)).collect()
    }

    #[test]
    fn commands_come_in_the_order_of_the_text_without_comments_outputs_and_other_chapters() {
        let expected = [
            ("cargo xtask run", Kind::Agent),
            ("cargo xtask test", Kind::Test),
            ("cargo xtask test --long", Kind::LongTest),
            ("export PATH=$PWD/target/release:$PATH", Kind::Setting),
            ("curl -s 127.0.0.1:9999/metrics | grep ^steth", Kind::Beside),
            ("steth doctor", Kind::Beside),
        ];
        assert_eq!(known(SHORT), expected.map(|(command, kind)| (command.to_owned(), kind)));
    }

    #[test]
    fn what_is_taken_for_granted_is_what_the_sentence_has_as_code() {
        assert_eq!(presupposed(SHORT).unwrap(), ["git", "gcc"]);
        assert!(presupposed("On a fresh Debian 12 with nothing:\n\n`no`").is_err());
        assert!(presupposed("Anywhere:").is_err());
    }

    #[test]
    fn the_port_is_that_of_the_first_command_that_has_one() {
        assert_eq!(port(&steps(SHORT).unwrap()), Some(9999));
        assert_eq!(port(&[Step::of("steth doctor")]), None);
    }

    #[test]
    fn a_readme_without_its_chapters_or_without_an_agent_is_refused() {
        let renamed = SHORT.replace("## What it needs", "## Needs");
        assert_eq!(steps(&renamed).unwrap_err().to_string(), "README.md has no chapter `What it needs` any more");
        assert!(steps(&SHORT.replace("cargo xtask run ", "cargo xtask build ")).is_err());
    }

    #[test]
    fn the_readme_itself_starts_an_agent_and_asks_it_in_each_way() {
        let known = known(README);
        let of = |kind| known.iter().filter(|known| known.1 == kind).map(|known| known.0.as_str()).collect::<Vec<_>>();
        assert_eq!(of(Kind::Agent), ["cargo xtask run"]);
        assert_eq!(of(Kind::Test), ["cargo xtask test"]);
        for asked in ["curl ", "steth top", "steth doctor"] {
            assert!(of(Kind::Beside).iter().any(|command| command.starts_with(asked)), "{asked}: {known:?}");
        }
        assert!(presupposed(README).unwrap().contains(&"git"));
        assert!(port(&steps(README).unwrap()).is_some());
    }
}
