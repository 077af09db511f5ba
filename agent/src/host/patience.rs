//! Questions about a process that the kernel answers when it likes: what a process has mapped waits for whoever holds that
//! process's memory lock, and the file that it runs may lie on a file system that has stopped answering. Knows time and
//! threads, not what is asked.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

/// From here on it is no busy disk any more, and worth a word.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// How long an answer is waited for. One that comes takes microseconds; a window must not be late by much.
const PATIENCE: Duration = Duration::from_millis(500);

/// Who was missed is asked again after so long, and not more than so often others are waited for in vain meanwhile.
const PAUSE: Duration = Duration::from_secs(5);
const MOST_IN_VAIN: usize = 2;

/// Processes that may owe an answer at a time, a thread each; beyond that nobody is asked until one of them answers.
const MOST_LATE: usize = 8;

/// Processes that are remembered for not having been asked, or not having answered in time.
const MOST_MISSED: usize = 4_096;

const STACK_BYTES: usize = 256 << 10;

/// Asks on a thread of its own, and asks a process that owes an answer nothing more until it has given it.
#[derive(Debug)]
pub struct Patience {
    wait: Duration,
    pause: Duration,
    free: Option<Asker>,
    late: HashMap<u32, Late>,
    /// By process, when it was missed.
    missed: HashMap<u32, Instant>,
    /// When was waited in vain of late.
    in_vain: Vec<Instant>,
}

type Question = Box<dyn FnOnce() + Send>;

/// Who has not answered yet. The thread that asks ends when it has its answer.
#[derive(Debug)]
struct Late {
    has_answered: Arc<AtomicBool>,
    since: Instant,
    is_told: bool,
}

/// A thread that asks. It ends when this is dropped, or when it has its answer after that.
#[derive(Debug)]
struct Asker(Sender<Question>);

impl Default for Patience {
    fn default() -> Self {
        let (late, missed) = (HashMap::new(), HashMap::new());
        Self { wait: PATIENCE, pause: PAUSE, free: None, late, missed, in_vain: Vec::new() }
    }
}

impl Patience {
    /// The answer to a question about a process, unless it takes too long, or others took too long just now.
    pub fn ask<T: Send + 'static>(&mut self, pid: u32, question: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if !self.may_ask(pid) {
            self.miss(pid);
            return None;
        }
        let Some(asker) = self.free.take().or_else(Asker::start) else {
            self.miss(pid);
            return None;
        };
        let (answered, answer) = channel();
        let has_answered = Arc::new(AtomicBool::new(false));
        let done = Done(Arc::clone(&has_answered));
        let ask = move || {
            let it = question();
            drop(done);
            // Whoever gave up waiting has dropped the other end.
            let _ = answered.send(it);
        };
        asker.0.send(Box::new(ask)).ok()?;
        match answer.recv_timeout(self.wait) {
            Ok(answer) => {
                self.free = Some(asker);
                Some(answer)
            }
            // The question panicked; its thread is gone.
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                let since = Instant::now();
                self.in_vain.push(since);
                self.late.insert(pid, Late { has_answered, since, is_told: false });
                self.miss(pid);
                None
            }
        }
    }

    /// Whether it would be asked now. For questions that take along what is missed when they are dropped.
    pub fn may_ask(&mut self, pid: u32) -> bool {
        self.settle();
        self.late.len() < MOST_LATE && self.in_vain.len() < MOST_IN_VAIN && !self.late.contains_key(&pid)
    }

    /// A process whose answer was missed and that can be asked again; one at a time, as each may take its time again.
    pub fn again(&mut self) -> Option<u32> {
        self.settle();
        if self.late.len() >= MOST_LATE || self.in_vain.len() >= MOST_IN_VAIN {
            return None;
        }
        let is_due = |(pid, since): &(&u32, &Instant)| since.elapsed() >= self.pause && !self.late.contains_key(pid);
        let pid = self.missed.iter().find(is_due).map(|(pid, _)| *pid)?;
        self.missed.remove(&pid);
        Some(pid)
    }

    /// Lets go who has answered, and tells who still has not.
    fn settle(&mut self) {
        self.in_vain.retain(|since| since.elapsed() < self.pause);
        self.late.retain(|pid, late| {
            let is_late = !late.has_answered.load(Ordering::Acquire);
            if is_late && !late.is_told && late.since.elapsed() >= TOLD_AFTER {
                late.is_told = true;
                tracing::warn!(
                    "process {pid} is left out until the kernel answers: its memory map is locked, or the file that it runs \
                     lies on a file system that hangs"
                );
            }
            is_late
        });
    }

    fn miss(&mut self, pid: u32) {
        if self.missed.len() < MOST_MISSED {
            self.missed.insert(pid, Instant::now());
        }
    }
}

/// Says that there is an answer, or that there will be none.
struct Done(Arc<AtomicBool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Asker {
    fn start() -> Option<Self> {
        let (questions, asked) = channel::<Question>();
        let work = move || asked.into_iter().for_each(|question| question());
        let started = thread::Builder::new().name("steth-asker".to_owned()).stack_size(STACK_BYTES).spawn(work);
        started.inspect_err(|error| tracing::debug!("a process is not looked at: no thread: {error}")).ok()?;
        Some(Self(questions))
    }
}

#[cfg(test)]
mod tests {
    use std::{panic::resume_unwind, sync::Mutex};

    use super::*;

    /// Long, so that a busy machine has time for an answer; nothing waits so long but what is to be waited for in vain.
    fn patience(wait: Duration) -> Patience {
        Patience { wait, pause: Duration::ZERO, ..Patience::default() }
    }

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(10);

    #[test]
    fn who_does_not_answer_is_left_out_until_it_has_and_others_are_asked() {
        let mut patience = patience(LONG);
        assert_eq!(patience.ask(1, || 7), Some(7));
        let (release, released) = channel::<()>();
        let hangs = move || {
            let _ = released.recv();
        };
        patience.wait = SHORT;
        assert_eq!(patience.ask(1, hangs), None);
        patience.wait = LONG;
        assert_eq!(patience.ask(1, || 7), None, "it was not asked again");
        assert_eq!(patience.ask(2, || 8), Some(8));
        assert_eq!(patience.again(), None);
        drop(release);
        while patience.late.values().any(|late| !late.has_answered.load(Ordering::Acquire)) {
            thread::yield_now();
        }
        assert_eq!(patience.again(), Some(1), "it was missed twice and is told once");
        assert_eq!(patience.ask(1, || 9), Some(9));
        assert_eq!(patience.again(), None);
    }

    #[test]
    fn no_more_than_a_few_threads_wait() {
        let mut patience = patience(SHORT);
        let (release, released) = channel::<()>();
        let released = Arc::new(Mutex::new(released));
        for pid in 0..MOST_LATE as u32 {
            let released = Arc::clone(&released);
            let hangs = move || {
                let _ = released.lock().unwrap().recv();
            };
            assert_eq!(patience.ask(pid, hangs), None);
        }
        patience.wait = LONG;
        assert_eq!(patience.ask(99, || 1), None);
        drop(release);
    }

    #[test]
    fn nobody_is_waited_for_in_vain_more_than_a_few_times_in_a_while() {
        let mut patience = Patience { wait: SHORT, ..Patience::default() };
        let slow = || thread::sleep(10 * SHORT);
        for pid in 0..MOST_IN_VAIN as u32 {
            assert_eq!(patience.ask(pid, slow), None);
        }
        patience.wait = LONG;
        assert_eq!(patience.ask(99, || 1), None, "it would have answered, but is not asked");
        assert_eq!(patience.again(), None, "nor before the pause is over");
    }

    #[test]
    fn a_question_that_panics_costs_its_answer_only() {
        let mut patience = patience(LONG);
        // Not by `panic!`: what that prints would stand before what is wrong, when something is.
        let panics = || -> u32 { resume_unwind(Box::new("this panic belongs to the test")) };
        for _ in 0..=MOST_LATE {
            assert_eq!(patience.ask(1, panics), None);
        }
        assert_eq!(patience.ask(1, || 7), Some(7));
    }
}
