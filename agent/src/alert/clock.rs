//! Notices that the clock that people read was set, by one that nobody sets. Knows no alerts.

use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};

/// Less is the daemon that keeps the clock right, and the time between two readings.
const LEAST_STEP_MS: i64 = 5_000;

/// How far apart the two clocks were when they were last read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock(Option<i64>);

impl Clock {
    /// How far the clock was set, forward or back, since this was last asked, in milliseconds.
    pub fn step(&mut self) -> Option<i64> {
        let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        // Goes on while the host sleeps, as the other does.
        let boot = clock_gettime(ClockId::Boottime);
        let boot_ms = boot.tv_sec.saturating_mul(1_000).saturating_add(boot.tv_nsec / 1_000_000);
        self.stepped(i64::try_from(unix.as_millis()).unwrap_or(i64::MAX), boot_ms)
    }

    fn stepped(&mut self, unix_ms: i64, boot_ms: i64) -> Option<i64> {
        let apart = unix_ms.saturating_sub(boot_ms);
        let step = apart.saturating_sub(self.0.replace(apart)?);
        (step.saturating_abs() >= LEAST_STEP_MS).then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_noticed_once_and_one_that_drifts_is_not() {
        let mut clock = Clock::default();
        let mut at = |unix_ms, boot_ms| clock.stepped(unix_ms, boot_ms);
        assert_eq!(at(1_000_000, 1_000), None);
        assert_eq!(at(1_010_040, 11_000), None);
        assert_eq!(at(4_620_000, 21_000), Some(3_599_960));
        assert_eq!(at(4_630_000, 31_000), None);
        assert_eq!(at(1_040_000, 41_000), Some(-3_600_000));
        assert_eq!(at(1_050_000, 51_000), None);
    }
}
