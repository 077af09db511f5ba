//! The machines' root file system: a small Debian 12 with what the tests start, made by mmdebstrap once. Knows nothing of kernels.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{debian, workspace};

/// What tests start; all are requirements of `cargo xtask setup` as well.
const PACKAGES: &str =
    "postgresql-15,gcc,g++,libc6-dev,python3,openssl,iproute2,strace,procps,util-linux,systemd,systemd-sysv,dbus";
/// With room for what the tests write.
const SIZE: &str = "3G";

/// The image, made if it is not there.
///
/// # Errors
/// Not root, or the mirror cannot be reached.
pub fn image(folder: &Path) -> Result<PathBuf> {
    debian::kept(folder, "root.ext4", PACKAGES, |image| {
        eprintln!("== root file system");
        let tree = folder.join("root.tree");
        debian::remove(&tree)?;
        workspace::complete(
            Command::new("mmdebstrap")
                .args(["--quiet", "--mode=root", "--variant=minbase", "--aptopt=Apt::Install-Recommends \"0\""])
                .args([debian::UNFLUSHED, &format!("--include={PACKAGES}")])
                .args(["doc", "man", "locale"].map(|part| format!("--dpkgopt=path-exclude=/usr/share/{part}/*")))
                // The tests make clusters of their own.
                .arg(
                    "--essential-hook=mkdir -p \"$1/etc/postgresql-common/createcluster.d\" && echo create_main_cluster = \
                     false > \"$1/etc/postgresql-common/createcluster.d/steth.conf\"",
                )
                .arg(debian::RELEASE)
                .arg(&tree),
        )?;
        make_image(&tree, image, SIZE)?;
        debian::remove(&tree)
    })
}

/// Puts a folder into an ext4 image; what is not used takes no room on disk.
pub fn make_image(tree: &Path, image: &Path, size: &str) -> Result<()> {
    let part = image.with_extension("unfinished");
    let _ = fs::remove_file(&part);
    workspace::complete(
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d"])
            .arg(tree)
            .arg(&part)
            .arg(size)
            .env("PATH", with_sbin()),
    )?;
    fs::rename(&part, image).with_context(|| format!("cannot write {}", image.display()))
}

/// Not every shell has root's directories in `PATH`.
fn with_sbin() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
