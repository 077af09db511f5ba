//! What a kernel starts with: busybox, the drivers of the disks, and a script that goes over to the root file system.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::kernels::Files;
use crate::workspace;

/// In the order of loading; a kernel that has one built in has no file for it.
const DRIVERS: [&str; 6] =
    ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"];

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for driver in $(/bin/busybox cat /drivers); do /bin/busybox insmod /$driver; done
/bin/busybox mount -t ext4 /dev/vda /new
/bin/busybox mkdir -p /new/payload
/bin/busybox mount -t ext4 -o ro /dev/vdb /new/payload
/bin/busybox mount -t devtmpfs dev /new/dev
/bin/busybox mkdir -p /new/dev/shm /new/dev/pts
/bin/busybox mount -t tmpfs shm /new/dev/shm
/bin/busybox mount -t devpts pts /new/dev/pts
/bin/busybox mount -t proc proc /new/proc
/bin/busybox mount -t sysfs sys /new/sys
/bin/busybox mount -t cgroup2 cgroup /new/sys/fs/cgroup
/bin/busybox mount -t bpf bpf /new/sys/fs/bpf
/bin/busybox mount -t tracefs tracing /new/sys/kernel/tracing
/bin/busybox mount -t tmpfs run /new/run
# The kernel hands what it does not know on its command line to its first process.
if [ "$first" = systemd ]; then
    /bin/busybox mkdir -p /new/etc/systemd/system/multi-user.target.wants
    /bin/busybox cp /new/payload/run.service /new/etc/systemd/system/
    /bin/busybox ln -s ../run.service /new/etc/systemd/system/multi-user.target.wants/run.service
    exec /bin/busybox switch_root /new /lib/systemd/systemd --unit=multi-user.target --show-status=false
fi
/bin/busybox chroot /new /bin/sh /payload/run
/bin/busybox poweroff -f
"#;

/// Makes it.
///
/// # Errors
/// A program that makes it fails.
pub fn make(files: &Files, folder: &Path, version: &str) -> Result<PathBuf> {
    let tree = tempfile::tempdir_in(folder)?;
    let tree = tree.path();
    for name in ["bin", "dev", "new"] {
        fs::create_dir(tree.join(name))?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox")).context("cannot copy /bin/busybox (Debian: busybox-static)")?;
    let mut loaded = String::new();
    for driver in DRIVERS {
        if let Some(path) = find(&files.modules, driver)? {
            let name = format!("{driver}.ko");
            unpack(&path, &tree.join(&name))?;
            loaded += &format!("{name}\n");
        }
    }
    fs::write(tree.join("drivers"), loaded)?;
    fs::write(tree.join("init"), INIT)?;
    fs::set_permissions(tree.join("init"), PermissionsExt::from_mode(0o755))?;

    let made = folder.join(format!("initramfs-{version}.cpio"));
    let names = "init\ndrivers\nbin\nbin/busybox\ndev\nnew\n".to_owned();
    let drivers = fs::read_to_string(tree.join("drivers"))?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--owner=+0:+0", "--quiet"])
        .current_dir(tree)
        .stdin(Stdio::piped())
        .stdout(File::create(&made)?)
        .spawn()
        .context("cannot start cpio")?;
    cpio.stdin.take().context("cpio has no input")?.write_all((names + &drivers).as_bytes())?;
    if !cpio.wait()?.success() {
        bail!("cpio failed");
    }
    Ok(made)
}

/// A driver's file, packed or not.
fn find(folder: &Path, driver: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if let Some(found) = find(&entry.path(), driver)? {
                return Ok(Some(found));
            }
        } else if [".ko", ".ko.xz"].iter().any(|end| entry.file_name().to_string_lossy() == format!("{driver}{end}")) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

fn unpack(from: &Path, to: &Path) -> Result<()> {
    if from.extension().is_some_and(|end| end == "xz") {
        workspace::complete(Command::new("xz").args(["--decompress", "--stdout"]).arg(from).stdout(File::create(to)?))
    } else {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display())).map(drop)
    }
}
