//! Slow requests as an agent tells of them, and what their time must have been spent with.

use std::time::Duration;

use serde_json::Value;

use crate::{agent::Agent, wait};

const SOON: Duration = Duration::from_secs(30);

/// The slow requests of a backend whose statement has this in its text, once there are so many.
pub fn slow(agent: &Agent, backend: u32, text: &str, count: usize) -> Vec<Value> {
    slow_of(agent, &format!("pid={backend}"), text, count)
}

/// As [`slow`]; `whose` is a filter, such as `database=shop`.
pub fn slow_of(agent: &Agent, whose: &str, text: &str, count: usize) -> Vec<Value> {
    let path = format!("/api/v1/postgres/slow?role=server&limit=1000&{whose}&statement={text}");
    let told = || {
        let found = agent.get_json(&path)?["queries"].as_array().cloned().unwrap_or_default();
        Ok((found.len() >= count).then_some(found))
    };
    wait::poll(&format!("{count} slow requests with {text}"), SOON, told).unwrap()
}

/// What a request, or a worker, spent in a state.
pub fn seconds(query: &Value, state: &str) -> f64 {
    query["wall"][state].as_f64().unwrap_or_default()
}

/// That of nearly all requests most time is in one state, and that of each one all states are its duration.
pub fn assert_top(queries: &[Value], expected: &str) {
    let mut named = 0;
    for query in queries {
        let wall = query["wall"].as_object().unwrap_or_else(|| panic!("no split: {query}"));
        let duration = query["duration_seconds"].as_f64().unwrap();
        let sum: f64 = wall.values().filter_map(Value::as_f64).sum();
        assert!((sum / duration - 1.0).abs() < 0.01, "{sum} of {duration}: {query}");
        let top = wall.iter().max_by(|a, b| a.1.as_f64().unwrap().total_cmp(&b.1.as_f64().unwrap()));
        named += usize::from(top.is_some_and(|(state, _)| state == expected));
    }
    assert!(named * 100 >= queries.len() * 95, "{expected} in {named} of {}: {queries:#?}", queries.len());
}

/// That nearly all requests waited longest with one of these events.
pub fn assert_event(queries: &[Value], expected: &[&str]) {
    let is_so = |query: &&Value| query["wait_event"].as_str().is_some_and(|event| expected.contains(&event));
    let named = queries.iter().filter(is_so).count();
    assert!(named * 100 >= queries.len() * 95, "{expected:?} in {named} of {}: {queries:#?}", queries.len());
}
