//! Where in CPython's structures that stands which is read. The figures of 3.10 to 3.12 were printed by `offsetof` with the
//! headers of 3.10.13, 3.11.7 and 3.12.1 (`Include/internal/pycore_runtime.h`, `pycore_interp.h`, `pycore_frame.h`,
//! `Include/cpython/pystate.h`, `code.h`, `unicodeobject.h`), x86-64; those of a release do not change within it. 3.13 says
//! them itself (`_Py_DebugOffsets` in `pycore_runtime.h`, the first thing in `_PyRuntime`).

use super::Memory;
use crate::record::record;

/// No such field.
pub const NONE: u16 = u16::MAX;

/// A release of CPython.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The number behind `3.`.
    pub minor: u8,
}

/// How it is told which frames one call of the interpreter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Mark {
    /// One call for each frame (3.10).
    Each = 0,
    /// The outermost of them says so (3.11: `is_entry`).
    Entry = 1,
    /// A frame without code, which the call keeps on its own stack, stands behind them (3.12 and later: `owner`).
    Owner = 2,
}

record! {
    /// Offsets in bytes; [`NONE`] for what a release lacks.
    #[derive(PartialEq, Eq)]
    pub struct Layout {
        /// `_PyRuntimeState.interpreters.head`.
        pub interpreters: u16,
        /// `PyInterpreterState.next`.
        pub next_interpreter: u16,
        /// `PyInterpreterState.threads.head`.
        pub threads: u16,
        /// `PyThreadState.next`.
        pub next_thread: u16,
        /// `PyThreadState.thread_id`: what `pthread_self` gives.
        pub thread_id: u16,
        /// `PyThreadState.native_thread_id`: what `gettid` gives.
        pub native_thread_id: u16,
        /// `PyThreadState.frame`, `.cframe` or `.current_frame`.
        pub frame: u16,
        /// `_PyCFrame.current_frame`, where `cframe` stands between.
        pub cframe_frame: u16,
        /// `PyFrameObject.f_back` or `_PyInterpreterFrame.previous`.
        pub previous: u16,
        /// Its code object.
        pub code: u16,
        /// `f_lasti`, `prev_instr` or `instr_ptr`.
        pub instruction: u16,
        /// How runs of frames are told apart: a [`Mark`].
        pub mark: u16,
        /// The byte that tells.
        pub mark_at: u16,
        /// `PyCodeObject.co_code_adaptive`: the first instruction, if `instruction` is an address.
        pub instructions: u16,
        /// `PyCodeObject.co_filename`.
        pub file: u16,
        /// `PyCodeObject.co_qualname`, or `co_name` where there is none.
        pub name: u16,
        /// `PyCodeObject.co_firstlineno`.
        pub first_line: u16,
        /// `PyCodeObject.co_linetable`.
        pub lines: u16,
        /// `PyASCIIObject.length`.
        pub text_length: u16,
        /// `PyASCIIObject.state`.
        pub text_state: u16,
        /// Where the letters of text in ASCII begin.
        pub ascii: u16,
        /// Where those of other text begin.
        pub unicode: u16,
        /// `PyVarObject.ob_size` of bytes.
        pub bytes_length: u16,
        /// `PyBytesObject.ob_sval`.
        pub bytes: u16,
    }
}

const V3_10: Layout = Layout {
    interpreters: 32,
    next_interpreter: 0,
    threads: 8,
    next_thread: 8,
    thread_id: 176,
    native_thread_id: NONE,
    frame: 24,
    cframe_frame: NONE,
    previous: 24,
    code: 32,
    instruction: 96,
    mark: Mark::Each as u16,
    mark_at: NONE,
    instructions: NONE,
    file: 104,
    name: 112,
    first_line: 40,
    lines: 120,
    text_length: 16,
    text_state: 32,
    ascii: 48,
    unicode: 72,
    bytes_length: 16,
    bytes: 32,
};

const V3_11: Layout = Layout {
    interpreters: 40,
    threads: 16,
    thread_id: 152,
    native_thread_id: 160,
    frame: 56,
    cframe_frame: 8,
    previous: 48,
    code: 32,
    instruction: 56,
    mark: Mark::Entry as u16,
    mark_at: 68,
    instructions: 184,
    file: 112,
    name: 128,
    first_line: 72,
    lines: 136,
    ..V3_10
};

const V3_12: Layout = Layout {
    threads: 72,
    thread_id: 136,
    native_thread_id: 144,
    cframe_frame: 0,
    previous: 8,
    code: 0,
    mark: Mark::Owner as u16,
    mark_at: 70,
    instructions: 192,
    first_line: 68,
    ascii: 40,
    unicode: 56,
    ..V3_11
};

/// What 3.13 does not say of itself is as in 3.12.
const V3_13: Layout = Layout { cframe_frame: NONE, ..V3_12 };

/// `_Py_Debug_Cookie`.
const COOKIE: u64 = u64::from_le_bytes(*b"xdebugpy");

impl Layout {
    /// That of a release which does not say it itself.
    pub const fn of(version: Version) -> Option<Self> {
        match version.minor {
            10 => Some(V3_10),
            11 => Some(V3_11),
            12 => Some(V3_12),
            _ => None,
        }
    }

    /// What a 3.13 says at `_PyRuntime`. `None` if there is nothing of the kind, of another release, or of one without the
    /// global lock, whose objects are made otherwise.
    pub fn read(memory: &mut impl Memory, runtime: u64) -> Option<Self> {
        let mut says = |at: u64| memory.word(runtime.checked_add(at)?);
        if says(0)? != COOKIE || says(8)? >> 16 != 0x030d || says(16)? != 0 {
            return None;
        }
        let mut offset = |at| u16::try_from(says(at)?).ok().filter(|offset| *offset != NONE);
        Some(Self {
            interpreters: offset(40)?,
            next_interpreter: offset(64)?,
            threads: offset(72)?,
            next_thread: offset(168)?,
            frame: offset(184)?,
            thread_id: offset(192)?,
            native_thread_id: offset(200)?,
            previous: offset(232)?,
            code: offset(240)?,
            instruction: offset(248)?,
            mark_at: offset(264)?,
            file: offset(280)?,
            name: offset(296)?,
            lines: offset(304)?,
            first_line: offset(312)?,
            instructions: offset(344)?,
            bytes_length: offset(520)?,
            bytes: offset(528)?,
            text_state: offset(544)?,
            text_length: offset(552)?,
            ascii: offset(560)?,
            ..V3_13
        })
    }
}
