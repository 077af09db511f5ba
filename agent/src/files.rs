//! Files that observed processes may have made: opened without waiting for anybody, and read within bounds, whatever they say of
//! themselves. Knows nothing of what stands in them.

use std::{
    cell::Cell,
    fs::File,
    io::{self, Read as _},
    ops::Range,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        OnceLock,
        mpsc::{Sender, channel},
    },
    thread,
};

use object::read::{ReadCache, ReadCacheOps, ReadRef};
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Never waits for a writer, nor becomes a terminal of ours.
const FLAGS: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
/// Longest part that is read at once: call frame information and tables of symbols of the largest programs known are half of that.
pub const MOST_AT_ONCE: u64 = 64 << 20;
/// Most that is read of one file by its headers, which may lie over each other.
const MOST_IN_ALL: u64 = 256 << 20;
/// For a thread that only closes files.
const STACK_BYTES: usize = 64 << 10;
/// What is held for a string beside its bytes.
const OF_STRING: u64 = 128;

/// Opens a file that others may have made: never waits, as opening a pipe would.
///
/// # Errors
/// If it cannot be opened or is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    regular(rustix::fs::open(path, FLAGS, Mode::empty())?)
}

/// Opens the file at a path as a process with this root sees it; symbolic links lead nowhere else.
///
/// # Errors
/// If it cannot be opened or is no regular file.
pub fn open_within(root: &Path, path: &Path) -> io::Result<File> {
    let folder = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    open_under(&folder, path)
}

/// As [`open_within`], with the root's descriptor.
///
/// # Errors
/// If it cannot be opened or is no regular file.
pub fn open_under(root: &OwnedFd, path: &Path) -> io::Result<File> {
    regular(rustix::fs::openat2(root, path, FLAGS, Mode::empty(), ResolveFlags::IN_ROOT)?)
}

/// Closes what may keep whoever closes it waiting, on a thread for that. A file of a file system that hangs does (Linux,
/// fs/fuse/file.c, `fuse_flush`), and so does a breakpoint of the kernel's, for every process that has it mapped (kernel/events/uprobes.c,
/// `register_for_each_vma`), and 0.1 s anyway. What waits there stays open.
pub fn close_apart(what: impl Send + 'static) {
    static CLOSER: OnceLock<Option<Sender<Box<dyn Send>>>> = OnceLock::new();
    let start = || {
        let (sender, all) = channel();
        let work = move || all.into_iter().for_each(drop::<Box<dyn Send>>);
        let started = thread::Builder::new().name("steth-closer".into()).stack_size(STACK_BYTES).spawn(work);
        started.is_ok().then_some(sender)
    };
    match CLOSER.get_or_init(start) {
        Some(closer) => drop(closer.send(Box::new(what))),
        None => drop(what),
    }
}

fn regular(file: OwnedFd) -> io::Result<File> {
    let file = File::from(file);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// The text of a file that others may have made.
///
/// # Errors
/// If it cannot be read, is no regular file, or is longer than `most` bytes.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    open_regular(path)?.take(most + 1).read_to_string(&mut text)?;
    match text.len() as u64 > most {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(text),
    }
}

/// A file of code for `object` to read. Headers may say anything: parts that are too long are refused, and all when they were too
/// many.
#[derive(Debug)]
pub struct Parts<R: ReadCacheOps> {
    cache: ReadCache<R>,
    left: Cell<u64>,
}

impl<R: ReadCacheOps> Parts<R> {
    /// Nothing of it is read yet.
    pub fn of(file: R) -> Self {
        Self { cache: ReadCache::new(file), left: Cell::new(MOST_IN_ALL) }
    }

    fn take(&self, bytes: u64) -> Result<(), ()> {
        self.left.set(self.left.get().checked_sub(bytes).ok_or(())?);
        Ok(())
    }
}

impl<'p, R: ReadCacheOps> ReadRef<'p> for &'p Parts<R> {
    fn len(self) -> Result<u64, ()> {
        (&self.cache).len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'p [u8], ()> {
        if size > MOST_AT_ONCE {
            return Err(());
        }
        self.take(size)?;
        self.cache.read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'p [u8], ()> {
        let found = self.cache.read_bytes_at_until(range, delimiter)?;
        self.take(found.len() as u64 + OF_STRING)?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn what_would_wait_or_never_end_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert!(read_text(&pipe, 10).is_err());
        assert!(read_text(Path::new("/dev/zero"), 10).is_err());
        assert!(read_text(folder.path(), 10).is_err());
        let file = folder.path().join("file");
        std::fs::write(&file, "0123456789").unwrap();
        assert_eq!(read_text(&file, 10).unwrap(), "0123456789");
        assert_eq!(read_text(&file, 9).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn headers_that_promise_too_much_are_refused() {
        // Holes cost nothing but when they are read.
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        let parts = Parts::of(&file);
        assert!((&parts).read_bytes_at(0, MOST_AT_ONCE + 1).is_err());
        assert_eq!((&parts).read_bytes_at(7, 9), Ok(&[0; 9][..]));

        let parts = Parts::of(Cursor::new(b"one\0two\0".to_vec()));
        parts.left.set(OF_STRING + 7);
        assert_eq!((&parts).read_bytes_at_until(0..8, 0), Ok(&b"one"[..]));
        assert_eq!((&parts).read_bytes_at(4, 3), Ok(&b"two"[..]));
        assert!((&parts).read_bytes_at(4, 3).is_err(), "all that may be read was read");
    }
}
