//! `cargo xtask layers`: the dependency rules of ARCHITECTURE.md, checked on manifests and sources. This file holds
//! the rules and the walk over the files; `manifest` and `source` find what is mentioned where.

mod manifest;
mod source;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// What each crate may use of ours, and which of the two ayas. A crate that is not here is an error.
const CRATES: &[CrateRule] = &[
    CrateRule { folder: "probes", ours: &[], aya: None },
    CrateRule { folder: "agent-ebpf", ours: &["steth-probes"], aya: Some("aya-ebpf") },
    CrateRule { folder: "agent", ours: &["steth-probes"], aya: Some("aya") },
    CrateRule { folder: "tests", ours: &["steth", "steth-probes"], aya: None },
    CrateRule { folder: "xtask", ours: &[], aya: None },
];

/// What each top-level module of `agent/src` may use of the others. `main` is `main.rs`.
const MODULES: &[ModuleRule] = &[
    ModuleRule { name: "heap", uses: &[], layouts: false },
    ModuleRule { name: "files", uses: &[], layouts: false },
    ModuleRule { name: "model", uses: &[], layouts: false },
    ModuleRule { name: "config", uses: &["model"], layouts: false },
    stage("kernel", true, &["config", "files", "model"]),
    // Reading a map is one unsafe system call, and `kernel` is its home.
    stage("ingest", true, &["config", "files", "kernel", "model"]),
    stage("host", false, &["config", "files", "model"]),
    stage("postgres", false, &["config", "model"]),
    stage("profile", false, &["config", "files", "model"]),
    stage("aggregate", false, &["config", "model"]),
    stage("correlate", false, &["config", "model"]),
    stage("export", false, &["config", "model"]),
    stage("send", false, &["config", "model"]),
    // One client for all that leaves the host.
    stage("alert", false, &["config", "model", "send"]),
    stage("govern", false, &["config", "model"]),
    stage("store", false, &["config", "model"]),
    stage("serve", false, &["config", "model", "store"]),
    ModuleRule { name: "pipeline", uses: ALL_STAGES, layouts: false },
    ModuleRule { name: "cli", uses: &["pipeline", "config", "heap", "model"], layouts: false },
    ModuleRule { name: "main", uses: &["cli", "heap"], layouts: false },
];

const ALL_STAGES: &[&str] = &[
    "kernel",
    "ingest",
    "host",
    "postgres",
    "profile",
    "aggregate",
    "correlate",
    "export",
    "send",
    "alert",
    "govern",
    "store",
    "serve",
    "config",
    "model",
];

/// Where `aya` and byte layouts may be mentioned although the module as a whole may not.
const LAYOUTS_TOO: &[&str] = &["agent/src/profile/unwind.rs", "agent/src/profile/unwind/"];

/// Where `unsafe` may stand. Tests are free: they make system calls on purpose, and nobody runs them in production.
const UNSAFE: &[&str] =
    &["probes/src/record.rs", "agent/src/heap.rs", "agent/src/kernel.rs", "agent/src/kernel/", "agent-ebpf/", "tests/"];

/// Folders that hold sources.
const SOURCES: &[&str] = &["agent/build.rs", "agent/src", "agent-ebpf/src", "probes/src", "tests", "xtask/src"];

struct CrateRule {
    folder: &'static str,
    ours: &'static [&'static str],
    aya: Option<&'static str>,
}

struct ModuleRule {
    name: &'static str,
    uses: &'static [&'static str],
    layouts: bool,
}

const fn stage(name: &'static str, layouts: bool, uses: &'static [&'static str]) -> ModuleRule {
    ModuleRule { name, uses, layouts }
}

/// One place that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    file: String,
    line: usize,
    what: String,
    /// What to do about it.
    instead: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; {}", self.file, self.line, self.what, self.instead)
    }
}

pub fn run() -> Result<()> {
    let breaches = check(workspace::root())?;
    for breach in &breaches {
        eprintln!("{breach}");
    }
    if !breaches.is_empty() {
        bail!("{} in breach of the rules of ARCHITECTURE.md, \"Inside agent/src\"", breaches.len());
    }
    Ok(())
}

/// All breaches in the workspace at `root`.
fn check(root: &Path) -> Result<Vec<Breach>> {
    let mut breaches = Vec::new();
    for rule in CRATES {
        let file = format!("{}/Cargo.toml", rule.folder);
        breaches.extend(check_manifest(&file, &read(root, &file)?, rule)?);
    }
    let mut files = Vec::new();
    for folder in SOURCES {
        rust_files(&root.join(folder), &mut files)?;
    }
    files.sort();
    for path in files {
        let file = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        breaches.extend(check_source(&file, &read(root, &file)?)?);
    }
    Ok(breaches)
}

fn check_manifest(file: &str, text: &str, rule: &CrateRule) -> Result<Vec<Breach>> {
    const OURS: [&str; 5] = ["steth", "steth-ebpf", "steth-probes", "steth-tests", "xtask"];
    const AYA: [&str; 2] = ["aya", "aya-ebpf"];
    let dependencies = manifest::dependencies(text).with_context(|| format!("{file}: not a manifest"))?;
    let forbidden = dependencies.into_iter().filter(|dependency| {
        let name = dependency.name.as_str();
        OURS.contains(&name) && !rule.ours.contains(&name) || AYA.contains(&name) && rule.aya != Some(name)
    });
    let folder = rule.folder;
    Ok(forbidden
        .map(|dependency| Breach {
            file: file.to_owned(),
            line: dependency.line,
            what: format!("`{folder}` must not depend on `{}`", dependency.name),
            instead: match rule.ours {
                [] => "it uses nothing of ours; what both sides need goes to `probes`".to_owned(),
                ours => format!("of ours it may use {}", listed(ours)),
            },
        })
        .collect())
}

fn check_source(file: &str, text: &str) -> Result<Vec<Breach>> {
    let module_path = module_path(file);
    let mentions = source::mentions(text, &module_path).map_err(|why| anyhow::anyhow!("{file}: {why}"))?;
    let breach = |line, what, instead| Breach { file: file.to_owned(), line, what, instead };
    let mut breaches = Vec::new();

    if !UNSAFE.iter().any(|allowed| file.starts_with(allowed)) {
        breaches.extend(mentions.unsafes.iter().map(|&line| {
            let instead = "move it to agent/src/kernel behind a safe function, or do without".to_owned();
            breach(line, "`unsafe` outside the places named for it".to_owned(), instead)
        }));
    }
    let Some(inside) = file.strip_prefix("agent/src/") else { return Ok(breaches) };
    if inside == "lib.rs" {
        return Ok(breaches);
    }
    let module = inside.split(['/', '.']).next().unwrap_or_default();
    let Some(rule) = MODULES.iter().find(|rule| rule.name == module) else {
        let instead = "give it a row in xtask/src/layers/mod.rs and a line in ARCHITECTURE.md".to_owned();
        breaches.push(breach(1, format!("`{module}` has no place in the flow"), instead));
        return Ok(breaches);
    };
    for used in &mentions.modules {
        // Names that are no module of ours are items of the crate's root.
        let known = MODULES.iter().any(|rule| rule.name == used.name);
        if known && used.name != module && !rule.uses.contains(&used.name.as_str()) {
            let instead = match rule.uses {
                [] => "it stands below all others; what they share goes to `model`".to_owned(),
                uses => format!("it may use {}; hand the rest over in `pipeline`", listed(uses)),
            };
            breaches.push(breach(used.line, format!("`{module}` must not use `{}`", used.name), instead));
        }
    }
    if !rule.layouts && !LAYOUTS_TOO.iter().any(|allowed| file.starts_with(allowed)) {
        breaches.extend(mentions.layouts.iter().map(|mention| {
            let instead = "let `kernel` or `ingest` read it and hand on typed values".to_owned();
            breach(mention.line, format!("`{module}` must not know `{}`", mention.name), instead)
        }));
    }
    Ok(breaches)
}

/// Where a file's items live, from its crate's root: `["postgres", "wire"]` for `agent/src/postgres/wire.rs`.
fn module_path(file: &str) -> Vec<String> {
    let inside = file.split_once("src/").map_or(file, |(_, inside)| inside);
    let mut path: Vec<String> = inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|name| ["mod", "lib", "main"].contains(&name.as_str())) {
        path.pop();
    }
    path
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn read(root: &Path, file: &str) -> Result<String> {
    fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"))
}

fn rust_files(path: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
            rust_files(&entry?.path(), found)?;
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches_in(file: &str, text: &str) -> Vec<(usize, String)> {
        check_source(file, text).unwrap().into_iter().map(|breach| (breach.line, breach.what)).collect()
    }

    #[track_caller]
    fn one_breach(file: &str, text: &str, line: usize, what: &str) {
        assert_eq!(breaches_in(file, text), [(line, what.to_owned())], "{file}: {text}");
    }

    #[track_caller]
    fn no_breach(file: &str, text: &str) {
        assert_eq!(breaches_in(file, text), [], "{file}: {text}");
    }

    #[test]
    fn this_workspace_keeps_the_rules() {
        let breaches: Vec<String> = check(workspace::root()).unwrap().iter().map(Breach::to_string).collect();
        assert_eq!(breaches, [""; 0]);
    }

    #[test]
    fn a_stage_must_not_use_another_in_whatever_way_it_names_it() {
        let what = "`host` must not use `kernel`";
        one_breach("agent/src/host/mod.rs", "\nuse crate::kernel::load;", 2, what);
        one_breach("agent/src/host/mod.rs", "use crate::{\n    model::metric,\n    kernel::{self, load},\n};", 3, what);
        one_breach("agent/src/host/cpu.rs", "fn f() {\n    crate::kernel::load()\n}", 2, what);
        one_breach("agent/src/host/cpu.rs", "use super::super::kernel;", 1, what);
        one_breach("agent/src/host/mod.rs", "use super::kernel;", 1, what);
        one_breach("agent/src/host/cpu.rs", "mod tests {\n use super::super::super::{model, kernel};\n}", 2, what);
        one_breach("agent/src/host/cpu.rs", "use super::{cpu, super::kernel};", 1, what);
        one_breach("agent/src/host.rs", "vec![crate::kernel::load()];", 1, what);
        one_breach("agent/src/host.rs", "use steth::kernel::load;", 1, what);
    }

    #[test]
    fn a_stage_may_use_itself_the_model_and_the_config() {
        no_breach("agent/src/host/mod.rs", "use crate::{config::Host, model::{metric, snapshot}, host::cpu};");
        no_breach("agent/src/host/cpu.rs", "use super::kernel; use self::kernel::x; use other::kernel;");
        no_breach("agent/src/serve/mod.rs", "use crate::store::Store;");
        no_breach("agent/src/pipeline.rs", "use crate::{kernel, ingest, serve};");
        no_breach(
            "agent/src/host/mod.rs",
            "// crate::kernel\n/// [`crate::kernel`]\nconst A: &str = \"crate::kernel\";",
        );
    }

    #[test]
    fn nothing_calls_back_up() {
        one_breach("agent/src/store/mod.rs", "use crate::serve;", 1, "`store` must not use `serve`");
        one_breach("agent/src/export/mod.rs", "use crate::pipeline;", 1, "`export` must not use `pipeline`");
        one_breach("agent/src/pipeline.rs", "use crate::cli;", 1, "`pipeline` must not use `cli`");
        one_breach("agent/src/cli/run.rs", "use crate::kernel;", 1, "`cli` must not use `kernel`");
        one_breach("agent/src/model/metric.rs", "use crate::config;", 1, "`model` must not use `config`");
        one_breach("agent/src/main.rs", "fn main() { steth::pipeline::run() }", 1, "`main` must not use `pipeline`");
    }

    #[test]
    fn only_kernel_ingest_and_unwind_know_aya_and_layouts() {
        one_breach("agent/src/host/mod.rs", "use aya::Ebpf;", 1, "`host` must not know `aya`");
        one_breach("agent/src/cli/doctor.rs", "fn f(e: &aya::Ebpf) {}", 1, "`cli` must not know `aya`");
        let what = "`aggregate` must not know `steth_probes::record`";
        one_breach("agent/src/aggregate.rs", "use steth_probes::{histogram, record::read};", 1, what);
        one_breach("agent/src/model/x.rs", "\n#[repr(C)] struct A;", 2, "`model` must not know `repr(C)`");
        one_breach("agent/src/host/x.rs", "u32::from_ne_bytes(b)", 1, "`host` must not know `from_ne_bytes`");
        no_breach("agent/src/kernel/load.rs", "use aya::Ebpf;");
        no_breach("agent/src/ingest/mod.rs", "use steth_probes::record;");
        no_breach("agent/src/profile/unwind/mod.rs", "use aya::maps::Array;");
        no_breach("agent/src/model/distribution.rs", "use steth_probes::histogram::Histogram;");
        assert_eq!(breaches_in("agent/src/profile/mod.rs", "use aya::maps::Array;").len(), 1);
    }

    #[test]
    fn unsafe_stands_only_where_it_is_named() {
        let what = "`unsafe` outside the places named for it";
        one_breach("agent/src/host/mod.rs", "fn f() {\n    unsafe { g() }\n}", 2, what);
        one_breach("probes/src/histogram.rs", "macro_rules! m { () => { unsafe {} } }", 1, what);
        one_breach("xtask/src/run.rs", "unsafe extern \"C\" {}", 1, what);
        no_breach("probes/src/record.rs", "unsafe impl Plain for u8 {}");
        no_breach("agent/src/kernel/mod.rs", "fn f() { unsafe { g() } }");
        no_breach("agent/src/host/mod.rs", "// unsafe\nconst A: &str = \"unsafe\"; #![deny(unsafe_code)]");
    }

    #[test]
    fn a_module_without_a_place_in_the_flow_is_named() {
        one_breach("agent/src/utils.rs", "", 1, "`utils` has no place in the flow");
    }

    #[test]
    fn what_is_no_rust_is_an_error_and_not_silently_fine() {
        assert!(check_source("agent/src/host/mod.rs", "fn f( {").is_err());
    }

    #[test]
    fn manifests_point_from_both_sides_to_probes() {
        let rule = |folder| CRATES.iter().find(|rule| rule.folder == folder).unwrap();
        let bad = "[package]\nname = \"x\"\n\n[dependencies]\nsteth.workspace = true\naya = \"1\"\n";
        let breaches = check_manifest("probes/Cargo.toml", bad, rule("probes")).unwrap();
        let found: Vec<_> = breaches.iter().map(|breach| (breach.line, breach.what.as_str())).collect();
        assert_eq!(found, [(6, "`probes` must not depend on `aya`"), (5, "`probes` must not depend on `steth`")]);

        let hidden = "[target.'cfg(unix)'.dev-dependencies]\nmine = { package = \"steth-ebpf\", path = \"..\" }\n";
        assert_eq!(check_manifest("agent/Cargo.toml", hidden, rule("agent")).unwrap().len(), 1);
        let table = "[build-dependencies.xtask]\npath = \"../xtask\"\n";
        assert_eq!(check_manifest("agent/Cargo.toml", table, rule("agent")).unwrap().len(), 1);
        let fine = "[dependencies]\nsteth-probes.workspace = true\naya.workspace = true\n";
        assert_eq!(check_manifest("agent/Cargo.toml", fine, rule("agent")).unwrap(), []);
    }
}
