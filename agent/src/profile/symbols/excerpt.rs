//! An excerpt of a file of code: the sections that names and lines are read from, copied into an ELF file of our own that
//! only memory holds. The reader of symbols maps its files: if one of a process were shortened meanwhile, the agent
//! would die of it; of an excerpt it knows beforehand how much memory it takes, and nobody else can change it.

use std::{
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::FileExt as _,
    },
    path::PathBuf,
};

use object::{
    LittleEndian as LE, U16, U32, U64,
    elf::{
        ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_X86_64, ET_DYN, EV_CURRENT, FileHeader64, Ident, SHT_NOTE, SHT_NULL,
        SHT_PROGBITS, SHT_STRTAB, SectionHeader64, Sym64,
    },
    pod,
};
use rustix::fs::{MemfdFlags, SealFlags};

use super::{
    elf::{Elf, ElfError, Section},
    unpack,
};

/// Bytes of symbols and their names that are taken from one file.
pub const MOST_SYMBOL_BYTES: u64 = 64 << 20;
/// Sections of debug information that say names and lines.
const DEBUG_SECTIONS: &[&str] = &[
    ".debug_abbrev",
    ".debug_addr",
    ".debug_aranges",
    ".debug_info",
    ".debug_line",
    ".debug_line_str",
    ".debug_ranges",
    ".debug_rnglists",
    ".debug_str",
    ".debug_str_offsets",
    ".debug_types",
];
const CHUNK_BYTES: usize = 256 << 10;

/// A file that only memory holds.
#[derive(Debug)]
pub struct Excerpt {
    file: File,
    /// Its size: what memory it takes.
    pub bytes: u64,
    /// Symbols in it.
    pub symbols: u64,
    /// Whether it has debug information.
    pub has_debug: bool,
    /// Whether symbols were left out for their size.
    pub lacks_symbols: bool,
}

/// What an excerpt is made from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'s> {
    /// The file that is mapped.
    pub code: &'s Elf<'s>,
    /// The file with what was stripped from it.
    pub debug: Option<&'s Elf<'s>>,
    /// The excerpt of what several of such files share, and its build id.
    pub shared: Option<(&'s Excerpt, &'s [u8])>,
    /// Most bytes of debug information. If there is more, none is taken.
    pub debug_bytes: u64,
}

impl Excerpt {
    /// Copies what says names and lines. What is damaged or too large is left out.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(sources: &Sources<'_>) -> io::Result<Self> {
        let mut writer = Writer::new("symbols")?;
        let own = sources.code;
        // Whoever strips a file leaves the symbols that others link against.
        let symbols = [Some(own), sources.debug].into_iter().flatten().find(|elf| elf.section(".symtab").is_some());
        if let Some(elf) = symbols {
            writer.symbols(elf, ".symtab", ".strtab")?;
        }
        writer.symbols(own, ".dynsym", ".dynstr")?;
        let with_lines =
            [sources.debug, Some(own)].into_iter().flatten().find(|elf| elf.section(".debug_info").is_some());
        let mut has_debug = false;
        if let Some(elf) = with_lines {
            has_debug = writer.debug(elf, sources.debug_bytes)?;
            if let (true, Some((shared, id))) = (has_debug, sources.shared) {
                let mut link = shared.path().into_os_string().into_encoded_bytes();
                link.push(0);
                link.extend_from_slice(id);
                writer.section(".gnu_debugaltlink", SHT_PROGBITS, 0, &link)?;
            }
        }
        writer.finish(has_debug)
    }

    /// Copies the debug information that several files share.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn of_shared(elf: &Elf<'_>, debug_bytes: u64) -> io::Result<Self> {
        let mut writer = Writer::new("symbols")?;
        let has_debug = writer.debug(elf, debug_bytes)?;
        let note = elf.section(".note.gnu.build-id").and_then(|note| elf.data(&note, CHUNK_BYTES as u64).ok());
        if let Some(note) = note {
            writer.section(".note.gnu.build-id", SHT_NOTE, 0, &note)?;
        }
        writer.finish(has_debug)
    }

    /// A path that leads to it, in this process alone.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }
}

/// Writes section after section, and the headers last.
struct Writer {
    file: File,
    at: u64,
    headers: Vec<SectionHeader64<LE>>,
    names: Vec<u8>,
    symbols: u64,
    lacks_symbols: bool,
}

impl Writer {
    fn new(name: &str) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create(name, flags)?);
        let mut writer = Self { file, at: 0, headers: Vec::new(), names: vec![0], symbols: 0, lacks_symbols: false };
        writer.put(&[0; size_of::<FileHeader64<LE>>()])?;
        writer.header("", SHT_NULL, 0, 0, 0);
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn header(&mut self, name: &str, kind: u32, entry_bytes: u64, offset: u64, length: u64) {
        let name_at = if name.is_empty() { 0 } else { u32::try_from(self.names.len()).unwrap_or(0) };
        if name_at != 0 {
            self.names.extend_from_slice(name.as_bytes());
            self.names.push(0);
        }
        let next = u32::try_from(self.headers.len() + 1).unwrap_or(0);
        self.headers.push(SectionHeader64 {
            sh_name: U32::new(LE, name_at),
            sh_type: U32::new(LE, kind),
            sh_flags: U64::new(LE, 0),
            sh_addr: U64::new(LE, 0),
            sh_offset: U64::new(LE, offset),
            sh_size: U64::new(LE, length),
            // The names of symbols stand in the section behind theirs; what has entries are symbols.
            sh_link: U32::new(LE, if entry_bytes > 0 { next } else { 0 }),
            sh_info: U32::new(LE, 0),
            sh_addralign: U64::new(LE, ALIGN),
            sh_entsize: U64::new(LE, entry_bytes),
        });
    }

    /// Begins a section where readers expect their tables to stand.
    fn align(&mut self) -> io::Result<u64> {
        let gap = self.at.next_multiple_of(ALIGN) - self.at;
        let zeros = [0; ALIGN as usize];
        self.put(zeros.get(..usize::try_from(gap).unwrap_or(0)).unwrap_or_default())?;
        Ok(self.at)
    }

    fn section(&mut self, name: &str, kind: u32, entry_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = self.align()?;
        self.put(bytes)?;
        self.header(name, kind, entry_bytes, offset, bytes.len() as u64);
        Ok(())
    }

    /// Copies a section as it is, piece by piece. What the file no longer has are zeros.
    fn copy(&mut self, elf: &Elf<'_>, section: &Section<'_>, kind: u32, entry_bytes: u64) -> io::Result<()> {
        let (mut from, length) = section.range().unwrap_or_default();
        let offset = self.align()?;
        let mut piece = vec![0; CHUNK_BYTES];
        let mut left = length;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let Some(piece) = piece.get_mut(..want) else { break };
            if elf.file().read_exact_at(piece, from).is_err() {
                piece.fill(0);
            }
            self.put(piece)?;
            from += want as u64;
            left -= want as u64;
        }
        self.header(section.name, kind, entry_bytes, offset, length);
        Ok(())
    }

    /// Copies a table of symbols and the names that it says are its own.
    fn symbols(&mut self, elf: &Elf<'_>, table: &str, names: &str) -> io::Result<()> {
        const ENTRY_BYTES: u64 = size_of::<Sym64<LE>>() as u64;
        let Some(table) = elf.section(table) else { return Ok(()) };
        let names = elf.section_at(table.header.sh_link.get(LE)).filter(|linked| linked.name == names);
        let Some(names) = names else { return Ok(()) };
        if table.is_packed() || names.is_packed() {
            return Ok(());
        }
        let (Some(length), Some(name_bytes)) = (whole(elf, &table), whole(elf, &names)) else { return Ok(()) };
        if length % ENTRY_BYTES != 0 {
            return Ok(());
        }
        if length.max(name_bytes) > MOST_SYMBOL_BYTES {
            self.lacks_symbols = true;
            return Ok(());
        }
        self.copy(elf, &table, table.header.sh_type.get(LE), ENTRY_BYTES)?;
        self.copy(elf, &names, SHT_STRTAB, 0)?;
        self.symbols += length / ENTRY_BYTES;
        Ok(())
    }

    /// Copies debug information, all or nothing; says whether there is any.
    fn debug(&mut self, elf: &Elf<'_>, limit: u64) -> io::Result<bool> {
        let sections: Vec<Section<'_>> =
            elf.sections().filter(|section| DEBUG_SECTIONS.contains(&section.name)).collect();
        let lengths = sections.iter().map(|section| unpacked_length(elf, section, limit));
        let Some(total) = lengths.sum::<Option<u64>>() else { return Ok(false) };
        if total == 0 || total > limit {
            return Ok(false);
        }
        for section in &sections {
            if !section.is_packed() {
                self.copy(elf, section, SHT_PROGBITS, 0)?;
                continue;
            }
            match elf.data(section, limit) {
                Ok(bytes) => self.section(section.name, SHT_PROGBITS, 0, &bytes)?,
                Err(ElfError::Read(why)) => return Err(why),
                // What refers to it will be found missing.
                Err(_) => {}
            }
        }
        Ok(true)
    }

    fn finish(mut self, has_debug: bool) -> io::Result<Excerpt> {
        let names_at = self.align()?;
        let names_index = self.headers.len();
        self.header(".shstrtab", SHT_STRTAB, 0, names_at, 0);
        let names = std::mem::take(&mut self.names);
        self.put(&names)?;
        if let Some(header) = self.headers.last_mut() {
            header.sh_size = U64::new(LE, names.len() as u64);
        }
        let headers_at = self.align()?;
        let headers = std::mem::take(&mut self.headers);
        self.put(pod::bytes_of_slice(&headers))?;
        let number = |count: usize| U16::new(LE, u16::try_from(count).unwrap_or(0));
        let header = FileHeader64 {
            e_ident: Ident {
                magic: ELFMAG,
                class: ELFCLASS64,
                data: ELFDATA2LSB,
                version: EV_CURRENT,
                os_abi: 0,
                abi_version: 0,
                padding: [0; 7],
            },
            e_type: U16::new(LE, ET_DYN),
            e_machine: U16::new(LE, EM_X86_64),
            e_version: U32::new(LE, u32::from(EV_CURRENT)),
            e_entry: U64::new(LE, 0),
            e_phoff: U64::new(LE, 0),
            e_shoff: U64::new(LE, headers_at),
            e_flags: U32::new(LE, 0),
            e_ehsize: number(size_of::<FileHeader64<LE>>()),
            e_phentsize: number(0),
            e_phnum: number(0),
            e_shentsize: number(size_of::<SectionHeader64<LE>>()),
            e_shnum: number(headers.len()),
            e_shstrndx: number(names_index),
        };
        self.file.write_all_at(pod::bytes_of(&header), 0)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(self.file.as_fd(), seals)?;
        let (symbols, lacks_symbols) = (self.symbols, self.lacks_symbols);
        Ok(Excerpt { file: self.file, bytes: self.at, symbols, has_debug, lacks_symbols })
    }
}

const ALIGN: u64 = 16;

/// The length of a section that lies within its file.
fn whole(elf: &Elf<'_>, section: &Section<'_>) -> Option<u64> {
    let (at, length) = section.range()?;
    let end = at.checked_add(length)?;
    (end <= elf.file().metadata().ok()?.len()).then_some(length)
}

/// The length of a section as it will be copied; none if it is damaged or above the limit.
fn unpacked_length(elf: &Elf<'_>, section: &Section<'_>, limit: u64) -> Option<u64> {
    let stored = whole(elf, section).filter(|length| *length <= limit)?;
    if !section.is_packed() {
        return Some(stored);
    }
    let mut head = [0; 24];
    elf.file().read_exact_at(&mut head, section.range()?.0).ok()?;
    unpack::unpacked_bytes(&head)
}
