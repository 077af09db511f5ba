//! SECURITY.md against the sources: what it names is there.

use std::{fs, path::Path};

const PAGE: &str = include_str!("../../SECURITY.md");

/// What stands between backquotes.
fn quoted() -> impl Iterator<Item = &'static str> {
    PAGE.split('`').skip(1).step_by(2)
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
fn every_test_that_security_md_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut text = String::new();
    for folder in ["agent/src", "probes", "tests"] {
        sources(&root.join(folder), &mut text);
    }
    // Names of tests are sentences.
    let named: Vec<_> = quoted().filter(|name| name.matches('_').count() > 3 && !name.contains("steth_")).collect();
    assert!(named.len() > 15, "{named:?}");
    for name in named {
        assert!(text.contains(&format!("fn {name}(")), "SECURITY.md names {name}, and there is no such test");
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
