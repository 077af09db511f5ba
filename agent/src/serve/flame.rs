//! Profiles, on demand and of the past: `/api/v1/flame` and `/debug/pprof/profile`. Parameters in, a question to the pipeline, a
//! drawing out.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{Content, problem::Problem};
use crate::{
    config::{moment, value::parse_duration},
    model::{
        profile::{Drawing, Kind, Profile},
        query::{self, NoAnswer, Question},
        sample::{PastRequest, Period, ProfileRefused, ProfileRequest, Whose},
    },
};

/// How long a profile is unless asked otherwise.
const SECONDS: f64 = 10.0;
/// Samples in a second and CPU unless asked otherwise: not a multiple of what programs do by the clock.
const HERTZ: u32 = 99;
/// How long a system call takes unless asked otherwise.
const LONG_CALL: Duration = Duration::from_millis(10);
/// The longest that may be asked for.
const MOST_SECONDS: f64 = 600.0;
/// How long an answer to the longest may take: sampling, and then finding names.
pub const PATIENCE: Duration = Duration::from_secs(700);
/// What a reader of the profile must know, for formats that have no room for it; once for each note.
const NOTE: HeaderName = HeaderName::from_static(query::NOTE);

/// Parameters as they were typed. Several processes or services are parted by commas.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Typed {
    seconds: Option<f64>,
    pid: Option<String>,
    service: Option<String>,
    cgroup: Option<String>,
    format: Option<String>,
    kind: Option<String>,
    frequency: Option<u32>,
    query: Option<String>,
    slow: Option<String>,
    syscalls: Option<String>,
    icicle: bool,
    reversed: bool,
    from: Option<String>,
    to: Option<String>,
    against_from: Option<String>,
    against_to: Option<String>,
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
    let (profile, baseline) = match typed.period()? {
        Some((period, against)) => {
            let (answer, answered) = oneshot::channel();
            let services = list(typed.service.as_ref());
            content.desk.put(Question::Past(PastRequest { period, against, services, answer })).await?;
            let past = answered.await.map_err(|_| NoAnswer)??;
            (Arc::new(past.profile), past.against)
        }
        None => {
            let (answer, answered) = oneshot::channel();
            let request = typed.request(answer)?;
            content.desk.put(Question::Profile(request)).await?;
            (answered.await.map_err(|_| NoAnswer)??, None)
        }
    };
    let notes: Vec<HeaderValue> = notes(&profile, baseline.as_ref());
    let draw = Arc::clone(&content.draw);
    let compares = baseline.is_some();
    let drawn = tokio::task::spawn_blocking(move || draw(&profile, baseline.as_ref(), &drawing))
        .await
        .map_err(|error| Problem::internal(error.to_string()))?
        // The format is known, but not each can show a difference.
        .map_err(|error| if compares { wrong(error) } else { Problem::internal(error) })?;
    let mut response = ([(header::CONTENT_TYPE, drawn.media_type)], drawn.bytes).into_response();
    for note in notes {
        response.headers_mut().append(NOTE, note);
    }
    Ok(response)
}

fn notes(profile: &Profile, baseline: Option<&Profile>) -> Vec<HeaderValue> {
    let before =
        baseline.into_iter().flat_map(|it| &it.notes).map(|note| format!("compared with a profile that {note}"));
    let all = profile.notes.iter().cloned().chain(before);
    all.filter_map(|note| HeaderValue::from_bytes(note.as_bytes()).ok()).collect()
}

impl Typed {
    /// The time that a profile of the past is of, and that which it is compared with; `None` if it is to be taken now.
    fn period(&self) -> Result<Option<(Period, Option<Period>)>, Problem> {
        let read = |from: &Option<String>, to: &Option<String>, names: [&str; 2]| match (from, to) {
            (Some(from), to) => moment::period(from, to.as_deref())
                .map(Some)
                .map_err(|why| wrong(format!("{}: {why}", names.join(", ")))),
            (None, Some(_)) => Err(wrong(format!("{} is given without {}", names[1], names[0]))),
            (None, None) => Ok(None),
        };
        let period = read(&self.from, &self.to, ["from", "to"])?;
        let against = read(&self.against_from, &self.against_to, ["against_from", "against_to"])?;
        let Some(period) = period else {
            return against.map_or(Ok(None), |_| Err(wrong("against_from is given without from")));
        };
        let only_now = [
            ("seconds", self.seconds.is_some()),
            ("pid", self.pid.is_some()),
            ("cgroup", self.cgroup.is_some()),
            ("kind", self.kind.as_ref().is_some_and(|kind| kind != Kind::Cpu.name())),
            ("frequency", self.frequency.is_some()),
            ("query", self.query.is_some()),
            ("slow", self.slow.is_some()),
            ("syscalls", self.syscalls.is_some()),
        ];
        match only_now.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(wrong(format!(
                "{name} cannot be asked for together with from: what is kept of the past is CPU time by service"
            ))),
            None => Ok(Some((period, against))),
        }
    }

    fn request(
        &self,
        answer: oneshot::Sender<Result<Arc<Profile>, ProfileRefused>>,
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
        let cgroups = list(self.cgroup.as_ref());
        if let Some(path) = cgroups.iter().find(|path| !path.starts_with('/')) {
            return Err(wrong(format!("cgroup = {path:?}: a path as in /proc/PID/cgroup, beginning with /")));
        }
        let kind = match &self.kind {
            None if self.syscalls.is_some() => Kind::Syscalls,
            None => Kind::Cpu,
            Some(name) => Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
                wrong(format!("kind = {name:?}: allowed are {}", Kind::ALL.map(Kind::name).join(", ")))
            })?,
        };
        let duration = |name: &str, typed: &Option<String>| {
            let read = |typed: &String| {
                parse_duration(typed)
                    .map_err(|why| wrong(format!("{name} = {typed:?}: {why}; it is written 250ms or 2s")))
            };
            typed.as_ref().map(read).transpose()
        };
        let least_call = match (kind, duration("syscalls", &self.syscalls)?) {
            (Kind::Syscalls, given) => given.unwrap_or(LONG_CALL),
            (_, None) => Duration::ZERO,
            (_, Some(_)) => return Err(wrong(format!("syscalls is given together with kind = {}", kind.name()))),
        };
        Ok(ProfileRequest {
            whose: Whose { pids: pids?, services: list(self.service.as_ref()), cgroups },
            kind,
            length: Duration::from_secs_f64(seconds),
            hertz: self.frequency.unwrap_or(HERTZ),
            query: self.query.clone(),
            slow: duration("slow", &self.slow)?,
            least_call,
            enough: Arc::default(),
            begun: None,
            answer,
        })
    }
}

fn list(typed: Option<&String>) -> Vec<String> {
    typed.into_iter().flat_map(|list| list.split(',')).map(str::to_owned).collect()
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
            ProfileRefused::NoPast(_) => {
                (StatusCode::NOT_FOUND, "[profile] in the configuration says what is kept, and where")
            }
            ProfileRefused::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "wait until one of them ends"),
            ProfileRefused::Impossible(_) | ProfileRefused::Kernel(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "steth doctor says more")
            }
        };
        Self::new(status, error.to_string(), hint)
    }
}
