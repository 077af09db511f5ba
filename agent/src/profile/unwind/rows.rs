//! From call frame information to rows, sorted and merged. Knows sections and where code lies, not the files they come from.

use std::{
    collections::HashMap,
    ops::Range,
    time::{Duration, Instant},
};

use gimli::{
    BaseAddresses, CieOrFde, CommonInformationEntry, DebugFrame, EhFrame, FrameDescriptionEntry, LittleEndian,
    UnwindContext, UnwindOffset, UnwindSection,
};
use steth_probes::unwind::{Lack, PAGE_BITS, Packed, Row, Rule};

use super::{
    Gap,
    rules::{self, Bytes},
};

/// Rows of one file that are kept: 32 MiB. The largest programs known have some three million.
const MAX_ROWS: usize = 4 << 20;
/// Bytes that may describe one function: the longest known have some ten thousand. A broken file may say anything.
const MAX_FUNCTION: usize = 1 << 20;
/// How long one file is worked at. The largest programs known take two seconds.
const MAX_TIME: Duration = Duration::from_secs(20);
/// Bytes between functions that are filling: no function is that short, and none is called there.
const FILLING: u64 = 16;

/// A stretch of code: where it stands in the file, and at which address its makers took it to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeRange {
    /// First address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes from the file's beginning.
    pub offset: u64,
}

/// A section of call frame information.
#[derive(Clone, Debug)]
pub enum Section<'data> {
    /// `.eh_frame`: part of the program, so always there.
    EhFrame {
        /// Its bytes.
        bytes: &'data [u8],
        /// Its address and those that it may count from.
        bases: BaseAddresses,
    },
    /// `.debug_frame`: debug information.
    DebugFrame(&'data [u8]),
}

/// Rules for stretches of code as they are found.
#[derive(Debug)]
pub struct Rows {
    found: Vec<Found>,
    gaps: Vec<Gap>,
    began: Instant,
}

/// One rule; addresses are the makers'.
#[derive(Clone, Copy, Debug)]
struct Found {
    begin: u64,
    end: u64,
    /// What was found first counts, where several speak of the same code.
    section: u8,
    rule: Packed,
}

impl Rows {
    /// None yet.
    pub fn new() -> Self {
        Self { found: Vec::new(), gaps: Vec::new(), began: Instant::now() }
    }

    /// Adds what a section says. What cannot be read is left out, and told by [`Rows::finish`].
    pub fn add(&mut self, section: &Section<'_>, number: u8) {
        match section {
            Section::EhFrame { bytes, bases } => {
                let mut frame = EhFrame::new(bytes, LittleEndian);
                frame.set_address_size(8);
                self.add_entries(&frame, bases, number);
            }
            Section::DebugFrame(bytes) => {
                let mut frame = DebugFrame::new(bytes, LittleEndian);
                frame.set_address_size(8);
                self.add_entries(&frame, &BaseAddresses::default(), number);
            }
        }
    }

    fn add_entries<'data, S>(&mut self, section: &S, bases: &BaseAddresses, number: u8)
    where
        S: UnwindSection<Bytes<'data>>,
    {
        let mut cies = HashMap::new();
        let mut context = UnwindContext::new();
        let mut entries = section.entries(bases);
        loop {
            let partial = match entries.next() {
                Ok(Some(CieOrFde::Fde(partial))) => partial,
                Ok(Some(CieOrFde::Cie(_))) => continue,
                Ok(None) => return,
                Err(error) => return self.note(Gap::Section(error.to_string())),
            };
            let fde = partial.parse(|section, bases, offset| {
                let known: Option<&CommonInformationEntry<_>> = cies.get(&UnwindOffset::into(offset));
                if let Some(known) = known {
                    return Ok(known.clone());
                }
                let cie = section.cie_from_offset(bases, offset)?;
                cies.insert(UnwindOffset::into(offset), cie.clone());
                Ok(cie)
            });
            match fde {
                Ok(fde) => self.add_function(&fde, section, bases, &mut context, number),
                Err(error) => self.note(Gap::Function(error.to_string())),
            }
            if self.found.len() >= MAX_ROWS {
                return self.note(Gap::TooManyRows);
            }
            if self.began.elapsed() > MAX_TIME {
                return self.note(Gap::TooMuchTime);
            }
        }
    }

    fn add_function<'data, S>(
        &mut self,
        fde: &FrameDescriptionEntry<Bytes<'data>>,
        section: &S,
        bases: &BaseAddresses,
        context: &mut UnwindContext<usize>,
        number: u8,
    ) where
        S: UnwindSection<Bytes<'data>>,
    {
        if fde.entry_len().max(fde.cie().entry_len()) > MAX_FUNCTION {
            return self.note(Gap::Function("it is described by too many bytes".to_owned()));
        }
        let is_signal_frame = fde.is_signal_trampoline();
        let mut done = fde.initial_address();
        let failed = match fde.rows(section, bases, context) {
            Ok(mut rows) => loop {
                match rows.next_row() {
                    Ok(Some(row)) => {
                        let rule = rules::rule(row, section, is_signal_frame).pack();
                        done = row.end_address();
                        self.push(Found { begin: row.start_address(), end: done, section: number, rule });
                        if self.found.len() >= MAX_ROWS {
                            return;
                        }
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            },
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            self.note(Gap::Function(error.to_string()));
            let rule = Rule::Unsupported(Lack::Broken).pack();
            self.push(Found { begin: done, end: fde.end_address(), section: number, rule });
        }
    }

    fn push(&mut self, found: Found) {
        if found.begin >= found.end {
            return;
        }
        match self.found.last_mut() {
            Some(last) if last.end == found.begin && last.rule == found.rule && last.section == found.section => {
                last.end = found.end;
            }
            _ => self.found.push(found),
        }
    }

    /// Each kind of gap is told once; the first of its kind says what was wrong.
    fn note(&mut self, gap: Gap) {
        if !self.gaps.iter().any(|known| std::mem::discriminant(known) == std::mem::discriminant(&gap)) {
            self.gaps.push(gap);
        }
    }

    /// The rows of all code in `code`, and what is missing in them. What nothing was said of goes by the frame pointer.
    pub fn finish(mut self, code: &[CodeRange]) -> (Vec<Row>, Vec<Gap>) {
        let found = std::mem::take(&mut self.found);
        let mut placed: Vec<_> = found.into_iter().filter_map(|found| place(found, code)).collect();
        if code.iter().any(|range| file_range(range).is_none()) {
            self.note(Gap::TooLarge);
        }
        placed.sort_by_key(|(at, found)| (at.start, found.section));
        let mut rows: Vec<Row> = Vec::with_capacity(placed.len());
        let mut push = |offset: u32, rule: Packed| match rows.last_mut() {
            Some(last) if last.rule() == rule => {}
            Some(last) if last.offset() == offset => *last = Row::new(offset, rule),
            _ => rows.push(Row::new(offset, rule)),
        };
        let mut done: Option<(u32, u8)> = None;
        for (at, found) in placed {
            let mut begin = at.start;
            match done {
                None => push(begin & !0 << PAGE_BITS, Packed::FRAME_POINTER),
                // What an earlier section said stays.
                Some((end, section)) if section < found.section => begin = begin.max(end),
                Some(_) => {}
            }
            if begin >= at.end {
                continue;
            }
            if let Some((end, _)) = done
                && u64::from(begin) >= u64::from(end) + FILLING
            {
                push(end, Packed::FRAME_POINTER);
            }
            push(begin, found.rule);
            done = Some((at.end, found.section));
        }
        if let Some((end, _)) = done {
            push(end, Packed::FRAME_POINTER);
        }
        (rows, self.gaps)
    }
}

/// Where it stands in the file; `None` if it lies in no code.
fn place(found: Found, code: &[CodeRange]) -> Option<(Range<u32>, Found)> {
    let range = code.iter().find(|range| found.begin.wrapping_sub(range.address) < range.size)?;
    let at = file_range(range)?;
    let begin = u32::try_from(found.begin - range.address).ok()?.checked_add(at.start)?;
    let length = u32::try_from(found.end - found.begin).unwrap_or(u32::MAX);
    Some((begin..begin.saturating_add(length).min(at.end), found))
}

/// Offsets of a stretch of code; `None` if they do not have 32 bits.
fn file_range(range: &CodeRange) -> Option<Range<u32>> {
    let end = range.offset.checked_add(range.size)?;
    Some(u32::try_from(range.offset).ok()?..u32::try_from(end).ok()?)
}
