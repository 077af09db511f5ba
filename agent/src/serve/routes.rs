//! What is served at which path. Does not know about connections.

use std::{io::Write, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use flate2::{Compression, write::GzEncoder};
use serde::Serialize;
use tokio::task::JoinSet;

use super::{Content, problem::Problem};
use crate::model::{
    probe::ProbeStatus,
    snapshot::{ServiceInfo, Snapshot},
};

/// Every path, as the OpenAPI file has it.
pub const PATHS: &[&str] =
    &["/metrics", "/api/metrics", "/-/healthy", "/-/ready", "/api/v1/probes", "/api/v1/services"];

/// Level 1 makes expositions a tenth of their size; higher levels cost several times the time for little.
const GZIP_LEVEL: u32 = 1;
/// Smaller bodies fit a packet or two anyway.
const MIN_GZIP_BYTES: usize = 1024;

/// All paths, each request bounded in time and unable to harm the agent.
pub fn router(content: Content, timeout: Duration) -> Router {
    PATHS
        .iter()
        .fold(Router::new(), |router, path| router.route(path, route(path)))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(content)
        .layer(middleware::from_fn(move |request: Request, next: Next| contain(request, next, timeout)))
}

fn route(path: &str) -> MethodRouter<Content> {
    match path {
        "/metrics" | "/api/metrics" => get(metrics),
        "/-/healthy" => get(async || "steth is healthy.\n"),
        "/-/ready" => get(ready),
        "/api/v1/probes" => get(probes),
        "/api/v1/services" => get(services),
        // A test asks for each of PATHS and would find this one missing.
        _ => MethodRouter::new(),
    }
}

async fn metrics(State(content): State<Content>, headers: HeaderMap) -> Result<Response, Problem> {
    let snapshot = fresh(&content).await?;
    let text = (content.exposition)(&snapshot)
        .map_err(|error| Problem::internal(format!("the exposition could not be written: {error}")))?;
    let mut response = if text.len() >= MIN_GZIP_BYTES && accepts_gzip(&headers) {
        ([(header::CONTENT_ENCODING, "gzip")], gzip(&text)?).into_response()
    } else {
        text.into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content.exposition_type));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    Ok(response)
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
    }
    let snapshot = fresh(&content).await?;
    json(&Answer { at_unix_ms: snapshot.at_unix_ms, probes: &snapshot.probes })
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
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, error, "use GET or HEAD")
}

/// Runs a request in a task of its own, so that a panic ends the request and not the agent, and ends it in time.
async fn contain(request: Request, next: Next, timeout: Duration) -> Response {
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

fn json(answer: &impl Serialize) -> Result<Response, Problem> {
    let body = serde_json::to_vec(answer).map_err(|error| Problem::internal(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// RFC 9110, section 12.5.3: `gzip` or `*` with a weight above zero; what names gzip beats `*`.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut any = false;
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    for one in values.flat_map(|value| value.split(',')) {
        let (coding, weight) = one.split_once(';').unwrap_or((one, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        let wanted = weight.is_ok_and(|weight| weight > 0.0);
        match coding.trim() {
            coding if coding.eq_ignore_ascii_case("gzip") => return wanted,
            "*" => any = wanted,
            _ => {}
        }
    }
    any
}

fn gzip(text: &[u8]) -> Result<Vec<u8>, Problem> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::new(GZIP_LEVEL));
    encoder
        .write_all(text)
        .and_then(|()| encoder.finish())
        .map_err(|error| Problem::internal(format!("the exposition could not be compressed: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_only_to_those_who_take_it() {
        let cases = [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip;q=0, *", false),
            ("*;q=0", false),
            ("gzip;q=x", false),
            ("identity", false),
            ("", false),
            (",;,;q=;", false),
        ];
        for (value, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(accepts_gzip(&headers), expected, "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    /// `cargo test --release -p steth --lib -- --ignored --nocapture gzip_cost`
    #[test]
    #[ignore = "a measurement, not a promise"]
    fn gzip_cost_of_two_megabytes() {
        let line = |i: u64| {
            let (service, count) = (i / 15, i.wrapping_mul(2_654_435_761) % 100_000);
            format!(
                "steth_syscall_duration_seconds_bucket{{service=\"service-{service}.service\",syscall=\"read\",le=\"0.000001024\"}} {count}\n"
            )
        };
        let text: Vec<u8> = (0..20_000).flat_map(|i| line(i).into_bytes()).collect();
        let mut times: Vec<_> = (0..21)
            .map(|_| {
                let start = std::time::Instant::now();
                let bytes = gzip(&text).unwrap().len();
                (start.elapsed(), bytes)
            })
            .collect();
        times.sort();
        println!("{} bytes to {}: median {:?}", text.len(), times[10].1, times[10].0);
    }
}
