//! Unwind tables for the files that samples were taken in: made on a thread of its own, put into the kernel's maps as far as
//! there is room. Also walks, from outside, the stacks of threads that sleep through the end of a profile.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use steth_probes::{
    profile::{KERNEL_SLOTS, UnwindFile, VDSO},
    python::{DEPTH, FrameWord},
    tls::CodeFile,
    unwind::{MAX_SLOT, Stop, Table},
};

use crate::{
    kernel::sampling::Sampler,
    model::{
        catalog::profile as catalog,
        sample::{NoTable, Sample},
        snapshot::Series,
    },
    profile::{
        code::{Code, CodeTable},
        mappings::{Backing, Mappings},
        python::{self, Found, Interpreter},
        room::Room,
        unwind::{FileTable, Identity, cache::Cache, elf, host},
    },
};

/// Where debug files are installed.
const DEBUG_FOLDER: &str = "/usr/lib/debug";
/// Tables on disk.
const CACHE_BYTES: u64 = 64 << 20;
/// Tables that may wait to be made; further files stay without one until they are met again.
const WAITING: usize = 256;
/// There is room for a page for so many rows.
const ROWS_A_PAGE: u32 = 8;
/// Slots above those that the kernel gives out.
const OWN_SLOTS: usize = (MAX_SLOT - KERNEL_SLOTS) as usize;
/// Threads of which stacks are walked from outside.
const MOST_STILL: usize = 10_000;

/// What the thread is asked for.
enum Work {
    Build { told: NoTable, code: Option<Arc<Code>> },
    Walk(Vec<Sample>),
}

/// What it has done.
enum Done {
    Built { told: NoTable, table: Result<Arc<FileTable>, Without> },
    Walked(Vec<Sample>, Vec<(u32, Arc<Code>)>),
}

/// Why there is no table of some code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Without {
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
    const ALL: [Self; 6] = [Self::Gone, Self::Busy, Self::Unreadable, Self::NotCode, Self::Empty, Self::NoRoom];

    const fn name(self) -> &'static str {
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

/// A table in the kernel's maps, and who uses it.
#[derive(Debug)]
struct Placed {
    table: Table,
    files: Vec<CodeFile>,
}

/// Tables and who makes them.
pub struct Unwinding {
    work: mpsc::SyncSender<Work>,
    done: mpsc::Receiver<Done>,
    codes: Arc<Mutex<CodeTable>>,
    rows: Room,
    pages: Room,
    placed: HashMap<Identity, Placed>,
    /// Rows that there is room for.
    most_rows: u32,
    evicted: u64,
    without: BTreeMap<Without, u64>,
    /// Work that was asked for and is not done.
    under_way: usize,
}

/// What became of work.
#[derive(Debug, Default)]
pub struct News {
    /// Files by their slots; none for one that cannot be opened.
    pub files: Vec<(u32, Option<Arc<Code>>)>,
    /// Samples of threads that wait still, with their stacks.
    pub walked: Vec<Sample>,
}

impl Unwinding {
    /// Starts the thread. There is room for this many rows.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn start(rows: u32, codes: Arc<Mutex<CodeTable>>, cache: Option<PathBuf>) -> io::Result<Self> {
        let (work, asked) = mpsc::sync_channel(WAITING);
        let (tell, done) = mpsc::channel();
        let worker = Worker {
            cache: cache.and_then(open_cache),
            codes: Arc::clone(&codes),
            known: HashMap::new(),
            slots: HashMap::new(),
        };
        thread::Builder::new().name("steth-unwind".into()).spawn(move || worker.run(&asked, &tell))?;
        Ok(Self {
            work,
            done,
            codes,
            rows: Room::new(rows),
            pages: Room::new(rows / ROWS_A_PAGE),
            placed: HashMap::new(),
            most_rows: rows,
            evicted: 0,
            without: Without::ALL.into_iter().map(|reason| (reason, 0)).collect(),
            under_way: 0,
        })
    }

    /// Opens the files that were met, while their processes live, and asks for their tables.
    pub fn met(&mut self, told: Vec<NoTable>, sampler: &Sampler, news: &mut News) {
        let mut processes: HashMap<u32, Option<Mappings>> = HashMap::new();
        for told in told {
            let mappings = processes
                .entry(told.pid)
                .or_insert_with(|| Mappings::read(Path::new("/proc"), told.pid, &self.codes).ok());
            let area = mappings.as_ref().and_then(|mappings| mappings.area(told.start));
            let code = match area.map(|area| &area.backing) {
                Some(Backing::File(code)) => Some(Arc::clone(code)),
                _ if told.file.device == VDSO => None,
                // Another process may show it; it then has another slot.
                _ => {
                    let _ = sampler.forget_file(&told.file);
                    news.files.push((told.slot, None));
                    self.lacks(Without::Gone);
                    continue;
                }
            };
            news.files.push((told.slot, code.clone()));
            match self.work.try_send(Work::Build { told, code }) {
                Ok(()) => self.under_way += 1,
                Err(_) => {
                    let _ = sampler.forget_file(&told.file);
                    self.lacks(Without::Busy);
                }
            }
        }
    }

    /// Asks for the stacks of threads that wait still, whose registers the samples have. Those that there is no time for keep the
    /// kernel's part of their stacks.
    pub fn walk(&mut self, mut still: Vec<Sample>, news: &mut News) {
        let mut rest = still.split_off(still.len().min(MOST_STILL));
        match self.work.try_send(Work::Walk(still)) {
            Ok(()) => self.under_way += 1,
            Err(mpsc::TrySendError::Full(Work::Walk(still)) | mpsc::TrySendError::Disconnected(Work::Walk(still))) => {
                rest.extend(still);
            }
            Err(_) => {}
        }
        news.walked.extend(rest.into_iter().map(|sample| Sample {
            user: Box::default(),
            stop: Some(Stop::Busy),
            ..sample
        }));
    }

    fn lacks(&mut self, reason: Without) {
        *self.without.entry(reason).or_default() += 1;
    }

    /// The series of this moment.
    pub fn series(&self, series: &mut Vec<Series>) {
        let used = self.most_rows - self.rows.free();
        series.push(Series::number(&catalog::TABLES, vec![], self.placed.len() as f64));
        series.push(Series::number(&catalog::ROWS, vec![], used.into()));
        series.push(Series::number(&catalog::ROWS_LIMIT, vec![], self.most_rows.into()));
        series.push(Series::number(&catalog::EVICTED, vec![], self.evicted as f64));
        for (reason, count) in &self.without {
            series.push(Series::number(&catalog::WITHOUT_TABLE, vec![reason.name().into()], *count as f64));
        }
    }

    /// Whether something is under way.
    pub fn is_busy(&self) -> bool {
        self.under_way > 0
    }

    /// Takes over what is done.
    pub fn take(&mut self, sampler: &mut Sampler, news: &mut News) {
        while let Ok(done) = self.done.try_recv() {
            self.under_way -= 1;
            match done {
                Done::Built { told, table } => {
                    let placed = table.and_then(|table| {
                        self.place(sampler, &told, &table).map_err(|error| {
                            tracing::warn!("an unwind table finds no room: {error}");
                            Without::NoRoom
                        })
                    });
                    if let Err(reason) = placed {
                        self.lacks(reason);
                    }
                }
                Done::Walked(samples, files) => {
                    news.walked.extend(samples);
                    news.files.extend(files.into_iter().map(|(slot, code)| (slot, Some(code))));
                }
            }
        }
    }

    /// The kernel has forgotten all files: each is told anew when its code is next run, and finds its table still there.
    pub fn forget_files(&mut self) {
        self.placed.values_mut().for_each(|placed| placed.files.clear());
    }

    /// Puts a table into the kernel's maps.
    fn place(&mut self, sampler: &mut Sampler, told: &NoTable, file: &FileTable) -> io::Result<()> {
        let table = match self.placed.get_mut(&file.identity) {
            Some(placed) => {
                if !placed.files.contains(&told.file) {
                    placed.files.push(told.file);
                }
                placed.table
            }
            None => {
                let (rows, pages) = (file.rows.len() as u32, file.pages.len() as u32);
                let (rows_at, pages_at) = self.make_room(sampler, rows, pages)?;
                let raw: Vec<u64> = file.rows.iter().map(|row| row.0).collect();
                let written =
                    sampler.write_rows(rows_at, &raw).and_then(|()| sampler.write_pages(pages_at, &file.pages));
                if let Err(error) = written {
                    self.rows.give(rows_at, rows);
                    self.pages.give(pages_at, pages);
                    return Err(error);
                }
                let table = file.placed(pages_at, rows_at);
                self.placed.insert(file.identity.clone(), Placed { table, files: vec![told.file] });
                table
            }
        };
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let used_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        sampler.set_file(&told.file, &UnwindFile { used_ns, table, slot: told.slot, _pad: 0 })
    }

    /// Room for a table; who was not used longest gives way.
    fn make_room(&mut self, sampler: &mut Sampler, rows: u32, pages: u32) -> io::Result<(u32, u32)> {
        let too_large = || io::Error::other(format!("it has {rows} rows; see `profile.memory`"));
        if rows > self.most_rows || pages > self.most_rows / ROWS_A_PAGE {
            // Nobody needs to give way to what would not fit even so.
            return Err(too_large());
        }
        let mut oldest_first = None;
        loop {
            if let Some(rows_at) = self.rows.take(rows) {
                if let Some(pages_at) = self.pages.take(pages) {
                    return Ok((rows_at, pages_at));
                }
                self.rows.give(rows_at, rows);
            }
            let queue = match &mut oldest_first {
                Some(queue) => queue,
                none => none.insert(self.by_age(sampler)?),
            };
            let Some(identity) = queue.pop() else {
                return Err(too_large());
            };
            if let Some(old) = self.placed.remove(&identity) {
                for file in &old.files {
                    sampler.forget_file(file)?;
                }
                self.evicted += 1;
                self.rows.give(old.table.rows_at, old.table.row_count);
                self.pages.give(old.table.pages_at, old.table.page_count + 1);
            }
        }
    }

    /// The tables that are there, the one that was not used longest last.
    fn by_age(&self, sampler: &mut Sampler) -> io::Result<Vec<Identity>> {
        let used: HashMap<CodeFile, u64> =
            sampler.files()?.into_iter().map(|(code, file)| (code, file.used_ns)).collect();
        let last_use = |placed: &Placed| placed.files.iter().filter_map(|file| used.get(file)).copied().max();
        let mut ages: Vec<_> =
            self.placed.iter().map(|(identity, placed)| (last_use(placed), identity.clone())).collect();
        ages.sort_by(|(a, _), (b, _)| b.cmp(a));
        Ok(ages.into_iter().map(|(_, identity)| identity).collect())
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
    /// What stands for files in frames, by their numbers: the same in all walks, as profiles may overlap.
    slots: HashMap<u64, u32>,
    /// Of the walk under way.
    known: HashMap<u64, Option<Arc<FileTable>>>,
}

impl Worker {
    fn run(mut self, asked: &mpsc::Receiver<Work>, tell: &mpsc::Sender<Done>) {
        while let Ok(work) = asked.recv() {
            let done = match work {
                Work::Build { told, code } => {
                    let table = match &code {
                        Some(code) => self.table(code),
                        None => vdso(told.pid, told.start).ok_or(Without::Unreadable),
                    };
                    let has_rows = |table: FileTable| match table.rows.is_empty() {
                        true => Err(Without::Empty),
                        false => Ok(Arc::new(table)),
                    };
                    Done::Built { told, table: table.and_then(has_rows) }
                }
                Work::Walk(samples) => {
                    let (samples, files) = self.walk(samples);
                    self.known.clear();
                    Done::Walked(samples, files)
                }
            };
            if tell.send(done).is_err() {
                return;
            }
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

    fn walk(&mut self, mut samples: Vec<Sample>) -> (Vec<Sample>, Vec<(u32, Arc<Code>)>) {
        let mut files: HashMap<u64, (u32, Arc<Code>)> = HashMap::new();
        if self.slots.len() > OWN_SLOTS / 4 * 3 {
            self.slots.clear();
        }
        samples.sort_by_key(|sample| sample.pid);
        let mut process: Option<Process> = None;
        for sample in &mut samples {
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
        let mappings = Mappings::read(Path::new("/proc"), pid, &self.codes).ok()?;
        let python = python::ProcessMemory::open(Path::new("/proc"), pid)
            .map(|mut memory| Interpreter::find(&mappings, &mut memory));
        let python = match python {
            Ok(Found::Supported(interpreter)) => Some(interpreter),
            _ => None,
        };
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
                    let table = vdso(pid, area.start).map(Arc::new);
                    (host::Content::Vdso, steth_probes::unwind::VDSO_SLOT, table)
                }
                Backing::Closed(_) | Backing::Memory => (host::Content::Anonymous, 0, None),
            };
            let region = host::Region { start: area.start, end: area.end, file_offset: area.offset, content };
            code.push(host::Code::new(&region, slot, table));
        }
        Some(Process { pid, code, python })
    }
}

/// The table of the page of code that the kernel maps into each process.
fn vdso(pid: u32, start: u64) -> Option<FileTable> {
    let regions = host::regions(Path::new("/proc"), pid).ok()?;
    let region = regions.iter().find(|region| region.start == start && region.content == host::Content::Vdso)?;
    let bytes = host::ProcessMemory::open(Path::new("/proc"), pid).ok()?.region(region).ok()?;
    elf::table_of_bytes(&bytes).ok()
}
