//! Waiting for what no event announces. Knows deadlines, not what is waited for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks again and again until there is an answer, and fails with `what` when there is none in time.
///
/// # Errors
/// What `ask` fails with, or that the time is over.
pub fn poll<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
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
