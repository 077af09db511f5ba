//! A command and what it says, line by line, until it ends, says what one waits for, or Ctrl-C comes. Knows no command.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, IsTerminal as _, PipeReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use signal_hook::{consts, flag};

use super::host_settings::Hidden;
use crate::workspace;

/// Of a command that failed; the reason stands among the last ones.
const KEPT_LINES: usize = 40;
/// Between two looks at signals and clocks.
const PAUSE: Duration = Duration::from_millis(100);
/// Of a line of progress, so that it stays on one line.
const SHOWN_LETTERS: usize = 90;

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on Ctrl-C and SIGTERM end the waiting, so that what was started is stopped by its owner's `drop`.
pub fn listen_to_signals() -> Result<()> {
    let seen = INTERRUPTED.get_or_init(Arc::default);
    for signal in [consts::SIGINT, consts::SIGTERM, consts::SIGHUP] {
        flag::register(signal, Arc::clone(seen)).context("cannot listen to signals")?;
    }
    Ok(())
}

fn check_signals() -> Result<()> {
    if INTERRUPTED.get().is_some_and(|seen| seen.load(Ordering::Relaxed)) {
        bail!("interrupted");
    }
    Ok(())
}

/// A command that runs. Killed when dropped; what it started is its owner's to end.
pub struct Running {
    name: String,
    child: Child,
    lines: Receiver<String>,
    hidden: Hidden,
    said: VecDeque<String>,
    began: Instant,
    shows_progress: bool,
}

impl Running {
    /// Starts it, in a process group of its own: a terminal's Ctrl-C is for this process, which passes on what it wants.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(command: &mut Command, name: &str, hidden: &Hidden) -> Result<Self> {
        let (reader, writer) = io::pipe().context("cannot make a pipe")?;
        let both = writer.try_clone().context("cannot share a pipe")?;
        let child = command.stdin(Stdio::null()).stdout(writer).stderr(both).process_group(0).spawn();
        // It holds the ends to write to, which would keep the pipe open.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self {
            name: name.to_owned(),
            child: child.with_context(|| format!("cannot start: {}", workspace::command_line(command)))?,
            lines: lines_of(reader),
            hidden: hidden.clone(),
            said: VecDeque::new(),
            began: Instant::now(),
            shows_progress: io::stderr().is_terminal(),
        })
    }

    /// Waits until it says something that begins so.
    ///
    /// # Errors
    /// It ends before, the time is over, or a signal came.
    pub fn wait_for(&mut self, beginning: &str, within: Duration) -> Result<()> {
        let heard = self.follow(within, |line| line.starts_with(beginning));
        self.clear_progress();
        match heard? {
            Heard::Awaited => Ok(()),
            Heard::End => {
                let (status, last) = (self.child.wait()?, self.last_lines());
                bail!("`{}` ended before it said `{beginning}` ({status}){last}", self.name)
            }
        }
    }

    /// Waits for its end; says whether it said anything.
    ///
    /// # Errors
    /// It fails, the time is over, or a signal came.
    pub fn wait(&mut self, within: Duration) -> Result<bool> {
        let heard = self.follow(within, |_| false);
        self.clear_progress();
        heard?;
        let status = self.child.wait()?;
        if !status.success() {
            let last = self.last_lines();
            bail!("`{}` failed ({status}){last}", self.name);
        }
        Ok(!self.said.is_empty())
    }

    /// What a terminal's Ctrl-C does: the signal goes to the whole group.
    ///
    /// # Errors
    /// It has ended already.
    pub fn interrupt(&self) -> Result<()> {
        let mut kill = Command::new("sh");
        kill.args(["-c", "kill -s INT -- \"-$1\"", "sh", &self.child.id().to_string()]);
        workspace::complete(&mut kill)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last of what it said, to stand behind an error.
    pub fn last_lines(&mut self) -> String {
        while let Ok(line) = self.lines.try_recv() {
            self.keep(&line);
        }
        if self.said.is_empty() {
            return "; it said nothing".to_owned();
        }
        let indented = self.said.iter().map(|line| format!("\n    {line}"));
        format!("; its last lines:{}", indented.collect::<String>())
    }

    fn follow(&mut self, within: Duration, is_awaited: impl Fn(&str) -> bool) -> Result<Heard> {
        let until = Instant::now() + within;
        loop {
            check_signals()?;
            if Instant::now() > until {
                let last = self.last_lines();
                bail!("`{}` took more than {}: given up{last}", self.name, shown(within));
            }
            match self.lines.recv_timeout(PAUSE) {
                Ok(line) => {
                    self.keep(&line);
                    if is_awaited(&line) {
                        return Ok(Heard::Awaited);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(Heard::End),
                // Something that it left running may hold the pipe.
                Err(RecvTimeoutError::Timeout) if self.ended().is_some() => return Ok(Heard::End),
                Err(RecvTimeoutError::Timeout) => self.show_progress(),
            }
        }
    }

    fn keep(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        if self.said.len() == KEPT_LINES {
            self.said.pop_front();
        }
        self.said.push_back(self.hidden.masked(line));
    }

    fn show_progress(&self) {
        if !self.shows_progress {
            return;
        }
        let last = self.said.back().map_or("", String::as_str);
        let last: String = last.chars().filter(|letter| !letter.is_control()).take(SHOWN_LETTERS).collect();
        // A terminal that is gone is no reason to stop.
        let _ = write!(io::stderr(), "\r\x1b[K      {:>10}  {last}", shown(self.began.elapsed()));
    }

    fn clear_progress(&self) {
        if self.shows_progress {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

enum Heard {
    Awaited,
    End,
}

fn lines_of(reader: PipeReader) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    lines
}

/// As people say it: `4.2 s`, `7 min 5 s`.
pub fn shown(duration: Duration) -> String {
    match duration.as_secs() {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    fn sh(script: &str) -> Running {
        Running::start(Command::new("sh").args(["-c", script]), script, &Hidden::default()).unwrap()
    }

    #[test]
    fn a_command_that_fails_says_so_with_its_last_lines_of_both_outputs() {
        let error = sh("echo one; echo two >&2; exit 3").wait(SOON).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("its last lines:\n    one\n    two"), "{error}");
    }

    #[test]
    fn what_says_nothing_is_told_from_what_says_something() {
        assert!(sh("echo all is well").wait(SOON).unwrap());
        assert!(!sh("true").wait(SOON).unwrap());
    }

    #[test]
    fn what_is_interrupted_once_it_is_ready_ends_by_itself() {
        let mut running = sh("trap 'echo ended; exit 0' INT; echo ready: now; while :; do sleep 0.05; done");
        running.wait_for("ready", SOON).unwrap();
        assert!(running.ended().is_none());
        running.interrupt().unwrap();
        running.wait(SOON).unwrap();
        assert!(running.last_lines().ends_with("ended"));
    }

    #[test]
    fn what_ends_before_it_is_ready_or_takes_too_long_is_an_error() {
        let error = sh("echo cannot; exit 1").wait_for("ready", SOON).unwrap_err().to_string();
        assert!(error.contains("ended before it said `ready`") && error.ends_with("cannot"), "{error}");
        let error = sh("exec sleep 60").wait(Duration::from_millis(10)).unwrap_err().to_string();
        assert!(error.contains("given up"), "{error}");
    }

    #[test]
    fn times_are_as_people_say_them() {
        assert_eq!(shown(Duration::from_millis(4_240)), "4.2 s");
        assert_eq!(shown(Duration::from_secs(425)), "7 min 5 s");
    }
}
