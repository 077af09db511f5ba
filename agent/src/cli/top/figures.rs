//! Two scrapes and the time between them -> what is shown. Knows the metrics' names, not how they are drawn.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use clap::ValueEnum;
use serde::Serialize;

use super::exposition::{Scrape, Series};

/// Everything that is looked at.
pub const METRICS: &[&str] = &[
    "namedprocess_namegroup_cpu_seconds_total",
    "namedprocess_namegroup_memory_bytes",
    "namedprocess_namegroup_num_procs",
    "namedprocess_namegroup_open_filedesc",
    "namedprocess_namegroup_worst_fd_ratio",
    "node_cpu_seconds_total",
    "node_disk_read_bytes_total",
    "node_disk_written_bytes_total",
    "node_load1",
    "node_load5",
    "node_load15",
    "node_memory_MemAvailable_bytes",
    "node_memory_MemTotal_bytes",
    "node_network_receive_bytes_total",
    "node_network_transmit_bytes_total",
    "steth_agent_cpu_seconds_total",
    "steth_agent_resident_bytes",
    "steth_alerts",
    "steth_postgres_errors_total",
    "steth_postgres_query_duration_seconds_bucket",
    "steth_postgres_query_duration_seconds_count",
    "steth_records_lost_total",
    "steth_service_wall_seconds_total",
    "steth_syscall_duration_seconds_count",
    "steth_syscall_errors_total",
];

/// What services are sorted by, the most first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// CPU time
    #[default]
    Cpu,
    /// Time that threads waited for a CPU, a disk or a lock
    Waits,
    /// Resident memory
    Memory,
    /// System calls
    Calls,
    /// Postgres queries
    Queries,
    /// Time that the slowest twentieth of Postgres queries takes at least
    P95,
    /// Name, ascending
    Name,
}

/// What is shown of one interval.
#[derive(Debug, Default, Serialize)]
pub struct View {
    /// Length of the interval.
    pub seconds: f64,
    pub host: Host,
    /// Sorted.
    pub services: Vec<Service>,
}

/// The host. What the agent does not export is missing.
#[derive(Debug, Default, Serialize)]
pub struct Host {
    /// By number.
    pub cores: Vec<Core>,
    pub memory_used_bytes: Option<f64>,
    pub memory_bytes: Option<f64>,
    pub load: Option<[f64; 3]>,
    pub disk_read_bytes_per_second: Option<f64>,
    pub disk_written_bytes_per_second: Option<f64>,
    /// All interfaces but loopback.
    pub network_received_bytes_per_second: Option<f64>,
    pub network_sent_bytes_per_second: Option<f64>,
    pub alerts_firing: Option<f64>,
    /// What the agent takes itself, of one core.
    pub agent_cpu_ratio: Option<f64>,
    pub agent_resident_bytes: Option<f64>,
    /// Records lost in the interval.
    pub records_lost: Option<f64>,
}

/// One core: shares of the interval.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Core {
    pub cpu: u32,
    pub user_ratio: f64,
    /// The kernel's own, interrupts included.
    pub system_ratio: f64,
    pub iowait_ratio: f64,
    /// Taken by the hypervisor.
    pub steal_ratio: f64,
}

/// One service. Seconds per second are summed over its threads.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Service {
    pub service: String,
    /// None where all of them lived for less than a look at `/proc`.
    pub processes: Option<f64>,
    pub cpu_cores: Option<f64>,
    /// Threads that were ready while others had the CPU.
    pub run_queue_seconds_per_second: Option<f64>,
    pub disk_seconds_per_second: Option<f64>,
    pub lock_seconds_per_second: Option<f64>,
    pub resident_bytes: Option<f64>,
    pub open_files: Option<f64>,
    /// Of the process that is nearest to its limit.
    pub worst_open_files_ratio: Option<f64>,
    pub syscalls_per_second: Option<f64>,
    pub syscall_errors_per_second: Option<f64>,
    /// At the server's end where the service is a server, else at the client's.
    pub queries_per_second: Option<f64>,
    pub query_p95_seconds: Option<f64>,
    pub query_errors_per_second: Option<f64>,
}

/// What happened between two scrapes, the most by `order` first.
pub fn view(before: &Scrape, now: &Scrape, elapsed: Duration, order: Order) -> View {
    let change = Change { before, now, seconds: elapsed.as_secs_f64() };
    let mut services = services(&change);
    sort(&mut services, order);
    View { seconds: change.seconds, host: host(&change), services }
}

/// Sorts services; those without the figure come last.
pub fn sort(services: &mut [Service], order: Order) {
    let figure = |service: &Service| match order {
        Order::Cpu => service.cpu_cores,
        Order::Waits => {
            let waits = [
                service.run_queue_seconds_per_second,
                service.disk_seconds_per_second,
                service.lock_seconds_per_second,
            ];
            waits.into_iter().flatten().reduce(|left, right| left + right)
        }
        Order::Memory => service.resident_bytes,
        Order::Calls => service.syscalls_per_second,
        Order::Queries => service.queries_per_second,
        Order::P95 => service.query_p95_seconds,
        Order::Name => None,
    };
    services.sort_by(|left, right| {
        let by_figure = figure(right).partial_cmp(&figure(left)).unwrap_or(Ordering::Equal);
        by_figure.then_with(|| left.service.cmp(&right.service))
    });
}

/// Two scrapes and the seconds between them.
struct Change<'a> {
    before: &'a Scrape,
    now: &'a Scrape,
    seconds: f64,
}

impl<'a> Change<'a> {
    /// What the series of a counter grew by. One that was not there before began at zero; one that began anew has lost
    /// what it had.
    fn growth(&self, name: &str) -> impl Iterator<Item = (&'a Series, f64)> + use<'a> {
        let before: HashMap<_, f64> =
            self.before.of(name).iter().map(|series| (series.labels(), series.value)).collect();
        self.now.of(name).iter().map(move |series| {
            let grown = series.value - before.get(series.labels()).copied().unwrap_or(0.0);
            (series, if grown < 0.0 { series.value } else { grown })
        })
    }

    /// What a counter grew by a second, by the value of a label.
    fn rates(&self, name: &str, label: &str, counts: impl Fn(&Series) -> bool) -> BTreeMap<&'a str, f64> {
        let mut rates = BTreeMap::new();
        for (series, grown) in self.growth(name).filter(|(series, _)| counts(series)) {
            *rates.entry(series.label(label)).or_insert(0.0) += grown / self.seconds;
        }
        rates
    }

    /// What a counter grew by a second; `None` if there is none.
    fn rate(&self, name: &str, counts: impl Fn(&Series) -> bool) -> Option<f64> {
        let grown = self.growth(name).filter(|(series, _)| counts(series)).map(|(_, grown)| grown);
        grown.reduce(|left, right| left + right).map(|grown| grown / self.seconds)
    }
}

fn host(change: &Change<'_>) -> Host {
    let now = change.now;
    let total = now.sum("node_memory_MemTotal_bytes");
    let wired = |series: &Series| series.label("device") != "lo";
    let load = || Some([now.sum("node_load1")?, now.sum("node_load5")?, now.sum("node_load15")?]);
    let firing = now.of("steth_alerts").iter().filter(|series| series.label("state") == "firing");
    Host {
        cores: cores(change),
        memory_used_bytes: total
            .zip(now.sum("node_memory_MemAvailable_bytes"))
            .map(|(total, available)| total - available),
        memory_bytes: total,
        load: load(),
        disk_read_bytes_per_second: change.rate("node_disk_read_bytes_total", |_| true),
        disk_written_bytes_per_second: change.rate("node_disk_written_bytes_total", |_| true),
        network_received_bytes_per_second: change.rate("node_network_receive_bytes_total", wired),
        network_sent_bytes_per_second: change.rate("node_network_transmit_bytes_total", wired),
        alerts_firing: firing.map(|series| series.value).reduce(|left, right| left + right),
        agent_cpu_ratio: change.rate("steth_agent_cpu_seconds_total", |_| true),
        agent_resident_bytes: now.sum("steth_agent_resident_bytes"),
        records_lost: change.rate("steth_records_lost_total", |_| true).map(|rate| rate * change.seconds),
    }
}

fn cores(change: &Change<'_>) -> Vec<Core> {
    let mut cores: BTreeMap<u32, (Core, f64)> = BTreeMap::new();
    for (series, grown) in change.growth("node_cpu_seconds_total") {
        let Ok(cpu) = series.label("cpu").parse() else { continue };
        let (core, all) = cores.entry(cpu).or_insert_with(|| (Core { cpu, ..Core::default() }, 0.0));
        *all += grown;
        match series.label("mode") {
            "user" | "nice" => core.user_ratio += grown,
            "system" | "irq" | "softirq" => core.system_ratio += grown,
            "iowait" => core.iowait_ratio += grown,
            "steal" => core.steal_ratio += grown,
            _ => {}
        }
    }
    // The kernel counts in ticks: shares of what it counted are nearer than shares of the interval.
    let shares = |(mut core, all): (Core, f64)| {
        if all > 0.0 {
            for share in [&mut core.user_ratio, &mut core.system_ratio, &mut core.iowait_ratio, &mut core.steal_ratio] {
                *share /= all;
            }
        }
        core
    };
    cores.into_values().map(shares).collect()
}

fn services(change: &Change<'_>) -> Vec<Service> {
    let mut services: BTreeMap<String, Service> = BTreeMap::new();
    let mut put = |name: &str, put: &dyn Fn(&mut Service)| {
        let service = services.entry(name.to_owned());
        put(service.or_insert_with(|| Service { service: name.to_owned(), ..Service::default() }));
    };
    let all = |_: &Series| true;
    for (name, rate) in change.rates("namedprocess_namegroup_cpu_seconds_total", "groupname", all) {
        put(name, &|service| service.cpu_cores = Some(rate));
    }
    for state in ["on_cpu", "run_queue", "disk", "lock"] {
        let of_state = |series: &Series| series.label("state") == state;
        for (name, rate) in change.rates("steth_service_wall_seconds_total", "service", of_state) {
            put(name, &|service| match state {
                // By the scheduler's own events, which miss no process that lived for a millisecond.
                "on_cpu" => service.cpu_cores = Some(rate),
                "run_queue" => service.run_queue_seconds_per_second = Some(rate),
                "disk" => service.disk_seconds_per_second = Some(rate),
                _ => service.lock_seconds_per_second = Some(rate),
            });
        }
    }
    for series in change.now.of("namedprocess_namegroup_num_procs") {
        put(series.label("groupname"), &|service| service.processes = Some(series.value));
    }
    for series in change.now.of("namedprocess_namegroup_memory_bytes") {
        if series.label("memtype") == "resident" {
            put(series.label("groupname"), &|service| service.resident_bytes = Some(series.value));
        }
    }
    for series in change.now.of("namedprocess_namegroup_open_filedesc") {
        put(series.label("groupname"), &|service| service.open_files = Some(series.value));
    }
    for series in change.now.of("namedprocess_namegroup_worst_fd_ratio") {
        put(series.label("groupname"), &|service| service.worst_open_files_ratio = Some(series.value));
    }
    for (name, rate) in change.rates("steth_syscall_duration_seconds_count", "service", all) {
        put(name, &|service| service.syscalls_per_second = Some(rate));
    }
    for (name, rate) in change.rates("steth_syscall_errors_total", "service", all) {
        put(name, &|service| service.syscall_errors_per_second = Some(rate));
    }
    // What is asked as a server counts more than what is asked of others: it comes later.
    for role in ["client", "server"] {
        let of_role = |series: &Series| series.label("role") == role;
        for (name, rate) in change.rates("steth_postgres_query_duration_seconds_count", "service", of_role) {
            put(name, &|service| service.queries_per_second = Some(rate));
        }
        for (name, rate) in change.rates("steth_postgres_errors_total", "service", of_role) {
            put(name, &|service| service.query_errors_per_second = Some(rate));
        }
        for (name, p95) in p95(change, role) {
            put(name, &|service| service.query_p95_seconds = Some(p95));
        }
    }
    services.into_values().filter(has_something).collect()
}

/// Whether there is anything to say of a service: one that is gone leaves counters that stand still.
fn has_something(service: &Service) -> bool {
    let moving = [
        service.cpu_cores,
        service.run_queue_seconds_per_second,
        service.disk_seconds_per_second,
        service.lock_seconds_per_second,
        service.syscalls_per_second,
        service.queries_per_second,
    ];
    service.processes.is_some_and(|processes| processes > 0.0) || moving.into_iter().flatten().any(|rate| rate > 0.0)
}

/// The 95th percentile of the queries of the interval, by service; of those that had any.
fn p95<'a>(change: &Change<'a>, role: &str) -> BTreeMap<&'a str, f64> {
    let mut buckets: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    let name = "steth_postgres_query_duration_seconds_bucket";
    for (series, grown) in change.growth(name).filter(|(series, _)| series.label("role") == role) {
        let Ok(bound) = series.label("le").parse::<f64>() else { continue };
        let buckets = buckets.entry(series.label("service")).or_default();
        match buckets.iter_mut().find(|(other, _)| *other == bound) {
            Some((_, count)) => *count += grown,
            None => buckets.push((bound, grown)),
        }
    }
    buckets.into_iter().filter_map(|(service, buckets)| Some((service, quantile(buckets, 0.95)?))).collect()
}

/// As `histogram_quantile` of Prometheus: evenly spread within a bucket, the last finite bound beyond it.
fn quantile(mut buckets: Vec<(f64, f64)>, share: f64) -> Option<f64> {
    buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
    let total = buckets.last()?.1;
    if total <= 0.0 {
        return None;
    }
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if count >= share * total {
            let within = if count > below { (share * total - below) / (count - below) } else { 1.0 };
            return Some(if bound.is_finite() { lower + (bound - lower) * within } else { lower });
        }
        (lower, below) = (bound, count);
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::catalog::CHAPTERS;

    const BEFORE: &str = "\
node_cpu_seconds_total{cpu=\"0\",mode=\"user\"} 10
node_cpu_seconds_total{cpu=\"0\",mode=\"idle\"} 10
node_memory_MemTotal_bytes 1000
node_memory_MemAvailable_bytes 400
node_network_receive_bytes_total{device=\"lo\"} 0
node_network_receive_bytes_total{device=\"eth0\"} 0
steth_service_wall_seconds_total{service=\"a\",state=\"on_cpu\"} 5
steth_service_wall_seconds_total{service=\"gone\",state=\"on_cpu\"} 5
namedprocess_namegroup_num_procs{groupname=\"b\"} 2
steth_postgres_query_duration_seconds_count{service=\"a\",role=\"client\"} 100
steth_postgres_query_duration_seconds_bucket{service=\"a\",role=\"client\",le=\"0.1\"} 100
steth_postgres_query_duration_seconds_bucket{service=\"a\",role=\"client\",le=\"+Inf\"} 100
";
    const NOW: &str = "\
node_cpu_seconds_total{cpu=\"0\",mode=\"user\"} 11.5
node_cpu_seconds_total{cpu=\"0\",mode=\"idle\"} 10.5
node_memory_MemTotal_bytes 1000
node_memory_MemAvailable_bytes 300
node_network_receive_bytes_total{device=\"lo\"} 900
node_network_receive_bytes_total{device=\"eth0\"} 50
steth_service_wall_seconds_total{service=\"a\",state=\"on_cpu\"} 6
steth_service_wall_seconds_total{service=\"a\",state=\"disk\"} 0.5
steth_service_wall_seconds_total{service=\"gone\",state=\"on_cpu\"} 5
namedprocess_namegroup_num_procs{groupname=\"b\"} 3
namedprocess_namegroup_memory_bytes{groupname=\"b\",memtype=\"virtual\"} 90
namedprocess_namegroup_memory_bytes{groupname=\"b\",memtype=\"resident\"} 9
steth_postgres_query_duration_seconds_count{service=\"a\",role=\"client\"} 300
steth_postgres_query_duration_seconds_bucket{service=\"a\",role=\"client\",le=\"0.1\"} 200
steth_postgres_query_duration_seconds_bucket{service=\"a\",role=\"client\",le=\"0.2\"} 200
steth_postgres_query_duration_seconds_bucket{service=\"a\",role=\"client\",le=\"+Inf\"} 200
";

    fn shown(order: Order) -> View {
        let (before, now) = (Scrape::read(BEFORE, METRICS), Scrape::read(NOW, METRICS));
        view(&before, &now, Duration::from_secs(2), order)
    }

    #[test]
    fn every_metric_that_is_looked_at_is_in_the_catalog() {
        let names: Vec<&str> =
            CHAPTERS.iter().flat_map(|chapter| (chapter.metrics)()).map(|metric| metric.name).collect();
        for metric in METRICS {
            let family = ["_bucket", "_count"].iter().find_map(|suffix| metric.strip_suffix(suffix)).unwrap_or(metric);
            assert!(names.contains(&family), "{metric}");
        }
    }

    #[test]
    fn counters_become_rates_of_the_interval_and_gauges_stand_as_they_are() {
        let View { host, services, seconds } = shown(Order::Cpu);
        assert_eq!(seconds, 2.0);
        assert_eq!(host.cores, [Core { user_ratio: 0.75, ..Core::default() }]);
        assert_eq!((host.memory_used_bytes, host.memory_bytes), (Some(700.0), Some(1000.0)));
        assert_eq!(host.network_received_bytes_per_second, Some(25.0), "loopback does not count");
        assert_eq!((host.load, host.alerts_firing, host.records_lost), (None, None, None));
        let [a, b] = &services[..] else { panic!("what is gone is not shown: {services:?}") };
        assert_eq!((&*a.service, a.cpu_cores, a.disk_seconds_per_second), ("a", Some(0.5), Some(0.25)));
        assert_eq!((a.queries_per_second, a.processes), (Some(100.0), None));
        let p95 = a.query_p95_seconds.unwrap();
        assert!((p95 - 0.095).abs() < 1e-9, "{p95}");
        assert_eq!((&*b.service, b.processes, b.resident_bytes), ("b", Some(3.0), Some(9.0)));
    }

    #[test]
    fn services_without_the_figure_come_last() {
        let names = |order| shown(order).services.into_iter().map(|service| service.service).collect::<Vec<_>>();
        assert_eq!(names(Order::Memory), ["b", "a"]);
        for order in [Order::Cpu, Order::Waits, Order::Queries, Order::P95, Order::Name] {
            assert_eq!(names(order), ["a", "b"], "{order:?}");
        }
    }

    #[test]
    fn a_counter_that_began_anew_counts_from_zero() {
        let (before, now) = (
            Scrape::read("node_disk_read_bytes_total 900\n", METRICS),
            Scrape::read("node_disk_read_bytes_total 40\n", METRICS),
        );
        let shown = view(&before, &now, Duration::from_secs(1), Order::Cpu);
        assert_eq!(shown.host.disk_read_bytes_per_second, Some(40.0));
    }

    #[test]
    fn beyond_the_last_bound_its_value_is_all_that_is_known() {
        assert_eq!(quantile(vec![(1.0, 1.0), (f64::INFINITY, 100.0)], 0.95), Some(1.0));
        assert_eq!(quantile(vec![(1.0, 0.0), (f64::INFINITY, 0.0)], 0.95), None);
    }
}
