//! `cargo xtask package`: what people install. What goes where in .deb and .rpm stands in `agent/Cargo.toml`; the pages in
//! between come from the program itself. Knows no test: `clean_host` makes a host, and `tests/tests/package.rs` uses it.

mod clean_host;
mod tools;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    build::{self, Profile},
    sbom, setup, workspace,
};

/// What to make and whether to try it.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask package\n  cargo xtask package --test\n\nPackages built on Debian 12 run on \
                        Debian 12 and later: what they ask of the C library is computed from the program."
)]
pub struct Arguments {
    /// Installs, upgrades, runs under systemd, removes and purges the packages on a clean Debian 12; needs root
    #[arg(long)]
    test: bool,
    /// Of a build that is quicker to make and slower to run
    #[arg(long)]
    debug: bool,
}

/// A .deb, and the same again with a higher version and another configuration, for upgrades.
pub struct Debs {
    pub deb: PathBuf,
    pub next: PathBuf,
}

/// Where packages put the configuration.
const CONFIG: &str = "/etc/steth/steth.toml";
/// What the next version's has more.
const NEXT_LINE: &str = "# of the next version\n";

/// What was made.
struct Packages {
    debs: Debs,
    rpm: PathBuf,
    next_rpm: PathBuf,
    tarball: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let steps = if arguments.test { 7 } else { 5 };
    let step = |number: u32, what: &str| eprintln!("[{number}/{steps}] {what}");
    step(1, "cargo-deb and cargo-generate-rpm");
    let tools = tools::installed()?;
    step(2, "the agent");
    let binary = build::steth(if arguments.debug { Profile::Debug } else { Profile::Release })?;
    step(3, "manual pages and completions");
    let folder = folder();
    stage(&binary, &folder.join("stage"))?;
    step(4, "the .deb");
    let debs = both(&tools, &folder)?;
    step(5, "the .rpm and the tarball");
    let version = env!("CARGO_PKG_VERSION");
    let rpm = tools.rpm(&folder.join(format!("steth-{version}-1.x86_64.rpm")), "")?;
    let tarball = tarball(&folder, version)?;
    for path in [&debs.deb, &rpm, &tarball] {
        println!("{}  {:.1} MB", path.display(), fs::metadata(path)?.len() as f64 / 1e6);
    }
    println!("needs: {}", control_field(&debs.deb, "Depends")?);
    if !arguments.test {
        return Ok(());
    }
    step(6, "a clean Debian 12");
    let root = clean_host::root(&folder)?;
    step(7, "the tests");
    let next_rpm = next_rpm(&tools, &folder)?;
    test(&Packages { debs, rpm, next_rpm, tarball }, &root)
}

/// Both .debs of an agent that is built.
///
/// # Errors
/// A tool cannot be installed, or fails.
pub fn debs(binary: &Path) -> Result<Debs> {
    let (tools, folder) = (tools::installed()?, folder());
    stage(binary, &folder.join("stage"))?;
    both(&tools, &folder)
}

fn both(tools: &tools::Tools, folder: &Path) -> Result<Debs> {
    let version = env!("CARGO_PKG_VERSION");
    let deb = tools.deb(&folder.join(format!("steth_{version}-1_amd64.deb")), &format!("{version}-1"))?;
    let next = tools.deb(&folder.join("next/steth.deb"), &format!("{version}-2"))?;
    configure_anew(&next)?;
    Ok(Debs { deb, next })
}

/// Ships another configuration in a package that is made, as a later version may: dpkg asks then what becomes of the user's.
fn configure_anew(deb: &Path) -> Result<()> {
    let tree = tempfile::tempdir_in(folder())?;
    let tree = tree.path();
    workspace::complete(Command::new("dpkg-deb").arg("--raw-extract").arg(deb).arg(tree.join("tree")))?;
    let config = tree.join(format!("tree{CONFIG}"));
    let text = fs::read_to_string(&config).context("the package has no configuration")?;
    fs::write(&config, text + NEXT_LINE)?;
    // dpkg goes by what it unpacks, not by the list of sums.
    workspace::complete(
        Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(tree.join("tree")).arg(deb),
    )
}

/// An .rpm of the next release, with another configuration as well.
fn next_rpm(tools: &tools::Tools, folder: &Path) -> Result<PathBuf> {
    let (root, config) = (workspace::root(), folder.join("next/steth.toml"));
    let text = fs::read_to_string(root.join("packaging/steth.toml")).context("no configuration to ship")?;
    fs::create_dir_all(folder.join("next"))?;
    fs::write(&config, text + NEXT_LINE)?;
    let manifest: toml::Table = fs::read_to_string(root.join("agent/Cargo.toml"))?.parse()?;
    let assets = ["package", "metadata", "generate-rpm", "assets"];
    let assets = assets.iter().try_fold(&toml::Value::Table(manifest), |table, key| table.get(key)).cloned();
    let mut assets =
        assets.and_then(|assets| assets.as_array().cloned()).context("agent/Cargo.toml names no assets")?;
    let shipped = assets.iter_mut().filter_map(toml::Value::as_table_mut);
    let mut shipped = shipped.filter(|asset| asset.get("dest").and_then(toml::Value::as_str) == Some(CONFIG));
    let source = config.to_str().context("the checkout's path is not UTF-8")?;
    shipped.next().context("no configuration among the assets")?.insert("source".into(), source.into());
    let otherwise =
        toml::Table::from_iter([("release".to_owned(), "2".into()), ("assets".to_owned(), assets.into())]).to_string();
    tools.rpm(&folder.join("next/steth.rpm"), &otherwise)
}

fn folder() -> PathBuf {
    workspace::root().join("target/package")
}

/// Puts together what is not in the repository.
fn stage(binary: &Path, stage: &Path) -> Result<()> {
    if stage.exists() {
        fs::remove_dir_all(stage).with_context(|| format!("cannot empty {}", stage.display()))?;
    }
    let completions = stage.join("completions");
    fs::create_dir_all(&completions).with_context(|| format!("cannot create {}", completions.display()))?;
    let program = stage.join("steth");
    fs::copy(binary, &program).with_context(|| format!("cannot copy {}", binary.display()))?;
    workspace::complete(Command::new(&program).args(["docs", "man"]).arg(stage.join("man")))?;
    for (shell, name) in [("bash", "steth.bash"), ("zsh", "_steth"), ("fish", "steth.fish")] {
        let mut command = Command::new(&program);
        let text = workspace::output_of(command.args(["docs", "completions", shell]));
        let text = text.with_context(|| format!("no completions for {shell}"))?;
        fs::write(completions.join(name), text + "\n")?;
    }
    sbom::write(&stage.join("steth.cdx.json"))?;
    // Line numbers are what most of it is; the kernel programs are data and stay.
    workspace::complete(Command::new("strip").arg(&program))
}

/// For hosts that have neither package manager: the same files, to be copied to where they belong.
fn tarball(folder: &Path, version: &str) -> Result<PathBuf> {
    let name = format!("steth-{version}-x86_64-linux");
    let inner = folder.join(&name);
    if inner.exists() {
        fs::remove_dir_all(&inner)?;
    }
    fs::create_dir_all(&inner)?;
    let root = workspace::root();
    let of_stage = ["steth", "man", "completions", "steth.cdx.json"].map(|part| folder.join("stage").join(part));
    let parts = ["steth.toml", "steth.service", "alerts.toml", "grafana", "prometheus", "copyright"];
    let of_packaging = parts.map(|part| root.join("packaging").join(part));
    let of_root = ["README.md", "SECURITY.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "docs"]
        .map(|part| root.join(part));
    let all = of_stage.iter().chain(&of_packaging).chain(&of_root);
    workspace::complete(Command::new("cp").args(["--recursive", "--target-directory"]).arg(&inner).args(all))?;
    let tarball = folder.join(format!("{name}.tar.gz"));
    let tar = &mut Command::new("tar");
    tar.args(["--create", "--gzip", "--sort=name", "--owner=root:0", "--group=root:0"]);
    workspace::complete(tar.arg("--directory").arg(folder).arg("--file").arg(&tarball).arg(&name))?;
    fs::remove_dir_all(&inner)?;
    Ok(tarball)
}

fn control_field(deb: &Path, field: &str) -> Result<String> {
    workspace::output_of(Command::new("dpkg-deb").arg("--field").arg(deb).arg(field))
        .with_context(|| format!("{} does not say what its {field} is", deb.display()))
}

fn test(packages: &Packages, root: &Path) -> Result<()> {
    if workspace::output_of(Command::new("id").arg("-u")).as_deref() != Some("0") {
        bail!("installing packages in a root of their own needs root");
    }
    // What the .rpm holds is asked of rpm itself.
    if !setup::command("rpm") {
        setup::install_debian(&["rpm"])?;
    }
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--package", "steth-tests", "--test", "package", "--test", "service"]);
    cargo.args(["--", "--show-output", "--test-threads=1"]);
    cargo.env("STETH_BIN", folder().join("stage/steth")).env("STETH_CLEAN_ROOT", root);
    cargo.env("STETH_DEB", &packages.debs.deb).env("STETH_NEXT_DEB", &packages.debs.next);
    cargo.env("STETH_RPM", &packages.rpm).env("STETH_NEXT_RPM", &packages.next_rpm);
    cargo.env("STETH_TARBALL", &packages.tarball);
    workspace::complete(&mut cargo)
}
