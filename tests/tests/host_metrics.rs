//! The host's metrics against those of Debian's node_exporter, value by value: it is read before and after us.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStderr, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use steth::{
    host::{Family, Options, Reader},
    model::{
        catalog,
        metric::{Kind, Metric},
        snapshot::{Series, Value},
    },
};
use steth_tests::exposition::{Exposition, Sample};

/// The exporter's defaults, where Debian's differ: loopback is shown, and so are /run, /mnt and /media.
const UPSTREAM_DEFAULTS: [&str; 2] = [
    "--collector.netdev.device-exclude=^$",
    "--collector.filesystem.mount-points-exclude=\
     ^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)",
];

/// What node_exporter shows in the families that we claim, and we do not.
const LEFT_OUT: [&str; 1] = [
    // Would need the time zone database.
    "node_time_zone_offset_seconds",
];

/// A gauge may move between two readings, so it has this many chances to stand still; a counter has to fit each time.
const ROUNDS: usize = 30;

/// A running node_exporter; ended when dropped.
struct Exporter {
    child: Child,
    address: SocketAddr,
    // Held so that the exporter can go on writing its log.
    _log: BufReader<ChildStderr>,
}

impl Exporter {
    /// `None` when it is not installed.
    fn start() -> Result<Option<Self>> {
        // The port that was free a moment ago may be taken now: then the exporter ends, and another is tried.
        for _ in 0..5 {
            let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            let mut command = Command::new("prometheus-node-exporter");
            command.arg("--collector.disable-defaults").args(UPSTREAM_DEFAULTS);
            command.arg(format!("--web.listen-address={address}"));
            command.args(Family::ALL.iter().map(|family| format!("--collector.{}", family.name())));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let log = child.stderr.take().context("its log was piped")?;
            let mut exporter = Self { child, address, _log: BufReader::new(log) };
            let mut line = String::new();
            while exporter._log.read_line(&mut line)? > 0 {
                if line.contains("Listening on") {
                    return Ok(Some(exporter));
                }
                line.clear();
            }
        }
        bail!("node_exporter ended five times before it listened");
    }

    fn scrape(&self) -> Result<Exposition> {
        let mut stream = TcpStream::connect(self.address)?;
        write!(stream, "GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no end of the headers")?;
        if !head.contains(" 200 ") {
            bail!("{head}");
        }
        Exposition::parse(body)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A series as both sides have it: name and labels.
type Key = (String, BTreeMap<String, String>);

fn of_exporter(scrape: &Exposition) -> BTreeMap<Key, f64> {
    let is_host = |sample: &&Sample| {
        sample.name.starts_with("node_")
            && !sample.name.starts_with("node_scrape_")
            && !sample.name.starts_with("node_exporter_")
            && !LEFT_OUT.contains(&sample.name.as_str())
    };
    scrape
        .samples
        .iter()
        .filter(is_host)
        .map(|sample| ((sample.name.clone(), sample.labels.clone()), sample.value))
        .collect()
}

fn of_ours(series: &[Series]) -> BTreeMap<Key, (&'static Metric, f64)> {
    series
        .iter()
        .map(|series| {
            let Value::Number(value) = series.value else { panic!("{} is no number", series.metric.name) };
            let labels =
                series.metric.labels.iter().map(|label| (*label).to_owned()).zip(series.labels.iter().cloned());
            ((series.metric.name.to_owned(), labels.collect()), (series.metric, value))
        })
        .collect()
}

/// Whether a value that only grows stands behind this metric. The kernel's tables are untyped in node_exporter and
/// gauges here, though nearly all of them count.
fn only_grows(metric: &Metric) -> bool {
    let is_table = metric.name.starts_with("node_netstat_") || metric.name.starts_with("node_vmstat_");
    let is_state = ["node_netstat_Tcp_CurrEstab", "node_netstat_Ip_Forwarding"].contains(&metric.name);
    metric.kind == Kind::Counter || (is_table && !is_state) || metric.name == "node_time_seconds"
}

fn is_between(metric: &Metric, ours: f64, before: f64, after: f64) -> bool {
    let tolerance = match metric.name {
        // The kernel computes idle time anew for each reader, from a clock that is not that of the others: a tick
        // or two. See get_idle_time in fs/proc/stat.c.
        "node_cpu_seconds_total" => 0.03,
        _ if only_grows(metric) => before.abs() * 1e-9,
        _ => before.abs().max(after.abs()) * 1e-3,
    };
    (before.min(after) - tolerance..=before.max(after) + tolerance).contains(&ours)
}

#[test]
fn every_value_lies_between_two_readings_of_node_exporter() -> Result<()> {
    let Some(exporter) = Exporter::start()? else {
        println!("skipped: prometheus-node-exporter is not installed");
        return Ok(());
    };
    let mut reader = Reader::new(Options::default());
    let mut unsettled = BTreeMap::new();
    for round in 0..ROUNDS {
        let before = of_exporter(&exporter.scrape()?);
        // A scrape counts its own connection, so there is one while we read, too.
        let connection = TcpStream::connect(exporter.address)?;
        let (series, problems) = reader.read();
        drop(connection);
        let after = of_exporter(&exporter.scrape()?);
        assert!(problems.iter().all(|problem| matches!(problem, steth::host::Problem::Absent { .. })), "{problems:?}");
        let ours = of_ours(&series);
        assert_eq!(ours.len(), series.len(), "a series stands twice");

        let mut doubts = BTreeMap::new();
        for (key, (metric, value)) in &ours {
            match (before.get(key), after.get(key)) {
                (Some(before), Some(after)) if is_between(metric, *value, *before, *after) => {}
                (Some(before), Some(after)) => {
                    let doubt = format!("{value} is not between {before} and {after}");
                    assert!(!only_grows(metric), "{key:?}: {doubt}");
                    doubts.insert(key.clone(), doubt);
                }
                _ => drop(doubts.insert(key.clone(), "node_exporter does not have it".to_owned())),
            }
        }
        for key in before.keys().filter(|key| after.contains_key(*key) && !ours.contains_key(*key)) {
            doubts.insert(key.clone(), "we do not have it".to_owned());
        }
        // What was right once is right; what was not is looked at again.
        if round == 0 {
            unsettled = doubts;
        } else {
            unsettled.retain(|key, _| doubts.contains_key(key));
        }
        if unsettled.is_empty() {
            assert!(ours.len() > 200, "only {} series were compared", ours.len());
            println!("{} series, round {}", ours.len(), round + 1);
            return Ok(());
        }
    }
    bail!("{unsettled:#?}");
}

#[test]
fn names_help_and_types_are_node_exporters() -> Result<()> {
    let Some(exporter) = Exporter::start()? else {
        println!("skipped: prometheus-node-exporter is not installed");
        return Ok(());
    };
    let scrape = exporter.scrape()?;
    let theirs: BTreeSet<String> = of_exporter(&scrape).into_keys().map(|(name, _)| name).collect();
    let catalog: BTreeMap<&str, &Metric> = catalog::host::all().map(|metric| (metric.name, metric)).collect();
    let lacking: Vec<&String> = theirs.iter().filter(|name| !catalog.contains_key(name.as_str())).collect();
    assert!(lacking.is_empty(), "node_exporter has, and we lack: {lacking:?}");
    assert!(theirs.len() > 150, "node_exporter has only {}", theirs.len());
    for name in &theirs {
        let metric = catalog[name.as_str()];
        assert_eq!(metric.help, scrape.help[name], "{name}");
        let kind = match scrape.types[name].as_str() {
            "counter" => Kind::Counter,
            "gauge" | "untyped" => Kind::Gauge,
            other => panic!("{name} is a {other}"),
        };
        assert_eq!(metric.kind, kind, "{name}");
    }
    Ok(())
}
