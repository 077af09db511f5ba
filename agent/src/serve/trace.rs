//! What is served below `/api/v1/trace`, and how a trace is told: one JSON object a line, as it happens, until the duration is
//! over or the client hangs up. Knows neither what happens nor who sees it.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::body::{Bytes, Frame};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{Content, problem::Problem};
use crate::{
    config::value::parse_duration,
    model::{
        query::Question,
        trace::{Of, TraceRefused, TraceRequest, Wanted},
    },
};

/// How long a trace is unless asked otherwise, and at most.
const LENGTH: Duration = Duration::from_secs(60);
const MAX_LENGTH: Duration = Duration::from_secs(24 * 3_600);
/// Pieces of a trace that may wait for a client that is slow to take them; the rest is skipped and counted.
const WAITING: usize = 16;

/// Parameters as they were typed.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Typed {
    pid: Option<u32>,
    service: Option<String>,
    min_duration: Option<String>,
    errors: Option<bool>,
    syscall: Option<String>,
    event: Option<String>,
    duration: Option<String>,
}

type Parameters = Result<Query<Typed>, QueryRejection>;

/// `/api/v1/trace/syscalls`
pub async fn syscalls(State(content): State<Content>, parameters: Parameters) -> Result<Response, Problem> {
    let typed = typed(parameters, &["event"])?;
    begin(&content, Wanted::Calls(typed.of(typed.syscall.as_deref())?), typed.length()?).await
}

/// `/api/v1/trace/tcp`
pub async fn tcp(State(content): State<Content>, parameters: Parameters) -> Result<Response, Problem> {
    let typed = typed(parameters, &["syscall"])?;
    begin(&content, Wanted::Tcp(typed.of(typed.event.as_deref())?), typed.length()?).await
}

/// `/api/v1/trace/exec`
pub async fn exec(State(content): State<Content>, parameters: Parameters) -> Result<Response, Problem> {
    let typed = typed(parameters, &["syscall", "event", "min_duration", "errors"])?;
    begin(&content, Wanted::Executions(typed.of(None)?), typed.length()?).await
}

fn typed(parameters: Parameters, strange: &[&str]) -> Result<Typed, Problem> {
    let Query(typed) = parameters.map_err(|rejection| wrong(rejection.body_text()))?;
    let given = [
        ("syscall", typed.syscall.is_some()),
        ("event", typed.event.is_some()),
        ("min_duration", typed.min_duration.is_some()),
        ("errors", typed.errors.is_some()),
    ];
    match given.iter().find(|(name, is_given)| *is_given && strange.contains(name)) {
        Some((name, _)) => Err(wrong(format!("unknown field `{name}`"))),
        None => Ok(typed),
    }
}

impl Typed {
    fn of(&self, names: Option<&str>) -> Result<Of, Problem> {
        Ok(Of {
            pid: self.pid,
            service: self.service.clone(),
            min_duration: duration("min_duration", self.min_duration.as_deref())?.unwrap_or_default(),
            errors: self.errors.unwrap_or_default(),
            names: names.iter().flat_map(|names| names.split(',')).map(str::to_owned).collect(),
        })
    }

    fn length(&self) -> Result<Option<Duration>, Problem> {
        duration("duration", self.duration.as_deref())
    }
}

/// Begins a trace.
///
/// # Errors
/// When nothing is traced.
pub async fn begin(content: &Content, wanted: Wanted, length: Option<Duration>) -> Result<Response, Problem> {
    wanted.check().map_err(wrong)?;
    let (lines, told) = mpsc::channel(WAITING);
    let length = length.unwrap_or(LENGTH).min(MAX_LENGTH);
    content.desk.ask(|answer| Question::Trace(TraceRequest { wanted, length, lines, answer })).await??;
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(Told(told))).into_response())
}

/// A duration as it was typed.
///
/// # Errors
/// When it is none.
pub fn duration(name: &str, typed: Option<&str>) -> Result<Option<Duration>, Problem> {
    let parse = |typed: &str| {
        let wrong = |why| wrong(format!("{name} = {typed:?}: {why}; it is written 250ms, 10s, 5m or 1h"));
        parse_duration(typed).map_err(wrong)
    };
    typed.map(parse).transpose()
}

/// What was typed cannot be taken.
pub fn wrong(what: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, what, "docs/openapi.json lists what may be asked for")
}

impl From<TraceRefused> for Problem {
    fn from(error: TraceRefused) -> Self {
        let hint = match error {
            TraceRefused::NoProbes | TraceRefused::NotSeen { .. } => "steth doctor says why",
            TraceRefused::TooMany { .. } => "end one of them, or wait until one ends",
        };
        Self::unavailable(error.to_string(), hint)
    }
}

/// The body of a trace: what the pipeline tells, as it comes.
struct Told(mpsc::Receiver<Vec<u8>>);

impl hyper::body::Body for Told {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece.into()))))
    }
}
