//! The agent under test, started as a user starts it. Knows its command line and its endpoint, not its insides.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{
    exposition::Exposition,
    http,
    process::{self, Process, User},
    programs::{Program, SHORT_LIVED},
    wait,
};

/// How an agent is started, beyond what every test needs.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Further sections of its configuration.
    pub sections: String,
    /// Another program than the one that was built.
    pub program: Option<PathBuf>,
    /// Another user than that of the test.
    pub user: Option<User>,
    /// Another address than a free port of 127.0.0.1.
    pub listen: Option<String>,
    /// Another lock than one of its own.
    pub lock: Option<PathBuf>,
    /// Another folder for profiles of the past than one of its own.
    pub profiles: Option<PathBuf>,
    /// Another folder for the state of alerts than one of its own.
    pub alerts: Option<PathBuf>,
    /// Another folder for the audit log than one of its own.
    pub audit: Option<PathBuf>,
    /// More of its environment.
    pub environment: Vec<(String, String)>,
}

/// A running agent; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    /// Where its metrics are, `http://127.0.0.1:PORT/metrics`.
    pub url: String,
    /// The lock that says that it runs.
    pub lock: PathBuf,
    /// The configuration file that it was given.
    pub config: PathBuf,
    /// The folder of its audit log.
    pub audit: PathBuf,
    marker: Program,
    _folder: TempDir,
}

/// How an agent ended that was not to run.
#[derive(Debug)]
pub struct Refusal {
    /// Exit code; none if it was killed.
    pub code: Option<i32>,
    /// Everything it said.
    pub said: String,
    /// The configuration file it was given.
    pub config: PathBuf,
    config_text: String,
}

/// Loading some dozen kernel programs takes a second or two; a busy machine several times that.
const READY: Duration = Duration::from_secs(60);
/// The agent itself sees to its end in time, or ends with a failure; the kernel's detaching comes on top.
const STOP: Duration = Duration::from_secs(60);
/// Several windows of 1 s, on a busy machine.
const SEEN: Duration = Duration::from_secs(30);

impl Agent {
    /// Starts an agent and waits until it says that it is ready.
    ///
    /// # Errors
    /// If it is not built, ends, or is not ready within a minute.
    pub fn start(options: &Options) -> Result<Self> {
        let marker = Program::build("mark", SHORT_LIVED)?;
        let (process, folder, lock) = spawn(options)?;
        let url = process.wait_for_line("ready: http://…", READY, |line| {
            let url = line.split_once("ready: ")?.1.trim();
            url.starts_with("http").then(|| url.to_owned())
        })?;
        let (config, audit) = (folder.path().join(CONFIG), audit(options, &folder));
        Ok(Self { process, url, lock, config, audit, marker, _folder: folder })
    }

    /// Starts an agent and does not wait; its folder lasts as long as it is to run.
    ///
    /// # Errors
    /// If it is not built.
    pub fn begin(options: &Options) -> Result<(Process, TempDir)> {
        spawn(options).map(|(process, folder, _)| (process, folder))
    }

    /// Sends it a signal by name, such as `STOP`.
    ///
    /// # Errors
    /// If it cannot be sent.
    pub fn signal(&self, signal: &str) -> Result<()> {
        self.process.signal(signal)
    }

    /// Starts an agent that is expected to end by itself, and waits for that.
    ///
    /// # Errors
    /// If it is not built, or still runs after a minute.
    pub fn refused(options: &Options) -> Result<Refusal> {
        let (mut process, folder, _) = spawn(options)?;
        let status = process.wait(READY)?;
        let config = folder.path().join(CONFIG);
        let config_text = std::fs::read_to_string(&config)?;
        Ok(Refusal { code: status.code(), said: process.log(), config, config_text })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        rest.split_once('/').map_or(rest, |(address, _)| address)
    }

    /// The text of the metrics.
    ///
    /// # Errors
    /// If the endpoint does not answer with success.
    pub fn scrape_raw(&self) -> Result<String> {
        let answer = http::get(&self.url).with_context(|| format!("the agent said:\n{}", self.log()))?;
        if answer.status != 200 {
            bail!("{} answers {}: {}", self.url, answer.status, answer.body);
        }
        Ok(answer.body)
    }

    /// The answer to a path of its API.
    ///
    /// # Errors
    /// If it does not answer with success, or not in JSON.
    pub fn get_json(&self, path: &str) -> Result<serde_json::Value> {
        let answer = http::get(&format!("http://{}{path}", self.address()))?;
        if answer.status != 200 {
            bail!("{path} answers {}: {}", answer.status, answer.body);
        }
        Ok(serde_json::from_str(&answer.body)?)
    }

    /// The metrics as of the last window.
    ///
    /// # Errors
    /// If the endpoint does not answer with success, or not in Prometheus' format.
    pub fn scrape(&self) -> Result<Exposition> {
        Exposition::parse(&self.scrape_raw()?)
    }

    /// The metrics of a window that began after this was called: all that happened before is in them.
    ///
    /// A marker process makes one known syscall, and is awaited; when it shows, a second one is. The maps of one
    /// window are read one after the other, so the first alone could show before another map was read.
    ///
    /// # Errors
    /// If a marker does not show in time.
    pub fn settled(&self) -> Result<Exposition> {
        self.next_mark()?;
        self.next_mark()
    }

    /// Waits until the metrics satisfy a condition.
    ///
    /// # Errors
    /// If they do not in time.
    pub fn scrape_until(&self, what: &str, met: impl Fn(&Exposition) -> bool) -> Result<Exposition> {
        wait::poll(what, SEEN, || Ok(Some(self.scrape()?).filter(&met)))
            .with_context(|| format!("the agent said:\n{}", self.log()))
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Has it read its configuration again, with this changed in it.
    ///
    /// # Errors
    /// If it does not stand there, or the agent is gone.
    pub fn reload(&self, from: &str, to: &str) -> Result<()> {
        let text = std::fs::read_to_string(&self.config)?;
        if !text.contains(from) {
            bail!("{} holds no {from:?}", self.config.display());
        }
        std::fs::write(&self.config, text.replace(from, to))?;
        self.process.signal("HUP")
    }

    /// Asks it to end and waits for that.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.process.signal("TERM")?;
        self.process.wait(STOP)
    }

    fn next_mark(&self) -> Result<Exposition> {
        let labels = [("service", self.marker.name.as_str()), ("syscall", "getppid")];
        let marks = |metrics: &Exposition| metrics.sum("steth_syscall_duration_seconds_count", &labels);
        let before = marks(&self.scrape()?);
        // Again and again: it is a mark in time, and no test of what becomes of a single call.
        let marked = || {
            self.marker.run(&[])?;
            Ok(Some(self.scrape()?).filter(|metrics| marks(metrics) > before))
        };
        wait::poll("the marker process in the metrics", SEEN, marked).with_context(|| {
            let full = self.scrape().map(|metrics| metrics.sums_by("steth_cells_full_total", &[], "map"));
            format!("without room, by map: {full:?}; the agent said:\n{}", self.log())
        })
    }
}

impl Refusal {
    /// Where a line of the configuration stands, as messages name it: `file:line`.
    pub fn place_of(&self, line: &str) -> Option<String> {
        let at = self.config_text.lines().position(|other| other == line)?;
        Some(format!("{}:{}", self.config.display(), at + 1))
    }
}

/// Runs another subcommand of the agent to its end; returns the exit code, standard output and standard error.
///
/// # Errors
/// If it is not built. One that does not end within a minute is killed and has no exit code.
pub fn steth(arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let mut command = process::command("timeout", None);
    without_settings(&mut command);
    command
        .args(["--foreground", "--signal=KILL", &crate::wait::patient(READY).as_secs().to_string()])
        .arg(binary()?)
        .args(arguments);
    let output = command.output().context("cannot run steth")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

const CONFIG: &str = "steth.toml";

fn audit(options: &Options, folder: &TempDir) -> PathBuf {
    options.audit.clone().unwrap_or_else(|| folder.path().join("audit"))
}

fn spawn(options: &Options) -> Result<(Process, TempDir, PathBuf)> {
    let folder = tempfile::Builder::new().prefix("steth-agent-").tempdir()?;
    let (config, lock) = (folder.path().join(CONFIG), options.lock.clone().unwrap_or(folder.path().join("lock")));
    // All is shown: a host with many services, such as one with several tests, would fold the least into "other".
    let limits = "[limits]\nshown_services = 1024\nshown_syscalls = 512\nshown_peers = 1024\nshown_queries = 1000\n";
    // As short as may be: what a test waits for shows in the next window.
    let window = if options.sections.contains("[window]") { "" } else { "[window]\nlive = \"100ms\"\n" };
    // Each agent looks at the whole host, on which compilers and databases of other tests start as services of their own.
    let room = if options.sections.contains("[kernel]") { "" } else { "[kernel]\nmemory = \"64MiB\"\n" };
    let own = format!("[run]\nlock = \"{}\"\n{limits}{window}{room}", lock.display());
    std::fs::write(&config, own + &options.sections)?;
    let mut program = options.program.clone().map_or_else(binary, Ok)?;
    if options.user.is_some() {
        // Another user may neither enter the folder of the build nor this one.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777))?;
        let copy = folder.path().join("steth");
        // By another process: while this one had it open for writing, no child of any thread could execute it.
        Process::start("cp", copy_command(&program, &copy))?.finish(READY)?;
        program = copy;
    }
    let mut command = process::command(program, options.user.as_ref());
    without_settings(&mut command);
    // The sections may have one of profiles.
    command.env("STETH_PROFILE_FOLDER", options.profiles.clone().unwrap_or_else(|| folder.path().join("profiles")));
    command.env("STETH_ALERTS_FOLDER", options.alerts.clone().unwrap_or_else(|| folder.path().join("alerts")));
    command.env("STETH_AUDIT_FOLDER", audit(options, &folder));
    // What a test makes the agent do is more than what it may cost; but for the test of that.
    if !options.sections.contains("[budget]") {
        command.env("STETH_BUDGET_ENABLED", "false");
    }
    // Tests look at the agent as at any other.
    if !options.sections.contains("own =") {
        command.env("STETH_PROBES_OWN", "true");
    }
    command.envs(options.environment.iter().cloned());
    command.arg("run").arg("--config").arg(&config);
    command.args(["--listen", options.listen.as_deref().unwrap_or("127.0.0.1:0")]);
    Ok((Process::start("steth", command)?, folder, lock))
}

/// The environment overrides the configuration, and what is not a setting there is an error: `STETH_BIN` too.
pub fn without_settings(command: &mut Command) {
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"STETH_")) {
        command.env_remove(key);
    }
}

fn copy_command(from: &Path, to: &Path) -> Command {
    let mut command = process::command("cp", None);
    command.args(["--preserve=mode", "--"]).args([from, to]);
    command
}

/// The program named by `STETH_BIN`, or else the newer of the release and the debug build beside this test.
///
/// # Errors
/// If there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("STETH_BIN") {
        return Ok(path.into());
    }
    // <target>/<profile>/deps/<test>
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("the test is not in a target folder")?;
    newest([target.join("release/steth"), target.join("debug/steth")])
        .with_context(|| format!("no steth in {}: build it first (cargo xtask build)", target.display()))
}

fn newest(paths: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let built = |path: &Path| -> Option<SystemTime> { path.metadata().ok()?.modified().ok() };
    paths.into_iter().filter(|path| path.exists()).max_by_key(|path| built(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says that it is ready where it is told to listen, unless that is "nowhere", and ends when asked to.
    const FAKE: &str = r#"
        #include <signal.h>
        #include <stdio.h>
        #include <string.h>
        #include <unistd.h>
        static void end(int signal) { (void)signal; _exit(0); }
        int main(int count, char **arguments) {
            if (count != 6 || strcmp(arguments[1], "run") || access(arguments[3], R_OK)) return 9;
            if (!strcmp(arguments[5], "nowhere")) { fprintf(stderr, "cannot listen\n"); return 2; }
            signal(SIGTERM, end);
            fprintf(stderr, "INFO started\nINFO ready: http://%s/metrics\n", arguments[5]);
            for (;;) pause();
        }"#;

    #[test]
    fn an_agent_is_started_asked_and_stopped() {
        need_program!("gcc");
        let fake = Program::build("fake", FAKE).unwrap();
        let options =
            Options { program: Some(fake.path.clone()), listen: Some("127.0.0.1:1".to_owned()), ..Options::default() };
        let agent = Agent::start(&options).unwrap();
        assert_eq!((agent.url.as_str(), agent.address()), ("http://127.0.0.1:1/metrics", "127.0.0.1:1"));
        let error = format!("{:#}", agent.scrape().unwrap_err());
        assert!(error.contains("INFO started") && error.contains("cannot connect"), "{error}");
        assert!(agent.stop().unwrap().success());
        let user = (crate::root_missing().is_none()).then(|| User::named("nobody")).flatten();
        assert!(Agent::start(&Options { user, ..options.clone() }).unwrap().stop().unwrap().success());
        let refusal = Agent::refused(&Options { listen: Some("nowhere".to_owned()), ..options }).unwrap();
        assert_eq!((refusal.code, refusal.said.as_str()), (Some(2), "cannot listen"));
    }

    #[test]
    fn the_newer_of_two_builds_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        assert_eq!(newest([old.clone(), new.clone()]), None);
        std::fs::write(&new, "").unwrap();
        std::fs::write(&old, "").unwrap();
        let past = SystemTime::now() - Duration::from_secs(60);
        std::fs::File::options().write(true).open(&old).unwrap().set_modified(past).unwrap();
        assert_eq!(newest([new.clone(), old]), Some(new));
    }
}
