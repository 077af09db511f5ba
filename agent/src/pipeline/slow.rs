//! Says which step of the pipeline kept everything else waiting: all of them share one thread.

use std::time::{Duration, Instant};

/// From here on people who ask notice it.
const LONG: Duration = Duration::from_secs(2);

/// Does this step.
pub fn step<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    let took = begun.elapsed();
    if took >= LONG {
        let took = took.as_secs_f64();
        tracing::warn!("{what} took {took:.1} s, in which nobody was answered; the host may be overloaded");
    }
    done
}
