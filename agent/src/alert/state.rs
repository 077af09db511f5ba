//! The alerts in a file, so that a restart sends nothing twice and forgets nothing. Written whole, beside the old one, and put in
//! its place; who evaluates never waits for a disk.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    book::{Book, Entry},
    silence::Silences,
};

const NAME: &str = "alerts.json";
/// Of a file that is being written.
const UNFINISHED: &str = "alerts.json.unfinished";
/// What cannot be read is called that.
const SET_ASIDE: &str = "alerts.json.unreadable";
/// What the file is. Another number is another format.
const VERSION: u32 = 1;
/// When what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// A larger file is none of ours.
const MOST_BYTES: u64 = 64 << 20;

/// The file.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    newest: watch::Sender<(u64, Vec<u8>)>,
    /// Number of the state that was handed out last.
    number: AtomicU64,
    written: Written,
    failures: Arc<AtomicU64>,
}

/// Number of the state that is in the file. Held while it is written, so that at the end an older one does not follow.
type Written = Arc<Mutex<u64>>;

#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    version: u32,
    last_id: u64,
    silences: std::borrow::Cow<'a, Silences>,
    entries: Vec<std::borrow::Cow<'a, Entry>>,
}

impl State {
    /// That of a folder, which need not exist. Its task ends with it.
    pub fn open(folder: PathBuf) -> Self {
        let (newest, mut wanted) = watch::channel((0, Vec::new()));
        let failures = Arc::new(AtomicU64::new(0));
        let written = Written::default();
        let (path, failed, file) = (folder.clone(), Arc::clone(&failures), Arc::clone(&written));
        tokio::spawn(async move {
            let mut fails = false;
            loop {
                // What could not be written is tried again, also if nothing changes.
                let pause = if fails { RETRY } else { Duration::MAX };
                if let Ok(Err(_)) = tokio::time::timeout(pause, wanted.changed()).await {
                    break;
                }
                let (number, bytes) = wanted.borrow_and_update().clone();
                let (path, file) = (path.clone(), Arc::clone(&file));
                let written = tokio::task::spawn_blocking(move || write(&path, &file, number, &bytes)).await;
                if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
                    failed.fetch_add(1, Ordering::Relaxed);
                    // Said when it begins: a full disk stays full for a while.
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!("{error}; after a restart alerts may be told twice");
                    }
                } else {
                    fails = false;
                }
            }
        });
        Self { folder, newest, number: AtomicU64::new(0), written, failures }
    }

    /// What was kept. A file that cannot be read is said, and set aside.
    pub fn restore(&self) -> Book {
        let path = self.folder.join(NAME);
        match read(&path) {
            Ok(book) => book,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Book::default(),
            Err(error) => {
                let aside = self.folder.join(SET_ASIDE);
                let moved = fs::rename(&path, &aside);
                let where_to =
                    moved.map_or_else(|why| format!("stays: {why}"), |()| format!("is now {}", aside.display()));
                tracing::error!(
                    "{} cannot be read: {error}; it {where_to}. Alerts begin anew, and what still fires is told again",
                    path.display()
                );
                Book::default()
            }
        }
    }

    /// Keeps the alerts as they are now. Only the newest state matters, so nothing queues.
    pub fn keep(&self, book: &Book) {
        self.newest.send_replace((self.next(), packed(book)));
    }

    /// Keeps the alerts, and waits until they are kept: at the end.
    ///
    /// # Errors
    /// If they cannot be.
    pub fn keep_now(&self, book: &Book) -> io::Result<()> {
        write(&self.folder, &self.written, self.next(), &packed(book))
    }

    fn next(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How often it could not be written.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

fn packed(book: &Book) -> Vec<u8> {
    use std::borrow::Cow::Borrowed;
    let entries = book.entries().map(Borrowed).collect();
    let kept = Kept { version: VERSION, last_id: book.last_id(), silences: Borrowed(&book.silences), entries };
    serde_json::to_vec(&kept).unwrap_or_default()
}

fn read(path: &Path) -> io::Result<Book> {
    if fs::metadata(path)?.len() > MOST_BYTES {
        return Err(io::Error::other(format!("it is larger than {MOST_BYTES} bytes")));
    }
    let kept: Kept = serde_json::from_slice(&fs::read(path)?)?;
    if kept.version != VERSION {
        return Err(io::Error::other(format!("it is of version {}, and this is {VERSION}", kept.version)));
    }
    let entries = kept.entries.into_iter().map(std::borrow::Cow::into_owned).collect();
    Ok(Book::restored(entries, kept.silences.into_owned(), kept.last_id))
}

fn write(folder: &Path, written: &Written, number: u64, bytes: &[u8]) -> io::Result<()> {
    let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
    if *written >= number {
        return Ok(());
    }
    let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot write {}: {error}", folder.display()));
    let put = || {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let unfinished = folder.join(UNFINISHED);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(bytes)?;
        // Else a crash of the machine could leave the name without the content.
        file.sync_all()?;
        fs::rename(unfinished, folder.join(NAME))
    };
    put().map_err(named)?;
    *written = number;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::silence::Wanted;

    #[tokio::test]
    async fn what_is_kept_comes_back_and_what_is_corrupt_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path().join("alerts"));
        let mut book = state.restore();
        assert_eq!(book.entries().count(), 0);
        let wanted = Wanted { rule: Some("x".into()), seconds: 60, by: "me".into(), ..Wanted::default() };
        book.silences.begin(wanted, 1_000).unwrap();
        state.keep_now(&book).unwrap();
        assert_eq!(state.restore().silences, book.silences);

        let path = folder.path().join("alerts").join(NAME);
        for damaged in [
            "",
            "{",
            "{\"version\":1}",
            "{\"version\":9,\"last_id\":0,\"silences\":{\"all\":[],\"next_id\":0},\"entries\":[]}",
        ] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(state.restore().silences, Silences::default());
            assert_eq!(fs::read_to_string(folder.path().join("alerts").join(SET_ASIDE)).unwrap(), damaged);
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_counted_and_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("file");
        fs::write(&blocked, "").unwrap();
        let state = State::open(blocked.join("alerts"));
        state.keep(&Book::default());
        while state.failures() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(state.keep_now(&Book::default()).unwrap_err().to_string().contains("cannot write"));
    }
}
