//! What a process has mapped to be executed, looked at while it lives, so that its addresses have a meaning after its
//! end. Knows procfs and files, no symbols.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process as ProcProcess};
use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use super::{
    code::{Code, CodeTable, Place, is_elf},
    symbols::{Location, Runtime},
};
use crate::model::code::FileId;

/// Why a process cannot be looked at.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// It ended.
    #[error("process {0} is gone")]
    Gone(u32),
    /// Its `/proc/PID/maps` cannot be read.
    #[error("cannot read the mappings of process {pid}: {why}")]
    Unreadable {
        /// The process.
        pid: u32,
        /// What the system said.
        why: procfs::ProcError,
    },
}

/// A process that has code which no file holds.
#[derive(Debug)]
pub struct Process {
    /// As this agent numbers it.
    pub pid: u32,
    /// As it numbers itself, in its own PID namespace.
    pub inner_pid: u32,
    /// What makes code in it, as far as that is known.
    pub runtime: Option<Runtime>,
    /// Its root folder; leads there also when it is gone. None if that may not be opened.
    pub(super) root: Option<OwnedFd>,
}

/// The executable mappings of one process at one moment.
#[derive(Clone, Debug)]
pub struct Mappings {
    process: Arc<Process>,
    /// By address; they do not overlap.
    areas: Vec<Area>,
}

/// One mapping.
#[derive(Clone, Debug)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// The file's inode; 0 if there is none.
    pub inode: u64,
    /// What it is made from.
    pub backing: Backing,
}

/// What a mapping is made from.
#[derive(Clone, Debug)]
pub enum Backing {
    /// A file.
    File(Arc<Code>),
    /// A file of that name, which cannot be opened.
    Closed(Arc<str>),
    /// The kernel's own object.
    Vdso,
    /// No file that has symbols: memory that the process fills itself.
    Memory,
}

impl Mappings {
    /// Looks at a process. Its files stay open in the table.
    ///
    /// # Errors
    /// If it is gone or its mappings cannot be read.
    pub fn read(proc: &Path, pid: u32, table: &Mutex<CodeTable>) -> Result<Self, ProcessError> {
        let folder = proc.join(pid.to_string());
        let unreadable = |why| match why {
            procfs::ProcError::NotFound(_) => ProcessError::Gone(pid),
            why => ProcessError::Unreadable { pid, why },
        };
        let process = ProcProcess::new_with_root(folder.clone()).map_err(unreadable)?;
        let maps = process.maps().map_err(unreadable)?;
        let mut runtime = None;
        let mut areas = Vec::new();
        for map in &maps {
            if let MMapPath::Path(path) = &map.pathname {
                runtime = runtime.or_else(|| Runtime::of_file(path));
            }
            if map.perms.contains(MMPermissions::EXECUTE) {
                areas.push(area(map, &folder, table));
            }
        }
        areas.sort_by_key(|area| area.start);
        let has_memory = areas.iter().any(|area| matches!(area.backing, Backing::Memory));
        let root = has_memory.then(|| rustix::fs::open(folder.join("root"), ROOT, Mode::empty()).ok()).flatten();
        let status = process.status().ok();
        let inner_pid =
            status.and_then(|status| status.nstgid?.last().copied()).and_then(|pid| u32::try_from(pid).ok());
        let process = Process { pid, inner_pid: inner_pid.unwrap_or(pid), runtime, root };
        Ok(Self { process: Arc::new(process), areas })
    }

    /// What stands at an address. For a return address give the one before it, which is that of the call.
    pub fn locate(&self, address: u64) -> Location {
        let Some(area) = self.area(address) else {
            return Location::Memory { process: Arc::clone(&self.process), address };
        };
        let inside = address - area.start;
        match &area.backing {
            Backing::File(code) => {
                Location::Code { code: Arc::clone(code), offset: area.offset.saturating_add(inside) }
            }
            Backing::Closed(name) => Location::Closed { name: Arc::clone(name) },
            Backing::Vdso => Location::Vdso { offset: inside },
            Backing::Memory => Location::Memory { process: Arc::clone(&self.process), address },
        }
    }

    /// The mapping that holds an address.
    pub fn area(&self, address: u64) -> Option<&Area> {
        let after = self.areas.partition_point(|area| area.start <= address);
        self.areas.get(after.checked_sub(1)?).filter(|area| address < area.end)
    }

    /// All mappings, by address.
    pub fn areas(&self) -> &[Area] {
        &self.areas
    }

    /// Whose they are.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }
}

const ROOT: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

fn area(map: &MemoryMap, folder: &Path, table: &Mutex<CodeTable>) -> Area {
    let (start, end) = map.address;
    let backing = match &map.pathname {
        MMapPath::Path(path) if map.inode != 0 => file(map, path, folder, table),
        MMapPath::Vdso => Backing::Vdso,
        MMapPath::Vsyscall => Backing::Closed(Arc::from("[vsyscall]")),
        _ => Backing::Memory,
    };
    Area { start, end, offset: map.offset, inode: map.inode, backing }
}

fn file(map: &MemoryMap, path: &Path, folder: &Path, table: &Mutex<CodeTable>) -> Backing {
    let id = FileId { device: (map.dev.0.unsigned_abs(), map.dev.1.unsigned_abs()), inode: map.inode };
    let (start, end) = map.address;
    let place = || Place {
        root: folder.join("root"),
        mapping: Some(folder.join("map_files").join(format!("{start:x}-{end:x}"))),
        path: path.to_owned(),
    };
    match CodeTable::find(table, id, place) {
        // A file that only holds memory, as some runtimes map it twice, is not one that has symbols.
        Ok(code) if code.file().is_ok_and(|file| is_elf(&file)) => Backing::File(code),
        Ok(_) => Backing::Memory,
        Err(_) => Backing::Closed(name(path)),
    }
}

fn name(path: &Path) -> Arc<str> {
    let name: PathBuf = path.file_name().map(PathBuf::from).unwrap_or_else(|| path.to_owned());
    let name = name.to_string_lossy();
    Arc::from(name.strip_suffix(" (deleted)").unwrap_or(&name))
}
