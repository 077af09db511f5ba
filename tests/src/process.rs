//! A child process that does not outlive its test. Knows pipes and signals, not what the program is.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

/// A user that a program is run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Number of the user.
    pub uid: u32,
    /// Number of its first group.
    pub gid: u32,
}

impl User {
    /// Looks a user up by name in `/etc/passwd`.
    pub fn named(name: &str) -> Option<Self> {
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let is_it = fields.next()? == name;
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            is_it.then_some(Self { uid, gid })
        })
    }
}

/// A command that the kernel kills when the thread that started it ends.
///
/// `setpriv` (util-linux, on every Debian) asks the kernel for that and then becomes the program, so neither the
/// process id nor the executable's name is another than without it.
pub fn command(program: impl AsRef<Path>, user: Option<&User>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if let Some(User { uid, gid }) = user {
        command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]);
    }
    command.arg("--").arg(program.as_ref());
    command
}

/// A running child; its output is kept line by line, and shown if the test fails.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    all: Vec<String>,
    pipes_closed: usize,
}

const PIPES: usize = 2;

impl Process {
    /// Starts the command with all three standard streams as pipes.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start(name: &str, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name} ({command:?})"))?;
        let output = Arc::new(Output::default());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        output.collect(stdout.context("no standard output")?);
        output.collect(stderr.context("no standard error")?);
        Ok(Self { name: name.to_owned(), child, output })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its folder in `/proc`.
    pub fn proc_folder(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.id()))
    }

    /// Everything said so far on standard output and standard error.
    pub fn log(&self) -> String {
        self.output.lock().all.join("\n")
    }

    /// Waits until a line is said for which `find` has an answer.
    ///
    /// # Errors
    /// If the program falls silent for good, or the time is over, before such a line.
    pub fn wait_for_line<T>(&self, what: &str, within: Duration, mut find: impl FnMut(&str) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + crate::wait::patient(within);
        let mut lines = self.output.lock();
        let mut seen = 0;
        loop {
            if let Some(found) = lines.all[seen..].iter().find_map(|line| find(line)) {
                return Ok(found);
            }
            seen = lines.all.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.pipes_closed == PIPES || left.is_zero() {
                bail!("{} did not say {what}; it said:\n{}", self.name, lines.all.join("\n"));
            }
            lines = self.output.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The child's standard input.
    ///
    /// # Errors
    /// If it was closed before.
    pub fn stdin(&mut self) -> Result<&mut ChildStdin> {
        self.child.stdin.as_mut().with_context(|| format!("the input of {} is closed", self.name))
    }

    /// Says a line to the child.
    ///
    /// # Errors
    /// If the child does not read any more.
    pub fn say(&mut self, line: &str) -> Result<()> {
        // One write: the child's reads are counted by some tests.
        self.stdin()?
            .write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("{} does not listen", self.name))
    }

    /// Sends a signal by name, such as `TERM`.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn signal(&self, signal: &str) -> Result<()> {
        // The child is not reaped before `wait`, so its number cannot belong to another process.
        send_signal(self.id(), signal).with_context(|| format!("of {}", self.name))
    }

    /// Waits for the end of the child and of its output.
    ///
    /// # Errors
    /// If it still runs after `within`.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        drop(self.child.stdin.take());
        let status = crate::wait::poll(&format!("the end of {}", self.name), within, || Ok(self.child.try_wait()?))
            .map_err(|error| anyhow!("{error}; it said:\n{}", self.log()))?;
        let mut lines = self.output.lock();
        let deadline = Instant::now() + within;
        // A grandchild may hold the pipes open: then what was said until now is all.
        while lines.pipes_closed < PIPES && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            lines = self.output.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(status)
    }

    /// Waits for a successful end and returns what was said.
    ///
    /// # Errors
    /// If it fails or takes longer than `within`.
    pub fn finish(mut self, within: Duration) -> Result<String> {
        let status = self.wait(within)?;
        if !status.success() {
            bail!("{} failed ({status}); it said:\n{}", self.name, self.log());
        }
        Ok(self.log())
    }
}

/// Sends a signal by name, such as `TERM`, to a process that the caller's own have started.
///
/// # Errors
/// If it cannot be sent.
pub fn send_signal(pid: u32, signal: &str) -> Result<()> {
    let status = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid.to_string()]).status();
    if !status.context("cannot run sh")?.success() {
        bail!("cannot send {signal} to process {pid}");
    }
    Ok(())
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}\n---", self.name, self.log());
        }
    }
}

impl Output {
    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(self: &Arc<Self>, pipe: impl Read + Send + 'static) {
        let output = Arc::clone(self);
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                output.lock().all.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                output.changed.notify_all();
                line.clear();
            }
            output.lock().pipes_closed += 1;
            output.changed.notify_all();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Process {
        let mut command = command("sh", None);
        command.args(["-c", script]);
        Process::start("shell", command).unwrap()
    }

    #[test]
    fn a_line_is_awaited_and_input_is_heard() {
        let mut process = shell("echo ready >&2; read word; echo got $word");
        process.wait_for_line("ready", SOON, |line| (line == "ready").then_some(())).unwrap();
        process.say("hello").unwrap();
        assert_eq!(process.finish(SOON).unwrap(), "ready\ngot hello");
    }

    #[test]
    fn the_end_of_output_ends_the_waiting() {
        let process = shell("echo something else");
        let error = process.wait_for_line("ready", SOON, |line| (line == "ready").then_some(())).unwrap_err();
        assert!(error.to_string().contains("something else"), "{error}");
    }

    #[test]
    fn a_signal_reaches_it() {
        let mut process = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done");
        process.wait_for_line("ready", SOON, |line| (line == "ready").then_some(())).unwrap();
        process.signal("TERM").unwrap();
        assert_eq!(process.wait(SOON).unwrap().code(), Some(7));
    }

    #[test]
    fn it_dies_with_the_thread_that_started_it() {
        let process = std::thread::spawn(|| {
            let process = shell("echo ready; exec sleep 1000");
            process.wait_for_line("ready", SOON, |line| (line == "ready").then_some(())).unwrap();
            process
        });
        let mut process = process.join().unwrap();
        assert!(!process.wait(SOON).unwrap().success());
    }

    #[test]
    fn users_are_found_by_name() {
        assert_eq!(User::named("root"), Some(User { uid: 0, gid: 0 }));
        assert_eq!(User::named("no-such-user"), None);
    }
}
