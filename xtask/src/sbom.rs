//! `cargo xtask sbom`: what is in the agent, as CycloneDX 1.5: each crate that is compiled into it, with version, licence, source
//! and checksum, and who needs whom. Of `cargo metadata` and `Cargo.lock`; two runs on one tree write the same bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::{deny, workspace};

/// Where it goes.
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask sbom\n  cargo xtask sbom --output steth.cdx.json")]
pub struct Arguments {
    /// The file [default: target/steth.cdx.json]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// The package that is shipped, and the one whose output it embeds.
const SHIPPED: &[&str] = &["steth", "steth-ebpf"];

pub fn run(arguments: &Arguments) -> Result<()> {
    let output = arguments.output.clone().unwrap_or_else(|| workspace::root().join("target/steth.cdx.json"));
    let count = write(&output)?;
    println!("{}: {count} components", output.display());
    Ok(())
}

/// Writes it; how many components there are.
///
/// # Errors
/// cargo does not tell what is in it, or it cannot be written.
pub fn write(output: &Path) -> Result<usize> {
    let lock = fs::read_to_string(workspace::root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let bill = bill(&deny::metadata()?, &checksums(&lock)?)?;
    fs::write(output, serde_json::to_string_pretty(&bill)? + "\n")
        .with_context(|| format!("cannot write {}", output.display()))?;
    Ok(bill["components"].as_array().map_or(0, Vec::len))
}

/// Checksums of crates by name and version.
fn checksums(lock: &str) -> Result<BTreeMap<(String, String), String>> {
    let lock: toml::Table = lock.parse().context("Cargo.lock")?;
    let packages = lock.get("package").and_then(toml::Value::as_array).context("Cargo.lock has no packages")?;
    let text = |package: &toml::Value, name: &str| Some(package.get(name)?.as_str()?.to_owned());
    let checksum = |package| Some(((text(package, "name")?, text(package, "version")?), text(package, "checksum")?));
    Ok(packages.iter().filter_map(checksum).collect())
}

fn bill(metadata: &Value, checksums: &BTreeMap<(String, String), String>) -> Result<Value> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let nodes = metadata["resolve"]["nodes"].as_array().context("cargo metadata resolves nothing")?;
    let packages: BTreeMap<&str, &Value> = packages.iter().filter_map(|it| Some((it["id"].as_str()?, it))).collect();
    let needs: BTreeMap<&str, Vec<&str>> =
        nodes.iter().filter_map(|it| Some((it["id"].as_str()?, needed(it)))).collect();
    let name_of = |id: &str| packages.get(id).and_then(|package| package["name"].as_str()).unwrap_or_default();
    let mut shipped: BTreeSet<&str> = BTreeSet::new();
    let mut next: Vec<&str> = packages.keys().copied().filter(|id| SHIPPED.contains(&name_of(id))).collect();
    let main = next.iter().copied().find(|id| name_of(id) == SHIPPED[0]).context("steth is not in the workspace")?;
    while let Some(id) = next.pop() {
        if shipped.insert(id) {
            next.extend(needs.get(id).into_iter().flatten().copied());
        }
    }
    let purl = |id: &str| {
        let version = packages.get(id).and_then(|package| package["version"].as_str()).unwrap_or_default();
        format!("pkg:cargo/{}@{version}", name_of(id))
    };
    let component = |id: &str| {
        let package = packages.get(id).copied().unwrap_or(&Value::Null);
        let text = |name: &str| package[name].as_str().unwrap_or_default().to_owned();
        let mut component = json!({
            "type": if id == main { "application" } else { "library" },
            "bom-ref": purl(id), "name": text("name"), "version": text("version"), "purl": purl(id),
            "licenses": [{ "expression": text("license").replace('/', " OR ") }],
        });
        if let Some(sum) = checksums.get(&(text("name"), text("version"))) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
        }
        if let Some(repository) = package["repository"].as_str() {
            component["externalReferences"] = json!([{ "type": "vcs", "url": repository }]);
        }
        component
    };
    let needs_of = |id: &&str| {
        let on: BTreeSet<String> = needs.get(*id).into_iter().flatten().map(|id| purl(id)).collect();
        json!({ "ref": purl(id), "dependsOn": on })
    };
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": { "component": component(main) },
        "components": shipped.iter().filter(|id| **id != main).map(|id| component(id)).collect::<Vec<_>>(),
        "dependencies": shipped.iter().map(needs_of).collect::<Vec<_>>(),
    }))
}

/// What is needed to run and to build, but not to test.
fn needed(node: &Value) -> Vec<&str> {
    let is_shipped = |need: &&Value| {
        let kinds = need["dep_kinds"].as_array().map_or(&[][..], Vec::as_slice);
        kinds.iter().any(|kind| kind["kind"].as_str() != Some("dev"))
    };
    node["deps"].as_array().into_iter().flatten().filter(is_shipped).filter_map(|need| need["pkg"].as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compiled_in_is_listed_with_checksum_and_what_only_tests_need_is_not() {
        let package = |name: &str| json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "repository": "https://x/y" });
        let need = |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let packages = ["steth", "a", "b", "c", "other"].map(package);
        let metadata = json!({
            "packages": packages,
            "resolve": { "nodes": [
                { "id": "steth", "deps": [need("a", Value::Null), need("c", "dev".into())] },
                { "id": "a", "deps": [need("b", "build".into())] },
                { "id": "b", "deps": [] }, { "id": "c", "deps": [] },
                { "id": "other", "deps": [need("c", Value::Null)] },
            ] },
        });
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"00ff\"\n[[package]]\nname = \"steth\"\nversion = \"1.0.0\"\n";
        let bill = bill(&metadata, &checksums(lock).unwrap()).unwrap();
        let names: Vec<_> =
            bill["components"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(bill["metadata"]["component"]["name"], "steth");
        let first = &bill["components"][0];
        assert_eq!(first["hashes"][0]["content"], "00ff");
        assert_eq!(first["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["dependencies"][2]["dependsOn"], json!(["pkg:cargo/a@1.0.0"]), "{bill}");
    }
}
