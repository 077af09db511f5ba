//! What a code object is called: its function, file and line, read from the process and kept as long as the object says
//! the same. Knows objects, no frames.

use std::{collections::HashMap, sync::Arc};

use steth_probes::python::{Frame as PythonPlace, Layout, Mark, Memory as _};

use super::{Interpreter, ProcessMemory, lines, merge::PythonFrame};
use crate::model::profile::{Frame, Origin};

/// Descriptions that are kept; each takes some 500 bytes.
const KEPT: usize = 20_000;
/// Letters of a name or path that are read.
const LETTERS: u64 = 1024;
/// Bytes of a table of lines that are read.
const TABLE_BYTES: u64 = 64 << 10;

/// Code objects of all processes, by process and address.
#[derive(Debug, Default)]
pub struct Descriptions {
    known: HashMap<(u32, u64), Description>,
}

#[derive(Debug)]
struct Description {
    says: Says,
    function: Arc<str>,
    module: Arc<str>,
    file: Arc<str>,
    lines: Box<[u8]>,
}

/// What an object says; memory is used again, so what stands there now may be another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Says {
    name: u64,
    file: u64,
    lines: u64,
    first_line: u32,
}

impl Descriptions {
    /// Frames with names, in the same order. What cannot be read, because the process went on or is gone, says so. `pid`:
    /// whose memory it is.
    pub fn describe(
        &mut self,
        pid: u32,
        interpreter: &Interpreter,
        memory: &mut ProcessMemory,
        places: &[PythonPlace],
    ) -> Vec<PythonFrame> {
        let describe = |place: &PythonPlace| match self.frame(pid, &interpreter.layout, memory, place) {
            Some(frame) if place.code != 0 => PythonFrame { frame: Some(frame), ends_run: place.ends_run },
            _ => unread(place),
        };
        places.iter().map(describe).collect()
    }

    fn frame(&mut self, pid: u32, layout: &Layout, memory: &mut ProcessMemory, place: &PythonPlace) -> Option<Frame> {
        let says = says(layout, memory, place.code)?;
        let key = (pid, place.code);
        if self.known.get(&key).is_none_or(|known| known.says != says) {
            if self.known.len() >= KEPT {
                self.known.clear();
            }
            self.known.insert(key, read(layout, memory, says)?);
        }
        let known = self.known.get(&key)?;
        let line_of = if layout.mark == Mark::Each as u16 { lines::of_pairs } else { lines::of_locations };
        let line = line_of(&known.lines, says.first_line, place.instruction);
        Some(Frame {
            function: Arc::clone(&known.function),
            module: Arc::clone(&known.module),
            file: Arc::clone(&known.file),
            line: line.unwrap_or(says.first_line),
            inlined: false,
            origin: Origin::Interpreted,
        })
    }
}

fn says(layout: &Layout, memory: &mut ProcessMemory, code: u64) -> Option<Says> {
    let mut field = |offset: u16| memory.word(code.checked_add(u64::from(offset))?);
    Some(Says {
        name: field(layout.name)?,
        file: field(layout.file)?,
        lines: field(layout.lines)?,
        first_line: u32::try_from(field(layout.first_line)? & 0xffff_ffff).ok()?,
    })
}

fn read(layout: &Layout, memory: &mut ProcessMemory, says: Says) -> Option<Description> {
    let name = text(layout, memory, says.name)?;
    let file = text(layout, memory, says.file)?;
    let module = file.rsplit('/').next().unwrap_or_default();
    let lines = bytes(layout, memory, says.lines).unwrap_or_default();
    Some(Description {
        says,
        function: Arc::from(format!("{module}:{name}")),
        module: Arc::from(module),
        file: Arc::from(file),
        lines: lines.into(),
    })
}

/// A `str`. Its state is, from the lowest bit: two of interning, three of how many bytes a letter takes, whether it is
/// compact, whether ASCII (`Include/cpython/unicodeobject.h`, 3.10 to 3.13).
fn text(layout: &Layout, memory: &mut ProcessMemory, object: u64) -> Option<String> {
    let length = memory.word(object.checked_add(u64::from(layout.text_length))?)?;
    let state = memory.word(object.checked_add(u64::from(layout.text_state))?)?;
    let (letter_bytes, is_compact, is_ascii) = ((state >> 2) & 7, state & 32 != 0, state & 64 != 0);
    if !is_compact || length > LETTERS {
        return None;
    }
    let at = object.checked_add(u64::from(if is_ascii { layout.ascii } else { layout.unicode }))?;
    let bytes = memory.bytes(at, usize::try_from(length * letter_bytes).ok()?)?;
    let letter = |bytes: &[u8]| {
        let code = bytes.iter().rev().fold(0, |code, byte| code << 8 | u32::from(*byte));
        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
    };
    match letter_bytes {
        1 | 2 | 4 => Some(bytes.chunks_exact(usize::try_from(letter_bytes).ok()?).map(letter).collect()),
        _ => None,
    }
}

/// A `bytes`.
fn bytes(layout: &Layout, memory: &mut ProcessMemory, object: u64) -> Option<Vec<u8>> {
    let length = memory.word(object.checked_add(u64::from(layout.bytes_length))?)?;
    if length > TABLE_BYTES {
        return None;
    }
    memory.bytes(object.checked_add(u64::from(layout.bytes))?, usize::try_from(length).ok()?)
}

/// A frame of which nothing can be read any more.
pub fn unread(place: &PythonPlace) -> PythonFrame {
    PythonFrame { frame: (place.code != 0).then(|| unreadable("[python function]")), ends_run: place.ends_run }
}

fn unreadable(what: &str) -> Frame {
    let empty: Arc<str> = Arc::from("");
    Frame {
        function: Arc::from(what),
        module: Arc::clone(&empty),
        file: empty,
        line: 0,
        inlined: false,
        origin: Origin::Interpreted,
    }
}
