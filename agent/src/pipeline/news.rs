//! What happened in a window, once each, for destinations that take single events: what became of alerts, findings that began
//! or are over, queries that were slow or failed. Knows what was told before, not who is told.

use std::collections::{HashMap, HashSet};

use super::probes::Probes;
use crate::{
    alert::Alerter,
    correlate::Correlator,
    model::{
        alert::{Alert, AlertState},
        finding::Finding,
        news::{News, What},
        query::QueryRecord,
    },
    send::Tellers,
};

/// Tells what is new since the last window.
pub struct Newsroom {
    tellers: Tellers,
    known: Known,
}

/// What was told, of what there still is.
#[derive(Default)]
struct Known {
    alerts: HashMap<u64, AlertState>,
    begun: HashSet<u64>,
    over: HashSet<u64>,
}

impl Newsroom {
    /// For these destinations; `None` if there is none. What became of an alert before the agent was started was told then.
    pub fn open(tellers: Tellers, alerter: Option<&Alerter>) -> Option<Self> {
        let mut known = Known::default();
        known.alerts(alerter.into_iter().flat_map(Alerter::alerts));
        (!tellers.is_empty()).then_some(Self { tellers, known })
    }

    /// A window ended.
    pub fn tell(
        &mut self,
        at_unix_ms: u64,
        alerter: Option<&Alerter>,
        correlator: Option<&Correlator>,
        probes: Option<&mut Probes>,
    ) {
        let (queries, missed) = probes.map(Probes::untold).unwrap_or_default();
        let mut all: Vec<What> = queries.into_iter().map(|query| What::Query(Box::new(query))).collect();
        all.extend(self.known.findings(correlator.map(Correlator::findings).unwrap_or_default()));
        all.extend(self.known.alerts(alerter.into_iter().flat_map(Alerter::alerts)));
        self.tellers.missed(missed);
        if !all.is_empty() {
            let batch: Vec<News> = all.into_iter().map(|what| News { at_unix_ms, what }).collect();
            self.tellers.news(&batch.into());
        }
    }
}

impl Known {
    /// Alerts that came to another state than they were in; that one is pending is no news.
    fn alerts<'a>(&mut self, alerts: impl Iterator<Item = &'a Alert>) -> Vec<What> {
        let (mut now, mut news) = (HashMap::new(), Vec::new());
        for alert in alerts {
            now.insert(alert.id, alert.state);
            if alert.state != AlertState::Pending && self.alerts.get(&alert.id) != Some(&alert.state) {
                news.push(What::Alert(Box::new(alert.clone())));
            }
        }
        self.alerts = now;
        news
    }

    /// Findings that are new, and those that are over since.
    fn findings(&mut self, findings: Vec<Finding>) -> Vec<What> {
        let (mut begun, mut over) = (HashSet::new(), HashSet::new());
        let mut news = Vec::new();
        for finding in findings {
            let is_over = finding.until_unix_ms.is_some();
            begun.insert(finding.id);
            if is_over {
                over.insert(finding.id);
            }
            if !self.begun.contains(&finding.id) || is_over && !self.over.contains(&finding.id) {
                news.push(What::Finding(Box::new(finding)));
            }
        }
        (self.begun, self.over) = (begun, over);
        news
    }
}

/// Slow and failed queries, the oldest first, and how many were missed before them.
pub type Untold = (Vec<QueryRecord<'static>>, u64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{finding::FindingKind, rule::Severity};

    fn alert(id: u64, state: AlertState) -> Alert {
        Alert {
            id,
            rule: "r".into(),
            severity: Severity::Warning,
            labels: Default::default(),
            state,
            value: 1.0,
            usual: None,
            threshold: 0.5,
            unit: String::new(),
            summary: "s".into(),
            impact: String::new(),
            step: String::new(),
            findings: vec![],
            pending_unix_ms: 1,
            firing_unix_ms: None,
            resolved_unix_ms: None,
            resolved_by: None,
            acknowledged: None,
            suppressed: None,
        }
    }

    fn finding(id: u64, until_unix_ms: Option<u64>) -> Finding {
        Finding {
            id,
            kind: FindingKind::Change,
            about: "cpu",
            part: String::new(),
            service: None,
            since_unix_ms: 1,
            until_unix_ms,
            conclusion: "c".into(),
            score: 0.5,
            evidence: vec![],
            contenders: vec![],
        }
    }

    #[test]
    fn each_state_of_an_alert_is_told_once_and_pending_never() {
        let mut known = Known::default();
        let mut told = |alerts: &[Alert]| known.alerts(alerts.iter()).len();
        assert_eq!(told(&[alert(1, AlertState::Pending)]), 0);
        assert_eq!(told(&[alert(1, AlertState::Firing), alert(2, AlertState::Pending)]), 1);
        assert_eq!(told(&[alert(1, AlertState::Firing), alert(2, AlertState::Firing)]), 1);
        assert_eq!(told(&[alert(1, AlertState::Acknowledged), alert(2, AlertState::Resolved)]), 2);
        assert_eq!(told(&[alert(1, AlertState::Acknowledged), alert(2, AlertState::Resolved)]), 0);
        // It was forgotten, and another has begun.
        assert_eq!(told(&[alert(3, AlertState::Firing)]), 1);
    }

    #[test]
    fn a_finding_is_told_when_it_begins_and_when_it_is_over() {
        let mut known = Known::default();
        let mut told = |findings: Vec<Finding>| known.findings(findings).len();
        assert_eq!(told(vec![finding(1, None)]), 1);
        assert_eq!(told(vec![finding(1, None), finding(2, Some(5))]), 1);
        assert_eq!(told(vec![finding(1, Some(6)), finding(2, Some(5))]), 1);
        assert_eq!(told(vec![finding(1, Some(6)), finding(2, Some(5))]), 0);
    }
}
