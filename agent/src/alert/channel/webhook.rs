//! The JSON that Alertmanager sends to webhooks, version 4 (prometheus.io/docs/alerting/latest/configuration, webhook_config), so
//! that what takes it from there takes it from here.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Sender, annotations, began, labels, moment};
use crate::{alert::notice::Notice, model::alert::AlertState};

/// In place of the end of what lasts.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A notice.
pub fn body(receiver: &str, sender: &Sender, notice: &Notice) -> Value {
    let is_over = |state: AlertState| state == AlertState::Resolved;
    let status = |is_over: bool| if is_over { "resolved" } else { "firing" };
    let all_labels: Vec<BTreeMap<String, String>> = notice.alerts.iter().map(|alert| labels(alert, sender)).collect();
    let all_annotations: Vec<BTreeMap<String, String>> = notice.alerts.iter().map(annotations).collect();
    let alerts: Vec<Value> = notice
        .alerts
        .iter()
        .zip(&all_labels)
        .zip(&all_annotations)
        .map(|((alert, labels), annotations)| {
            json!({
                "status": status(is_over(alert.state)),
                "labels": labels,
                "annotations": annotations,
                "startsAt": moment(began(alert)),
                "endsAt": alert.resolved_unix_ms.map_or_else(|| NEVER.to_owned(), moment),
                "generatorURL": sender.url,
                "fingerprint": fingerprint(labels),
            })
        })
        .collect();
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{alertname={:?}}}", notice.group),
        "truncatedAlerts": notice.left_out,
        "status": status(notice.alerts.iter().all(|alert| is_over(alert.state))),
        "receiver": receiver,
        "groupLabels": { "alertname": notice.group },
        "commonLabels": common(&all_labels),
        "commonAnnotations": common(&all_annotations),
        "externalURL": sender.url,
        "alerts": alerts,
    })
}

/// What is the same in all.
fn common(all: &[BTreeMap<String, String>]) -> BTreeMap<String, String> {
    let Some((first, others)) = all.split_first() else { return BTreeMap::new() };
    let is_common = |(name, value): &(&String, &String)| others.iter().all(|other| other.get(*name) == Some(*value));
    first.iter().filter(is_common).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Tells alerts apart by their labels: sixteen digits, as Alertmanager's, though not its hash.
fn fingerprint(labels: &BTreeMap<String, String>) -> String {
    let mut hash = Sha256::new();
    for (name, value) in labels {
        hash.update(name);
        hash.update([0xff]);
        hash.update(value);
        hash.update([0xff]);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
