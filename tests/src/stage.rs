//! An agent with the rules that it ships with, in windows of a second and in a tenth of their times, and a webhook that is told.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    agent::{Agent, Options},
    process::{Process, command},
    programs::Program,
    sink::Sink,
};

const SHIPPED: &str = include_str!("../../packaging/alerts.toml");
/// What an alert takes from its cause to a notice, on a busy machine.
pub const TOLD: Duration = Duration::from_secs(60);

/// The rules, and who is told.
#[derive(Debug)]
pub struct Stage {
    folder: TempDir,
    /// Who is told.
    pub sink: Sink,
}

impl Stage {
    /// With these channels beside the webhook.
    pub fn new(channels: &str) -> Self {
        Self::with(channels, &[])
    }

    /// With these words of the rules replaced by others, each of which must be there; all times of theirs are a tenth already.
    pub fn with(channels: &str, changes: &[(&str, &str)]) -> Self {
        let mut rules = SHIPPED.to_owned();
        for (long, short) in [("10m", "60s"), ("5m", "20s"), ("2m", "3s"), ("1m", "3s")] {
            rules = rules.replace(&format!("\"{long}\""), &format!("\"{short}\""));
        }
        for (before, after) in changes {
            assert!(rules.contains(before), "{before} is not in the rules");
            rules = rules.replace(before, after);
        }
        Self::of_rules(&rules, channels)
    }

    /// With these rules and channels alone.
    pub fn of_rules(rules: &str, channels: &str) -> Self {
        let (folder, sink) = (tempfile::tempdir().unwrap(), Sink::start().unwrap());
        let webhook =
            format!("[[channel]]\nname = \"sink\"\nkind = \"webhook\"\nendpoint = {{ url = {:?} }}\n", sink.url());
        std::fs::write(folder.path().join("rules.toml"), format!("{rules}\n{webhook}\n{channels}")).unwrap();
        Self { folder, sink }
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file of rules and channels.
    pub fn rules(&self) -> PathBuf {
        self.folder.path().join("rules.toml")
    }

    /// An agent with these rules.
    pub fn agent(&self) -> Agent {
        self.agent_with("")
    }

    /// One with more sections of configuration.
    pub fn agent_with(&self, sections: &str) -> Agent {
        // Nobody here talks by OpenSSL, and looking for it in all that runs on this host takes its time.
        let sections = format!(
            "[probes]\ntls = false\n[window]\nlive = \"100ms\"\nkept = \"1s\"\n[alerts]\ndefaults = false\nthrottle = \"1s\"\nfiles = \
             [{:?}]\n{sections}",
            self.rules().to_str().unwrap()
        );
        let alerts = Some(self.folder.path().join("state"));
        Agent::start(&Options { sections, alerts, ..Options::default() }).unwrap()
    }

    /// The alert of a rule and service, as the webhook was told of it.
    pub fn told(&self, rule: &str, service: &str, status: &str) -> Value {
        let what = format!("{rule} of {service}, {status}");
        self.sink.wait_for(&what, TOLD, |post| find(post, rule, service, status)).unwrap()
    }

    /// The alert of a rule with this value of a label, or of a rule that has one for all.
    pub fn told_of(&self, rule: &str, label: Option<(&str, &str)>, status: &str, within: Duration) -> Value {
        let is_it = |alert: &&Value| {
            let labels = &alert["labels"];
            let has = label.is_none_or(|(name, value)| labels[name] == value);
            labels["alertname"] == rule && has && alert["status"] == status
        };
        let find = |post: &Value| post["alerts"].as_array()?.iter().find(is_it).cloned();
        self.sink.wait_for(&format!("{rule} of {label:?}, {status}"), within, find).unwrap()
    }

    /// How often the webhook was told that it fires.
    pub fn count(&self, rule: &str, service: &str) -> usize {
        self.sink.posts().iter().filter(|(_, post)| find(post, rule, service, "firing").is_some()).count()
    }
}

/// The alert of a rule and service in what a webhook was told.
pub fn find(post: &Value, rule: &str, service: &str, status: &str) -> Option<Value> {
    let is_it = |alert: &&Value| {
        let labels = &alert["labels"];
        let of_service = labels["groupname"] == service || labels["service"] == service;
        labels["alertname"] == rule && of_service && alert["status"] == status
    };
    post["alerts"].as_array()?.iter().find(is_it).cloned()
}

/// A process that has used nearly all open files that it may have; made of [`HOLD_RESOURCES`](crate::programs::HOLD_RESOURCES).
pub fn hold_files(program: &Program) -> Process {
    let mut shell = command("sh", None);
    shell.args(["-c", "ulimit -n 100 && exec \"$0\" 90 1"]).arg(&program.path);
    let process = Process::start("hold", shell).unwrap();
    process.wait_for_line("ready", TOLD, |line| (line == "ready").then_some(())).unwrap();
    process
}
