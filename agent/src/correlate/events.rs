//! Events: moments that may explain what follows. Some show in the history, others are told. Knows no findings.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::history::{HOST, History};
use crate::model::finding::{Event, EventKind, MOST_EVENT_BYTES, NotExplained, PostedEvent};

/// The most events that are kept; the oldest give way.
pub const MOST_EVENTS: usize = 512;
/// How far in the future a posted event may lie: clocks of hosts differ.
const FUTURE_MS: u64 = 60_000;

/// The events.
#[derive(Debug, Default)]
pub struct Events {
    kept: VecDeque<Event>,
    started: BTreeMap<Arc<str>, f64>,
}

impl Events {
    /// Adds one.
    pub fn add(&mut self, event: Event) {
        if self.kept.len() >= MOST_EVENTS {
            self.kept.pop_front();
        }
        self.kept.push_back(event);
    }

    /// Adds one that someone posts, if it can be one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn post(&mut self, posted: PostedEvent, now_unix_ms: u64) -> Result<Event, NotExplained> {
        let wrong = |why: String| Err(NotExplained::BadEvent(why));
        let PostedEvent { service, text, at_unix_ms } = posted;
        for (name, value) in [("text", Some(&text)), ("service", service.as_ref())] {
            match value {
                Some(value) if value.trim().is_empty() => return wrong(format!("{name} is empty")),
                Some(value) if value.len() > MOST_EVENT_BYTES => {
                    return wrong(format!("{name} has {} bytes, at most {MOST_EVENT_BYTES} are allowed", value.len()));
                }
                Some(value) if value.chars().any(char::is_control) => {
                    return wrong(format!("{name} has a control character"));
                }
                _ => {}
            }
        }
        let at_unix_ms = at_unix_ms.unwrap_or(now_unix_ms);
        if at_unix_ms > now_unix_ms + FUTURE_MS {
            return wrong(format!("at_unix_ms = {at_unix_ms} lies in the future, it is {now_unix_ms} now"));
        }
        let event = Event { kind: EventKind::Posted, at_unix_ms, service, text };
        self.add(event.clone());
        Ok(event)
    }

    /// Finds what shows in the last window: services that were started again, processes that the kernel killed.
    pub fn look(&mut self, history: &History) {
        let Some(last) = history.last() else { return };
        let at_unix_ms = history.ended_unix_ms(last);
        let value = |service: &str, name: &str| history.value(history.track(service, name)?, last);
        let mut restarted = Vec::new();
        for service in history.services() {
            // Without a process there is no start.
            let Some(began) = value(service, "started").filter(|began| *began > 0.0) else { continue };
            // Later than the window before ended: none of its processes of then is left.
            let ended = last.checked_sub(1).map(|one| history.ended_unix_ms(one)).filter(|ended| *ended > 0);
            let replaced = ended.is_some_and(|ended| began * 1_000.0 >= ended as f64);
            if let Some(before) = self.started.insert(Arc::clone(service), began)
                && began > before
                && replaced
            {
                restarted.push(Arc::clone(service));
            }
        }
        self.started.retain(|service, _| !history.tracks_of(service).is_empty());
        for service in restarted {
            let text = "all its processes were replaced".to_owned();
            self.add(Event { kind: EventKind::Restart, at_unix_ms, service: Some(service.to_string()), text });
        }
        let killed = value(HOST, "oom_kills").unwrap_or_default() * history.interval().as_secs_f64();
        // Whom, is told at their end, as a rule.
        let since = last.checked_sub(2).map_or(0, |one| history.ended_unix_ms(one));
        let is_named = |event: &Event| event.kind == EventKind::OomKill && event.service.is_some();
        let told = self.kept.iter().any(|event| is_named(event) && event.at_unix_ms >= since);
        if killed >= 0.5 && !told {
            let text = format!("the kernel killed {killed:.0} processes for lack of memory");
            self.add(Event { kind: EventKind::OomKill, at_unix_ms, service: None, text });
        }
    }

    /// All, the oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.kept.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posted(service: Option<&str>, text: &str, at_unix_ms: Option<u64>) -> PostedEvent {
        PostedEvent { service: service.map(str::to_owned), text: text.into(), at_unix_ms }
    }

    #[test]
    fn an_event_is_taken_as_it_is_or_refused_with_a_reason() {
        let mut events = Events::default();
        let event = events.post(posted(Some("shop.service"), "deploy 1.2", None), 5_000).unwrap();
        assert_eq!((event.at_unix_ms, event.kind), (5_000, EventKind::Posted));
        let long = "x".repeat(MOST_EVENT_BYTES + 1);
        for (event, why) in [
            (posted(None, " ", None), "text is empty"),
            (posted(Some(""), "x", None), "service is empty"),
            (posted(None, &long, None), "text has 513 bytes"),
            (posted(None, "a\u{1b}[2Jb", None), "text has a control character"),
            (posted(None, "x", Some(1_000_000)), "lies in the future"),
        ] {
            let error = events.post(event, 5_000).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(events.all().count(), 1);
    }

    #[test]
    fn the_oldest_events_give_way() {
        let mut events = Events::default();
        for number in 0..2 * MOST_EVENTS as u64 {
            events.post(posted(None, "x", Some(number)), 1_000_000).unwrap();
        }
        assert_eq!((events.all().count(), events.all().next().unwrap().at_unix_ms), (MOST_EVENTS, MOST_EVENTS as u64));
    }
}
