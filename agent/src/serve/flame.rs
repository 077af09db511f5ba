//! Profiles on demand: `/api/v1/flame` and `/debug/pprof/profile`. Parameters in, a question to the pipeline, a drawing out.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{Content, problem::Problem};
use crate::{
    config::value::parse_duration,
    model::{
        profile::{Drawing, Kind},
        query::{NOTE, NoAnswer, Question},
        sample::{ProfileRefused, ProfileRequest, Whose},
    },
};

/// How long a profile is unless asked otherwise.
const SECONDS: f64 = 10.0;
/// Samples in a second and CPU unless asked otherwise: not a multiple of what programs do by the clock.
const HERTZ: u32 = 99;
/// The longest that may be asked for.
const MOST_SECONDS: f64 = 600.0;
/// How long an answer to the longest may take: sampling, and then finding names.
pub const PATIENCE: Duration = Duration::from_secs(700);

/// Parameters as they were typed. Several processes or services are parted by commas.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Typed {
    seconds: Option<f64>,
    pid: Option<String>,
    service: Option<String>,
    format: Option<String>,
    kind: Option<String>,
    frequency: Option<u32>,
    query: Option<String>,
    slow: Option<String>,
    icicle: bool,
    reversed: bool,
}

type Parameters = Result<Query<Typed>, QueryRejection>;

/// `/api/v1/flame`
pub async fn flame(State(content): State<Content>, parameters: Parameters) -> Result<Response, Problem> {
    let typed = typed(parameters)?;
    let format = typed.format.clone().unwrap_or_else(|| "svg".into());
    drawn(&content, &typed, format).await
}

/// `/debug/pprof/profile`: what scrapers of profiles ask for.
pub async fn pprof(State(content): State<Content>, parameters: Parameters) -> Result<Response, Problem> {
    let typed = typed(parameters)?;
    if typed.format.as_deref().is_some_and(|format| format != "pprof") {
        return Err(wrong("here a profile is always pprof; /api/v1/flame has other formats"));
    }
    drawn(&content, &typed, "pprof".into()).await
}

async fn drawn(content: &Content, typed: &Typed, format: String) -> Result<Response, Problem> {
    let drawing = Drawing { format, icicle: typed.icicle, reversed: typed.reversed };
    // Before sampling, so that a misspelt format costs nothing.
    (content.knows_format)(&drawing.format).map_err(wrong)?;
    let (answer, answered) = oneshot::channel();
    let request = typed.request(answer)?;
    content.desk.put(Question::Profile(request)).await?;
    let profile = answered.await.map_err(|_| NoAnswer)??;
    let notes: Vec<HeaderValue> =
        profile.notes.iter().filter_map(|note| HeaderValue::from_bytes(note.as_bytes()).ok()).collect();
    let draw = Arc::clone(&content.draw);
    let drawn = tokio::task::spawn_blocking(move || draw(&profile, &drawing))
        .await
        .map_err(|error| Problem::internal(error.to_string()))?
        .map_err(Problem::internal)?;
    let mut response = ([(header::CONTENT_TYPE, drawn.media_type)], drawn.bytes).into_response();
    for note in notes {
        response.headers_mut().append(NOTE, note);
    }
    Ok(response)
}

impl Typed {
    fn request(
        &self,
        answer: oneshot::Sender<Result<Arc<crate::model::profile::Profile>, ProfileRefused>>,
    ) -> Result<ProfileRequest, Problem> {
        let seconds = self.seconds.unwrap_or(SECONDS);
        if !(0.1..=MOST_SECONDS).contains(&seconds) {
            return Err(wrong(format!("seconds = {seconds}: from 0.1 to {MOST_SECONDS}")));
        }
        let pids = self.pid.iter().flat_map(|list| list.split(','));
        let pids: Result<Vec<u32>, Problem> = pids
            .map(|pid| {
                pid.trim().parse().map_err(|_| wrong(format!("pid = {pid:?}: process numbers, parted by commas")))
            })
            .collect();
        let services = self.service.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
        let kind = match &self.kind {
            None => Kind::Cpu,
            Some(name) => Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
                wrong(format!("kind = {name:?}: allowed are {}", Kind::ALL.map(Kind::name).join(", ")))
            })?,
        };
        let slow = self.slow.as_ref().map(|typed| {
            parse_duration(typed).map_err(|why| wrong(format!("slow = {typed:?}: {why}; it is written 250ms or 2s")))
        });
        Ok(ProfileRequest {
            whose: Whose { pids: pids?, services },
            kind,
            length: Duration::from_secs_f64(seconds),
            hertz: self.frequency.unwrap_or(HERTZ),
            query: self.query.clone(),
            slow: slow.transpose()?,
            enough: Arc::default(),
            begun: None,
            answer,
        })
    }
}

fn typed(parameters: Parameters) -> Result<Typed, Problem> {
    parameters.map(|Query(typed)| typed).map_err(|error| wrong(error.body_text()))
}

fn wrong(error: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, error, "docs/openapi.json lists the parameters of each path")
}

impl From<ProfileRefused> for Problem {
    fn from(error: ProfileRefused) -> Self {
        let (status, hint) = match error {
            ProfileRefused::OutOfRange(_) => (StatusCode::BAD_REQUEST, "docs/openapi.json lists what is allowed"),
            ProfileRefused::NoProcess(_) => {
                (StatusCode::NOT_FOUND, "process numbers are those of the initial namespace")
            }
            ProfileRefused::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "wait until one of them ends"),
            ProfileRefused::Impossible(_) | ProfileRefused::Kernel(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "steth doctor says more")
            }
        };
        Self::new(status, error.to_string(), hint)
    }
}
