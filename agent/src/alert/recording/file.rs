//! Recorded windows as one file, so that rules can be tried where no agent runs, and on an incident of long ago. Does not know what
//! is in the windows.
//!
//! A line that says what it is, then for each block three pieces, each after its length: how many windows it has and the names of
//! its series as JSON, both compressed, and the windows as they are kept.

use std::io::{self, Read as _, Write as _};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};

use super::{Block, Name, Recording, put, take};
use crate::model::catalog::CHAPTERS;

const HEAD: &[u8] = b"steth windows 1\n";
/// What the names of one block may come to.
const MOST_NAMES: u64 = 64 << 20;

/// Why a file has no windows for us.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWindows {
    /// It begins with something else.
    #[error("this is no file of recorded windows; steth alerts record makes one")]
    NotOne,
    /// It ends too early, or something in it was changed.
    #[error("the file is cut off or damaged in block {0}")]
    Damaged(usize),
    /// It was recorded by another version.
    #[error("it has the metric {0}, which this version does not know, or with other labels")]
    Unknown(String),
}

impl Recording {
    /// All windows, as a file has them. Takes its time.
    ///
    /// # Errors
    /// None that a vector would have.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = HEAD.to_vec();
        let open = self.open.clone().packed(&self.finished).filter(|block| block.windows > 0);
        for block in self.finished.iter().chain(&open) {
            let names: Vec<(&str, &[String])> =
                block.names.iter().map(|(metric, labels)| (metric.name, &**labels)).collect();
            let mut packed = DeflateEncoder::new(Vec::new(), Compression::fast());
            serde_json::to_writer(&mut packed, &(block.windows, names))?;
            for piece in [&packed.finish()?[..], &block.packed] {
                put(&mut bytes, piece.len() as u64);
                bytes.write_all(piece)?;
            }
        }
        Ok(bytes)
    }

    /// What stands in such a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NoWindows> {
        let mut rest = bytes.strip_prefix(HEAD).ok_or(NoWindows::NotOne)?;
        let mut recording = Self::default();
        while !rest.is_empty() {
            let damaged = || NoWindows::Damaged(recording.finished.len() + 1);
            let head = piece(&mut rest).ok_or_else(damaged)?;
            let packed = piece(&mut rest).ok_or_else(damaged)?;
            let mut plain = Vec::new();
            DeflateDecoder::new(head).take(MOST_NAMES).read_to_end(&mut plain).map_err(|_| damaged())?;
            let (windows, names): (usize, Vec<(String, Vec<String>)>) =
                serde_json::from_slice(&plain).map_err(|_| damaged())?;
            let names = names.into_iter().map(known).collect::<Result<_, _>>()?;
            recording.finished.push_back(Block { names, windows, packed: packed.into() });
        }
        Ok(recording)
    }
}

fn piece<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take(rest)?).ok()?;
    let (piece, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(piece)
}

fn known((name, labels): (String, Vec<String>)) -> Result<Name, NoWindows> {
    let mut all = CHAPTERS.iter().flat_map(|chapter| (chapter.metrics)());
    let metric = all.find(|metric| metric.name == name && metric.labels.len() == labels.len());
    Ok((metric.ok_or(NoWindows::Unknown(name))?, labels.into()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::tests::snapshot, *};

    fn recording(windows: u64) -> Recording {
        let mut recording = Recording::default();
        (0..windows).for_each(|at| recording.push(&snapshot(at), Duration::from_millis(10_000 + at)));
        recording
    }

    fn shown(recording: &Recording) -> Vec<String> {
        let mut all = Vec::new();
        recording.replay(|window, elapsed| all.push(format!("{elapsed:?} {window:?}")));
        all
    }

    #[test]
    fn what_was_recorded_is_read_from_a_file_as_it_was() {
        let recording = recording(130);
        let read = Recording::from_bytes(&recording.to_bytes().unwrap()).unwrap();
        assert_eq!((shown(&read).len(), shown(&read)), (130, shown(&recording)));
        assert_eq!(shown(&Recording::from_bytes(&Recording::default().to_bytes().unwrap()).unwrap()).len(), 0);
    }

    #[test]
    fn what_is_cut_off_or_changed_is_told_and_never_panics() {
        let bytes = recording(70).to_bytes().unwrap();
        for end in (0..bytes.len()).step_by(11) {
            // Between two blocks it ends well.
            if let Ok(read) = Recording::from_bytes(&bytes[..end]) {
                assert!(read.finished.len() < 2, "{end}");
            }
        }
        assert_eq!(Recording::from_bytes(b"node_load1 5\n").unwrap_err(), NoWindows::NotOne);
        for at in (HEAD.len()..bytes.len()).step_by(23) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x55;
            if let Ok(read) = Recording::from_bytes(&changed) {
                shown(&read);
            }
        }
    }

    #[test]
    fn a_metric_of_another_version_is_named() {
        let mut bytes = HEAD.to_vec();
        let mut packed = DeflateEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(br#"[1,[["node_load99",[]]]]"#).unwrap();
        let packed = packed.finish().unwrap();
        put(&mut bytes, packed.len() as u64);
        bytes.extend_from_slice(&packed);
        put(&mut bytes, 0);
        assert_eq!(Recording::from_bytes(&bytes).unwrap_err(), NoWindows::Unknown("node_load99".into()));
    }
}
