//! What time it is, as people and records tell it.

use std::time::{Duration, SystemTime};

/// What the monotonic clock lags behind the Unix epoch's.
pub fn unix_ns() -> u64 {
    let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let monotonic = Duration::new(
        u64::try_from(monotonic.tv_sec).unwrap_or_default(),
        u32::try_from(monotonic.tv_nsec).unwrap_or_default(),
    );
    let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(unix.saturating_sub(monotonic).as_nanos()).unwrap_or_default()
}

/// Now, in milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    now.as_millis().try_into().unwrap_or(u64::MAX)
}
