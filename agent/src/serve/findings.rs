//! Findings, events and answers to "why was it slow": `/api/v1/explain`, `/api/v1/findings`, `/api/v1/events`. Parameters in, a
//! question to the pipeline, JSON out.

use std::time::{Duration, SystemTime};

use axum::{
    Extension,
    body::Bytes,
    extract::{
        Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{Content, guard::Changing, posted, problem::Problem, routes::json};
use crate::{
    config::moment,
    model::{
        finding::{ExplainRequest, NotExplained, PostedEvent},
        query::{NoAnswer, Question},
        sample::Period,
    },
};

/// Of how much time an answer is unless asked otherwise.
const LATELY: Duration = Duration::from_secs(900);
/// The most bytes of a posted event.
pub const MOST_BYTES: usize = 4_096;

/// Parameters as they were typed.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Typed {
    service: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

/// `/api/v1/explain`
pub async fn explain(
    State(content): State<Content>,
    parameters: Result<Query<Typed>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(typed) = parameters.map_err(|error| wrong(error.body_text()))?;
    let period = typed.period()?;
    let (answer, answered) = oneshot::channel();
    let service = typed.service.filter(|name| !name.is_empty());
    content.desk.put(Question::Explain(ExplainRequest { service, period, answer })).await?;
    json(&answered.await.map_err(|_| NoAnswer)??)
}

/// `/api/v1/findings`
pub async fn findings(State(content): State<Content>) -> Result<Response, Problem> {
    json(&content.desk.ask(Question::Findings).await??)
}

/// `/api/v1/events`
pub async fn events(State(content): State<Content>) -> Result<Response, Problem> {
    json(&content.desk.ask(Question::Events).await??)
}

/// `POST /api/v1/events`
pub async fn post(
    State(content): State<Content>,
    headers: HeaderMap,
    Extension(changing): Extension<Changing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let posted: PostedEvent = posted::read(&headers, body, "an event", EVENT)?;
    changing.tell(format!("told of {:?}", posted.text));
    let event = content.desk.ask(|answer| Question::Happened(posted, answer)).await??;
    Ok((StatusCode::CREATED, json(&event)?).into_response())
}

/// What an event looks like.
const EVENT: &str =
    r#"an event is such as {"service": "shop.service", "text": "deploy 1.2"}, with at_unix_ms if it was not now"#;

fn wrong(error: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, error, "docs/openapi.json lists what may be asked for")
}

impl Typed {
    fn period(&self) -> Result<Period, Problem> {
        match &self.from {
            Some(from) => moment::period(from, self.to.as_deref()).map_err(|why| wrong(format!("from, to: {why}"))),
            None if self.to.is_some() => Err(wrong("to is given without from")),
            None => {
                let now = SystemTime::now();
                Ok(Period { from: now.checked_sub(LATELY).unwrap_or(SystemTime::UNIX_EPOCH), to: now })
            }
        }
    }
}

impl From<NotExplained> for Problem {
    fn from(error: NotExplained) -> Self {
        let (status, hint) = match error {
            NotExplained::Disabled => (
                StatusCode::SERVICE_UNAVAILABLE,
                "set correlate.enabled in the configuration and start the agent again",
            ),
            NotExplained::NoService { .. } => (StatusCode::NOT_FOUND, "/api/v1/services lists them"),
            NotExplained::NoWindow { .. } => {
                (StatusCode::NOT_FOUND, "correlate.windows says how many are kept; the past ends where the agent began")
            }
            NotExplained::BadEvent(_) => (StatusCode::BAD_REQUEST, EVENT),
        };
        Self::new(status, error.to_string(), hint)
    }
}
