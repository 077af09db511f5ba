//! The list of functions that a process makes while it runs and writes to `/tmp/perf-PID.map` itself: a line each, of
//! address, length and name. Knows the format and how it grows, not what the names mean to their language.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::Arc,
};

use super::{super::mappings::Process, names::Names};
use crate::{
    files::{open_under, open_within},
    model::profile::{Frame, Origin},
};

/// Functions that are kept of one process.
const FUNCTIONS: usize = 200_000;
/// Bytes of a list that are read.
const LIST_BYTES: u64 = 64 << 20;
/// Bytes of a name that are kept.
const NAME_BYTES: usize = 512;

/// The list of one process, as far as it was read.
#[derive(Debug, Default)]
pub struct PerfMap {
    /// Device, inode: another file is another list.
    file: (u64, u64),
    read_bytes: u64,
    /// By first address: the address behind it, the name. What was written last holds where two overlap.
    functions: BTreeMap<u64, (u64, Arc<str>)>,
}

impl PerfMap {
    /// Reads on where it left off. Returns false if there is no list.
    pub fn update(&mut self, process: &Process, names: &mut Names) -> bool {
        let Ok(file) = open(process) else { return !self.functions.is_empty() };
        let Ok(metadata) = file.metadata() else { return !self.functions.is_empty() };
        let id = (metadata.dev(), metadata.ino());
        if id != self.file || metadata.len() < self.read_bytes {
            *self = Self { file: id, ..Self::default() };
        }
        if metadata.len() > self.read_bytes
            && let Err(why) = self.read(file, names)
        {
            tracing::debug!(pid = process.pid, %why, "cannot read the perf map");
        }
        true
    }

    fn read(&mut self, mut file: File, names: &mut Names) -> io::Result<()> {
        file.seek(SeekFrom::Start(self.read_bytes))?;
        let mut lines = BufReader::new(file.take(LIST_BYTES.saturating_sub(self.read_bytes)));
        let mut line = Vec::new();
        // A line that is not finished yet is read the next time.
        while lines.read_until(b'\n', &mut line)? > 0 && line.last() == Some(&b'\n') {
            self.read_bytes += line.len() as u64;
            if let Some((start, end, name)) = parse(&line)
                && self.functions.len() < FUNCTIONS
            {
                self.insert(start, end, names.get(name));
            }
            line.clear();
        }
        Ok(())
    }

    fn insert(&mut self, start: u64, end: u64, name: Arc<str>) {
        // Memory of code that was thrown away is used again.
        while let Some((&below, &(below_end, _))) = self.functions.range(..end).next_back() {
            if below_end <= start {
                break;
            }
            self.functions.remove(&below);
        }
        self.functions.insert(start, (end, name));
    }

    /// The frame of an address, if it is on the list.
    pub fn frame(&self, address: u64, module: Arc<str>, names: &mut Names) -> Option<Frame> {
        let (_, (end, name)) = self.functions.range(..=address).next_back()?;
        if address >= *end {
            return None;
        }
        let (function, file, line) = take_apart(name);
        Some(Frame {
            function: names.get(&function),
            module,
            file: names.get(file),
            line,
            inlined: false,
            origin: Origin::Jit,
        })
    }

    /// How many functions are known.
    pub fn count(&self) -> usize {
        self.functions.len()
    }
}

/// `/tmp/perf-PID.map` as the process sees it; the PID is its own (tools/perf/Documentation/jit-interface.txt).
fn open(process: &Process) -> io::Result<File> {
    let path = PathBuf::from(format!("/tmp/perf-{}.map", process.inner_pid));
    match &process.root {
        Some(root) => open_under(root, &path),
        None => open_within(&PathBuf::from(format!("/proc/{}/root", process.pid)), &path),
    }
}

/// First address, address behind it, name.
fn parse(line: &[u8]) -> Option<(u64, u64, &str)> {
    let line = str::from_utf8(line.strip_suffix(b"\n").unwrap_or(line)).ok()?;
    let (start, rest) = line.trim_start().split_once(' ')?;
    let (length, name) = rest.split_once(' ')?;
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    let (start, length) = (number(start)?, number(length)?);
    let name = name.get(..name.floor_char_boundary(NAME_BYTES)).unwrap_or_default().trim();
    (length > 0 && !name.is_empty()).then_some((start, start.checked_add(length)?, name))
}

/// Function, file and line from the names that V8 and CPython write; any other name is a function's.
fn take_apart(name: &str) -> (String, &str, u32) {
    // CPython 3.12, Objects/perf_trampoline.c: `py::name:file`.
    if let Some((function, file)) = name.strip_prefix("py::").and_then(|rest| rest.split_once(':')) {
        return (function.to_owned(), file, 0);
    }
    // V8, src/logging/log.cc: a kind, a mark of how it was compiled, name, file:line:column.
    let kinds = ["LazyCompile:", "Function:", "Script:", "Eval:", "JS:"];
    let Some(rest) = kinds.iter().find_map(|kind| name.strip_prefix(kind)) else { return (name.to_owned(), "", 0) };
    let rest = rest.trim_start_matches(['*', '~', '^', '+', '-']);
    let (function, place) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut parts = place.rsplitn(3, ':');
    let (column, line, file) = (parts.next(), parts.next(), parts.next());
    let function = if function.is_empty() { "(anonymous)" } else { function };
    match (column.and_then(|column| column.parse::<u32>().ok()), line.and_then(|line| line.parse().ok()), file) {
        (Some(_), Some(line), Some(file)) => (function.to_owned(), file.trim_start_matches("file://"), line),
        _ => (function.to_owned(), place, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_and_what_is_no_stretch_is_left_out() {
        let line = format!("1000 10 {}\n", "é".repeat(1_000));
        let (start, end, name) = parse(line.as_bytes()).unwrap();
        assert_eq!((start, end, name.len()), (0x1000, 0x1010, NAME_BYTES));
        for line in ["1000 0 empty", "ffffffffffffffff 10 beyond", "1000 10 ", "x 10 y", "1000"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }
}
