//! Small C programs whose every syscall is known, compiled when a test needs them. Knows how to build and start
//! them; what each does is written in its source under `tests/programs`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::{self, Process};

/// A known mix of syscalls; see the source.
pub const SYSCALL_MIX: &str = include_str!("../programs/syscall_mix.c");
/// Connects, sends, and says how that went.
pub const CONNECT: &str = include_str!("../programs/connect.c");
/// Listens with a full accept queue, so that further connection attempts are dropped.
pub const FULL_BACKLOG: &str = include_str!("../programs/full_backlog.c");
/// Holds any number of open connections.
pub const HOLD_CONNECTIONS: &str = include_str!("../programs/hold_connections.c");
/// Holds open files and resident memory.
pub const HOLD_RESOURCES: &str = include_str!("../programs/hold_resources.c");
/// Starts thousands of processes, by fork alone or with exec.
pub const SPAWNER: &str = include_str!("../programs/spawner.c");
/// Asks once for its parent and ends.
pub const SHORT_LIVED: &str = include_str!("../programs/short_lived.c");
/// Sends given bytes in turn from the two ends of one connection.
pub const EXCHANGE: &str = include_str!("../programs/exchange.c");
/// Asks for its parent as a process, a thread and children, then becomes another program.
pub const GUISES: &str = include_str!("../programs/guises.c");
/// Asks for its parent as often as it is told.
pub const ASKER: &str = include_str!("../programs/asker.c");
/// Reads one connection to its end.
pub const READER: &str = include_str!("../programs/reader.c");
/// Sends requests and reads answers, on sockets of any family.
pub const ASK: &str = include_str!("../programs/ask.c");
/// Plays one end of recorded conversations.
pub const REPLAY: &str = include_str!("../programs/replay.c");
/// Sends a file with `sendfile`.
pub const SEND_FILE: &str = include_str!("../programs/send_file.c");
/// Breaks connections off with a reset.
pub const RESET: &str = include_str!("../programs/reset.c");
/// Greets callers and waits until they are gone.
pub const GREETER: &str = include_str!("../programs/greeter.c");
/// Sends given bytes as `EXCHANGE` does, by messages that are looked at first or lie in many buffers.
pub const MESSAGES: &str = include_str!("../programs/messages.c");
/// Calls, and is told by the network that there is no way.
pub const UNREACHABLE: &str = include_str!("../programs/unreachable.c");
/// Calls, and gives up at once.
pub const ABORT: &str = include_str!("../programs/abort.c");
/// Opens, uses and closes sockets whose end the kernel does not report.
pub const PAIRS: &str = include_str!("../programs/pairs.c");
/// Calls many peers, none of whom answers.
pub const PEERS: &str = include_str!("../programs/peers.c");
/// Makes data ready on a processor that is interrupted by more of it.
pub const INTERRUPT: &str = include_str!("../programs/interrupt.c");

/// A file system that stops answering, and a process that it stops.
pub const STUCK: &str = include_str!("../programs/stuck.c");
/// Answers callers, and becomes another build of itself when it is told to.
pub const SUCCESSOR: &str = include_str!("../programs/successor.c");

/// Takes SIGHUP in one of the ways that there are.
pub const HANGUP: &str = include_str!("../programs/hangup.c");

/// Spends the time of each of its threads in one known way.
pub const STATES: &str = include_str!("../programs/states.c");
/// Plays one part of an incident.
pub const ACTOR: &str = include_str!("../programs/actor.c");

/// Spends its CPU time on known paths.
pub const TWO_PATHS: &str = include_str!("../programs/two_paths.c");
/// Spends all its CPU time on one path, or waits there.
pub const SPINS: &str = include_str!("../programs/spins.c");
/// Spends all its CPU time in code that it made in a file which only memory holds, and lists.
pub const MEMFD_CODE: &str = include_str!("../programs/memfd_code.c");
/// Throws, catches, and calls a library (C++).
pub const THROWS: &str = include_str!("../programs/throws.cpp");
/// The library that it calls (C++).
pub const STEP: &str = include_str!("../programs/step.cpp");
/// Has functions inlined into others, and catches panics (Rust).
pub const INLINED: &str = include_str!("../programs/inlined.rs");
/// Waits in known ways.
pub const WAITS: &str = include_str!("../programs/waits.c");
/// A library that is opened by a running program.
pub const LIBRARY: &str = include_str!("../programs/library.c");
/// Speaks with Postgres behind TLS, by OpenSSL.
pub const TLS: &str = include_str!("../programs/tls.c");
/// The same by Go's own means (Go).
pub const TLS_GO: &str = include_str!("../programs/tls.go");
/// Spends all its CPU time in one function (JavaScript).
pub const SPINS_JS: &str = include_str!("../programs/spins.js");
/// Python: known CPU time in nested functions, a generator, a method, called back from C; threads that sleep.
pub const PYTHON_PATHS: &str = include_str!("../programs/python_paths.py");

/// A compiled program under a name of its own, which is its service's name.
#[derive(Debug)]
pub struct Program {
    /// The executable's name.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    folder: TempDir,
}

impl Program {
    /// Compiles `source` to an executable with a [unique name](crate::unique_name) that begins with `stem`.
    ///
    /// # Errors
    /// If gcc is not there or does not like the source.
    pub fn build(stem: &str, source: &str) -> Result<Self> {
        // Static: short-lived processes would otherwise spend their life in the dynamic linker.
        Self::build_with(stem, source, &["-O1", "-static"])
    }

    /// As [`build`](Self::build), in a way of its own.
    ///
    /// # Errors
    /// As above.
    pub fn build_with(stem: &str, source: &str, flags: &[&str]) -> Result<Self> {
        Self::compiled(stem, |folder, path| {
            let source_path = folder.join("source.c");
            std::fs::write(&source_path, source)?;
            let mut gcc = Command::new("gcc");
            gcc.args(flags).args(["-Wall", "-Wextra", "-Werror", "-pthread", "-o"]).args([path, &source_path]);
            Ok(gcc)
        })
    }

    /// As another compiler makes it: the command that writes this executable, in this folder of its own.
    ///
    /// # Errors
    /// If the compiler is missing or complains.
    pub fn compiled(stem: &str, compiler: impl FnOnce(&Path, &Path) -> Result<Command>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("steth-program-").tempdir()?;
        let name = crate::unique_name(stem);
        let path = folder.path().join(&name);
        let mut compiler = compiler(folder.path(), &path)?;
        let output = compiler.output().with_context(|| format!("cannot run {compiler:?}"))?;
        if !output.status.success() {
            bail!("{compiler:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Self { name, path, folder })
    }

    /// The same program as another service.
    ///
    /// # Errors
    /// If there is no room for a link.
    pub fn under_another_name(&self, stem: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("steth-program-").tempdir()?;
        let name = crate::unique_name(stem);
        let path = folder.path().join(&name);
        std::fs::hard_link(&self.path, &path)?;
        Ok(Self { name, path, folder })
    }

    /// A folder that lives as long as the program.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The command that runs it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = process::command(&self.path, None);
        command.args(arguments);
        command
    }

    /// Starts it. The program must be kept until it has said something: its executable goes when it is dropped.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, arguments: &[&str]) -> Result<Process> {
        Process::start(&self.name, self.command(arguments))
    }

    /// Runs it to its successful end and returns what it said.
    ///
    /// # Errors
    /// If it fails or does not end within two minutes.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.start(arguments)?.finish(Duration::from_secs(120))
    }
}

/// The number that follows `key=` in what a program said.
///
/// # Errors
/// If there is none.
pub fn said_number(said: &str, key: &str) -> Result<u64> {
    let value = said.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    value.with_context(|| format!("no {key} in: {said}"))?.parse().with_context(|| format!("{key} in: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn a_full_backlog_lets_a_connection_attempt_time_out() {
        need_program!("gcc");
        let program = Program::build("full", FULL_BACKLOG).unwrap();
        let server = program.start(&[]).unwrap();
        let port =
            server.wait_for_line("port=", SOON, |line| line.starts_with("port=").then(|| line.to_owned())).unwrap();
        let port = said_number(&port, "port").unwrap().to_string();
        let said = Program::build("conn", CONNECT).unwrap().run(&["127.0.0.1", &port, "0", "1"]).unwrap();
        assert!(said.contains("outcome=ETIMEDOUT"), "{said}");
        // One SYN and one retransmission: given up after 1 s + 2 s (RFC 6298, section 2 and 5.5).
        let elapsed_ms = said_number(&said, "connect_ns").unwrap() / 1_000_000;
        assert!((2_500..5_000).contains(&elapsed_ms), "{said}");
    }

    #[test]
    fn a_refused_connection_is_told_from_an_established_one() {
        need_program!("gcc");
        let connect = Program::build("conn", CONNECT).unwrap();
        let refused = connect.run(&["127.0.0.1", &crate::network::free_port().unwrap().to_string(), "0", "0"]).unwrap();
        assert!(refused.contains("outcome=ECONNREFUSED"), "{refused}");
        for address in ["127.0.0.1", "::1"] {
            let listener = std::net::TcpListener::bind((address, 0)).unwrap();
            let port = listener.local_addr().unwrap().port().to_string();
            let reader = std::thread::spawn(move || {
                std::io::Read::read_to_end(&mut listener.accept().unwrap().0, &mut Vec::new()).unwrap()
            });
            let said = connect.run(&[address, &port, "100000", "0"]).unwrap();
            assert!(said.contains("outcome=established"), "{said}");
            assert_eq!(reader.join().unwrap(), 100_000);
        }
    }

    #[test]
    fn held_resources_are_there_until_let_go() {
        need_program!("gcc");
        let program = Program::build("hold", HOLD_RESOURCES).unwrap();
        let open = |files: &str| {
            let holder = program.start(&[files, "16"]).unwrap();
            holder.wait_for_line("ready", SOON, |line| (line == "ready").then_some(())).unwrap();
            std::fs::read_dir(holder.proc_folder().join("fd")).unwrap().count()
        };
        // Some files are inherited from whoever runs the tests.
        assert_eq!(open("100") - open("0"), 100);
    }

    #[test]
    fn held_connections_are_established() {
        need_program!("gcc");
        let program = Program::build("hold", HOLD_CONNECTIONS).unwrap();
        let open = |pairs: &str| {
            let holder = program.start(&[pairs]).unwrap();
            holder.wait_for_line("ready", SOON, |line| (line == "ready").then_some(())).unwrap();
            std::fs::read_dir(holder.proc_folder().join("fd")).unwrap().count()
        };
        assert_eq!(open("200") - open("0"), 400);
    }

    #[test]
    fn as_many_processes_are_started_as_asked_for() {
        need_program!("gcc");
        let short_lived = Program::build("shrt", SHORT_LIVED).unwrap();
        let spawner = Program::build("spwn", SPAWNER).unwrap();
        let said = spawner.run(&["30", "20", short_lived.path.to_str().unwrap()]).unwrap();
        assert_eq!(said, "forked=30 executed=20");
    }

    #[test]
    fn given_bytes_are_exchanged() {
        need_program!("gcc");
        let program = Program::build("exch", EXCHANGE).unwrap();
        let (client, server) = (program.folder().join("client"), program.folder().join("server"));
        std::fs::write(&client, vec![7; 300_000]).unwrap();
        std::fs::write(&server, b"short").unwrap();
        let said = program.run(&["1000", client.to_str().unwrap(), server.to_str().unwrap()]).unwrap();
        assert_eq!((said_number(&said, "sent").unwrap(), said_number(&said, "answered").unwrap()), (300_000, 5));
    }
}
