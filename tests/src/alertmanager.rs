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
        let folder = tempfile::Builder::new().prefix("steth-alertmanager-").tempdir()?;
        // Somebody may take the port between the choice and its use.
        let mut attempts = 5;
        loop {
            let port = free_port()?;
            let config = folder.path().join("alertmanager.yml");
            std::fs::write(
                &config,
                format!(
                    "route: {{receiver: sink, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}\n\
                     receivers:\n\
                     - {{name: sink, webhook_configs: [{{url: '{webhook}', send_resolved: true}}]}}\n"
                ),
            )?;
            let mut command = process::command("prometheus-alertmanager", None);
            command.arg(format!("--config.file={}", config.display()));
            command.arg(format!("--storage.path={}", folder.path().join("data").display()));
            command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--cluster.listen-address=");
            let server = Process::start("alertmanager", command)?;
            let ready = server.wait_for_line("that it listens", START, |line| {
                line.to_lowercase().contains("listening").then_some(())
            });
            attempts -= 1;
            match ready {
                Ok(()) => return Ok(Self { server, port, _folder: folder }),
                Err(_) if attempts > 0 && server.log().contains("address already in use") => {}
                Err(error) => return Err(error),
            }
        }
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
