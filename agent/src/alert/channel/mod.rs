//! Channels: tasks of their own that bring notices where they belong. Each has one notice at a time, so that neither memory nor
//! the windows depend on whoever is slow to answer. Know no rules.

mod alertmanager;
mod email;
mod slack;
mod webhook;

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::notice::Notice;
use crate::{
    config::{
        Endpoint,
        alerts::{Channel, ChannelKind},
    },
    model::{
        alert::{Alert, Noted},
        figure::figure,
    },
    send::http::{Client, ClientError, Failure, Reason, Request},
};

/// What came of a notice.
#[derive(Debug)]
pub struct Outcome {
    /// The channel's name.
    pub channel: String,
    /// What it was told.
    pub notice: Notice,
    /// Whether it arrived.
    pub result: Result<(), Failed>,
}

/// Why a notice did not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What happened, in words, without secrets.
    pub what: String,
    /// Whether it may arrive later.
    pub is_worth_another_try: bool,
    /// How long the receiver wants to be left alone.
    pub retry_after: Option<Duration>,
}

/// What all notices say of where they come from.
#[derive(Clone, Debug)]
pub struct Sender {
    /// This host's name.
    pub host: String,
    /// Where the agent shows its alerts.
    pub url: String,
}

/// Starts a channel's task; it ends when the end that is returned is dropped.
pub fn start(channel: Channel, sender: Sender, outcomes: mpsc::Sender<Outcome>) -> mpsc::Sender<Notice> {
    let (queue, mut notices) = mpsc::channel::<Notice>(1);
    tokio::spawn(async move {
        // Keeps its connection and certificates between notices.
        let mut client = None;
        while let Some(notice) = notices.recv().await {
            let result = send(&channel, &mut client, &sender, &notice).await;
            if outcomes.send(Outcome { channel: channel.name.clone(), notice, result }).await.is_err() {
                break;
            }
        }
    });
    queue
}

async fn send(channel: &Channel, client: &mut Option<Client>, sender: &Sender, notice: &Notice) -> Result<(), Failed> {
    match &channel.kind {
        ChannelKind::Alertmanager(endpoint) => {
            let client = kept(client, &alertmanager::endpoint(endpoint))?;
            post(client, &alertmanager::body(sender, notice)).await
        }
        ChannelKind::Webhook(endpoint) => {
            post(kept(client, endpoint)?, &webhook::body(&channel.name, sender, notice)).await
        }
        ChannelKind::Slack(file) => slack::send(file, sender, notice).await,
        ChannelKind::Email(server) => email::send(server, sender, notice).await,
    }
}

/// The client, made anew when its certificates were exchanged.
fn kept<'a>(client: &'a mut Option<Client>, endpoint: &Endpoint) -> Result<&'a Client, ClientError> {
    match client.take().filter(Client::is_current) {
        Some(current) => Ok(client.insert(current)),
        None => Ok(client.insert(Client::new(endpoint)?)),
    }
}

/// A notice as each receiver of JSON gets it.
#[cfg(test)]
pub fn bodies(sender: &Sender, notice: &Notice) -> [serde_json::Value; 3] {
    [alertmanager::body(sender, notice), webhook::body("c", sender, notice), slack::body(sender, notice)]
}

async fn post(client: &Client, body: &serde_json::Value) -> Result<(), Failed> {
    let body = serde_json::to_vec(body).unwrap_or_default();
    client.post(Request::new("application/json", body.into())).await?;
    Ok(())
}

/// A point in time as JSON has it (RFC 3339).
fn moment(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    ms.unwrap_or_default().to_string()
}

/// The labels by which receivers tell alerts apart.
fn labels(alert: &Alert, sender: &Sender) -> BTreeMap<String, String> {
    let mut labels = alert.labels.clone();
    labels.insert("alertname".into(), alert.rule.clone());
    labels.insert("severity".into(), alert.severity.name().into());
    labels.insert("instance".into(), sender.host.clone());
    labels
}

/// What people read.
fn annotations(alert: &Alert) -> BTreeMap<String, String> {
    let said = |value: f64| figure(value, &alert.unit).trim_end().to_owned();
    let mut annotations = BTreeMap::from([
        ("summary".to_owned(), alert.summary.clone()),
        ("value".to_owned(), said(alert.value)),
        ("threshold".to_owned(), said(alert.threshold)),
    ]);
    annotations.extend(alert.usual.map(|usual| ("usual".to_owned(), said(usual))));
    let findings: Vec<String> = alert.findings.iter().map(found).collect();
    for (name, text) in [("impact", &alert.impact), ("step", &alert.step), ("findings", &findings.join("\n"))] {
        if !text.is_empty() {
            annotations.insert(name.to_owned(), text.clone());
        }
    }
    if let Some(known) = &alert.acknowledged {
        annotations.insert("acknowledged_by".to_owned(), known.by.clone());
    }
    annotations
}

/// A finding with what can be checked, a line for each.
fn found(finding: &Noted) -> String {
    let evidence = finding.evidence.iter().map(|evidence| format!("\n  {evidence}"));
    [finding.conclusion.clone()].into_iter().chain(evidence).collect()
}

/// When it began to hold, in milliseconds since the Unix epoch.
fn began(alert: &Alert) -> u64 {
    alert.firing_unix_ms.unwrap_or(alert.pending_unix_ms)
}

/// What a server says of a request that it understands and never takes: its content, its size, or what that means (RFC 9110, 15.5.1,
/// 15.5.14 and 15.5.21).
const NEVER_TAKEN: [u16; 3] = [400, 413, 422];

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        // All else may be mended without another notice: an address, a token, a right. People are to be told then.
        let is_worth_another_try = !matches!(failure.reason, Reason::Status(status) if NEVER_TAKEN.contains(&status));
        Self { what: failure.what, is_worth_another_try, retry_after: failure.retry_after }
    }
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Self { what: error.to_string(), is_worth_another_try: true, retry_after: None }
    }
}
