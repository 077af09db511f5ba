//! Files of code, held open so that they can be read after they were deleted or replaced and after their process ended.
//! Knows where a file came from and which build it is, not what its sections mean.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::fs::{AtFlags, StatxFlags};

use super::symbols::elf;
use crate::{
    files::{close_apart, open_regular, open_within},
    model::code::FileId,
};

/// One file of code, as it was when it was met. Clones of its `Arc` are the same file; another content is another `Code`.
#[derive(Debug)]
pub struct Code {
    number: u64,
    name: Arc<str>,
    id: FileId,
    content: Content,
    place: Place,
    /// Taken away when the table has too many open.
    file: Mutex<Option<Arc<File>>>,
    build_id: OnceLock<Option<Box<[u8]>>>,
}

/// Tells contents of one inode apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    bytes: u64,
    modified: (i64, i64),
}

/// Where a file was met.
#[derive(Clone, Debug)]
pub struct Place {
    /// The root folder of a process that has it, such as `/proc/4711/root`.
    pub root: PathBuf,
    /// The mapping itself, such as `/proc/4711/map_files/7f00-7f10`; leads to the file also when it has no name any more.
    pub mapping: Option<PathBuf>,
    /// Its path under the root.
    pub path: PathBuf,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Code {
    /// Opens the file at a path of this process' own root.
    ///
    /// # Errors
    /// If it cannot be opened or is no regular file.
    pub fn open(path: &Path) -> io::Result<Arc<Self>> {
        let file = open_regular(path)?;
        let metadata = file.metadata()?;
        let place = Place { root: PathBuf::from("/"), mapping: None, path: path.to_owned() };
        Ok(Arc::new(Self::new(FileId::of(&metadata), Content::of(&metadata), place, file)))
    }

    fn new(id: FileId, content: Content, place: Place, file: File) -> Self {
        Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            name: name_of(&place.path),
            id,
            content,
            place,
            file: Mutex::new(Some(Arc::new(file))),
            build_id: OnceLock::new(),
        }
    }

    /// A number that no other `Code` of this process' life has.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its name without folders.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Its size in bytes when it was met.
    pub fn bytes(&self) -> u64 {
        self.content.bytes
    }

    /// Where it was met.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its build id (`.note.gnu.build-id`), if it has one and can be read.
    pub fn build_id(&self) -> Option<&[u8]> {
        let read = || elf::Elf::read(&*self.file().ok()?).ok()?.build_id();
        self.build_id.get_or_init(read).as_deref()
    }

    /// The open file. One that was closed to save descriptors is opened for this once if its process or its path still lead there.
    ///
    /// # Errors
    /// If it was closed and is not to be found any more.
    pub fn file(&self) -> io::Result<Arc<File>> {
        let held = self.file.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(file) = held {
            return Ok(file);
        }
        let file = self.place.open(self.id)?;
        if Content::of(&file.metadata()?) != self.content {
            return Err(io::Error::new(io::ErrorKind::NotFound, "another content is there now"));
        }
        Ok(Arc::new(file))
    }

    fn close(&self) {
        let held = self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Or by whoever reads it.
        if let Some(file) = held.and_then(Arc::into_inner) {
            close_apart(file);
        }
    }

    fn is_open(&self) -> bool {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether the inode still has the content that it had. Of one that was closed nobody knows: its number may be another's.
    pub fn is_unchanged(&self) -> bool {
        let held = self.file.lock().unwrap_or_else(PoisonError::into_inner).clone();
        held.and_then(|file| Content::known(&file)).is_some_and(|now| now == self.content)
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        self.close();
    }
}

impl Content {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self { bytes: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
    }

    /// As the kernel knows it without asking a file system that may hang (statx(2), `AT_STATX_DONT_SYNC`).
    fn known(file: &File) -> Option<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let now = rustix::fs::statx(file, c"", flags, StatxFlags::SIZE | StatxFlags::MTIME).ok()?;
        Some(Self { bytes: now.stx_size, modified: (now.stx_mtime.tv_sec, now.stx_mtime.tv_nsec.into()) })
    }
}

impl Place {
    fn open(&self, id: FileId) -> io::Result<File> {
        if let Some(mapping) = &self.mapping
            && let Ok(file) = open_regular(mapping)
        {
            return Ok(file);
        }
        // What lies at the path may be another file by now.
        let file = open_within(&self.root, &self.path)?;
        if FileId::of(&file.metadata()?) != id {
            return Err(io::Error::new(io::ErrorKind::NotFound, "another file has its path"));
        }
        Ok(file)
    }
}

/// Files of code that are open, a bounded number of them: the one that was not met for longest is closed first.
#[derive(Debug)]
pub struct CodeTable {
    known: HashMap<FileId, Entry>,
    limit: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    code: Arc<Code>,
    used: u64,
    /// Since when nobody was seen to have it mapped.
    unmapped: Option<Instant>,
}

impl CodeTable {
    /// A table that keeps at most so many descriptors open.
    pub fn new(limit: usize) -> Self {
        Self { known: HashMap::new(), limit: limit.max(1), clock: 0 }
    }

    /// The file with this number, met there. It is opened while nobody waits for the table: its file system may hang.
    ///
    /// # Errors
    /// If it can be opened neither by its mapping nor by its path.
    pub fn find(table: &Mutex<Self>, id: FileId, place: impl FnOnce() -> Place) -> io::Result<Arc<Code>> {
        let lock = || table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = lock().known(id) {
            return Ok(code);
        }
        let place = place();
        let file = place.open(id)?;
        let content = Content::of(&file.metadata()?);
        let mut table = lock();
        // Somebody else may have met it meanwhile.
        if let Some(code) = table.known(id) {
            return Ok(code);
        }
        let code = Arc::new(Code::new(id, content, place, file));
        table.make_room();
        let used = table.clock;
        table.known.insert(id, Entry { code: Arc::clone(&code), used, unmapped: None });
        Ok(code)
    }

    fn known(&mut self, id: FileId) -> Option<Arc<Code>> {
        self.clock += 1;
        // While it is open, its inode cannot be given to another file.
        let entry = self.known.get_mut(&id).filter(|entry| entry.code.is_unchanged())?;
        entry.used = self.clock;
        entry.unmapped = None;
        Some(Arc::clone(&entry.code))
    }

    /// Closes files that nobody has had mapped for as long as `idle`: whoever has one open keeps its space on the disk, and its
    /// file system, from being let go. Says how many those are; their numbers may become other files'.
    pub fn let_go(&mut self, mapped: &HashSet<FileId>, idle: Duration) -> usize {
        let is_over = |id: &FileId, entry: &mut Entry| {
            if mapped.contains(id) {
                entry.unmapped = None;
                return false;
            }
            entry.unmapped.get_or_insert_with(Instant::now).elapsed() >= idle
        };
        self.known.extract_if(is_over).map(|(_, entry)| entry.code.close()).count()
    }

    /// How many are open.
    pub fn open_count(&self) -> usize {
        self.known.values().filter(|entry| entry.code.is_open()).count()
    }

    /// Closes files that were not met for longest.
    fn make_room(&mut self) {
        while self.known.len() >= self.limit {
            let oldest = self.known.iter().min_by_key(|(_, entry)| entry.used).map(|(id, _)| *id);
            let Some(entry) = oldest.and_then(|id| self.known.remove(&id)) else { return };
            entry.code.close();
        }
    }
}

/// Whether a file begins as an ELF file does.
pub(super) fn is_elf(file: &File) -> bool {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).is_ok() && magic == *b"\x7fELF"
}

/// The last part of a path, without what the kernel adds to that of a deleted file.
fn name_of(path: &Path) -> Arc<str> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    Arc::from(name.strip_suffix(" (deleted)").unwrap_or(&name))
}
