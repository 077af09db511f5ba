//! Signals that may explain what follows: those that end a process which was not asked to end, and those that ask one to read its
//! configuration again. Does not know how they are seen.

use std::collections::BTreeMap;

use super::clock::unix_ms;
use crate::model::{
    event::SignalSeen,
    finding::{Event, EventKind},
};

/// Events that wait to be taken; what is beyond is not told, and counted.
const MOST_WAITING: usize = 256;

/// What was met since it was asked for last. A server and all its processes get a signal together: they are one event.
#[derive(Debug, Default)]
pub struct Signals {
    waiting: BTreeMap<(Option<String>, u32, EventKind), Met>,
    lost: u64,
}

#[derive(Debug)]
struct Met {
    at_unix_ms: u64,
    pid: u32,
    count: u32,
}

impl Signals {
    /// A process of a service, if that is known, ended by a signal or got one.
    pub fn met(&mut self, seen: SignalSeen, service: Option<&str>) {
        let kind = match (seen.ended, seen.out_of_memory) {
            (false, _) => EventKind::Reload,
            (true, false) => EventKind::Crash,
            (true, true) => EventKind::OomKill,
        };
        let key = (service.map(str::to_owned), seen.signal, kind);
        if let Some(met) = self.waiting.get_mut(&key) {
            met.count += 1;
        } else if self.waiting.len() < MOST_WAITING {
            self.waiting.insert(key, Met { at_unix_ms: unix_ms(), pid: seen.pid, count: 1 });
        } else {
            self.lost += 1;
        }
    }

    /// Signals that there was no room for.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// What was met since this was asked last.
    pub fn told(&mut self) -> Vec<Event> {
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let event = |((service, signal, kind), met): ((Option<String>, u32, EventKind), Met)| {
            let (Met { at_unix_ms, pid, count }, name) = (met, name(signal));
            let whose = service.as_deref().map(|service| format!(" of {service}")).unwrap_or_default();
            let who = match count {
                1 => format!("process {pid}{whose}"),
                _ => format!("{count} processes{whose}, {pid} first,"),
            };
            let text = match kind {
                EventKind::Reload => format!("{who} got {name}, at which a service reads its configuration again"),
                EventKind::OomKill => format!("{who} ended by {name}: the kernel had no memory left for it"),
                _ => format!("{who} ended by {name}"),
            };
            Event { kind, at_unix_ms, service, text }
        };
        waiting.map(event).collect()
    }
}

/// The name of a signal on x86-64.
fn name(signal: u32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return format!("signal {signal}"),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_service_that_get_a_signal_together_are_one_event() {
        let mut signals = Signals::default();
        let seen = |pid, signal, ended| SignalSeen { pid, service: 1, signal, ended, out_of_memory: false };
        for pid in [7, 8, 9] {
            signals.met(seen(pid, 1, false), Some("shop.service"));
        }
        signals.met(seen(7, 11, true), Some("shop.service"));
        signals.met(seen(5, 9, true), None);
        signals.met(SignalSeen { out_of_memory: true, ..seen(6, 9, true) }, Some("shop.service"));
        let told = signals.told();
        let texts: Vec<_> = told.iter().map(|event| (event.kind, event.text.as_str())).collect();
        assert_eq!(
            texts,
            [
                (EventKind::Crash, "process 5 ended by SIGKILL"),
                (
                    EventKind::Reload,
                    "3 processes of shop.service, 7 first, got SIGHUP, at which a service reads its configuration again"
                ),
                (
                    EventKind::OomKill,
                    "process 6 of shop.service ended by SIGKILL: the kernel had no memory left for it"
                ),
                (EventKind::Crash, "process 7 of shop.service ended by SIGSEGV"),
            ]
        );
        assert_eq!(signals.told(), []);
    }

    #[test]
    fn what_there_is_no_room_for_is_not_kept() {
        let mut signals = Signals::default();
        for number in 0..2 * MOST_WAITING {
            let seen = SignalSeen { pid: 1, service: 1, signal: 9, ended: true, out_of_memory: false };
            signals.met(seen, Some(&format!("{number:05}")));
        }
        assert_eq!((signals.told().len(), signals.lost()), (MOST_WAITING, MOST_WAITING as u64));
    }
}
