//! One channel: as it is written, and what is wrong with it. Secrets stand in files.

use std::{ops::Range, path::PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::{Text, is_name};
use crate::{
    config::{Endpoint, value::did_you_mean},
    model::rule::Severity,
};

/// The kinds by name.
const KINDS: &[&str] = &["alertmanager", "webhook", "slack", "email"];

/// Where notices are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Tells it from all others.
    pub name: String,
    /// What it is.
    pub kind: ChannelKind,
    /// The least severity that is sent there.
    pub least: Severity,
}

/// What a channel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// A Prometheus Alertmanager, by its address without a path.
    Alertmanager(Endpoint),
    /// Whoever takes the JSON that Alertmanager sends to webhooks.
    Webhook(Endpoint),
    /// An incoming webhook of Slack: its address is a secret and stands in this file.
    Slack(PathBuf),
    /// A mail server.
    Email(Email),
}

/// A mail server, and who writes to whom.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Email {
    /// Its name.
    pub host: String,
    /// Its port.
    #[serde(default = "submission")]
    pub port: u16,
    /// How the way there is encrypted.
    #[serde(default)]
    pub encryption: Encryption,
    /// Certificates (PEM) that the server's must be signed by; without it those that the host trusts.
    pub ca_file: Option<PathBuf>,
    /// The user, if the server wants one.
    pub username: Option<String>,
    /// File whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// The sender.
    pub from: String,
    /// The receivers.
    pub to: Vec<String>,
}

/// How the way to a mail server is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// After a greeting in plain text, or not at all (STARTTLS, RFC 3207).
    #[default]
    StartTls,
    /// From the first byte (RFC 8314).
    Tls,
    /// Not: for a server on this host.
    None,
}

impl ChannelKind {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Alertmanager(_) => "alertmanager",
            Self::Webhook(_) => "webhook",
            Self::Slack(_) => "slack",
            Self::Email(_) => "email",
        }
    }
}

/// RFC 6409.
fn submission() -> u16 {
    587
}

/// A channel as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypedChannel {
    name: Spanned<String>,
    kind: Spanned<String>,
    #[serde(default)]
    least: Severity,
    endpoint: Option<Endpoint>,
    url_file: Option<PathBuf>,
    email: Option<Email>,
}

impl TypedChannel {
    /// The channel, if it is one; else what is wrong is complained of.
    pub(super) fn checked(self, text: &mut Text, whole: Range<usize>) -> Option<Channel> {
        let before = text.complaints.len();
        let name = self.name.get_ref().clone();
        if !is_name(&name) {
            text.complain(self.name.span(), format!("{name:?} is no name: letters, digits, _ and - are allowed"));
        }
        let kind = self.kind.get_ref().as_str();
        let (endpoint, url_file, email) = (self.endpoint, self.url_file, self.email);
        let kind = match (kind, endpoint, url_file, email) {
            ("alertmanager", Some(endpoint), None, None) => ChannelKind::Alertmanager(endpoint),
            ("webhook", Some(endpoint), None, None) => ChannelKind::Webhook(endpoint),
            ("slack", None, Some(file), None) => ChannelKind::Slack(file),
            ("email", None, None, Some(email)) => ChannelKind::Email(email),
            (known, ..) if KINDS.contains(&known) => {
                let needed = match known {
                    "slack" => "url_file = \"/path\", a file with the address of an incoming webhook",
                    "email" => "email = { host = …, from = …, to = […] }",
                    _ => "endpoint = { url = … }",
                };
                text.complain(whole, format!("a channel of kind {known:?} has {needed}, and nothing else"));
                return None;
            }
            (other, ..) => {
                let hint = did_you_mean(other, KINDS.iter().copied());
                text.complain(self.kind.span(), format!("there is no {other:?}{hint}; allowed: {}", KINDS.join(", ")));
                return None;
            }
        };
        if let Some(why) = contradiction(&kind) {
            text.complain(whole, why);
            return None;
        }
        (text.complaints.len() == before).then_some(Channel { name, kind, least: self.least })
    }
}

fn contradiction(kind: &ChannelKind) -> Option<&'static str> {
    match kind {
        ChannelKind::Alertmanager(endpoint) | ChannelKind::Webhook(endpoint) => endpoint.contradiction(),
        ChannelKind::Slack(file) => (!file.is_absolute()).then_some("url_file is not an absolute path"),
        ChannelKind::Email(email) => {
            let files = [&email.ca_file, &email.password_file];
            match () {
                () if email.to.is_empty() => Some("email.to is empty"),
                () if email.username.is_some() != email.password_file.is_some() => {
                    Some("email.username and email.password_file belong together")
                }
                () if files.into_iter().flatten().any(|file| !file.is_absolute()) => {
                    Some("files of an email channel are named by absolute paths")
                }
                () => None,
            }
        }
    }
}
