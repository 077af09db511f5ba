//! Waiting for what no event announces. Knows deadlines, not what is waited for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long is waited where a machine is slower than those that tests are written on, such as an emulated one: `TEST_PATIENCE`
/// times as long.
pub fn patient(within: Duration) -> Duration {
    let times = std::env::var("TEST_PATIENCE").ok().and_then(|times| times.parse().ok());
    within * times.unwrap_or(1)
}

/// Whether this machine is one on which all is waited for longer: it does not bear the load that others do.
pub fn is_slow() -> bool {
    patient(Duration::from_secs(1)) > Duration::from_secs(1)
}

/// Asks again and again until there is an answer, and fails with `what` when there is none in time.
///
/// # Errors
/// What `ask` fails with, or that the time is over.
pub fn poll<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let within = patient(within);
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("waited {within:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
