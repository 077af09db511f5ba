//! A Prometheus Alertmanager of the test's own. Knows its configuration and its API version 2
//! (github.com/prometheus/alertmanager, `api/v2/openapi.yaml`).

use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    http,
    network::free_port,
    process::{self, Process},
};

/// A running server; stopped and removed when dropped.
#[derive(Debug)]
pub struct Alertmanager {
    // Stands before the folder, so that the server is gone before its files are.
    server: Process,
    /// TCP port on 127.0.0.1.
    pub port: u16,
    _folder: TempDir,
}

const START: Duration = Duration::from_secs(60);

impl Alertmanager {
    /// Starts a server that tells `webhook` of each alert at once, and when it is over.
    ///
    /// # Errors
    /// If it is not installed or does not start within a minute.
    pub fn start(webhook: &str) -> Result<Self> {
        Self::start_with(webhook, "")
    }

    /// The same with more in its configuration.
    ///
    /// # Errors
    /// As there.
    pub fn start_with(webhook: &str, more: &str) -> Result<Self> {
        // Somebody may take the port between the choice and its use.
        for _ in 0..4 {
            match Self::begin(webhook, more, free_port()?) {
                Err(error) if error.to_string().contains("address already in use") => {}
                started => return started,
            }
        }
        Self::begin(webhook, more, free_port()?)
    }

    /// The same on this port.
    ///
    /// # Errors
    /// As there, or if somebody else has the port.
    pub fn start_at(webhook: &str, port: u16) -> Result<Self> {
        Self::begin(webhook, "", port)
    }

    fn begin(webhook: &str, more: &str, port: u16) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("steth-alertmanager-").tempdir()?;
        let config = folder.path().join("alertmanager.yml");
        std::fs::write(
            &config,
            format!(
                "route: {{receiver: sink, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}\n\
                 receivers:\n\
                 - {{name: sink, webhook_configs: [{{url: '{webhook}', send_resolved: true}}]}}\n{more}"
            ),
        )?;
        let mut command = process::command("prometheus-alertmanager", None);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--cluster.listen-address=");
        let server = Process::start("alertmanager", command)?;
        server
            .wait_for_line("that it listens", START, |line| line.to_lowercase().contains("listening").then_some(()))?;
        Ok(Self { server, port, _folder: folder })
    }

    /// The alerts that it holds.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn alerts(&self) -> Result<Vec<serde_json::Value>> {
        let answer = http::get(&format!("http://127.0.0.1:{}/api/v2/alerts", self.port))?;
        serde_json::from_str(&answer.body).with_context(|| format!("{}: {}", answer.status, answer.body))
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        self.server.log()
    }
}
