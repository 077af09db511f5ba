//! From cells to totals with names: keeps what each cell has gained, and turns all of it into series. Cells of several
//! kernel services that bear one name are one; what exceeds the configured limits is summed under `other`.

mod names;
mod queries;
mod series;
mod shown;
mod traced;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

pub use names::{Names, StatementName};
use steth_probes::{
    cell::{CellKey, CounterKind, HistogramKind, Loss},
    histogram::Histogram,
    wall::{STATES, THREAD_STATES},
};

use crate::model::{
    distribution::Distribution,
    event::{ConnectionSeen, Reading, WorkerSeen},
};

/// How many label values are shown one by one.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Services.
    pub services: usize,
    /// System calls of one service.
    pub syscalls: usize,
    /// Peers of one service.
    pub peers: usize,
    /// Statements.
    pub queries: usize,
}

/// Totals since the agent started.
#[derive(Debug)]
pub struct Totals {
    limits: Limits,
    histograms: HashMap<(HistogramKind, CellKey), HistogramTotal>,
    counters: HashMap<(CounterKind, CellKey), u64>,
    statement_walls: HashMap<CellKey, [u64; STATES]>,
    service_walls: Vec<(u32, [u64; THREAD_STATES])>,
    worker_walls: HashMap<u32, [u64; STATES]>,
    losses: Vec<(Loss, u64)>,
    connections: Vec<ConnectionSeen>,
    malformed: u64,
    shown: series::ShownLabels,
    open_bytes: series::OpenBytes,
    windows: queries::Windows,
}

#[derive(Debug)]
struct HistogramTotal {
    last: Box<Histogram>,
    /// Shared with the snapshots that show it as it was.
    total: Arc<Distribution>,
}

impl Totals {
    /// Nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            histograms: HashMap::new(),
            counters: HashMap::new(),
            statement_walls: HashMap::new(),
            service_walls: Vec::new(),
            worker_walls: HashMap::new(),
            losses: Vec::new(),
            connections: Vec::new(),
            malformed: 0,
            shown: series::ShownLabels::default(),
            open_bytes: series::OpenBytes::default(),
            windows: queries::Windows::new(),
        }
    }

    /// Shows more from now on, or fewer among those that have no place yet.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Adds what the cells have gained since the last reading.
    pub fn absorb(&mut self, reading: Reading) {
        for (kind, key, now) in reading.histograms {
            let entry = self.histograms.entry((kind, key));
            // A cell that was set aside and not used yet is none.
            if matches!(entry, Entry::Vacant(_)) && now == Histogram::zeroed() {
                continue;
            }
            let known =
                entry.or_insert_with(|| HistogramTotal { last: Box::new(Histogram::zeroed()), total: Arc::default() });
            // Most cells rest most of the time.
            if *known.last != now {
                Arc::make_mut(&mut known.total).add_difference(&known.last, &now);
                if kind == HistogramKind::PostgresQuery {
                    self.windows.cycles(key, &known.last, &now);
                }
                *known.last = now;
            }
        }
        // Counters are 64 bits wide and are never taken away, so the reading is the total.
        for (kind, key, total) in reading.counters {
            let before = self.counters.insert((kind, key), total).unwrap_or_default();
            if kind == CounterKind::PostgresFailed {
                self.windows.errors(&key, total.saturating_sub(before));
            }
        }
        for (key, now) in reading.statement_walls {
            let before = self.statement_walls.insert(key, now).unwrap_or_default();
            self.windows.spent(&key, &before, &now);
        }
        self.service_walls = reading.service_walls;
        self.losses = reading.losses;
        self.connections = reading.connections;
        self.malformed += reading.malformed;
    }

    /// A parallel worker has ended.
    pub fn worker_ended(&mut self, worker: &WorkerSeen) {
        let sums = self.worker_walls.entry(worker.service).or_insert([0; STATES]);
        for (sum, ns) in sums.iter_mut().zip(worker.wall) {
            *sum += ns;
        }
    }

    /// The sockets that were open at the last reading.
    pub fn open_connections(&self) -> &[ConnectionSeen] {
        &self.connections
    }
}
