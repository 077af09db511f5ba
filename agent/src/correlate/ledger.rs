//! The findings that were made: those that last, and the newest of those that are over. Knows when, not why.

use std::collections::VecDeque;

use crate::model::finding::{Finding, FindingKind};

/// The most findings that are kept; the oldest that are over give way.
pub const MOST_FINDINGS: usize = 512;

/// What tells one finding from another while both last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its kind.
    pub kind: FindingKind,
    /// What it is about.
    pub about: &'static str,
    /// Which of several.
    pub part: String,
    /// Whose.
    pub service: Option<String>,
}

impl Key {
    /// That of a finding.
    pub fn of(finding: &Finding) -> Self {
        let Finding { kind, about, part, service, .. } = finding;
        Self { kind: *kind, about, part: part.clone(), service: service.clone() }
    }
}

/// The findings.
#[derive(Debug, Default)]
pub struct Ledger {
    findings: VecDeque<Finding>,
    made: [u64; FindingKind::ALL.len()],
    next_id: u64,
}

impl Ledger {
    /// Whether such a finding lasts.
    pub fn lasting(&mut self, key: &Key) -> Option<&mut Finding> {
        self.findings.iter_mut().rev().find(|finding| finding.until_unix_ms.is_none() && Key::of(finding) == *key)
    }

    /// Notes a finding, or brings one that lasts up to date. Returns its number.
    pub fn note(&mut self, mut finding: Finding) -> u64 {
        if let Some(known) = self.lasting(&Key::of(&finding)) {
            finding.id = known.id;
            finding.since_unix_ms = finding.since_unix_ms.min(known.since_unix_ms);
            *known = finding;
            return known.id;
        }
        self.next_id += 1;
        finding.id = self.next_id;
        if let Some(made) =
            FindingKind::ALL.iter().position(|kind| *kind == finding.kind).and_then(|at| self.made.get_mut(at))
        {
            *made += 1;
        }
        if self.findings.len() >= MOST_FINDINGS {
            let oldest_over = self.findings.iter().position(|finding| finding.until_unix_ms.is_some());
            self.findings.remove(oldest_over.unwrap_or_default());
        }
        self.findings.push_back(finding);
        self.next_id
    }

    /// Ends what lasts and is over by this judgement.
    pub fn end(&mut self, at_unix_ms: u64, is_over: impl Fn(&Finding) -> bool) {
        for finding in self.findings.iter_mut().filter(|finding| finding.until_unix_ms.is_none()) {
            if is_over(finding) {
                // The clock may have been set back since.
                finding.until_unix_ms = Some(at_unix_ms.max(finding.since_unix_ms));
            }
        }
    }

    /// All, those that last first, then the newest.
    pub fn all(&self) -> Vec<&Finding> {
        let mut all: Vec<&Finding> = self.findings.iter().collect();
        all.sort_by_key(|finding| (finding.until_unix_ms.is_some(), std::cmp::Reverse(finding.since_unix_ms)));
        all
    }

    /// How many were made of each kind.
    pub fn made(&self) -> impl Iterator<Item = (FindingKind, u64)> {
        FindingKind::ALL.iter().copied().zip(self.made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(part: &str, since_unix_ms: u64) -> Finding {
        Finding {
            id: 0,
            kind: FindingKind::Saturation,
            about: "disk",
            part: part.into(),
            service: None,
            since_unix_ms,
            until_unix_ms: None,
            conclusion: String::new(),
            score: 1.0,
            evidence: Vec::new(),
            contenders: Vec::new(),
        }
    }

    #[test]
    fn what_lasts_is_one_finding_and_what_comes_again_another() {
        let mut ledger = Ledger::default();
        ledger.note(finding("a", 10));
        ledger.note(finding("a", 20));
        assert_eq!((ledger.all().len(), ledger.all()[0].since_unix_ms), (1, 10));
        ledger.end(30, |_| true);
        ledger.note(finding("a", 40));
        let all = ledger.all();
        assert_eq!((all.len(), all[0].since_unix_ms, all[1].until_unix_ms), (2, 40, Some(30)));
        assert_eq!(ledger.made().next(), Some((FindingKind::Saturation, 2)));
    }

    #[test]
    fn a_clock_that_was_set_back_ends_no_finding_before_it_began() {
        let mut ledger = Ledger::default();
        ledger.note(finding("a", 1_000));
        ledger.end(10, |_| true);
        assert_eq!(ledger.all()[0].until_unix_ms, Some(1_000));
    }

    #[test]
    fn findings_are_bounded_and_those_that_last_stay() {
        let mut ledger = Ledger::default();
        ledger.note(finding("lasts", 1));
        for number in 0..2_000_u64 {
            ledger.note(finding(&number.to_string(), number));
            ledger.end(number, |finding| finding.part != "lasts");
        }
        let all = ledger.all();
        assert_eq!((all.len(), all[0].part.as_str()), (MOST_FINDINGS, "lasts"));
    }
}
