//! Settings as an admin sees and changes them. Knows no key.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// In the order of the shipped file.
    pub settings: Vec<Setting>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Section and name.
    pub key: String,
    /// Its value, as it is written in TOML.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
    /// Whether it can be changed here: while the agent runs, and without naming files.
    pub live: bool,
}

/// A change, as it is posted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingOrder {
    /// Section and name.
    pub key: String,
    /// As in an environment variable: lists are parted by commas.
    pub value: String,
}

/// Why a setting is not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingRefused {
    /// Key or value.
    #[error("{0}")]
    Wrong(String),
    /// It is bound at the start, names files, or is not the pipeline's.
    #[error("{0} cannot be changed here")]
    OnlyInFile(String),
}

/// A question about settings.
#[derive(Debug)]
pub enum SettingQuestion {
    /// Which are there?
    List(oneshot::Sender<Settings>),
    /// Change one, until the configuration is read again.
    Change(SettingOrder, oneshot::Sender<Result<Setting, SettingRefused>>),
}
