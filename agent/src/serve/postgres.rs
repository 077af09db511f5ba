//! What is served below `/api/v1/postgres`: parameters in, questions to the pipeline, answers out. Knows neither figures nor
//! where they come from.

use std::time::Duration;

use axum::{
    Extension,
    extract::{Query, State, rejection::QueryRejection},
    response::Response,
};
use serde::Deserialize;

use super::{
    Content,
    guard::Asker,
    problem::Problem,
    routes::json,
    trace::{self, wrong},
};
use crate::model::{
    query::{Filter, NoAnswer, Question, Selection, Sort, role_named},
    trace::Wanted,
};

/// Statements and cycles that are shown unless more are asked for.
const LIMIT: usize = 20;
/// The most that may be asked for.
const MAX_LIMIT: usize = 1_000;

/// Parameters as they were typed. What none of the paths knows is refused, or a misspelt filter would admit everything.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Typed {
    id: Option<String>,
    pid: Option<u32>,
    service: Option<String>,
    role: Option<String>,
    database: Option<String>,
    user: Option<String>,
    min_duration: Option<String>,
    errors: Option<bool>,
    statement: Option<String>,
    window: Option<String>,
    sort: Option<String>,
    limit: Option<usize>,
    duration: Option<String>,
}

type Parameters = Result<Query<Typed>, QueryRejection>;

/// `/api/v1/postgres/queries`
pub async fn queries(
    State(content): State<Content>,
    Extension(asker): Extension<Asker>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let typed = typed(parameters)?;
    let selection = typed.selection()?;
    let mut found = content.desk.ask(|answer| Question::Statements(selection, answer)).await?;
    if !asker.sees_statements() {
        found.queries.iter_mut().for_each(|figures| figures.statement.clear());
    }
    json(&found)
}

/// `/api/v1/postgres/slow`
pub async fn slow(State(content): State<Content>, parameters: Parameters) -> Result<Response, Problem> {
    let typed = typed(parameters)?;
    let (filter, limit) = (typed.filter()?, typed.limit());
    json(&content.desk.ask(|answer| Question::Slow(filter, limit, answer)).await?)
}

/// `/api/v1/postgres/n_plus_one`
pub async fn n_plus_one(
    State(content): State<Content>,
    Extension(asker): Extension<Asker>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let typed = typed(parameters)?;
    let selection = typed.selection()?;
    let mut found = content.desk.ask(|answer| Question::Repeats(selection, answer)).await?;
    if !asker.sees_statements() {
        found.repeats.iter_mut().for_each(|repeat| repeat.statement.clear());
    }
    json(&found)
}

/// `/api/v1/postgres/connections`
pub async fn connections(State(content): State<Content>, parameters: Parameters) -> Result<Response, Problem> {
    let typed = typed(parameters)?;
    let selection = typed.selection()?;
    json(&content.desk.ask(|answer| Question::Connections(selection, answer)).await?)
}

/// `/api/v1/postgres/trace`: one JSON object a line, as it happens, until the duration is over or the client hangs up.
pub async fn trace(State(content): State<Content>, parameters: Parameters) -> Result<Response, Problem> {
    let typed = typed(parameters)?;
    let length = typed.duration("duration", typed.duration.as_deref())?;
    trace::begin(&content, Wanted::Queries(typed.filter()?), length).await
}

fn typed(parameters: Parameters) -> Result<Typed, Problem> {
    let Query(typed) = parameters.map_err(|rejection| wrong(rejection.body_text()))?;
    Ok(typed)
}

impl Typed {
    fn filter(&self) -> Result<Filter, Problem> {
        Ok(Filter {
            id: self.id.clone(),
            pid: self.pid,
            service: self.service.clone(),
            database: self.database.clone(),
            user: self.user.clone(),
            min_duration: self.duration("min_duration", self.min_duration.as_deref())?.unwrap_or_default(),
            errors: self.errors.unwrap_or_default(),
            role: self.role()?,
            statement: self.statement.clone(),
        })
    }

    fn selection(&self) -> Result<Selection, Problem> {
        let sort = match &self.sort {
            None => Sort::default(),
            Some(name) => {
                let known = Sort::ALL.iter().find(|(known, _)| known == name);
                let names: Vec<_> = Sort::ALL.iter().map(|(name, _)| *name).collect();
                known.ok_or_else(|| wrong(format!("sort = {name:?}: allowed are {}", names.join(", "))))?.1
            }
        };
        Ok(Selection {
            service: self.service.clone(),
            role: self.role()?,
            database: self.database.clone(),
            window: self.duration("window", self.window.as_deref())?,
            sort,
            limit: self.limit(),
        })
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT).min(MAX_LIMIT)
    }

    fn role(&self) -> Result<Option<steth_probes::cell::Role>, Problem> {
        let named = |name: &String| {
            role_named(name).ok_or_else(|| wrong(format!("role = {name:?}: allowed are client and server")))
        };
        self.role.as_ref().map(named).transpose()
    }

    fn duration(&self, name: &str, typed: Option<&str>) -> Result<Option<Duration>, Problem> {
        trace::duration(name, typed)
    }
}

impl From<NoAnswer> for Problem {
    fn from(error: NoAnswer) -> Self {
        Self::unavailable(error.to_string(), "the agent is stopping, or about to start again")
    }
}
