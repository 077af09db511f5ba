//! `steth flame`, started as a user starts it, and folded stacks as it writes them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use steth_probes::unwind::Stop;

use crate::{
    agent::{binary, steth, without_settings},
    process::{self, Process},
};

/// One line of a folded profile.
#[derive(Clone, Debug)]
pub struct Line {
    /// Frames, the outermost first.
    pub frames: Vec<String>,
    /// What it weighs, in nanoseconds.
    pub ns: u64,
}

impl Line {
    /// Whether it has this frame.
    pub fn has(&self, frame: &str) -> bool {
        self.frames.iter().any(|it| it == frame)
    }
}

/// A folded profile.
#[derive(Clone, Debug)]
pub struct Folded(pub Vec<Line>);

/// A profile that is being taken without an agent.
#[derive(Debug)]
pub struct Flame(Process, tempfile::TempDir);

impl Flame {
    /// Begins one, and waits until samples are taken.
    ///
    /// # Errors
    /// If it is not built, or ends before.
    pub fn begin(arguments: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("steth-flame-").tempdir()?;
        let mut command = process::command(binary()?, None);
        without_settings(&mut command);
        command.args(["flame", "--config", "/dev/null", "--alone", "-o"]).arg(folder.path().join("out.folded"));
        command.args(arguments);
        let process = Process::start("flame", command)?;
        let begins = |line: &str| line.starts_with("taking samples").then_some(());
        process.wait_for_line("that it takes samples", SOON, begins)?;
        Ok(Self(process, folder))
    }

    /// Ends it as Ctrl-C does, or waits for its end, and reads it.
    ///
    /// # Errors
    /// If it fails.
    pub fn end(self, early: bool) -> Result<Folded> {
        Ok(self.end_with_words(early)?.0)
    }

    /// The same, and what it said.
    ///
    /// # Errors
    /// If it fails.
    pub fn end_with_words(mut self, early: bool) -> Result<(Folded, String)> {
        if early {
            self.0.signal("INT")?;
        }
        let status = self.0.wait(SOON)?;
        ensure!(status.success(), "{status}: {}", self.0.log());
        Ok((Folded::read(&std::fs::read_to_string(self.1.path().join("out.folded"))?)?, self.0.log()))
    }
}

/// Loading the kernel programs takes seconds on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Takes a profile; arguments as on the command line, without `-o`.
///
/// # Errors
/// If it fails, or its lines are none.
pub fn flame(arguments: &[&str]) -> Result<Folded> {
    let (code, out, said) = steth(&[&["flame", "--config", "/dev/null", "-o", "-"], arguments].concat())?;
    ensure!(code == Some(0), "{code:?}: {said}");
    Folded::read(&out)
}

impl Folded {
    /// Reads one.
    ///
    /// # Errors
    /// If a line has no weight.
    pub fn read(text: &str) -> Result<Self> {
        let line = |line: &str| {
            let (frames, ns) = line.rsplit_once(' ').with_context(|| format!("no weight: {line}"))?;
            Ok(Line { frames: frames.split(';').map(str::to_owned).collect(), ns: ns.parse()? })
        };
        Ok(Self(text.lines().map(line).collect::<Result<_>>()?))
    }

    /// The part of it whose stacks were walked to their end.
    pub fn whole(&self) -> f64 {
        let stops: Vec<String> = Stop::ALL.iter().map(|stop| format!("[{}]", stop.text())).collect();
        let whole = self.only(|line| !line.frames.iter().any(|frame| stops.contains(frame)));
        whole.ns() as f64 / self.ns() as f64
    }

    /// What all of it weighs.
    pub fn ns(&self) -> u64 {
        self.0.iter().map(|line| line.ns).sum()
    }

    /// What stacks weigh that hold this frame.
    pub fn with(&self, frame: &str) -> u64 {
        self.0.iter().filter(|line| line.has(frame)).map(|line| line.ns).sum()
    }

    /// The part of it that has this frame.
    pub fn share(&self, frame: &str) -> f64 {
        self.with(frame) as f64 / self.ns() as f64
    }

    /// The stacks that satisfy.
    pub fn only(&self, wanted: impl Fn(&Line) -> bool) -> Self {
        Self(self.0.iter().filter(|line| wanted(line)).cloned().collect())
    }
}
