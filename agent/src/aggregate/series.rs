//! Turns totals into series: which cell stands under which metric and labels.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::Arc,
};

use steth_probes::{
    cell::{CellKey, ConnectOutcome, CounterKind, Direction, Family, HistogramKind, Loss, Role, TransactionOutcome},
    postgres::unpack_sqlstate,
    socket::tcp_state,
    syscalls,
    tls::Unseen,
};

use super::{
    Names, Totals,
    shown::{OTHER, Shown},
};
use crate::model::{
    catalog::kernel as catalog, distribution::Distribution, event::PostgresState, metric::Metric, query::role_name,
    snapshot::Series, syscall::syscall_name, wall,
};

/// Places of label values.
#[derive(Debug, Default)]
pub(super) struct ShownLabels {
    services: Shown,
    syscalls: HashMap<String, Shown>,
    peers: HashMap<String, Shown>,
    queries: Shown,
}

/// Bytes of open connections that are in no cell yet, as last shown: a sum that never goes down.
#[derive(Debug, Default)]
pub(super) struct OpenBytes(HashMap<Vec<String>, f64>);

/// Of a series: its metric's and the values of its labels.
type Name = (&'static str, Vec<String>);

/// Series under construction: cells with the same metric and labels are added up.
#[derive(Default)]
struct Sums {
    numbers: BTreeMap<Name, (&'static Metric, f64)>,
    histograms: BTreeMap<Name, (&'static Metric, Arc<Distribution>)>,
}

impl Sums {
    fn add(&mut self, metric: &'static Metric, labels: Vec<String>, value: f64) {
        self.numbers.entry((metric.name, labels)).or_insert((metric, 0.0)).1 += value;
    }

    fn largest(&mut self, metric: &'static Metric, labels: Vec<String>, value: f64) {
        let known = &mut self.numbers.entry((metric.name, labels)).or_insert((metric, value)).1;
        *known = known.max(value);
    }

    fn merge(&mut self, metric: &'static Metric, labels: Vec<String>, more: &Arc<Distribution>) {
        match self.histograms.entry((metric.name, labels)) {
            Entry::Occupied(mut known) => Arc::make_mut(&mut known.get_mut().1).merge(more),
            Entry::Vacant(new) => drop(new.insert((metric, Arc::clone(more)))),
        }
    }

    fn into_series(self) -> impl Iterator<Item = Series> {
        let numbers =
            self.numbers.into_iter().map(|((_, labels), (metric, value))| Series::number(metric, labels, value));
        let histograms =
            self.histograms.into_iter().map(|((_, labels), (metric, total))| Series::histogram(metric, labels, total));
        numbers.chain(histograms)
    }
}

impl Totals {
    /// All series, those of one metric together.
    pub fn series(&mut self, names: &Names) -> Vec<Series> {
        self.admit(names);
        let mut sums = Sums::default();
        for ((kind, key), total) in &self.histograms {
            self.histogram(&mut sums, names, *kind, key, &total.total);
            let [first, second] = total.last.tally;
            match kind {
                HistogramKind::PostgresQuery => {
                    let labels = self.query_labels(names, key).to_vec();
                    sums.add(&catalog::POSTGRES_STATEMENTS, labels.clone(), first as f64);
                    sums.add(&catalog::POSTGRES_ROWS, labels, second as f64);
                }
                HistogramKind::Syscall if first > 0 => {
                    let service = self.service(names, key.service).to_owned();
                    let labels = vec![service, self.syscall(names, key), "EAGAIN".into()];
                    sums.add(&catalog::SYSCALL_ERRORS, labels, first as f64);
                }
                _ => {}
            }
        }
        for ((kind, key), total) in &self.counters {
            self.counter(&mut sums, names, *kind, key, *total as f64);
        }
        self.walls(&mut sums, names);
        self.connections(&mut sums, names);
        for statement in names.statements() {
            let query = self.shown.queries.label(&statement.fingerprint);
            if query != OTHER {
                let labels = vec![query.to_owned(), statement.summary.clone()];
                sums.numbers.insert((catalog::POSTGRES_QUERY_INFO.name, labels), (&catalog::POSTGRES_QUERY_INFO, 1.0));
            }
        }
        self.losses(&mut sums);
        sums.into_series().collect()
    }

    /// Gives places to label values that have none yet; among the new ones those with the most time go first.
    fn admit(&mut self, names: &Names) {
        let mut services: HashMap<&str, u64> = HashMap::new();
        let mut syscalls: HashMap<(&str, u32), u64> = HashMap::new();
        let mut peers: HashMap<(&str, &str), u64> = HashMap::new();
        let mut queries: HashMap<&str, u64> = HashMap::new();
        for ((kind, key), total) in &self.histograms {
            let service = names.service(key.service.into());
            let ns = total.total.sum_ns();
            *services.entry(service).or_default() += ns;
            match kind {
                HistogramKind::Syscall => *syscalls.entry((service, key.a)).or_default() += ns,
                HistogramKind::TcpConnect | HistogramKind::TcpRtt | HistogramKind::TcpLifetime => {
                    *peers.entry((service, names.peer(key.a))).or_default() += ns;
                }
                HistogramKind::PostgresQuery => *queries.entry(names.statement(key.b).0).or_default() += ns,
                _ => {}
            }
        }
        for (kind, key) in self.counters.keys() {
            let service = names.service(key.service.into());
            services.entry(service).or_default();
            match kind {
                CounterKind::SyscallError => drop(syscalls.entry((service, key.a)).or_default()),
                CounterKind::TcpBytes | CounterKind::TcpReset | CounterKind::TcpRetransmit => {
                    peers.entry((service, names.peer(key.a))).or_default();
                }
                _ => {}
            }
        }
        for connection in &self.connections {
            let service = names.service(connection.service);
            services.entry(service).or_default();
            peers.entry((service, names.peer(connection.peer))).or_default();
        }
        self.shown.services.admit(by_time(services), self.limits.services);
        self.shown.queries.admit(by_time(queries), self.limits.queries);
        for (service, number) in by_time(syscalls) {
            let name = syscall_name(number);
            let places = self.shown.syscalls.entry(service.to_owned()).or_default();
            places.admit([&*name], self.limits.syscalls);
        }
        for (service, peer) in by_time(peers) {
            self.shown.peers.entry(service.to_owned()).or_default().admit([peer], self.limits.peers);
        }
    }

    fn service<'a>(&self, names: &'a Names, number: impl Into<u32>) -> &'a str {
        self.shown.services.label(names.service(number.into()))
    }

    fn peer(&self, names: &Names, key: &CellKey) -> String {
        self.peer_of(names, key.service.into(), key.a)
    }

    fn peer_of(&self, names: &Names, service: u32, peer: u32) -> String {
        let places = self.shown.peers.get(names.service(service));
        places.map_or(OTHER, |places| places.label(names.peer(peer))).to_owned()
    }

    fn syscall(&self, names: &Names, key: &CellKey) -> String {
        let places = self.shown.syscalls.get(names.service(key.service.into()));
        let name = syscall_name(key.a);
        places.map_or(OTHER, |places| places.label(&name)).to_owned()
    }

    fn error_labels(&self, names: &Names, key: &CellKey) -> Vec<String> {
        let mut labels = self.database_labels(names, key);
        labels.push(sqlstate_name(key.b));
        labels
    }

    pub(super) fn query_labels(&self, names: &Names, key: &CellKey) -> [String; 5] {
        let (fingerprint, operation) = names.statement(key.b);
        let query = self.shown.queries.label(fingerprint);
        let operation = if query == OTHER { "OTHER" } else { operation };
        [
            self.service(names, key.service).into(),
            role(key.sub).into(),
            names.database(key.a).into(),
            operation.into(),
            query.into(),
        ]
    }

    fn database_labels(&self, names: &Names, key: &CellKey) -> Vec<String> {
        vec![self.service(names, key.service).into(), role(key.sub).into(), names.database(key.a).into()]
    }

    fn histogram(&self, sums: &mut Sums, names: &Names, kind: HistogramKind, key: &CellKey, total: &Arc<Distribution>) {
        let service = || self.service(names, key.service).to_owned();
        let (metric, labels) = match kind {
            HistogramKind::Syscall => {
                let wait = if syscalls::is_wait(key.a) { "wait" } else { "work" };
                (&catalog::SYSCALL_DURATION, vec![service(), self.syscall(names, key), wait.into()])
            }
            HistogramKind::TcpConnect => {
                (&catalog::TCP_CONNECT, vec![service(), self.peer(names, key), outcome(key.sub).into()])
            }
            HistogramKind::TcpAcceptQueue => (&catalog::TCP_ACCEPT_QUEUE, vec![service(), key.a.to_string()]),
            HistogramKind::TcpRtt => (&catalog::TCP_RTT, vec![service(), self.peer(names, key)]),
            HistogramKind::TcpLifetime => (&catalog::TCP_LIFETIME, vec![service(), self.peer(names, key)]),
            HistogramKind::SocketRead => (&catalog::SOCKET_READ, vec![service(), family(key.sub).into()]),
            HistogramKind::SocketWrite => (&catalog::SOCKET_WRITE, vec![service(), family(key.sub).into()]),
            HistogramKind::SocketPickup => (&catalog::SOCKET_PICKUP, vec![service(), family(key.sub).into()]),
            HistogramKind::PostgresQuery => (&catalog::POSTGRES_QUERY, self.query_labels(names, key).to_vec()),
            HistogramKind::PostgresFirstByte => (&catalog::POSTGRES_FIRST_BYTE, self.query_labels(names, key).to_vec()),
            HistogramKind::RunQueue => (&catalog::RUN_QUEUE, vec![service()]),
            HistogramKind::PostgresWait => (&catalog::POSTGRES_WAIT, self.database_labels(names, key)),
            HistogramKind::PostgresConnect => (&catalog::POSTGRES_CONNECT, self.database_labels(names, key)),
            HistogramKind::PostgresTransaction => {
                let labels = self.database_labels(names, key);
                let mut with_outcome = labels.clone();
                let commit = key.b == TransactionOutcome::Commit as u32;
                with_outcome.push(if commit { "commit" } else { "rollback" }.into());
                sums.add(&catalog::POSTGRES_TRANSACTIONS, with_outcome, total.count() as f64);
                (&catalog::POSTGRES_TRANSACTION, labels)
            }
        };
        sums.merge(metric, labels, total);
    }

    fn walls(&self, sums: &mut Sums, names: &Names) {
        for (key, ns) in &self.statement_walls {
            let [service, role, database, _, query] = self.query_labels(names, key);
            for (state, ns) in wall::named(ns) {
                let labels = vec![service.clone(), role.clone(), database.clone(), query.clone(), state.into()];
                sums.add(&catalog::POSTGRES_WALL, labels, ns as f64 / 1e9);
            }
        }
        for (service, ns) in &self.worker_walls {
            for (state, ns) in wall::named(ns) {
                let service = u16::try_from(*service).unwrap_or_default();
                sums.add(
                    &catalog::WORKER_WALL,
                    vec![self.service(names, service).into(), state.into()],
                    ns as f64 / 1e9,
                );
            }
        }
        for (service, ns) in &self.service_walls {
            for (state, ns) in wall::named(ns) {
                let labels = vec![self.service(names, *service).into(), state.into()];
                sums.add(&catalog::SERVICE_WALL, labels, ns as f64 / 1e9);
            }
        }
    }

    fn counter(&self, sums: &mut Sums, names: &Names, kind: CounterKind, key: &CellKey, total: f64) {
        let service = self.service(names, key.service).to_owned();
        let (metric, labels) = match kind {
            CounterKind::SyscallError => {
                let syscall = if key.b == 0 { OTHER.into() } else { self.syscall(names, key) };
                (&catalog::SYSCALL_ERRORS, vec![service, syscall, errno_name(key.b)])
            }
            CounterKind::TcpRetransmit => (&catalog::TCP_RETRANSMITS, vec![service, self.peer(names, key)]),
            CounterKind::TcpReset => {
                (&catalog::TCP_RESETS, vec![service, self.peer(names, key), direction(key.sub).into()])
            }
            CounterKind::TcpBytes => {
                (&catalog::TCP_BYTES, vec![service, self.peer(names, key), direction(key.sub).into()])
            }
            CounterKind::TcpListenDrop => (&catalog::TCP_LISTEN_OVERFLOWS, vec![service, port_name(key.a)]),
            // Shown with the statements, not as a series.
            CounterKind::PostgresFailed => return,
            CounterKind::PostgresError => (&catalog::POSTGRES_ERRORS, self.error_labels(names, key)),
            CounterKind::PostgresLoginFailure => (&catalog::POSTGRES_LOGIN_FAILURES, self.error_labels(names, key)),
            CounterKind::PostgresRepeat => {
                let [service, role, database, _, query] = self.query_labels(names, key);
                (&catalog::POSTGRES_N_PLUS_ONE, vec![service, role, database, query])
            }
            CounterKind::PostgresUnseen => (&catalog::POSTGRES_UNSEEN, vec![service, unseen(key.sub).into()]),
        };
        sums.add(metric, labels, total);
    }

    fn connections(&mut self, sums: &mut Sums, names: &Names) {
        for connection in &self.connections {
            let service = self.service(names, connection.service).to_owned();
            if let Some(state) = connection.tcp_state {
                sums.add(&catalog::TCP_CONNECTIONS, vec![service.clone(), state_name(state).into()], 1.0);
                let peer = self.peer_of(names, connection.service, connection.peer);
                for (way, bytes) in
                    [(Direction::Received, connection.received_bytes), (Direction::Sent, connection.sent_bytes)]
                {
                    if bytes > 0 {
                        let labels = vec![service.clone(), peer.clone(), direction(way as u8).into()];
                        sums.add(&catalog::TCP_BYTES, labels, bytes as f64);
                    }
                }
            }
            if let Some(postgres) = connection.postgres {
                let role = postgres.role.map_or("unknown", |end| role(end as u8));
                let labels = vec![
                    service,
                    role.into(),
                    names.database(postgres.database).into(),
                    postgres_state(postgres.state).into(),
                ];
                if let Some(idle_ns) = postgres.waiting_ns {
                    let waiting = labels.iter().take(3).cloned().collect();
                    sums.largest(&catalog::POSTGRES_WAITING, waiting, idle_ns as f64 / 1e9);
                }
                sums.add(&catalog::POSTGRES_CONNECTIONS, labels, 1.0);
            }
        }
        // Between leaving an open connection and arriving in a cell bytes may be missed by one reading.
        for ((metric, labels), (_, value)) in &mut sums.numbers {
            if *metric == catalog::TCP_BYTES.name {
                let before = self.open_bytes.0.entry(labels.clone()).or_default();
                *value = value.max(*before);
                *before = *value;
            }
        }
    }

    fn losses(&self, sums: &mut Sums) {
        for (loss, total) in &self.losses {
            let (metric, map, reason) = loss_labels(*loss);
            sums.add(metric, vec![map.into(), reason.into()], *total as f64);
        }
        sums.add(&catalog::RECORDS_LOST, vec!["cells".into(), "malformed".into()], self.malformed as f64);
        let per_service = |places: &HashMap<String, Shown>| places.values().map(Shown::folded).sum::<usize>();
        for (label, folded) in [
            ("service", self.shown.services.folded()),
            ("syscall", per_service(&self.shown.syscalls)),
            ("peer", per_service(&self.shown.peers)),
            ("query", self.shown.queries.folded()),
        ] {
            sums.add(&catalog::SERIES_FOLDED, vec![label.into()], folded as f64);
        }
    }
}

fn by_time<K: Ord>(times: HashMap<K, u64>) -> Vec<K> {
    let mut keys: Vec<(K, u64)> = times.into_iter().collect();
    keys.sort_by(|(a, a_ns), (b, b_ns)| b_ns.cmp(a_ns).then_with(|| a.cmp(b)));
    keys.into_iter().map(|(key, _)| key).collect()
}

// Of a cell that there was no room for all labels are zero.

fn sqlstate_name(packed: u32) -> String {
    if packed == 0 { OTHER.into() } else { String::from_utf8_lossy(&unpack_sqlstate(packed)).into_owned() }
}

fn port_name(port: u32) -> String {
    if port == 0 { OTHER.into() } else { port.to_string() }
}

pub(super) fn errno_name(number: u32) -> String {
    if number == 0 {
        return OTHER.into();
    }
    let known = i32::try_from(number).ok().and_then(|number| ::syscalls::Errno::new(number).name());
    known.map_or_else(|| format!("E{number}"), str::to_owned)
}

pub(super) fn role(role: u8) -> &'static str {
    Role::from_u8(role).map_or(OTHER, role_name)
}

pub(super) fn family(family: u8) -> &'static str {
    match Family::from_u8(family) {
        Some(Family::Inet) => "inet",
        Some(Family::Inet6) => "inet6",
        Some(Family::Unix) => "unix",
        None => OTHER,
    }
}

fn direction(direction: u8) -> &'static str {
    match Direction::from_u8(direction) {
        Some(Direction::Received) => "received",
        Some(Direction::Sent) => "sent",
        None => OTHER,
    }
}

fn outcome(outcome: u8) -> &'static str {
    match ConnectOutcome::from_u8(outcome) {
        Some(ConnectOutcome::Established) => "established",
        Some(ConnectOutcome::Refused) => "refused",
        Some(ConnectOutcome::TimedOut) => "timed_out",
        Some(ConnectOutcome::Unreachable) => "unreachable",
        Some(ConnectOutcome::Aborted) => "aborted",
        None => OTHER,
    }
}

fn postgres_state(state: PostgresState) -> &'static str {
    match state {
        PostgresState::Active => "active",
        PostgresState::Idle => "idle",
        PostgresState::IdleInTransaction => "idle_in_transaction",
        PostgresState::EncryptedUnseen => "encrypted_unseen",
    }
}

fn unseen(reason: u8) -> &'static str {
    match Unseen::from_u8(reason) {
        Some(Unseen::NoOpenssl) => "no_openssl",
        Some(Unseen::MemoryBio) => "memory_bio",
        Some(Unseen::Gss) => "gss",
        Some(Unseen::Disabled) => "disabled",
        Some(Unseen::Older) => "older",
        None => OTHER,
    }
}

/// Names of the kernel's `enum` in `include/net/tcp_states.h`.
fn state_name(state: u8) -> &'static str {
    match state {
        tcp_state::ESTABLISHED => "established",
        tcp_state::SYN_SENT => "syn_sent",
        tcp_state::SYN_RECV => "syn_recv",
        4 => "fin_wait1",
        5 => "fin_wait2",
        6 => "time_wait",
        tcp_state::CLOSE => "close",
        8 => "close_wait",
        9 => "last_ack",
        tcp_state::LISTEN => "listen",
        11 => "closing",
        _ => OTHER,
    }
}

fn loss_labels(loss: Loss) -> (&'static Metric, &'static str, &'static str) {
    let (full, lost) = (&catalog::CELLS_FULL, &catalog::RECORDS_LOST);
    match loss {
        Loss::ServicesFull => (full, "services", "no_room"),
        Loss::HistogramsFull => (full, "histograms", "no_room"),
        Loss::CountersFull => (full, "counters", "no_room"),
        Loss::PeersFull => (full, "peers", "no_room"),
        Loss::ConnectionsFull | Loss::SocketForgotten => (full, "connections", "no_room"),
        Loss::TaskStateFailed => (full, "tasks", "no_memory"),
        Loss::NamesFull => (full, "statements", "no_room"),
        Loss::WallsFull => (full, "statement_walls", "no_room"),
        Loss::PreparedFull => (full, "prepared", "no_room"),
        Loss::DatabasesFull => (full, "databases", "no_room"),
        Loss::ConversationForgotten => (full, "wires", "no_room"),
        Loss::RingFull => (lost, "records", "ring_full"),
        Loss::QueriesSuppressed => (lost, "records", "rate_limited"),
        Loss::TraceFull => (lost, "trace", "ring_full"),
        Loss::SamplesFull => (lost, "samples", "ring_full"),
        Loss::UnwindFilesFull => (full, "unwind_files", "no_room"),
        Loss::UserMemoryUnreadable => (lost, "wires", "memory_unreadable"),
        Loss::StatementCut => (lost, "wires", "statement_cut"),
        Loss::PipelineTooDeep => (lost, "wires", "pipeline_too_deep"),
        Loss::PostgresOutOfStep => (lost, "wires", "out_of_step"),
        Loss::CycleEndUnseen => (lost, "wires", "end_unseen"),
        Loss::TooManyMessages => (lost, "wires", "too_many_messages"),
        Loss::TlsWalksFull => (lost, "wires", "tls_walks_interrupted"),
        Loss::SslsFull => (full, "ssls", "no_room"),
    }
}
