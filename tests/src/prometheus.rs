//! A Prometheus of the test's own that scrapes one address each second. Knows its configuration and query API
//! (prometheus.io/docs/prometheus/latest/querying/api), not what is scraped.

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{
    exposition::Sample,
    http,
    network::free_port,
    process::{self, Process},
};

/// Times in milliseconds since the Unix epoch, and the values that a series had then, in their order.
pub type History = Vec<(u64, f64)>;

/// A running server; stopped and removed when dropped.
#[derive(Debug)]
pub struct Prometheus {
    // Stands before the folder, so that the server is gone before its files are.
    server: Process,
    /// TCP port on 127.0.0.1.
    pub port: u16,
    folder: TempDir,
}

const START: Duration = Duration::from_secs(60);
const CONFIG: &str = "prometheus.yml";

impl Prometheus {
    /// Starts a server that scrapes `http://target/metrics` as job `steth`, and itself as job `self`.
    ///
    /// # Errors
    /// If it is not installed or does not start within a minute.
    pub fn start(target: &str) -> Result<Self> {
        Self::with(|port| {
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
                 scrape_configs:\n\
                 - {{job_name: steth, static_configs: [{{targets: ['{target}']}}]}}\n\
                 - {{job_name: self, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}\n"
            )
        })
    }

    /// Starts a server that scrapes `http://target/metrics` as job `steth` and evaluates a file of rules, both each second.
    ///
    /// # Errors
    /// As there.
    pub fn with_rules(target: &str, rules: &Path) -> Result<Self> {
        Self::with(|_| {
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
                 rule_files: ['{}']\n\
                 scrape_configs:\n\
                 - {{job_name: steth, static_configs: [{{targets: ['{target}']}}]}}\n",
                rules.display()
            )
        })
    }

    /// Starts a server that scrapes nothing and takes what is written to [`write_url`](Self::write_url).
    ///
    /// # Errors
    /// As there.
    pub fn receiver() -> Result<Self> {
        Self::with(|_| "scrape_configs: []\n".to_owned())
    }

    /// Where a receiver is written to.
    pub fn write_url(&self) -> String {
        format!("http://127.0.0.1:{}/api/v1/write", self.port)
    }

    /// Stops the server, does something, and starts it again where it was, with all that it has.
    ///
    /// # Errors
    /// If it does not end or does not start again, or what is done fails.
    pub fn outage(&mut self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        self.server.signal("TERM")?;
        self.server.wait(START)?;
        meanwhile()?;
        self.server = launch(self.folder.path(), self.port)?;
        ready(&self.server)
    }

    fn with(config: impl Fn(u16) -> String) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("steth-prometheus-").tempdir()?;
        // Somebody may take the port between the choice and its use.
        let mut attempts = 5;
        loop {
            let port = free_port()?;
            std::fs::write(folder.path().join(CONFIG), config(port))?;
            let server = launch(folder.path(), port)?;
            attempts -= 1;
            match ready(&server) {
                Ok(()) => return Ok(Self { server, port, folder }),
                Err(_) if attempts > 0 && server.log().contains("address already in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The answer to a path of its API.
    ///
    /// # Errors
    /// If the server does not answer, or not in JSON.
    pub fn get(&self, path: &str) -> Result<serde_json::Value> {
        let answer = http::get(&format!("http://127.0.0.1:{}{path}", self.port))?;
        serde_json::from_str(&answer.body).with_context(|| format!("{path}: not JSON"))
    }

    /// The value of an instant query with one series as result; `None` while there is none, or not a number.
    ///
    /// # Errors
    /// If the server does not answer, or refuses the query, or there are several series.
    pub fn query(&self, promql: &str) -> Result<Option<f64>> {
        match &self.samples(promql)?[..] {
            [] => Ok(None),
            [one] => Ok(Some(one.value).filter(|value| value.is_finite())),
            all => bail!("{promql}: {} series", all.len()),
        }
    }

    /// All that an instant query has as result, not a number included.
    ///
    /// # Errors
    /// If the server does not answer, or refuses the query.
    pub fn samples(&self, promql: &str) -> Result<Vec<Sample>> {
        let body = self.get(&format!("/api/v1/query?query={}", http::percent_encoded(promql)))?;
        let Some(result) = body["data"]["result"].as_array() else { bail!("{promql}: {body}") };
        result.iter().map(|one| sample(one).with_context(|| format!("{promql}: {one}"))).collect()
    }

    /// All samples of a range selector, such as `up[5m]`, by series; those have no value of their own.
    ///
    /// # Errors
    /// If the server does not answer, or refuses the query.
    pub fn history(&self, selector: &str) -> Result<Vec<(Sample, History)>> {
        let body = self.get(&format!("/api/v1/query?query={}", http::percent_encoded(selector)))?;
        let Some(result) = body["data"]["result"].as_array() else { bail!("{selector}: {body}") };
        let history = |one: &serde_json::Value| -> Result<(Sample, History)> {
            let mut labels: BTreeMap<String, String> = serde_json::from_value(one["metric"].clone())?;
            let name = labels.remove("__name__").unwrap_or_default();
            let values = one["values"].as_array().context("no values")?.iter().map(|pair| {
                let at_ms = (pair[0].as_f64()? * 1e3).round() as u64;
                Some((at_ms, pair[1].as_str()?.parse().ok()?))
            });
            let values = values.collect::<Option<_>>().context("no time or value")?;
            Ok((Sample { name, labels, value: 0.0 }, values))
        };
        result.iter().map(|one| history(one).with_context(|| format!("{selector}: {one}"))).collect()
    }

    /// The exemplars of a selector in the last ten minutes: each with its own labels, `value` and `timestamp`, by the labels of
    /// its series.
    ///
    /// # Errors
    /// If the server does not answer, or refuses the query.
    pub fn exemplars(&self, selector: &str) -> Result<Vec<(serde_json::Value, serde_json::Value)>> {
        let now = SystemTime::UNIX_EPOCH.elapsed()?.as_secs();
        let selector = http::percent_encoded(selector);
        let path = format!("/api/v1/query_exemplars?query={selector}&start={}&end={}", now - 600, now + 60);
        let body = self.get(&path)?;
        let Some(result) = body["data"].as_array() else { bail!("{path}: {body}") };
        let of = |one: &serde_json::Value| one["exemplars"].as_array().cloned().unwrap_or_default();
        Ok(result.iter().flat_map(|one| of(one).into_iter().map(|each| (one["seriesLabels"].clone(), each))).collect())
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        self.server.log()
    }
}

fn launch(folder: &Path, port: u16) -> Result<Process> {
    let mut command = process::command("prometheus", None);
    command.arg(format!("--config.file={}", folder.join(CONFIG).display()));
    command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    command.arg("--web.enable-remote-write-receiver");
    command.arg("--enable-feature=exemplar-storage");
    Process::start("prometheus", command)
}

fn ready(server: &Process) -> Result<()> {
    server.wait_for_line("that it is ready", START, |line| {
        line.contains("Server is ready to receive web requests").then_some(())
    })
}

/// One series of a vector: `{"metric": {label: value, …}, "value": [time, "number"]}`.
fn sample(series: &serde_json::Value) -> Result<Sample> {
    let mut labels: BTreeMap<String, String> = serde_json::from_value(series["metric"].clone())?;
    let name = labels.remove("__name__").unwrap_or_default();
    let value = series["value"][1].as_str().context("no value")?.parse()?;
    Ok(Sample { name, labels, value })
}

/// What `promtool check metrics` has to complain of in this text; empty is well.
///
/// # Errors
/// If promtool cannot be run.
pub fn complaints(text: &str) -> Result<String> {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().context("cannot run promtool")?;
    child.stdin.take().context("no input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let mut said = String::from_utf8_lossy(&said).trim().to_owned();
    if !output.status.success() && said.is_empty() {
        said = format!("promtool failed: {}", output.status);
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_scrapes_and_answers_a_quantile() {
        need_program!("prometheus");
        let prometheus = Prometheus::start("127.0.0.1:1").unwrap();
        let scraped =
            "histogram_quantile(0.95, sum by (le) (rate(prometheus_http_request_duration_seconds_bucket[5s])))";
        let quantile = crate::wait::poll("a quantile", Duration::from_secs(30), || prometheus.query(scraped)).unwrap();
        assert!(quantile > 0.0);
        assert_eq!(prometheus.query("up{job='self'}").unwrap(), Some(1.0));
        let down =
            crate::wait::poll("a failed scrape", Duration::from_secs(30), || prometheus.query("up{job='steth'}"));
        assert_eq!(down.unwrap(), 0.0);
        let up = prometheus.samples("up").unwrap();
        assert!(up.len() == 2 && up.iter().all(|one| one.name == "up" && one.labels.contains_key("job")), "{up:?}");
        prometheus.query("rate(").unwrap_err();
    }

    #[test]
    fn promtool_complains_of_what_is_wrong() {
        need_program!("promtool");
        assert_eq!(complaints("# HELP up Whether.\n# TYPE up gauge\nup 1\n").unwrap(), "");
        assert!(complaints("up_total{\n").unwrap().contains("error"));
        assert!(complaints("# TYPE up gauge\nup 1\n").unwrap().contains("no help text"));
    }
}
