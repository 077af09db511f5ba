//! What it costs to send each window to central endpoints and to tell of alerts, and how soon somebody is told.

mod mail;
mod receiver;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use self::{mail::MailServer, receiver::Receiver};
use super::{
    Context,
    agent::Agent,
    interrupt,
    process::{self, Process, memory_mib},
    report::{Bound, Compare, Findings, figure, shown},
    rounds::{Quartiles, Variant, alternate},
    scrape::Services,
};

pub const WHAT: &str = "\
    An agent that is scraped every 10 s and has 3,000 series with a histogram as one (short processes of many names make \
    them), without sinks (`alerts.enabled = false`, no `[send.to]`) and with all of them at once: remote write 1.0 and 2.0, \
    OTLP metrics and logs, profiles to Pyroscope and Parca, the shipped rules, a rule that fires all the time, a webhook, \
    Alertmanager's API, Slack and mail; each window of 10 s goes to all. Pieces of the profile last a minute in both, a tenth \
    of what they do otherwise, so that each leg sends some. Receivers are servers on loopback that take everything. Each leg is an agent of its own: processor time is user and system of all \
    its threads over 60 s (/proc/PID/stat), resident memory VmRSS at their end. Of the processor \
    time those of the threads that send, and of what `steth_alert_evaluation_seconds_total` says, stand by themselves: where \
    a host is not at rest, they are the better measure. Bytes are those of bodies.";

pub const TELLING: &str = "\
    How soon somebody is told: from the start of a process, which a rule takes for an alert, to the last byte at a webhook on \
    loopback, with windows of 1 s. Then a storm: 500 processes within half a minute, each an alert of two rules, with windows \
    of 10 s and the pace that is the default, to the same webhook.";

const STEP: usize = 10;
const LEG: Duration = Duration::from_secs(60);
const SCRAPE_INTERVAL: Duration = Duration::from_secs(10);
/// Names that are new, windows that are the first.
const SETTLE: Duration = Duration::from_secs(12);
const CAUSES: usize = 30;
const STORM: usize = 500;
const STORM_BEGINS: Duration = Duration::from_secs(30);
const STORM_LASTS: Duration = Duration::from_secs(150);
const TOLD: Duration = Duration::from_secs(10);
const PROGRAM: &str = "/bin/sleep";

pub fn telling(context: &Context, findings: &mut Findings) -> Result<()> {
    told(context, findings)?;
    storm(context, findings)
}

/// Folders of one agent, and what it is told of them.
struct Place {
    folder: TempDir,
    configuration: String,
}

impl Place {
    fn new(sections: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("steth-bench-").tempdir()?;
        let at = folder.path().display();
        let configuration = format!(
            "send.folder = \"{at}/send\"\nprofile.folder = \"{at}/profiles\"\nalerts.folder = \"{at}/alerts\"\n\
             profile.piece = \"1m\"\nlimits.shown_services = 1000\n{sections}"
        );
        Ok(Self { folder, configuration })
    }

    fn with_rules(sections: &str, rules: &str) -> Result<Self> {
        let mut place = Self::new("")?;
        let file = place.put_rules(rules)?;
        place.configuration.push_str(&format!("alerts.files = [{:?}]\n{sections}", file.display().to_string()));
        Ok(place)
    }

    fn put_rules(&self, rules: &str) -> Result<PathBuf> {
        let file = self.folder.path().join("rules.toml");
        fs::write(&file, rules)?;
        Ok(file)
    }
}

fn webhook(receiver: &Receiver) -> String {
    format!("[[channel]]\nname = \"hook\"\nkind = \"webhook\"\nendpoint = {{ url = {:?} }}\n", receiver.url("/hook"))
}

/// A rule that takes each of these services for an alert.
fn rule(name: &str, metric: &str, services: &str) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\nmetric = \"{metric}\"\nmatch = {{ groupname = \"{services}\" }}\nabove = 0.5\n\
         summary = \"{{groupname}} is there\"\n"
    )
}

/// Destinations: name, protocol, path, and what is sent, for the page.
const DESTINATIONS: [(&str, &str, &str, &str); 6] = [
    ("write", "remote-write", "/write", "remote write 1.0, snappy; samples"),
    ("write2", "remote-write-2", "/write2", "remote write 2.0, snappy; samples"),
    ("otlp", "otlp", "/v1/metrics", "OTLP, gzip; data points"),
    ("logs", "otlp-logs", "/v1/logs", "OTLP, gzip; records of logs"),
    ("pyroscope", "pyroscope", "/ingest", "Pyroscope, pprof; profiles"),
    ("parca", "parca", "/profiles/writeraw", "Parca, pprof in JSON; profiles"),
];

/// What sending costs.
pub fn sending(context: &Context, findings: &mut Findings) -> Result<()> {
    let (receiver, mails) = (Receiver::start()?, MailServer::start()?);
    let (mut sent, mut series) = (Vec::new(), (0, 0));
    let results = alternate(
        context.rounds,
        &["processor time", "resident memory", "of it threads that send, and rules"],
        vec![
            Variant::new("no sinks", || {
                let place = Place::new("alerts.enabled = false\n")?;
                leg(context, &place).map(|(values, _)| values)
            }),
            Variant::new("all sinks", || {
                let place = all_sinks(&receiver, &mails)?;
                receiver.clear();
                let mails_before = mails.count();
                let (values, told) = leg(context, &place)?;
                sent = DESTINATIONS.iter().map(|(name, ..)| told.sent(name)).collect();
                series = told.series;
                for path in
                    DESTINATIONS.iter().map(|(_, _, path, _)| *path).chain(["/hook", "/api/v2/alerts", "/slack"])
                {
                    ensure!(receiver.any(path), "nothing was sent to {path}");
                }
                ensure!(mails.count() > mails_before, "no mail was sent");
                Ok(values)
            }),
        ],
    )?;
    let (whole, series) = series;
    findings
        .paragraph(&format!("{whole} series with a histogram as one, {series} as Prometheus counts them, each 10 s:"));
    for (rounds, unit) in results.iter().zip(["% of one core", "MiB", "% of one core"]) {
        findings.comparison(rounds, unit, Compare::Added);
    }
    let rows: Vec<Vec<String>> = DESTINATIONS
        .iter()
        .zip(&sent)
        .map(|((.., name), sent)| {
            let each = sent.bytes / sent.samples;
            vec![(*name).to_owned(), figure(sent.samples), figure(sent.bytes), figure(each)]
        })
        .collect();
    findings.table(&["on the wire, in one leg", "count", "bytes", "bytes each"], &rows);
    for (rounds, (what, unit, bound)) in results.iter().zip([
        ("added by all sinks: processor time", "% of one core", Bound::Below(1.0)),
        ("added by all sinks: resident memory", "MB", Bound::AtMost(15.0)),
        ("threads that send, and rules", "% of one core", Bound::Below(1.0)),
    ]) {
        let added = rounds.variant("all sinks").context("no variant")?;
        let scale = if unit == "MB" { f64::from(1 << 20) / 1e6 } else { 1.0 };
        findings.target(what, rounds.added(added).median * scale, unit, bound);
    }
    Ok(())
}

fn all_sinks(receiver: &Receiver, mails: &MailServer) -> Result<Place> {
    let to = |(name, protocol, path, _): &(&str, &str, &str, &str)| {
        format!("[send.to.{name}]\nprotocol = \"{protocol}\"\nendpoint.url = {:?}\n", receiver.url(path))
    };
    let destinations: String = DESTINATIONS.iter().map(to).collect();
    let place = Place::with_rules(&destinations, "")?;
    let address = place.folder.path().join("slack.url");
    fs::write(&address, receiver.url("/slack"))?;
    let rules = format!(
        "[[rule]]\nname = \"always\"\nmetric = \"node_time_seconds\"\nabove = 0\nsummary = \"it is {{value}}\"\n{}\
         [[channel]]\nname = \"am\"\nkind = \"alertmanager\"\nendpoint = {{ url = {:?} }}\n\
         [[channel]]\nname = \"chat\"\nkind = \"slack\"\nurl_file = {:?}\n\
         [[channel]]\nname = \"mail\"\nkind = \"email\"\nemail = {{ host = \"127.0.0.1\", port = {}, encryption = \"none\", \
         from = \"steth@example.org\", to = [\"ops@example.org\"] }}\n",
        webhook(receiver),
        receiver.url(""),
        address.display().to_string(),
        mails.port()
    );
    place.put_rules(&rules)?;
    Ok(place)
}

/// What an agent told of itself at the end of a leg.
struct Told {
    exposition: super::exposition::Exposition,
    /// With a histogram as one, and as Prometheus counts them.
    series: (usize, usize),
}

struct Sent {
    samples: f64,
    bytes: f64,
}

impl Told {
    fn sent(&self, destination: &str) -> Sent {
        let of = |name: &str| self.exposition.sum(name, &[("destination", destination)]);
        Sent { samples: of("steth_send_samples_total"), bytes: of("steth_send_bytes_total") }
    }
}

/// Processor time in percent, and MiB.
fn leg(context: &Context, place: &Place) -> Result<(Vec<f64>, Told)> {
    let agent = Agent::start(&context.steth, &place.configuration)?;
    let programs = tempfile::Builder::new().prefix("steth-bench-").tempdir()?;
    Services::new(programs.path()).grow(&agent, STEP, |scrape| scrape.exposition.series_with_whole_histograms())?;
    interrupt::sleep(SETTLE)?;
    let of_sinks = || -> Result<f64> {
        let rules = agent.scrape()?.exposition.sum("steth_alert_evaluation_seconds_total", &[]);
        Ok(rules + process::thread_seconds(agent.id(), "steth-send")?)
    };
    let sinks_before = of_sinks()?;
    let (started, before) = (Instant::now(), agent.cpu_seconds()?);
    while started.elapsed() < LEG {
        agent.scrape()?;
        interrupt::sleep(SCRAPE_INTERVAL)?;
    }
    let percent = |seconds: f64| 100.0 * seconds / started.elapsed().as_secs_f64();
    let (cpu_percent, sinks_percent) = (percent(agent.cpu_seconds()? - before), percent(of_sinks()? - sinks_before));
    let resident = memory_mib(agent.id(), "VmRSS")?;
    let exposition = agent.scrape()?.exposition;
    let series = (exposition.series_with_whole_histograms(), exposition.series());
    Ok((vec![cpu_percent, resident, sinks_percent], Told { exposition, series }))
}

/// From a cause to a POST.
fn told(context: &Context, findings: &mut Findings) -> Result<()> {
    let receiver = Receiver::start()?;
    let rules = rule("there", "namedprocess_namegroup_num_procs", "cause-*") + &webhook(&receiver);
    let place = Place::with_rules("alerts.throttle = \"0s\"\n[window]\nlive = \"100ms\"\nkept = \"1s\"\n", &rules)?;
    let agent = Agent::start(&context.steth, &place.configuration)?;
    interrupt::sleep(Duration::from_secs(3))?;
    let programs = Programs::new("cause")?;
    let mut seconds = Vec::with_capacity(CAUSES);
    for at in 0..CAUSES {
        // Windows last a second: causes come at all moments of one.
        interrupt::sleep(Duration::from_millis(200 + 370 * (at as u64 % 10)))?;
        let (name, program) = programs.make(at)?;
        let began = Instant::now();
        let _process = programs.start(&program)?;
        let post = loop {
            let told = receiver.posts("/hook").into_iter().find(|post| of_service(&post.json, &name));
            match told {
                Some(post) => break post,
                None => ensure!(began.elapsed() < TOLD, "nobody was told of {name} within {TOLD:?}"),
            }
            interrupt::sleep(interrupt::PAUSE)?;
        };
        seconds.push((post.at - began).as_secs_f64() * 1e3);
    }
    drop(agent);
    let most = seconds.iter().copied().fold(0.0, f64::max);
    findings.table(
        &["from a cause to its POST, windows of 1 s", "ms", "most, ms"],
        &[vec![format!("{CAUSES} causes"), shown(Quartiles::of(&seconds)), figure(most)]],
    );
    findings.target("from a cause to its POST, beyond one window, most", most - 1e3, "ms", Bound::AtMost(250.0));
    Ok(())
}

fn of_service(notice: &Value, name: &str) -> bool {
    let alerts = notice["alerts"].as_array().map_or(&[][..], Vec::as_slice);
    alerts.iter().any(|alert| alert["labels"]["groupname"] == name && alert["status"] == "firing")
}

/// A thousand conditions in a minute.
fn storm(context: &Context, findings: &mut Findings) -> Result<()> {
    let receiver = Receiver::start()?;
    let rules = [("procs", "num_procs"), ("threads", "num_threads")]
        .map(|(name, metric)| rule(name, &format!("namedprocess_namegroup_{metric}"), "storm-*"));
    let place = Place::with_rules("", &(rules.concat() + &webhook(&receiver)))?;
    let agent = Agent::start(&context.steth, &place.configuration)?;
    interrupt::sleep(SETTLE)?;
    let programs = Programs::new("storm")?;
    let began = Instant::now();
    let mut processes = Vec::with_capacity(STORM);
    for at in 0..STORM {
        let (_, program) = programs.make(at)?;
        processes.push(programs.start(&program)?);
        let due = STORM_BEGINS * at as u32 / STORM as u32;
        interrupt::sleep(due.saturating_sub(began.elapsed()))?;
    }
    let took = began.elapsed().as_secs_f64();
    // The last notice of each rule holds all that fire, or counts them.
    let told = || {
        let posts = receiver.posts("/hook");
        let last = |rule: &str| {
            let of_rule = posts.iter().rev().find(|post| post.json["groupLabels"]["alertname"] == rule);
            let of_rule = of_rule.map(|post| &post.json);
            let shown = of_rule.and_then(|it| it["alerts"].as_array()).map_or(0, Vec::len) as u64;
            shown + of_rule.and_then(|it| it["truncatedAlerts"].as_u64()).unwrap_or_default()
        };
        (posts.len(), last("procs") + last("threads"))
    };
    while told().1 < 2 * STORM as u64 && began.elapsed() < STORM_LASTS {
        interrupt::sleep(Duration::from_millis(100))?;
    }
    let until_all = began.elapsed().as_secs_f64();
    let (notices, conditions) = told();
    let exposition = agent.scrape()?.exposition;
    let throttled = exposition.sum("steth_alerts_suppressed_total", &[("reason", "throttle")]);
    let firing = exposition.sum("steth_alerts", &[("state", "firing")]);
    let row = [firing, took, notices as f64, conditions as f64, until_all, throttled];
    findings.table(
        &["storm", "alerts that fire", "began within, s", "notices", "told or counted", "after, s", "had to wait"],
        &[["2 rules".to_owned()].into_iter().chain(row.map(figure)).collect::<Vec<_>>()],
    );
    findings.target("storm: conditions told or counted", conditions as f64, "", Bound::AtLeast(1_000.0));
    findings.target("storm: notices", notices as f64, "", Bound::AtMost(10.0));
    Ok(())
}

/// Programs of many names that sleep.
struct Programs {
    folder: TempDir,
    stem: &'static str,
}

impl Programs {
    fn new(stem: &'static str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("steth-bench-").tempdir()?;
        fs::copy(PROGRAM, folder.path().join(stem)).with_context(|| format!("cannot copy {PROGRAM}"))?;
        Ok(Self { folder, stem })
    }

    fn make(&self, at: usize) -> Result<(String, PathBuf)> {
        let name = format!("{}-{at:04}", self.stem);
        let program = self.folder.path().join(&name);
        fs::hard_link(self.folder.path().join(self.stem), &program)?;
        Ok((name, program))
    }

    fn start(&self, program: &Path) -> Result<Process> {
        let mut command = process::command(program, None, None);
        Process::start(command.arg("600").stdout(Stdio::null()))
    }
}
