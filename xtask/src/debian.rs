//! Small Debians 12 of some packages, made from Debian's mirror once and kept. Knows nothing of what they are for.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::setup;

/// What mmdebstrap calls it.
pub const RELEASE: &str = "bookworm";
/// What is not whole is made anew, so nothing is flushed to disk in between.
pub const UNFLUSHED: &str = "--dpkgopt=force-unsafe-io";

/// The tree or image of this name in the folder, made of these packages if it is not there or was made of others. `make` has mmdebstrap
/// to make it with, and puts it where it is told.
///
/// # Errors
/// It cannot be made, or mmdebstrap not be installed.
pub fn kept(folder: &Path, name: &str, packages: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let [whole, list, part] = ["", ".packages", ".part"].map(|end| folder.join(format!("{name}{end}")));
    if whole.exists() && fs::read_to_string(&list).ok().as_deref() == Some(packages) {
        return Ok(whole);
    }
    if !setup::command("mmdebstrap") {
        setup::install_debian(&["mmdebstrap"])?;
    }
    // Under another name until it is whole, and the old one stays until then.
    remove(&part)?;
    make(&part)?;
    remove(&list)?;
    remove(&whole)?;
    fs::rename(&part, &whole).with_context(|| format!("cannot name {}", whole.display()))?;
    fs::write(&list, packages).with_context(|| format!("cannot write {}", list.display()))?;
    Ok(whole)
}

/// Removes a file or a tree, if there is one.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false if path.exists() => fs::remove_file(path),
        false => Ok(()),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}
