//! A profile: stacks with names, and what each weighs. Formats are made from it; nothing in it needs the processes any more.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// Stacks seen in one stretch of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// What was looked at, for people: `postgres (PID 4711)`, `service nginx`, `all processes`.
    pub target: String,
    /// What was asked for.
    pub kind: Kind,
    /// When sampling began.
    pub began: SystemTime,
    /// How long it went on.
    pub lasted: Duration,
    /// Samples of the CPU clock in a second and CPU.
    pub hertz: u32,
    /// Distinct frames.
    pub frames: Vec<Frame>,
    /// Distinct stacks.
    pub stacks: Vec<Stack>,
    /// What a reader must know: losses, what could not be seen, why it is empty.
    pub notes: Vec<String>,
}

/// How a profile is to be drawn, as it was typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drawing {
    /// Name of the format.
    pub format: String,
    /// Callers above.
    pub icicle: bool,
    /// From the inside out.
    pub reversed: bool,
}

/// A profile, drawn.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// Its media type.
    pub media_type: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Draws a profile, or how it differs from an earlier one; an error is for people.
pub type Draw = Arc<dyn Fn(&Profile, Option<&Profile>, &Drawing) -> Result<Drawn, String> + Send + Sync>;

/// Whether there is a format of that name; if not, which there are.
pub type KnowsFormat = fn(&str) -> Result<(), String>;

/// What a profile shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Time on a CPU.
    Cpu,
    /// Time spent waiting.
    OffCpu,
    /// Both.
    Wall,
    /// Time in system calls that took long.
    Syscalls,
    /// Time of Postgres requests that took long.
    Queries,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Cpu, Self::OffCpu, Self::Wall, Self::Syscalls, Self::Queries];

    /// What it is called where it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::OffCpu => "off-cpu",
            Self::Wall => "wall",
            Self::Syscalls => "syscalls",
            Self::Queries => "queries",
        }
    }
}

/// One line of a stack as people see it. A function that the compiler put into another has a frame of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    /// The function's name, demangled; of a [`Origin::Note`] the note.
    pub function: Arc<str>,
    /// The file of code it lies in, without folders: `postgres`, `libc.so.6`, `[kernel]`, `[vdso]`; empty if unknown.
    pub module: Arc<str>,
    /// Source file; empty if unknown.
    pub file: Arc<str>,
    /// Line in it; 0 if unknown.
    pub line: u32,
    /// Whether it was put into its caller by the compiler.
    pub inlined: bool,
    /// What kind of code it is.
    pub origin: Origin,
}

/// What kind of code a frame is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Origin {
    /// A process' own code.
    User,
    /// The kernel's.
    Kernel,
    /// Made while the process runs.
    Jit,
    /// A function of an interpreted language.
    Interpreted,
    /// Not code: the name of a process or thread, or why a stack ends there.
    Note,
}

/// One stack, of one thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    /// Indices into [`Profile::frames`], the outermost caller first.
    pub frames: Vec<u32>,
    /// Whether the thread ran or waited.
    pub state: State,
    /// What it weighs: the time that it stands for, in nanoseconds.
    pub ns: u64,
    /// How many samples it is made from.
    pub samples: u64,
    /// Whose it is.
    pub service: Arc<str>,
    /// The thread's name.
    pub thread: Arc<str>,
    /// The process; 0 if stacks of several are one.
    pub pid: u32,
    /// The thread; 0 likewise.
    pub tid: u32,
    /// Fingerprint of the Postgres statement that was being served.
    pub query: Option<Arc<str>>,
}

/// What a thread was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// On a CPU.
    OnCpu,
    /// Off it.
    OffCpu,
}
