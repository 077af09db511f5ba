//! One statement many times in one transaction, or in one burst of requests: most often a loop in a program that asks the
//! database for each row of an answer ("N+1"). Counts; does not know what becomes of the counts.

use super::{STATEMENT_FIRST, Wire};
use crate::record::record;

/// Statements that are counted at a time; the one that came least often gives way.
pub const REPEATS: usize = 3;

record! {
    /// How often a statement came in the current burst.
    pub struct Repeat {
        /// The statement; 0 if none.
        pub statement: u32,
        /// How many cycles.
        pub count: u32,
        /// The count at which it is told next; it doubles each time.
        pub next: u32,
        /// Spare.
        pub _pad: u32,
        /// Time in these cycles.
        pub ns: u64,
    }
}

record! {
    /// A transaction, or cycles that follow each other closely.
    pub struct Burst {
        /// When its first cycle began; 0 if there is none.
        pub begun_ns: u64,
        /// The statements that came most often; the last one that was counted stands first.
        pub repeats: [Repeat; REPEATS],
    }
}

/// What a cycle that ended means for the burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The burst before it has ended.
    pub begins: bool,
    /// It ends the burst that it belongs to.
    pub ends: bool,
}

impl Turn {
    /// Neither the first nor the last cycle of a burst.
    pub const WITHIN: Self = Self { begins: false, ends: false };

    /// Where the cycle that has just ended stands: a transaction is one burst; outside of one a pause of more than `gap_ns`
    /// parts two.
    #[inline(always)]
    pub fn of(wire: &Wire, gap_ns: u64) -> Self {
        let (before, after) = (wire.transaction, wire.down.note);
        let inside = before == b'T' || before == b'E';
        let paused = wire.ended().begun_ns.saturating_sub(wire.idle_ns) > gap_ns;
        Self { begins: !inside && paused, ends: inside && after == b'I' }
    }
}

impl Burst {
    /// Counts a cycle of the statement that was counted last, unless it is to be told: the short way of
    /// [`count`](Self::count). False leaves all as it was.
    #[inline(always)]
    pub fn again(&mut self, statement: u32, duration_ns: u64) -> bool {
        let repeat = &mut self.repeats[0];
        let count = repeat.count.wrapping_add(1);
        if repeat.statement != statement || statement < STATEMENT_FIRST || count == repeat.next {
            return false;
        }
        repeat.count = count;
        repeat.ns = repeat.ns.wrapping_add(duration_ns);
        true
    }

    /// Counts a cycle, whose statement then stands first; true if it is to be told: at the threshold, and whenever its
    /// count has doubled since.
    #[inline(always)]
    pub fn count(&mut self, statement: u32, begun_ns: u64, duration_ns: u64, threshold: u32) -> bool {
        if self.begun_ns == 0 {
            self.begun_ns = begun_ns;
        }
        if statement < STATEMENT_FIRST {
            return false;
        }
        let mut at = 0;
        let mut least = u32::MAX;
        for nth in 0..REPEATS {
            if self.repeats[nth].statement == statement {
                at = nth;
                break;
            }
            if self.repeats[nth].count <= least {
                least = self.repeats[nth].count;
                at = nth;
            }
        }
        let mut repeat = self.repeats[at % REPEATS];
        if repeat.statement != statement {
            repeat = Repeat { statement, next: threshold, ..Repeat::zeroed() };
        }
        self.repeats[at % REPEATS] = self.repeats[0];
        repeat.count = repeat.count.wrapping_add(1);
        repeat.ns = repeat.ns.wrapping_add(duration_ns);
        let told = repeat.count == repeat.next;
        if told {
            repeat.next = repeat.next.wrapping_mul(2);
        }
        self.repeats[0] = repeat;
        told
    }

    /// Whether the statement at this place was told; then its end is told, too.
    #[inline(always)]
    pub fn is_told(&self, at: usize, threshold: u32) -> bool {
        self.repeats[at].count >= threshold && self.repeats[at].count != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::clear;

    const A: u32 = STATEMENT_FIRST;

    /// Counts these statements, each a millisecond long; gives the counts at which each was told.
    fn told(burst: &mut Burst, statements: impl IntoIterator<Item = u32>) -> Vec<(u32, u32)> {
        let told = |statement| {
            let told = !burst.again(statement, 1_000_000) && burst.count(statement, 7, 1_000_000, 10);
            assert!(!told || burst.repeats[0].statement == statement);
            told.then_some((statement, burst.repeats[0].count))
        };
        statements.into_iter().filter_map(told).collect()
    }

    #[test]
    fn a_run_is_told_at_the_threshold_and_whenever_it_has_doubled() {
        let mut burst = Burst::zeroed();
        assert_eq!(told(&mut burst, [A; 9]), []);
        assert!(!burst.is_told(0, 10));
        assert_eq!(told(&mut burst, [A; 100]), [(A, 10), (A, 20), (A, 40), (A, 80)]);
        assert!(burst.is_told(0, 10) && !burst.is_told(1, 10));
        assert_eq!((burst.begun_ns, burst.repeats[0].ns), (7, 109_000_000));
        clear(&mut burst);
        assert_eq!(told(&mut burst, [A; 10]), [(A, 10)]);
    }

    #[test]
    fn loops_over_two_or_three_statements_and_strangers_between_do_not_hide_a_run() {
        let mut burst = Burst::zeroed();
        let three = (0..30).map(|n| A + n % 3);
        assert_eq!(told(&mut burst, three), [(A, 10), (A + 1, 10), (A + 2, 10)]);
        let mut burst = Burst::zeroed();
        let strangers = (0..60).map(|n| if n % 6 == 0 { A } else { A + 1 + n });
        assert_eq!(told(&mut burst, [A, A].into_iter().chain(strangers)), [(A, 10)]);
    }

    #[test]
    fn what_is_unknown_is_no_repetition() {
        let mut burst = Burst::zeroed();
        assert_eq!(told(&mut burst, (0..100).map(|n| n % STATEMENT_FIRST)), []);
    }
}
