//! What waits to be sent, on disk and bounded: kept in order through outages of the receiver and ends of the agent. What is
//! lost is counted by why. Does not know what the payloads are.
//!
//! Entries are appended to segments. How far they were sent stands in a file of its own, written after each; who is killed
//! between the two sends one entry twice. Nothing is synchronised to the disk as long as it is sent at once: what an agent
//! leaves that is killed is in the page cache, and only a host that crashes loses it. [`Spool::sync`] is for outages.
//! Where the disk cannot be written, the newest entries wait in memory.

mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

pub use record::Entry;
use record::{HEADER_BYTES, MAGIC};

/// What waits in memory when the disk cannot be written.
const MOST_IN_MEMORY_BYTES: u64 = 4 << 20;
/// The oldest entries are dropped by segments; a limit has at least this many.
const SEGMENTS: u64 = 16;
/// The file that says how far entries were sent: segment, offset, checksum.
const CURSOR: &str = "sent";
const CURSOR_BYTES: usize = 20;

/// A queue of entries on disk.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    limit_bytes: u64,
    /// Sizes of all segments, by number.
    segments: BTreeMap<u64, u64>,
    /// What is not sent yet, oldest first.
    waiting: VecDeque<Waiting>,
    /// Entries after those, because they could not be written.
    in_memory: VecDeque<Entry>,
    in_memory_bytes: u64,
    /// The segment that is written: always one of this run.
    current: Option<(u64, File)>,
    cursor: Option<File>,
    lost: Lost,
    /// Whether the last write failed; said once.
    failing: bool,
}

/// Entries that were lost, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// The oldest gave way at the limit.
    pub spool_full: u64,
    /// The disk could not be written, and there was no more room in memory.
    pub disk: u64,
    /// Damaged or cut off; how many entries a damaged stretch held is not known, so it counts as one.
    pub damaged: u64,
    /// Larger than the whole spool.
    pub too_large: u64,
}

#[derive(Clone, Debug)]
struct Waiting {
    segment: u64,
    bytes: Range<u64>,
    at_unix_ms: u64,
}

impl Spool {
    /// Opens the spool in `folder`, or begins one. What is damaged is skipped, told and counted; without a folder that can be
    /// written entries wait in memory.
    pub fn open(folder: &Path, limit_bytes: u64) -> Self {
        let mut spool = Self {
            folder: folder.into(),
            limit_bytes,
            segments: BTreeMap::new(),
            waiting: VecDeque::new(),
            in_memory: VecDeque::new(),
            in_memory_bytes: 0,
            current: None,
            cursor: None,
            lost: Lost::default(),
            failing: false,
        };
        if let Err(error) = spool.read_folder() {
            spool.say_failing("open", &error);
        }
        spool
    }

    /// Appends an entry.
    pub fn push(&mut self, entry: Entry) {
        let bytes = (HEADER_BYTES + entry.payload.len()) as u64;
        if bytes + MAGIC.len() as u64 > self.limit_bytes {
            tracing::warn!("{}: an entry of {bytes} bytes is larger than the spool; it is dropped", self.shown());
            self.lost.too_large += 1;
            return;
        }
        // In order: what waits in memory goes to the disk first, if it takes it again.
        self.keep_in_memory(entry);
        while let Some(entry) = self.in_memory.front().cloned() {
            if let Err(error) = self.append(&entry) {
                self.say_failing("write", &error);
                return;
            }
            self.pop_memory();
        }
        // Only now: a small entry may find room where a large one does not.
        if std::mem::take(&mut self.failing) {
            tracing::info!("{}: can be written again", self.shown());
        }
    }

    /// The oldest entry; it stays until it is [`sent`](Self::sent). What cannot be read any more is skipped and counted.
    pub fn oldest(&mut self) -> Option<Entry> {
        while let Some(waiting) = self.waiting.front().cloned() {
            match self.read(&waiting) {
                Some(entry) => return Some(entry),
                None => {
                    tracing::warn!(
                        "{}: an entry of segment {} is damaged; it is skipped",
                        self.shown(),
                        waiting.segment
                    );
                    self.lost.damaged += 1;
                    self.sent();
                }
            }
        }
        self.in_memory.front().cloned()
    }

    /// The oldest entry is done with.
    pub fn sent(&mut self) {
        let Some(done) = self.waiting.pop_front() else {
            self.pop_memory();
            return;
        };
        if let Err(error) = self.remember(done.segment, done.bytes.end) {
            self.say_failing("write", &error);
        }
        let is_current = self.current.as_ref().is_some_and(|(number, _)| *number == done.segment);
        if !is_current && self.waiting.front().is_none_or(|next| next.segment != done.segment) {
            self.remove(done.segment);
        }
    }

    /// Has what was written reach the disk.
    pub fn sync(&mut self) {
        let result = self.current.as_ref().map_or(Ok(()), |(_, file)| file.sync_data());
        if let Err(error) = result {
            self.say_failing("synchronise", &error);
        }
    }

    /// How many entries wait.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.in_memory.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting.iter().map(|waiting| waiting.bytes.end - waiting.bytes.start).sum::<u64>() + self.in_memory_bytes
    }

    /// When the oldest that waits was made.
    pub fn oldest_unix_ms(&self) -> Option<u64> {
        let on_disk = self.waiting.front().map(|waiting| waiting.at_unix_ms);
        on_disk.or_else(|| self.in_memory.front().map(|entry| entry.at_unix_ms))
    }

    /// What was lost since it was opened.
    pub fn lost(&self) -> Lost {
        self.lost
    }

    fn read_folder(&mut self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(false).mode(0o600);
        // First: with it the folder has been read, and is not read again.
        self.cursor = Some(options.open(self.folder.join(CURSOR))?);
        let mut numbers: Vec<u64> = fs::read_dir(&self.folder)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".seg")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let sent = fs::read(self.folder.join(CURSOR)).ok().and_then(|bytes| cursor(&bytes)).unwrap_or_default();
        for number in numbers {
            if let Err(error) = self.read_segment(number, sent) {
                tracing::warn!("{}: cannot read segment {number}: {error}; it is skipped", self.shown());
                self.lost.damaged += 1;
            }
        }
        Ok(())
    }

    fn read_segment(&mut self, number: u64, (sent_segment, sent_end): (u64, u64)) -> io::Result<()> {
        let path = self.path(number);
        let file = fs::read(&path)?;
        let contents = record::scan(&file);
        let is_sent = |end: u64| number < sent_segment || (number == sent_segment && end <= sent_end);
        if contents.damaged > 0 {
            tracing::warn!(
                "{}: {} is damaged or cut off in {} places; {} whole entries are left",
                self.shown(),
                path.display(),
                contents.damaged,
                contents.entries.len()
            );
            self.lost.damaged += contents.damaged;
        }
        let left: Vec<_> = contents.entries.into_iter().filter(|place| !is_sent(place.bytes.end)).collect();
        self.segments.insert(number, contents.end);
        if left.is_empty() {
            self.remove(number);
            return Ok(());
        }
        if contents.end < file.len() as u64 {
            // Told once, not at each start. Where it cannot be cut, it is told again.
            let _ = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(contents.end));
        }
        self.waiting.extend(left.into_iter().map(|place| Waiting {
            segment: number,
            bytes: place.bytes,
            at_unix_ms: place.at_unix_ms,
        }));
        Ok(())
    }

    fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let bytes = record::encode(entry);
        self.make_room(bytes.len() as u64 + MAGIC.len() as u64);
        let full = |size: u64| size + bytes.len() as u64 > self.limit_bytes / SEGMENTS;
        if self.current.as_ref().is_some_and(|(number, _)| full(self.segments.get(number).copied().unwrap_or_default()))
        {
            self.close_current();
        }
        if self.current.is_none() {
            self.begin_segment()?;
        }
        let Some((number, file)) = &self.current else { return Ok(()) };
        let number = *number;
        let start = self.segments.get(&number).copied().unwrap_or_default();
        if let Err(error) = file.write_all_at(&bytes, start) {
            // A part may have been written; it would be taken for damage.
            let _ = file.set_len(start);
            return Err(error);
        }
        let end = start + bytes.len() as u64;
        self.segments.insert(number, end);
        self.waiting.push_back(Waiting { segment: number, bytes: start..end, at_unix_ms: entry.at_unix_ms });
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        if self.cursor.is_none() {
            // The folder could not be had before.
            self.read_folder()?;
        }
        // Above the cursor too: its segment may be gone already.
        let sent = fs::read(self.folder.join(CURSOR)).ok().and_then(|bytes| cursor(&bytes)).unwrap_or_default();
        let number = self.segments.last_key_value().map_or(0, |(last, _)| *last).max(sent.0) + 1;
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(self.path(number))?;
        if let Err(error) = file.write_all_at(MAGIC, 0) {
            let _ = fs::remove_file(self.path(number));
            return Err(error);
        }
        self.segments.insert(number, MAGIC.len() as u64);
        self.current = Some((number, file));
        Ok(())
    }

    fn close_current(&mut self) {
        let Some((number, file)) = self.current.take() else { return };
        if self.waiting.back().is_none_or(|last| last.segment != number) {
            self.remove(number);
        } else if let Err(error) = file.sync_data() {
            self.say_failing("synchronise", &error);
        }
    }

    fn make_room(&mut self, bytes: u64) {
        while self.segments.values().sum::<u64>() + bytes > self.limit_bytes {
            let Some(oldest) = self.segments.first_key_value().map(|(number, _)| *number) else { return };
            if self.current.as_ref().is_some_and(|(number, _)| *number == oldest) {
                self.current = None;
            }
            let before = self.waiting.len();
            self.waiting.retain(|waiting| waiting.segment != oldest);
            let dropped = before - self.waiting.len();
            if dropped > 0 {
                tracing::warn!("{}: full; the oldest {dropped} entries are dropped", self.shown());
            }
            self.lost.spool_full += dropped as u64;
            self.remove(oldest);
        }
    }

    fn remove(&mut self, segment: u64) {
        if let Err(error) = fs::remove_file(self.path(segment)) {
            tracing::warn!("{}: cannot remove segment {segment}: {error}", self.shown());
        }
        self.segments.remove(&segment);
    }

    fn remember(&mut self, segment: u64, end: u64) -> io::Result<()> {
        let Some(file) = &self.cursor else { return Ok(()) };
        let mut bytes = [segment.to_le_bytes(), end.to_le_bytes()].concat();
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        file.write_all_at(&bytes, 0)
    }

    fn read(&self, waiting: &Waiting) -> Option<Entry> {
        let mut bytes = vec![0; usize::try_from(waiting.bytes.end - waiting.bytes.start).ok()?];
        match &self.current {
            Some((number, file)) if *number == waiting.segment => file.read_exact_at(&mut bytes, waiting.bytes.start),
            _ => File::open(self.path(waiting.segment))
                .and_then(|file| file.read_exact_at(&mut bytes, waiting.bytes.start)),
        }
        .ok()?;
        record::decode(&bytes)
    }

    fn keep_in_memory(&mut self, entry: Entry) {
        self.in_memory_bytes += entry.payload.len() as u64;
        self.in_memory.push_back(entry);
        while self.in_memory_bytes > MOST_IN_MEMORY_BYTES && self.in_memory.len() > 1 {
            self.pop_memory();
            self.lost.disk += 1;
        }
    }

    fn pop_memory(&mut self) {
        if let Some(entry) = self.in_memory.pop_front() {
            self.in_memory_bytes -= entry.payload.len() as u64;
        }
    }

    fn say_failing(&mut self, act: &str, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(
                "{}: cannot {act}: {error}; up to {} MiB wait in memory, which an end of the agent loses",
                self.shown(),
                MOST_IN_MEMORY_BYTES >> 20
            );
        }
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.folder.join(format!("{segment:020}.seg"))
    }

    fn shown(&self) -> String {
        format!("spool {}", self.folder.display())
    }
}

/// Segment and offset up to which everything was sent.
fn cursor(bytes: &[u8]) -> Option<(u64, u64)> {
    let bytes: &[u8; CURSOR_BYTES] = bytes.try_into().ok()?;
    let (segment, rest) = bytes.split_first_chunk()?;
    let (end, crc) = rest.split_first_chunk()?;
    let checked = bytes.get(..16)?;
    (crc32fast::hash(checked).to_le_bytes() == *crc).then(|| (u64::from_le_bytes(*segment), u64::from_le_bytes(*end)))
}
