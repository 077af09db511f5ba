//! A program of others that watches this host: started, waited for until it looks, ended, and asked what it told. Knows
//! nothing of what it watches.

use std::{
    fs::{self, File},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::{
    bpf, interrupt,
    process::{self, Process},
};
use crate::setup::{self, Purpose};

/// How long one may take until it looks.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long one may take to write what it has: those that name the frames of all stacks need some seconds.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(20);
/// The lines that say why one ended: libbpf gives the cause in the last but one.
const LAST_LINES: usize = 2;

/// How one sees that a tool looks.
#[derive(Clone, Copy)]
pub enum Sign {
    /// It says so on its standard output.
    Says(&'static str),
    /// Each kernel program that it holds is attached.
    Attached,
    /// Nothing shows it: this long after its start.
    After(Duration),
}

/// A running tool; ended when dropped.
pub struct Tool {
    process: Process,
    folder: TempDir,
}

/// Installs what is compared with, if it is to be had. Nobody needs to have it.
pub fn install() {
    if let Err(error) = setup::install_missing(Purpose::Compare) {
        eprintln!("not everything to compare with is to be had: {error:#}");
    }
}

/// # Errors
/// A program is not there; says which package of Debian has it.
pub fn ensure_installed(program: &str, package: &str) -> Result<()> {
    ensure!(setup::command(program), "not installed (Debian's package {package})");
    Ok(())
}

impl Tool {
    /// Starts one that is installed.
    ///
    /// # Errors
    /// It is not installed; or as [`Self::run`].
    pub fn start(program: &str, package: &str, arguments: &[&str], sign: Sign) -> Result<Self> {
        ensure_installed(program, package)?;
        let mut command = process::command(program, None, None);
        command.args(arguments);
        Self::run(&mut command, sign)
    }

    /// Runs a command and waits until it looks.
    ///
    /// # Errors
    /// It ends early, which is told in its own words, or does not look in time.
    pub fn run(command: &mut Command, sign: Sign) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("steth-bench-").tempdir()?;
        command.stdout(File::create(folder.path().join("stdout"))?);
        command.stderr(File::create(folder.path().join("stderr"))?);
        let mut tool = Self { process: Process::start(command)?, folder };
        let started = Instant::now();
        loop {
            if !tool.process.is_running() {
                bail!("it ended: {}", last_words(&tool.said("stderr")?));
            }
            if tool.looks(sign, started.elapsed())? {
                return Ok(tool);
            }
            ensure!(started.elapsed() < START_LIMIT, "it does not run after {} s", START_LIMIT.as_secs());
            interrupt::sleep(PAUSE)?;
        }
    }

    /// Ends it, unless it ended with what it watched, and returns what it told, on either output.
    ///
    /// # Errors
    /// It does not end.
    pub fn end(mut self) -> Result<String> {
        ensure!(self.stop(), "it does not end after {} s", STOP_LIMIT.as_secs());
        Ok(self.said("stdout")? + &self.said("stderr")?)
    }

    fn looks(&self, sign: Sign, since_start: Duration) -> Result<bool> {
        Ok(match sign {
            Sign::Says(words) => self.said("stdout")?.contains(words),
            Sign::Attached => bpf::is_attached(self.process.id()),
            Sign::After(duration) => since_start >= duration,
        })
    }

    /// What it wrote, which may be cut within a letter.
    fn said(&self, output: &str) -> Result<String> {
        let bytes = fs::read(self.folder.path().join(output)).context("what a tool says")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn stop(&mut self) -> bool {
        !self.process.is_running() || self.process.stop("INT", STOP_LIMIT)
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        self.stop();
    }
}

fn last_words(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = process::command("sh", None, None);
        command.args(["-c", script]);
        command
    }

    #[test]
    fn one_that_ends_early_is_told_in_its_own_words() {
        let error = Tool::run(&mut shell("echo a >&2; echo b >&2; echo; echo c >&2; exit 1"), Sign::Says("never"));
        assert_eq!(error.err().map(|error| error.to_string()).as_deref(), Some("it ended: b; c"));
    }

    #[test]
    fn one_that_is_not_there_names_its_package() {
        let error =
            Tool::start("no-such-tool", "its-package", &[], Sign::Attached).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("not installed (Debian's package its-package)"));
    }

    #[test]
    fn what_it_tells_at_its_end_is_returned() {
        let script = "trap 'echo told; echo more >&2; exit' INT; echo runs; while :; do sleep 0.01; done";
        let tool = Tool::run(&mut shell(script), Sign::Says("runs\n")).unwrap();
        assert_eq!(tool.end().unwrap(), "runs\ntold\nmore\n");
    }

    #[test]
    fn what_it_told_is_kept_although_it_ended_by_itself() {
        let script = "trap exit TERM; echo all; while :; do sleep 0.01; done";
        let mut tool = Tool::run(&mut shell(script), Sign::Says("all\n")).unwrap();
        assert!(tool.process.stop("TERM", STOP_LIMIT));
        assert_eq!(tool.end().unwrap(), "all\n");
    }
}
