//! How one gets from CPython's runtime to the frames of the thread that runs: steps over its structures, each a few reads,
//! the same code in the kernel and on the host. Knows neither how memory is read nor what a code object is called.

mod layout;
#[cfg(test)]
mod tests;
mod word;

pub use layout::{Layout, Mark, NONE, Version};
pub use word::FrameWord;

use crate::record::record;

/// Frames of Python that a sample holds at most.
pub const DEPTH: u32 = 128;
/// Threads of a process that are looked at for the one that runs.
pub const THREADS: u32 = 512;

record! {
    /// What the kernel programs know of a process that runs Python.
    pub struct Process {
        /// The address of `_PyRuntime`.
        pub runtime: u64,
        /// Where its structures have what.
        pub layout: Layout,
    }
}

/// Another process' memory.
pub trait Memory {
    /// The eight bytes at an address, which need not be aligned; `None` if they cannot be read.
    fn word(&mut self, address: u64) -> Option<u64>;
}

/// Where glibc keeps a thread's number, counted from what `pthread_self` gives (nptl/descr.h, `struct pthread`; the same on
/// x86-64 since 2.4). Without `native_thread_id`, as before CPython 3.11, this tells threads apart.
const PTHREAD_TID: u64 = 0x2d0;

/// Looks for a thread's state, among those of all interpreters.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    interpreter: u64,
    thread: u64,
}

/// How a step of a [`Search`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Searched {
    /// The state's address.
    Found(u64),
    /// Take another step.
    GoOn,
    /// The thread has none: it runs no Python. Or what should be there cannot be read.
    Nowhere,
}

impl Search {
    /// Begins at the address of `_PyRuntime`.
    #[inline(always)]
    pub fn new(memory: &mut impl Memory, layout: &Layout, runtime: u64) -> Option<Self> {
        let interpreter = field(memory, runtime, layout.interpreters)?;
        let thread = field(memory, interpreter, layout.threads)?;
        Some(Self { interpreter, thread })
    }

    /// Looks at one thread's state. `tid`: as the process itself numbers its threads, in its own PID namespace. How often it
    /// is to be called is the caller's decision; a damaged list may be a ring.
    #[inline(always)]
    pub fn step(&mut self, memory: &mut impl Memory, layout: &Layout, tid: u32) -> Searched {
        if self.thread == 0 {
            let next = field(memory, self.interpreter, layout.next_interpreter).filter(|next| *next != 0);
            let Some(next) = next else { return Searched::Nowhere };
            let Some(thread) = field(memory, next, layout.threads) else { return Searched::Nowhere };
            *self = Self { interpreter: next, thread };
            return Searched::GoOn;
        }
        let number = if layout.native_thread_id == NONE {
            let pthread = field(memory, self.thread, layout.thread_id);
            // Of an interpreter that was made without threads, or on another C library, this may be no address.
            pthread.and_then(|pthread| memory.word(pthread.wrapping_add(PTHREAD_TID))).map(|word| word & 0xffff_ffff)
        } else {
            field(memory, self.thread, layout.native_thread_id)
        };
        if number == Some(u64::from(tid)) {
            return Searched::Found(self.thread);
        }
        match field(memory, self.thread, layout.next_thread) {
            Some(next) => {
                self.thread = next;
                Searched::GoOn
            }
            None => Searched::Nowhere,
        }
    }
}

/// One frame of Python, or the end of a run of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Address of its code object; 0 if this only ends a run.
    pub code: u64,
    /// The instruction it stands at: bytes from the first one of its code.
    pub instruction: u32,
    /// Whether the next frame belongs to another call of `_PyEval_EvalFrameDefault`: one call runs this frame and those
    /// before it, back to the last end.
    pub ends_run: bool,
}

/// Goes from frame to frame, the innermost first.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    frame: u64,
}

impl Walk {
    /// Begins at a thread's state. `None` if it cannot be read.
    #[inline(always)]
    pub fn new(memory: &mut impl Memory, layout: &Layout, thread: u64) -> Option<Self> {
        let mut frame = field(memory, thread, layout.frame)?;
        if layout.cframe_frame != NONE {
            frame = field(memory, frame, layout.cframe_frame)?;
        }
        Some(Self { frame })
    }

    /// The frame that it stands at; it goes on to its caller's. `None` at the end, and where memory cannot be read: which of
    /// the two, [`Self::is_done`] says.
    #[inline(always)]
    pub fn step(&mut self, memory: &mut impl Memory, layout: &Layout) -> Option<Frame> {
        if self.frame == 0 {
            return None;
        }
        let at = self.frame;
        let code = field(memory, at, layout.code)?;
        let instruction = field(memory, at, layout.instruction)?;
        let mark = if layout.mark == Mark::Each as u16 { 1 } else { field(memory, at, layout.mark_at)? & 0xff };
        let by_owner = layout.mark == Mark::Owner as u16;
        self.frame = field(memory, at, layout.previous)?;
        if by_owner && mark == OWNED_BY_C {
            return Some(Frame { code: 0, instruction: 0, ends_run: true });
        }
        let instruction = if layout.instructions == NONE {
            // An index of two-byte units, a C int; below 0 before the first.
            (instruction as u32 as i32).max(0) as u32 * 2
        } else {
            let first = code.wrapping_add(u64::from(layout.instructions));
            // Just before the first in a frame that was not begun yet.
            instruction.checked_sub(first).map_or(0, |bytes| bytes as u32)
        };
        Some(Frame { code, instruction, ends_run: !by_owner && mark != 0 })
    }

    /// Whether the outermost frame was passed.
    #[inline(always)]
    pub fn is_done(&self) -> bool {
        self.frame == 0
    }
}

/// `FRAME_OWNED_BY_CSTACK` (Include/internal/pycore_frame.h, CPython 3.12 and 3.13).
const OWNED_BY_C: u64 = 3;

#[inline(always)]
fn field(memory: &mut impl Memory, structure: u64, offset: u16) -> Option<u64> {
    memory.word(structure.wrapping_add(u64::from(offset)))
}
