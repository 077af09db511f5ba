//! Reads all cells of one moment.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr},
    ops::Range,
};

use steth_probes::{
    cell::{CellKey, CounterKind, Family, HistogramKind, LOSSES, Loss, Role},
    histogram::Histogram,
    identity::{ServiceEntry, ServiceKey, ServiceRow},
    postgres::{self, Phase, WireEntry},
    record::read,
    socket::{Connection, PeerKey, Protocol, tcp_state},
    tls::{CodeFile, LOOKED_AT},
    wall::{STATES, ServiceWall, StatementWall},
    watch::{ServiceWatch, Watch},
};

use super::sockets::Passes;
use crate::{
    kernel::Tables,
    model::event::{Backends, ConnectionSeen, PeerSeen, PostgresSeen, PostgresState, Reading, ServiceSeen},
};

/// Slots that are sooner read for nothing than left out.
const SHORT_GAP: u32 = 4;

/// Reads cells; keeps the buffers for it.
#[derive(Debug)]
pub struct Cells {
    tables: Tables,
    slots: Vec<Option<CellKey>>,
    passes: Passes,
}

impl Cells {
    /// A reader of these maps.
    pub fn new(tables: Tables) -> Self {
        Self { tables, slots: Vec::new(), passes: Passes::default() }
    }

    /// Reads everything. `refresh` gets the addresses of all listening sockets before counters are read, so that
    /// what the kernel counts by itself can be brought up to date.
    ///
    /// # Errors
    /// If the kernel refuses to give a map's entries.
    pub fn read(&mut self, refresh: impl FnOnce(Vec<u64>)) -> io::Result<Reading> {
        let mut reading = Reading::default();
        self.read_histograms(&mut reading)?;
        let Tables { services, counters, losses, connections, peers, wires, service_walls, statement_walls, .. } =
            &mut self.tables;
        let (malformed, unanswered) = (&mut reading.malformed, self.passes.unanswered());

        losses.visit(LOSSES, |key, values| {
            let loss = read::<u32>(key).and_then(|key| Loss::from_u8(u8::try_from(key).ok()?));
            match loss {
                Some(Loss::CycleEndUnseen) => {
                    reading.losses.push((Loss::CycleEndUnseen, sum(values).saturating_add(unanswered)));
                }
                Some(loss) => reading.losses.push((loss, sum(values))),
                None => *malformed += 1,
            }
        })?;
        let mut listeners = Vec::new();
        let mut conversations = HashMap::new();
        let now_ns = monotonic_ns();
        wires.visit(u32::MAX, |key, value| match (read::<u64>(key), read::<WireEntry>(value)) {
            (Some(sock), Some(wire)) => drop(conversations.insert(sock, conversation(&wire, now_ns))),
            _ => *malformed += 1,
        })?;
        connections.visit(u32::MAX, |key, value| match (read::<u64>(key), read::<Connection>(value)) {
            (Some(sock), Some(known)) => {
                if known.tcp_state == tcp_state::LISTEN {
                    listeners.push(sock);
                }
                let wire = conversations.get(&sock).copied().flatten();
                match connection(&known, wire) {
                    Some(connection) => reading.connections.push(connection),
                    None => *malformed += 1,
                }
            }
            _ => *malformed += 1,
        })?;
        refresh(listeners);
        counters.visit(u32::MAX, |key, values| {
            let decoded = read::<CellKey>(key).and_then(|key| Some((CounterKind::from_u8(key.kind)?, key)));
            match decoded {
                Some((kind, key)) => reading.counters.push((kind, key, sum(values))),
                None => *malformed += 1,
            }
        })?;
        statement_walls.visit(u32::MAX, |key, copies| match read::<CellKey>(key) {
            Some(key) => reading.statement_walls.push((key, sum_walls(copies))),
            None => *malformed += 1,
        })?;
        service_walls.visit(u32::MAX, |key, value| match (read::<u32>(key), read::<ServiceWall>(value)) {
            (Some(service), Some(wall)) if wall.ns.iter().any(|ns| *ns != 0) => {
                reading.service_walls.push((service, wall.ns));
            }
            (Some(_), Some(_)) => {}
            _ => *malformed += 1,
        })?;
        // Names last: a cell that is met without its name would stand under "other" once, and then jump.
        services.visit(u32::MAX, |key, value| match (read(key), read(value)) {
            (Some(key), Some(entry)) => reading.services.push(service(&key, entry)),
            _ => *malformed += 1,
        })?;
        peers.visit(u32::MAX, |key, value| match (read(key), read(value)) {
            (Some(key), Some(number)) => reading.peers.push(peer(&key, number)),
            _ => *malformed += 1,
        })?;
        Ok(reading)
    }

    fn read_histograms(&mut self, reading: &mut Reading) -> io::Result<()> {
        let slots = &mut self.slots;
        let malformed = &mut reading.malformed;
        slots.clear();
        self.tables.histogram_slots.visit(u32::MAX, |key, slot| match (read::<CellKey>(key), read::<u32>(slot)) {
            (Some(key), Some(slot)) => {
                let at = slot as usize;
                if slots.len() <= at {
                    slots.resize(at + 1, None);
                }
                if let Some(entry) = slots.get_mut(at) {
                    *entry = Some(key);
                }
            }
            _ => *malformed += 1,
        })?;
        let ranges = used(slots);
        reading.histograms.reserve(ranges.iter().map(ExactSizeIterator::len).sum());
        for range in ranges {
            self.tables.histograms.visit_range(range, |slot, copies| {
                let Some(Some(key)) = read::<u32>(slot).and_then(|slot| slots.get(slot as usize)) else { return };
                match HistogramKind::from_u8(key.kind) {
                    Some(kind) => reading.histograms.push((kind, *key, merge(copies))),
                    None => *malformed += 1,
                }
            })?;
        }
        Ok(())
    }

    /// Reads the services that were met, and nothing else.
    ///
    /// # Errors
    /// If the kernel refuses to give the map's entries.
    pub fn services(&mut self) -> io::Result<Vec<ServiceSeen>> {
        let mut seen = Vec::new();
        self.tables.services.visit(u32::MAX, |key, value| {
            // What cannot be decoded is counted by `read`.
            if let (Some(key), Some(entry)) = (read(key), read(value)) {
                seen.push(service(&key, entry));
            }
        })?;
        Ok(seen)
    }

    /// Forgets sockets that have ended without a word from the kernel. `pass` goes over all open files.
    ///
    /// # Errors
    /// If the kernel refuses, or the pass fails.
    pub fn forget_ended(&mut self, pass: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.passes.begin(&self.tables)?;
        pass()?;
        self.passes.end(&mut self.tables)
    }

    /// How many sockets have been forgotten so.
    pub fn ended_sockets(&self) -> u64 {
        self.passes.ended()
    }

    /// Tells the kernel programs where the processes of a cluster note what they run.
    ///
    /// # Errors
    /// If the kernel refuses the write, for example because there are too many clusters.
    pub fn set_backends(&self, service: u32, backends: Backends) -> io::Result<()> {
        let Backends { entry_address, event_address, worker_address, text_offset, text_len } = backends;
        let backends = postgres::Backends { entry_address, event_address, worker_address, text_offset, text_len };
        self.tables.backends.put(&service, &backends)
    }

    /// Reads the peers that were met, and nothing else.
    ///
    /// # Errors
    /// If the kernel refuses to give the map's entries.
    pub fn peers(&mut self) -> io::Result<Vec<PeerSeen>> {
        let mut seen = Vec::new();
        self.tables.peers.visit(u32::MAX, |key, value| {
            if let (Some(key), Some(number)) = (read(key), read(value)) {
                seen.push(peer(&key, number));
            }
        })?;
        Ok(seen)
    }

    /// How often something was not counted or told.
    ///
    /// # Errors
    /// If the kernel refuses to give the map's entries.
    pub fn lost(&mut self, loss: Loss) -> io::Result<u64> {
        let mut total = 0;
        self.tables.losses.visit(LOSSES, |key, values| {
            if read::<u32>(key) == Some(loss as u32) {
                total = sum(values);
            }
        })?;
        Ok(total)
    }

    /// Changes which Postgres cycles are told one by one.
    ///
    /// # Errors
    /// If the kernel refuses the write.
    pub fn watch(&self, watch: &Watch) -> io::Result<()> {
        self.tables.watch.put(&0u32, watch)
    }

    /// Marks a service for tracing, or not.
    ///
    /// # Errors
    /// If the kernel refuses the write.
    pub fn mark(&self, service: u32, traced: bool) -> io::Result<()> {
        // Its tokens are given anew, which costs a burst at most.
        let row = ServiceWatch { traced: traced.into(), ..ServiceWatch::zeroed() };
        self.tables.service_watches.put(&service, &row)
    }

    /// Leaves a service out of the figures, or takes it in again.
    ///
    /// # Errors
    /// If the kernel refuses the write.
    pub fn exclude(&self, service: u32, excluded: bool) -> io::Result<()> {
        // Slots that the kernel had remembered in the row are found again through the directory.
        let row = ServiceRow { excluded: excluded.into(), ..ServiceRow::zeroed() };
        self.tables.service_rows.put(&service, &row)
    }

    /// Keeps the kernel from telling of a file of code again, or lets it.
    ///
    /// # Errors
    /// If the kernel refuses the write.
    pub fn looked_at(&self, file: &CodeFile, looked_at: bool) -> io::Result<()> {
        self.tables.code_files.put(file, if looked_at { &LOOKED_AT } else { &0 })
    }
}

/// The stretches of slots that are in use: each share's are given out in order.
fn used(slots: &[Option<CellKey>]) -> Vec<Range<u32>> {
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for slot in (0..).zip(slots).filter_map(|(slot, key)| key.is_some().then_some(slot)) {
        match ranges.last_mut() {
            // A slot that two CPUs reached for at once stays empty.
            Some(last) if slot - last.end < SHORT_GAP => last.end = slot + 1,
            _ => ranges.push(slot..slot + 1),
        }
    }
    ranges
}

fn service(key: &ServiceKey, entry: ServiceEntry) -> ServiceSeen {
    let name = key.exe.split(|byte| *byte == 0).next().unwrap_or_default();
    ServiceSeen {
        number: entry.service,
        cgroup: key.cgroup,
        cgroup_v1: key.cgroup_v1 != 0,
        executable: String::from_utf8_lossy(name).into_owned(),
        cluster_pid: (key.cluster_pid != 0).then_some(key.cluster_pid),
    }
}

fn peer(key: &PeerKey, number: u32) -> PeerSeen {
    let address = IpAddr::V6(Ipv6Addr::from(key.address)).to_canonical();
    PeerSeen { number, address, port: (key.port != 0).then_some(key.port) }
}

/// `None` while it is not certain that this is Postgres.
fn conversation(entry: &WireEntry, now_ns: u64) -> Option<PostgresSeen> {
    let wire = &entry.wire;
    if wire.phase != Phase::Confirmed as u8 {
        return None;
    }
    let state = match wire.transaction {
        _ if wire.is_active() => PostgresState::Active,
        b'T' | b'E' => PostgresState::IdleInTransaction,
        _ => PostgresState::Idle,
    };
    let waiting_ns = (state == PostgresState::IdleInTransaction).then(|| now_ns.saturating_sub(wire.idle_ns));
    Some(PostgresSeen { role: Role::from_u8(wire.role), database: wire.database, state, waiting_ns })
}

fn connection(known: &Connection, wire: Option<PostgresSeen>) -> Option<ConnectionSeen> {
    let encrypted = PostgresSeen { role: None, database: 0, state: PostgresState::EncryptedUnseen, waiting_ns: None };
    Some(ConnectionSeen {
        inode: known.inode,
        service: known.service,
        peer: known.peer,
        port: known.port,
        family: Family::from_u8(known.family)?,
        tcp_state: (known.tcp_state != 0).then_some(known.tcp_state),
        received_bytes: known.received_bytes,
        sent_bytes: known.sent_bytes,
        postgres: match Protocol::from_u8(known.protocol)? {
            Protocol::Unknown | Protocol::Tls => None,
            Protocol::Postgres | Protocol::PostgresTls => wire,
            Protocol::PostgresEncrypted => Some(encrypted),
        },
    })
}

/// The clock that the kernel programs stamp with.
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, ns) = (u64::try_from(now.tv_sec).unwrap_or_default(), u64::try_from(now.tv_nsec).unwrap_or_default());
    seconds * 1_000_000_000 + ns
}

/// The sum of a counter's copies on all CPUs.
fn sum(copies: &[u8]) -> u64 {
    copies.chunks_exact(8).filter_map(read::<u64>).fold(0, u64::wrapping_add)
}

/// The sum of the copies of what a statement's requests spent.
fn sum_walls(copies: &[u8]) -> [u64; STATES] {
    let mut sum = [0; STATES];
    for copy in copies.chunks_exact(size_of::<StatementWall>()).filter_map(read::<StatementWall>) {
        for (into, from) in sum.iter_mut().zip(copy.ns) {
            *into = u64::wrapping_add(*into, from);
        }
    }
    sum
}

/// The sum of a histogram's copies on all CPUs; it wraps as they do.
fn merge(copies: &[u8]) -> Histogram {
    let mut merged = Histogram::zeroed();
    for copy in copies.chunks_exact(size_of::<Histogram>()).filter_map(read::<Histogram>) {
        merged.sum_ns = merged.sum_ns.wrapping_add(copy.sum_ns);
        for (into, from) in merged.tally.iter_mut().zip(copy.tally) {
            *into = into.wrapping_add(from);
        }
        for (into, from) in merged.buckets.iter_mut().zip(copy.buckets) {
            *into = into.wrapping_add(from);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use steth_probes::record::bytes_of;

    use super::*;

    #[test]
    fn copies_of_all_cpus_are_added_and_wrap() {
        let (mut one, mut two) = (Histogram::zeroed(), Histogram::zeroed());
        one.buckets[3] = u32::MAX;
        two.buckets[3] = 2;
        one.sum_ns = 5;
        two.sum_ns = 6;
        two.tally = [7, 8];
        let mut bytes = bytes_of(&one).to_vec();
        bytes.extend_from_slice(bytes_of(&two));
        let merged = merge(&bytes);
        assert_eq!((merged.buckets[3], merged.sum_ns, merged.tally), (1, 11, [7, 8]));
    }

    #[test]
    fn slots_are_read_in_stretches() {
        let key = Some(CellKey::zeroed());
        let mut slots = vec![None; 40];
        for slot in [1, 2, 5, 20, 39] {
            slots[slot] = key;
        }
        assert_eq!(used(&slots), [1..6, 20..21, 39..40]);
        assert_eq!(used(&[]), []);
    }
}
