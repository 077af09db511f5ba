//! Functions of Python in a stack: finds CPython in a process, reads what its frames run, and puts them where the
//! interpreter stands in the native stack. The steps over its structures are [`steth_probes::python`]'s.
//!
//! CPython 3.10 to 3.13 on x86-64, but for builds without the global lock. Addresses of code objects must be described
//! while the process lives.

mod describe;
mod lines;
mod merge;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, fs::File, io, os::unix::fs::FileExt as _, path::Path};

use steth_probes::python::{Frame, Layout, Memory, Search, Searched, Version, Walk};

use super::{
    mappings::{Backing, Mappings},
    symbols::elf::Elf,
};

pub use describe::{Descriptions, unread};
pub use merge::{Native, PythonFrame, merge};

/// Threads that are looked at for one.
const THREADS: usize = 4096;
/// Frames that are walked; CPython's own limit for recursion is 1,000.
const FRAMES: usize = 2048;

/// The memory of a process, through `/proc/PID/mem`. Reading it needs the right to trace the process.
#[derive(Debug)]
pub struct ProcessMemory(File);

impl ProcessMemory {
    /// Opens it.
    ///
    /// # Errors
    /// If the process is gone or may not be looked at.
    pub fn open(proc: &Path, pid: u32) -> io::Result<Self> {
        File::open(proc.join(pid.to_string()).join("mem")).map(Self)
    }

    /// Reads some bytes. None if not all of them can be read.
    fn bytes(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, address).ok()?;
        Some(bytes)
    }
}

impl Memory for ProcessMemory {
    fn word(&mut self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, address).ok()?;
        Some(u64::from_le_bytes(bytes))
    }
}

/// What [`steth_probes::python::FrameWord`]s are called, each in its process.
pub type Names = HashMap<(u32, u64), PythonFrame>;

/// Whether a file of this name, without folders, may hold CPython.
pub fn may_hold_it(name: &str) -> bool {
    name.starts_with("python") || name.starts_with("libpython")
}

/// CPython in one process.
#[derive(Clone, Debug)]
pub struct Interpreter {
    /// Which release.
    pub version: Version,
    /// Where its structures have what.
    pub layout: Layout,
    /// The address of `_PyRuntime`.
    pub runtime: u64,
}

/// What was found of CPython.
#[derive(Clone, Debug)]
pub enum Found {
    /// One that can be read.
    Supported(Interpreter),
    /// One that cannot; the release, as far as it is known.
    Unsupported(Option<Version>),
    /// None.
    Nothing,
}

impl Interpreter {
    /// Looks for it in the files of code of a process.
    pub fn find(mappings: &Mappings, memory: &mut ProcessMemory) -> Found {
        for area in mappings.areas() {
            let Backing::File(code) = &area.backing else { continue };
            if !may_hold_it(code.name()) {
                continue;
            }
            let Ok(file) = code.file() else { continue };
            let Ok(elf) = Elf::read(&file) else { continue };
            let Some(runtime) = elf.symbol("_PyRuntime") else { continue };
            let Some(mapped) = elf.address_of(area.offset) else { continue };
            let load = area.start.wrapping_sub(mapped);
            let runtime = load.wrapping_add(runtime);
            let said = elf.symbol("Py_Version").and_then(|at| memory.word(load.wrapping_add(at)));
            let version = said.and_then(of_number).or_else(|| of_name(code.name()));
            let layout = version.and_then(Layout::of).or_else(|| Layout::read(memory, runtime));
            return match (version, layout) {
                (Some(version), Some(layout)) => Found::Supported(Self { version, layout, runtime }),
                (version, _) => Found::Unsupported(version),
            };
        }
        Found::Nothing
    }

    /// The frames of a thread, the innermost first. `tid`: as the process itself numbers it. None if it runs no Python.
    /// Only of a thread that stands still is this a stack.
    pub fn frames(&self, memory: &mut ProcessMemory, tid: u32) -> Option<Vec<Frame>> {
        let mut search = Search::new(memory, &self.layout, self.runtime)?;
        let mut steps = (0..THREADS).map(|_| search.step(memory, &self.layout, tid));
        let Some(Searched::Found(thread)) = steps.find(|step| *step != Searched::GoOn) else { return None };
        let mut walk = Walk::new(memory, &self.layout, thread)?;
        Some((0..FRAMES).map_while(|_| walk.step(memory, &self.layout)).collect())
    }
}

/// `PY_VERSION_HEX`, an int.
fn of_number(word: u64) -> Option<Version> {
    match word.to_le_bytes() {
        [_, _, minor, 3, ..] => Some(Version { minor }),
        _ => None,
    }
}

/// `python3.10`, `libpython3.10.so.1.0`.
fn of_name(name: &str) -> Option<Version> {
    let rest = name.strip_prefix("lib").unwrap_or(name).strip_prefix("python3.")?;
    let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
    Some(Version { minor: digits.parse().ok()? })
}
