//! The table of one file, ready to be copied into maps. Knows neither files nor maps.

use std::fmt;

use serde::{Deserialize, Serialize};
use steth_probes::unwind::{PAGE_BITS, Packed, Row, Table};

use super::Gap;

/// What tells files of code apart: two with the same have the same code at the same offsets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Identity {
    /// What the linker wrote into it (`.note.gnu.build-id`).
    BuildId(Vec<u8>),
    /// A hash of what is loaded of it (SHA-256, its first 20 bytes), where no linker did.
    Hash([u8; 20]),
}

impl Identity {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::BuildId(bytes) => bytes,
            Self::Hash(bytes) => bytes,
        }
    }
}

/// `build-id-` or `hash-` and hexadecimal digits; fit for a file's name.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::BuildId(_)) { "build-id-" } else { "hash-" })?;
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The unwind table of one file of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTable {
    /// Whose it is.
    pub identity: Identity,
    /// Number of the first page that it covers, see [`Table`].
    pub first_page: u32,
    /// For each page the row that holds at its first byte, and one more for the last row; empty if there are no rows.
    pub pages: Vec<u32>,
    /// Sorted by offset; the first stands at the beginning of the first page.
    pub rows: Vec<Row>,
    /// What is missing in it.
    pub gaps: Vec<Gap>,
}

impl FileTable {
    /// Makes pages for rows that are sorted by offset, no two with the same. Before the first row, the rule is by frame pointer.
    pub fn new(identity: Identity, mut rows: Vec<Row>, gaps: Vec<Gap>) -> Self {
        if let Some(first) = rows.first().copied() {
            let begin = first.offset() & !0 << PAGE_BITS;
            if begin != first.offset() {
                rows.insert(0, Row::new(begin, Packed::FRAME_POINTER));
            }
        }
        let page = |row: &Row| row.offset() >> PAGE_BITS;
        let first_page = rows.first().map_or(0, page);
        let last_page = rows.last().map_or(0, page);
        let mut pages = Vec::new();
        if !rows.is_empty() {
            let mut rest = rows.iter().enumerate().peekable();
            let mut holds = 0;
            for page in first_page..=last_page {
                while let Some((index, _)) = rest.next_if(|(_, row)| row.offset() <= page << PAGE_BITS) {
                    // `rows` has 32-bit offsets that differ, so that their number has 32 bits as well.
                    holds = u32::try_from(index).unwrap_or(u32::MAX);
                }
                pages.push(holds);
            }
            pages.push(u32::try_from(rows.len() - 1).unwrap_or(u32::MAX));
        }
        Self { identity, first_page, pages, rows, gaps }
    }

    /// Where it lies once it has been put into the arrays that all tables share, its pages from `pages_at` and its rows from
    /// `rows_at` on.
    pub fn placed(&self, pages_at: u32, rows_at: u32) -> Table {
        Table {
            pages_at,
            page_count: u32::try_from(self.pages.len().saturating_sub(1)).unwrap_or(u32::MAX),
            rows_at,
            row_count: u32::try_from(self.rows.len()).unwrap_or(u32::MAX),
            first_page: self.first_page,
            _pad: 0,
        }
    }

    /// Bytes in maps.
    pub fn size_bytes(&self) -> usize {
        size_of_val(self.pages.as_slice()) + size_of_val(self.rows.as_slice())
    }
}
