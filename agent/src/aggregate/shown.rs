//! Which label values are shown one by one. Knows no metric.

use std::collections::HashSet;

/// The name that all others are summed under.
pub const OTHER: &str = "other";

/// Label values that have a place of their own. Who has one keeps it: counters that changed places would jump.
#[derive(Debug, Default)]
pub struct Shown {
    places: HashSet<String>,
    folded: HashSet<String>,
}

/// Values that were refused are remembered for the count of them, up to this many.
const REMEMBERED: usize = 10_000;

impl Shown {
    /// Gives places to `candidates`, the first ones first, while there are fewer than `limit`.
    pub fn admit<'a>(&mut self, candidates: impl IntoIterator<Item = &'a str>, limit: usize) {
        for name in candidates {
            if self.places.contains(name) || name == OTHER {
                continue;
            }
            if self.places.len() < limit {
                self.places.insert(name.to_owned());
            } else if self.folded.len() < REMEMBERED {
                self.folded.insert(name.to_owned());
            }
        }
    }

    /// The value itself if it has a place, else [`OTHER`].
    pub fn label<'a>(&self, name: &'a str) -> &'a str {
        if self.places.contains(name) { name } else { OTHER }
    }

    /// How many values have no place.
    pub fn folded(&self) -> usize {
        self.folded.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_place_keeps_it_and_the_rest_is_counted() {
        let mut shown = Shown::default();
        shown.admit(["a", "b"], 2);
        shown.admit(["c", "d", "a"], 2);
        assert_eq!(["a", "b", "c", "d"].map(|name| shown.label(name)), ["a", "b", OTHER, OTHER]);
        assert_eq!(shown.folded(), 2);
    }
}
