//! How long to wait before the next try: longer each time, and never in step with others who wait for the same receiver.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(250);

/// The pauses after failures that follow each other.
#[derive(Debug)]
pub struct Backoff {
    longest: Duration,
    failures: u32,
    chance: RandomState,
    drawn: u64,
}

impl Backoff {
    /// Pauses of up to `longest`.
    pub fn new(longest: Duration) -> Self {
        Self { longest, failures: 0, chance: RandomState::new(), drawn: 0 }
    }

    /// How long to wait after one more failure: half of what has doubled with each, and up to as much again by chance. A
    /// receiver that named a time gets that at least.
    pub fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        self.drawn += 1;
        // Keys of hash maps are random for each of them; no better chance is needed here.
        let chance = self.chance.hash_one(self.drawn) as f64 / u64::MAX as f64;
        let pause = whole / 2 + (whole / 2).mul_f64(chance);
        pause.max(retry_after.unwrap_or_default())
    }

    /// How many failures followed each other.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(30));
        let mut whole = FIRST;
        for _ in 0..40 {
            let pause = backoff.next(None);
            assert!(pause >= whole / 2 && pause <= whole, "{pause:?} of {whole:?}");
            whole = (whole * 2).min(Duration::from_secs(30));
        }
        assert_eq!(backoff.failures(), 40);
        backoff.reset();
        assert!(backoff.next(None) <= FIRST);
    }

    #[test]
    fn two_that_wait_for_the_same_do_not_come_together() {
        let pauses = || {
            let mut backoff = Backoff::new(Duration::from_secs(3_600));
            (0..8).map(|_| backoff.next(None)).collect::<Vec<_>>()
        };
        assert_ne!(pauses(), pauses());
    }

    #[test]
    fn a_receiver_that_names_a_time_gets_it() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        assert_eq!(backoff.next(Some(Duration::from_secs(60))), Duration::from_secs(60));
    }
}
