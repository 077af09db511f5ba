//! What profiles are taken of: a program that keeps a processor busy 30 frames deep. Knows nothing of who looks at it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    bench::process::{self, Process},
    workspace,
};

/// The program's name, as profiles show it.
pub const NAME: &str = "deep";
/// Beyond its length.
const GRACE: Duration = Duration::from_secs(20);

/// The compiled program; gone when dropped.
pub struct Program {
    folder: TempDir,
}

impl Program {
    /// # Errors
    /// It does not compile.
    pub fn compile() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("steth-bench-").tempdir()?;
        let program = Self { folder };
        program.link(NAME, &[])?;
        Ok(program)
    }

    /// Builds it again, under another name.
    ///
    /// # Errors
    /// It does not compile.
    pub fn link(&self, name: &str, more: &[&str]) -> Result<PathBuf> {
        let path = self.folder().join(name);
        let source = self.folder().join("deep.c");
        fs::write(&source, include_str!("deep.c"))?;
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-fomit-frame-pointer", "-Wl,--build-id"]).args(more).arg("-o").arg(&path).arg(&source);
        workspace::complete(&mut compiler)?;
        Ok(path)
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps these processors busy.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&self, length: Duration, processors: usize) -> Result<Vec<Process>> {
        let one = |processor| {
            let mut command = process::command(self.folder().join(NAME), Some(processor), None);
            command.arg(length.as_secs_f64().to_string());
            Process::start(command.stdout(Stdio::piped()))
        };
        (0..processors).map(one).collect()
    }

    /// Does so to the end; how many turns all of them did in a second.
    ///
    /// # Errors
    /// It does not start, or fails.
    pub fn run(&self, length: Duration, processors: usize) -> Result<f64> {
        let mut turns = 0.0;
        for mut process in self.start(length, processors)? {
            let said = process.output(length + GRACE)?;
            turns += said.trim().parse::<f64>().with_context(|| format!("{NAME} said {said:?}"))?;
        }
        Ok(turns)
    }
}
