//! README.md and docs/tour.md as their reader sees them: every command runs, every query answers, every setting is one.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use steth_tests::{
    agent::{Agent, Options, steth},
    need_bpf, need_program,
    postgres::Postgres,
    prometheus::Prometheus,
    skipped, wait,
    workload::Workload,
};

const README: &str = include_str!("../../README.md");
const TOUR: &str = include_str!("../../docs/tour.md");
/// Rates need two scrapes, a second apart, and each client to have done its work once.
const ANSWER: Duration = Duration::from_secs(60);

/// A fenced block: the word behind its opening fence, and what is inside.
struct Block {
    kind: &'static str,
    text: String,
}

fn blocks() -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_open = false;
    for line in README.lines().chain(TOUR.lines()) {
        match line.strip_prefix("```") {
            Some(kind) if !is_open => {
                blocks.push(Block { kind, text: String::new() });
                is_open = true;
            }
            Some(_) => is_open = false,
            None => {
                if let Some(block) = blocks.last_mut().filter(|_| is_open) {
                    block.text += &format!("{line}\n");
                }
            }
        }
    }
    assert!(!is_open, "a block does not end");
    blocks
}

fn of_kind(kind: &str) -> Vec<String> {
    let texts: Vec<String> = blocks().into_iter().filter(|block| block.kind == kind).map(|block| block.text).collect();
    assert!(!texts.is_empty(), "README.md has no block ```{kind}");
    texts
}

/// The commands of a block, without comments.
fn commands(block: &str) -> Vec<&str> {
    let lines = block.lines().map(|line| line.split(" #").next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// The repository's top folder, where a reader types the commands.
fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

const OPERATIONS: &str = include_str!("../../docs/operations.md");

#[test]
fn every_block_is_of_a_kind_that_is_tested() {
    for Block { kind, text } in blocks() {
        assert!(
            ["sh", "promql", "toml", "console"].contains(&kind),
            "README.md has a block ```{kind}, which nobody tests; make it sh (commands), console (a command and its \
             output), promql or toml, or teach tests/tests/readme.rs what to do with it:\n{text}"
        );
    }
}

#[test]
fn every_command_runs() {
    need_bpf!();
    need_program!("curl", "bash", "cargo");
    let agent = Agent::start(&Options::default()).unwrap();
    agent.settled().unwrap();
    let written = tempfile::tempdir().unwrap();
    for command in of_kind("sh").iter().flat_map(|block| commands(block)) {
        let words: Vec<&str> = command.split_whitespace().collect();
        match &words[..] {
            ["cargo", "xtask", arguments @ ..] => assert_known_to_xtask(arguments),
            ["steth", "flame", "--from", arguments @ .., "-o", file] => {
                let folder = tempfile::tempdir().unwrap();
                let file = folder.path().join(file);
                let whole = [&["flame", "--agent", agent.address(), "--from"], arguments].concat();
                let (code, _, said) = steth(&[&whole[..], &["-o", file.to_str().unwrap()]].concat()).unwrap();
                // This agent has not been there at any hour that a reader may ask for.
                let has_none = code == Some(1) && said.contains("no profile is kept of ");
                assert!(has_none || (code == Some(0) && file.exists()), "{command}: {code:?} {said}");
            }
            ["steth", "flame", arguments @ .., "-o", file] if *file != "-" => {
                // What one command has written another may read.
                let in_folder = |word: &&str| match word.ends_with(".pb.gz") {
                    true => written.path().join(word).display().to_string(),
                    false => (*word).to_owned(),
                };
                let arguments: Vec<String> = arguments.iter().map(in_folder).collect();
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let file = written.path().join(file);
                let whole = [&["flame"], &arguments[..], &["-o", file.to_str().unwrap()]].concat();
                let (code, result, said) = steth(&whole).unwrap();
                assert!(code == Some(0) && file.exists(), "{command}: {code:?} {result}{said}");
            }
            ["steth", what @ ("top" | "explain"), arguments @ ..] => {
                let whole = [&[what, "--agent", agent.address()], arguments].concat();
                let (code, result, said) = steth(&whole).unwrap();
                assert_eq!(code, Some(0), "{command}: {result}{said}");
            }
            ["steth", "alerts", arguments @ ..] => {
                let rules = top().join("packaging/alerts.toml").display().to_string();
                let folder = tempfile::tempdir().unwrap();
                let from_top = |word: &str| match word {
                    word if word.starts_with("packaging/") => rules.clone(),
                    word if word.ends_with(".windows") => folder.path().join(word).display().to_string(),
                    word => word.to_owned(),
                };
                let arguments: Vec<String> = arguments.iter().map(|word| from_top(word)).collect();
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let whole = [&["alerts", "--agent", agent.address()], &arguments[..]].concat();
                let (code, result, said) = steth(&whole).unwrap();
                assert_eq!(code, Some(0), "{command}: {result}{said}");
            }
            ["steth", arguments @ ..] => {
                let (code, result, said) = steth(arguments).unwrap();
                assert_eq!(code, Some(0), "{command}: {result}{said}");
            }
            ["apt-get" | "systemctl", ..] => assert!(
                OPERATIONS.contains(&format!("\n{command}\n")),
                "`{command}` is not in docs/operations.md, whose commands tests/tests/package.rs runs on a clean Debian"
            ),
            ["curl", ..] => assert_says_something(&command.replace("127.0.0.1:9464", agent.address())),
            _ => panic!(
                "README.md has `{command}`, which this test does not know how to run: add an arm for it here, in \
                 tests/tests/readme.rs, that runs it for real"
            ),
        }
    }
}

/// `cargo xtask run` and `test` would build, start and test all: that is what runs this test. Here they, and each of
/// their flags, have to be in xtask's own help.
fn assert_known_to_xtask(arguments: &[&str]) {
    let mut xtask = Command::new("cargo");
    // What cargo set for this test itself would rebuild others for nothing.
    let own = |name: &String| name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR";
    std::env::vars().map(|(name, _)| name).filter(own).for_each(|name| _ = xtask.env_remove(name));
    let subcommand = arguments.iter().take_while(|word| !word.starts_with('-')).take(1);
    let output = xtask.current_dir(top()).arg("xtask").args(subcommand).arg("--help").output().unwrap();
    let help = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    for flag in arguments.iter().filter(|word| word.starts_with('-')) {
        assert!(help.split_whitespace().any(|word| word == *flag), "cargo xtask {arguments:?} has no {flag}:\n{help}");
    }
}

fn assert_says_something(command: &str) {
    let mut bash = Command::new("bash");
    let output = bash.current_dir(top()).args(["-o", "pipefail", "-c", command]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.trim().is_empty(), "{command}: {}\n{said}{why}", output.status);
}

#[test]
fn every_query_answers() {
    need_bpf!();
    need_program!("prometheus", "sh");
    if let Some(why) = Postgres::missing() {
        skipped!("{why}");
    }
    let agent = Agent::start(&Options::default()).unwrap();
    let _workload = Workload::start("shop").unwrap();
    let prometheus = Prometheus::start(agent.address()).unwrap();
    let blocks = of_kind("promql");
    // Examples are set apart by an empty line; the comment above one says what it answers.
    let queries: Vec<&str> = blocks.iter().flat_map(|block| block.split("\n\n")).map(str::trim).collect();
    assert!(queries.len() >= 6, "{queries:?}");
    for query in queries {
        let answered = wait::poll(&format!("an answer to:\n{query}"), ANSWER, || {
            let samples = prometheus.samples(query)?;
            Ok(samples.iter().any(|sample| sample.value.is_finite()).then_some(samples))
        });
        let answered = answered.unwrap_or_else(|error| panic!("{error:#}"));
        println!("{query}\n    {} series, such as {:?}", answered.len(), answered[0]);
    }
}

#[test]
fn every_setting_is_one() {
    for block in of_kind("toml") {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("steth.toml");
        std::fs::write(&file, &block).unwrap();
        let (code, list, said) = steth(&["config", "check", file.to_str().unwrap()]).unwrap();
        assert_eq!(code, Some(0), "{block}\n{list}{said}");
    }
}

/// The machine and the figures are those of the day; the probes have to be those of now.
#[test]
fn shown_output_is_what_the_doctor_says() {
    need_bpf!();
    for block in of_kind("console") {
        let (command, shown) = block.split_once('\n').unwrap();
        assert_eq!(command, "# steth doctor", "a console block that this test does not know: compare it here");
        let (code, now, said) = steth(&["doctor"]).unwrap();
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(probes(shown), probes(&now));
    }
}

/// The second column of the probes' table: the first is the state, and what is further in explains it.
fn probes(doctor: &str) -> BTreeSet<&str> {
    let table = doctor.split_once("\nProbes\n").expect("a table of probes").1;
    let rows = table.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    rows.map(|row| row.split_whitespace().nth(1).expect("a name")).collect()
}

#[test]
fn every_file_that_is_linked_is_there() {
    assert_links("README.md", README);
    assert_links("docs/tour.md", TOUR);
    assert_links("docs/operations.md", OPERATIONS);
}

fn assert_links(page: &str, text: &str) {
    let folder = top().join(page).parent().unwrap().to_owned();
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    // As they are addressed: in small letters, spaces as hyphens, nothing else.
    let address =
        |title: &str| title.to_lowercase().replace(' ', "-").replace(|c: char| !c.is_alphanumeric() && c != '-', "");
    let titles: Vec<String> = text.lines().filter_map(|line| line.strip_prefix("## ")).map(address).collect();
    for link in links.filter(|link| !link.starts_with("http")) {
        let is_there = match link.strip_prefix('#') {
            Some(title) => titles.iter().any(|other| other == title),
            None => folder.join(link).exists(),
        };
        assert!(is_there, "{page} links {link}");
    }
}
