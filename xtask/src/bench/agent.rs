//! A running agent, for as long as a measurement takes.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// `steth run` on a free port of its own; stopped when dropped.
pub struct Agent {
    child: Child,
    address: SocketAddr,
}

impl Agent {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It ends early, or is not ready in time.
    pub fn start(steth: &Path) -> Result<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
        let address = free.context("no free port")?;
        let child = Command::new(steth)
            .args(["run", "--listen", &address.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", steth.display()))?;
        let mut agent = Self { child, address };
        let started = Instant::now();
        while agent.get("/-/ready").is_none() {
            if let Some(status) = agent.child.try_wait()? {
                bail!("steth run ended before it was ready: {status}");
            }
            if started.elapsed() > START_LIMIT {
                bail!("steth run is not ready after {} s", START_LIMIT.as_secs());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(agent)
    }

    /// The whole answer to a GET, if it is 200.
    pub fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let host = self.address;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200 ").then_some(answer)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // `Child::kill` is SIGKILL, which would leave the agent no time to detach.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let asked = Instant::now();
        while asked.elapsed() < STOP_LIMIT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        eprintln!("steth run did not end on SIGTERM within {} s; killed", STOP_LIMIT.as_secs());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
