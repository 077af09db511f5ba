//! Questions about a process that the kernel answers when it likes: what a process has mapped waits for whoever holds that
//! process's memory lock, and the file that it runs may lie on a file system that has stopped answering. Knows time and
//! threads, not what is asked.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

/// From here on it is no busy disk any more, and worth a word.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// How long an answer is waited for. One that comes takes microseconds; a window must not be late by much.
const PATIENCE: Duration = Duration::from_millis(500);

/// Processes that may owe an answer at a time, a thread each; beyond that nobody is asked until one of them answers.
const MOST_LATE: usize = 8;

/// Processes that are remembered for not having been asked, or not having answered in time.
const MOST_MISSED: usize = 4_096;

const STACK_BYTES: usize = 256 << 10;

/// Asks on a thread of its own, and asks a process that owes an answer nothing more until it has given it.
#[derive(Debug, Default)]
pub struct Patience {
    free: Option<Asker>,
    late: HashMap<u32, Late>,
    missed: HashSet<u32>,
}

type Question = Box<dyn FnOnce() + Send>;

/// Who has not answered yet.
#[derive(Debug)]
struct Late {
    asker: Asker,
    since: Instant,
    is_told: bool,
}

/// A thread that asks. It ends when this is dropped, or when it has its answer after that.
#[derive(Debug)]
struct Asker {
    questions: Sender<Question>,
    is_asking: Arc<AtomicBool>,
}

impl Patience {
    /// The answer to a question about a process, unless it takes too long.
    pub fn ask<T: Send + 'static>(&mut self, pid: u32, question: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.settle();
        if self.late.contains_key(&pid) || self.late.len() >= MOST_LATE {
            self.miss(pid);
            return None;
        }
        let asker = self.free.take().or_else(Asker::start)?;
        let (answered, answer) = channel();
        // Whoever gave up waiting has dropped the other end.
        asker.ask(Box::new(move || drop(answered.send(question()))))?;
        if let Ok(answer) = answer.recv_timeout(PATIENCE) {
            self.free = Some(asker);
            return Some(answer);
        }
        self.late.insert(pid, Late { asker, since: Instant::now(), is_told: false });
        self.miss(pid);
        None
    }

    /// A process whose answer was missed and that can be asked again; one at a time, as each may take its time again.
    pub fn again(&mut self) -> Option<u32> {
        self.settle();
        if self.late.len() >= MOST_LATE {
            return None;
        }
        let pid = self.missed.iter().copied().find(|pid| !self.late.contains_key(pid))?;
        self.missed.take(&pid)
    }

    /// Lets go who has answered, and tells who still has not.
    fn settle(&mut self) {
        self.late.retain(|pid, late| {
            let is_late = late.asker.is_asking.load(Ordering::Acquire);
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
            self.missed.insert(pid);
        }
    }
}

impl Asker {
    fn start() -> Option<Self> {
        let (questions, asked) = channel::<Question>();
        let is_asking = Arc::new(AtomicBool::new(false));
        let asks = Arc::clone(&is_asking);
        let work = move || {
            for question in asked {
                question();
                asks.store(false, Ordering::Release);
            }
        };
        let started = thread::Builder::new().name("steth-asker".to_owned()).stack_size(STACK_BYTES).spawn(work);
        started.inspect_err(|error| tracing::warn!("processes are not looked at: no thread: {error}")).ok()?;
        Some(Self { questions, is_asking })
    }

    fn ask(&self, question: Question) -> Option<()> {
        self.is_asking.store(true, Ordering::Release);
        self.questions.send(question).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_is_left_out_until_it_has_and_others_are_asked() {
        let mut patience = Patience::default();
        assert_eq!(patience.ask(1, || 7), Some(7));
        let (release, released) = channel::<()>();
        let hangs = move || {
            let _ = released.recv();
        };
        assert_eq!(patience.ask(1, hangs), None);
        assert_eq!(patience.ask(1, || 7), None, "it was not asked again");
        assert_eq!(patience.ask(2, || 8), Some(8));
        assert_eq!(patience.again(), None);
        drop(release);
        while patience.late.values().any(|late| late.asker.is_asking.load(Ordering::Acquire)) {
            thread::yield_now();
        }
        assert_eq!(patience.again(), Some(1), "it was missed twice and is told once");
        assert_eq!(patience.ask(1, || 9), Some(9));
        assert_eq!(patience.again(), None);
    }

    #[test]
    fn no_more_than_a_few_threads_wait() {
        let mut patience = Patience::default();
        let (release, released) = channel::<()>();
        let released = Arc::new(std::sync::Mutex::new(released));
        for pid in 0..MOST_LATE as u32 {
            let released = Arc::clone(&released);
            let hangs = move || {
                let _ = released.lock().unwrap().recv();
            };
            assert_eq!(patience.ask(pid, hangs), None);
        }
        assert_eq!(patience.ask(99, || 1), None);
        drop(release);
    }
}
