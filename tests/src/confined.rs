//! The agent with the capabilities of its unit and no more, as another user. Knows the unit's text, not systemd.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::agent::{self, Options};

/// What `packaging/steth.service` says.
pub const UNIT: &str = include_str!("../../packaging/steth.service");

/// The words after `key=` in the unit, of all its lines.
pub fn of_unit(key: &str) -> Vec<&'static str> {
    UNIT.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).flat_map(str::split_whitespace).collect()
}

/// The most that `systemd-analyze security` may say of the unit.
pub const MOST_EXPOSED: f64 = 3.0;

/// How exposed the unit is, from 0 to 10, in what `systemd-analyze security` says of it.
///
/// # Errors
/// If it says nothing of that.
pub fn exposure(said: &str) -> Result<f64> {
    let level = said.lines().find_map(|line| line.split_once("exposure level for steth.service: "));
    let level = level.and_then(|(_, level)| level.split_whitespace().next());
    level.with_context(|| format!("no exposure in {said}"))?.parse().context("an exposure that is no number")
}

/// A copy of the agent that nobody may execute, in a folder that everybody may write to.
pub struct Confined {
    folder: TempDir,
}

impl Confined {
    /// Copies the agent.
    ///
    /// # Errors
    /// If it is not built.
    pub fn copy() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("steth-confined-").tempdir()?;
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777))?;
        let confined = Self { folder };
        // By another process: while this one had it open for writing, no child of any thread could execute it.
        let copied = std::process::Command::new("cp").arg(agent::binary()?).arg(confined.program()).status();
        anyhow::ensure!(copied.context("cannot run cp")?.success(), "cannot copy the agent");
        Ok(confined)
    }

    /// The copy.
    pub fn program(&self) -> std::path::PathBuf {
        self.folder.path().join("steth")
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the copy as `nobody`, by setpriv with these arguments, after these lines of a shell.
    ///
    /// # Errors
    /// If the script cannot be written.
    pub fn as_nobody(&self, setpriv: &[String], lines: &str) -> Result<Options> {
        let script = self.folder.path().join("start");
        let text = format!(
            "#!/bin/sh\n{lines}\nexec setpriv --reuid=65534 --regid=65534 --clear-groups {} -- {} \"$@\"\n",
            setpriv.join(" "),
            self.program().display(),
        );
        fs::write(&script, text)?;
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755))?;
        Ok(self.options(Some(script)))
    }

    /// Options with all that is written in this folder.
    pub fn options(&self, program: Option<std::path::PathBuf>) -> Options {
        Options {
            program,
            lock: Some(self.folder.path().join("lock")),
            profiles: Some(self.folder.path().join("profiles")),
            alerts: Some(self.folder.path().join("alerts")),
            audit: Some(self.folder.path().join("audit")),
            ..Options::default()
        }
    }
}

/// As systemd gives capabilities to a service that is not root's: inherited and ambient, and nothing beside them to be had.
pub fn setpriv(capabilities: &[&str]) -> Vec<String> {
    let names: Vec<String> =
        capabilities.iter().map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase())).collect();
    ["--bounding-set", "--inh-caps", "--ambient-caps"].map(|set| format!("{set}=-all{}", names.concat())).into()
}
