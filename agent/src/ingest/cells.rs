//! Reads all cells of one moment.

use std::io;

use steth_probes::{
    cell::{CellKey, CounterKind, HistogramKind, LOSSES, Loss},
    histogram::Histogram,
    identity::{ServiceEntry, ServiceKey, ServiceRow},
    postgres::WireEntry,
    record::read,
    socket::{Connection, PeerKey},
};

use crate::kernel::Tables;

/// The kernel's maps at one moment. Counts are totals since the programs were loaded.
#[derive(Debug, Default)]
pub struct Reading {
    /// Histogram cells that have a slot, each the sum over CPUs; buckets wrap.
    pub histograms: Vec<(HistogramKind, CellKey, Histogram)>,
    /// Counter cells.
    pub counters: Vec<(CounterKind, CellKey, u64)>,
    /// What was not counted, by [`Loss`].
    pub losses: Vec<(Loss, u64)>,
    /// Services with their keys.
    pub services: Vec<ServiceSeen>,
    /// Peers with their keys.
    pub peers: Vec<PeerEntry>,
    /// Sockets.
    pub connections: Vec<(u64, Connection)>,
    /// Postgres conversations, by the address of their socket.
    pub wires: Vec<(u64, WireEntry)>,
    /// Entries that could not be decoded.
    pub malformed: u64,
}

/// A service that the kernel has met.
#[derive(Clone, Copy, Debug)]
pub struct ServiceSeen {
    /// What tells it apart.
    pub key: ServiceKey,
    /// Its number and a process of it.
    pub entry: ServiceEntry,
}

/// A peer that the kernel has met.
#[derive(Clone, Copy, Debug)]
pub struct PeerEntry {
    /// What tells it apart.
    pub key: PeerKey,
    /// Its number.
    pub number: u32,
}

/// Reads cells; keeps the buffers for it.
#[derive(Debug)]
pub struct Cells {
    tables: Tables,
    slots: Vec<Option<CellKey>>,
}

impl Cells {
    /// A reader of these maps.
    pub fn new(tables: Tables) -> Self {
        Self { tables, slots: Vec::new() }
    }

    /// Reads everything.
    ///
    /// # Errors
    /// If the kernel refuses to give a map's entries.
    pub fn read(&mut self) -> io::Result<Reading> {
        let mut reading = Reading::default();
        self.read_histograms(&mut reading)?;
        let Tables { services, counters, losses, connections, peers, wires, cpus, .. } = &mut self.tables;
        let malformed = &mut reading.malformed;

        counters.visit(u32::MAX, |key, values| {
            let decoded = read::<CellKey>(key).and_then(|key| Some((CounterKind::from_u8(key.kind)?, key)));
            match decoded {
                Some((kind, key)) => reading.counters.push((kind, key, sum(values))),
                None => *malformed += 1,
            }
        })?;
        losses.visit(LOSSES, |key, values| {
            let loss = read::<u32>(key).and_then(|key| Loss::from_u8(u8::try_from(key).ok()?));
            match loss {
                Some(loss) => reading.losses.push((loss, sum(values))),
                None => *malformed += 1,
            }
        })?;
        services.visit(u32::MAX, |key, value| match (read(key), read(value)) {
            (Some(key), Some(entry)) => reading.services.push(ServiceSeen { key, entry }),
            _ => *malformed += 1,
        })?;
        peers.visit(u32::MAX, |key, value| match (read(key), read(value)) {
            (Some(key), Some(number)) => reading.peers.push(PeerEntry { key, number }),
            _ => *malformed += 1,
        })?;
        connections.visit(u32::MAX, |key, value| match (read(key), read(value)) {
            (Some(sock), Some(connection)) => reading.connections.push((sock, connection)),
            _ => *malformed += 1,
        })?;
        wires.visit(u32::MAX, |key, value| match (read(key), read(value)) {
            (Some(sock), Some(wire)) => reading.wires.push((sock, wire)),
            _ => *malformed += 1,
        })?;
        debug_assert!(*cpus > 0);
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
        // Slots are given out in order, so reading stops behind the last one that is in use.
        let used = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        self.tables.histograms.visit(used, |slot, copies| {
            let Some(Some(key)) = read::<u32>(slot).and_then(|slot| slots.get(slot as usize)) else { return };
            match HistogramKind::from_u8(key.kind) {
                Some(kind) => reading.histograms.push((kind, *key, merge(copies))),
                None => *malformed += 1,
            }
        })
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
}

/// The sum of a counter's copies on all CPUs.
fn sum(copies: &[u8]) -> u64 {
    copies.chunks_exact(8).filter_map(read::<u64>).fold(0, u64::wrapping_add)
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
}
