//! Pieces of profiles on disk: one file each, its time in its name, within a budget. Does not know how profiles are made or
//! merged.

#[cfg(test)]
mod tests;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};

use crate::model::{profile::Profile, sample::Period};

/// A piece that is larger when unpacked is none of ours.
const MOST_UNPACKED: u64 = 512 << 20;
const BEGINNING: &str = "piece-";
const ENDING: &str = ".json.gz";
/// Of a file that is being written.
const UNFINISHED: &str = ".unfinished";

/// A folder of pieces.
#[derive(Clone, Debug)]
pub struct Pieces {
    folder: PathBuf,
    kept_bytes: u64,
}

/// One piece that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    path: PathBuf,
    period: Period,
    bytes: u64,
}

/// What was found of a period.
#[derive(Debug, Default)]
pub struct Found {
    /// The pieces, the oldest first.
    pub pieces: Vec<Profile>,
    /// What a reader must know: files that could not be read.
    pub notes: Vec<String>,
}

impl Pieces {
    /// Those of a folder, which need not exist. Together they take `kept_bytes` at most.
    pub fn new(folder: PathBuf, kept_bytes: u64) -> Self {
        Self { folder, kept_bytes }
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps a piece; the oldest ones give way. Only one process may do that at a time.
    ///
    /// # Errors
    /// If the folder cannot be made or written, or the piece alone is larger than the budget.
    pub fn put(&self, piece: &Profile) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        serde_json::to_writer(&mut packed, piece)?;
        let packed = packed.finish()?;
        self.make_room(packed.len() as u64)?;
        let path = self.folder.join(name(&period_of(piece)));
        let unfinished = self.folder.join(UNFINISHED);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&packed)?;
        // Else a crash of the machine could leave the name without the content.
        file.sync_all()?;
        fs::rename(unfinished, path)
    }

    /// The pieces that have a moment in common with a period. A file that cannot be read is left out, with a note.
    ///
    /// # Errors
    /// If the folder is there and cannot be read.
    pub fn within(&self, period: &Period) -> io::Result<Found> {
        let mut found = Found::default();
        for entry in self.entries()?.into_iter().filter(|entry| entry.period.overlaps(period)) {
            match read(&entry.path) {
                Ok(piece) => found.pieces.push(piece),
                // It gave way meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => found.notes.push(format!("{} cannot be read: {error}", entry.path.display())),
            }
        }
        Ok(found)
    }

    /// From the beginning of the oldest piece to the end of the newest; `None` if there is none.
    ///
    /// # Errors
    /// If the folder is there and cannot be read.
    pub fn reach(&self) -> io::Result<Option<Period>> {
        let entries = self.entries()?;
        let from = entries.iter().map(|entry| entry.period.from).min();
        let to = entries.iter().map(|entry| entry.period.to).max();
        Ok(from.zip(to).map(|(from, to)| Period { from, to }))
    }

    fn make_room(&self, bytes: u64) -> io::Result<()> {
        if bytes > self.kept_bytes {
            return Err(io::Error::other(format!("a piece has {bytes} bytes, more than `profile.kept` allows")));
        }
        let entries = self.entries()?;
        let mut taken: u64 = entries.iter().map(|entry| entry.bytes).sum();
        for oldest in entries {
            if taken + bytes <= self.kept_bytes {
                break;
            }
            match fs::remove_file(&oldest.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            taken -= oldest.bytes;
        }
        Ok(())
    }

    /// The pieces by their names, the oldest first.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let listed = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed?,
        };
        let mut entries = Vec::new();
        for file in listed {
            let file = file?;
            if let Some(period) = file.file_name().to_str().and_then(period_named)
                && let Ok(attributes) = file.metadata()
            {
                entries.push(Entry { path: file.path(), period, bytes: attributes.len() });
            }
        }
        entries.sort_by_key(|entry| (entry.period.from, entry.period.to));
        Ok(entries)
    }
}

/// The time that a piece covers.
pub fn period_of(piece: &Profile) -> Period {
    Period { from: piece.began, to: piece.began.checked_add(piece.lasted).unwrap_or(piece.began) }
}

fn name(period: &Period) -> String {
    let ms = |moment: SystemTime| moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    format!("{BEGINNING}{:013}-{:013}{ENDING}", ms(period.from), ms(period.to))
}

fn period_named(name: &str) -> Option<Period> {
    let (from, to) = name.strip_prefix(BEGINNING)?.strip_suffix(ENDING)?.split_once('-')?;
    let moment = |ms: &str| UNIX_EPOCH.checked_add(Duration::from_millis(ms.parse().ok()?));
    Some(Period { from: moment(from)?, to: moment(to)? })
}

fn read(path: &Path) -> io::Result<Profile> {
    let mut unpacked = Vec::new();
    GzDecoder::new(File::open(path)?).take(MOST_UNPACKED).read_to_end(&mut unpacked)?;
    let piece: Profile = serde_json::from_slice(&unpacked)?;
    let is_frame = |index: &u32| piece.frames.get(*index as usize).is_some();
    if !piece.stacks.iter().flat_map(|stack| &stack.frames).all(is_frame) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a stack has a frame that is not there"));
    }
    Ok(piece)
}
