//! Settings: `/api/v1/settings`. What is set, and a change until the configuration is read again. For admins only.

use axum::{
    Extension,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};

use super::{Content, guard::Changing, posted, problem::Problem, routes::json};
use crate::model::{
    query::Question,
    settings::{SettingOrder, SettingQuestion, SettingRefused},
};

/// The most bytes of a change.
pub const MOST_BYTES: usize = 64 << 10;

const ORDER: &str =
    r#"a change is such as {"key": "probes.wall", "value": "false"}; docs/configuration.md lists the keys"#;

/// `/api/v1/settings`
pub async fn settings(State(content): State<Content>) -> Result<Response, Problem> {
    json(&content.desk.ask(|answer| Question::Settings(SettingQuestion::List(answer))).await?)
}

/// `POST /api/v1/settings`
pub async fn post(
    State(content): State<Content>,
    headers: HeaderMap,
    Extension(changing): Extension<Changing>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let order: SettingOrder = posted::read(&headers, body, "a change", ORDER)?;
    changing.tell(format!("{} = {}", order.key, order.value));
    let set = content.desk.ask(|answer| Question::Settings(SettingQuestion::Change(order, answer))).await??;
    json(&set)
}

impl From<SettingRefused> for Problem {
    fn from(refused: SettingRefused) -> Self {
        let (status, hint) = match refused {
            SettingRefused::Wrong(_) => (StatusCode::BAD_REQUEST, ORDER),
            SettingRefused::OnlyInFile(_) => {
                (StatusCode::CONFLICT, "change it in the configuration; docs/configuration.md says what it takes then")
            }
        };
        Self::new(status, refused.to_string(), hint)
    }
}
