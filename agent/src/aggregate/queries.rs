//! Postgres statements and single cycles as people ask for them: which took the time, since the start or within the last
//! windows. Knows no metric.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet, VecDeque},
    fmt::Write as _,
    hash::{BuildHasher as _, RandomState},
    sync::LazyLock,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use steth_probes::{
    cell::{CellKey, CounterKind, HistogramKind},
    histogram::{Histogram, bucket_of},
    wall::STATES,
};

use super::{Names, Totals, series};
use crate::model::{
    catalog::kernel as catalog,
    distribution::Distribution,
    event::{QuerySeen, RepeatSeen, WorkerSeen},
    query::{QueryRecord, RepeatRecord, Selection, Sort, StatementFigures, Statements, WorkerRecord, role_name},
    snapshot::Exemplar,
    wait_event::wait_event_name,
    wall,
};

/// Kept windows that are held: five minutes of 10 s.
const WINDOWS: usize = 30;

/// What statements gained in the window under way and in those before it.
#[derive(Debug)]
pub(super) struct Windows {
    current: Window,
    kept: VecDeque<Window>,
}

#[derive(Debug)]
struct Window {
    begun: Instant,
    gains: HashMap<CellKey, Gain>,
}

/// What one statement's cell gained. Most buckets gain nothing, so only the others are held.
#[derive(Debug, Default)]
struct Gain {
    sum_ns: u64,
    buckets: Vec<(usize, u64)>,
    calls: u64,
    rows: u64,
    errors: u64,
    wall: [u64; STATES],
}

impl Window {
    fn new() -> Self {
        Self { begun: Instant::now(), gains: HashMap::new() }
    }
}

impl Windows {
    pub(super) fn new() -> Self {
        Self { current: Window::new(), kept: VecDeque::new() }
    }

    /// A statement's cell went from one reading to another.
    pub(super) fn cycles(&mut self, key: CellKey, before: &Histogram, now: &Histogram) {
        let gained = before.buckets.iter().zip(&now.buckets).map(|(before, now)| u64::from(now.wrapping_sub(*before)));
        let [calls, rows] = [0, 1].map(|nth: usize| {
            let at = |histogram: &Histogram| histogram.tally.get(nth).copied().unwrap_or_default();
            at(now).wrapping_sub(at(before))
        });
        let sum_ns = now.sum_ns.wrapping_sub(before.sum_ns);
        if sum_ns == 0 && calls == 0 {
            return;
        }
        let gain = self.current.gains.entry(key).or_default();
        gain.sum_ns += sum_ns;
        gain.calls += calls;
        gain.rows += rows;
        for (bucket, count) in gained.enumerate().filter(|(_, count)| *count > 0) {
            match gain.buckets.iter_mut().find(|(known, _)| *known == bucket) {
                Some((_, total)) => *total += count,
                None => gain.buckets.push((bucket, count)),
            }
        }
    }

    /// Cycles of a statement ended with an error.
    pub(super) fn errors(&mut self, key: &CellKey, count: u64) {
        if count > 0 {
            let key = CellKey { kind: HistogramKind::PostgresQuery as u8, ..*key };
            self.current.gains.entry(key).or_default().errors += count;
        }
    }

    /// What cycles of a statement spent went from one reading to another.
    pub(super) fn spent(&mut self, key: &CellKey, before: &[u64; STATES], now: &[u64; STATES]) {
        if before == now {
            return;
        }
        let wall = &mut self.current.gains.entry(*key).or_default().wall;
        for (sum, (before, now)) in wall.iter_mut().zip(before.iter().zip(now)) {
            *sum += now.saturating_sub(*before);
        }
    }

    fn close(&mut self) {
        if self.kept.len() >= WINDOWS {
            self.kept.pop_front();
        }
        self.kept.push_back(std::mem::replace(&mut self.current, Window::new()));
    }

    /// The windows that make up the last so-and-so long, as far as they are held.
    fn last(&self, length: Duration) -> impl Iterator<Item = &Window> {
        let reaches = move |window: &&Window| window.begun.elapsed() <= length;
        std::iter::once(&self.current).chain(self.kept.iter().rev().take_while(reaches))
    }
}

/// Figures of one statement while they are added up.
#[derive(Default)]
struct Sum {
    cycles: Distribution,
    calls: u64,
    rows: u64,
    errors: u64,
    wall: [u64; STATES],
    /// A number of the statement, for its text.
    statement: u32,
}

impl Sum {
    fn add_wall(&mut self, wall: &[u64; STATES]) {
        for (sum, ns) in self.wall.iter_mut().zip(wall) {
            *sum += ns;
        }
    }
}

/// What tells the figures apart: service, role, database, fingerprint.
type Labels<'a> = (&'a str, &'static str, &'a str, &'a str);

impl Totals {
    /// The window under way ends here.
    pub fn close_window(&mut self) {
        self.windows.close();
    }

    /// The statements of a selection.
    pub fn statements(&self, names: &Names, selection: &Selection) -> Statements {
        let mut sums: HashMap<Labels, Sum> = HashMap::new();
        let window_seconds = match selection.window {
            None => {
                self.add_totals(names, selection, &mut sums);
                None
            }
            Some(length) => {
                let mut begun = Instant::now();
                for window in self.windows.last(length) {
                    begun = window.begun;
                    for (key, gain) in &window.gains {
                        let Some(sum) = sum_of(&mut sums, names, selection, key) else { continue };
                        sum.cycles.add(gain.sum_ns, gain.buckets.iter().copied());
                        sum.calls += gain.calls;
                        sum.rows += gain.rows;
                        sum.errors += gain.errors;
                        sum.add_wall(&gain.wall);
                    }
                }
                Some(begun.elapsed().as_secs_f64())
            }
        };
        let total_ns: u64 = sums.values().map(|sum| sum.cycles.sum_ns()).sum();
        let mut sums: Vec<(Labels, Sum, f64)> = sums
            .into_iter()
            .filter(|(_, sum)| sum.calls + sum.errors + sum.cycles.count() > 0)
            .map(|(labels, sum)| {
                let weight = weight(&sum, selection.sort);
                (labels, sum, weight)
            })
            .collect();
        sums.sort_by(|(a, _, a_weight), (b, _, b_weight)| b_weight.total_cmp(a_weight).then_with(|| a.cmp(b)));
        sums.truncate(selection.limit);
        let queries = sums.into_iter().map(|(labels, sum, _)| figures(names, labels, &sum, total_ns)).collect();
        Statements { at_unix_ms: 0, window_seconds, total_seconds: seconds(total_ns), queries }
    }

    /// The newest of these cycles, newest first, for each series and bucket of its duration.
    pub fn exemplars<'a>(
        &self,
        names: &Names,
        seen: impl Iterator<Item = &'a QuerySeen>,
        unix_ns: u64,
    ) -> Vec<Exemplar> {
        let mut met = HashSet::new();
        let mut exemplars = Vec::new();
        for seen in seen {
            let key = CellKey {
                kind: HistogramKind::PostgresQuery as u8,
                sub: seen.role as u8,
                service: u16::try_from(seen.service).unwrap_or_default(),
                a: seen.database,
                b: seen.statement,
            };
            // Buckets of the kernel are finer than those that are shown: then there are some to choose from.
            if met.insert((key, bucket_of(seen.duration_ns))) {
                exemplars.push(Exemplar {
                    metric: &catalog::POSTGRES_QUERY,
                    labels: self.query_labels(names, &key).to_vec(),
                    query_id: id(seen),
                    value_ns: seen.duration_ns,
                    at_unix_ms: seen.begun_ns.saturating_add(seen.duration_ns).saturating_add(unix_ns) / 1_000_000,
                });
            }
        }
        exemplars
    }

    fn add_totals<'a>(&self, names: &'a Names, selection: &Selection, sums: &mut HashMap<Labels<'a>, Sum>) {
        for ((_, key), total) in self.histograms.iter().filter(|((kind, _), _)| *kind == HistogramKind::PostgresQuery) {
            let Some(sum) = sum_of(sums, names, selection, key) else { continue };
            sum.cycles.merge(&total.total);
            let [calls, rows] = total.last.tally;
            sum.calls += calls;
            sum.rows += rows;
        }
        for ((_, key), total) in self.counters.iter().filter(|((kind, _), _)| *kind == CounterKind::PostgresFailed) {
            let Some(sum) = sum_of(sums, names, selection, key) else { continue };
            sum.errors += total;
        }
        for (key, wall) in &self.statement_walls {
            let Some(sum) = sum_of(sums, names, selection, key) else { continue };
            sum.add_wall(wall);
        }
    }
}

/// The sum that a cell goes into, if the selection admits it.
fn sum_of<'s, 'a>(
    sums: &'s mut HashMap<Labels<'a>, Sum>,
    names: &'a Names,
    selection: &Selection,
    key: &CellKey,
) -> Option<&'s mut Sum> {
    let (service, role) = (names.service(key.service.into()), series::role(key.sub));
    let (database, query) = (names.database(key.a), names.statement(key.b).0);
    let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
    let admitted = is(&selection.service, service)
        && is(&selection.database, database)
        && selection.role.is_none_or(|wanted| role_name(wanted) == role);
    admitted.then(|| {
        let sum = sums.entry((service, role, database, query)).or_default();
        sum.statement = key.b;
        sum
    })
}

fn weight(sum: &Sum, sort: Sort) -> f64 {
    match sort {
        Sort::Time => sum.cycles.sum_ns() as f64,
        Sort::Calls => sum.calls as f64,
        Sort::Errors => sum.errors as f64,
        Sort::Rows => sum.rows as f64,
        Sort::Mean => sum.cycles.sum_ns() as f64 / sum.cycles.count().max(1) as f64,
        Sort::P99 => sum.cycles.quantile_ns(0.99).unwrap_or_default() as f64,
    }
}

fn figures(names: &Names, (service, role, database, query): Labels, sum: &Sum, total_ns: u64) -> StatementFigures {
    let (_, operation) = names.statement(sum.statement);
    let (summary, text) = names.statement_text(sum.statement);
    let (cycles, sum_ns) = (sum.cycles.count(), sum.cycles.sum_ns());
    let hdr = sum.cycles.to_hdr();
    StatementFigures {
        query: query.to_owned(),
        operation: operation.to_owned(),
        summary: summary.to_owned(),
        statement: text.to_owned(),
        service: service.to_owned(),
        role,
        database: database.to_owned(),
        calls: sum.calls,
        cycles,
        errors: sum.errors,
        rows: sum.rows,
        total_seconds: seconds(sum_ns),
        share: if total_ns == 0 { 0.0 } else { sum_ns as f64 / total_ns as f64 },
        wall: wall::seconds(&sum.wall),
        mean_seconds: seconds(sum_ns) / cycles.max(1) as f64,
        p50_seconds: seconds(hdr.value_at_quantile(0.5)),
        p95_seconds: seconds(hdr.value_at_quantile(0.95)),
        p99_seconds: seconds(hdr.value_at_quantile(0.99)),
    }
}

impl Names {
    /// A cycle with its workers and with names. `unix_ns` is what the monotonic clock lags behind the Unix epoch's, `peer` the
    /// name of its peer.
    pub fn record<'a>(
        &'a self,
        seen: &QuerySeen,
        workers: &[WorkerSeen],
        peer: &'a str,
        unix_ns: u64,
    ) -> QueryRecord<'a> {
        let (query, operation) = self.statement(seen.statement);
        let (summary, statement) = self.statement_text(seen.statement);
        let sqlstate = seen.sqlstate.map(|sqlstate| Cow::Owned(String::from_utf8_lossy(&sqlstate).into_owned()));
        let begun_unix_us = seen.begun_ns.saturating_add(unix_ns) / 1_000;
        QueryRecord {
            id: id(seen).into(),
            begun_unix_us,
            duration_seconds: seconds(seen.duration_ns),
            first_byte_seconds: seconds(seen.first_byte_ns),
            service: self.service(seen.service).into(),
            role: role_name(seen.role).into(),
            peer: peer.into(),
            port: seen.port,
            family: series::family(seen.family as u8).into(),
            database: self.database(seen.database).into(),
            user: self.database(seen.user).into(),
            pid: seen.pid,
            tid: seen.tid,
            connection: format!("{:016x}", seen.connection).into(),
            statements: seen.statements,
            rows: seen.rows,
            outcome: if sqlstate.is_some() { "error" } else { "ok" }.into(),
            sqlstate,
            transaction: match seen.transaction {
                b'T' => "open",
                b'E' => "failed",
                _ => "idle",
            }
            .into(),
            slow: seen.slow,
            wall: seen.wall.as_ref().map(wall::seconds),
            wait_event: self.event(seen.service, seen.event),
            wait_event_seconds: seen.event.map(|(_, ns)| seconds(ns)),
            workers: workers.iter().map(|worker| self.worker(worker)).collect(),
            flame: flame(self.service(seen.service), begun_unix_us, seen.duration_ns / 1_000).into(),
            operation: operation.into(),
            query: query.into(),
            summary: summary.into(),
            statement: statement.into(),
        }
    }
}

impl Names {
    fn worker(&self, seen: &WorkerSeen) -> WorkerRecord<'static> {
        WorkerRecord {
            pid: seen.pid,
            duration_seconds: seconds(seen.ended_ns.saturating_sub(seen.begun_ns)),
            wall: wall::seconds(&seen.wall),
            wait_event: self.event(seen.service, seen.event),
            wait_event_seconds: seen.event.map(|(_, ns)| seconds(ns)),
        }
    }

    fn event(&self, service: u32, event: Option<(u32, u64)>) -> Option<Cow<'static, str>> {
        event.map(|(event, _)| wait_event_name(event, self.server_version(service)).into())
    }

    /// A repetition with names; the other parameters are as for [`Names::record`].
    pub fn repeat(&self, seen: &RepeatSeen, peer: &str, unix_ns: u64) -> RepeatRecord {
        let (summary, statement) = self.statement_text(seen.statement);
        let burst_ns = seen.told_ns.saturating_sub(seen.begun_ns);
        RepeatRecord {
            begun_unix_us: seen.begun_ns.saturating_add(unix_ns) / 1_000,
            service: self.service(seen.service).into(),
            role: role_name(seen.role),
            peer: peer.into(),
            database: self.database(seen.database).into(),
            user: self.database(seen.user).into(),
            pid: seen.pid,
            count: seen.count,
            total_seconds: seconds(seen.busy_ns),
            burst_seconds: seconds(burst_ns),
            // Requests that were sent before the answer to the one before came overlap.
            share: (seen.busy_ns as f64 / burst_ns.max(1) as f64).min(1.0),
            ended: seen.ended,
            query: self.statement(seen.statement).0.into(),
            summary: summary.into(),
            statement: statement.into(),
        }
    }
}

/// What tells a cycle from all others that this agent tells of. Everyone may read it, and the connection is told apart by where the
/// kernel has its socket, which nobody may know: so it goes through a hash with a key that is drawn at the start.
fn id(seen: &QuerySeen) -> String {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    format!("{:016x}", KEY.hash_one((seen.connection, seen.begun_ns)))
}

/// Where the flame graph is of a service's past: of all the moments that a cycle touched.
fn flame(service: &str, begun_unix_us: u64, duration_us: u64) -> String {
    let at = |unix_ms: u64| {
        let moment = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        moment.map(|moment| format!("{moment:.3}")).unwrap_or_default()
    };
    let (from, to) = (at(begun_unix_us / 1_000), at(begun_unix_us.saturating_add(duration_us) / 1_000 + 1));
    let mut link = String::from("/api/v1/flame?service=");
    for byte in service.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@' => {
                link.push(char::from(byte));
            }
            // Writing to a string cannot fail.
            _ => _ = write!(link, "%{byte:02X}"),
        }
    }
    _ = write!(link, "&from={from}&to={to}");
    link
}

/// Division, not multiplication by 1e-9: only it gives the float nearest to the decimal, which prints short.
pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests;
