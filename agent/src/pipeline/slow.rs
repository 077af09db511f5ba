//! Says which step of the pipeline kept everything else waiting: all of them share one thread.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// From here on people who ask notice it.
const LONG: Duration = Duration::from_secs(2);
/// On a host that is overloaded for long, that is said so often.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// When something was said last, and how much went unsaid since.
static SAID: Mutex<(Option<Instant>, u64)> = Mutex::new((None, 0));

/// Does this step.
pub fn step<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    let took = begun.elapsed();
    if took >= LONG {
        say(what, took);
    }
    done
}

fn say(what: &str, took: Duration) {
    let (last, unsaid) = &mut *SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_some_and(|last| last.elapsed() < SAID_EVERY) {
        *unsaid += 1;
        return;
    }
    let took = took.as_secs_f64();
    tracing::warn!(
        "{what} took {took:.1} s, in which nobody was answered, and {unsaid} steps that nothing was said of; the host may \
         be overloaded"
    );
    (*last, *unsaid) = (Some(Instant::now()), 0);
}
