//! What happens, one thing at a time, on its way to people: slow and failed Postgres cycles are kept, all others, system calls,
//! TCP events and executions are told while someone listens. Not how they are read from the kernel.

mod listeners;

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    time::Duration,
};

use listeners::{Answer, Listeners};
use steth_probes::watch::Watch;

use super::{clock::unix_ns, news::Untold, workers::Workers};
use crate::{
    aggregate::Names,
    config::Config,
    model::{
        event::{PeerSeen, QuerySeen, RepeatSeen, Traced, WorkerSeen},
        query::{Filter, QueryRecord, Repeats, Selection, SlowQueries, WorkerRecord, role_name},
        trace::{TraceLine, TraceRequest},
        wall::Seconds,
    },
};

/// Repetitions that are kept.
const MOST_REPEATS: usize = 200;

/// Who listens, and what is kept.
pub struct Told {
    listeners: Listeners,
    /// From here on cycles are told for a profile of slow requests.
    sampled: Option<Duration>,
    kept: VecDeque<Kept>,
    workers: Workers,
    untold: u64,
    repeats: VecDeque<RepeatSeen>,
    threshold: usize,
    most_kept: usize,
    slow: Duration,
    /// Peers that have no name yet, by their addresses.
    addresses: HashMap<u32, String>,
}

/// A cycle that is kept, and the parallel workers that it had.
struct Kept {
    seen: QuerySeen,
    workers: Vec<WorkerSeen>,
}

/// What the kernel is to tell while nobody traces.
pub fn watch(config: &Config) -> Watch {
    let rate = u64::try_from(config.postgres.slow_rate).unwrap_or(u64::MAX).max(1);
    Watch {
        slow_ns: nanoseconds(config.postgres.slow_query),
        traced_ns: u64::MAX,
        calls_ns: u64::MAX,
        interval_ns: 1_000_000_000 / rate,
        burst_ns: 1_000_000_000,
        gap_ns: nanoseconds(config.postgres.n_plus_one_gap),
        repeats: u32::try_from(config.postgres.n_plus_one).unwrap_or(u32::MAX),
        ..Watch::zeroed()
    }
    .with_floor()
}

fn nanoseconds(duration: Duration) -> u64 {
    // `u64::MAX` means that nobody traces.
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX - 1)
}

impl Told {
    /// Nothing is kept yet and nobody listens.
    pub fn new(config: &Config) -> Self {
        let mut told = Self {
            listeners: Listeners::default(),
            sampled: None,
            kept: VecDeque::new(),
            workers: Workers::default(),
            untold: 0,
            repeats: VecDeque::new(),
            threshold: 0,
            most_kept: 0,
            slow: Duration::ZERO,
            addresses: HashMap::new(),
        };
        told.reload(config);
        told
    }

    /// Takes over what may change.
    pub fn reload(&mut self, config: &Config) {
        (self.slow, self.most_kept) = (config.postgres.slow_query, config.postgres.kept_queries);
        self.kept.truncate(self.most_kept);
        self.threshold = config.postgres.n_plus_one;
    }

    /// Keeps a repetition; what is told of it later takes its place.
    pub fn keep_repeat(&mut self, seen: RepeatSeen) {
        let key = |seen: &RepeatSeen| (seen.connection, seen.begun_ns, seen.statement);
        match self.repeats.iter_mut().find(|known| key(known) == key(&seen)) {
            Some(known) => *known = seen,
            None => {
                self.repeats.push_front(seen);
                self.repeats.truncate(MOST_REPEATS);
            }
        }
    }

    /// The kept repetitions of a selection, the newest first.
    pub fn repeats(&self, names: &Names, selection: &Selection) -> Repeats {
        let unix_ns = unix_ns();
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        let named = self.repeats.iter().map(|seen| names.repeat(seen, self.peer(names, seen.peer), unix_ns));
        let admitted = named.filter(|repeat| {
            is(&selection.service, &repeat.service)
                && is(&selection.database, &repeat.database)
                && selection.role.is_none_or(|role| role_name(role) == repeat.role)
        });
        let threshold = u64::try_from(self.threshold).unwrap_or(u64::MAX);
        Repeats { at_unix_ms: 0, threshold, repeats: admitted.take(selection.limit).collect() }
    }

    /// Keeps a slow or failed cycle; the oldest gives way.
    pub fn keep(&mut self, seen: QuerySeen) {
        self.kept.push_front(Kept { workers: self.workers.of(&seen), seen });
        self.kept.truncate(self.most_kept);
        self.untold += 1;
    }

    /// A parallel worker has ended: told before the cycle that it worked for.
    pub fn worker_ended(&mut self, worker: WorkerSeen) {
        self.workers.ended(worker);
    }

    /// Those that were kept since, and how many of them have given way already.
    pub fn untold(&mut self, names: &Names) -> Untold {
        let (unix_ns, fresh) = (unix_ns(), std::mem::take(&mut self.untold));
        let seen = self.kept.iter().take(usize::try_from(fresh).unwrap_or(usize::MAX)).rev();
        let named = |kept: &Kept| owned(self.named(names, kept, unix_ns));
        let queries: Vec<_> = seen.map(named).collect();
        let there = queries.len() as u64;
        (queries, fresh - there)
    }

    /// The kept cycles that pass the filter, the newest first.
    pub fn slow(&self, names: &Names, filter: &Filter, limit: usize, suppressed: u64) -> SlowQueries {
        let unix_ns = unix_ns();
        let named = self.kept.iter().map(|kept| self.named(names, kept, unix_ns));
        SlowQueries {
            at_unix_ms: 0,
            slow_seconds: self.slow.as_secs_f64(),
            suppressed,
            queries: named.filter(|query| filter.admits(query)).take(limit).map(owned).collect(),
        }
    }

    /// The kept slow cycles, the newest first.
    pub fn kept(&self) -> impl Iterator<Item = &QuerySeen> {
        self.kept.iter().map(|kept| &kept.seen).filter(|seen| seen.slow)
    }

    fn named<'a>(&'a self, names: &'a Names, kept: &Kept, unix_ns: u64) -> QueryRecord<'a> {
        names.record(&kept.seen, &kept.workers, self.peer(names, kept.seen.peer), unix_ns)
    }

    /// Whether anybody listens.
    pub fn is_heard(&self) -> bool {
        !self.listeners.is_empty() || self.sampled.is_some()
    }

    /// Has the kernel tell of cycles that take at least this long, for a profile of slow requests. True if that is new.
    pub fn sample(&mut self, slow: Option<Duration>) -> bool {
        let changed = self.sampled != slow;
        self.sampled = slow;
        changed
    }

    /// Someone wants to listen. `skipped` is what the kernel has skipped so far. Returns who is to be answered once the kernel
    /// tells what they want.
    #[must_use]
    pub fn listen(&mut self, request: TraceRequest, skipped: u64) -> Option<Answer> {
        self.listeners.add(request, skipped)
    }

    /// Lets those go who have heard enough or hung up. True if there were any.
    pub fn part(&mut self) -> bool {
        self.listeners.part()
    }

    /// What the kernel is to tell so that everybody hears what they want.
    pub fn watch(&self, base: Watch) -> Watch {
        self.listeners.watch(base, self.sampled)
    }

    /// Whether somebody wants to hear of this service only.
    pub fn wants(&self, service: &str) -> bool {
        self.listeners.wants(service)
    }

    /// Services and peers of all that is kept.
    pub fn ends(&self) -> impl Iterator<Item = (u32, u32)> {
        let kept = self.kept.iter().map(|kept| (kept.seen.service, kept.seen.peer));
        kept.chain(self.repeats.iter().map(|seen| (seen.service, seen.peer)))
    }

    /// Whether cycles of this peer can be named.
    pub fn knows_peer(&self, names: &Names, peer: u32) -> bool {
        peer == 0 || names.peer_name(peer).is_some() || self.addresses.contains_key(&peer)
    }

    /// Takes over the addresses of peers.
    pub fn learn_peers(&mut self, peers: &[PeerSeen]) {
        self.addresses.extend(peers.iter().map(|peer| (peer.number, peer.shown())));
    }

    /// Tells everybody of these; `skipped` is what the kernel has skipped so far.
    pub fn tell(&mut self, names: &Names, traced: &[Traced], skipped: u64) {
        let unix_ns = unix_ns();
        let mut listeners = std::mem::take(&mut self.listeners);
        for one in traced {
            listeners.tell(&match one {
                Traced::Query(seen) => {
                    let workers = self.workers.of(seen);
                    TraceLine::Query(Box::new(names.record(seen, &workers, self.peer(names, seen.peer), unix_ns)))
                }
                Traced::Call(seen) => TraceLine::Call(names.call(seen, unix_ns)),
                Traced::Tcp(seen) => TraceLine::Tcp(names.tcp(seen, self.peer(names, seen.peer), unix_ns)),
                Traced::Execution(seen) => TraceLine::Exec(names.execution(seen, unix_ns)),
            });
        }
        listeners.hand_over(skipped);
        self.listeners = listeners;
    }

    /// Lets everybody go.
    pub fn end(&mut self) {
        self.listeners = Listeners::default();
    }

    fn peer<'a>(&'a self, names: &'a Names, peer: u32) -> &'a str {
        if peer == 0 {
            return "";
        }
        names.peer_name(peer).or_else(|| self.addresses.get(&peer).map(String::as_str)).unwrap_or_default()
    }
}

fn owned(query: QueryRecord) -> QueryRecord<'static> {
    let QueryRecord {
        begun_unix_us, duration_seconds, first_byte_seconds, port, pid, tid, statements, rows, slow, ..
    } = query;
    let own = |text: Cow<str>| Cow::Owned(text.into_owned());
    let wall = |wall: Seconds| wall.into_iter().map(|(state, seconds)| (own(state), seconds)).collect();
    let worker = |worker: WorkerRecord| WorkerRecord {
        pid: worker.pid,
        duration_seconds: worker.duration_seconds,
        wall: wall(worker.wall),
        wait_event: worker.wait_event.map(own),
        wait_event_seconds: worker.wait_event_seconds,
    };
    QueryRecord {
        id: own(query.id),
        begun_unix_us,
        duration_seconds,
        first_byte_seconds,
        service: own(query.service),
        role: own(query.role),
        peer: own(query.peer),
        port,
        family: own(query.family),
        database: own(query.database),
        user: own(query.user),
        pid,
        tid,
        connection: own(query.connection),
        statements,
        rows,
        outcome: own(query.outcome),
        sqlstate: query.sqlstate.map(own),
        transaction: own(query.transaction),
        slow,
        wall: query.wall.map(wall),
        wait_event: query.wait_event.map(own),
        wait_event_seconds: query.wait_event_seconds,
        workers: query.workers.into_iter().map(worker).collect(),
        flame: own(query.flame),
        operation: own(query.operation),
        query: own(query.query),
        summary: own(query.summary),
        statement: own(query.statement),
    }
}

#[cfg(test)]
mod tests;
