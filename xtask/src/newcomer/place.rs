//! Where a newcomer types: a copy of a Debian as the root of a mount namespace, on this kernel and this network. Everything that
//! runs there is in one control group, and ends with it. Knows no README.
//!
//! It has no PID namespace: the kernel numbers processes for the agent as the first one has them, and /proc of another would show
//! other numbers.

use std::{ffi::OsString, time::Duration};

use anyhow::Result;

use super::{
    copy::{Copy, Toolchain},
    group::Group,
    host_settings::{Hidden, HostSettings},
    output::Running,
};

/// What is mounted in the root `$1`: what a machine has, the toolchain `$3` at `$4`, and from `$2` what this host is configured with;
/// further arguments are paths of this host, files of `$2` up to `--`, then such as variables name.
const MOUNTS: &str = r#"
set -e
root=$1 taken=$2 toolchain=$3 place=$4
shift 4
cd "$root"
mount --bind . .
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
# All hierarchies of this host: what runs is in each of them.
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
# Not every kernel has them.
mount -t tracefs tracefs sys/kernel/tracing 2>/dev/null || :
mount -t debugfs debugfs sys/kernel/debug 2>/dev/null || :
mount -t securityfs securityfs sys/kernel/security 2>/dev/null || :
mount --rbind /dev dev
mount -t tmpfs tmpfs run
show() {
    mount --bind "$1" "$2"
    mount -o remount,bind,ro "$2"
}
show "$toolchain" "$place"
while [ "$1" != -- ]; do
    mkdir -p "$(dirname "$1")"
    rm -f "$1"
    : > "$1"
    show "$taken/$1" "$1"
    shift
done
shift
for named in "$@"; do
    if [ ! -e ".$named" ]; then
        if [ -d "$named" ]; then mkdir -p ".$named"; else mkdir -p "$(dirname ".$named")"; : > ".$named"; fi
        show "$named" ".$named"
    fi
done
pivot_root . .
umount -l .
cd /
update-ca-certificates >&2
echo mounted
exec sleep infinity
"#;

/// Where a Debian looks for programs, and rustup's installer puts its own.
const PATH: &str = "/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MOUNTED_WITHIN: Duration = Duration::from_secs(120);

/// The namespace and the group; all in it ends when dropped, and before what it stands on is removed.
pub struct Place {
    holder: Running,
    group: Group,
    _copy: Copy,
    environment: Vec<(OsString, OsString)>,
    hidden: Hidden,
    /// Where commands are typed.
    folder: String,
}

impl Place {
    /// Mounts all that a machine has; commands will run in `folder`.
    ///
    /// # Errors
    /// The kernel refuses a mount.
    pub fn make(copy: Copy, toolchain: &Toolchain, settings: HostSettings, folder: &str, group: Group) -> Result<Self> {
        let mut command = group.command_with_own_mounts("sh");
        command.args(["-c", MOUNTS, "sh"]).arg(copy.root()).env("PATH", PATH);
        command.arg(settings.tree()).arg(&toolchain.folder).arg(format!("root/.rustup/toolchains/{}", toolchain.name));
        command.args(settings.files()?).arg("--").args(settings.named_paths());
        let mut holder = Running::start(&mut command, "mount", &settings.hidden)?;
        holder.wait_for("mounted", MOUNTED_WITHIN)?;
        // From here on its files are but in the namespace: nothing of them stays, however this ends.
        let HostSettings { environment, hidden, .. } = settings;
        Ok(Self { holder, group, _copy: copy, environment, hidden, folder: folder.to_owned() })
    }

    /// Starts what is typed into a shell of root's, after what was typed there before.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, typed_before: &[String], command: &str) -> Result<Running> {
        let script = format!("cd '{}' || exit\n{}\n{command}", self.folder, typed_before.join("\n"));
        let mut shell = self.group.command("nsenter");
        shell.args(["--target", &self.holder.id().to_string(), "--mount", "bash", "-c", &script]);
        shell.env_clear().envs([("PATH", PATH), ("HOME", "/root"), ("USER", "root"), ("SHELL", "/bin/bash")]);
        shell.env("LANG", "C.UTF-8").envs(self.environment.iter().map(|(name, value)| (name, value)));
        Running::start(&mut shell, command, &self.hidden)
    }
}
