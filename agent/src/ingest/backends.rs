//! Where the processes of a Postgres cluster note what they run. Knows the server's variables and one structure of it; what
//! is read there is the kernel programs' business.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};
use procfs::process::{MMapPath, Process};
use steth_probes::wall::{self, WallState};
use thiserror::Error;

use crate::{
    files::{Parts, open_regular},
    model::event::Backends,
};

/// The pointer to a process' own entry in the list that `pg_stat_activity` shows; exported since PostgreSQL 14.
const ENTRY: &[u8] = b"MyBEEntry";
/// The pointer to what a process waits for; PostgreSQL 14.
const EVENT: &[u8] = b"my_wait_event_info";
/// The pointer to what a background worker is; its name says whom a parallel one works for since PostgreSQL 10.
const WORKER: &[u8] = b"MyBgworkerEntry";
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
    /// It does not export what is looked for, or no process of it has an entry that looks as it should.
    #[error("none of its processes notes what it runs or waits for in a known way (PostgreSQL 14 to 17)")]
    Layout,
}

/// Looks into the postmaster with this process number and into its children.
///
/// # Errors
/// If they cannot be read, or are not of a version whose layout is known.
pub fn find(proc: &Path, postmaster: u32) -> Result<Found, BackendsError> {
    let process = Process::new_with_root(proc.join(postmaster.to_string()))?;
    let executable = process.exe()?;
    let symbols = symbols(&proc.join(postmaster.to_string()).join("exe"))?;
    let mappings = process.maps()?;
    let first =
        mappings.iter().find(|mapping| mapping.offset == 0 && mapping.pathname == MMapPath::Path(executable.clone()));
    let start = first.map(|mapping| mapping.address.0).ok_or(BackendsError::Layout)?;
    let bias = start.wrapping_sub(symbols.first_segment);
    let memory = File::open(proc.join(postmaster.to_string()).join("mem"))?;
    let children = children(proc, postmaster);
    let event_address = symbols.event.map(|event| bias.wrapping_add(event));
    let event_address =
        event_address.filter(|address| children.iter().any(|child| notes_event(proc, *child, *address)));
    let worker_address = symbols.worker.map_or(0, |worker| bias.wrapping_add(worker));
    let entry = || {
        let (entry, text_size) = symbols.entry.zip(symbols.text_size)?;
        let size = i32::from_ne_bytes(bytes(&memory, bias.wrapping_add(text_size)).ok()?);
        let text_len = u32::try_from(size).ok().filter(|_| TEXT_SIZES.contains(&size))?;
        let entry_address = bias.wrapping_add(entry);
        let found = Backends { entry_address, text_offset: TEXT_OFFSET, text_len, ..NONE };
        children.iter().any(|child| fits(proc, *child, &found)).then_some(found)
    };
    let found = Found { statements: entry(), event_address, worker_address };
    if found.statements.is_none() && event_address.is_none() { Err(BackendsError::Layout) } else { Ok(found) }
}

/// What was found. Each of the two may be missing.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Where statements are noted; the other addresses are left at 0.
    pub statements: Option<Backends>,
    /// Where waits are.
    pub event_address: Option<u64>,
    /// Where background workers say what they are; 0 if unknown.
    pub worker_address: u64,
}

const NONE: Backends = Backends { entry_address: 0, event_address: 0, worker_address: 0, text_offset: 0, text_len: 0 };

impl Found {
    /// Both, as the kernel programs are told.
    pub fn backends(&self) -> Backends {
        let (event_address, worker_address) = (self.event_address.unwrap_or(0), self.worker_address);
        Backends { event_address, worker_address, ..self.statements.unwrap_or(NONE) }
    }
}

/// Whether a process notes a wait event there: its class is one of those that there are.
fn notes_event(proc: &Path, pid: i32, address: u64) -> bool {
    let look = || -> io::Result<u32> {
        let memory = File::open(PathBuf::from(proc).join(pid.to_string()).join("mem"))?;
        let event = u64::from_ne_bytes(bytes(&memory, address)?);
        Ok(u32::from_ne_bytes(bytes(&memory, event)?))
    };
    look().is_ok_and(|event| event == 0 || wall::of_event(event).is_some_and(|state| state != WallState::Unknown))
}

struct Symbols {
    first_segment: u64,
    entry: Option<u64>,
    event: Option<u64>,
    worker: Option<u64>,
    text_size: Option<u64>,
}

fn symbols(executable: &Path) -> Result<Symbols, BackendsError> {
    let parts = Parts::of(open_regular(executable)?);
    let file = object::File::parse(&parts)?;
    let address = |name: &[u8]| {
        let mut symbols = file.dynamic_symbols();
        symbols.find(|symbol| symbol.is_definition() && symbol.name_bytes() == Ok(name)).map(|symbol| symbol.address())
    };
    Ok(Symbols {
        first_segment: file.segments().map(|segment| segment.address()).min().unwrap_or_default(),
        entry: address(ENTRY),
        event: address(EVENT),
        worker: address(WORKER),
        text_size: address(TEXT_SIZE),
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
