//! Alerts: `/api/v1/alerts`. A question or an order to the pipeline, JSON out.

use axum::{
    Extension,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};

use super::{Content, guard::Changing, posted, problem::Problem, routes::json};
use crate::model::{
    alert::{AlertOrder, AlertQuestion, AlertRefused},
    query::Question,
};

/// The most bytes of an order: one may bear a file of rules.
pub const MOST_BYTES: usize = 256 << 10;

/// What an order looks like.
const ORDER: &str = r#"an order is such as {"action": "acknowledge", "id": 3, "by": "me"}; docs/openapi.json has all"#;

/// `/api/v1/alerts`
pub async fn alerts(State(content): State<Content>) -> Result<Response, Problem> {
    json(&content.desk.ask(|answer| Question::Alerts(AlertQuestion::List(answer))).await??)
}

/// `POST /api/v1/alerts`
pub async fn post(
    State(content): State<Content>,
    headers: HeaderMap,
    Extension(changing): Extension<Changing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let order: AlertOrder = posted::read(&headers, body, "an order", ORDER)?;
    changed(&order).into_iter().for_each(|what| changing.tell(what));
    json(&content.desk.ask(|answer| Question::Alerts(AlertQuestion::Order(order, answer))).await??)
}

/// What an order changes, for the audit log.
fn changed(order: &AlertOrder) -> Option<String> {
    match order {
        AlertOrder::Acknowledge { id, by, .. } => Some(format!("acknowledged alert {id} as {by}")),
        AlertOrder::Silence { rule, labels, seconds, by, .. } => {
            let rule = rule.as_deref().unwrap_or("any rule");
            Some(format!("silenced {rule} {labels:?} for {seconds} s as {by}"))
        }
        AlertOrder::Unsilence { id } => Some(format!("ended silence {id}")),
        AlertOrder::Test { .. } | AlertOrder::Record {} => None,
    }
}

impl From<AlertRefused> for Problem {
    fn from(refused: AlertRefused) -> Self {
        let (status, hint) = match refused {
            AlertRefused::Disabled => {
                (StatusCode::SERVICE_UNAVAILABLE, "set alerts.enabled in the configuration and start the agent again")
            }
            AlertRefused::Missing(_) => (StatusCode::NOT_FOUND, "GET /api/v1/alerts lists alerts and silences"),
            AlertRefused::Wrong(_) => (StatusCode::BAD_REQUEST, ORDER),
        };
        Self::new(status, refused.to_string(), hint)
    }
}
