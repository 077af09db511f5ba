//! From samples to stacks with weights: puts the parts of a wait together, and adds up what is the same. Knows addresses, not
//! names.

use std::collections::HashMap;

use steth_probes::{
    profile::{NO_CALL, SampleKind},
    unwind::{FrameWord, Origin, Stop},
};

use crate::model::{
    profile::State,
    sample::{Request, Sample},
};

/// Different stacks that one profile holds; what comes beyond is counted under [`Stack::is_rest`].
const MOST_STACKS: usize = 200_000;
/// Threads whose waits are only told in part so far.
const MOST_PENDING: usize = 65_536;

/// One finished sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Which stack.
    pub stack: Stack,
    /// What it weighs.
    pub ns: u64,
    /// When, by the monotonic clock.
    pub at_ns: u64,
    /// The Postgres request that the thread was busy with.
    pub request: Option<Request>,
}

/// A stack by its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stack {
    /// Whether the thread ran or waited.
    pub state: State,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub thread: [u8; 16],
    /// Number of its service.
    pub service: u32,
    /// Frames of the kernel, the innermost first.
    pub kernel: Box<[u64]>,
    /// Frames of the process, the innermost first.
    pub user: Box<[u64]>,
    /// Frames of Python, the innermost first.
    pub python: Box<[u64]>,
    /// Why there are no more.
    pub stop: Option<Stop>,
    /// What its time is that of.
    pub whole: Whole,
}

/// What the time of a stack is that of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whole {
    /// Samples, each of which stands for some.
    Samples,
    /// Whole calls of this system call.
    Calls(u32),
    /// Whole Postgres requests.
    Requests,
}

impl Stack {
    /// Stands for all stacks that there was no room for.
    fn rest(state: State) -> Self {
        let none: Box<[u64]> = Box::default();
        Self {
            state,
            pid: 0,
            tid: 0,
            thread: [0; 16],
            service: 0,
            kernel: none.clone(),
            user: none.clone(),
            python: none,
            stop: None,
            whole: Whole::Samples,
        }
    }

    /// Whether it stands for those that there was no room for.
    pub fn is_rest(&self) -> bool {
        self.pid == 0 && self.kernel.is_empty() && self.user.is_empty()
    }

    /// Forgets whose it is but for its service and thread name. Where an address means something else in each process, the process
    /// is kept.
    pub fn forget_process(&mut self) {
        let of_process = |word: &u64| matches!(FrameWord(*word).origin(), Origin::Address(_));
        self.tid = 0;
        let is_empty = self.user.is_empty() && self.kernel.is_empty();
        if !is_empty && self.python.is_empty() && !self.user.iter().any(of_process) {
            self.pid = 0;
        }
    }

    fn of(sample: &Sample, state: State) -> Self {
        Self {
            state,
            pid: sample.pid,
            tid: sample.tid,
            thread: sample.thread,
            service: sample.service,
            kernel: sample.kernel.clone(),
            user: sample.user.clone(),
            python: sample.python.clone(),
            stop: sample.stop,
            whole: Whole::Samples,
        }
    }
}

/// Puts the parts of waits together.
#[derive(Debug, Default)]
pub struct Joiner {
    /// Waits in a system call that has not returned yet, by thread.
    in_call: HashMap<u32, Vec<Sample>>,
    /// Threads that left outside of a call, and are not back yet.
    left: HashMap<u32, Sample>,
}

impl Joiner {
    /// Takes a record; hands over what is finished by it.
    pub fn take(&mut self, sample: Sample, finished: &mut Vec<Taken>) {
        match sample.kind {
            SampleKind::Always | SampleKind::Demand => finished.push(on_cpu(&sample)),
            SampleKind::WaitInCall => {
                if self.in_call.len() >= MOST_PENDING {
                    self.flush(finished);
                }
                self.in_call.entry(sample.tid).or_default().push(sample);
            }
            SampleKind::CallReturns => {
                for wait in self.in_call.remove(&sample.tid).unwrap_or_default() {
                    finished.push(joined(wait.weight_ns, &wait, &sample));
                }
            }
            SampleKind::Leaves => {
                if self.left.len() >= MOST_PENDING {
                    self.left.clear();
                }
                self.left.insert(sample.tid, sample);
            }
            SampleKind::Back => {
                let left = self.left.remove(&sample.tid);
                finished.push(joined(sample.weight_ns, &sample, left.as_ref().unwrap_or(&sample)));
            }
            SampleKind::WaitBefore | SampleKind::Still => finished.push(joined(sample.weight_ns, &sample, &sample)),
            SampleKind::LongCall | SampleKind::LongRequest => {
                let whole = match (sample.kind, sample.call) {
                    (SampleKind::LongRequest, _) => Whole::Requests,
                    (_, call) => Whole::Calls(call.unwrap_or(NO_CALL)),
                };
                let stack = Stack { whole, ..Stack::of(&sample, State::OffCpu) };
                finished.push(Taken { stack, ns: sample.weight_ns, at_ns: sample.at_ns, request: sample.request });
            }
            SampleKind::NoTable => {}
        }
    }

    /// Hands over waits whose system call did not return: the process' part of their stacks is missing.
    pub fn flush(&mut self, finished: &mut Vec<Taken>) {
        for wait in self.in_call.drain().flat_map(|(_, waits)| waits) {
            finished.push(joined(wait.weight_ns, &wait, &wait));
        }
    }
}

fn on_cpu(sample: &Sample) -> Taken {
    Taken { stack: Stack::of(sample, State::OnCpu), ns: sample.weight_ns, at_ns: sample.at_ns, request: sample.request }
}

/// The kernel's part and the request are the wait's, the process' part is that of whoever told it.
fn joined(ns: u64, wait: &Sample, own: &Sample) -> Taken {
    let (user, python) = (own.user.clone(), own.python.clone());
    let stop = own.stop.or(Some(Stop::Untold));
    let stack = Stack { user, python, stop, ..Stack::of(wait, State::OffCpu) };
    Taken { stack, ns, at_ns: wait.at_ns, request: wait.request.or(own.request) }
}

/// Stacks and what they weigh.
#[derive(Clone, Debug)]
pub struct Gathered {
    stacks: HashMap<(Stack, Option<Request>), Weight>,
    most: usize,
}

impl Default for Gathered {
    fn default() -> Self {
        Self::with_room(MOST_STACKS)
    }
}

/// What a stack weighs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Time.
    pub ns: u64,
    /// Samples.
    pub samples: u64,
}

impl Gathered {
    /// With room for so many different stacks.
    pub fn with_room(most: usize) -> Self {
        Self { stacks: HashMap::new(), most }
    }

    /// Adds a sample. `by_request` keeps those of different requests apart, and not only those of different statements.
    pub fn add(&mut self, taken: Taken, by_request: bool) {
        let request = taken.request.map(|request| match by_request {
            true => request,
            false => Request { connection: 0, begun_ns: 0, ..request },
        });
        let state = taken.stack.state;
        let key = (taken.stack, request);
        let weight = if self.stacks.len() < self.most || self.stacks.contains_key(&key) {
            self.stacks.entry(key).or_default()
        } else {
            self.stacks.entry((Stack::rest(state), None)).or_default()
        };
        weight.ns += taken.ns;
        weight.samples += 1;
    }

    /// Keeps only stacks of requests that are wanted.
    pub fn retain(&mut self, mut wanted: impl FnMut(&Request) -> bool) {
        self.stacks.retain(|(_, request), _| request.as_ref().is_some_and(&mut wanted));
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Stack, Option<&Request>, Weight)> {
        self.stacks.iter().map(|((stack, request), weight)| (stack, request.as_ref(), *weight))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.stacks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(user: &[u64], pid: u32) -> Stack {
        Stack { pid, tid: pid, user: user.into(), ..Stack::rest(State::OnCpu) }
    }

    #[test]
    fn processes_of_a_service_are_one_but_where_an_address_is_their_own() {
        let in_file = FrameWord::file(7, 0x1000).0;
        let own = FrameWord::address(0x7000_0000).0;
        let mut gathered = Gathered::default();
        for (user, pid) in [(&[in_file][..], 1), (&[in_file], 2), (&[in_file, own], 1), (&[in_file, own], 2), (&[], 3)]
        {
            let mut stack = stack(user, pid);
            stack.forget_process();
            gathered.add(Taken { stack, ns: 5, at_ns: 0, request: None }, false);
        }
        let mut found: Vec<_> = gathered.iter().map(|(it, _, weight)| (it.user.len(), it.pid, weight.ns)).collect();
        found.sort_unstable();
        assert_eq!(found, [(0, 3, 5), (1, 0, 10), (2, 1, 5), (2, 2, 5)]);
        assert!(gathered.iter().all(|(stack, ..)| !stack.is_rest() && stack.tid == 0));
    }

    #[test]
    fn a_wait_whose_process_told_no_stack_says_so() {
        use SampleKind::{Back, CallReturns, Leaves, WaitBefore, WaitInCall};
        for (told, stop) in [
            (vec![(WaitInCall, None), (CallReturns, Some(Stop::End))], Stop::End),
            (vec![(Leaves, Some(Stop::TooDeep)), (Back, None)], Stop::TooDeep),
            (vec![(WaitInCall, None)], Stop::Untold),
            (vec![(Back, None)], Stop::Untold),
            (vec![(WaitBefore, None)], Stop::Untold),
        ] {
            let (mut joiner, mut finished) = (Joiner::default(), Vec::new());
            told.iter().for_each(|(kind, stop)| joiner.take(Sample::of_kind(*kind, *stop), &mut finished));
            joiner.flush(&mut finished);
            let stops: Vec<_> = finished.iter().map(|taken| taken.stack.stop).collect();
            assert_eq!(stops, [Some(stop)], "{told:?}");
        }
    }

    #[test]
    fn what_finds_no_room_is_counted_as_the_rest() {
        let mut gathered = Gathered::with_room(1);
        for pid in [1, 1, 2, 3] {
            gathered.add(Taken { stack: stack(&[1], pid), ns: 5, at_ns: 0, request: None }, false);
        }
        let mut found: Vec<_> = gathered.iter().map(|(stack, _, weight)| (stack.is_rest(), weight.samples)).collect();
        found.sort_unstable();
        assert_eq!(found, [(false, 2), (true, 2)]);
    }
}
