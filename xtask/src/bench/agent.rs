//! A running agent, for as long as a measurement takes.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Stdio,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use tempfile::TempDir;

use super::{
    exposition::Exposition,
    interrupt,
    process::{self, Exact, Process},
};

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// `steth run` on a free port, with a configuration of its own; stopped when dropped.
pub struct Agent {
    process: Process,
    address: SocketAddr,
    /// From the start of the process until it says that it is ready.
    pub start: Duration,
    _folder: TempDir,
}

/// One answer to `GET /metrics`.
pub struct Scrape {
    pub exposition: Exposition,
    /// From the first byte of the request to the last of the answer, on a connection that stands.
    pub duration: Duration,
}

impl Agent {
    /// Starts it and waits until it is ready. All of what is measured stays on, whatever it costs. It takes the host's lock: where
    /// another agent runs, there is nothing to be measured.
    ///
    /// # Errors
    /// It ends early, or is not ready in time.
    pub fn start(steth: &Path, configuration: &str) -> Result<Self> {
        Self::start_with(steth, configuration, "false")
    }

    /// The same, with the budget that the configuration says.
    ///
    /// # Errors
    /// As above.
    pub fn within_budget(steth: &Path, configuration: &str) -> Result<Self> {
        Self::start_with(steth, configuration, "true")
    }

    fn start_with(steth: &Path, configuration: &str, budget: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("steth-bench-").tempdir()?;
        let file = folder.path().join("steth.toml");
        fs::write(&file, configuration)?;
        let mut command = process::command(steth, None, None);
        command.args(["run", "--listen", "127.0.0.1:0", "--config"]).arg(&file);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("STETH_")) {
            command.env_remove(name);
        }
        // What is written stays in one folder.
        command
            .env("STETH_BUDGET_ENABLED", budget)
            .env("STETH_HTTP_RATE", "1000000")
            .env("STETH_AUDIT_FOLDER", folder.path().join("audit"));
        let started = Instant::now();
        let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::piped()))?;
        let talk = process.child().stderr.take().context("no pipe")?;
        let (sender, ready) = mpsc::channel();
        thread::spawn(move || {
            let mut said = Vec::new();
            for line in BufReader::new(talk).lines().map_while(Result::ok) {
                if let Some(url) = line.strip_prefix("ready: ") {
                    let _ = sender.send((started.elapsed(), url.to_owned()));
                } else if !line.contains(" INFO ") {
                    eprintln!("steth: {line}");
                }
                said.push(line);
            }
        });
        let (start, url) = loop {
            interrupt::check()?;
            match ready.recv_timeout(interrupt::PAUSE) {
                Ok(said) => break said,
                Err(mpsc::RecvTimeoutError::Disconnected) => bail!("steth run ended before it was ready; see above"),
                Err(_) if started.elapsed() > START_LIMIT => {
                    bail!("steth run is not ready after {} s", START_LIMIT.as_secs())
                }
                Err(_) => {}
            }
        };
        let address = url.trim_start_matches("http://").trim_end_matches("/metrics");
        let address = address.parse().map_err(|_| anyhow!("no address in `ready: {url}`"))?;
        Ok(Self { process, address, start, _folder: folder })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// User and system time of all its threads, ended ones too.
    ///
    /// # Errors
    /// It is gone.
    pub fn cpu_seconds(&self) -> Result<f64> {
        Ok(process::times(self.id())?.cpu_seconds)
    }

    /// The same of the threads that it has, to the nanosecond.
    ///
    /// # Errors
    /// It is gone.
    pub fn exact_cpu_times(&self) -> Result<Exact> {
        process::exact_cpu_times(self.id())
    }

    /// `GET /metrics`.
    ///
    /// # Errors
    /// It is not answered, or not with 200.
    pub fn scrape(&self) -> Result<Scrape> {
        scrape(self.address)
    }
}

/// `GET /metrics` of whoever listens there. By HTTP/1.0, which knows no chunks.
///
/// # Errors
/// It is not answered, or not with 200.
pub fn scrape(address: SocketAddr) -> Result<Scrape> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    // What an answer takes to grow here is not the time of who answers.
    let mut answer = Vec::with_capacity(16 << 20);
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let started = Instant::now();
    stream.write_all(request.as_bytes())?;
    stream.read_to_end(&mut answer).context("GET /metrics: no whole answer")?;
    let duration = started.elapsed();
    let answer = String::from_utf8(answer).context("GET /metrics: no UTF-8")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("GET /metrics: no head")?;
    let status = head.split(' ').nth(1);
    if status != Some("200") || head.to_ascii_lowercase().contains("chunked") {
        bail!("GET /metrics: {head}");
    }
    Ok(Scrape { exposition: Exposition::new(body), duration })
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.process.stop("TERM", STOP_LIMIT) {
            eprintln!("steth run did not end on SIGTERM within {} s; killed", STOP_LIMIT.as_secs());
        }
    }
}
