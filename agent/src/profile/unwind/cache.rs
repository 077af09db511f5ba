//! Tables on disk, so that they are made once. Knows nothing of how.
//!
//! A file holds one table: a line of JSON, then the rows, little-endian. It is written beside its place and moved there, so that
//! nobody reads half of one. One that is broken or of another version counts as not there.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use steth_probes::unwind::Row;

use super::{FileTable, Gap, Identity};

/// Changes whenever the meaning of a file does: also when rules are packed or found in another way.
const VERSION: u32 = 1;
const SUFFIX: &str = ".unwind";
/// Longest file that is read.
const MAX_FILE: u64 = 64 << 20;
/// Longest first line.
const MAX_HEAD: usize = 1 << 16;
/// How long a file that is being written is left alone; older ones were left behind.
const WRITTEN_WITHIN: Duration = Duration::from_secs(600);

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    identity: Identity,
    gaps: Vec<Gap>,
    row_count: usize,
    /// CRC-32 of the rows.
    checksum: u32,
}

/// A folder of tables.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    limit_bytes: u64,
}

impl Cache {
    /// Uses `folder`, which is made if it is not there; what has not been used for longest is deleted once all takes more than
    /// `limit_bytes`.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(folder: &Path, limit_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), limit_bytes })
    }

    /// The table of a file of code, if there is one. Counts as use.
    pub fn get(&self, identity: &Identity) -> Option<FileTable> {
        let path = self.place(identity);
        let file = File::open(&path).ok()?;
        match read(&file, identity) {
            Some(table) => {
                // If that fails, it is deleted too early at worst.
                let _ = file.set_modified(SystemTime::now());
                Some(table)
            }
            None => {
                let _ = fs::remove_file(path);
                None
            }
        }
    }

    /// Keeps a table.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put(&self, table: &FileTable) -> io::Result<()> {
        let mut rows = Vec::with_capacity(table.rows.len() * size_of::<Row>());
        table.rows.iter().for_each(|row| rows.extend_from_slice(&row.0.to_le_bytes()));
        let head = Head {
            version: VERSION,
            identity: table.identity.clone(),
            gaps: table.gaps.clone(),
            row_count: table.rows.len(),
            checksum: crc32fast::hash(&rows),
        };
        let mut bytes = serde_json::to_vec(&head)?;
        bytes.push(b'\n');
        bytes.append(&mut rows);
        let being_written = self.folder.join(format!(".{}.{}", table.identity, std::process::id()));
        let written = File::create(&being_written)
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| fs::rename(&being_written, self.place(&table.identity)));
        if written.is_err() {
            let _ = fs::remove_file(&being_written);
        }
        self.trim();
        written
    }

    fn place(&self, identity: &Identity) -> PathBuf {
        self.folder.join(format!("{identity}{SUFFIX}"))
    }

    /// Deletes what is too much, what has not been used for longest first.
    fn trim(&self) {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let (name, Ok(metadata)) = (entry.file_name(), entry.metadata()) else { continue };
            let used_at = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if name.as_encoded_bytes().ends_with(SUFFIX.as_bytes()) {
                kept.push((used_at, metadata.len(), entry.path()));
            } else if used_at.elapsed().is_ok_and(|age| age > WRITTEN_WITHIN) {
                let _ = fs::remove_file(entry.path());
            }
        }
        kept.sort();
        let mut total: u64 = kept.iter().map(|(_, length, _)| length).sum();
        for (_, length, path) in kept {
            if total <= self.limit_bytes {
                break;
            }
            let _ = fs::remove_file(path);
            total = total.saturating_sub(length);
        }
    }
}

fn read(file: &File, identity: &Identity) -> Option<FileTable> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    let line = bytes.iter().take(MAX_HEAD).position(|&byte| byte == b'\n')?;
    let (head, rows) = bytes.split_at_checked(line)?;
    let rows = rows.get(1..)?;
    let head: Head = serde_json::from_slice(head).ok()?;
    let (rows, rest) = rows.as_chunks::<{ size_of::<Row>() }>();
    let is_whole =
        rest.is_empty() && rows.len() == head.row_count && crc32fast::hash(rows.as_flattened()) == head.checksum;
    if head.version != VERSION || head.identity != *identity || !is_whole {
        return None;
    }
    let rows: Vec<_> = rows.iter().map(|row| Row(u64::from_le_bytes(*row))).collect();
    rows.is_sorted_by(|one, next| one.offset() < next.offset()).then(|| FileTable::new(head.identity, rows, head.gaps))
}

#[cfg(test)]
mod tests {
    use steth_probes::unwind::Packed;
    use tempfile::TempDir;

    use super::*;

    fn table(number: u8, rows: u32) -> FileTable {
        let rows = (0..rows).map(|at| Row::new(0x1000 + at * 100, Packed(at))).collect();
        FileTable::new(Identity::BuildId(vec![number; 20]), rows, vec![Gap::Function("why".to_owned())])
    }

    fn cache(limit_bytes: u64) -> (TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("unwind"), limit_bytes).unwrap();
        (folder, cache)
    }

    #[test]
    fn what_was_kept_is_found_again() {
        let (_folder, cache) = cache(1 << 20);
        assert_eq!(cache.get(&table(1, 0).identity), None);
        for table in [table(1, 3000), table(2, 0)] {
            cache.put(&table).unwrap();
            assert_eq!(cache.get(&table.identity), Some(table));
        }
        assert_eq!(cache.get(&Identity::Hash([1; 20])), None);
    }

    #[test]
    fn a_broken_file_counts_as_not_there_wherever_it_is_broken() {
        let (_folder, cache) = cache(1 << 20);
        let table = table(1, 20);
        cache.put(&table).unwrap();
        let place = cache.place(&table.identity);
        let whole = fs::read(&place).unwrap();
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0x11;
            fs::write(&place, broken).unwrap();
            // A letter of a note may be another one; what it says of code may not.
            assert!(cache.get(&table.identity).is_none_or(|found| found.rows == table.rows), "{at}");
            fs::write(&place, &whole[..at]).unwrap();
            assert_eq!(cache.get(&table.identity), None, "{at}");
            assert!(!place.exists());
        }
    }

    #[test]
    fn a_table_of_another_version_counts_as_not_there() {
        let (_folder, cache) = cache(1 << 20);
        let table = table(1, 2);
        cache.put(&table).unwrap();
        let place = cache.place(&table.identity);
        let mut bytes = fs::read(&place).unwrap();
        let at = bytes.windows(11).position(|part| part == b"\"version\":1").unwrap();
        bytes[at + 10] = b'0';
        fs::write(&place, bytes).unwrap();
        assert_eq!(cache.get(&table.identity), None);
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let (_folder, cache) = cache(30_000);
        let long_ago = |age: u64| SystemTime::now() - Duration::from_secs(age);
        for (number, age) in [(1, 300), (2, 200), (3, 100)] {
            let table = table(number, 1000);
            cache.put(&table).unwrap();
            File::open(cache.place(&table.identity)).unwrap().set_modified(long_ago(age)).unwrap();
        }
        assert!(cache.get(&table(1, 0).identity).is_some());
        cache.put(&table(4, 1000)).unwrap();
        let there = [1, 2, 3, 4].map(|number| cache.get(&table(number, 0).identity).is_some());
        assert_eq!(there, [true, false, true, true]);
    }

    #[test]
    fn what_was_left_behind_half_written_is_deleted() {
        let (_folder, cache) = cache(1 << 20);
        let (old, new) = (cache.folder.join(".old"), cache.folder.join(".new"));
        fs::write(&new, "").unwrap();
        File::create(&old).unwrap().set_modified(SystemTime::now() - 2 * WRITTEN_WITHIN).unwrap();
        cache.put(&table(1, 1)).unwrap();
        assert_eq!((old.exists(), new.exists()), (false, true));
    }
}
