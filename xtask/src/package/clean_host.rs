//! A clean Debian 12 in a folder: what a new machine has, and systemd. Made once, and copied by each test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{setup, workspace};

/// Beside what Debian calls essential: the service manager, and what a newcomer asks with.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,man-db,curl";

/// The folder; made from Debian's mirror in some minutes if it is not there.
///
/// # Errors
/// Not root, or the mirror does not answer.
pub fn root(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("debian12");
    if root.exists() {
        return Ok(root);
    }
    if !setup::command("mmdebstrap") {
        setup::install_debian(&["mmdebstrap"])?;
    }
    // Under another name until it is whole.
    let part = folder.join("debian12.part");
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=minbase", &format!("--include={PACKAGES}"), "bookworm"]).arg(&part);
    workspace::complete(&mut command)?;
    fs::rename(&part, &root).with_context(|| format!("cannot name {}", root.display()))?;
    Ok(root)
}
