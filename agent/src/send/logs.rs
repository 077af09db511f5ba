//! Single events as OpenTelemetry's protocol has them over HTTP (OTLP 1.5, logs in protobuf): alerts, findings, slow and failed
//! queries. Each bears all fields that it has in our JSON; names are those of [`semantic`](crate::model::semantic).

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{
    message::{self, Value},
    otlp,
    spool::Entry,
};
use crate::model::{
    alert::{Alert, AlertState},
    figure::figure,
    news::{News, What},
    rule::Severity,
    semantic::{self, event, severity},
};

/// Records in one request.
const MOST_RECORDS: usize = 500;

/// Writes one batch after the other.
pub struct Logs {
    labels: BTreeMap<String, String>,
}

impl Logs {
    /// With these labels, as [`otlp::Otlp::new`].
    pub fn new(labels: BTreeMap<String, String>) -> Self {
        Self { labels }
    }

    /// The requests of a batch, compressed.
    pub fn encode(&self, batch: &[News]) -> Vec<Entry> {
        batch.chunks(MOST_RECORDS).filter_map(|news| self.request(news)).collect()
    }

    fn request(&self, news: &[News]) -> Option<Entry> {
        let mut of_service: BTreeMap<String, Vec<message::LogRecord>> = BTreeMap::new();
        for one in news {
            let (service, record) = record(one)?;
            of_service.entry(service).or_default().push(record);
        }
        let resources = of_service.into_iter().map(|(service, records)| message::ResourceLogs {
            resource: Some(otlp::resource(&self.labels, &service)),
            scopes: vec![message::ScopeLogs { scope: Some(message::scope()), records }],
        });
        let payload = otlp::packed(&message::LogsRequest { resources: resources.collect() })?;
        let samples = u32::try_from(news.len()).unwrap_or(u32::MAX);
        Some(Entry { at_unix_ms: news.last()?.at_unix_ms, samples, payload })
    }
}

/// The service that it is about, empty if it is the host, and the record.
fn record(news: &News) -> Option<(String, message::LogRecord)> {
    let (kind, grave, at_unix_ns, body, fields) = match &news.what {
        What::Alert(alert) => {
            let grave = if alert.state == AlertState::Resolved { severity::INFO } else { of_severity(alert.severity) };
            let at_unix_ns = moment(alert, news.at_unix_ms) * 1_000_000;
            let body = format!("{}: {}", alert.state.name(), alert.summary);
            (event::ALERT, grave, at_unix_ns, body, serde_json::to_value(alert))
        }
        What::Finding(finding) => {
            let over = finding.until_unix_ms;
            let grave = if over.is_some() { severity::INFO } else { severity::WARN };
            let at_unix_ns = over.unwrap_or(finding.since_unix_ms) * 1_000_000;
            let body = if over.is_some() { "over: " } else { "" }.to_owned() + &finding.conclusion;
            (event::FINDING, grave, at_unix_ns, body, serde_json::to_value(finding))
        }
        What::Query(query) => {
            let failed = query.sqlstate.as_deref();
            let grave = if failed.is_some() { severity::ERROR } else { severity::WARN };
            let took = figure(query.duration_seconds, "s");
            let body = match failed {
                Some(sqlstate) => format!("{} failed with {sqlstate} after {}", query.summary, took.trim_end()),
                None => format!("{} took {}", query.summary, took.trim_end()),
            };
            (event::QUERY, grave, query.begun_unix_us * 1_000, body, serde_json::to_value(query))
        }
    };
    let Ok(Json::Object(mut fields)) = fields else { return None };
    let mut service = None;
    let mut attributes = Vec::new();
    // An alert's labels are attributes each, as those of a series.
    if let Some(Json::Object(labels)) = fields.remove("labels") {
        for (name, value) in labels {
            match semantic::SERVICE_LABELS.contains(&name.as_str()) {
                true => service = service.or(value.as_str().map(str::to_owned)),
                false => attributes.extend(attribute(semantic::attribute(&name), value)),
            }
        }
    }
    for (name, value) in fields {
        match name.as_str() {
            "service" => service = value.as_str().map(str::to_owned),
            _ => attributes.extend(attribute(&semantic::field(kind, &name), value)),
        }
    }
    let constants = semantic::CONSTANTS.iter().filter(|(of, ..)| *of == kind);
    attributes.extend(constants.map(|(_, name, value)| message::attribute(name, value)));
    let record = message::LogRecord {
        time_unix_nano: at_unix_ns,
        observed_time_unix_nano: news.at_unix_ms * 1_000_000,
        severity_number: grave.0,
        severity_text: grave.1.into(),
        body: Some(Value::Text(body).into()),
        attributes,
        event_name: kind.into(),
    };
    Some((service.unwrap_or_default(), record))
}

/// When an alert came to the state that it is in.
fn moment(alert: &Alert, now_unix_ms: u64) -> u64 {
    match alert.state {
        AlertState::Pending => alert.pending_unix_ms,
        AlertState::Firing => alert.firing_unix_ms.unwrap_or(now_unix_ms),
        AlertState::Acknowledged => alert.acknowledged.as_ref().map_or(now_unix_ms, |known| known.at_unix_ms),
        AlertState::Resolved => alert.resolved_unix_ms.unwrap_or(now_unix_ms),
    }
}

fn of_severity(of: Severity) -> (i32, &'static str) {
    match of {
        Severity::Info => severity::INFO,
        Severity::Warning => severity::WARN,
        Severity::Critical => severity::ERROR,
    }
}

/// What is not known and what is empty is left out.
fn attribute(name: &str, value: Json) -> Option<message::Attribute> {
    Some(message::Attribute { key: name.into(), value: Some(any(value)?.into()) })
}

fn any(value: Json) -> Option<Value> {
    Some(match value {
        Json::Null => return None,
        Json::String(text) if text.is_empty() => return None,
        Json::String(text) => Value::Text(text),
        Json::Bool(is) => Value::Switch(is),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Whole(whole),
            None => Value::Number(number.as_f64()?),
        },
        Json::Array(all) if all.is_empty() => return None,
        Json::Array(all) => {
            Value::List(message::ArrayValue { values: all.into_iter().filter_map(any).map(Into::into).collect() })
        }
        Json::Object(all) => Value::Table(message::KeyValueList {
            values: all.into_iter().filter_map(|(name, value)| attribute(&name, value)).collect(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use prost::Message as _;

    use super::*;
    use crate::model::{
        alert::Noted,
        finding::{Evidence, Finding, FindingKind},
        query::QueryRecord,
    };

    fn query() -> QueryRecord<'static> {
        let record = serde_json::json!({
            "begun_unix_us": 5_000_001, "duration_seconds": 0.25, "first_byte_seconds": 0.2, "service": "shop.service",
            "role": "client", "peer": "10.0.0.1", "port": 5, "family": "inet", "database": "shop", "user": "anna", "pid": 7,
            "tid": 8, "connection": "c", "statements": 1, "rows": 3, "outcome": "error", "sqlstate": "57014",
            "transaction": "idle", "slow": true, "wall": null, "wait_event": null, "wait_event_seconds": null,
            "workers": [], "id": "c-1", "flame": "", "operation": "SELECT", "query": "f00", "summary": "SELECT item", "statement": "select * from item where id = ?",
        });
        let text: &'static str = record.to_string().leak();
        serde_json::from_str(text).unwrap()
    }

    fn finding(until_unix_ms: Option<u64>) -> Finding {
        let evidence =
            Evidence { name: "busy".into(), service: None, value: 1.0, usual: None, unit: "ratio", check: "up".into() };
        Finding {
            id: 4,
            kind: FindingKind::Saturation,
            about: "disk",
            part: "vda".into(),
            service: None,
            since_unix_ms: 2_000,
            until_unix_ms,
            conclusion: "disk vda is busy all the time".into(),
            score: 0.5,
            evidence: vec![evidence],
            contenders: vec![],
        }
    }

    fn alert(state: AlertState) -> Alert {
        Alert {
            id: 9,
            rule: "open_files_high".into(),
            severity: Severity::Critical,
            labels: [("groupname".to_owned(), "a.service".to_owned()), ("device".into(), "vda".into())].into(),
            state,
            value: 0.9,
            usual: None,
            threshold: 0.8,
            unit: "ratio".into(),
            summary: "a.service at 90 %".into(),
            impact: String::new(),
            step: "look".into(),
            findings: vec![Noted { id: 4, conclusion: "c".into(), evidence: vec!["used 0.9: up".into()] }],
            pending_unix_ms: 1_000,
            firing_unix_ms: Some(1_500),
            resolved_unix_ms: (state == AlertState::Resolved).then_some(3_000),
            resolved_by: None,
            acknowledged: None,
            suppressed: None,
        }
    }

    /// Records by service.
    fn received(batch: Vec<What>) -> Vec<(String, message::LogRecord)> {
        let news: Vec<News> = batch.into_iter().map(|what| News { at_unix_ms: 9_000, what }).collect();
        let logs = Logs::new([("job", "steth"), ("instance", "h")].map(|(a, b)| (a.into(), b.into())).into());
        let mut all = Vec::new();
        for entry in logs.encode(&news) {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&entry.payload[..]).read_to_end(&mut plain).unwrap();
            for resource in message::LogsRequest::decode(&plain[..]).unwrap().resources {
                let attributes = resource.resource.unwrap().attributes;
                let service = attributes.iter().find(|it| it.key == "service.name").and_then(|it| it.value.clone());
                let Some(Value::Text(service)) = service.unwrap().value else { panic!("no service") };
                let records = resource.scopes.into_iter().flat_map(|scope| scope.records);
                all.extend(records.map(|record| (service.clone(), record)));
            }
        }
        all
    }

    fn value(record: &message::LogRecord, name: &str) -> Option<Value> {
        record.attributes.iter().find(|it| it.key == name).and_then(|it| it.value.clone()?.value)
    }

    fn body(record: &message::LogRecord) -> String {
        match record.body.clone().unwrap().value {
            Some(Value::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_query_bears_the_names_of_the_conventions_and_stands_with_its_service() {
        let all = received(vec![What::Query(Box::new(query()))]);
        let (service, record) = &all[0];
        assert_eq!((service.as_str(), record.event_name.as_str()), ("shop.service", event::QUERY));
        assert_eq!((record.time_unix_nano, record.observed_time_unix_nano), (5_000_001_000, 9_000_000_000));
        assert_eq!((record.severity_number, record.severity_text.as_str()), (17, "ERROR"));
        assert_eq!(body(record), "SELECT item failed with 57014 after 250 ms");
        for (_, _, theirs) in semantic::FIELDS {
            assert!(value(record, theirs).is_some(), "{theirs}");
        }
        assert_eq!(value(record, "db.response.returned_rows"), Some(Value::Whole(3)));
        assert_eq!(value(record, "db.system.name"), Some(Value::Text("postgresql".into())));
        assert_eq!(value(record, "steth.postgres.query.duration_seconds"), Some(Value::Number(0.25)));
        assert_eq!(value(record, "steth.postgres.query.slow"), Some(Value::Switch(true)));
        assert_eq!(value(record, "steth.postgres.query.wall"), None, "what is not known is left out");
        assert!(record.attributes.iter().all(|it| !it.key.ends_with("service")));
    }

    #[test]
    fn an_alert_is_told_in_its_state_with_labels_as_attributes_and_is_no_error_when_it_is_over() {
        let all = received(vec![
            What::Alert(Box::new(alert(AlertState::Firing))),
            What::Alert(Box::new(alert(AlertState::Resolved))),
        ]);
        let [(service, firing), (_, over)] = &all[..] else { panic!("{all:?}") };
        assert_eq!(service, "a.service");
        assert_eq!((firing.severity_number, over.severity_number), (17, 9));
        assert_eq!((firing.time_unix_nano, over.time_unix_nano), (1_500_000_000, 3_000_000_000));
        assert_eq!(body(firing), "firing: a.service at 90 %");
        assert_eq!(value(firing, "system.device"), Some(Value::Text("vda".into())));
        assert_eq!(value(over, "steth.alert.state"), Some(Value::Text("resolved".into())));
        let Some(Value::List(findings)) = value(firing, "steth.alert.findings") else { panic!("{firing:?}") };
        assert_eq!(findings.values.len(), 1);
    }

    #[test]
    fn a_finding_of_the_host_stands_with_the_host() {
        let all = received(vec![What::Finding(Box::new(finding(None))), What::Finding(Box::new(finding(Some(4_000))))]);
        let [(service, begun), (_, over)] = &all[..] else { panic!("{all:?}") };
        assert_eq!((service.as_str(), begun.severity_text.as_str()), ("steth", "WARN"));
        assert_eq!((begun.time_unix_nano, over.time_unix_nano), (2_000_000_000, 4_000_000_000));
        assert_eq!(body(over), "over: disk vda is busy all the time");
    }

    #[test]
    fn many_records_go_in_several_requests() {
        let news: Vec<News> =
            (0..1_100).map(|at| News { at_unix_ms: at, what: What::Finding(Box::new(finding(None))) }).collect();
        let entries = Logs::new(BTreeMap::new()).encode(&news);
        assert_eq!(entries.iter().map(|entry| entry.samples).collect::<Vec<_>>(), [500, 500, 100]);
        assert!(Logs::new(BTreeMap::new()).encode(&[]).is_empty());
    }
}
