//! `[send.to]`: the places that every window is sent to, by their names. Does not know how anything is written for them.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    time::Duration,
};

use serde::{Deserialize, Deserializer, de::Error};
use toml::{
    Spanned,
    de::{DeValue, ValueDeserializer},
};

use super::{
    Endpoint,
    endpoint::duration_within,
    value::{parse_size, show_size},
};

/// What is allowed, for people.
pub const ALLOWED: &str = "a table for each name, such as [send.to.central] with protocol = \"remote-write\" and \
                           endpoint.url = \"https://…\"";
const MOST: usize = 16;
const LEAST_SPOOL_BYTES: u64 = 1 << 20;
const MOST_SPOOL_BYTES: u64 = 64 << 30;

/// All places, by name.
pub type Destinations = BTreeMap<String, Destination>;

/// A place that windows are sent to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// How they are written for it.
    pub protocol: Protocol,
    /// Where it is.
    pub endpoint: Endpoint,
    /// How far apart the windows are that it gets.
    #[serde(default = "default_every", deserialize_with = "every")]
    pub every: Duration,
    /// What may wait on disk while it cannot be reached.
    #[serde(default = "default_spool", deserialize_with = "spool")]
    pub spool: u64,
    /// The longest pause between two tries.
    #[serde(default = "default_longest_pause", deserialize_with = "longest_pause")]
    pub longest_pause: Duration,
    /// Labels that every series gets, beside `job` (`steth`) and `instance` (this host's name).
    #[serde(default, deserialize_with = "labels")]
    pub labels: BTreeMap<String, String>,
}

/// What is sent, and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Prometheus remote write 1.0.
    RemoteWrite,
    /// Prometheus remote write 2.0.
    #[serde(rename = "remote-write-2")]
    RemoteWrite2,
    /// OpenTelemetry's protocol over HTTP, in protobuf: metrics.
    Otlp,
    /// The same: alerts, findings, slow and failed queries as logs.
    OtlpLogs,
    /// Each piece of the profile that is always taken, as Pyroscope's `/ingest` takes pprof.
    Pyroscope,
    /// The same as Parca's `WriteRaw` takes it, in JSON.
    Parca,
}

/// What is wrong with a destination.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Where it stands in the file.
    pub at: Range<usize>,
    /// What it is, in words.
    pub why: String,
}

/// Reads the table of all destinations: those that are valid, and what is wrong with the others.
pub fn read(typed: &DeValue, at: &Range<usize>) -> (Destinations, Vec<Wrong>) {
    let wrong = |at: &Range<usize>, why: String| Wrong { at: at.clone(), why };
    let Some(table) = typed.as_table() else {
        let why = format!("a table is needed here, not a value of type {}; allowed: {ALLOWED}", typed.type_str());
        return (Destinations::new(), vec![wrong(at, why)]);
    };
    let (mut valid, mut all_wrong) = (Destinations::new(), Vec::new());
    if table.len() > MOST {
        all_wrong.push(wrong(at, format!("there are {}; allowed: up to {MOST}", table.len())));
    }
    for (name, value) in table {
        let (at, name) = (name.span(), name.get_ref().to_string());
        if !is_name(&name) {
            let why = format!("{name:?} is no name for it; allowed: lower-case letters, digits, `-` and `_`, up to 64");
            all_wrong.push(wrong(&at, why));
            continue;
        }
        let typed = Spanned::new(value.span(), value.get_ref().clone());
        match Destination::deserialize(ValueDeserializer::from(typed)) {
            Ok(read) => match read.endpoint.contradiction() {
                Some(why) => all_wrong.push(wrong(&at, format!("{name}: {why}"))),
                None => drop(valid.insert(name, read)),
            },
            Err(error) => {
                let at = error.span().filter(|span| !span.is_empty()).unwrap_or(at);
                all_wrong.push(wrong(&at, format!("{name}: {}", error.message())));
            }
        }
    }
    (valid, all_wrong)
}

/// A name that can stand in a path and in a label.
fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    (1..=64).contains(&name.len()) && name.chars().all(allowed)
}

fn default_every() -> Duration {
    Duration::from_secs(10)
}

fn default_longest_pause() -> Duration {
    Duration::from_secs(30)
}

/// An hour of three thousand series by remote write, a window each ten seconds, takes 166 MB (docs/benchmarks.md).
fn default_spool() -> u64 {
    256 << 20
}

fn every<'de, D: Deserializer<'de>>(typed: D) -> Result<Duration, D::Error> {
    duration_within(typed, Duration::from_secs(1), Duration::from_secs(3_600))
}

fn longest_pause<'de, D: Deserializer<'de>>(typed: D) -> Result<Duration, D::Error> {
    duration_within(typed, Duration::from_millis(100), Duration::from_secs(3_600))
}

fn spool<'de, D: Deserializer<'de>>(typed: D) -> Result<u64, D::Error> {
    let typed = String::deserialize(typed)?;
    let bytes = parse_size(&typed).and_then(|bytes| match bytes {
        LEAST_SPOOL_BYTES..=MOST_SPOOL_BYTES => Ok(bytes),
        _ => Err("it is out of range".into()),
    });
    bytes.map_err(|why| {
        let (least, most) = (show_size(LEAST_SPOOL_BYTES), show_size(MOST_SPOOL_BYTES));
        D::Error::custom(format!("{typed:?}: {why}; allowed: a size from {least} to {most}"))
    })
}

fn labels<'de, D: Deserializer<'de>>(typed: D) -> Result<BTreeMap<String, String>, D::Error> {
    let labels = BTreeMap::<String, String>::deserialize(typed)?;
    let reserved = HashSet::from(["le", "quantile"]);
    for name in labels.keys() {
        let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && !name.starts_with("__");
        let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !first || !rest || reserved.contains(name.as_str()) {
            return Err(D::Error::custom(format!(
                "{name:?} is no name of a label; allowed: letters, digits and `_`, not `__` first, not le or quantile"
            )));
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Complaints, Config};

    fn complaints(text: &str) -> Vec<String> {
        match Config::parse(Path::new("steth.toml"), text) {
            Ok(_) => panic!("this was accepted:\n{text}"),
            Err(Complaints(all)) => all.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_name_a_protocol_and_a_url_are_enough() {
        let text =
            "[send.to.central]\nprotocol = \"remote-write\"\nendpoint.url = \"http://127.0.0.1:9090/api/v1/write\"\n";
        let config = Config::parse(Path::new("steth.toml"), text).unwrap();
        let expected = Destination {
            protocol: Protocol::RemoteWrite,
            endpoint: Endpoint::at("http://127.0.0.1:9090/api/v1/write"),
            every: Duration::from_secs(10),
            spool: 256 << 20,
            longest_pause: Duration::from_secs(30),
            labels: BTreeMap::new(),
        };
        assert_eq!(config.send.to, Destinations::from([("central".into(), expected)]));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_what_is_allowed() {
        let text = r#"
[send.to.a]
protocol = "remote_write"
endpoint.url = "http://a"
[send.to.b]
protocol = "otlp"
endpoint.url = "ftp://b"
[send.to.c]
protocol = "otlp"
endpoint.url = "http://c"
spool = "1KiB"
[send.to.d]
protocol = "otlp"
endpoint = { url = "https://d", token = "hunter2" }
[send.to.e]
endpoint.url = "http://e"
[send.to."../f"]
[send.to.g]
protocol = "otlp"
endpoint = { url = "http://g", ca_file = "/ca" }
labels = { "le" = "1" }
[send.to.h]
protocol = "otlp"
endpoint = { url = "http://h", ca_file = "/ca" }
"#;
        let found = complaints(text);
        let starts = [
            "steth.toml:3: send.to: a: unknown variant `remote_write`, expected one of `remote-write`, `remote-write-2`, ",
            "steth.toml:7: send.to: b: a url begins with http:// or https://",
            "steth.toml:11: send.to: c: \"1KiB\": it is out of range; allowed: a size from 1MiB to 64GiB",
            "steth.toml:14: send.to: d: unknown field `token`, expected one of `url`",
            "steth.toml:15: send.to: e: missing field `protocol`",
            "steth.toml:17: send.to: \"../f\" is no name for it",
            "steth.toml:21: send.to: g: \"le\" is no name of a label",
            "steth.toml:22: send.to: h: ca_file and certificate need a url that begins with https://",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for (found, start) in found.iter().zip(starts) {
            assert!(found.starts_with(start) && !found.contains("hunter2"), "{found}\n{start}");
        }
        assert!(complaints("[send]\nto = 5")[0].starts_with("steth.toml:2: send.to: a table is needed here"));
    }
}
