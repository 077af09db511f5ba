//! SECURITY.md, and the table of faults in docs/operations.md, against the sources: what they name is there.

use std::{fs, path::Path};

const PAGE: &str = include_str!("../../SECURITY.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// What stands between backquotes, if it is the name of a test: those are sentences.
fn tests_in(page: &str) -> Vec<&str> {
    let quoted = page.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.matches('_').count() > 3 && !name.contains("steth_")).collect()
}

/// The rows of the table of faults.
fn faults() -> impl Iterator<Item = &'static str> {
    let (_, section) = OPERATIONS.split_once("\n## Faults\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    section.lines().filter(|line| line.starts_with('|')).skip(2)
}

fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_test_that_is_named_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut text = String::new();
    for folder in ["agent/src", "probes", "tests"] {
        sources(&root.join(folder), &mut text);
    }
    let named = tests_in(PAGE);
    assert!(named.len() > 15, "{named:?}");
    for name in named.into_iter().chain(faults().flat_map(tests_in)) {
        assert!(text.contains(&format!("fn {name}(")), "{name} is named, and there is no such test");
    }
}

#[test]
fn every_fault_has_a_figure() {
    assert!(faults().count() > 15);
    for row in faults() {
        let figure = row.trim_end_matches('|').rsplit_once('|').unwrap().1;
        assert!(figure.contains(|letter: char| letter.is_ascii_digit()), "{row}");
    }
}

#[test]
fn every_file_that_security_md_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let words = PAGE.split(|c: char| c.is_whitespace() || "()`,|".contains(c));
    let files: Vec<_> = words.filter(|word| word.ends_with(".rs") || word.starts_with("docs/")).collect();
    assert!(files.len() > 15, "{files:?}");
    for file in files {
        assert!(root.join(file.trim_end_matches('.')).exists(), "SECURITY.md names {file}, which is not there");
    }
}
