//! `cargo xtask test`: checks, unit tests, then the tests on the live kernel. Knows the order and the count, not what
//! is tested.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    build::{self, Profile},
    docs, fmt, layers, lint,
    setup::{self, Purpose},
    workspace,
};

/// What to test; everything but the long ones if nothing is said.
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test pgbench\n  cargo xtask test --checks \
                        --unit\n  cargo xtask test --long")]
pub struct Arguments {
    /// Only tests whose path contains this; leaves the checks out
    filter: Option<String>,
    /// Format, lints, layers, generated pages
    #[arg(long)]
    checks: bool,
    /// Tests that need no kernel feature and no other program
    #[arg(long)]
    unit: bool,
    /// Tests on the live kernel, with real programs
    #[arg(long)]
    integration: bool,
    /// Those of them that take long, and nothing else; a filter finds them without this
    #[arg(long)]
    long: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::install_missing(Purpose::Test)?;
    let all = !(arguments.checks || arguments.unit || arguments.integration || arguments.long);
    let filter = arguments.filter.as_deref();
    let mut session = Session::default();

    if (all || arguments.checks) && filter.is_none() {
        session.check("format", || fmt::run(&fmt::Arguments { check: true }));
        session.check("lints", lint::run);
        session.check("layers", layers::run);
    }
    if all || arguments.unit {
        let mut cargo = cargo_test(&["--workspace", "--exclude", "steth-ebpf", "--exclude", "steth-tests"]);
        session.tests("unit tests", with_filter(&mut cargo, filter));
    }
    let integration = all || arguments.integration;
    if integration || arguments.long || arguments.checks {
        session.with_agent(|session, binary| {
            if (all || arguments.checks) && filter.is_none() {
                session.check("generated pages", || docs::check(binary));
            }
            if integration || arguments.long {
                session.integration_tests(binary, filter, |program| {
                    let is_long = LONG.contains(&program);
                    filter.is_some() || if is_long { arguments.long } else { integration }
                });
            }
        });
    }
    session.finish(filter)
}

/// Programs of tests that take long: matrices, truths at length, floods, days that go wrong. They are run before a release,
/// and after changes of what they try.
const LONG: &[&str] = &[
    "alerts_away",
    "alerts_causes",
    "alerts_told",
    "bad_days",
    "central_events",
    "clock",
    "ended_sockets",
    "explain",
    "faults",
    "faults_http",
    "floods",
    "governor",
    "identity",
    "losses",
    "missing_hooks",
    "outage",
    "postgres_connections",
    "postgres_more",
    "profiles_languages",
    "profiles_odd",
    "profiles_past",
    "profiles_python",
    "profiles_served",
    "signals",
    "tcp_events",
    "trace_more",
    "viewer",
    "wall_together",
];

/// A built program with integration tests.
pub struct Program {
    pub name: String,
    pub path: PathBuf,
}

/// Builds the programs with integration tests: those of these names, or all.
pub fn programs(names: &[&str]) -> Result<Vec<Program>> {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--package", "steth-tests", "--no-run", "--message-format=json-render-diagnostics"]);
    cargo.args(names.iter().flat_map(|name| ["--test", name]));
    let mut programs = Vec::new();
    let built = stream(&mut cargo, |line| programs.extend(program(line)))?;
    if !built {
        bail!("they do not build: see above");
    }
    Ok(programs)
}

/// The test program that a message of cargo's tells of.
fn program(message: &str) -> Option<Program> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    Some(Program { name: message["target"]["name"].as_str()?.to_owned(), path: message["executable"].as_str()?.into() })
}

/// Output of passed tests is shown too: only there does a test say that it was skipped.
fn cargo_test(packages: &[&str]) -> Command {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--no-fail-fast"]).args(packages);
    cargo
}

fn with_filter<'a>(cargo: &'a mut Command, filter: Option<&str>) -> &'a mut Command {
    cargo.arg("--").args(filter).arg("--show-output")
}

/// What was found so far.
#[derive(Default)]
struct Session {
    count: Count,
    failures: Vec<String>,
    /// Programs of integration tests that were not asked for.
    left_out: Vec<String>,
}

impl Session {
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        eprintln!("== {name}");
        match check() {
            Ok(()) => self.count.passed += 1,
            Err(error) => self.fail(format!("{name}: {error:#}")),
        }
    }

    fn with_agent(&mut self, tests: impl FnOnce(&mut Self, &Path)) {
        eprintln!("== the agent");
        match build::steth(Profile::Release) {
            Ok(binary) => tests(self, &binary),
            Err(error) => self.fail(format!("the agent does not build: {error:#}")),
        }
    }

    fn tests(&mut self, name: &str, command: &mut Command) {
        eprintln!("== {name}");
        self.run(name, command);
    }

    fn run(&mut self, name: &str, command: &mut Command) {
        let mut reader = Reader::default();
        let ended = stream(command, |line| {
            println!("{line}");
            reader.line(line);
        });
        self.result(name, ended, reader);
    }

    fn result(&mut self, name: &str, ended: Result<bool>, reader: Reader) {
        let Reader { count, failed_names, runs, .. } = reader;
        self.count.add(count);
        self.failures.extend(failed_names.into_iter().map(|test| format!("{name}: {test}")));
        match ended {
            Err(error) => self.fail(format!("{name}: {error:#}")),
            // A test program that did not build, or died before it could report.
            Ok(false) if count.failed == 0 => self.fail(format!("{name}: see above")),
            Ok(true) if runs == 0 => self.fail(format!("{name}: no test program reported a result")),
            Ok(_) => {}
        }
    }

    /// One program after the other: each agent looks at the whole host, and the programs that two tests run together take more
    /// cells than one agent has by default.
    fn integration_tests(&mut self, binary: &Path, filter: Option<&str>, is_wanted: impl Fn(&str) -> bool) {
        eprintln!("== integration tests");
        let programs = match programs(&[]) {
            Ok(programs) => programs,
            Err(error) => return self.fail(format!("integration tests: {error:#}")),
        };
        for name in LONG.iter().filter(|name| programs.iter().all(|program| program.name != **name)) {
            self.fail(format!("no program of tests has the name {name}"));
        }
        for program in programs {
            if !is_wanted(&program.name) {
                self.left_out.push(program.name);
                continue;
            }
            let mut command = Command::new(&program.path);
            command.current_dir(workspace::root().join("tests")).env("STETH_BIN", binary);
            // Within a program they are made to run one after the other; its name is the head of the path of each.
            let within = filter.filter(|filter| !program.name.contains(*filter));
            command.args(within).args(["--show-output", "--test-threads=1"]).stdin(Stdio::null());
            println!("     Running {}", program.name);
            self.run(&program.name, &mut command);
        }
    }

    fn fail(&mut self, failure: String) {
        eprintln!("failed: {failure}");
        self.count.failed += 1;
        self.failures.push(failure);
    }

    fn finish(mut self, filter: Option<&str>) -> Result<()> {
        if let Some(filter) = filter.filter(|_| self.count == Count::default()) {
            self.fail(format!("no test has `{filter}` in its path"));
        }
        let Count { passed, failed, skipped } = self.count;
        println!();
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        if let count @ 1.. = self.left_out.len() {
            let names = self.left_out.join(", ");
            println!("{count} programs of tests were not asked for: {names}; see `cargo xtask test --help`");
        }
        if failed > 0 {
            std::process::exit(1);
        }
        Ok(())
    }
}

/// Results, each test counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Reads what `cargo test -- --show-output` prints.
#[derive(Default)]
pub struct Reader {
    pub count: Count,
    failed_names: Vec<String>,
    /// Test programs that came to their end.
    pub runs: u64,
    /// The test whose output is being read, and whether it has said that it was skipped.
    skipped_seen: bool,
    skipped_in_run: u64,
    in_successes: bool,
}

impl Reader {
    pub fn line(&mut self, line: &str) {
        if line.starts_with("running ") {
            self.in_successes = false;
            self.skipped_in_run = 0;
        } else if line == "successes:" || line == "failures:" {
            self.in_successes = line == "successes:";
        } else if line.starts_with("---- ") && line.ends_with(" stdout ----") {
            self.skipped_seen = false;
        } else if line.starts_with("skipped: ") && self.in_successes && !self.skipped_seen {
            self.skipped_seen = true;
            self.skipped_in_run += 1;
        } else if let Some(name) = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")) {
            self.failed_names.push(name.to_owned());
        } else if let Some(numbers) = line.strip_prefix("test result: ") {
            self.runs += 1;
            let skipped = std::mem::take(&mut self.skipped_in_run);
            self.count.passed += number_before(numbers, " passed").saturating_sub(skipped);
            self.count.failed += number_before(numbers, " failed");
            self.count.skipped += number_before(numbers, " ignored") + skipped;
        }
    }
}

/// The 3 of `ok. 12 passed; 3 failed; …` for ` failed`.
fn number_before(text: &str, word: &str) -> u64 {
    let number = text.split(word).next().unwrap_or_default().rsplit(' ').next().unwrap_or_default();
    number.parse().unwrap_or_default()
}

/// Runs a command, hands over its stdout line by line, and says whether it succeeded.
fn stream(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool> {
    let shown = workspace::command_line(command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start: {shown}"))?;
    let Some(stdout) = child.stdout.take() else { bail!("no output from: {shown}") };
    for line in BufReader::new(stdout).split(b'\n') {
        each(String::from_utf8_lossy(&line.with_context(|| format!("reading from: {shown}"))?).trim_end());
    }
    Ok(child.wait().with_context(|| format!("waiting for: {shown}"))?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> Reader {
        let mut reader = Reader::default();
        output.lines().for_each(|line| reader.line(line));
        reader
    }

    const OUTPUT: &str = "\
running 4 tests
test a ... ok
test b ... ok
test c ... FAILED
test d ... ignored

successes:

---- a stdout ----
skipped: needs root
skipped: and BTF

---- b stdout ----
all is well


successes:
    a
    b

failures:

---- c stdout ----
skipped: this is part of a failure

failures:
    c

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s
";

    #[test]
    fn a_test_that_says_it_was_skipped_is_not_counted_as_passed() {
        let reader = read(OUTPUT);
        assert_eq!(reader.count, Count { passed: 1, failed: 1, skipped: 2 });
        assert_eq!(reader.failed_names, ["c"]);
    }

    #[test]
    fn cargo_says_where_test_programs_are() {
        let said = |test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"tcp"}},"profile":{{"test":{test}}},"executable":"/a/tcp-1"}}"#
            )
        };
        let program = super::program(&said(true)).unwrap();
        assert_eq!((program.name.as_str(), program.path), ("tcp", PathBuf::from("/a/tcp-1")));
        assert!(super::program(&said(false)).is_none() && super::program("warning: no JSON").is_none());
    }

    #[test]
    fn results_of_several_test_programs_add_up() {
        let reader = read(&OUTPUT.repeat(3));
        assert_eq!(reader.runs, 3);
        assert_eq!(reader.count, Count { passed: 3, failed: 3, skipped: 6 });
    }

    #[test]
    fn a_failing_test_program_is_seen_by_its_exit_code_alone() {
        let mut session = Session::default();
        session.tests("died", Command::new("false").stdin(Stdio::null()));
        session.tests("silent", Command::new("true").stdin(Stdio::null()));
        assert_eq!(session.count, Count { passed: 0, failed: 2, skipped: 0 });
    }
}
