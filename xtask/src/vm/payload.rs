//! What a machine is given beside its root: the agent, the built tests, and what to do with them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    features::{Feature, PROBES},
    root::make_image,
};
use crate::{package, test, workspace};

/// What the machine runs, and how systemd is told to.
const RUN: &str = include_str!("run.sh");
const UNIT: &str = include_str!("run.service");

/// Puts it together.
///
/// # Errors
/// The tests do not build, or it cannot be written.
pub fn image(folder: &Path, steth: &Path, plan: &[&Feature]) -> Result<PathBuf> {
    eprintln!("== tests");
    let tree = tempfile::tempdir_in(folder)?;
    let tree = tree.path();
    fs::create_dir(tree.join("bin"))?;
    strip(steth, &tree.join("steth"))?;
    let mut names: Vec<&str> = plan.iter().flat_map(|feature| feature.tests).map(|(program, _)| *program).collect();
    names.dedup();
    if !names.is_empty() {
        for program in test::programs(&names)?.into_iter().filter(|program| names.contains(&program.name.as_str())) {
            strip(&program.path, &tree.join("bin").join(&program.name))?;
        }
    }
    let fixtures = workspace::root().join("tests/fixtures");
    fs::create_dir(tree.join("tests"))?;
    workspace::complete(Command::new("cp").arg("-r").arg(fixtures).arg(tree.join("tests")))?;
    fs::write(tree.join("run"), RUN)?;
    fs::write(tree.join("run.service"), UNIT)?;
    fs::write(tree.join("plan"), lines(plan, false))?;
    fs::write(tree.join("plan-systemd"), lines(plan, true))?;
    if plan.iter().any(|feature| feature.systemd) {
        let debs = package::debs(steth)?;
        fs::copy(&debs.deb, tree.join("steth.deb")).context("cannot copy the package")?;
        fs::copy(&debs.next, tree.join("next.deb")).context("cannot copy the package")?;
    }
    if plan.iter().any(|feature| feature.name == PROBES) {
        fs::write(tree.join("probes"), "")?;
    }
    let image = folder.join("payload.ext4");
    make_image(tree, &image, "1G")?;
    Ok(image)
}

/// `program test`, a line each.
fn lines(plan: &[&Feature], systemd: bool) -> String {
    let features = plan.iter().filter(|feature| feature.systemd == systemd);
    features.flat_map(|feature| feature.tests).map(|(program, test)| format!("{program} {test}\n")).collect()
}

/// Without line tables a test program is a fifth as large.
fn strip(from: &Path, to: &Path) -> Result<()> {
    workspace::complete(Command::new("strip").arg("--strip-debug").arg("-o").arg(to).arg(from))
        .with_context(|| format!("cannot take {}", from.display()))
}
