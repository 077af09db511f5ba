//! Profiles as pprof, for receivers of profiles over HTTP: Pyroscope's `/ingest`
//! (grafana.com/docs/pyroscope/latest/configure-server/about-server-api) and Parca's `WriteRaw`
//! (parca/profilestore/v1alpha1/profilestore.proto, by its JSON). One request for each service of a piece.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::json;

use super::spool::Entry;
use crate::model::news::WrittenProfile;

/// What parts of a request to Pyroscope are parted by. pprof is compressed and does not hold it but by a chance of 2^-256.
const BOUNDARY: &str = "steth-7d1f0a4be2c94d3f9b6c8e5a17f3d260";

/// Labels of a profile: all of the destination's, and whose it is.
fn labels<'a>(all: &'a BTreeMap<String, String>, profile: &'a WrittenProfile) -> BTreeMap<&'a str, &'a str> {
    let own = all.iter().filter(|(name, _)| *name != "job").map(|(name, value)| (name.as_str(), value.as_str()));
    own.chain([("service_name", profile.service.as_str())]).collect()
}

/// The request for Pyroscope: what stands in the address, a line break, and the body.
pub fn pyroscope(all: &BTreeMap<String, String>, profile: &WrittenProfile) -> Entry {
    let job = all.get("job").map_or("steth", String::as_str);
    // Its own syntax, which has no quotes.
    let plain = |text: &str| text.replace(|c: char| c.is_control() || "{},=\"".contains(c), "_");
    let pairs: Vec<String> =
        labels(all, profile).iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
    let name = format!("{}.cpu{{{}}}", plain(job), pairs.join(","));
    let (from, until) = (seconds(profile.began), seconds(profile.began + profile.lasted));
    let mut payload = format!(
        "name={}&from={from}&until={until}&format=pprof&sampleRate={}&spyName=steth\n--{BOUNDARY}\r\nContent-Disposition: \
         form-data; name=\"profile\"; filename=\"profile.pprof\"\r\nContent-Type: application/octet-stream\r\n\r\n",
        percent_encoded(&name),
        profile.hertz,
    )
    .into_bytes();
    payload.extend_from_slice(&profile.pprof);
    payload.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    entry(profile, payload.into())
}

/// What a request for Pyroscope is of.
pub fn pyroscope_content_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

/// What stands in the address, and the body.
pub fn parted(payload: &Bytes) -> (String, Bytes) {
    let end = payload.iter().position(|byte| *byte == b'\n').unwrap_or(payload.len());
    let query = String::from_utf8_lossy(&payload.slice(..end)).into_owned();
    (query, payload.slice((end + 1).min(payload.len())..))
}

/// The request for Parca.
pub fn parca(all: &BTreeMap<String, String>, profile: &WrittenProfile) -> Entry {
    let mut labels = labels(all, profile);
    labels.insert("__name__", "process_cpu");
    let labels: Vec<_> = labels.into_iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let raw = BASE64_STANDARD.encode(&profile.pprof);
    let series = json!([{ "labels": { "labels": labels }, "samples": [{ "rawProfile": raw }] }]);
    entry(profile, json!({ "series": series }).to_string().into())
}

fn entry(profile: &WrittenProfile, payload: Bytes) -> Entry {
    let at_unix_ms = since_epoch(profile.began + profile.lasted).as_millis();
    Entry { at_unix_ms: at_unix_ms.try_into().unwrap_or(u64::MAX), samples: profile.stacks, payload }
}

fn since_epoch(moment: SystemTime) -> std::time::Duration {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn seconds(moment: SystemTime) -> u64 {
    since_epoch(moment).as_secs()
}

/// All but the unreserved characters of RFC 3986, section 2.3.
fn percent_encoded(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn profile(service: &str) -> WrittenProfile {
        WrittenProfile {
            service: service.into(),
            began: UNIX_EPOCH + Duration::from_secs(600),
            lasted: Duration::from_secs(600),
            hertz: 19,
            stacks: 3,
            pprof: Bytes::from_static(b"\x1f\x8b\n pprof"),
        }
    }

    fn all() -> BTreeMap<String, String> {
        [("job", "steth"), ("instance", "h"), ("zone", "eu")].map(|(a, b)| (a.into(), b.into())).into()
    }

    #[test]
    fn pyroscope_gets_whose_it_is_and_when_in_the_address_and_pprof_in_a_form() {
        let entry = pyroscope(&all(), &profile("a{b},c.service"));
        assert_eq!((entry.at_unix_ms, entry.samples), (1_200_000, 3));
        let (query, body) = parted(&entry.payload);
        assert_eq!(
            query,
            "name=steth.cpu%7Binstance%3Dh%2Cservice_name%3Da_b__c.service%2Czone%3Deu%7D&from=600&until=1200\
             &format=pprof&sampleRate=19&spyName=steth"
        );
        let text = String::from_utf8_lossy(&body);
        assert!(
            text.starts_with(&format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"profile\"")),
            "{text}"
        );
        assert!(body.windows(9).any(|it| it == b"\x1f\x8b\n pprof"), "{text}");
        assert!(text.ends_with(&format!("\r\n--{BOUNDARY}--\r\n")), "{text}");
    }

    #[test]
    fn parca_gets_the_same_in_json() {
        let entry = parca(&all(), &profile("a.service"));
        let body: serde_json::Value = serde_json::from_slice(&entry.payload).unwrap();
        let series = &body["series"][0];
        let label = |name: &str| {
            let labels = series["labels"]["labels"].as_array().unwrap();
            labels.iter().find(|it| it["name"] == name).map(|it| it["value"].as_str().unwrap().to_owned())
        };
        assert_eq!(label("__name__").as_deref(), Some("process_cpu"));
        assert_eq!((label("service_name").as_deref(), label("zone").as_deref()), (Some("a.service"), Some("eu")));
        let raw = BASE64_STANDARD.decode(series["samples"][0]["rawProfile"].as_str().unwrap()).unwrap();
        assert_eq!(raw, profile("").pprof);
    }

    #[test]
    fn what_is_cut_off_is_parted_all_the_same() {
        assert_eq!(parted(&Bytes::from_static(b"name=a")), ("name=a".into(), Bytes::new()));
        assert_eq!(parted(&Bytes::new()), (String::new(), Bytes::new()));
    }
}
