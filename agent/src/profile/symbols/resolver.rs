//! From many locations to frames at once: what is known is looked up, the rest is asked of each file once. Holds what is
//! loaded within its budget. Belongs to one thread.

use std::{
    collections::HashMap,
    fs::File,
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use procfs::process::MMapPath;
use rustix::fs::MemfdFlags;

use super::{
    Limits, Location,
    elf::ElfError,
    kallsyms::Kallsyms,
    loaded::{Loaded, plain},
    names::{Known, Names},
    perf_map::PerfMap,
    words,
};
use crate::{
    model::profile::{Frame, Origin},
    profile::{
        code::{Code, CodeTable, Place},
        mappings::{Mappings, Process, ProcessError},
    },
};

/// The number that no file has: the vDSO's.
const VDSO: u64 = 0;
/// Processes whose lists of functions are kept.
const PERF_MAPS: usize = 16;
/// Functions on all those lists.
const PERF_MAP_FUNCTIONS: usize = 400_000;

/// Finds names. [`super::Symbolizer`] is this on a thread of its own.
pub struct Resolver {
    limits: Limits,
    table: Arc<Mutex<CodeTable>>,
    names: Names,
    known: Known,
    kernel: Kallsyms,
    loaded: HashMap<u64, Slot>,
    perf_maps: HashMap<u32, (PerfMap, u64)>,
    clock: u64,
}

struct Slot {
    /// None: of this file nothing can be told.
    loaded: Option<Loaded>,
    used: u64,
}

/// A file that is to be asked, and what for.
struct Question {
    code: Option<Arc<Code>>,
    /// Offsets, and which of the request's locations are there.
    places: HashMap<u64, Vec<usize>>,
}

impl Resolver {
    /// One that has found nothing yet.
    pub fn new(limits: Limits, table: Arc<Mutex<CodeTable>>) -> Self {
        Self {
            names: Names::new(limits.names_bytes / 4),
            known: Known::new(limits.names_bytes),
            kernel: Kallsyms::new(limits.proc.join("kallsyms")),
            loaded: HashMap::new(),
            perf_maps: HashMap::new(),
            clock: 0,
            limits,
            table,
        }
    }

    /// The frames at each location, in their order, each from the outermost function to the innermost; none is empty.
    pub fn resolve(&mut self, locations: &[Location]) -> Vec<Arc<[Frame]>> {
        self.clock += 1;
        let mut found: Vec<Option<Arc<[Frame]>>> = vec![None; locations.len()];
        let mut questions = HashMap::new();
        let mut processes = HashMap::new();
        let mut lists = HashMap::new();
        for (index, location) in locations.iter().enumerate() {
            let located;
            let location = match location {
                Location::Address { pid, address } => {
                    located = self.locate(*pid, *address, &mut processes);
                    match &located {
                        Ok(location) => location,
                        Err(words) => {
                            let frame = plain(self.names.get(words), self.names.get(""), Origin::Note, &mut self.names);
                            set(&mut found, index, Arc::from([frame]));
                            continue;
                        }
                    }
                }
                location => location,
            };
            let frames = match location {
                Location::Code { code, offset } => self.ask(&mut questions, code.number(), Some(code), *offset, index),
                Location::Vdso { offset } => self.ask(&mut questions, VDSO, None, *offset, index),
                Location::Kernel { address } => Some(Arc::from([self.kernel.frame(*address, &mut self.names)])),
                Location::Memory { process, address } => Some(Arc::from([self.made(process, *address, &mut lists)])),
                Location::Closed { name } => {
                    let words = self.names.get(&words::unknown_in(name));
                    Some(Arc::from([plain(words, self.names.get(name), Origin::User, &mut self.names)]))
                }
                Location::Address { .. } => None,
            };
            if let Some(frames) = frames {
                set(&mut found, index, frames);
            }
        }
        for (number, question) in questions {
            self.answer(number, &question, &mut found);
            self.make_room();
        }
        let nothing = plain(self.names.get(words::GONE), self.names.get(""), Origin::Note, &mut self.names);
        let nothing: Arc<[Frame]> = Arc::from([nothing]);
        found.into_iter().map(|frames| frames.unwrap_or_else(|| Arc::clone(&nothing))).collect()
    }

    /// Bytes that are held of files and names, as far as they are counted.
    pub fn held_bytes(&self) -> u64 {
        let loaded: u64 = self.loaded.values().filter_map(|slot| slot.loaded.as_ref()).map(|loaded| loaded.bytes).sum();
        loaded + (self.known.bytes() + self.kernel.bytes()) as u64
    }

    /// Files that are held ready to be asked.
    pub fn held_files(&self) -> usize {
        self.loaded.len()
    }

    /// What is known, or else a note of what is to be asked.
    fn ask(
        &mut self,
        questions: &mut HashMap<u64, Question>,
        number: u64,
        code: Option<&Arc<Code>>,
        offset: u64,
        index: usize,
    ) -> Option<Arc<[Frame]>> {
        if let Some(frames) = self.known.get((number, offset)) {
            return Some(frames);
        }
        let question =
            questions.entry(number).or_insert_with(|| Question { code: code.cloned(), places: HashMap::new() });
        question.places.entry(offset).or_default().push(index);
        None
    }

    fn answer(&mut self, number: u64, question: &Question, found: &mut [Option<Arc<[Frame]>>]) {
        let mut offsets: Vec<u64> = question.places.keys().copied().collect();
        offsets.sort_unstable();
        let name = question.code.as_ref().map_or_else(|| Arc::from(words::VDSO), |code| Arc::clone(code.name()));
        let frames = self.look(number, question.code.as_deref(), &name, &offsets).unwrap_or_else(|| {
            let words = self.names.get(&words::unknown_in(&name));
            let frame = plain(words, Arc::clone(&name), Origin::User, &mut self.names);
            vec![Arc::from([frame]); offsets.len()]
        });
        for (offset, frames) in offsets.into_iter().zip(frames) {
            self.known.insert((number, offset), Arc::clone(&frames));
            for index in question.places.get(&offset).into_iter().flatten() {
                set(found, *index, Arc::clone(&frames));
            }
        }
    }

    /// Asks a file, with its debug information and, if that brings the reader down, without.
    fn look(
        &mut self,
        number: u64,
        code: Option<&Code>,
        name: &Arc<str>,
        offsets: &[u64],
    ) -> Option<Vec<Arc<[Frame]>>> {
        for debug_bytes in [self.limits.debug_bytes, 0] {
            if !self.loaded.contains_key(&number) {
                let loaded = load(code, name, debug_bytes);
                if let Err(why) = &loaded {
                    tracing::debug!(file = %name, %why, "no symbols");
                }
                self.loaded.insert(number, Slot { loaded: loaded.ok(), used: self.clock });
            }
            let slot = self.loaded.get_mut(&number)?;
            slot.used = self.clock;
            let loaded = slot.loaded.as_ref()?;
            if let Some(frames) = loaded.frames(offsets, &mut self.names) {
                return Some(frames);
            }
            tracing::warn!(file = %name, "its debug information or symbols are damaged");
            self.loaded.remove(&number);
        }
        self.loaded.insert(number, Slot { loaded: None, used: self.clock });
        None
    }

    /// Lets go of what was not asked for longest, until the rest is within the budget.
    fn make_room(&mut self) {
        let weight = |slot: &Slot| slot.loaded.as_ref().map_or(0, |loaded| loaded.bytes);
        let mut total: u64 = self.loaded.values().map(weight).sum();
        while total > self.limits.loaded_bytes || self.loaded.len() > self.limits.loaded_files {
            let Some(oldest) = self.loaded.iter().min_by_key(|(_, slot)| slot.used).map(|(number, _)| *number) else {
                return;
            };
            total -= self.loaded.remove(&oldest).map_or(0, |slot| weight(&slot));
        }
    }

    fn locate(
        &self,
        pid: u32,
        address: u64,
        processes: &mut HashMap<u32, Result<Mappings, &'static str>>,
    ) -> Result<Location, &'static str> {
        let mappings = processes.entry(pid).or_insert_with(|| {
            Mappings::read(&self.limits.proc, pid, &self.table).map_err(|why| match why {
                ProcessError::Gone(_) => words::GONE,
                ProcessError::Unreadable { .. } => words::FORBIDDEN,
            })
        });
        match mappings {
            Ok(mappings) => Ok(mappings.locate(address)),
            Err(words) => Err(words),
        }
    }

    /// Code that a process made itself. `lists`: those that were read on in this request already.
    fn made(&mut self, process: &Arc<Process>, address: u64, lists: &mut HashMap<u32, bool>) -> Frame {
        let has_list = *lists.entry(process.pid).or_insert_with(|| {
            let (list, used) = self.perf_maps.entry(process.pid).or_default();
            *used = self.clock;
            let has_list = list.update(process, &mut self.names);
            forget_lists(&mut self.perf_maps, process.pid);
            has_list
        });
        let module = self.names.get("");
        let list = self.perf_maps.get(&process.pid).map(|(list, _)| list);
        let found = list.and_then(|list| list.frame(address, Arc::clone(&module), &mut self.names));
        found.unwrap_or_else(|| {
            let words = if has_list { words::not_in_map(process.runtime) } else { words::without_map(process.runtime) };
            plain(self.names.get(&words), module, Origin::Jit, &mut self.names)
        })
    }
}

/// Drops lists, the one not used for longest first, until few enough are left; that of one process stays.
fn forget_lists(lists: &mut HashMap<u32, (PerfMap, u64)>, keep: u32) {
    loop {
        let functions: usize = lists.values().map(|(list, _)| list.count()).sum();
        if lists.len() <= PERF_MAPS && functions <= PERF_MAP_FUNCTIONS {
            return;
        }
        let others = lists.iter().filter(|(pid, _)| **pid != keep);
        let Some(oldest) = others.min_by_key(|(_, (_, used))| *used).map(|(pid, _)| *pid) else { return };
        lists.remove(&oldest);
    }
}

fn set(found: &mut [Option<Arc<[Frame]>>], index: usize, frames: Arc<[Frame]>) {
    if let Some(slot) = found.get_mut(index) {
        *slot = Some(frames);
    }
}

fn load(code: Option<&Code>, name: &Arc<str>, debug_bytes: u64) -> Result<Loaded, ElfError> {
    match code {
        Some(code) => Loaded::new(&*code.file()?, Arc::clone(name), code.place(), debug_bytes),
        None => {
            let nowhere = Place { root: PathBuf::from("/"), mapping: None, path: PathBuf::new() };
            Loaded::new(&own_vdso()?, Arc::clone(name), &nowhere, 0)
        }
    }
}

/// The vDSO, which is the same in all processes.
fn own_vdso() -> Result<File, ElfError> {
    let damaged = |_| ElfError::Damaged;
    let maps = procfs::process::Process::myself().and_then(|own| own.maps()).map_err(damaged)?;
    let vdso = maps.iter().find(|map| map.pathname == MMapPath::Vdso).ok_or(ElfError::NotElf)?;
    let (start, end) = vdso.address;
    let mut image = vec![0; usize::try_from(end - start).unwrap_or(0)];
    File::open(Path::new("/proc/self/mem"))?.read_exact_at(&mut image, start)?;
    let mut file = File::from(rustix::fs::memfd_create("vdso", MemfdFlags::CLOEXEC).map_err(std::io::Error::from)?);
    file.write_all(&image)?;
    Ok(file)
}
