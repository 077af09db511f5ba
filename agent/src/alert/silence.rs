//! Silences: who wants nobody to be told of what, and until when. They expire by the wall clock, as people mean them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{
    alert::{Alert, AlertRefused, LONGEST_SILENCE, Silence},
    rule::matches,
};

/// The most silences at a time.
pub const MOST_SILENCES: usize = 256;

/// The silences that have not expired.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silences {
    all: Vec<Silence>,
    next_id: u64,
}

/// A silence as someone asks for it.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of this rule; of all without it.
    pub rule: Option<String>,
    /// With labels of these values.
    pub labels: BTreeMap<String, String>,
    /// For how long.
    pub seconds: u64,
    /// Who wants it.
    pub by: String,
    /// What they say.
    pub comment: String,
}

impl Silences {
    /// All of them.
    pub fn all(&self) -> &[Silence] {
        &self.all
    }

    /// Begins one.
    ///
    /// # Errors
    /// If it is too long, about nothing in particular, or there are too many.
    pub fn begin(&mut self, wanted: Wanted, now_unix_ms: u64) -> Result<Silence, AlertRefused> {
        let wrong = |why: String| Err(AlertRefused::Wrong(why));
        let Wanted { rule, labels, seconds, by, comment } = wanted;
        if seconds == 0 || seconds > LONGEST_SILENCE.as_secs() {
            return wrong(format!("a silence lasts from 1 s to {} days", LONGEST_SILENCE.as_secs() / 86_400));
        }
        if rule.is_none() && labels.is_empty() {
            return wrong("a silence names a rule or a label: one of all alerts would be forgotten".into());
        }
        if self.all.len() >= MOST_SILENCES {
            return wrong(format!("there are {MOST_SILENCES} silences already, and that is the most"));
        }
        self.next_id += 1;
        let until_unix_ms = now_unix_ms.saturating_add(seconds.saturating_mul(1_000));
        let silence =
            Silence { id: self.next_id, rule, labels, by, comment, since_unix_ms: now_unix_ms, until_unix_ms };
        self.all.push(silence.clone());
        Ok(silence)
    }

    /// Ends one.
    ///
    /// # Errors
    /// If there is none of this number.
    pub fn end(&mut self, id: u64) -> Result<Silence, AlertRefused> {
        let at = self.all.iter().position(|silence| silence.id == id);
        let at = at.ok_or_else(|| AlertRefused::Missing(format!("there is no silence {id}")))?;
        Ok(self.all.remove(at))
    }

    /// Drops those that are over. Returns whether there were any.
    pub fn expire(&mut self, now_unix_ms: u64) -> bool {
        let before = self.all.len();
        self.all.retain(|silence| silence.until_unix_ms > now_unix_ms);
        self.all.len() != before
    }

    /// Whether one of them is about an alert.
    pub fn covers(&self, alert: &Alert, now_unix_ms: u64) -> bool {
        self.all.iter().any(|silence| {
            let of_rule = silence.rule.as_ref().is_none_or(|rule| *rule == alert.rule);
            let value = |name: &String| alert.labels.get(name).map(String::as_str).unwrap_or_default();
            let of_labels = silence.labels.iter().all(|(name, pattern)| matches(pattern, value(name)));
            of_rule && of_labels && silence.until_unix_ms > now_unix_ms
        })
    }
}
