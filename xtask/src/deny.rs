//! `cargo xtask deny`: whether each crate of the tree may be there: its licence, where it comes from, and that none is there which
//! is not wanted. The rules stand in deny.toml, in cargo-deny's own format; this reads the part of it that needs no network, in a
//! second. What is known of vulnerable versions only cargo-deny itself tells, where it is installed and its data can be reached.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::workspace;

/// What to check beside.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask deny\n  cargo install --locked cargo-deny && cargo xtask deny --advisories"
)]
pub struct Arguments {
    /// Asks cargo-deny for vulnerable versions, too; it fetches https://github.com/rustsec/advisory-db
    #[arg(long)]
    pub advisories: bool,
}

/// What is allowed.
struct Rules {
    licences: Vec<String>,
    /// Licences of single crates beside.
    exceptions: BTreeMap<String, Vec<String>>,
    banned: Vec<String>,
    registries: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let file = workspace::root().join("deny.toml");
    let rules = Rules::read(&fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?)?;
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let wrong: Vec<String> = packages.iter().flat_map(|package| rules.wrong(package)).collect();
    if !wrong.is_empty() {
        bail!("deny.toml does not allow:\n  {}", wrong.join("\n  "));
    }
    println!("{} packages: licences, bans and sources are as deny.toml allows", packages.len());
    if !arguments.advisories {
        println!("not looked at: known vulnerabilities (cargo xtask deny --advisories)");
        return Ok(());
    }
    let mut deny = workspace::cargo();
    deny.args(["deny", "--version"]);
    if workspace::output_of(&mut deny).is_none() {
        bail!("cargo-deny is not installed; it takes some minutes to compile: cargo install --locked cargo-deny");
    }
    let mut deny = workspace::cargo();
    workspace::complete(deny.args(["deny", "check", "advisories"]))
}

/// The tree, as `Cargo.lock` has it.
pub fn metadata() -> Result<Value> {
    let mut cargo = workspace::cargo();
    cargo.args(["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"]);
    let shown = workspace::command_line(&cargo);
    let output = workspace::output_of(&mut cargo).with_context(|| format!("failed: {shown}"))?;
    Ok(serde_json::from_str(&output)?)
}

impl Rules {
    fn read(text: &str) -> Result<Self> {
        let table: toml::Table = text.parse().context("deny.toml")?;
        let list = |value: Option<&toml::Value>, what: &str| -> Result<Vec<String>> {
            let values = value.and_then(toml::Value::as_array).with_context(|| format!("deny.toml lacks {what}"))?;
            let name = |one: &toml::Value| one.as_str().or_else(|| one.get("crate")?.as_str()).map(str::to_owned);
            values.iter().map(|one| name(one).with_context(|| format!("deny.toml: {what}: {one}"))).collect()
        };
        let section = |name: &str| table.get(name).with_context(|| format!("deny.toml lacks [{name}]"));
        let mut exceptions = BTreeMap::new();
        for exception in section("licenses")?.get("exceptions").and_then(toml::Value::as_array).into_iter().flatten() {
            let name = exception.get("crate").and_then(toml::Value::as_str).context("an exception without crate")?;
            exceptions.insert(name.to_owned(), list(exception.get("allow"), "exceptions.allow")?);
        }
        Ok(Self {
            licences: list(section("licenses")?.get("allow"), "licenses.allow")?,
            exceptions,
            banned: list(section("bans")?.get("deny"), "bans.deny")?,
            registries: list(section("sources")?.get("allow-registry"), "sources.allow-registry")?,
        })
    }

    /// What is wrong with one package.
    fn wrong(&self, package: &Value) -> Vec<String> {
        let text = |name: &str| package[name].as_str().unwrap_or_default();
        let (name, shown) = (text("name"), format!("{} {}", text("name"), text("version")));
        let mut wrong = Vec::new();
        if self.banned.iter().any(|banned| banned == name) {
            wrong.push(format!("{shown}: it is banned"));
        }
        // What is in the workspace comes from nowhere.
        if let Some(source) = package["source"].as_str()
            && !self.registries.iter().any(|registry| source == format!("registry+{registry}"))
        {
            wrong.push(format!("{shown}: it comes from {source}"));
        }
        let own: &[String] = self.exceptions.get(name).map_or(&[], Vec::as_slice);
        let is_allowed = |licence: &str| self.licences.iter().chain(own).any(|allowed| allowed == licence);
        match spdx::Expression::parse_mode(text("license"), spdx::ParseMode::LAX) {
            Ok(expression) if expression.evaluate(|licence| is_allowed(&licence.to_string())) => {}
            Ok(expression) => wrong.push(format!("{shown}: its licence is {expression}")),
            Err(_) => wrong.push(format!("{shown}: {:?} is no licence expression", text("license"))),
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RULES: &str = r#"
        [licenses]
        allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
        exceptions = [{ allow = ["CDLA-Permissive-2.0"], crate = "roots" }]
        [bans]
        deny = [{ crate = "openssl-sys", reason = "one library of cryptography is enough" }]
        [sources]
        allow-registry = ["https://github.com/rust-lang/crates.io-index"]
    "#;

    fn wrong(name: &str, licence: &str, source: Option<&str>) -> Vec<String> {
        let package = json!({ "name": name, "version": "1.0.0", "license": licence, "source": source });
        Rules::read(RULES).unwrap().wrong(&package)
    }

    #[test]
    fn licences_bans_and_sources_are_held_to_the_rules() {
        let here = Some("registry+https://github.com/rust-lang/crates.io-index");
        for (name, licence) in [
            ("a", "MIT OR Apache-2.0"),
            ("a", "MIT/Apache-2.0"),
            ("a", "GPL-3.0-only OR MIT"),
            ("a", "Apache-2.0 WITH LLVM-exception"),
            ("roots", "CDLA-Permissive-2.0"),
        ] {
            assert_eq!(wrong(name, licence, here), [""; 0], "{licence}");
        }
        assert_eq!(wrong("a", "MIT", None), [""; 0]);
        for (name, licence, source, why) in [
            ("a", "GPL-3.0-only", here, "a 1.0.0: its licence is GPL-3.0-only"),
            ("a", "MIT AND GPL-3.0-only", here, "a 1.0.0: its licence is MIT AND GPL-3.0-only"),
            ("a", "CDLA-Permissive-2.0", here, "a 1.0.0: its licence is CDLA-Permissive-2.0"),
            ("a", "", here, "a 1.0.0: \"\" is no licence expression"),
            ("openssl-sys", "MIT", here, "openssl-sys 1.0.0: it is banned"),
            ("a", "MIT", Some("git+https://x/y"), "a 1.0.0: it comes from git+https://x/y"),
        ] {
            assert_eq!(wrong(name, licence, source), [why]);
        }
    }

    #[test]
    fn rules_that_lack_a_part_are_an_error() {
        assert!(Rules::read("[licenses]\nallow = []\n").is_err());
    }
}
