//! What OpenTelemetry calls our metrics and labels (semantic conventions 1.37, opentelemetry.io/docs/specs/semconv): the one table
//! of it. What has no name there keeps ours.

/// What a metric is called.
#[derive(Debug)]
pub struct Name {
    /// Ours.
    pub ours: &'static str,
    /// Only the series with this value of this label; the others keep our name.
    pub only: Option<(&'static str, &'static str)>,
    /// Theirs.
    pub theirs: &'static str,
    /// UCUM.
    pub unit: &'static str,
    /// What the name says with us and an attribute with them.
    pub attribute: Option<(&'static str, &'static str)>,
}

/// Labels whose value is the service that did it: a resource of its own.
pub const SERVICE_LABELS: &[&str] = &["service", "groupname"];

/// Metrics. Several of ours may have one name of theirs, told apart by an attribute.
pub const NAMES: &[Name] = &[
    plain("node_cpu_seconds_total", "system.cpu.time", "s"),
    plain("node_load1", "system.cpu.load_average.1m", "{thread}"),
    plain("node_load5", "system.cpu.load_average.5m", "{thread}"),
    plain("node_load15", "system.cpu.load_average.15m", "{thread}"),
    plain("node_memory_MemTotal_bytes", "system.memory.limit", "By"),
    plain("node_memory_MemAvailable_bytes", "system.linux.memory.available", "By"),
    with("node_memory_MemFree_bytes", "system.memory.usage", "By", ("system.memory.state", "free")),
    with("node_memory_Cached_bytes", "system.memory.usage", "By", ("system.memory.state", "cached")),
    with("node_memory_Buffers_bytes", "system.memory.usage", "By", ("system.memory.state", "buffers")),
    with("node_memory_SReclaimable_bytes", "system.linux.memory.slab.usage", "By", SLAB_RECLAIMABLE),
    with("node_memory_SUnreclaim_bytes", "system.linux.memory.slab.usage", "By", SLAB_UNRECLAIMABLE),
    with("node_disk_read_bytes_total", "system.disk.io", "By", ("disk.io.direction", "read")),
    with("node_disk_written_bytes_total", "system.disk.io", "By", ("disk.io.direction", "write")),
    with("node_disk_reads_completed_total", "system.disk.operations", "{operation}", ("disk.io.direction", "read")),
    with("node_disk_writes_completed_total", "system.disk.operations", "{operation}", ("disk.io.direction", "write")),
    with("node_disk_reads_merged_total", "system.disk.merged", "{operation}", ("disk.io.direction", "read")),
    with("node_disk_writes_merged_total", "system.disk.merged", "{operation}", ("disk.io.direction", "write")),
    with("node_disk_read_time_seconds_total", "system.disk.operation_time", "s", ("disk.io.direction", "read")),
    with("node_disk_write_time_seconds_total", "system.disk.operation_time", "s", ("disk.io.direction", "write")),
    plain("node_disk_io_time_seconds_total", "system.disk.io_time", "s"),
    plain("node_filesystem_size_bytes", "system.filesystem.limit", "By"),
    with("node_filesystem_avail_bytes", "system.filesystem.usage", "By", ("system.filesystem.state", "free")),
    with("node_network_receive_bytes_total", "system.network.io", "By", RECEIVE),
    with("node_network_transmit_bytes_total", "system.network.io", "By", TRANSMIT),
    with("node_network_receive_packets_total", "system.network.packet.count", "{packet}", RECEIVE),
    with("node_network_transmit_packets_total", "system.network.packet.count", "{packet}", TRANSMIT),
    with("node_network_receive_drop_total", "system.network.packet.dropped", "{packet}", RECEIVE),
    with("node_network_transmit_drop_total", "system.network.packet.dropped", "{packet}", TRANSMIT),
    with("node_network_receive_errs_total", "system.network.errors", "{error}", RECEIVE),
    with("node_network_transmit_errs_total", "system.network.errors", "{error}", TRANSMIT),
    plain("node_forks_total", "system.process.created", "{process}"),
    plain("namedprocess_namegroup_cpu_seconds_total", "process.cpu.time", "s"),
    only(("memtype", "resident"), "namedprocess_namegroup_memory_bytes", "process.memory.usage", "By"),
    only(("memtype", "virtual"), "namedprocess_namegroup_memory_bytes", "process.memory.virtual", "By"),
    plain("namedprocess_namegroup_open_filedesc", "process.unix.file_descriptor.count", "{file_descriptor}"),
    plain("namedprocess_namegroup_num_threads", "process.thread.count", "{thread}"),
    plain("namedprocess_namegroup_context_switches_total", "process.context_switches", "{context_switch}"),
    with("namedprocess_namegroup_read_bytes_total", "process.disk.io", "By", ("disk.io.direction", "read")),
    with("namedprocess_namegroup_write_bytes_total", "process.disk.io", "By", ("disk.io.direction", "write")),
    with("namedprocess_namegroup_major_page_faults_total", "process.paging.faults", "{fault}", MAJOR),
    with("namedprocess_namegroup_minor_page_faults_total", "process.paging.faults", "{fault}", MINOR),
    only(("role", "client"), "steth_postgres_query_duration_seconds", "db.client.operation.duration", "s"),
];

/// Labels, wherever they stand.
pub const ATTRIBUTES: &[(&str, &str)] = &[
    ("cpu", "cpu.logical_number"),
    ("ctxswitchtype", "process.context_switch.type"),
    ("database", "db.namespace"),
    ("device", "system.device"),
    ("errno", "error.type"),
    ("fstype", "system.filesystem.type"),
    ("mode", "cpu.mode"),
    ("mountpoint", "system.filesystem.mountpoint"),
    ("operation", "db.operation.name"),
    ("peer", "network.peer.address"),
    ("query", "db.query.fingerprint"),
    ("sqlstate", "db.response.status_code"),
];

/// What single events are: alerts, findings, queries.
pub mod event {
    /// An alert that began, was acknowledged, or is over.
    pub const ALERT: &str = "steth.alert";
    /// A finding that began, or is over.
    pub const FINDING: &str = "steth.finding";
    /// A query that was slow, or failed.
    pub const QUERY: &str = "steth.postgres.query";
}

/// Fields of single events, by their names in our JSON. What has no row bears the event's name before its own.
pub const FIELDS: &[(&str, &str, &str)] = &[
    (event::QUERY, "database", "db.namespace"),
    (event::QUERY, "operation", "db.operation.name"),
    (event::QUERY, "peer", "network.peer.address"),
    (event::QUERY, "pid", "process.pid"),
    (event::QUERY, "query", "db.query.fingerprint"),
    (event::QUERY, "rows", "db.response.returned_rows"),
    (event::QUERY, "sqlstate", "db.response.status_code"),
    (event::QUERY, "statement", "db.query.text"),
    (event::QUERY, "summary", "db.query.summary"),
    (event::QUERY, "tid", "thread.id"),
    (event::QUERY, "user", "user.name"),
];

/// What every event of a kind says.
pub const CONSTANTS: &[(&str, &str, &str)] = &[(event::QUERY, "db.system.name", "postgresql")];

/// How grave an event is (SeverityNumber of logs.proto, with its short name).
pub mod severity {
    /// Good to know.
    pub const INFO: (i32, &str) = (9, "INFO");
    /// Somebody should look.
    pub const WARN: (i32, &str) = (13, "WARN");
    /// Somebody must look.
    pub const ERROR: (i32, &str) = (17, "ERROR");
}

const RECEIVE: (&str, &str) = ("network.io.direction", "receive");
const TRANSMIT: (&str, &str) = ("network.io.direction", "transmit");
const MAJOR: (&str, &str) = ("system.paging.fault.type", "major");
const MINOR: (&str, &str) = ("system.paging.fault.type", "minor");
const SLAB_RECLAIMABLE: (&str, &str) = ("linux.memory.slab.state", "reclaimable");
const SLAB_UNRECLAIMABLE: (&str, &str) = ("linux.memory.slab.state", "unreclaimable");

/// The row of a series of this metric, found by its labels.
pub fn name(metric: &str, label: impl Fn(&str) -> Option<String>) -> Option<&'static Name> {
    let meant = |row: &&Name| row.only.is_none_or(|(name, value)| label(name).as_deref() == Some(value));
    NAMES.iter().filter(|row| row.ours == metric).find(meant)
}

/// The attribute that a label becomes.
pub fn attribute(label: &str) -> &str {
    ATTRIBUTES.iter().find(|(ours, _)| *ours == label).map_or(label, |(_, theirs)| theirs)
}

/// The attribute that a field of an event becomes.
pub fn field(event: &str, field: &str) -> String {
    let row = FIELDS.iter().find(|(of, ours, _)| *of == event && *ours == field);
    row.map_or_else(|| format!("{event}.{field}"), |(_, _, theirs)| (*theirs).to_owned())
}

/// The unit that one of our names says.
pub fn unit(metric: &str) -> &'static str {
    let stem = metric.strip_suffix("_total").unwrap_or(metric);
    match stem.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        Some("ratio") => "1",
        _ => "",
    }
}

const fn plain(ours: &'static str, theirs: &'static str, unit: &'static str) -> Name {
    Name { ours, only: None, theirs, unit, attribute: None }
}

const fn with(
    ours: &'static str,
    theirs: &'static str,
    unit: &'static str,
    attribute: (&'static str, &'static str),
) -> Name {
    Name { ours, only: None, theirs, unit, attribute: Some(attribute) }
}

const fn only(
    only: (&'static str, &'static str),
    ours: &'static str,
    theirs: &'static str,
    unit: &'static str,
) -> Name {
    Name { ours, only: Some(only), theirs, unit, attribute: None }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::model::{
        catalog::CHAPTERS,
        metric::{Kind, Metric},
    };

    fn catalog() -> Vec<&'static Metric> {
        CHAPTERS.iter().flat_map(|chapter| (chapter.metrics)()).collect()
    }

    #[test]
    fn every_row_names_a_metric_of_the_catalog_and_labels_that_it_has() {
        let catalog = catalog();
        for row in NAMES {
            let metric = catalog.iter().find(|metric| metric.name == row.ours).unwrap_or_else(|| panic!("{row:?}"));
            assert!(row.only.is_none_or(|(label, _)| metric.labels.contains(&label)), "{row:?}");
        }
        for (label, _) in ATTRIBUTES {
            assert!(catalog.iter().any(|metric| metric.labels.contains(label)), "{label}");
        }
    }

    #[test]
    fn series_that_share_a_name_are_of_one_kind_and_told_apart() {
        let catalog = catalog();
        let kind = |row: &Name| {
            let metric = catalog.iter().find(|metric| metric.name == row.ours).unwrap();
            (matches!(metric.kind, Kind::Counter), metric.labels.len(), row.unit)
        };
        let mut told_apart = HashSet::new();
        for row in NAMES {
            assert!(told_apart.insert((row.theirs, row.attribute, row.only)), "{row:?}");
            let same = NAMES.iter().find(|other| other.theirs == row.theirs).unwrap();
            assert_eq!(kind(row), kind(same), "{row:?}");
        }
    }

    #[test]
    fn units_are_those_that_names_end_in() {
        assert_eq!(unit("steth_wait_seconds"), "s");
        assert_eq!(unit("steth_bytes_total"), "By");
        assert_eq!(unit("node_load1"), "");
    }
}
