//! Unwind tables for the files that samples were taken in: asked for when they are met, put into the kernel's maps as far as
//! there is room.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use steth_probes::{
    profile::{UnwindFile, VDSO},
    tls::CodeFile,
    unwind::{Stop, Table},
};
use tokio::sync::Notify;

use super::unwinders::{Done, Unwinders, Without};
use crate::{
    host::Patience,
    kernel::sampling::Sampler,
    model::{
        catalog::profile as catalog,
        sample::{NoTable, Sample},
        snapshot::Series,
    },
    profile::{
        code::{Code, CodeTable},
        mappings::{Backing, Mappings},
        room::Room,
        unwind::{FileTable, Identity},
    },
};

/// There is room for a page for so many rows.
const ROWS_A_PAGE: u32 = 8;
/// Files of processes that do not answer; beyond that they are told anew with each sample.
const MOST_UNANSWERED: usize = 1_024;
/// Threads of which stacks are walked from outside.
const MOST_STILL: usize = 10_000;
/// How long that may take in all, and for each thread more; the rest is told without.
const WALK_PATIENCE: Duration = Duration::from_secs(5);
const WALK_EACH: Duration = Duration::from_millis(4);

/// A table in the kernel's maps, and who uses it.
#[derive(Debug)]
struct Placed {
    table: Table,
    files: Vec<CodeFile>,
}

/// Tables and who makes them.
pub struct Unwinding {
    unwinders: Unwinders,
    codes: Arc<Mutex<CodeTable>>,
    rows: Room,
    pages: Room,
    placed: HashMap<Identity, Placed>,
    /// Rows that there is room for.
    most_rows: u32,
    evicted: u64,
    /// Files of processes that have not answered yet; they are known, and not told again.
    unanswered: Vec<NoTable>,
    without: BTreeMap<Without, u64>,
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
    /// Starts the threads. There is room for this many rows.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn start(rows: u32, codes: Arc<Mutex<CodeTable>>, cache: Option<PathBuf>) -> io::Result<Self> {
        Ok(Self {
            unwinders: Unwinders::start(&codes, cache)?,
            codes,
            rows: Room::new(rows),
            pages: Room::new(rows / ROWS_A_PAGE),
            placed: HashMap::new(),
            most_rows: rows,
            evicted: 0,
            unanswered: Vec::new(),
            without: Without::ALL.into_iter().map(|reason| (reason, 0)).collect(),
        })
    }

    /// Opens the files that were met, while their processes live, and asks for their tables.
    pub fn met(&mut self, told: Vec<NoTable>, sampler: &Sampler, patience: &mut Patience, news: &mut News) {
        let again = patience.again();
        let again = self.unanswered.extract_if(.., |told| Some(told.pid) == again);
        let told: Vec<NoTable> = again.chain(told).collect();
        let mut processes: HashMap<u32, Option<Option<Mappings>>> = HashMap::new();
        for told in told {
            let answer = processes.entry(told.pid).or_insert_with(|| {
                let codes = Arc::clone(&self.codes);
                patience.ask(told.pid, move || Mappings::read(Path::new("/proc"), told.pid, &codes).ok())
            });
            let Some(mappings) = answer else {
                news.files.push((told.slot, None));
                if self.unanswered.len() < MOST_UNANSWERED {
                    self.unanswered.push(told);
                } else {
                    let _ = sampler.forget_file(&told.file);
                    self.lacks(Without::Busy);
                }
                continue;
            };
            let area = mappings.as_ref().and_then(|mappings| mappings.area(told.start));
            let code = match area.map(|area| &area.backing) {
                Some(Backing::File(code)) => Some(Arc::clone(code)),
                // Its addresses are told as those of memory that no file holds: a list of names has them so.
                Some(Backing::Memory) if area.is_some_and(|area| area.inode == told.file.inode && area.inode != 0) => {
                    news.files.push((told.slot, None));
                    let memory = UnwindFile { used_ns: now_ns(), table: Table::zeroed(), slot: 0, _pad: 0 };
                    if let Err(error) = sampler.set_file(&told.file, &memory) {
                        tracing::debug!("code in memory stays unknown: {error}");
                    }
                    continue;
                }
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
            if !self.unwinders.build(told, code) {
                let _ = sampler.forget_file(&told.file);
                self.lacks(Without::Busy);
            }
        }
    }

    /// Who is told when something is done.
    pub fn made(&self) -> Arc<Notify> {
        self.unwinders.made()
    }

    /// Asks for the stacks of threads that wait still, whose registers the samples have. Those that there is no time for keep the
    /// kernel's part of their stacks.
    pub fn walk(&mut self, mut still: Vec<Sample>, news: &mut News) {
        let mut rest = still.split_off(still.len().min(MOST_STILL));
        let count = u32::try_from(still.len()).unwrap_or(u32::MAX);
        if let Err(still) = self.unwinders.walk(still, Instant::now() + WALK_PATIENCE + WALK_EACH * count) {
            rest.extend(still);
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

    /// Whether something is under way that these processes, or any, need.
    pub fn is_busy_for(&self, pids: Option<&[u32]>) -> bool {
        self.unwinders.is_busy_for(pids)
    }

    /// Whether stacks are being walked.
    pub fn is_walking(&self) -> bool {
        self.unwinders.is_walking()
    }

    /// Takes over what is done.
    pub fn take(&mut self, sampler: &mut Sampler, news: &mut News) {
        while let Some(done) = self.unwinders.done() {
            match done {
                Done::Built { told, table, .. } => {
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
        self.unanswered.clear();
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
        sampler.set_file(&told.file, &UnwindFile { used_ns: now_ns(), table, slot: told.slot, _pad: 0 })
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

/// As the kernel's programs tell the time.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
