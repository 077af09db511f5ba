//! What finding what is unusual takes: a made-up host with as many services as is said, window after window. Prints, in one line:
//! series in a snapshot, tracks that are kept, CPU time of a window in milliseconds (the mean of quiet ones; the most while a tenth of
//! the services become slow at once), findings, and resident megabytes that were added. For `cargo xtask bench correlate`.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use steth::{
    correlate::Correlator,
    model::{
        catalog::CHAPTERS,
        metric::Metric,
        snapshot::{Series, Snapshot, Value},
    },
};

/// As the agent has it: an hour of windows of ten seconds.
const WINDOWS: usize = 360;
const WINDOW: Duration = Duration::from_secs(10);
/// Windows that are measured, and those in which many become slow.
const MEASURED: usize = 100;
const STORM: usize = 20;
/// Durations in a window.
const OBSERVED: usize = 30;
const BEGAN_UNIX_MS: u64 = 1_800_000_000_000;

type Labels = &'static [(&'static str, &'static str)];

/// Of each service: metric, the labels that matter, and what a window adds to it, or where it stands.
const NUMBERS: &[(&str, Labels, f64)] = &[
    ("namedprocess_namegroup_cpu_seconds_total", &[("mode", "user")], 0.5),
    ("namedprocess_namegroup_cpu_seconds_total", &[("mode", "system")], 0.2),
    ("namedprocess_namegroup_memory_bytes", &[("memtype", "resident")], 0.0),
    ("namedprocess_namegroup_major_page_faults_total", &[], 1.0),
    ("namedprocess_namegroup_open_filedesc", &[], 0.0),
    ("namedprocess_namegroup_worst_fd_ratio", &[], 0.0),
    ("namedprocess_namegroup_num_procs", &[], 0.0),
    ("namedprocess_namegroup_oldest_start_time_seconds", &[], 0.0),
    ("namedprocess_namegroup_read_bytes_total", &[], 1e5),
    ("namedprocess_namegroup_write_bytes_total", &[], 1e5),
    ("namedprocess_namegroup_context_switches_total", &[("ctxswitchtype", "nonvoluntary")], 100.0),
    ("steth_service_wall_seconds_total", &[("state", "run_queue")], 0.1),
    ("steth_service_wall_seconds_total", &[("state", "disk")], 0.1),
    ("steth_service_wall_seconds_total", &[("state", "lock")], 0.1),
    ("steth_service_wall_seconds_total", &[("state", "network")], 5.0),
    ("steth_service_wall_seconds_total", &[("state", "sleep")], 5.0),
    ("steth_tcp_bytes_total", &[("peer", "10.0.0.1:5432"), ("direction", "sent")], 1e5),
    ("steth_tcp_bytes_total", &[("peer", "10.0.0.2:6379"), ("direction", "sent")], 1e5),
    ("steth_tcp_connections", &[("state", "listen")], 0.0),
    ("steth_tcp_retransmits_total", &[("peer", "10.0.0.1:5432")], 0.1),
];
const HISTOGRAMS: &[(&str, Labels)] = &[
    ("steth_syscall_duration_seconds", &[("syscall", "futex")]),
    ("steth_syscall_duration_seconds", &[("syscall", "pread64")]),
    ("steth_syscall_duration_seconds", &[("syscall", "fsync")]),
    ("steth_tcp_connect_duration_seconds", &[("peer", "10.0.0.1:5432"), ("outcome", "established")]),
    ("steth_tcp_accept_queue_duration_seconds", &[]),
    ("steth_tcp_rtt_seconds", &[("peer", "10.0.0.1:5432")]),
    ("steth_socket_read_duration_seconds", &[("family", "inet")]),
    ("steth_socket_pickup_delay_seconds", &[("family", "inet")]),
    ("steth_postgres_query_duration_seconds", &[("role", "client"), ("query", "a")]),
    ("steth_postgres_query_duration_seconds", &[("role", "client"), ("query", "b")]),
];

fn metric(name: &str) -> Result<&'static Metric> {
    let mut all = CHAPTERS.iter().flat_map(|chapter| (chapter.metrics)());
    all.find(|metric| metric.name == name).with_context(|| format!("there is no metric {name}"))
}

fn labels(metric: &Metric, service: &str, known: &[(&str, &str)]) -> Vec<String> {
    let value = |label: &&str| match *label {
        "service" | "groupname" => service,
        label => known.iter().find(|(name, _)| *name == label).map_or("x", |(_, value)| value),
    };
    metric.labels.iter().map(|label| value(label).to_owned()).collect()
}

/// The next of evenly distributed numbers from 0.9 to 1.1, the same each time.
fn about(state: &mut u64) -> f64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    0.9 + 0.2 * (*state >> 11) as f64 / (1_u64 << 53) as f64
}

/// A series, whose it is, and what a window adds.
struct Source {
    service: usize,
    gain: f64,
}

fn cpu_ns() -> Result<u64> {
    // Time on a CPU comes first (Linux, Documentation/scheduler/sched-stats.rst).
    let all = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(all.split(' ').next().context("no schedstat")?.parse()?)
}

fn resident_bytes() -> Result<f64> {
    let all = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = all.lines().find_map(|line| line.strip_prefix("Rss:")).context("no Rss")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}

fn main() -> Result<()> {
    let services: usize = std::env::args().nth(1).context("how many services?")?.parse()?;
    let (mut sources, mut series) = (Vec::new(), Vec::new());
    for service in 0..services {
        let name = format!("service-{service}.service");
        for (metric_name, known, gain) in NUMBERS {
            let metric = metric(metric_name)?;
            series.push(Series::number(metric, labels(metric, &name, known), 100.0));
            sources.push(Source { service, gain: *gain });
        }
        for (metric_name, known) in HISTOGRAMS {
            let metric = metric(metric_name)?;
            series.push(Series::histogram(metric, labels(metric, &name, known), Arc::default()));
            sources.push(Source { service, gain: 0.0 });
        }
    }
    let count = series.len();
    let mut snapshot = Snapshot { at_unix_ms: BEGAN_UNIX_MS, series, ..Snapshot::default() };
    let mut state = 0x9E37_79B9_7F4A_7C15;
    step(&mut snapshot, &sources, &mut state, false);
    let before = resident_bytes()?;
    let mut correlator = Correlator::new(WINDOWS, WINDOW);
    let (mut quiet_ms, mut storm_ms) = (0.0, 0.0_f64);
    for window in 0..WINDOWS + MEASURED + STORM {
        let is_storm = window >= WINDOWS + MEASURED;
        step(&mut snapshot, &sources, &mut state, is_storm);
        let began_ns = cpu_ns()?;
        correlator.observe(&snapshot, WINDOW);
        let took_ms = (cpu_ns()? - began_ns) as f64 / 1e6;
        match window {
            _ if is_storm => storm_ms = storm_ms.max(took_ms),
            // The kernel brings a thread's time up to date at its ticks: only many windows together are exact.
            _ if window >= WINDOWS => quiet_ms += took_ms / MEASURED as f64,
            _ => {}
        }
    }
    let added = (resident_bytes()? - before) / 1e6;
    let own = correlator.series();
    let tracks = own.iter().find(|one| one.metric.name == "steth_history_series").context("no count of tracks")?;
    let Value::Number(tracks) = tracks.value else { anyhow::bail!("not a number of tracks") };
    let findings = correlator.findings().len();
    println!("{count} {tracks} {quiet_ms:.3} {storm_ms:.3} {findings} {added:.3}");
    Ok(())
}

/// A window goes by.
fn step(snapshot: &mut Snapshot, sources: &[Source], state: &mut u64, is_storm: bool) {
    snapshot.at_unix_ms += u64::try_from(WINDOW.as_millis()).unwrap_or_default();
    for (one, source) in snapshot.series.iter_mut().zip(sources) {
        let times = if is_storm && source.service.is_multiple_of(10) { 10.0 } else { 1.0 };
        match &mut one.value {
            Value::Number(total) => *total += times * source.gain * about(state),
            Value::Histogram(all) => {
                let all = Arc::make_mut(all);
                (0..OBSERVED).for_each(|_| all.observe_ns((times * 1e7 * about(state)) as u64));
            }
        }
    }
}
