//! Who asked for what, from where, and what became of it: one line of JSON each, in files that are bounded. Writes on a thread of
//! its own; a disk that does not answer holds up no request, and what is lost by it is counted. Does not know what may be asked.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use serde::Serialize;

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// When it was answered, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// The name of the token; `null` for who has none.
    pub who: Option<String>,
    /// As what; `null` for who was not admitted.
    pub role: Option<&'static str>,
    /// Address and port.
    pub from: String,
    /// What was asked for.
    pub method: String,
    /// The path.
    pub path: String,
    /// What stands behind the path, shortened.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub query: String,
    /// What it was answered with; 499 where who asked went away before.
    pub status: u16,
    /// How long that took, in milliseconds.
    pub ms: u64,
    /// What was changed; absent where nothing was. Behind `perhaps:` where there was no answer in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<String>,
}

/// Lines that may wait for the disk.
const WAITING: usize = 4_096;
/// The files, the one that is written and the older ones; together they take what is allowed.
const FILES: u64 = 4;
/// Lines that are written together, all but the last.
const MOST_AT_ONCE_BYTES: usize = 8 << 10;
/// Text of clients is cut there.
const MOST_TEXT_BYTES: usize = 512;

/// Takes lines.
#[derive(Debug)]
pub struct Audit {
    lines: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

/// What became of lines.
#[derive(Debug, Default)]
pub struct Counts {
    /// They are in a file.
    pub written: AtomicU64,
    /// There were too many to wait.
    pub crowded: AtomicU64,
    /// The disk did not take them.
    pub refused: AtomicU64,
}

impl Audit {
    /// Begins to write below this folder, up to so many bytes.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn start(folder: PathBuf, most_bytes: u64) -> io::Result<Self> {
        let (lines, arriving) = sync_channel(WAITING);
        let counts = Arc::new(Counts::default());
        let mut files = Files { folder, most_bytes: most_bytes / FILES, open: None };
        let told = Arc::clone(&counts);
        thread::Builder::new().name("steth-audit".into()).spawn(move || write(&arriving, &mut files, &told))?;
        Ok(Self { lines, counts })
    }

    /// Writes a line, or counts that it is lost.
    pub fn note(&self, entry: &Entry) {
        let mut line = serde_json::to_vec(entry).unwrap_or_default();
        line.push(b'\n');
        if self.lines.try_send(line).is_err() {
            self.counts.crowded.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What became of lines.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

/// Text of a client, of a bounded length.
pub fn shortened(text: &str) -> String {
    let end = (0..=MOST_TEXT_BYTES.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    match text.get(..end) {
        Some(short) if short.len() < text.len() => format!("{short}…"),
        _ => text.to_owned(),
    }
}

fn write(arriving: &Receiver<Vec<u8>>, files: &mut Files, counts: &Counts) {
    let mut failing = false;
    while let Ok(mut lines) = arriving.recv() {
        let mut count = 1;
        // What came meanwhile goes with it, as far as it fits into any file.
        while lines.len() < MOST_AT_ONCE_BYTES
            && let Ok(more) = arriving.try_recv()
        {
            lines.extend(more);
            count += 1;
        }
        match files.append(&lines) {
            Ok(()) => {
                failing = false;
                counts.written.fetch_add(count, Ordering::Relaxed);
            }
            Err(error) => {
                counts.refused.fetch_add(count, Ordering::Relaxed);
                // Said once, until it works again.
                if !std::mem::replace(&mut failing, true) {
                    let folder = files.folder.display();
                    tracing::error!(
                        "cannot write the audit log in {folder}: {error}; lines are lost and counted until it works. The keys in \
                         [audit] name another folder, or none"
                    );
                }
            }
        }
    }
}

/// The file that is written, and those before it.
#[derive(Debug)]
struct Files {
    folder: PathBuf,
    /// Of each file.
    most_bytes: u64,
    open: Option<(File, u64)>,
}

impl Files {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let length = lines.len() as u64;
        if self.open.as_ref().is_some_and(|(_, bytes)| *bytes > 0 && bytes + length > self.most_bytes) {
            self.open = None;
            self.rotate()?;
        }
        let (mut file, bytes) = match self.open.take() {
            Some(open) => open,
            None => self.opened()?,
        };
        file.write_all(lines)?;
        self.open = Some((file, bytes + length));
        Ok(())
    }

    fn opened(&self) -> io::Result<(File, u64)> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(self.path(0))?;
        let bytes = file.metadata()?.len();
        Ok((file, bytes))
    }

    /// The oldest goes, each other becomes one older.
    fn rotate(&self) -> io::Result<()> {
        for age in (0..FILES - 1).rev() {
            match fs::rename(self.path(age), self.path(age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn path(&self, age: u64) -> PathBuf {
        let name = if age == 0 { "audit.jsonl".to_owned() } else { format!("audit.jsonl.{age}") };
        Path::new(&self.folder).join(name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn entry(path: &str) -> Entry {
        Entry {
            at_unix_ms: 1,
            who: Some("prometheus".into()),
            role: Some("viewer"),
            from: "127.0.0.1:9".into(),
            method: "GET".into(),
            path: path.into(),
            query: String::new(),
            status: 200,
            ms: 3,
            changed: None,
        }
    }

    fn until(what: &str, met: impl Fn() -> bool) {
        let late = Instant::now() + Duration::from_secs(20);
        while !met() {
            assert!(Instant::now() < late, "{what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn lines_are_json_and_the_files_stay_within_what_they_may_take() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let audit = Audit::start(path.clone(), 64 << 10).unwrap();
        for number in 0..3_000 {
            audit.note(&entry(&format!("/\"{number}\n")));
        }
        until("written", || audit.counts().written.load(Ordering::Relaxed) == 3_000);
        let files: Vec<_> = fs::read_dir(&path).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(files.len() as u64, FILES, "{files:?}");
        let bytes: u64 = files.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
        assert!(bytes > 32 << 10 && bytes <= 64 << 10, "{bytes}");
        let newest = fs::read_to_string(path.join("audit.jsonl")).unwrap();
        for line in newest.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(line["path"].as_str().unwrap().ends_with('\n') && line["who"] == "prometheus", "{line}");
        }
        assert!(newest.contains("2999"));
    }

    #[test]
    fn a_folder_that_cannot_be_written_loses_lines_and_says_how_many() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("file");
        fs::write(&blocked, "").unwrap();
        let audit = Audit::start(blocked.clone(), 64 << 10).unwrap();
        (0..3).for_each(|_| audit.note(&entry("/x")));
        until("counted", || audit.counts().refused.load(Ordering::Relaxed) == 3);
        fs::remove_file(&blocked).unwrap();
        audit.note(&entry("/x"));
        until("written again", || audit.counts().written.load(Ordering::Relaxed) == 1);
    }

    #[test]
    fn long_text_of_clients_is_cut_between_letters() {
        assert_eq!(shortened("ä"), "ä");
        let short = shortened(&"ä".repeat(10_000));
        assert!(short.len() <= MOST_TEXT_BYTES + 3 && short.ends_with('…'), "{}", short.len());
    }
}
