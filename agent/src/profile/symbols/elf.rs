//! The headers of an ELF file, read with bounds, from a file that may be damaged, hostile, huge or shortened at any
//! moment: nothing of it is mapped. Knows no symbols.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use object::{
    LittleEndian as LE,
    elf::{
        ELFCLASS64, ELFDATA2LSB, ELFMAG, FileHeader64, NT_GNU_BUILD_ID, PF_X, PT_LOAD, ProgramHeader64, SHF_COMPRESSED,
        SHN_UNDEF, SHT_NOBITS, SectionHeader64, Sym64,
    },
    pod,
};
use thiserror::Error;

/// Headers that are looked at; compilers that give each function a section stay below.
const HEADERS: u64 = 100_000;
/// Bytes of sections' names that are looked at.
const NAME_BYTES: u64 = 1 << 20;
/// Bytes of a table of symbols that is searched for one.
const SYMBOL_BYTES: u64 = 64 << 20;
/// Bytes of a note that are looked at.
const NOTE_BYTES: u64 = 4096;

/// Why a file cannot be understood.
#[derive(Debug, Error)]
pub enum ElfError {
    /// The system.
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    /// Not the magic bytes, or a header that ends early.
    #[error("it is no ELF file")]
    NotElf,
    /// 32 bits, or the bytes the other way round.
    #[error("it is no 64-bit ELF file of this machine's byte order")]
    OtherMachine,
    /// Tables that do not fit into the file or are larger than any compiler makes them.
    #[error("its tables are damaged")]
    Damaged,
}

/// An ELF file's headers.
#[derive(Debug)]
pub struct Elf<'f> {
    file: &'f File,
    /// The file's header.
    pub header: FileHeader64<LE>,
    segments: Vec<ProgramHeader64<LE>>,
    sections: Vec<SectionHeader64<LE>>,
    names: Vec<u8>,
}

/// One section.
#[derive(Clone, Copy, Debug)]
pub struct Section<'e> {
    /// Its name; what is no UTF-8 is an empty one.
    pub name: &'e str,
    /// Its header, as it stands in the file.
    pub header: &'e SectionHeader64<LE>,
}

/// A part of the file that is mapped.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes in the file.
    pub length: u64,
    /// Where it begins, as the file's symbols count addresses.
    pub address: u64,
    /// Whether it may be executed.
    pub is_code: bool,
}

impl Section<'_> {
    /// Where its bytes stand: offset and length in the file. None for one without bytes.
    pub fn range(&self) -> Option<(u64, u64)> {
        let header = self.header;
        (header.sh_type.get(LE) != SHT_NOBITS).then(|| (header.sh_offset.get(LE), header.sh_size.get(LE)))
    }

    /// Whether its bytes are packed.
    pub fn is_packed(&self) -> bool {
        self.header.sh_flags.get(LE) & u64::from(SHF_COMPRESSED) != 0
    }
}

impl<'f> Elf<'f> {
    /// Reads the headers.
    ///
    /// # Errors
    /// If it is no such file or its tables are damaged.
    pub fn read(file: &'f File) -> Result<Self, ElfError> {
        let header: FileHeader64<LE> = one(&bytes(file, 0, size_of::<FileHeader64<LE>>() as u64).map_err(not_elf)?)?;
        if header.e_ident.magic != ELFMAG {
            return Err(ElfError::NotElf);
        }
        if header.e_ident.class != ELFCLASS64 || header.e_ident.data != ELFDATA2LSB {
            return Err(ElfError::OtherMachine);
        }
        let segments = table(file, header.e_phoff.get(LE), u64::from(header.e_phnum.get(LE)))?;
        let at = header.e_shoff.get(LE);
        let mut count = u64::from(header.e_shnum.get(LE));
        let mut names_at = u32::from(header.e_shstrndx.get(LE));
        // With more than fit into these fields, the first section says how many (System V ABI, "ELF header").
        if at != 0 && (count == 0 || names_at == 0xffff) {
            let first: Vec<SectionHeader64<LE>> = table(file, at, 1)?;
            let first = first.first().ok_or(ElfError::Damaged)?;
            count = if count == 0 { first.sh_size.get(LE) } else { count };
            names_at = if names_at == 0xffff { first.sh_link.get(LE) } else { names_at };
        }
        // What runs needs no sections: without them there is still all that is needed to tell where it is mapped.
        let sections: Vec<SectionHeader64<LE>> = if at == 0 { Vec::new() } else { table(file, at, count)? };
        let names = match usize::try_from(names_at).ok().and_then(|at| sections.get(at)) {
            Some(header) => {
                let length = header.sh_size.get(LE).min(NAME_BYTES);
                bytes(file, header.sh_offset.get(LE), length).unwrap_or_default()
            }
            None => Vec::new(),
        };
        Ok(Self { file, header, segments, sections, names })
    }

    /// Its sections.
    pub fn sections(&self) -> impl Iterator<Item = Section<'_>> {
        self.sections.iter().map(|header| Section { name: self.name(header), header })
    }

    /// The section of that name.
    pub fn section(&self, name: &str) -> Option<Section<'_>> {
        self.sections().find(|section| section.name == name)
    }

    /// The section of that number.
    pub fn section_at(&self, index: u32) -> Option<Section<'_>> {
        let header = self.sections.get(usize::try_from(index).ok()?)?;
        Some(Section { name: self.name(header), header })
    }

    fn name(&self, header: &SectionHeader64<LE>) -> &str {
        let at = usize::try_from(header.sh_name.get(LE)).unwrap_or(usize::MAX);
        let rest = self.names.get(at..).unwrap_or_default();
        let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
        str::from_utf8(name).unwrap_or_default()
    }

    /// What is mapped of it when it runs.
    pub fn loaded(&self) -> impl Iterator<Item = Segment> {
        self.segments.iter().filter(|segment| segment.p_type.get(LE) == PT_LOAD).map(|segment| Segment {
            offset: segment.p_offset.get(LE),
            length: segment.p_filesz.get(LE),
            address: segment.p_vaddr.get(LE),
            is_code: segment.p_flags.get(LE) & PF_X != 0,
        })
    }

    /// The address, as the file's symbols count them, of what is mapped to be executed at an offset.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        // A mapping begins on a page, a segment anywhere within it.
        let code = self.loaded().filter(|segment| segment.is_code);
        let mut code =
            code.filter(|segment| (segment.offset & !0xfff..segment.offset + segment.length).contains(&offset));
        code.next().map(|segment| segment.address.wrapping_sub(segment.offset).wrapping_add(offset))
    }

    /// The bytes of a section, unpacked if need be, up to a limit.
    ///
    /// # Errors
    /// If they do not stand in the file, are more than the limit, or cannot be unpacked.
    pub fn data(&self, section: &Section<'_>, limit: u64) -> Result<Vec<u8>, ElfError> {
        let (at, length) = section.range().ok_or(ElfError::Damaged)?;
        if length > limit {
            return Err(ElfError::Damaged);
        }
        let raw = bytes(self.file, at, length)?;
        if section.is_packed() { super::unpack::unpack(&raw, limit) } else { Ok(raw) }
    }

    /// The address of a symbol, as the file counts addresses, from the table that others link against or the full one.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        [".dynsym", ".symtab"].into_iter().find_map(|table| {
            let section = self.section(table)?;
            let names = self.data(&self.section_at(section.header.sh_link.get(LE))?, SYMBOL_BYTES).ok()?;
            let table = self.data(&section, SYMBOL_BYTES).ok()?;
            let symbols = pod::slice_from_all_bytes::<Sym64<LE>>(&table).ok()?;
            let found = symbols.iter().find(|symbol| {
                let at = usize::try_from(symbol.st_name.get(LE)).unwrap_or(usize::MAX);
                let rest = names.get(at..).and_then(|rest| rest.strip_prefix(name.as_bytes()));
                symbol.st_shndx.get(LE) != SHN_UNDEF && rest.is_some_and(|rest| rest.first() == Some(&0))
            });
            found.map(|symbol| symbol.st_value.get(LE))
        })
    }

    /// The build id in `.note.gnu.build-id`.
    pub fn build_id(&self) -> Option<Box<[u8]>> {
        let note = self.data(&self.section(".note.gnu.build-id")?, NOTE_BYTES).ok()?;
        let word = |at: usize| Some(u32::from_le_bytes(note.get(at..at + 4)?.try_into().ok()?));
        let (name, length, kind) = (word(0)?, word(4)?, word(8)?);
        let id = note.get(16..16_usize.checked_add(usize::try_from(length).ok()?)?)?;
        (name == 4 && kind == NT_GNU_BUILD_ID && note.get(12..16)? == b"GNU\0").then(|| Box::from(id))
    }

    /// The file it was read from.
    pub fn file(&self) -> &'f File {
        self.file
    }
}

fn not_elf(error: ElfError) -> ElfError {
    match error {
        ElfError::Damaged => ElfError::NotElf,
        other => other,
    }
}

/// Reads exactly these bytes.
fn bytes(file: &File, at: u64, length: u64) -> Result<Vec<u8>, ElfError> {
    let end = at.checked_add(length).ok_or(ElfError::Damaged)?;
    if end > file.metadata()?.len() {
        return Err(ElfError::Damaged);
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| ElfError::Damaged)?];
    file.read_exact_at(&mut bytes, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ElfError::Damaged,
        _ => ElfError::Read(error),
    })?;
    Ok(bytes)
}

fn table<T: pod::Pod>(file: &File, at: u64, count: u64) -> Result<Vec<T>, ElfError> {
    if count > HEADERS {
        return Err(ElfError::Damaged);
    }
    let bytes = bytes(file, at, count * size_of::<T>() as u64)?;
    let items = pod::slice_from_all_bytes::<T>(&bytes).map_err(|()| ElfError::Damaged)?;
    Ok(items.to_vec())
}

fn one<T: pod::Pod>(bytes: &[u8]) -> Result<T, ElfError> {
    pod::from_bytes::<T>(bytes).map(|(value, _)| *value).map_err(|()| ElfError::NotElf)
}
