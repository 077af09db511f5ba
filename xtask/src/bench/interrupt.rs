//! Ctrl-C, SIGTERM and the end of patience: all waiting looks here, so that what was started is stopped by its owner's
//! `drop`.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use signal_hook::{consts, flag};

static SEEN: OnceLock<Arc<AtomicBool>> = OnceLock::new();
static END: OnceLock<Instant> = OnceLock::new();

/// Between two looks, for all who wait.
pub const PAUSE: Duration = Duration::from_millis(5);

/// From here on the signals set the flag and do nothing else. Children of a terminal's Ctrl-C get it as well.
pub fn listen() -> Result<()> {
    let seen = SEEN.get_or_init(Arc::default);
    for signal in [consts::SIGINT, consts::SIGTERM, consts::SIGHUP] {
        flag::register(signal, Arc::clone(seen)).context("cannot listen to signals")?;
    }
    Ok(())
}

/// All must be done by then.
pub fn end_after(limit: Duration) {
    END.get_or_init(|| Instant::now() + limit);
}

/// # Errors
/// A signal came, or the time is over.
pub fn check() -> Result<()> {
    if END.get().is_some_and(|end| Instant::now() > *end) {
        bail!("this takes too long: given up");
    }
    if SEEN.get().is_some_and(|seen| seen.load(Ordering::Relaxed)) {
        bail!("interrupted");
    }
    Ok(())
}

/// # Errors
/// As [`check`], before the duration was over.
pub fn sleep(duration: Duration) -> Result<()> {
    let started = Instant::now();
    loop {
        check()?;
        let left = duration.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}
