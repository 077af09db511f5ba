//! What the kernels showed: read from what a machine says, and written as a table.

use std::{collections::BTreeMap, fmt::Write as _, fs, time::Duration};

use anyhow::{Context, Result};

use super::features::{Feature, PROBES};
use crate::{test::Reader, workspace};

/// What one kernel showed.
pub struct Outcome {
    pub kernel: &'static str,
    pub shown: Shown,
}

/// What a machine said.
#[derive(Default)]
pub struct Shown {
    /// The kernel's own version.
    pub release: String,
    probes: Vec<Probe>,
    /// By program and test.
    tests: BTreeMap<String, Verdict>,
    under_way: Option<(String, Reader, String)>,
    done: bool,
    took: Duration,
    /// Why the rest is missing.
    why: String,
}

struct Probe {
    name: String,
    state: String,
    reason: String,
    lost: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Skipped(String),
    Failed(String),
}

impl Shown {
    /// No further machine could be started.
    pub fn not_booted(&mut self, why: String) {
        self.why = why;
    }

    /// Reads a line.
    pub fn line(&mut self, line: &str) {
        let Some(said) = line.strip_prefix("@@ ") else {
            if let Some((_, reader, output)) = &mut self.under_way {
                reader.line(line);
                output.push_str(line);
                output.push('\n');
            }
            return;
        };
        match said.split_once(' ').unwrap_or((said, "")) {
            ("kernel", release) => release.clone_into(&mut self.release),
            ("doctor", json) => self.probes.extend(probe(json)),
            ("begin", test) => self.under_way = Some((test.to_owned(), Reader::default(), String::new())),
            ("end", _) => self.end("it said no result: it took longer than half an hour, or died"),
            ("done", _) => self.done = true,
            _ => {}
        }
    }

    fn end(&mut self, without_result: &str) {
        let Some((test, reader, output)) = self.under_way.take() else { return };
        let count = reader.count;
        let verdict = if count.passed == 1 {
            Verdict::Passed
        } else if count.skipped == 1 {
            let why = output.lines().find_map(|line| line.strip_prefix("skipped: ")).unwrap_or_default();
            Verdict::Skipped(why.to_owned())
        } else if count.failed > 0 {
            let mut said = output.lines().skip_while(|line| !line.contains("panicked at"));
            let said: Vec<&str> = said.by_ref().take(4).collect();
            Verdict::Failed(said.join(" ").chars().take(600).collect())
        } else if reader.runs > 0 {
            Verdict::Failed("there is no test of this name".to_owned())
        } else {
            Verdict::Failed(without_result.to_owned())
        };
        self.tests.insert(test, verdict);
    }

    /// It says no more.
    pub fn finish(&mut self, why: &str, took: Duration) {
        self.end(why);
        self.took += took;
        if !std::mem::take(&mut self.done) {
            why.clone_into(&mut self.why);
        }
    }

    /// What another machine with the same kernel said.
    pub fn add(&mut self, other: Self) {
        if self.release.is_empty() {
            self.release = other.release;
        }
        self.probes.extend(other.probes);
        self.tests.extend(other.tests);
        self.took += other.took;
        if !other.why.is_empty() {
            self.why = other.why;
        }
    }

    fn of(&self, program: &str, test: &str) -> Verdict {
        let verdict = self.tests.get(&format!("{program} {test}"));
        verdict.cloned().unwrap_or_else(|| Verdict::Failed(format!("did not run: {}", self.why)))
    }

    /// What of the probes is not as it should be: refused by the verifier, or not told at all.
    fn refused(&self) -> Vec<String> {
        if self.probes.is_empty() {
            return vec![format!("the agent told of no probe {}", self.why)];
        }
        let refused =
            self.probes.iter().filter(|probe| probe.reason.contains("verifier") || probe.reason.contains("refused"));
        refused.map(|probe| format!("{}: {}", probe.name, probe.reason)).collect()
    }

    fn cell(&self, feature: &Feature) -> String {
        if feature.name == PROBES {
            let runs = self.probes.iter().filter(|probe| ["attached", "ready"].contains(&probe.state.as_str())).count();
            return match self.refused().as_slice() {
                [] => format!("{runs} of {}", self.probes.len()),
                refused => format!("**{} refused**", refused.len()),
            };
        }
        let verdicts: Vec<Verdict> = feature.tests.iter().map(|(program, test)| self.of(program, test)).collect();
        if verdicts.iter().any(|verdict| matches!(verdict, Verdict::Failed(_))) {
            "**failed**".to_owned()
        } else if verdicts.iter().any(|verdict| matches!(verdict, Verdict::Skipped(_))) {
            "skipped".to_owned()
        } else {
            "ok".to_owned()
        }
    }
}

/// One line of `steth doctor --json`, if it tells of a probe.
fn probe(json: &str) -> Option<Probe> {
    let line: serde_json::Value = serde_json::from_str(json).ok()?;
    if line["kind"] != "probe" {
        return None;
    }
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    Some(Probe { name: text("name"), state: text("state"), reason: text("reason"), lost: text("lost") })
}

/// The matrix.
pub fn table(plan: &[&Feature], outcomes: &[Outcome]) -> String {
    let mut text = "| |".to_owned();
    for Outcome { kernel, shown } in outcomes {
        let release = if shown.release.is_empty() { "did not boot" } else { &shown.release };
        let _ = write!(text, " Linux {kernel} ({release}) |");
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(outcomes.len()));
    for feature in plan {
        let name = if feature.name == PROBES { "probes that are loaded" } else { feature.name };
        let _ = write!(text, "| {name} |");
        for outcome in outcomes {
            let _ = write!(text, " {} |", outcome.shown.cell(feature));
        }
        text.push('\n');
    }
    let _ = write!(text, "| seconds in all, emulated |");
    for outcome in outcomes {
        let _ = write!(text, " {} |", outcome.shown.took.as_secs());
    }
    text.push('\n');
    text
}

/// What failed and what was skipped, with the reason.
pub fn failures(plan: &[&Feature], outcomes: &[Outcome]) -> Vec<String> {
    let mut lines = Vec::new();
    for Outcome { kernel, shown } in outcomes {
        if plan.iter().any(|feature| feature.name == PROBES) {
            lines.extend(shown.refused().into_iter().map(|what| format!("failed: {kernel}: {what}")));
        }
        for (program, test) in plan.iter().flat_map(|feature| feature.tests) {
            match shown.of(program, test) {
                Verdict::Passed => {}
                Verdict::Skipped(why) => lines.push(format!("skipped: {kernel}: {program} {test}: {why}")),
                Verdict::Failed(why) => lines.push(format!("failed: {kernel}: {program} {test}: {why}")),
            }
        }
    }
    lines
}

/// From here on the page is written by hand, and kept.
const BY_HAND: &str = "\n## What emulation changes\n";

/// Writes the page.
///
/// # Errors
/// It cannot be read or written.
pub fn write(plan: &[&Feature], outcomes: &[Outcome]) -> Result<()> {
    let path = workspace::root().join("docs/kernels.md");
    let old = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = page(plan, outcomes) + by_hand(&old);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    let path = workspace::root().join("README.md");
    let old = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = with_matrix(&old, &table(plan, outcomes)).context("README.md has no place for the matrix")?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Between these the README shows the matrix.
const MATRIX: [&str; 2] = ["<!-- kernels -->\n", "<!-- end of kernels -->\n"];

fn with_matrix(readme: &str, table: &str) -> Option<String> {
    let (before, rest) = readme.split_once(MATRIX[0])?;
    let (_, after) = rest.split_once(MATRIX[1])?;
    Some([before, MATRIX[0], table, MATRIX[1], after].concat())
}

fn by_hand(page: &str) -> &str {
    page.find(BY_HAND).map_or("", |at| &page[at..])
}

fn page(plan: &[&Feature], outcomes: &[Outcome]) -> String {
    let mut text = "# Kernels\n\nWritten by `cargo xtask vm-test --write`, but for its end: Debian's own kernels, booted in QEMU without hardware \
                    acceleration. A row is `ok` if all of its tests passed there; they are those of `tests/tests`, named below.\n\n"
        .to_owned();
    text += &table(plan, outcomes);
    text += "\n## What does not run there\n";
    for Outcome { kernel, shown } in outcomes {
        let _ = writeln!(text, "\n**Linux {kernel}**\n");
        let missing = shown.probes.iter().filter(|probe| !["attached", "ready"].contains(&probe.state.as_str()));
        let missing: Vec<String> =
            missing.map(|probe| format!("- `{}`: {}; lost: {}\n", probe.name, probe.reason, probe.lost)).collect();
        text += &if missing.is_empty() { "Nothing.\n".to_owned() } else { missing.concat() };
    }
    let lines = failures(plan, outcomes);
    if !lines.is_empty() {
        text += "\n## What failed or was skipped\n\n";
        text += &lines.iter().map(|line| format!("- {line}\n")).collect::<String>();
    }
    text += "\n## The tests of each row\n\n";
    for feature in plan.iter().filter(|feature| !feature.tests.is_empty()) {
        let tests: Vec<String> = feature.tests.iter().map(|(program, test)| format!("`{program}::{test}`")).collect();
        let _ = writeln!(text, "- {}: {}", feature.name, tests.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEATURE: Feature = Feature { name: "calls", systemd: false, tests: &[("syscalls", "a"), ("syscalls", "b")] };
    const LOADED: Feature = Feature { name: PROBES, systemd: false, tests: &[] };

    fn shown(said: &str) -> Outcome {
        let mut shown = Shown::default();
        said.lines().for_each(|line| shown.line(line));
        shown.finish("the machine ended before", Duration::from_secs(3));
        Outcome { kernel: "6.1", shown }
    }

    const SAID: &str = r#"
@@ kernel 6.1.0-1-cloud-amd64
@@ doctor {"kind":"host","name":"BTF"}
@@ doctor {"kind":"probe","name":"sys_exit","state":"attached"}
@@ doctor {"kind":"probe","name":"sk_data_ready","state":"unavailable","reason":"no tracepoint","lost":"a delay"}
@@ begin syscalls a
running 1 test
test a ... ok
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.00s
@@ end
@@ begin syscalls b
"#;

    #[test]
    fn a_machine_that_ends_early_fails_what_it_did_not_show() {
        let outcome = shown(SAID);
        assert_eq!(outcome.shown.of("syscalls", "a"), Verdict::Passed);
        assert_eq!(failures(&[&LOADED, &FEATURE], &[outcome]), ["failed: 6.1: syscalls b: the machine ended before"]);
        let mut nothing = Outcome { kernel: "6.1", shown: Shown::default() };
        nothing.shown.not_booted("no QEMU".to_owned());
        assert_eq!(failures(&[&LOADED, &FEATURE], &[nothing]).len(), 3);
    }

    #[test]
    fn a_test_that_does_not_exist_or_was_skipped_is_no_success() {
        let result = |passed: u8, rest: &str| {
            format!(
                "{SAID}running 1 test\n{rest}test result: ok. {passed} passed; 0 failed; 0 ignored;\n@@ end\n@@ done\n"
            )
        };
        let skipped = "test b ... ok\n\nsuccesses:\n\n---- b stdout ----\nskipped: b: needs gcc\n\n";
        for (said, expected) in [
            (result(0, ""), Verdict::Failed("there is no test of this name".to_owned())),
            (result(1, skipped), Verdict::Skipped("b: needs gcc".to_owned())),
            (result(1, "test b ... ok\n"), Verdict::Passed),
        ] {
            assert_eq!(shown(&said).shown.of("syscalls", "b"), expected);
        }
    }

    #[test]
    fn the_readme_shows_the_matrix_and_keeps_all_else() {
        let readme = format!("a\n{}old\n{}b\n", MATRIX[0], MATRIX[1]);
        let once = with_matrix(&readme, "| new |\n").unwrap();
        assert_eq!(once, readme.replace("old", "| new |"));
        assert_eq!(with_matrix("a\nb\n", ""), None);
        let committed = fs::read_to_string(workspace::root().join("README.md")).unwrap();
        assert!(with_matrix(&committed, "").is_some());
    }

    #[test]
    fn what_is_written_by_hand_outlives_a_run() {
        let (plan, outcomes) = ([&LOADED, &FEATURE], [shown(SAID)]);
        let first = page(&plan, &outcomes) + BY_HAND + "\nA note.\n";
        let second = page(&plan, &outcomes) + by_hand(&first);
        assert_eq!(second, first);
        assert_eq!(by_hand(&page(&plan, &outcomes)), "");
    }

    #[test]
    fn a_missing_hook_is_told_and_a_refusal_fails() {
        let outcome = shown(SAID);
        assert_eq!(outcome.shown.cell(&LOADED), "1 of 2");
        let page = page(&[&LOADED], &[outcome]);
        assert!(page.contains("- `sk_data_ready`: no tracepoint; lost: a delay"), "{page}");
        let refused = r#"@@ doctor {"kind":"probe","name":"sys_exit","state":"unavailable","reason":"the verifier refused it: R0"}"#;
        let outcome = shown(refused);
        assert_eq!(outcome.shown.cell(&LOADED), "**1 refused**");
        assert_eq!(failures(&[&LOADED], &[outcome]), ["failed: 6.1: sys_exit: the verifier refused it: R0"]);
    }
}
