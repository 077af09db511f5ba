//! A clean Debian 12 in a folder: what a new machine has, and systemd. Made once, and copied by each test.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{debian, workspace};

/// Beside what Debian calls essential: the service manager, and what a newcomer asks with.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,man-db,curl";

/// The folder; made from Debian's mirror in some minutes if it is not there.
///
/// # Errors
/// Not root, or the mirror does not answer.
pub fn root(folder: &Path) -> Result<PathBuf> {
    debian::kept(folder, "debian12", PACKAGES, |tree| {
        let mut command = Command::new("mmdebstrap");
        command.args(["--variant=minbase", debian::UNFLUSHED, &format!("--include={PACKAGES}"), debian::RELEASE]);
        workspace::complete(command.arg(tree))
    })
}
