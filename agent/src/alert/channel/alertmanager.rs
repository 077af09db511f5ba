//! Prometheus Alertmanager, `POST /api/v2/alerts` (its OpenAPI file: `api/v2/openapi.yaml`). What is not sent again by `endsAt`
//! it takes for over.

use serde_json::{Value, json};

use super::{Sender, annotations, began, labels, moment};
use crate::{
    alert::notice::{Notice, RESEND},
    config::Endpoint,
};

const PATH: &str = "/api/v2/alerts";
/// For so many times [`RESEND`] Alertmanager takes an alert to last when nothing more comes: as Prometheus does.
const LASTS: u32 = 4;

/// Where alerts are posted.
pub fn endpoint(base: &Endpoint) -> Endpoint {
    let url = base.url.trim_end_matches('/');
    let url = if url.ends_with(PATH) { url.to_owned() } else { format!("{url}{PATH}") };
    Endpoint { url, ..base.clone() }
}

/// The alerts of a notice.
pub fn body(sender: &Sender, notice: &Notice) -> Value {
    let lasts_ms = u64::try_from((RESEND * LASTS).as_millis()).unwrap_or(u64::MAX);
    let alerts = notice.alerts.iter().map(|alert| {
        let ends = alert.resolved_unix_ms.unwrap_or_else(|| notice.at_unix_ms.saturating_add(lasts_ms));
        json!({
            "labels": labels(alert, sender),
            "annotations": annotations(alert),
            "startsAt": moment(began(alert)),
            "endsAt": moment(ends),
            "generatorURL": sender.url,
        })
    });
    alerts.collect()
}
