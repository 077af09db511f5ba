//! JSON that somebody posts: what it may come as. Knows nothing of what it holds.

use axum::{
    body::Bytes,
    extract::rejection::BytesRejection,
    http::{HeaderMap, StatusCode, header},
};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// What was posted. `what` it is and an `example` of it stand in refusals.
pub fn read<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    what: &str,
    example: &str,
) -> Result<T, Problem> {
    // A page in somebody's browser can send anything but this without being asked whether it may.
    let is_json = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = is_json.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        let hint = "send it with the header content-type: application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("{what} is posted as JSON"), hint));
    }
    let body = body.map_err(|error| Problem::new(error.status(), error.body_text(), example))?;
    serde_json::from_slice(&body).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string(), example))
}
