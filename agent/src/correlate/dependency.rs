//! Who talks to whom, as their TCP connections show. Knows the history and addresses, not what is slow.

use std::net::{IpAddr, SocketAddr};

use super::{
    history::History,
    look::{level, signal_of},
};
use crate::model::finding::Dependency;

/// Windows at the end of the history in which somebody was called.
const LATELY: u64 = 30;

/// Whom a service calls, those with the most bytes first. Callers are known by their ports: a peer without one called.
pub fn callees(history: &History, service: &str) -> Vec<Dependency> {
    let Some(last) = history.last() else { return Vec::new() };
    let since = (last + 1).saturating_sub(LATELY);
    let mut found: Vec<Dependency> = Vec::new();
    for name in ["tcp_bytes", "tcp_connect"] {
        for track in history.parts(service, name) {
            let callee = &*track.part;
            let is_local = history.services().any(|name| **name == *callee);
            let is_called = is_local || callee.parse::<SocketAddr>().is_ok();
            let known = found.iter().any(|known| known.callee == callee);
            if !is_called || known || callee.parse::<IpAddr>().is_ok() || callee == service {
                continue;
            }
            let Some(level) = level(history, track, since, last) else { continue };
            let bytes_per_second = if signal_of(track).name == "tcp_bytes" { level.now } else { 0.0 };
            let (service, callee) = (service.to_owned(), callee.to_owned());
            found.push(Dependency { service, callee, is_local, bytes_per_second });
        }
    }
    found.sort_by(|a, b| b.bytes_per_second.total_cmp(&a.bytes_per_second).then_with(|| a.callee.cmp(&b.callee)));
    found
}

/// Which services of this host call a service.
pub fn callers(history: &History, service: &str) -> Vec<Dependency> {
    let others = history.services().filter(|name| ***name != *service);
    others.flat_map(|name| callees(history, name)).filter(|edge| edge.callee == service).collect()
}
