//! Where the processes of a Postgres cluster note what they run. Knows the server's variables and one structure of it; what
//! is read there is the kernel programs' business.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _, ReadCache};
use procfs::process::{MMapPath, Process};
use thiserror::Error;

use crate::model::event::Backends;

/// The pointer to a process' own entry in the list that `pg_stat_activity` shows; exported since PostgreSQL 14.
const ENTRY: &[u8] = b"MyBEEntry";
/// The size of a text in it: the setting `track_activity_query_size`.
const TEXT_SIZE: &[u8] = b"pgstat_track_activity_query_size";
/// `PgBackendStatus` of PostgreSQL 14 to 17 on 64-bit machines (`src/include/utils/backend_status.h`): the process' number,
/// its state, the name of its application and the text. The first three are only to see whether this is that structure.
const PID_OFFSET: u64 = 4;
const STATE_OFFSET: u64 = 232;
const NAME_OFFSET: u64 = 240;
const TEXT_OFFSET: u32 = 248;
/// The last of `BackendState`: STATE_DISABLED.
const LAST_STATE: i32 = 6;
/// What `track_activity_query_size` may be (`src/backend/utils/misc/guc.c`).
const TEXT_SIZES: std::ops::RangeInclusive<i32> = 100..=1_048_576;

/// Why it cannot be told.
#[derive(Debug, Error)]
pub enum BackendsError {
    /// procfs does not say enough of the process.
    #[error("cannot look into the process: {0}")]
    Process(#[from] procfs::ProcError),
    /// Its executable or its memory cannot be read.
    #[error("cannot read its executable or its memory: {0}")]
    Read(#[from] io::Error),
    /// Its executable is not understood.
    #[error("its executable is no ELF file that can be understood: {0}")]
    Elf(#[from] object::Error),
    /// It does not export what is looked for.
    #[error("its executable has no symbol {0} (PostgreSQL 14)")]
    NoSymbol(&'static str),
    /// No process of it has an entry that looks as it should.
    #[error("none of its processes has an entry of the known layout (PostgreSQL 14 to 17)")]
    Layout,
}

/// Looks into the postmaster with this process number and into its children.
///
/// # Errors
/// If they cannot be read, or are not of a version whose layout is known.
pub fn find(proc: &Path, postmaster: u32) -> Result<Backends, BackendsError> {
    let process = Process::new_with_root(proc.join(postmaster.to_string()))?;
    let executable = process.exe()?;
    let symbols = symbols(&proc.join(postmaster.to_string()).join("exe"))?;
    let mappings = process.maps()?;
    let first =
        mappings.iter().find(|mapping| mapping.offset == 0 && mapping.pathname == MMapPath::Path(executable.clone()));
    let start = first.map(|mapping| mapping.address.0).ok_or(BackendsError::Layout)?;
    let bias = start.wrapping_sub(symbols.first_segment);
    let memory = File::open(proc.join(postmaster.to_string()).join("mem"))?;
    let size = i32::from_ne_bytes(bytes(&memory, bias.wrapping_add(symbols.text_size))?);
    let text_len = u32::try_from(size).ok().filter(|_| TEXT_SIZES.contains(&size)).ok_or(BackendsError::Layout)?;
    let found = Backends { entry_address: bias.wrapping_add(symbols.entry), text_offset: TEXT_OFFSET, text_len };
    let children = children(proc, postmaster);
    if children.iter().any(|child| fits(proc, *child, &found)) { Ok(found) } else { Err(BackendsError::Layout) }
}

struct Symbols {
    first_segment: u64,
    entry: u64,
    text_size: u64,
}

fn symbols(executable: &Path) -> Result<Symbols, BackendsError> {
    let cache = ReadCache::new(File::open(executable)?);
    let file = object::File::parse(&cache)?;
    let address = |name: &[u8]| {
        let mut symbols = file.dynamic_symbols();
        symbols.find(|symbol| symbol.is_definition() && symbol.name_bytes() == Ok(name)).map(|symbol| symbol.address())
    };
    Ok(Symbols {
        first_segment: file.segments().map(|segment| segment.address()).min().unwrap_or_default(),
        entry: address(ENTRY).ok_or(BackendsError::NoSymbol("MyBEEntry"))?,
        text_size: address(TEXT_SIZE).ok_or(BackendsError::NoSymbol("pgstat_track_activity_query_size"))?,
    })
}

fn children(proc: &Path, parent: u32) -> Vec<i32> {
    let Ok(processes) = procfs::process::all_processes_with_root(proc) else { return Vec::new() };
    let of = |process: &Process| process.stat().is_ok_and(|stat| u32::try_from(stat.ppid) == Ok(parent));
    processes.filter_map(Result::ok).filter(of).map(|process| process.pid).collect()
}

/// Whether the entry of a process looks as it should.
fn fits(proc: &Path, pid: i32, found: &Backends) -> bool {
    let look = || -> io::Result<bool> {
        let memory = File::open(PathBuf::from(proc).join(pid.to_string()).join("mem"))?;
        let entry = u64::from_ne_bytes(bytes(&memory, found.entry_address)?);
        let own = i32::from_ne_bytes(bytes(&memory, entry.wrapping_add(PID_OFFSET))?);
        let state = i32::from_ne_bytes(bytes(&memory, entry.wrapping_add(STATE_OFFSET))?);
        let name = u64::from_ne_bytes(bytes(&memory, entry.wrapping_add(NAME_OFFSET))?);
        let text = u64::from_ne_bytes(bytes(&memory, entry.wrapping_add(u64::from(found.text_offset)))?);
        let _: [u8; 1] = bytes(&memory, name)?;
        let _: [u8; 1] = bytes(&memory, text)?;
        Ok(own == pid && (0..=LAST_STATE).contains(&state) && name != text)
    };
    look().unwrap_or(false)
}

fn bytes<const N: usize>(memory: &File, address: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    memory.read_exact_at(&mut bytes, address)?;
    Ok(bytes)
}
