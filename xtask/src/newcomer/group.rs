//! Processes that end together, and with whoever made the group, however that ends: a control group, and a guard beside it. Knows
//! none of them.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Waits until whoever holds its input is gone, then ends all that is in the group `$1`, and the group.
const GUARD: &str = r#"
read -r _
for _ in $(seq 200); do
    # Again and again: somebody may just be about to join.
    echo 1 > "$1/cgroup.kill"
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null
    [ -d "$1" ] || exit 0
    sleep 0.05
done
exit 1
"#;

/// A control group with a guard, which is no part of it.
pub struct Group {
    folder: PathBuf,
    guard: Child,
    /// Closed by the kernel if nobody else does.
    held: Option<ChildStdin>,
}

impl Group {
    /// Makes an empty one.
    ///
    /// # Errors
    /// Not root, or no cgroup2.
    pub fn make() -> Result<Self> {
        let folder = unified()?.join(format!("steth-newcomer-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "sh"]).arg(&folder).stdin(Stdio::piped()).stdout(Stdio::null());
        // A terminal's Ctrl-C is not for it.
        let mut guard = command.process_group(0).spawn().context("cannot start sh")?;
        let held = guard.stdin.take();
        Ok(Self { folder, guard, held })
    }

    /// A command that is in the group before it does anything.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "echo $$ > \"$1/cgroup.procs\" && shift && exec \"$@\"", "sh"])
            .arg(&self.folder)
            .arg(program);
        command
    }

    /// The same, and what it mounts is seen by nobody else and gone with the last process that it leaves.
    pub fn command_with_own_mounts(&self, program: &str) -> Command {
        let mut command = self.command("unshare");
        command.args(["--mount", program]);
        command
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        drop(self.held.take());
        if !self.guard.wait().is_ok_and(|status| status.success()) {
            eprintln!("{} stays: something in it does not end", self.folder.display());
        }
    }
}

/// Where control groups of the second version are.
fn unified() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let place = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| Path::new(place).to_owned())
    });
    let Some(place) = place else {
        bail!("no cgroup2 is mounted: what a newcomer starts could not be ended with certainty")
    };
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_ends_with_all_that_is_in_it_and_with_what_that_started() {
        let Ok(group) = Group::make() else {
            println!("skipped: needs root, and cgroup2");
            return;
        };
        let mut command = group.command("sh");
        let mut child = command.args(["-c", "sleep 60 & exec sleep 60"]).spawn().unwrap();
        let folder = group.folder.clone();
        drop(group);
        assert!(!child.wait().unwrap().success());
        assert!(!folder.exists());
    }
}
