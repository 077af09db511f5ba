//! The threads that make unwind tables, and walk from outside the stacks of threads that sleep through the end of a profile.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Instant,
};

use steth_probes::{
    profile::KERNEL_SLOTS,
    python::{DEPTH, FrameWord},
    unwind::{MAX_SLOT, Stop},
};

use tokio::sync::Notify;

use crate::{
    host::Patience,
    model::sample::{NoTable, Sample},
    profile::{
        code::{Code, CodeTable},
        mappings::{Backing, Mappings},
        python::{self, Found, Interpreter},
        unwind::{FileTable, cache::Cache, elf, host},
    },
};

/// Where debug files are installed.
const DEBUG_FOLDER: &str = "/usr/lib/debug";
/// Tables on disk.
const CACHE_BYTES: u64 = 64 << 20;
/// Tables that may wait to be made; further files stay without one until they are met again.
const WAITING: usize = 256;
/// Profiles whose walks may wait.
const WALKS: usize = 32;
/// Files from this size on may take seconds; nobody else waits for them.
const LARGE_BYTES: u64 = 16 << 20;
/// Slots above those that the kernel gives out.
const OWN_SLOTS: usize = (MAX_SLOT - KERNEL_SLOTS) as usize;

/// What the thread is asked for.
pub(super) enum Work {
    Build {
        told: NoTable,
        code: Option<Arc<Code>>,
    },
    /// What is not walked by then is told without its part.
    Walk(Vec<Sample>, Instant),
}

/// What it has done.
pub(super) enum Done {
    Built { told: NoTable, is_large: bool, table: Result<Arc<FileTable>, Without> },
    Walked(Vec<Sample>, Vec<(u32, Arc<Code>)>),
}

/// Why there is no table of some code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Without {
    /// Its process ended, or its file cannot be opened.
    Gone,
    /// Too many others are being made.
    Busy,
    /// It cannot be read.
    Unreadable,
    /// It is no ELF file with code for this processor.
    NotCode,
    /// It says nothing of its functions.
    Empty,
    /// It is larger than all the room there is.
    NoRoom,
}

impl Without {
    pub const ALL: [Self; 6] = [Self::Gone, Self::Busy, Self::Unreadable, Self::NotCode, Self::Empty, Self::NoRoom];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Busy => "busy",
            Self::Unreadable => "unreadable",
            Self::NotCode => "not_code",
            Self::Empty => "empty",
            Self::NoRoom => "no_room",
        }
    }
}

/// The threads, and what was asked of them.
pub(super) struct Unwinders {
    small: mpsc::Sender<Work>,
    large: mpsc::Sender<Work>,
    done: mpsc::Receiver<Done>,
    made: Arc<Notify>,
    /// Walks, and tables of files that are not large, that are not done.
    under_way: usize,
    /// Of walks among them.
    walks: usize,
    /// Processes that the large files were met in which are not done.
    large_under_way: Vec<u32>,
}

impl Unwinders {
    /// Starts the threads.
    pub fn start(codes: &Arc<Mutex<CodeTable>>, cache: Option<PathBuf>) -> io::Result<Self> {
        let (tell, done) = mpsc::channel();
        let made = Arc::new(Notify::new());
        let start = |name: &str| {
            let (work, asked) = mpsc::channel();
            let (worker, tell, made) = (Worker::new(codes, cache.clone()), tell.clone(), Arc::clone(&made));
            thread::Builder::new().name(name.into()).spawn(move || worker.run(&asked, &tell, &made))?;
            io::Result::Ok(work)
        };
        let (small, large) = (start("steth-unwind")?, start("steth-unwind-lg")?);
        Ok(Self { small, large, done, made, under_way: 0, walks: 0, large_under_way: Vec::new() })
    }

    /// Who is told when something is done.
    pub fn made(&self) -> Arc<Notify> {
        Arc::clone(&self.made)
    }

    /// Asks for a table; false if too much is under way.
    pub fn build(&mut self, told: NoTable, code: Option<Arc<Code>>) -> bool {
        let (pid, is_large) = (told.pid, code.as_ref().is_some_and(|code| code.bytes() >= LARGE_BYTES));
        let (to, waiting) = match is_large {
            true => (&self.large, self.large_under_way.len()),
            false => (&self.small, self.under_way),
        };
        if waiting >= WAITING || to.send(Work::Build { told, code }).is_err() {
            return false;
        }
        if is_large {
            self.large_under_way.push(pid);
        } else {
            self.under_way += 1;
        }
        true
    }

    /// Asks for the stacks of these; gives them back if too much is under way.
    pub fn walk(&mut self, still: Vec<Sample>, until: Instant) -> Result<(), Vec<Sample>> {
        if self.walks >= WALKS {
            return Err(still);
        }
        match self.small.send(Work::Walk(still, until)) {
            Ok(()) => {
                self.under_way += 1;
                self.walks += 1;
                Ok(())
            }
            Err(mpsc::SendError(Work::Walk(still, _))) => Err(still),
            Err(_) => Ok(()),
        }
    }

    /// What is done.
    pub fn done(&mut self) -> Option<Done> {
        let done = self.done.try_recv().ok()?;
        match &done {
            Done::Built { told, is_large: true, .. } => {
                if let Some(at) = self.large_under_way.iter().position(|pid| *pid == told.pid) {
                    self.large_under_way.swap_remove(at);
                }
            }
            Done::Built { .. } => self.under_way -= 1,
            Done::Walked(..) => {
                self.under_way -= 1;
                self.walks -= 1;
            }
        }
        Some(done)
    }

    /// Whether something is under way that these processes, or any, need.
    pub fn is_busy_for(&self, pids: Option<&[u32]>) -> bool {
        self.under_way > 0 || self.large_under_way.iter().any(|pid| pids.is_none_or(|pids| pids.contains(pid)))
    }

    /// Whether stacks are being walked.
    pub fn is_walking(&self) -> bool {
        self.walks > 0
    }
}

fn open_cache(folder: PathBuf) -> Option<Cache> {
    match Cache::open(&folder, CACHE_BYTES) {
        Ok(cache) => Some(cache),
        Err(error) => {
            tracing::info!("unwind tables are not kept in {}: {error}", folder.display());
            None
        }
    }
}

/// A process whose threads are walked from outside.
struct Process {
    pid: u32,
    code: Vec<host::Code>,
    python: Option<Interpreter>,
}

impl Process {
    /// The frames of Python of a thread that waits.
    fn python(&self, sample: &Sample) -> Box<[u64]> {
        let frames = || {
            let mut memory = python::ProcessMemory::open(Path::new("/proc"), self.pid).ok()?;
            let tid = inner_tid(self.pid, sample.tid)?;
            let frames = self.python.as_ref()?.frames(&mut memory, tid)?;
            Some(frames.into_iter().take(DEPTH as usize).map(|frame| FrameWord::of(frame).0).collect())
        };
        frames().unwrap_or_default()
    }
}

/// How a thread is numbered in its own PID namespace.
fn inner_tid(pid: u32, tid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
}

/// What runs on the thread.
struct Worker {
    cache: Option<Cache>,
    codes: Arc<Mutex<CodeTable>>,
    patience: Patience,
    /// What stands for files in frames, by their numbers: the same in all walks, as profiles may overlap.
    slots: HashMap<u64, u32>,
    /// Of the walk under way.
    known: HashMap<u64, Option<Arc<FileTable>>>,
    /// Of the pages of code that the kernel maps into each process, by their length: one for each kind of process.
    vdsos: HashMap<u64, Arc<FileTable>>,
}

impl Worker {
    fn new(codes: &Arc<Mutex<CodeTable>>, cache: Option<PathBuf>) -> Self {
        let (codes, cache) = (Arc::clone(codes), cache.and_then(open_cache));
        let (known, slots, vdsos) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { cache, codes, patience: Patience::default(), known, slots, vdsos }
    }

    fn run(mut self, asked: &mpsc::Receiver<Work>, tell: &mpsc::Sender<Done>, made: &Notify) {
        let mut waiting = Vec::new();
        loop {
            if waiting.is_empty() {
                let Ok(work) = asked.recv() else { return };
                waiting.push(work);
            }
            waiting.extend(asked.try_iter());
            // What was met last is what runs now; of what was only mapped when a profile began most hardly runs. Walks are waited for.
            let walk = waiting.iter().position(|work| matches!(work, Work::Walk(..)));
            let work = waiting.swap_remove(walk.unwrap_or(waiting.len() - 1));
            let done = match work {
                Work::Build { told, code } => {
                    let table = match &code {
                        Some(code) => self.table(code),
                        None => self.vdso(told.pid, told.start).ok_or(Without::Unreadable),
                    };
                    let has_rows = |table: FileTable| match table.rows.is_empty() {
                        true => Err(Without::Empty),
                        false => Ok(Arc::new(table)),
                    };
                    let is_large = code.as_ref().is_some_and(|code| code.bytes() >= LARGE_BYTES);
                    Done::Built { told, is_large, table: table.and_then(has_rows) }
                }
                Work::Walk(samples, until) => {
                    let (samples, files) = self.walk(samples, until);
                    self.known.clear();
                    Done::Walked(samples, files)
                }
            };
            if tell.send(done).is_err() {
                return;
            }
            made.notify_one();
        }
    }

    fn table(&self, code: &Code) -> Result<FileTable, Without> {
        let made = || -> Result<FileTable, elf::Unfit> {
            let file = elf::CodeFile::of(code.file()?.try_clone()?)?;
            if let Some(table) = self.cache.as_ref().and_then(|cache| cache.get(file.identity())) {
                return Ok(table);
            }
            let path = code.place().root.join(code.place().path.strip_prefix("/").unwrap_or(&code.place().path));
            let table = file.table(Some(&path), Path::new(DEBUG_FOLDER))?;
            if let Some(cache) = &self.cache
                && let Err(error) = cache.put(&table)
            {
                tracing::debug!("an unwind table is not kept: {error}");
            }
            Ok(table)
        };
        made().map_err(|error| {
            tracing::debug!("{} has no unwind table: {error}", code.name());
            match error {
                elf::Unfit::Unreadable(_) => Without::Unreadable,
                elf::Unfit::Headers(_) | elf::Unfit::Machine { .. } | elf::Unfit::NoCode => Without::NotCode,
            }
        })
    }

    fn walk(&mut self, mut samples: Vec<Sample>, until: Instant) -> (Vec<Sample>, Vec<(u32, Arc<Code>)>) {
        let mut files: HashMap<u64, (u32, Arc<Code>)> = HashMap::new();
        if self.slots.len() > OWN_SLOTS / 4 * 3 {
            self.slots.clear();
        }
        samples.sort_by_key(|sample| sample.pid);
        let mut process: Option<Process> = None;
        for sample in &mut samples {
            if Instant::now() >= until {
                sample.user = Box::default();
                sample.stop = Some(Stop::Busy);
                continue;
            }
            if process.as_ref().is_none_or(|process| process.pid != sample.pid) {
                process = self.process(sample.pid, &mut files);
            }
            let registers = std::mem::take(&mut sample.user);
            // Each with a memory of its own: what one read of it may have changed when the next is looked at.
            if let (Some(process), [ip, sp, bp]) = (&process, &*registers)
                && process.pid == sample.pid
                && let Ok(memory) = &mut host::ProcessMemory::open(Path::new("/proc"), sample.pid)
            {
                let registers = host::Registers { ip: *ip, sp: *sp, bp: Some(*bp), others: None };
                let (frames, stop) = host::walk(registers, &process.code, memory);
                sample.python = process.python(sample);
                sample.user = frames.into_iter().map(|frame| frame.0).collect();
                sample.stop = Some(stop);
            }
        }
        (samples, files.into_values().collect())
    }

    fn process(&mut self, pid: u32, files: &mut HashMap<u64, (u32, Arc<Code>)>) -> Option<Process> {
        let codes = Arc::clone(&self.codes);
        let look = move || {
            let mappings = Mappings::read(Path::new("/proc"), pid, &codes).ok()?;
            let python = python::ProcessMemory::open(Path::new("/proc"), pid)
                .map(|mut memory| Interpreter::find(&mappings, &mut memory));
            let python = match python {
                Ok(Found::Supported(interpreter)) => Some(interpreter),
                _ => None,
            };
            Some((mappings, python))
        };
        let (mappings, python) = self.patience.ask(pid, look).flatten()?;
        let mut code = Vec::new();
        for area in mappings.areas() {
            let (content, slot, table) = match &area.backing {
                Backing::File(code) => {
                    // From the other end than the kernel, which gives out slots from 1 on.
                    let next = MAX_SLOT - (self.slots.len() % OWN_SLOTS) as u32;
                    let slot = *self.slots.entry(code.number()).or_insert(next);
                    files.entry(code.number()).or_insert_with(|| (slot, Arc::clone(code)));
                    if !self.known.contains_key(&code.number()) {
                        let table = self.table(code).ok().map(Arc::new);
                        self.known.insert(code.number(), table);
                    }
                    let name = PathBuf::from(&**code.name());
                    let content = host::Content::File { path: name.clone(), name };
                    (content, slot, self.known.get(&code.number()).cloned().flatten())
                }
                Backing::Vdso => {
                    let length = area.end - area.start;
                    let table = match self.vdsos.get(&length) {
                        Some(table) => Some(Arc::clone(table)),
                        None => {
                            let made = self.vdso(pid, area.start).map(Arc::new);
                            self.vdsos.extend(made.iter().map(|table| (length, Arc::clone(table))));
                            made
                        }
                    };
                    (host::Content::Vdso, steth_probes::unwind::VDSO_SLOT, table)
                }
                Backing::Closed(_) | Backing::Memory => (host::Content::Anonymous, 0, None),
            };
            let region = host::Region { start: area.start, end: area.end, file_offset: area.offset, content };
            code.push(host::Code::new(&region, slot, table));
        }
        Some(Process { pid, code, python })
    }

    /// The table of the page of code that the kernel maps into each process.
    fn vdso(&mut self, pid: u32, start: u64) -> Option<FileTable> {
        self.patience.ask(pid, move || vdso(pid, start)).flatten()
    }
}

fn vdso(pid: u32, start: u64) -> Option<FileTable> {
    let regions = host::regions(Path::new("/proc"), pid).ok()?;
    let region = regions.iter().find(|region| region.start == start && region.content == host::Content::Vdso)?;
    let bytes = host::ProcessMemory::open(Path::new("/proc"), pid).ok()?.region(region).ok()?;
    elf::table_of_bytes(&bytes).ok()
}
