//! Resources that have nothing left to give. Knows signals and limits, not the past of findings.

use super::{
    history::{HOST, History, Track},
    look::{contenders, evidence_of, level},
    words::{figure, listed},
};
use crate::model::finding::{Contender, Evidence};

/// How many windows in a row a resource is used up.
pub const SUSTAINED: u64 = 3;

/// A core that is as busy has nothing left.
const CORE_FULL: f64 = 0.95;
/// That somebody waits for it shows in this part of the time.
const WAITED: f64 = 0.25;
/// A disk that is as busy (a virtual one rests between its requests however many wait), and answers as much later than usual, or has as many requests under way.
const DISK_FULL: f64 = 0.8;
const DISK_SLOWER: f64 = 3.0;
const DISK_QUEUE: f64 = 4.0;
/// So little memory is left, or it is waited for so long.
const MEMORY_LEFT: f64 = 0.05;
const MEMORY_WAITED: f64 = 0.1;
/// Limits of numbers, and of an interface.
const FULL: f64 = 0.9;
/// Connections that a listener drops in a second.
const DROPPED: f64 = 1.0;

/// A resource that is used up.
#[derive(Debug)]
pub struct Saturated {
    /// Which resource.
    pub about: &'static str,
    /// Which of several.
    pub part: String,
    /// Whose, if not the host's.
    pub service: Option<String>,
    /// The first window of it.
    pub since: u64,
    /// What it is, without when and who.
    pub what: String,
    /// From 0 to 1.
    pub score: f64,
    /// Figures.
    pub evidence: Vec<Evidence>,
    /// Whose use rose.
    pub contenders: Vec<Contender>,
}

/// What is used up in the last windows.
pub fn saturated(history: &History) -> Vec<Saturated> {
    let Some(last) = history.last() else { return Vec::new() };
    let mut found = Vec::new();
    found.extend(cores(history, last));
    found.extend(disks(history, last));
    found.extend(memory(history, last));
    found.extend(interfaces(history, last));
    found.extend(host_files(history, last));
    for service in history.services() {
        found.extend(files(history, service, last));
        found.extend(connections(history, service, last));
        found.extend(accept_queue(history, service, last));
    }
    found
}

/// The first of the windows, up to the last, in which all values of a track were at least this; `None` if they were not for
/// long enough.
fn held(history: &History, track: &Track, last: u64, reached: impl Fn(f64) -> bool) -> Option<u64> {
    let run = history.values(track, 0, last).rev().take_while(|(_, value)| reached(*value));
    let (count, first) = run.fold((0, last), |(count, _), (window, _)| (count + 1, window));
    let fresh = history.value(track, last).is_some();
    (fresh && count >= SUSTAINED).then_some(first)
}

/// The mean of a track in the last windows; `None` if it is not measured.
fn lately(history: &History, track: &Track, last: u64) -> Option<f64> {
    let from = (last + 1).saturating_sub(SUSTAINED);
    let (sum, count) = history.values(track, from, last).fold((0.0, 0), |(sum, n), (_, value)| (sum + value, n + 1));
    (count > 0).then(|| sum / f64::from(count))
}

fn host_lately(history: &History, name: &str, part: &str, last: u64) -> Option<f64> {
    let track = history.parts(HOST, name).find(|track| part.is_empty() || *track.part == *part)?;
    lately(history, track, last)
}

fn cores(history: &History, last: u64) -> Vec<Saturated> {
    let all: Vec<&Track> = history.parts(HOST, "core_busy").collect();
    let full: Vec<(&Track, u64)> = all
        .iter()
        .filter_map(|track| Some((*track, held(history, track, last, |busy| busy >= CORE_FULL)?)))
        .filter(|(track, _)| {
            // Each core's own queue where the kernel tells it, else that of all; else only that none is free.
            let waited = host_lately(history, "core_waited_for", &track.part, last);
            let waited = waited.or_else(|| host_lately(history, "cpu_pressure", "", last));
            waited.is_some_and(|waited| waited >= WAITED)
        })
        .collect();
    let Some(since) = full.iter().map(|(_, since)| *since).max() else { return Vec::new() };
    let every = full.len() == all.len();
    let names: Vec<String> = full.iter().map(|(track, _)| track.part.to_string()).collect();
    let what = match (every, names.len()) {
        (true, count) => format!("all {count} cores are busy and tasks wait for them"),
        (false, 1) => format!("core {} is busy and tasks wait for it, while others are free", listed(&names)),
        (false, _) => format!("cores {} are busy and tasks wait for them, while others are free", listed(&names)),
    };
    let part = if every { String::new() } else { names.join(",") };
    let mut evidence: Vec<Evidence> = full
        .iter()
        .flat_map(|(track, _)| evidence_of(history, HOST, &["core_busy"], &track.part, since, last))
        .collect();
    evidence.extend(evidence_of(history, HOST, &["core_waited_for", "cpu_pressure"], "", since, last));
    evidence.extend(waiters(history, "run_queue_wait", since, last));
    let waited = host_lately(history, "cpu_pressure", "", last).unwrap_or(WAITED);
    let contenders = contenders(history, "cpu", "", since, last);
    vec![Saturated {
        about: "cpu",
        part,
        service: None,
        since,
        what,
        score: 0.5 + waited.min(1.0) / 2.0,
        evidence,
        contenders,
    }]
}

/// Services whose threads wait longer than usual.
fn waiters(history: &History, name: &str, since: u64, last: u64) -> Vec<Evidence> {
    let longer = contenders(history, name, "", since, last);
    longer.iter().flat_map(|one| evidence_of(history, &one.service, &[name], "", since, last)).collect()
}

fn disks(history: &History, last: u64) -> Vec<Saturated> {
    let disk = |track: &Track| {
        let since = held(history, track, last, |busy| busy >= DISK_FULL)?;
        let part = &*track.part;
        let latency = history.parts(HOST, "disk_latency").find(|track| *track.part == *part);
        let latency = latency.and_then(|track| level(history, track, since, last));
        let slower = latency.is_some_and(|it| it.usual.is_some_and(|usual| it.now >= usual * DISK_SLOWER));
        let queue = host_lately(history, "disk_queue", part, last).unwrap_or_default();
        let waited = host_lately(history, "io_pressure", "", last).unwrap_or_default();
        if !slower && queue < DISK_QUEUE && waited < WAITED {
            return None;
        }
        let took = latency.map(|it| format!(", a request takes {}", figure(it.now, "s"))).unwrap_or_default();
        let what = format!("disk {part} is busy all the time, {queue:.1} requests are under way{took}");
        let names = ["disk_busy", "disk_queue", "disk_latency", "io_pressure"];
        let mut evidence = evidence_of(history, HOST, &names, part, since, last);
        evidence.extend(waiters(history, "disk_wait", since, last));
        let contenders = contenders(history, "disk_bytes", "", since, last);
        let score = 0.5 + waited.min(1.0) / 2.0;
        Some(Saturated { about: "disk", part: part.into(), service: None, since, what, score, evidence, contenders })
    };
    history.parts(HOST, "disk_busy").filter_map(disk).collect()
}

fn memory(history: &History, last: u64) -> Option<Saturated> {
    let little = |name: &str, reached: &dyn Fn(f64) -> bool| held(history, history.track(HOST, name)?, last, reached);
    let left = little("memory_available", &|ratio| ratio <= MEMORY_LEFT);
    let since = left.or_else(|| little("memory_pressure", &|waited| waited >= MEMORY_WAITED))?;
    let available = host_lately(history, "memory_available", "", last).unwrap_or_default();
    let what = format!("{} of the memory is left and tasks wait for it", figure(available, "ratio"));
    let evidence = evidence_of(history, HOST, &["memory_available", "memory_pressure"], "", since, last);
    let contenders = contenders(history, "memory", "", since, last);
    let score = 1.0 - available.clamp(0.0, 0.5);
    Some(Saturated { about: "memory", part: String::new(), service: None, since, what, score, evidence, contenders })
}

fn interfaces(history: &History, last: u64) -> Vec<Saturated> {
    let interface = |track: &Track| {
        let part = &*track.part;
        let speed = host_lately(history, "network_speed", part, last).filter(|speed| *speed > 0.0)?;
        let since = held(history, track, last, |bytes| bytes >= speed * FULL)?;
        let moved = lately(history, track, last)?;
        let what = format!("interface {part} moves {} of {}", figure(moved, "B/s"), figure(speed, "B/s"));
        let evidence = evidence_of(history, HOST, &["network_busy", "network_speed"], part, since, last);
        let contenders = contenders(history, "tcp_bytes", "", since, last);
        Some(Saturated {
            about: "network",
            part: part.into(),
            service: None,
            since,
            what,
            score: 0.8,
            evidence,
            contenders,
        })
    };
    history.parts(HOST, "network_busy").filter_map(interface).collect()
}

fn host_files(history: &History, last: u64) -> Option<Saturated> {
    let track = history.track(HOST, "host_open_files")?;
    let since = held(history, track, last, |ratio| ratio >= FULL)?;
    let used = lately(history, track, last)?;
    let what = format!("{} of the open files that the host allows are in use", figure(used, "ratio"));
    let evidence = evidence_of(history, HOST, &["host_open_files"], "", since, last);
    let contenders = contenders(history, "open_files", "", since, last);
    Some(Saturated {
        about: "open_files",
        part: String::new(),
        service: None,
        since,
        what,
        score: used,
        evidence,
        contenders,
    })
}

fn files(history: &History, service: &str, last: u64) -> Option<Saturated> {
    let track = history.track(service, "open_files_ratio")?;
    let since = held(history, track, last, |ratio| ratio >= FULL)?;
    let used = lately(history, track, last)?;
    let what = format!("a process of {service} has used {} of the open files that it may have", figure(used, "ratio"));
    let evidence = evidence_of(history, service, &["open_files_ratio", "open_files"], "", since, last);
    Some(Saturated {
        about: "open_files",
        part: String::new(),
        service: Some(service.into()),
        since,
        what,
        score: used.min(1.0),
        evidence,
        contenders: Vec::new(),
    })
}

fn connections(history: &History, service: &str, last: u64) -> Option<Saturated> {
    let bound = |name: &str| lately(history, history.track(service, name)?, last).filter(|bound| *bound > 0.0);
    let at_end = |end: &str| history.parts(service, "postgres_connections").find(|track| *track.part == *end);
    let (end, most, limit, names) = match (bound("postgres_max_connections"), bound("postgres_pool_size")) {
        (Some(most), _) => ("server", most, most * FULL, ["postgres_connections", "postgres_max_connections"]),
        (None, Some(size)) => ("client", size, size, ["postgres_connections", "postgres_pool_size"]),
        (None, None) => return None,
    };
    let track = at_end(end)?;
    let since = held(history, track, last, |open| open >= limit)?;
    let open = lately(history, track, last)?;
    let what = match end {
        "server" => format!("{open:.0} of the {most:.0} connections that {service} allows are in use"),
        _ => format!("{open:.0} of the {most:.0} connections in the pool of {service} are in use"),
    };
    let evidence = evidence_of(history, service, &names, end, since, last);
    let contenders =
        if end == "server" { contenders(history, "postgres_connections", "client", since, last) } else { vec![] };
    let score = (open / most).min(1.0);
    let (part, service) = (end.to_owned(), Some(service.to_owned()));
    Some(Saturated { about: "connections", part, service, since, what, score, evidence, contenders })
}

fn accept_queue(history: &History, service: &str, last: u64) -> Option<Saturated> {
    let track = history.track(service, "tcp_listen_overflows")?;
    let since = held(history, track, last, |dropped| dropped >= DROPPED)?;
    let dropped = lately(history, track, last)?;
    let what = format!("the accept queue of {service} is full, {} connections are dropped", figure(dropped, "/s"));
    let evidence = evidence_of(history, service, &["tcp_listen_overflows", "tcp_accept_queue"], "", since, last);
    let service = Some(service.to_owned());
    Some(Saturated {
        about: "accept_queue",
        part: String::new(),
        service,
        since,
        what,
        score: 0.9,
        evidence,
        contenders: vec![],
    })
}
