//! The Postgres drivers of the matrix: where their packages come from and how their programs are started. Knows
//! package managers and languages, not what is measured; what the programs do is said in `tests/drivers/README.md`.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    postgres::Postgres,
    process::{self, Process},
    program_missing,
};

/// A driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// libpq, synchronous.
    Psql,
    /// libpq, asynchronous.
    Pgbench,
    /// psycopg 2, on libpq.
    Psycopg2,
    /// psycopg 3, on libpq.
    Psycopg3,
    /// asyncpg.
    Asyncpg,
    /// tokio-postgres.
    TokioPostgres,
    /// node-postgres, `pg`.
    NodePostgres,
    /// postgres.js.
    PostgresJs,
    /// The JDBC driver of PostgreSQL.
    Jdbc,
}

/// How a driver reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP on 127.0.0.1.
    Tcp,
    /// The unix socket.
    Unix,
    /// TLS over TCP, the server's certificate not checked.
    Tls,
}

/// When the agent comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// Before the connection opens.
    Before,
    /// While the connection is open and has prepared statements.
    Midstream,
}

/// A driver that can be run: its packages are there, and its executable has a name that nobody else bears.
#[derive(Debug)]
pub struct Prepared {
    /// Which one.
    pub driver: Driver,
    /// The executable that speaks Postgres: its service's name.
    pub service: String,
    executable: PathBuf,
    packages: PathBuf,
    _folder: TempDir,
}

/// A program that waits for the word to go on, or has got it.
#[derive(Debug)]
pub struct Running {
    process: Process,
}

/// What a program says of its own run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Errors that the server gave it, by SQLSTATE.
    pub errors: BTreeMap<String, u64>,
    /// By its own clock: `select timed_0()`, `timed_1` and so on, each of about 100 ms.
    pub timed_ns: Vec<u64>,
}

/// A registry's answer, and building what came from it.
const INSTALL: Duration = Duration::from_secs(300);
/// A virtual machine that starts beside others.
const READY: Duration = Duration::from_secs(60);
/// The workload takes about a second; the waiting for a CPU comes on top.
const RUN: Duration = Duration::from_secs(60);

impl Driver {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Psql,
        Self::Pgbench,
        Self::Psycopg2,
        Self::Psycopg3,
        Self::Asyncpg,
        Self::TokioPostgres,
        Self::NodePostgres,
        Self::PostgresJs,
        Self::Jdbc,
    ];

    /// At most four letters, to name its executable by.
    fn stem(self) -> &'static str {
        match self {
            Self::Psql => "psql",
            Self::Pgbench => "pgbe",
            Self::Psycopg2 => "psy2",
            Self::Psycopg3 => "psy3",
            Self::Asyncpg => "asyn",
            Self::TokioPostgres => "toki",
            Self::NodePostgres => "node",
            Self::PostgresJs => "pgjs",
            Self::Jdbc => "jdbc",
        }
    }

    /// Whether it can use this way to the server.
    pub fn can(self, transport: Transport) -> bool {
        // Java's sockets are not of the unix family, unless by a factory that is in no Debian package.
        self != Self::Jdbc || transport != Transport::Unix
    }

    /// Why its end of the connection cannot be read, as the agent names it: not where TLS is the language's own or
    /// rustls, or OpenSSL encrypts into memory and something else sends it.
    pub fn unseen(self, transport: Transport) -> Option<&'static str> {
        match self {
            _ if transport != Transport::Tls => None,
            Self::Asyncpg | Self::NodePostgres | Self::PostgresJs => Some("memory_bio"),
            Self::Jdbc | Self::TokioPostgres => Some("no_openssl"),
            Self::Psql | Self::Pgbench | Self::Psycopg2 | Self::Psycopg3 => None,
        }
    }

    /// Fetches its packages unless a run before has, and gives its executable a name of its own.
    ///
    /// # Errors
    /// If this machine lacks a program, or a registry the package: then the driver cannot be had here.
    pub fn prepare(self, postgres: &Postgres) -> Result<Prepared> {
        let folder = tempfile::Builder::new().prefix("steth-driver-").tempdir()?;
        let service = crate::unique_name(self.stem());
        let (original, packages) = match self {
            Self::Psql => (postgres.programs.join("psql"), PathBuf::new()),
            Self::Pgbench => (postgres.programs.join("pgbench"), PathBuf::new()),
            Self::Psycopg2 | Self::Psycopg3 | Self::Asyncpg => {
                (python()?, python_packages(&programs().join("python/requirements.txt"))?)
            }
            Self::TokioPostgres => (build()?.join("with-tokio-postgres"), PathBuf::new()),
            Self::NodePostgres | Self::PostgresJs => (node()?, node_packages()?),
            Self::Jdbc => (java()?, java_classes()?),
        };
        let executable = folder.path().join(&service);
        let mut link = process::command("sh", None);
        // A copy where the temporary folder lies on another file system.
        link.args(["-c", "ln -- \"$0\" \"$1\" 2>/dev/null || cp -- \"$0\" \"$1\""]).args([&original, &executable]);
        Process::start("sh", link)?.finish(READY)?;
        Ok(Prepared { driver: self, service, executable, packages, _folder: folder })
    }
}

impl Prepared {
    /// Starts the program, which goes on until it waits: before it connects, or with its connection open and used.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, postgres: &Postgres, database: &str, transport: Transport, attach: Attach) -> Result<Running> {
        let mut command = self.command()?;
        match transport {
            Transport::Tcp | Transport::Tls => command.arg("127.0.0.1"),
            Transport::Unix => command.arg(postgres.folder()),
        };
        command.args([&postgres.port.to_string(), database]);
        command.arg(match attach {
            Attach::Before => "before",
            Attach::Midstream => "midstream",
        });
        command.arg(if transport == Transport::Tls { "require" } else { "disable" });
        Ok(Running { process: Process::start(&self.service, command)? })
    }

    fn command(&self) -> Result<Command> {
        let python = |program: &Path, script: &str| {
            let mut command = process::command(program, None);
            command.env("PYTHONPATH", &self.packages).env("PYTHONDONTWRITEBYTECODE", "1");
            command.arg(programs().join("python").join(script));
            command
        };
        let node = |script: &str| {
            let mut command = process::command(&self.executable, None);
            command.env("NODE_PATH", self.packages.join("node_modules"));
            command.arg(programs().join("node").join(script));
            command
        };
        Ok(match self.driver {
            Driver::Psql | Driver::Pgbench => {
                let script = if self.driver == Driver::Psql { "with_psql.py" } else { "with_pgbench.py" };
                let mut command = python(Path::new("python3"), script);
                command.env("DRIVER_PROGRAM", &self.executable);
                command
            }
            Driver::Psycopg2 => python(&self.executable, "with_psycopg2.py"),
            Driver::Psycopg3 => python(&self.executable, "with_psycopg.py"),
            Driver::Asyncpg => python(&self.executable, "with_asyncpg.py"),
            Driver::TokioPostgres => process::command(&self.executable, None),
            Driver::NodePostgres => node("with_pg.js"),
            Driver::PostgresJs => node("with_postgres.js"),
            Driver::Jdbc => {
                let mut command = process::command(&self.executable, None);
                // Under another name it does not find its libraries, which lie beside it.
                let libraries = java()?.parent().and_then(Path::parent).context("java lies nowhere")?.join("lib");
                command.env("LD_LIBRARY_PATH", libraries);
                // One short program: what the larger compiler and collector take longer to start than they save.
                command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]);
                command.arg(format!("{JDBC}:{}", self.packages.display())).arg("WithJdbc");
                command
            }
        })
    }
}

impl Running {
    /// Waits until the program waits for the word to go on.
    ///
    /// # Errors
    /// If it does not get that far.
    pub fn wait_until_ready(&self) -> Result<()> {
        self.process.wait_for_line("ready", READY, |line| (line == "ready").then_some(()))
    }

    /// Lets the program go on, and waits for its end.
    ///
    /// # Errors
    /// If it fails.
    pub fn finish(mut self) -> Result<Report> {
        self.process.say("go")?;
        let said = self.process.finish(RUN)?;
        let line = said.lines().find(|line| line.starts_with('{')).with_context(|| format!("no report in: {said}"))?;
        let report: Value = serde_json::from_str(line).with_context(|| format!("not a report: {line}"))?;
        let errors = report["errors"].as_object().context("no errors in the report")?;
        let errors = errors.iter().map(|(sqlstate, count)| Some((sqlstate.clone(), count.as_u64()?)));
        let timed_ns = report["timed_ns"].as_array().context("no durations in the report")?;
        Ok(Report {
            errors: errors.collect::<Option<_>>().context("a count of errors that is none")?,
            timed_ns: timed_ns.iter().map(Value::as_u64).collect::<Option<_>>().context("a duration that is none")?,
        })
    }
}

/// Where the programs are.
fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("drivers")
}

/// What Python's own interpreter is, whatever stands before it in the path.
///
/// # Errors
/// If there is none.
pub fn python() -> Result<PathBuf> {
    need("python3")?;
    let mut ask = process::command("python3", None);
    ask.args(["-c", "import os, sys; print(os.path.realpath(sys._base_executable))"]);
    Ok(Process::start("python3", ask)?.finish(READY)?.into())
}

/// The folder with these packages, installed once: what a file of pip's requirements names, with hashes.
///
/// # Errors
/// If they cannot be installed.
pub fn python_packages(lock: &Path) -> Result<PathBuf> {
    let python = python()?;
    cached(&format!("{}\n{}", python.display(), std::fs::read_to_string(lock)?), |folder| {
        // An environment of its own for the installer alone: Debian's Python has none that may install.
        let environment = tempfile::Builder::new().prefix("steth-venv-").tempdir()?;
        let mut make = process::command(&python, None);
        make.args(["-m", "venv"]).arg(environment.path());
        Process::start("venv", make)?.finish(INSTALL)?;
        let mut install = process::command(environment.path().join("bin/python"), None);
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]);
        install.args(["--only-binary=:all:", "--require-hashes", "-r"]).arg(lock).arg("--target").arg(folder);
        Process::start("pip", install)?.finish(INSTALL).map(|_| ())
    })
}

fn node() -> Result<PathBuf> {
    need("node")?;
    let mut ask = process::command("node", None);
    ask.args(["-p", "process.execPath"]);
    Ok(Process::start("node", ask)?.finish(READY)?.into())
}

fn node_packages() -> Result<PathBuf> {
    npm_packages(&programs().join("node"))
}

/// The folder with the packages that a `package-lock.json` names, installed once.
///
/// # Errors
/// If they cannot be installed.
pub fn npm_packages(source: &Path) -> Result<PathBuf> {
    need("npm")?;
    cached(&std::fs::read_to_string(source.join("package-lock.json"))?, |folder| {
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(source.join(file), folder.join(file))?;
        }
        let mut install = process::command("npm", None);
        install.current_dir(folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
        Process::start("npm", install)?.finish(INSTALL).map(|_| ())
    })
}

/// Debian's link to the driver that it has.
const JDBC: &str = "/usr/share/java/postgresql.jar";

fn java() -> Result<PathBuf> {
    need("java")?;
    let mut ask = process::command("java", None);
    ask.args(["-XshowSettings:properties", "-version"]);
    let said = Process::start("java", ask)?.finish(READY)?;
    let home = said.lines().find_map(|line| line.trim().strip_prefix("java.home = "));
    Ok(Path::new(home.with_context(|| format!("java does not say where it is: {said}"))?).join("bin/java"))
}

fn java_classes() -> Result<PathBuf> {
    need("javac")?;
    if !Path::new(JDBC).exists() {
        bail!("needs {JDBC}");
    }
    let source = programs().join("java/WithJdbc.java");
    cached(&format!("{}\n{}", java()?.display(), std::fs::read_to_string(&source)?), |folder| {
        let mut compile = process::command("javac", None);
        compile.args(["-cp", JDBC, "-d"]).arg(folder).arg(&source);
        Process::start("javac", compile)?.finish(INSTALL).map(|_| ())
    })
}

/// A folder under the build's that `fill` fills once for each `key`. Made elsewhere and then named, so that a run
/// that is interrupted, or two at once, leave it whole.
fn cached(key: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let build = build()?;
    let target = build.parent().context("the test is not in a target folder")?;
    let (parent, name) = (target.join("drivers"), format!("{:016x}", hasher.finish()));
    let folder = parent.join(name);
    if !folder.exists() {
        std::fs::create_dir_all(&parent)?;
        let new = tempfile::Builder::new().prefix(".new-").tempdir_in(&parent)?;
        fill(new.path())?;
        if std::fs::rename(new.path(), &folder).is_err() && !folder.exists() {
            bail!("cannot make {}", folder.display());
        }
    }
    Ok(folder)
}

/// Where this test and the programs of its package are built.
fn build() -> Result<PathBuf> {
    // <target>/<profile>/deps/<test>
    let test = std::env::current_exe()?;
    Ok(test.ancestors().nth(2).context("the test is not in a target folder")?.to_owned())
}

fn need(program: &str) -> Result<()> {
    match program_missing(program) {
        None => Ok(()),
        Some(why) => bail!(why),
    }
}
