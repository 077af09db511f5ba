//! Slack's incoming webhooks (api.slack.com/messaging/webhooks): a text with a section for each alert. The address is the secret,
//! so it is read from a file at each notice and never told.

use std::{fs, io, path::Path};

use serde_json::{Value, json};

use super::{Failed, Sender, annotations, began, moment, post};
use crate::{
    alert::notice::Notice,
    config::Endpoint,
    model::alert::{Alert, AlertState},
    send::http::Client,
};

/// Alerts with a section of their own; Slack takes 50 blocks.
const SHOWN: usize = 20;
/// Slack takes 3,000 characters in a section.
const MOST_CHARS: usize = 2_900;

/// Sends a notice to the address in a file.
pub async fn send(file: &Path, sender: &Sender, notice: &Notice) -> Result<(), Failed> {
    let failed = |error: io::Error| Failed {
        what: format!("cannot read {}: {error}", file.display()),
        is_worth_another_try: true,
        retry_after: None,
    };
    let text = fs::read_to_string(file).map_err(failed)?;
    let url = text.lines().next().unwrap_or_default().trim();
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(failed(io::Error::other("its first line is no address")));
    }
    let sent = match Client::new(&Endpoint::at(url)) {
        Ok(client) => post(&client, &body(sender, notice)).await,
        Err(error) => Err(error.into()),
    };
    sent.map_err(|failed| Failed {
        what: failed.what.replace(url, &format!("the address in {}", file.display())),
        ..failed
    })
}

/// A notice.
pub fn body(sender: &Sender, notice: &Notice) -> Value {
    let counts = match notice.counts() {
        (firing, 0) => format!("{firing} firing"),
        (0, over) => format!("{over} resolved"),
        (firing, over) => format!("{firing} firing, {over} resolved"),
    };
    let title = format!("{} on {}: {counts}", notice.group, sender.host);
    let section = |text: String| json!({ "type": "section", "text": { "type": "mrkdwn", "text": text } });
    let mut blocks = vec![section(format!("*{}*", escaped(&title)))];
    blocks.extend(notice.alerts.iter().take(SHOWN).map(|alert| section(one(alert))));
    let more = notice.left_out + notice.alerts.len().saturating_sub(SHOWN);
    blocks.extend((more > 0).then(|| section(format!("and {more} more"))));
    json!({ "text": escaped(&title), "blocks": blocks })
}

fn one(alert: &Alert) -> String {
    let state = if alert.state == AlertState::Resolved { "resolved" } else { alert.severity.name() };
    let mut text = format!("*{state}*: {}", escaped(&alert.summary));
    let annotations = annotations(alert);
    text.push_str(&format!("\n_since_: {}", moment(began(alert))));
    // What may be long stands last.
    for name in ["value", "usual", "impact", "step", "findings"] {
        if let Some(value) = annotations.get(name) {
            text.push_str(&format!("\n_{name}_: {}", escaped(value)));
        }
    }
    text.chars().take(MOST_CHARS).collect()
}

/// Slack's control characters as text.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
