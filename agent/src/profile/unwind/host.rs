//! Walks on the host: the stack of another process' thread that stands still, or one that was recorded. Knows where to read,
//! not which threads are of interest.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use procfs::{
    FromRead as _,
    process::{MMPermissions, MMapPath, MemoryMaps},
};
use steth_probes::unwind::{
    DEPTH, FrameWord, MAX_SLOT, Mapping, MappingKind, Row, Stop, Table, VDSO_SLOT, WORD, Walk, World,
};

use super::FileTable;

/// Bytes that are read at a time.
const BLOCK: usize = 4096;
/// Longest vDSO; it takes two pages.
const MAX_VDSO: u64 = 1 << 20;

/// Where a thread stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// RIP.
    pub ip: u64,
    /// RSP.
    pub sp: u64,
    /// RBP, where that is known.
    pub bp: Option<u64>,
    /// Registers 0 to 15 as DWARF numbers them, where they are known; some hand-written code is left by them.
    pub others: Option<[u64; 16]>,
}

/// Registers of a thread that waits in the kernel, as `/proc/PID/task/TID/syscall` tells them. RBP is not there: frames whose
/// caller is found by it are the last, unless a callee saved it.
///
/// # Errors
/// If the thread is gone, or may not be looked at, or is running ([`io::ErrorKind::WouldBlock`]).
pub fn waiting_thread(proc: &Path, pid: u32, tid: u32) -> io::Result<Registers> {
    let path = proc.join(format!("{pid}/task/{tid}/syscall"));
    let text = std::fs::read_to_string(path)?;
    let mut words = text.split_whitespace().rev();
    let mut number = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    match (number(), number()) {
        (Some(ip), Some(sp)) => Ok(Registers { ip, sp, bp: None, others: None }),
        _ => Err(io::Error::new(io::ErrorKind::WouldBlock, "the thread is running")),
    }
}

/// What a stretch of a process' executable memory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file, by the path that leads to it also from another mount namespace and after it was deleted.
    File {
        /// Under `/proc/PID/map_files`.
        path: PathBuf,
        /// As the process named it.
        name: PathBuf,
    },
    /// What the kernel maps into each process.
    Vdso,
    /// No file's.
    Anonymous,
}

/// A stretch of a process' executable memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its first address.
    pub start: u64,
    /// The address behind its last.
    pub end: u64,
    /// Where in the file it begins.
    pub file_offset: u64,
    /// What it holds.
    pub content: Content,
}

/// The executable memory of a process, sorted by address.
///
/// # Errors
/// If the process is gone or may not be looked at.
pub fn regions(proc: &Path, pid: u32) -> io::Result<Vec<Region>> {
    let folder = proc.join(pid.to_string());
    let maps = MemoryMaps::from_read(File::open(folder.join("maps"))?).map_err(io::Error::other)?;
    let executable = maps.into_iter().filter(|map| map.perms.contains(MMPermissions::EXECUTE));
    let mut regions: Vec<_> = executable
        .map(|map| {
            let (start, end) = map.address;
            let content = match map.pathname {
                MMapPath::Path(name) => {
                    Content::File { path: folder.join("map_files").join(format!("{start:x}-{end:x}")), name }
                }
                MMapPath::Vdso => Content::Vdso,
                _ => Content::Anonymous,
            };
            Region { start, end, file_offset: map.offset, content }
        })
        .collect();
    regions.sort_by_key(|region| region.start);
    Ok(regions)
}

/// Memory that a stack is read from.
pub trait Memory {
    /// The word at an address; `None` if it cannot be read.
    fn word(&mut self, address: u64) -> Option<u64>;
}

/// The memory of a process. Reads through a file descriptor, a block at a time; what was read is kept, so it is for a thread that
/// stands still.
#[derive(Debug)]
pub struct ProcessMemory {
    file: File,
    block_at: Option<u64>,
    block: Box<[u8; BLOCK]>,
}

impl ProcessMemory {
    /// Opens `/proc/PID/mem`.
    ///
    /// # Errors
    /// If the process is gone or may not be looked at.
    pub fn open(proc: &Path, pid: u32) -> io::Result<Self> {
        let file = File::open(proc.join(format!("{pid}/mem")))?;
        Ok(Self { file, block_at: None, block: Box::new([0; BLOCK]) })
    }

    /// The bytes of a region, such as the vDSO.
    ///
    /// # Errors
    /// If it cannot be read or is longer than any vDSO.
    pub fn region(&self, region: &Region) -> io::Result<Vec<u8>> {
        let length = region.end.saturating_sub(region.start);
        let length = usize::try_from(length.min(MAX_VDSO)).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, region.start)?;
        Ok(bytes)
    }
}

impl Memory for ProcessMemory {
    fn word(&mut self, address: u64) -> Option<u64> {
        let block_at = address & !(BLOCK as u64 - 1);
        if self.block_at != Some(block_at) {
            self.block_at = None;
            self.file.read_exact_at(self.block.as_mut_slice(), block_at).ok()?;
            self.block_at = Some(block_at);
        }
        match word_at(self.block.as_slice(), address - block_at) {
            Some(word) => Some(word),
            None => {
                // Across two blocks.
                let mut word = [0; WORD as usize];
                self.file.read_exact_at(&mut word, address).ok()?;
                Some(u64::from_le_bytes(word))
            }
        }
    }
}

/// A stack that was recorded.
#[derive(Clone, Debug)]
pub struct RecordedStack {
    /// Address of its first byte.
    pub start: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Memory for RecordedStack {
    fn word(&mut self, address: u64) -> Option<u64> {
        word_at(&self.bytes, address.checked_sub(self.start)?)
    }
}

fn word_at(bytes: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A stretch of executable memory with what leads on from there.
#[derive(Clone, Debug)]
pub struct Code {
    /// Its first address.
    pub start: u64,
    /// The address behind its last.
    pub end: u64,
    /// Where in the file it begins.
    pub file_offset: u64,
    /// The file's slot, 1 to [`MAX_SLOT`] or [`VDSO_SLOT`]; 0 if it is no file's.
    pub slot: u32,
    /// The file's table, if there is one.
    pub table: Option<Arc<FileTable>>,
}

impl Code {
    /// Of a region, with the slot and table that its file has.
    pub fn new(region: &Region, slot: u32, table: Option<Arc<FileTable>>) -> Self {
        let slot = if slot > MAX_SLOT && slot != VDSO_SLOT { 0 } else { slot };
        Self { start: region.start, end: region.end, file_offset: region.file_offset, slot, table }
    }

    fn mapping(&self) -> Mapping {
        let kind = match (&self.table, self.slot) {
            (_, 0) => MappingKind::Anonymous,
            (Some(_), _) => MappingKind::Table,
            (None, _) => MappingKind::NoTable,
        };
        Mapping {
            start: self.start,
            end: self.end,
            file_offset: self.file_offset,
            kind: kind as u32,
            slot: self.slot,
            table: self.table.as_ref().map_or(Table::zeroed(), |table| table.placed(0, 0)),
        }
    }
}

/// Walks a stack from its innermost frame on; `code` is sorted by address. Returns the frames and why there are no more.
pub fn walk(registers: Registers, code: &[Code], memory: &mut impl Memory) -> (Vec<FrameWord>, Stop) {
    let mut walk = Walk::zeroed();
    walk.begin(registers.ip, registers.sp, registers.bp);
    let mut world = Host { code, memory, others: registers.others, table: None };
    let mut frames = Vec::with_capacity(DEPTH as usize);
    loop {
        let outcome = walk.step(&mut world);
        if outcome.frame != FrameWord::NONE {
            frames.push(outcome.frame);
        }
        if let Some(stop) = outcome.stop {
            return (frames, stop);
        }
    }
}

/// Each file's table is an array of its own here; the one in use is that of the mapping that was found last.
struct Host<'code, M> {
    code: &'code [Code],
    memory: &'code mut M,
    others: Option<[u64; 16]>,
    table: Option<&'code FileTable>,
}

impl<M: Memory> World for Host<'_, M> {
    fn word(&mut self, address: u64) -> Option<u64> {
        self.memory.word(address)
    }

    fn register(&mut self, number: u32) -> Option<u64> {
        self.others?.get(number as usize).copied()
    }

    fn page(&mut self, index: u32) -> Option<u32> {
        self.table?.pages.get(index as usize).copied()
    }

    fn row(&mut self, index: u32) -> Option<Row> {
        self.table?.rows.get(index as usize).copied()
    }

    fn find(&mut self, address: u64, mapping: &mut Mapping) {
        let behind = self.code.partition_point(|code| code.start <= address);
        let Some(code) = behind.checked_sub(1).and_then(|index| self.code.get(index)) else { return };
        if address < code.end {
            *mapping = code.mapping();
            self.table = code.table.as_deref();
        }
    }
}
