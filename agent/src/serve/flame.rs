//! Profiles, on demand and of the past: `/api/v1/flame` and `/debug/pprof/profile`. Parameters in, a question to the pipeline, a
//! drawing out.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Bytes,
    extract::{
        Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{Content, posted, problem::Problem, routes::json};
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
/// How long a Postgres request takes unless asked otherwise.
const LONG_REQUEST: Duration = Duration::from_millis(100);
/// The longest that may be asked for.
const MOST_SECONDS: f64 = 600.0;
/// How long an answer to the longest may take: sampling, and then finding names.
pub const PATIENCE: Duration = Duration::from_secs(700);
/// The most bytes of an order to end one.
pub const MOST_BYTES: usize = 4 << 10;
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
    queries: Option<String>,
    ticket: Option<String>,
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

/// `POST /api/v1/flame`: a profile that is being taken ends now, with what there is.
pub async fn end(
    State(content): State<Content>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    const ORDER: &str = r#"an order is {"end": "TICKET"}, with the ticket that the profile was asked for with"#;
    let Order { end } = posted::read(&headers, body, "an order", ORDER)?;
    if !content.tickets.end(&end) {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no profile is being taken with this ticket", ORDER));
    }
    json(&Ended { ended: true })
}

/// What is posted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    end: String,
}

#[derive(Debug, Serialize)]
struct Ended {
    ended: bool,
}

/// Profiles that can be ended early, by the tickets that those chose who asked for them.
#[derive(Clone, Debug, Default)]
pub struct Tickets(Arc<Mutex<HashMap<String, Weak<AtomicBool>>>>);

impl Tickets {
    /// What ends the profile of a ticket. Those of profiles that are over are forgotten.
    fn give(&self, ticket: Option<&str>) -> Arc<AtomicBool> {
        let enough = Arc::new(AtomicBool::new(false));
        if let Some(ticket) = ticket {
            let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            tickets.retain(|_, enough| enough.strong_count() > 0);
            tickets.insert(ticket.to_owned(), Arc::downgrade(&enough));
        }
        enough
    }

    /// Ends a profile; false if there is none of this ticket.
    fn end(&self, ticket: &str) -> bool {
        let tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = tickets.get(ticket).and_then(Weak::upgrade);
        found.is_some_and(|enough| {
            enough.store(true, Ordering::Relaxed);
            true
        })
    }
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
            let enough = content.tickets.give(typed.ticket.as_deref());
            let request = typed.request(enough, answer)?;
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
            ("queries", self.queries.is_some()),
            ("ticket", self.ticket.is_some()),
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
        enough: Arc<AtomicBool>,
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
            None if self.queries.is_some() => Kind::Queries,
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
        let mut least = Duration::ZERO;
        for (name, typed, of, usual) in [
            ("syscalls", &self.syscalls, Kind::Syscalls, LONG_CALL),
            ("queries", &self.queries, Kind::Queries, LONG_REQUEST),
        ] {
            match duration(name, typed)? {
                given if kind == of => least = given.unwrap_or(usual),
                None => {}
                Some(_) => return Err(wrong(format!("{name} is given together with kind = {}", kind.name()))),
            }
        }
        Ok(ProfileRequest {
            whose: Whose { pids: pids?, services: list(self.service.as_ref()), cgroups },
            kind,
            length: Duration::from_secs_f64(seconds),
            hertz: self.frequency.unwrap_or(HERTZ),
            query: self.query.clone(),
            slow: duration("slow", &self.slow)?,
            least,
            enough,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_ends_its_own_profile_as_long_as_that_is_taken() {
        let tickets = Tickets::default();
        let (one, other, none) = (tickets.give(Some("one")), tickets.give(Some("other")), tickets.give(None));
        assert!(tickets.end("one") && !tickets.end("third"));
        assert_eq!([&one, &other, &none].map(|it| it.load(Ordering::Relaxed)), [true, false, false]);
        drop(other);
        assert!(!tickets.end("other"), "it is over");
        let _another = tickets.give(Some("another"));
        assert_eq!(tickets.0.lock().unwrap().len(), 2, "what is over is forgotten");
    }
}
