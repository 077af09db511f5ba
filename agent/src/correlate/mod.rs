//! From windows to findings: keeps the windows of the past, finds what is used up, what changed and what leaks, and answers why
//! a service was slow. Knows series by their catalog names; reads no file and asks nobody.

mod change;
mod dependency;
mod events;
mod explain;
mod history;
mod hours;
mod leak;
mod ledger;
mod look;
mod saturation;
mod signal;
mod table;
#[cfg(test)]
mod tests;
mod together;
mod words;

use std::{collections::HashMap, sync::Arc, time::Duration};

use self::{
    change::{Change, chance_allowed, change, held, is_over},
    events::Events,
    history::{HOST, History, Track},
    ledger::Ledger,
    look::{Level, evidence, signal_of},
    saturation::{SUSTAINED, Saturated, saturated},
    signal::{SIGNALS, Task},
    together::{Moved, moved, together},
    words::{clock, figure, listed, noted},
};
use crate::model::{
    alert::{Noted, Surroundings},
    catalog::steth as catalog,
    finding::{Contender, Event, Evidence, Explanation, Finding, FindingKind, NotExplained, PostedEvent},
    sample::Period,
    snapshot::{Series, Snapshot},
};

/// Leaks grow slowly: they are looked for once in so many windows.
const LEAK_EVERY: u64 = 6;
/// Most figures of other series that a change bears.
const MOST_TOGETHER: usize = 6;
/// Most findings that an alert bears.
const MOST_AROUND: usize = 3;
/// Most of its evidence.
const MOST_NOTED: usize = 3;

/// Keeps the past and finds what is unusual.
pub struct Correlator {
    history: History,
    ledger: Ledger,
    events: Events,
    /// By number of a finding that lasts: the window that it was last seen in, and below what a change is over.
    lasting: HashMap<u64, Lasting>,
    /// The window in which leaks are looked for next.
    leaks_due: u64,
}

struct Lasting {
    seen: u64,
    began: u64,
    over_below: f64,
}

impl Correlator {
    /// Keeps so many windows of this length.
    pub fn new(windows: usize, interval: Duration) -> Self {
        Self {
            history: History::new(windows, interval),
            ledger: Ledger::default(),
            events: Events::default(),
            lasting: HashMap::new(),
            leaks_due: 0,
        }
    }

    /// Takes in a window that ended with this snapshot, so long after the one before.
    pub fn observe(&mut self, snapshot: &Snapshot, elapsed: Duration) {
        self.history.push(snapshot, elapsed);
        self.events.look(&self.history);
        self.find_saturations();
        self.find_changes();
        if let Some(last) = self.history.last()
            && last >= self.leaks_due
        {
            self.leaks_due = last + LEAK_EVERY;
            self.find_leaks();
        }
        self.end_findings();
        self.note_hours();
    }

    /// Something happened that shows in no series.
    pub fn tell(&mut self, event: Event) {
        self.events.add(event);
    }

    /// Someone posts an event.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn post(&mut self, posted: PostedEvent, now_unix_ms: u64) -> Result<Event, NotExplained> {
        self.events.post(posted, now_unix_ms)
    }

    /// All findings that are kept.
    pub fn findings(&self) -> Vec<Finding> {
        self.ledger.all().into_iter().cloned().collect()
    }

    /// All events that are kept, the newest first.
    pub fn events(&self) -> Vec<Event> {
        let mut events: Vec<Event> = self.events.all().cloned().collect();
        events.sort_by_key(|event| std::cmp::Reverse(event.at_unix_ms));
        events
    }

    /// Why a service, or the host, was slow.
    ///
    /// # Errors
    /// If nobody has that name, or nothing is kept of that time.
    pub fn explain(&self, service: Option<&str>, period: Period) -> Result<Explanation, NotExplained> {
        explain::explain(&self.history, &self.ledger, &self.events, service, period)
    }

    /// What lies around an alert of a service, or of the host: what was found and lasts, and who calls it.
    pub fn surroundings(&self, service: Option<&str>) -> Surroundings {
        let lasting = self.ledger.all().into_iter().filter(|it| it.until_unix_ms.is_none());
        // Whose fault it is that the host lacks something is found at a service.
        let is_near = |finding: &&Finding| service.is_none() || finding.service.as_deref() == service;
        let mut near: Vec<&Finding> = lasting.filter(is_near).collect();
        near.sort_by_key(|finding| finding.service.is_some());
        let brief = |finding: &Finding| {
            let evidence = finding.evidence.iter().take(MOST_NOTED).map(noted).collect();
            Noted { id: finding.id, conclusion: finding.conclusion.clone(), evidence }
        };
        let findings = near.into_iter().take(MOST_AROUND).map(brief).collect();
        let callers = service.map(|service| dependency::callers(&self.history, service)).unwrap_or_default();
        Surroundings { findings, callers }
    }

    /// The correlator's own figures.
    pub fn series(&self) -> Vec<Series> {
        let made = self
            .ledger
            .made()
            .map(|(kind, made)| Series::number(&catalog::FINDINGS, vec![kind.name().into()], made as f64));
        let (kept, refused) = self.history.track_counts();
        let own = [
            Series::number(&catalog::HISTORY_SERIES, vec![], kept as f64),
            Series::number(&catalog::HISTORY_REFUSED, vec![], refused as f64),
        ];
        made.chain(own).collect()
    }

    fn note(&mut self, finding: Finding, began: u64, over_below: f64) {
        let Some(seen) = self.history.last() else { return };
        let id = self.ledger.note(finding);
        let lasting = self.lasting.entry(id).or_insert(Lasting { seen, began, over_below });
        lasting.seen = seen;
    }

    fn find_saturations(&mut self) {
        for one in saturated(&self.history) {
            let Saturated { about, part, service, since, what, score, evidence, contenders } = one;
            let since_unix_ms = self.history.ended_unix_ms(since);
            let who = if service.is_none() { blamed(&contenders) } else { String::new() };
            let conclusion = format!("{what}, since {}{who}", clock(since_unix_ms));
            let kind = FindingKind::Saturation;
            let until_unix_ms = None;
            let finding = Finding {
                id: 0,
                kind,
                about,
                part,
                service,
                since_unix_ms,
                until_unix_ms,
                conclusion,
                score,
                evidence,
                contenders,
            };
            self.note(finding, since, 0.0);
        }
    }

    fn find_leaks(&mut self) {
        let services: Vec<Arc<str>> = self.history.services().cloned().collect();
        for service in services {
            for found in leak::leaks(&self.history, &service) {
                let since_unix_ms = self.history.ended_unix_ms(found.since);
                let finding = Finding {
                    id: 0,
                    kind: FindingKind::Leak,
                    about: found.about,
                    part: String::new(),
                    service: Some(service.to_string()),
                    since_unix_ms,
                    until_unix_ms: None,
                    conclusion: format!("{}, without a break since {}", found.what, clock(since_unix_ms)),
                    score: found.score,
                    evidence: found.evidence,
                    contenders: Vec::new(),
                };
                self.note(finding, found.since, 0.0);
            }
        }
    }

    fn find_changes(&mut self) {
        let tested = || self.history.tracks().filter(|(service, track)| self.is_tested(service, track));
        let chance = self.chance_allowed();
        let found: Vec<(Arc<str>, usize, Arc<str>, Change)> = tested()
            .filter_map(|(service, track)| {
                let change = change(&self.history, track, chance)?;
                Some((Arc::clone(service), track.signal, Arc::clone(&track.part), change))
            })
            .collect();
        if found.is_empty() {
            return;
        }
        let moved = moved(&self.history);
        for (service, signal, part, change) in found {
            let tracks = self.history.tracks_of(&service);
            let Some(track) = tracks.iter().find(|track| track.signal == signal && track.part == part) else {
                continue;
            };
            let finding = self.changed(&service, track, change, &moved);
            if self.ledger.lasting(&ledger::Key::of(&finding)).is_none() {
                self.note(finding, change.since, change.over_below);
            }
        }
    }

    fn changed(&self, service: &str, track: &Track, change: Change, moved: &[Moved]) -> Finding {
        let signal = signal_of(track);
        let Change { now, usual, since, .. } = change;
        let since_unix_ms = self.history.ended_unix_ms(since);
        let whose = if service == HOST { "the host" } else { service };
        let conclusion = format!(
            "{whose}: {} {}, usually {}, since {}",
            signal.said,
            figure(now, signal.unit),
            figure(usual, signal.unit),
            clock(since_unix_ms)
        );
        let mut figures = vec![evidence(service, track, Level { now, usual: Some(usual), spread: 0.0 })];
        for other in together(&self.history, (service, track), moved).into_iter().take(MOST_TOGETHER) {
            let mut more: Evidence = evidence(other.service, other.track, other.level);
            let when = match other.lead {
                0 => "at the same time".to_owned(),
                lead if lead > 0 => format!("{} earlier", figure(lead as f64 * self.window_seconds(), "s")),
                lag => format!("{} later", figure(-lag as f64 * self.window_seconds(), "s")),
            };
            more.name = format!("{} [moved with it, {when}, rank correlation {:.2}]", more.name, other.correlation);
            figures.push(more);
        }
        Finding {
            id: 0,
            kind: FindingKind::Change,
            about: signal.name,
            part: track.part.to_string(),
            service: (service != HOST).then(|| service.to_owned()),
            since_unix_ms,
            until_unix_ms: None,
            conclusion,
            // Twice the usual is a half, ten times nine tenths.
            score: 1.0 - (usual + signal.least) / (now + signal.least),
            evidence: figures,
            contenders: Vec::new(),
        }
    }

    fn is_tested(&self, service: &str, track: &Track) -> bool {
        match signal_of(track).task {
            Task::Symptom | Task::Use => true,
            // Who is called waits for callers, and that is no symptom.
            Task::CallersSymptom => {
                let last = self.history.last().unwrap_or_default();
                let listening = self.history.track(service, "tcp_listening");
                let listens =
                    listening.and_then(|track| self.history.value(track, last)).is_some_and(|count| count > 0.0);
                !listens && !dependency::callees(&self.history, service).is_empty()
            }
            Task::Evidence => false,
        }
    }

    fn window_seconds(&self) -> f64 {
        self.history.interval().as_secs_f64()
    }

    fn chance_allowed(&self) -> f64 {
        chance_allowed(tested_count(&self.history), self.window_seconds())
    }

    fn end_findings(&mut self) {
        let Some(last) = self.history.last() else { return };
        let (history, lasting) = (&self.history, &self.lasting);
        let most = history.capacity() as u64 / 2;
        self.ledger.end(history.ended_unix_ms(last), |finding| {
            let Some(known) = lasting.get(&finding.id) else { return true };
            match finding.kind {
                FindingKind::Saturation => last - known.seen >= SUSTAINED,
                FindingKind::Leak => last - known.seen > 2 * LEAK_EVERY,
                FindingKind::Change => {
                    let service = finding.service.as_deref().unwrap_or(HOST);
                    let track = history.parts(service, finding.about).find(|track| *track.part == *finding.part);
                    // What has lasted so long is the new usual.
                    is_over(history, track, known.over_below) || last - known.began > most
                }
            }
        });
        let lasting: Vec<u64> =
            self.ledger.all().iter().filter(|it| it.until_unix_ms.is_none()).map(|it| it.id).collect();
        self.lasting.retain(|id, _| lasting.contains(id));
    }

    fn note_hours(&mut self) {
        let Some(last) = self.history.last() else { return };
        let at_unix_ms = self.history.ended_unix_ms(last);
        let held: Vec<Option<f64>> = self
            .history
            .tracks()
            .map(|(_, track)| track.hours.is_some().then(|| held(&self.history, track)).flatten())
            .collect();
        for ((_, track), held) in self.history.tracks_mut().zip(held) {
            if let Some((hours, held)) = track.hours.as_mut().zip(held) {
                hours.note(at_unix_ms, held);
            }
        }
    }
}

/// How many series are tested for changes.
fn tested_count(history: &History) -> usize {
    history
        .tracks()
        .filter(|(_, track)| SIGNALS.get(track.signal).is_some_and(|signal| signal.task != Task::Evidence))
        .count()
}

/// Who uses more of a resource, as the end of a sentence.
fn blamed(contenders: &[Contender]) -> String {
    let one = |it: &Contender| {
        format!("{} ({}, usually {})", it.service, figure(it.value, it.unit), figure(it.usual, it.unit))
    };
    let all: Vec<String> = contenders.iter().map(one).collect();
    match all.is_empty() {
        true => "; nobody's use rose with it".into(),
        false => format!("; the use of {} rose with it", listed(&all)),
    }
}
