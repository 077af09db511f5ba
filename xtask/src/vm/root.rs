//! The machines' root file system: a small Debian 12 with what the tests start, made by mmdebstrap once. Knows nothing of kernels.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::workspace;

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
    let image = folder.join("root.ext4");
    if image.exists() && fs::read_to_string(folder.join("root.packages")).ok().as_deref() == Some(PACKAGES) {
        return Ok(image);
    }
    eprintln!("== root file system");
    let tree = folder.join("root.tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    workspace::complete(
        Command::new("mmdebstrap")
            .args(["--quiet", "--mode=root", "--variant=minbase", "--aptopt=Apt::Install-Recommends \"0\""])
            .arg(format!("--include={PACKAGES}"))
            // What is not whole is made anew, so nothing is flushed to disk in between.
            .arg("--dpkgopt=force-unsafe-io")
            .args(["doc", "man", "locale"].map(|part| format!("--dpkgopt=path-exclude=/usr/share/{part}/*")))
            // The tests make clusters of their own.
            .arg(
                "--essential-hook=mkdir -p \"$1/etc/postgresql-common/createcluster.d\" && echo create_main_cluster = false > \
                 \"$1/etc/postgresql-common/createcluster.d/steth.conf\"",
            )
            .arg("bookworm")
            .arg(&tree),
    )?;
    make_image(&tree, &image, SIZE)?;
    fs::remove_dir_all(&tree)?;
    fs::write(folder.join("root.packages"), PACKAGES)?;
    Ok(image)
}

/// Puts a folder into an ext4 image; what is not used takes no room on disk.
pub fn make_image(tree: &Path, image: &Path, size: &str) -> Result<()> {
    let part = image.with_extension("part");
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
