//! The rules of one file's code, and how the one for an offset is found. Knows no registers.
//!
//! A row holds from its offset to the next row's. The code is divided into pages of the file; for each there is one number, of
//! the row that holds at its first byte, and one more behind the last. So the row for an offset is among those from its page's
//! number to the next page's, some fifty in usual code: two numbers that lie side by side and six rows are looked at.

use super::{Packed, World};
use crate::record::record;

/// Bits of an offset within a page.
pub const PAGE_BITS: u32 = 12;
/// Rows that can hold in one page: one for each byte, and the one that holds at its first byte anyway.
pub const MAX_PAGE_ROWS: u32 = (1 << PAGE_BITS) + 1;
/// Looks that find the one among them.
const STEPS: u32 = MAX_PAGE_ROWS.ilog2() + 1;

/// A rule, and the offset in the file from which on it holds. Rows are sorted as their numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Row(pub u64);

impl Row {
    /// A rule from an offset on.
    pub const fn new(offset: u32, rule: Packed) -> Self {
        Self((offset as u64) << 32 | rule.0 as u64)
    }

    /// In bytes from the file's beginning.
    #[inline(always)]
    pub const fn offset(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// What holds from there on.
    #[inline(always)]
    pub const fn rule(self) -> Packed {
        Packed(self.0 as u32)
    }
}

record! {
    /// Where a file's rows lie among those of all files.
    #[derive(PartialEq, Eq)]
    pub struct Table {
        /// Index of its first page's entry.
        pub pages_at: u32,
        /// Pages that it covers; there is one entry more.
        pub page_count: u32,
        /// Index of its first row. The entries of pages count from there.
        pub rows_at: u32,
        /// Rows.
        pub row_count: u32,
        /// Number of the first page that it covers: an offset in the file, less the bits within a page.
        pub first_page: u32,
        /// Spare.
        pub _pad: u32,
    }
}

impl Table {
    /// The rule for an offset in the file; that by the frame pointer for what the table does not cover. `None` if the table is
    /// broken.
    #[inline(always)]
    pub fn rule_at<W: World>(&self, offset: u64, world: &mut W) -> Option<Packed> {
        let page = (offset >> PAGE_BITS).wrapping_sub(self.first_page as u64);
        if page >= self.page_count as u64 {
            return Some(Packed::FRAME_POINTER);
        }
        // An offset in a page that is covered has 32 bits: the last page is at most the last of 4 GiB.
        let offset = offset as u32;
        let index = self.pages_at.wrapping_add(page as u32);
        let mut low = world.page(index)?;
        // The last of them may hold in the next page only.
        let mut count = world.page(index.wrapping_add(1))?.wrapping_sub(low).wrapping_add(1);
        for _ in 0..STEPS {
            if count <= 1 {
                break;
            }
            // Whichever half it is, the other numbers are the same: the verifier would follow every way through the halves.
            let half = count >> 1;
            if world.row(self.rows_at.wrapping_add(low).wrapping_add(half))?.offset() <= offset {
                low = low.wrapping_add(half);
            }
            count -= half;
        }
        Some(world.row(self.rows_at.wrapping_add(low))?.rule())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::unwind::{Mapping, Rule, SavedBp};

    /// Rows and their pages, with a table that starts some way into both.
    pub struct Tables {
        pub rows: Vec<Row>,
        pub pages: Vec<u32>,
        pub table: Table,
        pub looks: usize,
    }

    impl Tables {
        /// `rows` are sorted; the first stands at the beginning of a page, the last holds to the end of its own.
        pub fn new(rows: &[Row]) -> Self {
            let (first_page, last_page) = (rows[0].offset() >> PAGE_BITS, rows[rows.len() - 1].offset() >> PAGE_BITS);
            assert_eq!(rows[0].offset(), first_page << PAGE_BITS);
            let holds_at = |offset: u32| rows.iter().rposition(|row| row.offset() <= offset).unwrap() as u32;
            let pages = (first_page..=last_page).map(|page| holds_at(page << PAGE_BITS)).chain([rows.len() as u32 - 1]);
            let table = Table {
                pages_at: 3,
                page_count: last_page - first_page + 1,
                rows_at: 2,
                row_count: rows.len() as u32,
                first_page,
                _pad: 0,
            };
            Self {
                rows: [Row(0); 2].into_iter().chain(rows.iter().copied()).collect(),
                pages: [7; 3].into_iter().chain(pages).collect(),
                table,
                looks: 0,
            }
        }
    }

    impl World for Tables {
        fn word(&mut self, _: u64) -> Option<u64> {
            None
        }

        fn register(&mut self, _: u32) -> Option<u64> {
            None
        }

        fn page(&mut self, index: u32) -> Option<u32> {
            self.pages.get(index as usize).copied()
        }

        fn row(&mut self, index: u32) -> Option<Row> {
            self.looks += 1;
            self.rows.get(index as usize).copied()
        }

        fn find(&mut self, _: u64, _: &mut Mapping) {}
    }

    /// A different rule for each number.
    fn rule(number: usize) -> Packed {
        Rule::Sp { words: number as u32 + 1, bp: SavedBp::Unchanged }.pack()
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let gaps = prop::collection::vec(prop_oneof![1u32..9, 1u32..200, 4090u32..20_000], 0..300);
        (0u32..1 << 19, gaps).prop_map(|(first_page, gaps)| {
            let mut offset = first_page << PAGE_BITS;
            let ends = gaps.into_iter().map(move |gap| {
                offset += gap;
                offset
            });
            [first_page << PAGE_BITS]
                .into_iter()
                .chain(ends)
                .enumerate()
                .map(|(at, offset)| Row::new(offset, rule(at)))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn a_rule_is_that_of_the_last_row_not_beyond(rows in rows(), picks: Vec<(prop::sample::Index, i64)>) {
            let mut tables = Tables::new(&rows);
            let table = tables.table;
            for (pick, beside) in picks {
                let offset = (i64::from(pick.get(&rows).offset()) + beside % 5).max(0) as u32;
                let covered = (offset >> PAGE_BITS).wrapping_sub(table.first_page) < table.page_count;
                let holds = rows.iter().rfind(|row| row.offset() <= offset).filter(|_| covered);
                let expected = holds.map_or(Packed::FRAME_POINTER, |row| row.rule());
                prop_assert_eq!(table.rule_at(u64::from(offset), &mut tables), Some(expected));
            }
        }

        #[test]
        fn any_bits_lead_to_an_answer_in_few_looks(table: [u32; 5], pages: Vec<u32>, rows: Vec<u64>, offset: u64) {
            let [pages_at, page_count, rows_at, row_count, first_page] = table;
            let table = Table { pages_at: pages_at % 4, page_count, rows_at: rows_at % 4, row_count, first_page: first_page % 4, _pad: 0 };
            let mut tables = Tables { rows: rows.into_iter().map(Row).collect(), pages, table, looks: 0 };
            let _ = table.rule_at(offset % (1 << 20), &mut tables);
            prop_assert!(tables.looks <= STEPS as usize + 1);
        }
    }

    #[test]
    fn a_page_with_a_row_for_each_byte_is_searched_to_its_end() {
        let rows: Vec<_> = (0..3u32 << PAGE_BITS).map(|offset| Row::new(offset, rule(offset as usize))).collect();
        let mut tables = Tables::new(&rows);
        let table = tables.table;
        for offset in 0..3 << PAGE_BITS {
            tables.looks = 0;
            assert_eq!(table.rule_at(offset, &mut tables), Some(rule(offset as usize)));
            assert!(tables.looks <= STEPS as usize + 1);
        }
    }

    #[test]
    fn an_offset_of_more_than_32_bits_is_not_taken_for_a_small_one() {
        let mut tables = Tables::new(&[Row::new(0, rule(0))]);
        let table = tables.table;
        assert_eq!(table.rule_at(1 << 32, &mut tables), Some(Packed::FRAME_POINTER));
        assert_eq!(table.rule_at(5, &mut tables), Some(rule(0)));
    }
}
