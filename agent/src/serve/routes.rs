//! What is served at which path. Does not know about connections.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use serde::Serialize;
use tokio::task::JoinSet;

use super::{Content, Guard, accept, alerts, findings, flame, postgres, problem::Problem, settings, trace};
use crate::model::{
    budget::{Budget, FeatureStatus},
    probe::ProbeStatus,
    snapshot::{ServiceInfo, Snapshot},
};

/// Every path, as the OpenAPI file has it.
pub const PATHS: &[&str] = &[
    "/metrics",
    "/api/metrics",
    "/-/healthy",
    "/-/ready",
    "/api/v1/probes",
    "/api/v1/services",
    "/api/v1/flame",
    "/debug/pprof/profile",
    "/api/v1/explain",
    "/api/v1/findings",
    "/api/v1/events",
    "/api/v1/alerts",
    "/api/v1/settings",
    "/api/v1/postgres/queries",
    "/api/v1/postgres/slow",
    "/api/v1/postgres/n_plus_one",
    "/api/v1/postgres/connections",
    "/api/v1/postgres/trace",
    "/api/v1/trace/syscalls",
    "/api/v1/trace/tcp",
    "/api/v1/trace/exec",
];

/// All paths, each request bounded in time and unable to harm the agent.
pub fn router(content: Content, timeout: Duration, guard: Arc<Guard>) -> Router {
    PATHS
        .iter()
        .fold(Router::new(), |router, path| router.route(path, route(path)))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(content)
        .layer(middleware::from_fn(move |request: Request, next: Next| contain(request, next, timeout)))
        .layer(middleware::from_fn(move |request: Request, next: Next| {
            let guard = Arc::clone(&guard);
            async move { guard.answer(request, next).await }
        }))
}

fn route(path: &str) -> MethodRouter<Content> {
    match path {
        "/metrics" | "/api/metrics" => get(metrics),
        "/-/healthy" => get(async || "steth is healthy.\n"),
        "/-/ready" => get(ready),
        "/api/v1/probes" => get(probes),
        "/api/v1/services" => get(services),
        "/api/v1/flame" => get(flame::flame).post(flame::end).layer(DefaultBodyLimit::max(flame::MOST_BYTES)),
        "/debug/pprof/profile" => get(flame::pprof),
        "/api/v1/explain" => get(findings::explain),
        "/api/v1/findings" => get(findings::findings),
        "/api/v1/events" => {
            get(findings::events).post(findings::post).layer(DefaultBodyLimit::max(findings::MOST_BYTES))
        }
        "/api/v1/alerts" => get(alerts::alerts).post(alerts::post).layer(DefaultBodyLimit::max(alerts::MOST_BYTES)),
        "/api/v1/settings" => {
            get(settings::settings).post(settings::post).layer(DefaultBodyLimit::max(settings::MOST_BYTES))
        }
        "/api/v1/postgres/queries" => get(postgres::queries),
        "/api/v1/postgres/slow" => get(postgres::slow),
        "/api/v1/postgres/n_plus_one" => get(postgres::n_plus_one),
        "/api/v1/postgres/connections" => get(postgres::connections),
        "/api/v1/postgres/trace" => get(postgres::trace),
        "/api/v1/trace/syscalls" => get(trace::syscalls),
        "/api/v1/trace/tcp" => get(trace::tcp),
        "/api/v1/trace/exec" => get(trace::exec),
        // A test asks for each of PATHS and would find this one missing.
        _ => MethodRouter::new(),
    }
}

async fn metrics(State(content): State<Content>, headers: HeaderMap) -> Result<Response, Problem> {
    let snapshot = fresh(&content).await?;
    let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let offered: Vec<&str> = content.expositions.iter().map(|exposition| exposition.media_type).collect();
    let exposition = content.expositions.get(accept::best(&accept.join(","), &offered));
    let exposition = exposition.ok_or_else(|| Problem::internal("there is no exposition"))?;
    // Not compressed, though Prometheus offers to take gzip: on loopback, where most scrapes come from, a megabyte costs less to
    // send than to compress (11 ms for the two that 3,000 series can be, more than all the rest of a scrape).
    let headers = [(header::CONTENT_TYPE, exposition.media_type), (header::VARY, "accept")];
    Ok((headers, (exposition.render)(&snapshot)).into_response())
}

async fn ready(State(content): State<Content>) -> Result<&'static str, Problem> {
    match content.snapshots.latest() {
        Some(_) => Ok("steth is ready.\n"),
        None => {
            Err(Problem::unavailable("steth is not ready: its first window has not ended", "ask again in a second"))
        }
    }
}

async fn probes(State(content): State<Content>) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Answer<'a> {
        at_unix_ms: u64,
        probes: &'a [ProbeStatus],
        features: &'a [FeatureStatus],
        budget: &'a Budget,
    }
    let snapshot = fresh(&content).await?;
    let Snapshot { at_unix_ms, probes, features, budget, .. } = &*snapshot;
    json(&Answer { at_unix_ms: *at_unix_ms, probes, features, budget })
}

async fn services(State(content): State<Content>) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Answer<'a> {
        at_unix_ms: u64,
        services: &'a [ServiceInfo],
    }
    let snapshot = fresh(&content).await?;
    json(&Answer { at_unix_ms: snapshot.at_unix_ms, services: &snapshot.services })
}

async fn no_such_path(uri: Uri) -> Problem {
    let hint = format!("there are {}", PATHS.join(", "));
    Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()), hint)
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let error = format!("{} cannot be asked with {method}", uri.path());
    let takes_posts = ["/api/v1/events", "/api/v1/alerts", "/api/v1/flame", "/api/v1/settings"].contains(&uri.path());
    let hint = if takes_posts { "use GET, HEAD or POST" } else { "use GET or HEAD" };
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, error, hint)
}

/// Runs a request in a task of its own, so that a panic ends the request and not the agent, and ends it in time.
async fn contain(request: Request, next: Next, timeout: Duration) -> Response {
    // Not to end one: a body that comes slowly would hold a connection for as long.
    let takes_profile = ["/api/v1/flame", "/debug/pprof/profile"].contains(&request.uri().path())
        && matches!(*request.method(), Method::GET | Method::HEAD);
    let timeout = if takes_profile { flame::PATIENCE } else { timeout };
    let mut work = JoinSet::new();
    work.spawn(next.run(request));
    match tokio::time::timeout(timeout, work.join_next()).await {
        Ok(Some(Ok(response))) => response,
        Ok(failed) => {
            let error = failed.and_then(Result::err).map(|error| error.to_string()).unwrap_or_default();
            tracing::error!(error, "a request failed inside the agent; please report this");
            Problem::internal("the request failed inside the agent").into_response()
        }
        Err(_) => Problem::unavailable(
            format!("no answer within {} ms", timeout.as_millis()),
            "the host may be overloaded; `steth doctor` and the agent's log say more",
        )
        .into_response(),
    }
}

async fn fresh(content: &Content) -> Result<Arc<Snapshot>, Problem> {
    let no_snapshot =
        |error| Problem::unavailable(format!("{error}"), "the agent is stopping, or about to start again");
    content.snapshots.fresh().await.map_err(no_snapshot)
}

pub(super) fn json(answer: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(answer).map_err(|error| Problem::internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}
