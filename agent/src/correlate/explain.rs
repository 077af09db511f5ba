//! Why a service was slow: weighs what was found about it, about the host and about those it calls, and says the most likely
//! cause first. Knows findings and events, not how they are made.
//!
//! The order is by a weight from 0 to 1, of three things: what kind of cause it is (a resource of its own that is used up, or a
//! new build, explains more than a busy host), whether it began about when the symptom did, and whether the service shows that
//! it suffers from just that. Without a symptom the gravest finding about the service itself is the answer. What
//! is not known to touch the service is listed, and never called a cause.

use super::{
    change::{chance_allowed, windows_needed},
    dependency::{callees, callers},
    events::Events,
    history::History,
    ledger::Ledger,
    look::{Level, contenders, level, signal_of},
    signal::{SIGNALS, Task, signal},
    tested_count,
    words::{clock, figure},
};
use crate::model::{
    finding::{Cause, Event, EventKind, Explanation, Finding, FindingKind, LookedAt, NotExplained},
    sample::Period,
};

/// Windows before a symptom in which its cause may lie, and after it: causes are confirmed late, too.
const BEFORE: u32 = 30;
const AFTER: u32 = 3;
/// So many times what was usual is a sign that the service waits for what the host lacks.
const SIGN: f64 = 2.0;
/// How much a cause counts that lasted, but did not begin with the symptom.
const NOT_NEAR: f64 = 0.4;
/// How deep the calls are followed.
const DEPTH: usize = 3;
/// The least that a cause weighs.
const LEAST_WEIGHT: f64 = 0.2;
/// How alike a name is that is suggested.
const ALIKE: f64 = 0.6;

/// What says that somebody waits for a disk or a core, or uses one.
const WAITS: &[&str] =
    &["disk_wait", "postgres_disk_wait", "disk_sync", "disk_calls", "run_queue_wait", "postgres_run_queue_wait", "cpu"];
/// Symptoms of queries that wait.
const SLOW_QUERIES: &[&str] = &["postgres_active", "postgres_latency", "postgres_latency_p95"];

/// What may be the cause.
struct Candidate {
    weight: f64,
    cause: Cause,
    /// Of a sentence that begins with the symptom.
    says: String,
    finding: Option<u64>,
}

/// What is known of the period.
struct Scene<'a> {
    history: &'a History,
    findings: Vec<&'a Finding>,
    events: Vec<&'a Event>,
    window_ms: u64,
}

/// The answer.
pub fn explain(
    history: &History,
    ledger: &Ledger,
    events: &Events,
    service: Option<&str>,
    period: Period,
) -> Result<Explanation, NotExplained> {
    let (from, to) = (unix_ms(period.from), unix_ms(period.to));
    let windows = history.last().map_or(0, |last| {
        (history.oldest()..=last).filter(|window| (from..=to).contains(&history.ended_unix_ms(*window))).count()
    });
    let window_seconds = history.interval().as_secs_f64();
    let needed = windows_needed(chance_allowed(tested_count(history), window_seconds));
    let kept = history.last().map_or(0, |last| last + 1 - history.oldest()) as usize;
    if windows == 0 {
        return Err(NotExplained::NoWindow { windows: kept, window_seconds });
    }
    let about = |event: &&Event| service.is_none() || event.service.is_none() || event.service.as_deref() == service;
    let window_ms = u64::try_from(history.interval().as_millis()).unwrap_or(u64::MAX);
    let earliest = from.saturating_sub(window_ms * u64::from(BEFORE));
    let scene = Scene {
        history,
        findings: ledger.all().into_iter().filter(|finding| finding.lasted_in(from, to)).collect(),
        events: events.all().filter(|event| (earliest..=to).contains(&event.at_unix_ms)).collect(),
        window_ms,
    };
    let known = service.is_none_or(|name| history.services().any(|known| **known == *name));
    if let Some(name) = service.filter(|_| !known && !scene.findings.iter().any(|it| it.service.as_deref() == service))
    {
        let like = history.services().map(|known| (strsim::jaro_winkler(known, name), known));
        let like = like.filter(|(alike, _)| *alike >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0));
        return Err(NotExplained::NoService { name: name.into(), like: like.map(|(_, name)| name.to_string()) });
    }
    let tracks =
        service.map_or(0, |name| history.tracks_of(name).len()) + history.tracks_of(super::history::HOST).len();
    let series = if service.is_none() { history.tracks().count() } else { tracks };
    let looked_at = LookedAt { windows, window_seconds, series, windows_needed: needed };
    let mut dependencies = Vec::new();
    if let Some(name) = service {
        dependencies = callees(history, name);
        dependencies.extend(callers(history, name));
    }
    let (conclusion, cause, findings) = match service {
        Some(name) => scene.of_service(name),
        None => scene.of_host(),
    };
    let conclusion = conclusion.unwrap_or_else(|| nothing(service, from, to, &looked_at, kept));
    Ok(Explanation {
        service: service.map(str::to_owned),
        from_unix_ms: from,
        to_unix_ms: to,
        conclusion,
        cause,
        findings,
        events: scene.events.iter().copied().filter(about).cloned().collect(),
        dependencies,
        looked_at,
    })
}

fn nothing(service: Option<&str>, from: u64, to: u64, looked_at: &LookedAt, kept: usize) -> String {
    let LookedAt { windows, window_seconds, series, windows_needed } = looked_at;
    let whose = service.map_or_else(|| "on this host".to_owned(), |name| format!("about {name}"));
    let early = match kept < *windows_needed {
        true => format!(
            "; changes cannot be told from chance yet, {} of history are needed and there are {}",
            figure(*windows_needed as f64 * window_seconds, "s"),
            figure(kept as f64 * window_seconds, "s")
        ),
        false => String::new(),
    };
    format!(
        "nothing unusual was found {whose} between {} and {}: {series} series in {windows} windows of {} were looked at{early}",
        clock(from),
        clock(to),
        figure(*window_seconds, "s")
    )
}

type Answer = (Option<String>, Option<Cause>, Vec<Finding>);

impl<'a> Scene<'a> {
    fn of_host(&self) -> Answer {
        let grave = |finding: &&&Finding| match finding.kind {
            FindingKind::Saturation => finding.score,
            FindingKind::Leak => finding.score * 0.8,
            FindingKind::Change => finding.score * 0.6,
        };
        let mut findings: Vec<&Finding> = self.findings.clone();
        findings.sort_by(|a, b| grave(&b).total_cmp(&grave(&a)));
        let first = findings.first().map(|finding| (finding.conclusion.clone(), cause_of(finding)));
        let (conclusion, cause) = first.unzip();
        (conclusion, cause, findings.into_iter().cloned().collect())
    }

    fn of_service(&self, service: &str) -> Answer {
        let symptom = self.symptom(service);
        let candidates = self.candidates(service, symptom, DEPTH);
        let best = candidates.first();
        let conclusion = match (symptom, best) {
            (Some(symptom), Some(best)) if best.finding != Some(symptom.id) => {
                Some(format!("{}; {}", symptom.conclusion, best.says))
            }
            (Some(symptom), _) => Some(format!("{}; nothing was found that explains it", symptom.conclusion)),
            (None, Some(best)) => Some(best.says.clone()),
            (None, None) => None,
        };
        let cause = best.map(|best| best.cause.clone());
        let mut order: Vec<u64> = best.and_then(|best| best.finding).into_iter().collect();
        order.extend(symptom.map(|symptom| symptom.id));
        order.extend(candidates.iter().filter_map(|candidate| candidate.finding));
        let own = self.findings.iter().filter(|it| it.service.is_none() || it.service.as_deref() == Some(service));
        order.extend(own.map(|finding| finding.id));
        let mut findings: Vec<Finding> = Vec::new();
        for id in order {
            let found = self.findings.iter().find(|finding| finding.id == id);
            if let Some(found) = found.filter(|_| findings.iter().all(|known| known.id != id)) {
                findings.push((*found).clone());
            }
        }
        (conclusion, cause, findings)
    }

    fn own<'b>(&'b self, service: &'b str) -> impl Iterator<Item = &'a Finding> + 'b {
        self.findings.iter().copied().filter(move |finding| finding.service.as_deref() == Some(service))
    }

    /// The strongest sign that somebody waits longer.
    fn symptom(&self, service: &str) -> Option<&'a Finding> {
        let is_symptom = |it: &&'a Finding| {
            let task = SIGNALS.get(signal_place(it)?).map(|signal| signal.task)?;
            matches!(task, Task::Symptom | Task::CallersSymptom).then_some(())
        };
        let symptoms = self.own(service).filter(|it| it.kind == FindingKind::Change && is_symptom(it).is_some());
        symptoms.max_by(|a, b| a.score.total_cmp(&b.score))
    }

    /// From 0 to 1: whether something began about when the symptom did.
    fn near(&self, at_unix_ms: u64, symptom: Option<&Finding>) -> f64 {
        let Some(symptom) = symptom else { return 1.0 };
        let (since, window) = (symptom.since_unix_ms, self.window_ms);
        let first = since.saturating_sub(window * u64::from(BEFORE));
        if (first..=since + window * u64::from(AFTER)).contains(&at_unix_ms) { 1.0 } else { NOT_NEAR }
    }

    /// What may be the cause, the likeliest first.
    fn candidates(&self, service: &str, symptom: Option<&Finding>, depth: usize) -> Vec<Candidate> {
        let mut found = Vec::new();
        found.extend(self.own_findings(service, symptom));
        found.extend(self.host_findings(service, symptom));
        found.extend(self.near_events(service, symptom));
        found.extend(self.lock(service, symptom));
        found.extend(self.lock_waits(service, symptom));
        if depth > 1 {
            found.extend(self.called(service, symptom, depth));
        }
        found.retain(|candidate| candidate.weight >= LEAST_WEIGHT);
        found.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        found
    }

    fn own_findings(&self, service: &str, symptom: Option<&Finding>) -> Vec<Candidate> {
        let waits = is_of_waiting(symptom);
        let weigh = |finding: &Finding| {
            let near = self.near(finding.since_unix_ms, symptom);
            match (finding.kind, finding.about) {
                (FindingKind::Saturation, _) => 0.95 * near,
                (FindingKind::Leak, _) if symptom.is_none() => 0.9,
                (FindingKind::Leak, _) => 0.5 * near,
                // What says by itself what is waited for.
                (_, "postgres_lock_wait") => 0.9 * near,
                (_, "tcp_retransmits" | "tcp_connect_failed") => 0.85 * near,
                (_, about) if !waits && WAITS.contains(&about) => 0.25,
                (_, "disk_wait" | "postgres_disk_wait" | "disk_sync" | "disk_calls") => 0.6 * near,
                // Explains the waits for a core, and may be what callers make of other waits.
                (_, "tcp_accepts") => 0.58 * near,
                (_, "run_queue_wait" | "postgres_run_queue_wait") => 0.55 * near,
                // Who computes more waits more for a core, and not the other way round.
                (_, "cpu") => 0.57 * near,
                (_, "postgres_errors") => 0.35 * near,
                _ => 0.25,
            }
        };
        let candidate = |finding: &Finding| Candidate {
            weight: weigh(finding),
            cause: cause_of(finding),
            says: finding.conclusion.clone(),
            finding: Some(finding.id),
        };
        self.own(service).map(candidate).collect()
    }

    fn host_findings(&self, service: &str, symptom: Option<&Finding>) -> Vec<Candidate> {
        let waits = is_of_waiting(symptom);
        // A symptom of somebody else, who calls this service, says nothing of what this one suffers from.
        let has_symptom = symptom.is_some_and(|symptom| symptom.service.as_deref() == Some(service));
        let candidate = |finding: &'a Finding| {
            // Where a resource is short anyway, who took more of it when the symptom began is the cause.
            let late = finding.contenders.iter().find(|one| {
                let rose =
                    self.own(&one.service).find(|own| own.kind == FindingKind::Change && own.about == finding.about);
                symptom.is_some() && rose.is_some_and(|rose| self.near(rose.since_unix_ms, symptom) >= 1.0)
            });
            let sign = self.sign(service, finding, symptom);
            let suffers = sign.is_some();
            // Where the service is seen to wait for it, that is one question too, and need be no change.
            let late = late
                .map(|late| late.service.clone())
                .or_else(|| symptom.filter(|_| suffers).and_then(|symptom| self.took_more(finding, symptom)));
            let near = if late.is_some() { 1.0 } else { self.near(finding.since_unix_ms, symptom) };
            let is_own = finding.contenders.first().is_some_and(|first| first.service == service);
            let weight = match (has_symptom, suffers) {
                _ if !waits => 0.0,
                (true, true) => 0.93 * near,
                // Without a sign it may wait all the same, if somebody took more just then.
                (true, false) if late.is_some() => 0.55,
                // Else it is told, but below the symptom itself.
                (true, false) => 0.2 * near,
                // No symptom of its own, but a caller's, or none at all.
                (false, true) => 0.8 * near,
                // Whoever takes it is busy itself, which is what its callers wait for.
                (false, _) if is_own => 0.6 * near,
                // Not known to touch it.
                _ => 0.0,
            };
            let mut cause = cause_of(finding);
            if let Some(late) = late {
                cause.service = Some(late);
            }
            let says = match sign.filter(|_| symptom.is_none()) {
                Some(sign) => format!("{sign}; {}", finding.conclusion),
                None => finding.conclusion.clone(),
            };
            Candidate { weight, cause, says, finding: Some(finding.id) }
        };
        self.findings.iter().copied().filter(|finding| finding.service.is_none()).map(candidate).collect()
    }

    /// Who took more of what the host lacks when the symptom began than before.
    fn took_more(&self, finding: &Finding, symptom: &Finding) -> Option<String> {
        let taken = match finding.about {
            "cpu" => "cpu",
            "disk" => "disk_bytes",
            "memory" => "memory",
            _ => return None,
        };
        let since = self.window_at(symptom.since_unix_ms)?;
        Some(contenders(self.history, taken, "", since, self.history.last()?).into_iter().next()?.service)
    }

    /// What shows that a service waits for what the host lacks: while it lacks it, one of these figures is at least twice what it
    /// was before. Where the reason is known already, that is one question and no search among all series, so it need not leave
    /// chance as far behind as a change does.
    fn sign(&self, service: &str, finding: &Finding, symptom: Option<&Finding>) -> Option<String> {
        let signs: &[&str] = match finding.about {
            "cpu" => &["run_queue_wait", "postgres_run_queue_wait", "socket_pickup", "preempted"],
            "disk" => &["disk_wait", "postgres_disk_wait", "disk_sync", "disk_calls"],
            "memory" => &["major_faults"],
            _ => &[],
        };
        let until = finding.until_unix_ms.unwrap_or(u64::MAX);
        let ended = |window: &u64| self.history.ended_unix_ms(*window);
        // What was short long before the symptom hurts since then, if at all.
        let since_ms = finding.since_unix_ms.max(symptom.map_or(0, |symptom| symptom.since_unix_ms));
        let since = self.window_at(since_ms)?;
        let end = (self.history.oldest()..=self.history.last()?).rfind(|window| ended(window) <= until)?;
        signs.iter().flat_map(|name| self.history.parts(service, name)).find_map(|track| {
            let Level { now, usual, .. } = level(self.history, track, since, end)?;
            let (usual, signal) = (usual?, signal_of(track));
            let is_sign = now >= usual * SIGN && now - usual >= signal.least;
            let (now, usual) = (figure(now, signal.unit), figure(usual, signal.unit));
            is_sign.then(|| format!("{service}: {} {now}, usually {usual}", signal.said))
        })
    }

    fn near_events(&self, service: &str, symptom: Option<&Finding>) -> Vec<Candidate> {
        // An event alone is no answer to why something is slow.
        let Some(symptom) = symptom else { return Vec::new() };
        let candidate = |event: &&Event| {
            let own = event.service.as_deref() == Some(service);
            let kind = match event.kind {
                EventKind::NewBuild if own => 0.9,
                EventKind::Posted if own => 0.88,
                EventKind::Reload if own => 0.8,
                EventKind::Crash if own => 0.68,
                EventKind::Restart if own => 0.65,
                EventKind::OomKill if own => 0.75,
                // Whom it hit is not known.
                EventKind::OomKill if event.service.is_none() => 0.45,
                EventKind::Posted if event.service.is_none() => 0.6,
                _ => 0.0,
            };
            let near = self.near(event.at_unix_ms, Some(symptom));
            let name = match event.kind {
                EventKind::NewBuild => "new_build",
                EventKind::Restart => "restart",
                EventKind::Crash => "crash",
                EventKind::Reload => "reload",
                EventKind::OomKill => "oom_kill",
                EventKind::Posted => "posted",
                EventKind::Budget => "budget",
            };
            Candidate {
                // What was long before explains nothing that began later.
                weight: if near < 1.0 { 0.0 } else { kind },
                cause: Cause { kind: "event", about: name.into(), service: event.service.clone() },
                says: format!("shortly before, at {}: {}", clock(event.at_unix_ms), event.text),
                finding: None,
            }
        };
        self.events.iter().map(candidate).collect()
    }

    /// Queries that wait while a transaction is held open by a client that does nothing: it is not known that they wait for its
    /// locks, but that is where to look.
    fn lock(&self, service: &str, symptom: Option<&Finding>) -> Option<Candidate> {
        const LONG_SECONDS: f64 = 2.0;
        let symptom = symptom.filter(|it| SLOW_QUERIES.contains(&it.about))?;
        let computes_more = self.own(service).any(|finding| finding.about == "cpu");
        let last = self.history.last()?;
        let oldest = self.history.parts(service, "postgres_oldest_wait").find(|track| *track.part == *symptom.part)?;
        let longest = self.history.values(oldest, last.saturating_sub(u64::from(BEFORE)), last).map(|(_, value)| value);
        let longest = longest.fold(0.0, f64::max);
        (longest >= LONG_SECONDS && !computes_more).then(|| Candidate {
            weight: 0.86,
            cause: Cause { kind: "lock", about: "idle_in_transaction".into(), service: Some(service.to_owned()) },
            says: format!(
                "meanwhile a transaction has waited up to {} for its client and holds its locks: see /api/v1/postgres/connections",
                figure(longest, "s")
            ),
            finding: None,
        })
    }

    /// Queries of a server that wait for locks and have not ended, so that what they waited for is not told of them yet, but of the
    /// server's processes.
    fn lock_waits(&self, service: &str, symptom: Option<&Finding>) -> Option<Candidate> {
        let symptom = symptom.filter(|it| SLOW_QUERIES.contains(&it.about) && it.part == "server")?;
        let track = self.history.track(service, "wall_lock")?;
        let Level { now, usual, .. } =
            level(self.history, track, self.window_at(symptom.since_unix_ms)?, self.history.last()?)?;
        // Who never waited for a lock has no such series.
        let (usual, signal) = (usual.unwrap_or_default(), signal_of(track));
        (now >= usual * SIGN && now - usual >= signal.least).then(|| Candidate {
            weight: 0.84,
            cause: Cause { kind: "lock", about: "postgres_lock_wait".into(), service: Some(service.to_owned()) },
            says: format!(
                "meanwhile {} {}, usually {}: see /api/v1/postgres/connections",
                signal.said,
                figure(now, signal.unit),
                figure(usual, signal.unit)
            ),
            finding: None,
        })
    }

    /// The first window that ended then or later.
    fn window_at(&self, unix_ms: u64) -> Option<u64> {
        (self.history.oldest()..=self.history.last()?).find(|window| self.history.ended_unix_ms(*window) >= unix_ms)
    }

    /// Those it calls: their cause is its own, if they have one that began no later.
    fn called(&self, service: &str, symptom: Option<&Finding>, depth: usize) -> Vec<Candidate> {
        let Some(symptom) = symptom else { return Vec::new() };
        // On the same host there is no network between: an acknowledgement that is late came with its answer.
        let read = ["socket_read", "tcp_round_trip"];
        let waits = ["postgres_latency", "postgres_latency_p95", "tcp_connect", "postgres_active"];
        let share = if read.contains(&symptom.about) || waits.contains(&symptom.about) { 0.92 } else { 0.6 };
        let edges = callees(self.history, service);
        let mut found = Vec::new();
        for edge in edges.iter().filter(|edge| edge.is_local) {
            let own = self.symptom(&edge.callee);
            let near = own.map_or(1.0, |own| self.near(own.since_unix_ms, Some(symptom)));
            // What shows nothing of its own may have begun when the caller's waits did.
            let causes = self.candidates(&edge.callee, own.or(Some(symptom)), depth - 1);
            // What has its seat in the host, or in the caller, is counted there.
            let theirs = causes.into_iter().find(|it| it.cause.service.as_deref().is_some_and(|name| name != service));
            let Some(theirs) = theirs else { continue };
            found.push(Candidate {
                weight: share * near * (0.6 + 0.4 * theirs.weight),
                says: format!("it calls {}: {}", edge.callee, theirs.says),
                ..theirs
            });
        }
        // Nothing is known of the only one that it calls, but that it waits for it.
        if let [only] = edges.as_slice()
            && (symptom.about == "socket_read" || only.is_local && read.contains(&symptom.about))
        {
            found.push(Candidate {
                weight: 0.5,
                cause: Cause { kind: "dependency", about: "slow_answer".into(), service: Some(only.callee.clone()) },
                says: format!("it waits for {}, the only one that it calls, to answer", only.callee),
                finding: None,
            });
        }
        found
    }
}

/// Whether a symptom may come of waiting; errors and losses do not.
fn is_of_waiting(symptom: Option<&Finding>) -> bool {
    let errors = ["postgres_errors", "tcp_connect_failed", "tcp_retransmits", "tcp_listen_overflows"];
    !symptom.is_some_and(|symptom| errors.contains(&symptom.about))
}

fn signal_place(finding: &Finding) -> Option<usize> {
    SIGNALS.iter().any(|it| it.name == finding.about).then(|| signal(finding.about))
}

fn cause_of(finding: &Finding) -> Cause {
    // Of what the host lacks, whoever took it is to be looked at.
    let taker = || finding.contenders.first().map(|first| first.service.clone());
    Cause { kind: finding.kind.name(), about: finding.about.into(), service: finding.service.clone().or_else(taker) }
}

fn unix_ms(moment: std::time::SystemTime) -> u64 {
    let since = moment.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
