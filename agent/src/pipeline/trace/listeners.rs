//! Who listens, and what for. Lines are handed over in pieces; what a listener is too slow to take is counted.

use std::time::{Duration, Instant};

use steth_probes::watch::Watch;
use tokio::sync::{mpsc, oneshot};

use super::nanoseconds;
use crate::model::trace::{Of, TraceLine, TraceRefused, TraceRequest, Wanted};

/// Traces at a time.
pub(super) const MOST: usize = 8;
/// Lines are handed over in pieces of about this many bytes.
const PIECE_BYTES: usize = 256 << 10;

/// Who waits for a trace to begin.
pub type Answer = oneshot::Sender<Result<(), TraceRefused>>;

/// All who listen.
#[derive(Default)]
pub(super) struct Listeners(Vec<Listener>);

struct Listener {
    wanted: Wanted,
    until: Instant,
    lines: mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
    in_piece: u64,
    /// What the kernel had skipped when the trace began.
    skipped_before: u64,
    in_kernel: u64,
    in_agent: u64,
    said: (u64, u64),
}

impl Listeners {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn add(&mut self, request: TraceRequest, skipped: u64) -> Option<Answer> {
        let TraceRequest { wanted, length, lines, answer } = request;
        if self.0.len() >= MOST {
            let _ = answer.send(Err(TraceRefused::TooMany { most: MOST }));
            return None;
        }
        self.0.push(Listener {
            wanted,
            until: Instant::now() + length,
            lines,
            piece: Vec::new(),
            in_piece: 0,
            skipped_before: skipped,
            in_kernel: 0,
            in_agent: 0,
            said: (0, 0),
        });
        Some(answer)
    }

    /// Lets those go who have heard enough or hung up. True if there were any.
    pub fn part(&mut self) -> bool {
        let before = self.0.len();
        let now = Instant::now();
        self.0.retain_mut(|listener| {
            let stays = listener.until > now && !listener.lines.is_closed();
            if !stays {
                listener.end();
            }
            stays
        });
        self.0.len() != before
    }

    /// What the kernel is to tell so that everybody hears what they want, and profiles of requests that are so slow.
    pub fn watch(&self, base: Watch, sampled: Option<Duration>) -> Watch {
        let queries = || {
            self.wanted().filter_map(|wanted| if let Wanted::Queries(filter) = wanted { Some(filter) } else { None })
        };
        let calls = || self.wanted().filter_map(|wanted| if let Wanted::Calls(of) = wanted { Some(of) } else { None });
        let least = |durations: &mut dyn Iterator<Item = Duration>| durations.map(nanoseconds).min();
        let traced_ns = least(&mut queries().map(|filter| filter.min_duration).chain(sampled));
        let calls_ns = least(&mut calls().map(|of| of.min_duration));
        let all_of_service = sampled.is_none() && queries().all(|filter| filter.service.is_some());
        Watch {
            traced_ns: traced_ns.unwrap_or(base.traced_ns),
            pid: if sampled.is_some() { 0 } else { only(queries().map(|filter| filter.pid)) },
            by_service: (traced_ns.is_some() && all_of_service).into(),
            calls_ns: calls_ns.unwrap_or(base.calls_ns),
            calls_pid: only(calls().map(|Of { pid, .. }| *pid)),
            calls_by_service: (calls_ns.is_some() && calls().all(|of| of.service.is_some())).into(),
            tcp: self.wanted().any(|wanted| matches!(wanted, Wanted::Tcp(_))).into(),
            executions: self.wanted().any(|wanted| matches!(wanted, Wanted::Executions(_))).into(),
            ..base
        }
        .with_floor()
    }

    fn wanted(&self) -> impl Iterator<Item = &Wanted> {
        self.0.iter().map(|listener| &listener.wanted)
    }

    /// Whether somebody wants to hear of this service only.
    pub fn wants(&self, service: &str) -> bool {
        self.wanted().any(|wanted| wanted.service() == Some(service))
    }

    /// Tells those who want it.
    pub fn tell(&mut self, line: &TraceLine) {
        self.0.iter_mut().filter(|listener| listener.wanted.admits(line)).for_each(|listener| listener.tell(line));
    }

    /// Hands over what was told; `skipped` is what the kernel has skipped so far.
    pub fn hand_over(&mut self, skipped: u64) {
        for listener in &mut self.0 {
            listener.in_kernel = skipped.saturating_sub(listener.skipped_before);
            listener.say_skipped();
            listener.hand_over();
        }
    }
}

/// The process that all want to hear of, if it is the same; 0 for all.
fn only(mut pids: impl Iterator<Item = Option<u32>>) -> u32 {
    let first = pids.next().flatten();
    first.filter(|_| pids.all(|pid| pid == first)).unwrap_or_default()
}

impl Listener {
    fn tell(&mut self, line: &TraceLine) {
        self.write(line);
        self.in_piece += 1;
        if self.piece.len() >= PIECE_BYTES {
            self.hand_over();
        }
    }

    /// Says what was skipped, if that has changed.
    fn say_skipped(&mut self) {
        let now = (self.in_kernel, self.in_agent);
        if now != self.said {
            self.said = now;
            self.write(&TraceLine::Skipped { in_kernel: now.0, in_agent: now.1 });
        }
    }

    fn write(&mut self, line: &TraceLine) {
        let before = self.piece.len();
        match serde_json::to_writer(&mut self.piece, line) {
            Ok(()) => self.piece.push(b'\n'),
            // A line of plain strings and numbers: never so.
            Err(_) => self.piece.truncate(before),
        }
    }

    fn hand_over(&mut self) {
        if self.piece.is_empty() {
            return;
        }
        let (told, piece) = (std::mem::take(&mut self.in_piece), std::mem::take(&mut self.piece));
        // The last place is kept for what is said at the end.
        if self.lines.capacity() <= 1 || self.lines.try_send(piece).is_err() {
            self.in_agent += told;
            // What it said of skipped ones went with it.
            self.said = (u64::MAX, u64::MAX);
        }
    }

    /// Says at the end how many were skipped, also to who is slow.
    fn end(&mut self) {
        self.hand_over();
        self.write(&TraceLine::Skipped { in_kernel: self.in_kernel, in_agent: self.in_agent });
        // Who has hung up does not want to know.
        let _ = self.lines.try_send(std::mem::take(&mut self.piece));
    }
}
