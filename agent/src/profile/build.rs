//! From stacks of addresses to a profile with names.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use steth_probes::{
    profile::KERNEL_FRAMES,
    python,
    unwind::{FrameWord, Origin as From, VDSO_SLOT},
};

use super::{
    code::Code,
    gather::{Gathered, Stack as Gathering, Whole},
    python::{Names, Native, PythonFrame, merge, unread},
    symbols::{Location, Symbolizer, SymbolizerGone},
};
use crate::model::profile::{Frame, Kind, Origin, Profile, Stack};
use crate::model::syscall::syscall_name;

/// What is known of the files that slots stand for.
#[derive(Clone, Debug, Default)]
pub struct Files(HashMap<u32, Option<Arc<Code>>>);

impl Files {
    /// What a slot stands for; `None` if that could not be opened.
    pub fn set(&mut self, slot: u32, code: Option<Arc<Code>>) {
        self.0.insert(slot, code);
    }

    /// The file that a slot stands for, if it was met and could be opened.
    pub fn code(&self, slot: u32) -> Option<&Code> {
        self.0.get(&slot)?.as_deref()
    }

    /// How many slots there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Forgets slots that are not among these.
    pub fn retain(&mut self, wanted: impl Fn(u32) -> bool) {
        self.0.retain(|slot, _| wanted(*slot));
    }
}

/// What a profile is said to be.
#[derive(Clone, Debug)]
pub struct Title {
    /// What was looked at.
    pub target: String,
    /// What was asked for.
    pub kind: Kind,
    /// When it began.
    pub began: SystemTime,
    /// How long it went on.
    pub lasted: Duration,
    /// Samples of the CPU clock in a second and CPU.
    pub hertz: u32,
    /// Whether stacks of several services are among it, so that each begins with its service.
    pub several: bool,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// All that is needed to make a profile, away from what goes on.
#[derive(Debug)]
pub struct Recipe {
    /// The stacks.
    pub gathered: Gathered,
    /// Files by their slots.
    pub files: Files,
    /// Names of services by their numbers.
    pub services: HashMap<u32, Arc<str>>,
    /// Fingerprints of statements by their numbers.
    pub queries: HashMap<u32, Arc<str>>,
    /// What Python's functions are called.
    pub python: Names,
    /// What it is said to be.
    pub title: Title,
}

/// A place, and in which process if that matters.
type Place = (u32, u64);

impl Recipe {
    /// Finds the names and makes the profile. Takes its time; not for a thread that has other work.
    ///
    /// # Errors
    /// If the symbolizer is gone.
    pub fn make(self, symbolizer: &Symbolizer) -> Result<Profile, SymbolizerGone> {
        let places: BTreeSet<Place> = self.gathered.iter().flat_map(|(stack, ..)| places_of(stack)).collect();
        let places: Vec<Place> = places.into_iter().collect();
        let locations = places.iter().map(|place| self.location(*place)).collect();
        let found = symbolizer.resolve_blocking(locations)?;
        let named: HashMap<Place, Arc<[Frame]>> = places.into_iter().zip(found).collect();
        let mut frames = Frames::default();
        let stacks = self.gathered.iter().map(|(stack, request, weight)| {
            let service = self.services.get(&stack.service).cloned().unwrap_or_else(|| "unknown".into());
            let mut indices = Vec::new();
            if self.title.several {
                indices.push(frames.index(&note(Arc::clone(&service))));
            }
            if stack.is_rest() {
                indices.push(frames.index(&note("[too many different stacks]".into())));
            }
            if stack.kernel.len() >= KERNEL_FRAMES {
                indices.push(frames.index(&note("[too many kernel frames]".into())));
            }
            if let Some(stop) = stack.stop.filter(|stop| !stop.is_complete()) {
                indices.push(frames.index(&note(format!("[{}]", stop.text()).into())));
            }
            // From the outermost inwards.
            let places = places_of(stack).into_iter().rev();
            let native = places.filter_map(|place| named.get(&place)).flat_map(|found| found.iter());
            if stack.python.is_empty() {
                indices.extend(native.map(|frame| frames.index(frame)));
            } else {
                let native: Vec<Frame> = native.cloned().collect();
                indices.extend(self.with_python(stack, &native).iter().map(|frame| frames.index(frame)));
            }
            let query = request.and_then(|request| self.queries.get(&request.statement).cloned());
            match stack.whole {
                Whole::Samples => {}
                Whole::Calls(call) => indices.push(frames.index(&system_call(call))),
                Whole::Requests => {
                    let text = query.as_ref().map_or_else(|| "[query]".into(), |query| format!("[query {query}]"));
                    indices.push(frames.index(&note(text.into())));
                }
            }
            Stack {
                frames: indices,
                state: stack.state,
                ns: weight.ns,
                samples: weight.samples,
                service,
                thread: thread(&stack.thread).into(),
                pid: stack.pid,
                tid: stack.tid,
                query,
            }
        });
        let stacks = stacks.collect();
        let Title { target, kind, began, lasted, hertz, notes, .. } = self.title;
        Ok(Profile { target, kind, began, lasted, hertz, frames: frames.all, stacks, notes })
    }

    fn with_python(&self, stack: &Gathering, native: &[Frame]) -> Vec<Frame> {
        let name = |word: &u64| match self.python.get(&(stack.pid, *word)) {
            Some(frame) => frame.clone(),
            None => unread(&python::FrameWord(*word).frame()),
        };
        let mut frames: Vec<PythonFrame> = stack.python.iter().map(name).collect();
        let is_cut = stack.python.len() >= python::DEPTH as usize;
        if is_cut {
            let further = note("[too many Python frames]".into());
            frames.push(PythonFrame { frame: Some(further), ends_run: true });
        }
        let is_complete = stack.stop.is_some_and(|stop| stop.is_complete());
        merge(Native { frames: native, is_complete, is_cut }, &frames)
    }

    fn location(&self, (pid, word): Place) -> Location {
        match FrameWord(word).origin() {
            From::Kernel(address) => Location::Kernel { address },
            From::File { slot: VDSO_SLOT, offset } => Location::Vdso { offset },
            From::File { slot, offset } => match self.files.0.get(&slot) {
                Some(Some(code)) => Location::Code { code: Arc::clone(code), offset },
                _ => Location::Closed { name: "a file that is gone".into() },
            },
            From::Address(address) => Location::Address { pid, address },
            From::None | From::Stop(_) | From::Unknown => Location::Closed { name: "nothing".into() },
        }
    }
}

/// The innermost first.
fn places_of(stack: &Gathering) -> Vec<Place> {
    // Of a caller the kernel tells where the call returns to: the call is before.
    let kernel = stack.kernel.iter().enumerate().map(|(at, address)| (0, address - u64::from(at > 0)));
    let user = stack.user.iter().map(|word| match FrameWord(*word).origin() {
        // Only an address without a file means something else in each process.
        From::Address(_) => (stack.pid, *word),
        _ => (0, *word),
    });
    kernel.chain(user).collect()
}

fn system_call(number: u32) -> Frame {
    let function = syscall_name(number).into();
    Frame { function, module: "[system call]".into(), origin: Origin::Kernel, ..note("".into()) }
}

fn note(text: Arc<str>) -> Frame {
    Frame { function: text, module: "".into(), file: "".into(), line: 0, inlined: false, origin: Origin::Note }
}

fn thread(name: &[u8; 16]) -> String {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned()
}

/// Distinct frames.
#[derive(Default)]
struct Frames {
    all: Vec<Frame>,
    known: HashMap<Frame, u32>,
}

impl Frames {
    fn index(&mut self, frame: &Frame) -> u32 {
        if let Some(index) = self.known.get(frame) {
            return *index;
        }
        let index = self.all.len() as u32;
        self.all.push(frame.clone());
        self.known.insert(frame.clone(), index);
        index
    }
}
