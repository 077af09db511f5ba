//! One file of code, ready to be asked for names: its excerpt, and blazesym reading it. Each has a reader of its own, so
//! that all memory of a file goes when it goes. Knows nothing of caches and processes.

use std::{
    borrow::Cow,
    fs::File,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
};

use blazesym::symbolize::{
    CodeInfo, Input, Sym, Symbolized, Symbolizer as Reader,
    source::{Elf as ElfSource, Source},
};

use super::{
    super::code::Place,
    debug_file,
    elf::{Elf, ElfError},
    excerpt::{Excerpt, MOST_SYMBOL_BYTES, Sources},
    names::Names,
    words,
};
use crate::model::profile::{Frame, Origin};

/// Memory that the reader takes for a symbol beside the symbol itself: its place in the order of addresses.
const SYMBOL_BYTES: u64 = 16;

/// A file that can be asked.
pub struct Loaded {
    name: Arc<str>,
    /// From offsets in the file to addresses in its symbols.
    segments: Vec<Segment>,
    /// Where it steps into other files.
    linkage: Vec<Range<u64>>,
    reader: Reader,
    with_lines: Option<Source<'static>>,
    without: Source<'static>,
    /// What the reader reads from.
    excerpts: (Excerpt, Option<Excerpt>),
    /// Memory that it takes.
    pub bytes: u64,
}

struct Segment {
    offsets: Range<u64>,
    address: u64,
}

impl Loaded {
    /// Prepares a file. `debug_bytes`: debug information of more bytes is left out.
    ///
    /// # Errors
    /// If it is no ELF file of this machine, or there is no memory.
    pub fn new(file: &File, name: Arc<str>, place: &Place, debug_bytes: u64) -> Result<Self, ElfError> {
        let elf = Elf::read(file)?;
        let stripped = debug_bytes > 0 && elf.section(".debug_info").is_none();
        let debug_file = stripped.then(|| debug_file::find(&elf, place)).flatten();
        let debug = debug_file.as_ref().and_then(|debug| Elf::read(&debug.file).ok());
        let shared = debug_file.as_ref().zip(debug.as_ref()).and_then(|(file, elf)| debug_file::find_shared(elf, file));
        let shared = shared.and_then(|(file, id)| {
            let excerpt = Excerpt::of_shared(&Elf::read(&file).ok()?, debug_bytes).ok()?;
            Some((excerpt, id))
        });
        let link = shared.as_ref().map(|(excerpt, id)| (excerpt, &**id));
        let sources = Sources { code: &elf, debug: debug.as_ref(), shared: link, debug_bytes };
        let excerpt = Excerpt::new(&sources)?;
        let shared = shared.map(|(excerpt, _)| excerpt);

        let source = |debug_syms| {
            let mut source = ElfSource::new(excerpt.path());
            source.debug_syms = debug_syms;
            Source::Elf(source)
        };
        // All that it may look at is in the excerpts.
        let nowhere: [PathBuf; 0] = [];
        let reader = Reader::builder().enable_auto_reload(false).set_debug_dirs(Some(nowhere)).build();
        let linkage = elf.sections().filter(|section| section.name.starts_with(".plt"));
        let linkage = linkage.map(|section| {
            let start = section.header.sh_addr.get(object::LittleEndian);
            start..start.saturating_add(section.header.sh_size.get(object::LittleEndian))
        });
        let parts = [Some(&excerpt), shared.as_ref()].into_iter().flatten();
        Ok(Self {
            name,
            bytes: parts.map(memory).sum(),
            segments: segments(&elf),
            linkage: linkage.collect(),
            reader,
            with_lines: excerpt.has_debug.then(|| source(true)),
            without: source(false),
            excerpts: (excerpt, shared),
        })
    }

    /// The frames at each of some offsets in the file, the outermost function first; never empty. None if the file's
    /// debug information or symbols brought the reader down: it must not be used again.
    pub fn frames(&self, offsets: &[u64], names: &mut Names) -> Option<Vec<Arc<[Frame]>>> {
        let addresses: Vec<Option<u64>> = offsets.iter().map(|offset| self.address(*offset)).collect();
        // What it reads was made by anyone; a reader that panics over it is given up, with all it holds.
        let found = catch_unwind(AssertUnwindSafe(|| self.find(&addresses, names))).ok()?;
        Some(
            found
                .into_iter()
                .zip(addresses)
                .map(|(frames, address)| frames.unwrap_or_else(|| Arc::from([self.unknown(address, names)])))
                .collect(),
        )
    }

    fn find(&self, addresses: &[Option<u64>], names: &mut Names) -> Vec<Option<Arc<[Frame]>>> {
        let mut frames = vec![None; addresses.len()];
        for source in [self.with_lines.as_ref(), Some(&self.without)].into_iter().flatten() {
            let open = frames.iter().zip(addresses).enumerate().filter(|(_, (found, _))| found.is_none());
            let (open, asked): (Vec<usize>, Vec<u64>) =
                open.filter_map(|(at, (_, address))| Some((at, (*address)?))).unzip();
            if open.is_empty() {
                break;
            }
            // Damaged debug information makes the whole call fail, or single addresses.
            let Ok(found) = self.reader.symbolize(source, Input::VirtOffset(&asked)) else { continue };
            for (at, found) in open.into_iter().zip(found) {
                if let Symbolized::Sym(symbol) = found
                    && !symbol.name.is_empty()
                    && let Some(slot) = frames.get_mut(at)
                {
                    *slot = Some(self.named(&symbol, names));
                }
            }
        }
        frames
    }

    fn named(&self, symbol: &Sym<'_>, names: &mut Names) -> Arc<[Frame]> {
        let mut frame = |name: &str, code: Option<&CodeInfo<'_>>, inlined| {
            let name = match words::remark(name, &self.name) {
                Some(remark) => Cow::Owned(format!("{name}{remark}")),
                None => Cow::Borrowed(name),
            };
            let file = code.map(|code| code.to_path().to_string_lossy().into_owned()).unwrap_or_default();
            Frame {
                function: names.get(&name),
                module: Arc::clone(&self.name),
                file: names.get(&file),
                line: code.and_then(|code| code.line).unwrap_or(0),
                inlined,
                origin: Origin::User,
            }
        };
        let outer = frame(&symbol.name, symbol.code_info.as_deref(), false);
        let inner = symbol.inlined.iter().map(|inner| frame(&inner.name, inner.code_info.as_ref(), true));
        std::iter::once(outer).chain(inner).collect()
    }

    fn unknown(&self, address: Option<u64>, names: &mut Names) -> Frame {
        let in_linkage = self.linkage.iter().any(|range| address.is_some_and(|address| range.contains(&address)));
        let what = match (in_linkage, self.excerpts.0.lacks_symbols) {
            (true, _) => words::linkage_of(&self.name),
            (false, true) => words::too_many_in(&self.name, MOST_SYMBOL_BYTES),
            (false, false) => words::unknown_in(&self.name),
        };
        plain(names.get(&what), Arc::clone(&self.name), Origin::User, names)
    }

    /// None for what is never mapped.
    fn address(&self, offset: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|segment| segment.offsets.contains(&offset))?;
        segment.address.checked_add(offset - segment.offsets.start)
    }
}

/// What an excerpt takes with what the reader makes of it. Of debug information that is some two thirds of its size:
/// measured with libc's, 10 MB and 16.7 MB resident.
fn memory(excerpt: &Excerpt) -> u64 {
    let made = if excerpt.has_debug { excerpt.bytes / 3 * 2 } else { 0 };
    excerpt.bytes + made + excerpt.symbols * SYMBOL_BYTES
}

/// A frame of a name alone.
pub fn plain(function: Arc<str>, module: Arc<str>, origin: Origin, names: &mut Names) -> Frame {
    Frame { function, module, file: names.get(""), line: 0, inlined: false, origin }
}

/// Executable segments first: one page of the file may belong to two.
fn segments(elf: &Elf<'_>) -> Vec<Segment> {
    let mut segments: Vec<_> = elf.loaded().collect();
    segments.sort_by_key(|segment| !segment.is_code);
    segments
        .into_iter()
        .map(|segment| Segment {
            offsets: segment.offset..segment.offset.saturating_add(segment.length),
            address: segment.address,
        })
        .collect()
}
