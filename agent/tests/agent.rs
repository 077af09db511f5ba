//! The promises of the `steth` program as its users see them: messages, exit codes, signals. Needs no privilege.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// `steth` without any environment but what a test gives it.
fn steth(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steth"));
    command.env_clear().args(arguments);
    command
}

fn output(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = steth(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A running agent with a lock and a configuration file of its own.
struct Agent {
    child: Child,
    stderr: BufReader<ChildStderr>,
    config: PathBuf,
    folder: TempDir,
}

impl Agent {
    fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config.replace("FOLDER", folder.path().to_str().unwrap());
        let path = folder.path().join("steth.toml");
        fs::write(&path, format!("listen = \"127.0.0.1:0\"\n{config}")).unwrap();
        let mut command = steth(&["run", "--config", path.to_str().unwrap()]);
        command.env("STETH_RUN_LOCK", folder.path().join("steth.lock"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr, config: path, folder }
    }

    /// Reads what the agent says up to a line that holds `text`.
    fn wait_for(&mut self, text: &str) -> String {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.stderr.read_line(&mut line).unwrap(), 0, "no {text:?} in:\n{said}");
            said.push_str(&line);
            if line.contains(text) {
                return said;
            }
        }
    }

    fn wait_until_ready(&mut self) -> SocketAddr {
        let said = self.wait_for("ready: http://");
        let (_, url) = said.rsplit_once("http://").unwrap();
        url.split('/').next().unwrap().parse().unwrap()
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn end(mut self) -> (ExitStatus, String, String) {
        let late = Instant::now() + SOON;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < late, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        let (mut stderr, mut stdout) = (String::new(), String::new());
        self.stderr.read_to_string(&mut stderr).unwrap();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        (self.child.wait().unwrap(), stdout, stderr)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What takes longer has gone wrong.
const SOON: Duration = Duration::from_secs(30);

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_agent_serves_when_ready_and_ends_at_a_signal() {
    for signal in ["TERM", "INT"] {
        let mut agent = Agent::start("");
        let address = agent.wait_until_ready();
        let metrics = get(address, "/metrics");
        assert!(metrics.starts_with("HTTP/1.1 200 ") && metrics.contains("\nsteth_build_info{version="), "{metrics}");
        assert!(get(address, "/-/ready").starts_with("HTTP/1.1 200 "));
        // A client that keeps its connection must not hold the agent.
        let _idle = TcpStream::connect(address).unwrap();
        agent.signal(signal);
        let (status, stdout, stderr) = agent.end();
        assert_eq!(status.code(), Some(0), "{stderr}");
        assert_eq!(stdout, "", "stdout is for results");
    }
}

#[test]
fn a_second_agent_is_refused_and_told_who_runs() {
    let mut first = Agent::start("");
    first.wait_until_ready();
    let lock = first.folder.path().join("steth.lock");
    let second = steth(&["run", "--listen", "127.0.0.1:0"]).env("STETH_RUN_LOCK", &lock).output().unwrap();
    let message = String::from_utf8(second.stderr).unwrap();
    let start =
        format!("steth: another steth agent runs on this host: pid {} holds {}.", first.child.id(), lock.display());
    assert_eq!((second.status.code(), message.starts_with(&start)), (Some(1), true), "{message}");
}

#[test]
fn an_agent_that_was_killed_does_not_keep_the_next_from_running() {
    let mut first = Agent::start("");
    first.wait_until_ready();
    let lock = first.folder.path().join("steth.lock");
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let mut next = Agent::start(&format!("run.lock = {lock:?}"));
    next.wait_until_ready();
}

#[test]
fn a_taken_port_is_named_and_ends_the_agent_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut command = steth(&["run", "--listen", &address.to_string()]);
    let agent = command.env("STETH_RUN_LOCK", folder.path().join("lock")).output().unwrap();
    let message = String::from_utf8(agent.stderr).unwrap();
    assert_eq!(agent.status.code(), Some(1));
    assert!(message.contains(&format!("cannot listen on {address}: the port is taken.")), "{message}");
}

#[test]
fn a_host_on_which_nothing_can_be_measured_ends_the_agent_with_3() {
    let nothing = "[kernel]\nbtf = \"/nonexistent/btf\"\n[host]\nnode = false\nprocesses = false\n";
    let (status, _, stderr) = Agent::start(nothing).end();
    assert_eq!(status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("nothing can be measured: BTF: /nonexistent/btf: No such file"), "{stderr}");
}

#[test]
fn what_is_lost_is_said_at_the_start_and_the_rest_runs() {
    let mut agent = Agent::start("[kernel]\nbtf = \"/nonexistent/btf\"\n");
    let said = agent.wait_for("ready: http://");
    assert!(said.contains("no probe can run, only host metrics are measured: BTF: /nonexistent/btf"), "{said}");
}

#[test]
fn a_wrong_configuration_is_listed_as_a_whole_and_ends_the_agent_with_2() {
    let (status, _, stderr) = Agent::start("[window]\nlive = 5\nkepd = \"10s\"\n").end();
    assert_eq!(status.code(), Some(2));
    for complaint in [
        "steth.toml:3: window.live = 5: a duration needs a unit and quotes; allowed: ",
        "steth.toml:4: unknown key `kepd` in [window]; did you mean `kept`? allowed: live, kept",
    ] {
        assert!(stderr.contains(complaint), "{stderr}");
    }
}

#[test]
fn a_reload_takes_a_good_configuration_and_refuses_a_bad_one() {
    let mut agent = Agent::start("");
    let address = agent.wait_until_ready();
    fs::write(&agent.config, "listen = \"127.0.0.1:1\"\n[window]\nlive = \"2s\"\n").unwrap();
    agent.signal("HUP");
    let said = agent.wait_for("configuration reloaded");
    assert!(said.contains("these keys have changed and wait for a restart: listen"), "{said}");
    fs::write(&agent.config, "[windw]\n").unwrap();
    agent.signal("HUP");
    let said = agent.wait_for("unknown section");
    assert!(said.contains("the new configuration is refused, the old one stays"), "{said}");
    assert!(said.contains("steth.toml:1: unknown section [windw]; did you mean `window`?"), "{said}");
    assert!(get(address, "/-/healthy").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_json_log_is_one_object_a_line_from_start_to_end() {
    let mut agent = Agent::start("log.format = \"json\"\nkernel.btf = \"/nonexistent\"\n");
    let mut said = agent.wait_for("ready: http://");
    agent.signal("TERM");
    said.push_str(&agent.end().2);
    for line in said.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert!(object["message"].is_string() && object["level"].is_string(), "{line}");
    }
}

#[test]
fn config_check_says_valid_or_lists_what_is_not() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/steth.toml");
    assert_eq!(output(&["config", "check", shipped]), (Some(0), format!("{shipped}: valid\n"), String::new()));
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.toml");
    fs::write(&wrong, "a = 1\nb = 2\n").unwrap();
    let (code, stdout, stderr) = output(&["config", "check", wrong.to_str().unwrap()]);
    assert_eq!((code, stdout.lines().count()), (Some(2), 2), "{stdout}");
    assert!(stderr.ends_with("is not valid: 2 to correct\n"), "{stderr}");
    assert!(!Path::new("/nonexistent.toml").exists());
    assert_eq!(output(&["config", "check", "/nonexistent.toml"]).0, Some(2));
}

#[test]
fn wrong_usage_ends_with_2_and_help_shows_examples() {
    for wrong in [&["rum"][..], &["run", "--lisen", "x"], &["run", "--listen", "x"], &[]] {
        assert_eq!(output(wrong).0, Some(2), "{wrong:?}");
    }
    for command in [&["run"][..], &["doctor"], &["config", "check"], &["docs", "metrics"], &["docs", "config"]] {
        let (code, stdout, _) = output(&[command, &["--help"]].concat());
        assert_eq!(code, Some(0));
        assert!(stdout.contains("Example"), "{command:?}: {stdout}");
    }
    assert_eq!(output(&["--version"]).1, format!("steth {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn doctor_writes_json_lines_and_no_colours_into_a_pipe() {
    let (code, stdout, _) = output(&["doctor", "--json"]);
    assert!(code == Some(0) || code == Some(3), "{code:?}");
    for line in stdout.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(object["kind"].is_string(), "{line}");
    }
    assert!(!output(&["doctor"]).1.contains('\x1b'));
}
