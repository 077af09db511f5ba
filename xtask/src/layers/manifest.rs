//! Which crates a `Cargo.toml` depends on, in any of its tables. Knows no rule.

use anyhow::Result;
use toml::{Table, Value};

/// A dependency and where it stands.
#[derive(Debug)]
pub struct Dependency {
    /// The package, also where it is renamed.
    pub name: String,
    /// From 1.
    pub line: usize,
}

/// All dependencies: normal, for builds, for tests, for some targets.
///
/// # Errors
/// The text is not TOML.
pub fn dependencies(text: &str) -> Result<Vec<Dependency>> {
    let manifest: Table = text.parse()?;
    let mut found = Vec::new();
    collect(&manifest, text, &mut found);
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flatten();
    for target in targets.filter_map(|(_, target)| target.as_table()) {
        collect(target, text, &mut found);
    }
    Ok(found)
}

fn collect(table: &Table, text: &str, found: &mut Vec<Dependency>) {
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for (key, value) in table.get(kind).and_then(Value::as_table).into_iter().flatten() {
            let renamed = value.get("package").and_then(Value::as_str);
            found.push(Dependency { name: renamed.unwrap_or(key).to_owned(), line: line_of(text, kind, key) });
        }
    }
}

/// The line that names the dependency, as a key or as a table of its own; the parser keeps no positions.
fn line_of(text: &str, kind: &str, key: &str) -> usize {
    let is_key = |line: &str| {
        line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(['=', '.']))
            || line.trim_end().trim_end_matches(']').ends_with(&format!("{kind}.{key}"))
    };
    text.lines().position(is_key).map_or(1, |index| index + 1)
}
