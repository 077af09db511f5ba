//! A receiver of OTLP, made of OpenTelemetry's own package for Python (`tests/receivers/otlp.py`), one of profiles
//! (`tests/receivers/profiles.py`), and the certificates with which both sides prove who they are.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    drivers,
    process::{self, Process},
};

const READY: Duration = Duration::from_secs(30);

/// A running receiver; killed when dropped.
#[derive(Debug)]
pub struct Receiver {
    server: Process,
    /// TCP port on 127.0.0.1.
    pub port: u16,
}

/// An authority, and a certificate of `localhost` that it has signed, which serves both sides.
#[derive(Debug)]
pub struct Certificates {
    folder: TempDir,
}

impl Receiver {
    /// Starts one of OTLP with these arguments.
    ///
    /// # Errors
    /// If its packages cannot be had, or it does not start.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        Self::run("otlp.py", arguments)
    }

    /// Starts one of these programs, with the packages.
    ///
    /// # Errors
    /// If its packages cannot be had, or it does not start.
    pub fn run(program: &str, arguments: &[&str]) -> Result<Self> {
        let packages = drivers::python_packages(&programs().join("requirements.txt"))?;
        let mut command = process::command(drivers::python()?, None);
        command.env("PYTHONPATH", packages).arg(programs().join(program)).args(arguments);
        Self::ready(command)
    }

    /// Starts one that puts the profiles that it gets into this folder.
    ///
    /// # Errors
    /// If it does not start.
    pub fn of_profiles(folder: &Path) -> Result<Self> {
        let mut command = process::command(drivers::python()?, None);
        command.arg(programs().join("profiles.py")).arg(folder);
        Self::ready(command)
    }

    fn ready(command: Command) -> Result<Self> {
        let server = Process::start("receiver", command)?;
        let port =
            server.wait_for_line("listening …", READY, |line| line.strip_prefix("listening ")?.parse().ok())?;
        Ok(Self { server, port })
    }

    /// All data points so far.
    ///
    /// # Errors
    /// If it said something else.
    pub fn points(&self) -> Result<Vec<Value>> {
        self.lines("name")
    }

    /// How many data points there were in all requests so far; of one that says but some of them.
    ///
    /// # Errors
    /// If it said something else.
    pub fn point_count(&self) -> Result<u64> {
        Ok(self.lines("request")?.iter().filter_map(|line| line["request"].as_u64()).sum())
    }

    /// All records of logs so far.
    ///
    /// # Errors
    /// If it said something else.
    pub fn records(&self) -> Result<Vec<Value>> {
        self.lines("event")
    }

    /// All profiles so far.
    ///
    /// # Errors
    /// If it said something else.
    pub fn profiles(&self) -> Result<Vec<Value>> {
        self.lines("file")
    }

    /// All mails so far.
    ///
    /// # Errors
    /// If it said something else.
    pub fn mails(&self) -> Result<Vec<Value>> {
        self.lines("subject")
    }

    fn lines(&self, key: &str) -> Result<Vec<Value>> {
        let said = self.server.log();
        let lines = said.lines().filter(|line| !line.starts_with("listening "));
        let read = lines.map(|line| serde_json::from_str::<Value>(line).with_context(|| line.to_owned()));
        read.filter(|line| line.as_ref().map_or(true, |line| line.get(key).is_some())).collect()
    }
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("receivers")
}

impl Certificates {
    /// Makes them.
    ///
    /// # Errors
    /// Without `openssl`.
    pub fn make() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("steth-certificates-").tempdir()?;
        let run = |arguments: &str| {
            let mut openssl = process::command("openssl", None);
            openssl.current_dir(folder.path()).args(arguments.split(' '));
            Process::start("openssl", openssl)?.finish(READY)
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
        run(&format!("req -x509 {key} -subj /CN=authority -keyout ca.key -out ca.pem"))?;
        run(&format!("req -x509 {key} -subj /CN=stranger -keyout other.key -out other.pem"))?;
        run(&format!(
            "req -x509 {key} -CA ca.pem -CAkey ca.key -subj /CN=localhost -addext subjectAltName=DNS:localhost \
             -addext basicConstraints=critical,CA:false -keyout own.key -out own.pem"
        ))?;
        Ok(Self { folder })
    }

    /// One of `ca.pem`, `own.pem`, `own.key`, and of a stranger `other.pem`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
