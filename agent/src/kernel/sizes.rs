//! How many entries the largest maps may have, so that all maps and programs together keep to `[kernel] memory`. Knows what
//! the kernel accounts an entry with (Linux 6.18, `htab_map_mem_usage` in `kernel/bpf/hashtab.c`); loads nothing.

use std::ops::RangeInclusive;

use steth_probes::{
    catalog::Feature,
    cell::CellKey,
    histogram::Histogram,
    identity::{ServiceEntry, ServiceKey, ServiceRow},
    limits,
    postgres::{Backends, Cycle, PutOffKey, WireEntry},
    profile::{Target, UnwindFile},
    socket::{Connection, PeerKey},
    tls::{CodeFile, SslKey, SslSocket},
    wall::{ServiceWall, StatementWall},
    watch::ServiceWatch,
};

/// `struct htab_elem`, which stands before each key.
const ELEMENT_BYTES: u64 = 48;
/// A bucket of a hash map; there are as many as entries, rounded up to a power of two.
const BUCKET_BYTES: u64 = 16;
/// Key of a map that is looked into by an address or a hash.
const HASH_KEY: usize = 8;
/// Key of a prepared statement: its connection and its name.
const PREPARED_KEY: usize = 16;
/// Pages of a ring that its data does not fill.
const RING_EXTRA_BYTES: u64 = 20 << 10;
/// Work space of the walker, for each CPU.
const WORK_SPACE_BYTES: u64 = 24 << 10;
/// Where samples are put together, for each CPU.
const PROFILE_SPACE_BYTES: u64 = 16 << 10;
/// Programs that take samples.
const PROFILE_PROGRAM_BYTES: u64 = 128 << 10;
/// Rows of unwind tables that there is always room for.
const LEAST_ROWS: u32 = 4096;
/// Programs, tasks' state, and what the kernel keeps for each map.
const REST_BYTES: u64 = 512 << 10;

/// What was asked for, as far as it decides on the memory of the others.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Bytes that all may take together.
    pub memory_bytes: u64,
    /// CPUs that there may be.
    pub cpus: u64,
    /// Bytes of each ring.
    pub ring_bytes: u32,
    /// Services that are told apart.
    pub services: u32,
    /// Peers that are told apart.
    pub peers: u32,
    /// Statements that are told apart.
    pub statements: u32,
}

/// Entries of the maps that share what the others leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub histograms: u32,
    pub connections: u32,
    pub wires: u32,
    pub ssls: u32,
    pub prepared: u32,
    pub walls: u32,
}

impl Sizes {
    /// Shares of what is left once all that has a fixed size is in.
    pub fn within(wanted: &Wanted) -> Self {
        let left = wanted.memory_bytes.saturating_sub(fixed_bytes(wanted));
        let share = |percent: u64, entry_bytes: u64, most: u32| entries(left / 100 * percent, entry_bytes, 64..=most);
        Self {
            histograms: share(28, histogram_bytes(wanted.cpus), limits::HISTOGRAMS),
            connections: share(18, connection_bytes(), limits::CONNECTIONS),
            wires: share(39, wire_bytes(), limits::WIRES),
            ssls: share(5, ssl_bytes(), limits::SSLS),
            prepared: share(8, prepared_bytes(), limits::PREPARED),
            walls: entries(left / 100 * 2, wall_bytes(wanted.cpus), 16..=limits::WALLS),
        }
    }
}

/// Where cells end that are kept for one share; what follows the last is common to all.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub calls: u32,
    pub tcp: u32,
    pub postgres: u32,
}

impl Ends {
    /// Nothing is kept for a feature that is off. What is common goes to who needs it first: on most hosts calls.
    pub fn within(cells: u32, features: &[Feature]) -> Self {
        let share = |percent: u32, wanted: &[Feature]| {
            if wanted.iter().any(|feature| features.contains(feature)) { cells / 100 * percent } else { 0 }
        };
        let calls = share(30, &[Feature::Syscalls, Feature::Sockets]);
        let tcp = calls + share(15, &[Feature::Tcp]);
        Self { calls, tcp, postgres: tcp + share(25, &[Feature::Postgres]) }
    }
}

/// Bytes of an entry of a hash map, without its bucket.
const fn hash_bytes(key: usize, value: usize) -> u64 {
    ELEMENT_BYTES + key.next_multiple_of(8) as u64 + value.next_multiple_of(8) as u64
}

/// A histogram on each CPU, and its cell's way to it.
const fn histogram_bytes(cpus: u64) -> u64 {
    size_of::<Histogram>() as u64 * cpus + hash_bytes(size_of::<CellKey>(), 4)
}

const fn connection_bytes() -> u64 {
    hash_bytes(HASH_KEY, size_of::<Connection>())
}

const fn wire_bytes() -> u64 {
    hash_bytes(HASH_KEY, size_of::<WireEntry>())
}

const fn ssl_bytes() -> u64 {
    hash_bytes(size_of::<SslKey>(), size_of::<SslSocket>())
}

const fn prepared_bytes() -> u64 {
    hash_bytes(PREPARED_KEY, 4)
}

/// What a statement spent, on each CPU.
const fn wall_bytes(cpus: u64) -> u64 {
    hash_bytes(size_of::<CellKey>(), 8) + size_of::<StatementWall>() as u64 * cpus
}

/// Rows of unwind tables that there is room for, with all that profiles take beside them within so many bytes.
pub fn unwind_rows(memory_bytes: u64, cpus: u64) -> u32 {
    let fixed = u64::from(limits::SAMPLES_BYTES)
        + RING_EXTRA_BYTES
        + map_bytes(limits::UNWIND_FILES, hash_bytes(size_of::<CodeFile>(), size_of::<UnwindFile>()))
        + map_bytes(limits::TARGETS, hash_bytes(size_of::<Target>(), 8))
        + cpus * PROFILE_SPACE_BYTES
        + PROFILE_PROGRAM_BYTES;
    // For each eight rows there is room for one entry of a page, which takes as much as one of them.
    let row_bytes = size_of::<u64>() as u64;
    let rows = memory_bytes.saturating_sub(fixed) / (row_bytes + row_bytes / 8);
    u32::try_from(rows / 8 * 8).unwrap_or(u32::MAX).max(LEAST_ROWS)
}

/// A whole hash map.
fn map_bytes(entries: u32, entry_bytes: u64) -> u64 {
    u64::from(entries) * entry_bytes + u64::from(entries).next_power_of_two() * BUCKET_BYTES
}

/// As many entries as there is room for, within these bounds.
fn entries(bytes: u64, entry_bytes: u64, bounds: RangeInclusive<u32>) -> u32 {
    let fitting = |buckets: u64| bytes.saturating_sub(buckets * BUCKET_BYTES) / entry_bytes;
    // Their number asks for no more buckets than were taken off.
    let entries = fitting((bytes / entry_bytes).next_power_of_two());
    u32::try_from(entries).unwrap_or(u32::MAX).clamp(*bounds.start(), *bounds.end())
}

/// What does not depend on the shares.
fn fixed_bytes(wanted: &Wanted) -> u64 {
    let &Wanted { cpus, ring_bytes, services, peers, statements, .. } = wanted;
    let counter = hash_bytes(size_of::<CellKey>(), 8) + 8 * cpus;
    let of_service = (size_of::<ServiceRow>() + size_of::<ServiceWatch>() + size_of::<ServiceWall>()) as u64;
    2 * (u64::from(ring_bytes) + RING_EXTRA_BYTES)
        + map_bytes(limits::COUNTERS, counter)
        + u64::from(services) * of_service
        + map_bytes(services, hash_bytes(size_of::<ServiceKey>(), size_of::<ServiceEntry>()))
        + map_bytes(peers, hash_bytes(size_of::<PeerKey>(), 4))
        + map_bytes(statements, hash_bytes(HASH_KEY, 4))
        + map_bytes(limits::DATABASES, hash_bytes(HASH_KEY, 4))
        + map_bytes(limits::CYCLES_PUT_OFF, hash_bytes(size_of::<PutOffKey>(), size_of::<Cycle>()))
        + map_bytes(limits::CODE_FILES, hash_bytes(size_of::<CodeFile>(), 8))
        + map_bytes(limits::CLUSTERS, hash_bytes(4, size_of::<Backends>()))
        + cpus * WORK_SPACE_BYTES
        + REST_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Wanted =
        Wanted { memory_bytes: 32 << 20, cpus: 2, ring_bytes: 1 << 20, services: 1024, peers: 1024, statements: 1000 };

    fn total_bytes(wanted: &Wanted) -> u64 {
        let Sizes { histograms, connections, wires, ssls, prepared, walls } = Sizes::within(wanted);
        fixed_bytes(wanted)
            + map_bytes(histograms, histogram_bytes(wanted.cpus))
            + map_bytes(connections, connection_bytes())
            + map_bytes(wires, wire_bytes())
            + map_bytes(ssls, ssl_bytes())
            + map_bytes(prepared, prepared_bytes())
            + map_bytes(walls, wall_bytes(wanted.cpus))
    }

    #[test]
    fn all_maps_and_programs_keep_to_the_budget() {
        for mebibytes in [8, 16, 24, 32, 64, 256, 1024] {
            for cpus in [1, 2, 4, 16, 64, 256] {
                let wanted = Wanted { memory_bytes: mebibytes << 20, cpus, ..DEFAULT };
                let left = wanted.memory_bytes.saturating_sub(fixed_bytes(&wanted));
                // The least that every map has may be more than its share.
                if left / 100 * 28 < map_bytes(64, histogram_bytes(cpus)) {
                    continue;
                }
                let total = total_bytes(&wanted);
                assert!(total <= wanted.memory_bytes, "{total} bytes of {mebibytes} MiB on {cpus} CPUs");
            }
        }
    }

    #[test]
    fn by_default_ten_thousand_postgres_connections_fit() {
        let sizes = Sizes::within(&DEFAULT);
        assert!(sizes.wires >= 10_000 && sizes.ssls >= 10_000 && sizes.connections >= 20_000, "{sizes:?}");
        assert!(total_bytes(&DEFAULT) > DEFAULT.memory_bytes / 100 * 95, "what is there is used");
    }
}
