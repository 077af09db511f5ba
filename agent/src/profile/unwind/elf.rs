//! Files of code: which file it is, where its code lies, and its unwind table. Reads only the parts that are needed, so that a
//! file of gigabytes costs no more than its call frame information.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use gimli::{BaseAddresses, EhFrameHdr, LittleEndian as GimliLittle, Pointer};
use object::{
    LittleEndian,
    elf::{self, FileHeader64},
    read::{
        ReadRef,
        elf::{FileHeader as _, NoteIterator, ProgramHeader as _, SectionHeader as _, SectionTable},
    },
};
use sha2::{Digest as _, Sha256};

use super::{
    CodeRange, FileTable, Gap, Identity,
    rows::{Rows, Section},
};
use crate::files::{MOST_AT_ONCE, Parts, open_regular};

type Header = FileHeader64<LittleEndian>;
type Segment = elf::ProgramHeader64<LittleEndian>;

const ENDIAN: LittleEndian = LittleEndian;
/// Bytes of code that go into a hash.
const MAX_HASHED: u64 = 64 << 20;
/// Stretches of code of one file; more than a handful has none.
const MAX_RANGES: usize = 64;
/// Longest build-id; linkers make 8 to 32 bytes.
const MAX_BUILD_ID: usize = 64;

/// Why a file has no table.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It cannot be opened or read.
    #[error("cannot read it: {0}")]
    Unreadable(#[from] io::Error),
    /// Its headers make no sense.
    #[error("it is no ELF file that can be read: {0}")]
    Headers(#[from] object::Error),
    /// It is made for other processors.
    #[error("it is not for x86-64 (machine {machine})")]
    Machine {
        /// `e_machine`.
        machine: u16,
    },
    /// Nothing of it is executed.
    #[error("it has no code")]
    NoCode,
}

/// An open file of code.
#[derive(Debug)]
pub struct CodeFile {
    file: File,
    identity: Identity,
    code: Vec<CodeRange>,
}

impl CodeFile {
    /// Opens a file and reads its headers.
    ///
    /// # Errors
    /// See [`Unfit`].
    pub fn open(path: &Path) -> Result<Self, Unfit> {
        Self::of(open_regular(path)?)
    }

    /// Reads the headers of an open file.
    ///
    /// # Errors
    /// See [`Unfit`].
    pub fn of(file: File) -> Result<Self, Unfit> {
        let (identity, code) = {
            let parts = Parts::of(&file);
            let image = Image::of_program(&parts)?;
            let identity = match image.build_id() {
                Some(build_id) => Identity::BuildId(build_id),
                None => hash(&image.code, |at, bytes| file.read_exact_at(bytes, at))?,
            };
            (identity, image.code)
        };
        Ok(Self { file, identity, code })
    }

    /// What tells it from other files.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where its code lies.
    pub fn code(&self) -> &[CodeRange] {
        &self.code
    }

    /// Makes its table. If it has no call frame information, that of its debug file is taken, which is looked for as debuggers
    /// do, under `debug_folder` (usually `/usr/lib/debug`) and beside `path`.
    ///
    /// # Errors
    /// If its headers have become unreadable since.
    pub fn table(&self, path: Option<&Path>, debug_folder: &Path) -> Result<FileTable, Unfit> {
        let parts = Parts::of(&self.file);
        let image = Image::of_program(&parts)?;
        let mut rows = Rows::new();
        let mut unread = image.add_to(&mut rows);
        if unread == Some(Gap::Nothing) {
            let places = debug_places(&self.identity, image.debug_link().as_deref(), path, debug_folder);
            if let Some(gap) = places.iter().find_map(|place| add_debug_file(place, &image, &mut rows)) {
                unread = gap;
            }
        }
        let (rows, gaps) = rows.finish(&self.code);
        Ok(FileTable::new(self.identity.clone(), rows, gaps.into_iter().chain(unread).collect()))
    }
}

/// Makes the table of a file that lies in memory, such as the vDSO.
///
/// # Errors
/// See [`Unfit`].
pub fn table_of_bytes(bytes: &[u8]) -> Result<FileTable, Unfit> {
    let image = Image::of_program(bytes)?;
    let identity = match image.build_id() {
        Some(build_id) => Identity::BuildId(build_id),
        None => hash(&image.code, |at, part| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let found = bytes.get(at..).and_then(|rest| rest.get(..part.len()));
            part.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })?,
    };
    let mut rows = Rows::new();
    let unread = image.add_to(&mut rows);
    let (rows, gaps) = rows.finish(&image.code);
    Ok(FileTable::new(identity, rows, gaps.into_iter().chain(unread).collect()))
}

/// The headers of a file.
struct Image<'data, R: ReadRef<'data>> {
    data: R,
    segments: &'data [Segment],
    sections: SectionTable<'data, Header, R>,
    code: Vec<CodeRange>,
}

impl<'data, R: ReadRef<'data>> Image<'data, R> {
    fn of(data: R) -> Result<Self, Unfit> {
        let header = Header::parse(data)?;
        header.endian()?;
        let machine = header.e_machine(ENDIAN);
        if machine != elf::EM_X86_64 {
            return Err(Unfit::Machine { machine });
        }
        let segments = header.program_headers(ENDIAN, data)?;
        // Sections are not needed to run a program; some have none, or broken ones.
        let sections = header.sections(ENDIAN, data).unwrap_or_default();
        let code = segments
            .iter()
            .filter(|segment| segment.p_type(ENDIAN) == elf::PT_LOAD && segment.p_flags(ENDIAN) & elf::PF_X != 0);
        let code = code.take(MAX_RANGES).map(range).collect();
        Ok(Self { data, segments, sections, code })
    }

    /// The headers of a file that can be run; a debug file's say where its program's code is and have none.
    fn of_program(data: R) -> Result<Self, Unfit> {
        let image = Self::of(data)?;
        if image.code.iter().all(|range| range.size == 0) { Err(Unfit::NoCode) } else { Ok(image) }
    }

    fn build_id(&self) -> Option<Vec<u8>> {
        let in_segments = self.segments.iter().filter_map(|segment| segment.notes(ENDIAN, self.data).ok()?);
        let in_sections = self.sections.iter().filter_map(|section| section.notes(ENDIAN, self.data).ok()?);
        in_segments.chain(in_sections).find_map(build_id_among)
    }

    fn debug_link(&self) -> Option<PathBuf> {
        let (bytes, _) = self.section(b".gnu_debuglink").ok()??;
        let name = bytes.split(|&byte| byte == 0).next()?;
        let name = Path::new(std::str::from_utf8(name).ok()?);
        // Nothing but a name: no file elsewhere is meant.
        (name.file_name() == Some(name.as_os_str())).then(|| name.to_owned())
    }

    /// A section's bytes and address; an error if it is there but cannot be read.
    fn section(&self, name: &'static [u8]) -> Result<Option<(&'data [u8], u64)>, ()> {
        let Some((_, section)) = self.sections.section_by_name(ENDIAN, name) else { return Ok(None) };
        if section.sh_type(ENDIAN) == elf::SHT_NOBITS || section.sh_size(ENDIAN) == 0 {
            return Ok(None);
        }
        if section.sh_flags(ENDIAN) & u64::from(elf::SHF_COMPRESSED) != 0 {
            return Err(());
        }
        let bytes = section.data(ENDIAN, self.data).map_err(drop)?;
        Ok(Some((bytes, section.sh_addr(ENDIAN))))
    }

    fn address_of(&self, name: &'static [u8]) -> u64 {
        self.sections.section_by_name(ENDIAN, name).map_or(0, |(_, section)| section.sh_addr(ENDIAN))
    }

    /// Adds all call frame information that there is; what could not be read, or that there is none.
    fn add_to(&self, rows: &mut Rows) -> Option<Gap> {
        let mut gap = None;
        let mut any = false;
        let bases = || BaseAddresses::default().set_text(self.address_of(b".text")).set_got(self.address_of(b".got"));
        let eh_frame = match self.section(b".eh_frame") {
            Ok(None) => self.eh_frame_by_header(),
            Ok(found) => found,
            Err(()) => {
                gap = Some(Gap::Unread(".eh_frame".to_owned()));
                None
            }
        };
        if let Some((bytes, address)) = eh_frame {
            rows.add(&Section::EhFrame { bytes, bases: bases().set_eh_frame(address) }, 0);
            any = true;
        }
        match self.section(b".debug_frame") {
            Ok(None) => {}
            Ok(Some((bytes, _))) => {
                rows.add(&Section::DebugFrame(bytes), 1);
                any = true;
            }
            Err(()) => gap = Some(Gap::Unread(".debug_frame".to_owned())),
        }
        gap.or_else(|| (!any).then_some(Gap::Nothing))
    }

    /// `.eh_frame` of a file without sections: its header, which the program itself needs, says where it begins.
    fn eh_frame_by_header(&self) -> Option<(&'data [u8], u64)> {
        let header = self.segments.iter().find(|segment| segment.p_type(ENDIAN) == elf::PT_GNU_EH_FRAME)?;
        let address = header.p_vaddr(ENDIAN);
        let bases = BaseAddresses::default().set_eh_frame_hdr(address);
        let bytes = header.data(ENDIAN, self.data).ok()?;
        let parsed = EhFrameHdr::new(bytes, GimliLittle).parse(&bases, 8).ok()?;
        let Pointer::Direct(begin) = parsed.eh_frame_ptr() else { return None };
        let loaded = self.segments.iter().filter(|segment| segment.p_type(ENDIAN) == elf::PT_LOAD).map(range);
        let holds = loaded.into_iter().find(|range| begin.wrapping_sub(range.address) < range.size)?;
        let skipped = begin - holds.address;
        // Up to the end of what is loaded with it; it has an end of its own.
        let size = (holds.size - skipped).min(MOST_AT_ONCE);
        Some((self.data.read_bytes_at(holds.offset.checked_add(skipped)?, size).ok()?, begin))
    }
}

fn range(segment: &Segment) -> CodeRange {
    CodeRange { address: segment.p_vaddr(ENDIAN), size: segment.p_filesz(ENDIAN), offset: segment.p_offset(ENDIAN) }
}

fn build_id_among(mut notes: NoteIterator<'_, Header>) -> Option<Vec<u8>> {
    while let Ok(Some(note)) = notes.next() {
        if note.name() == elf::ELF_NOTE_GNU && note.n_type(ENDIAN) == elf::NT_GNU_BUILD_ID {
            let id = note.desc();
            // Some builds put zeros there, the same for all files.
            let says_something = id.iter().any(|&byte| byte != 0) && id.len() <= MAX_BUILD_ID;
            return says_something.then(|| id.to_vec());
        }
    }
    None
}

/// A hash of where code lies, and of what it is as far as [`MAX_HASHED`].
fn hash(code: &[CodeRange], read: impl Fn(u64, &mut [u8]) -> io::Result<()>) -> io::Result<Identity> {
    const CHUNK: usize = 1 << 18;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut left = MAX_HASHED;
    for range in code {
        for number in [range.address, range.size, range.offset] {
            hash.update(number.to_le_bytes());
        }
        let (mut at, mut size) = (range.offset, range.size.min(left));
        left -= size;
        while size > 0 {
            let length = CHUNK.min(usize::try_from(size).unwrap_or(CHUNK));
            let Some(part) = buffer.get_mut(..length) else { break };
            read(at, part)?;
            hash.update(&*part);
            at = at.saturating_add(length as u64);
            size -= length as u64;
        }
    }
    let mut first = [0; 20];
    first.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    Ok(Identity::Hash(first))
}

/// Where a debug file may be, as gdb's manual has it ("Debugging Information in Separate Files").
fn debug_places(identity: &Identity, link: Option<&Path>, path: Option<&Path>, debug_folder: &Path) -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Identity::BuildId(id) = identity
        && let Some((first, rest)) = id.split_first()
    {
        let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
        places.push(debug_folder.join(".build-id").join(format!("{first:02x}")).join(format!("{rest}.debug")));
    }
    if let (Some(link), Some(folder)) = (link, path.and_then(Path::parent)) {
        places.push(folder.join(link));
        places.push(folder.join(".debug").join(link));
        places.push(debug_folder.join(folder.strip_prefix("/").unwrap_or(folder)).join(link));
    }
    places
}

/// `None` if it is not there or of another program; what is missing in it.
fn add_debug_file<'data>(
    place: &Path,
    program: &Image<'data, impl ReadRef<'data>>,
    rows: &mut Rows,
) -> Option<Option<Gap>> {
    let parts = Parts::of(open_regular(place).ok()?);
    let image = Image::of(&parts).ok()?;
    // Its segments say where the program's are loaded; where they stand in the file is the program's own affair.
    let addresses = |code: &[CodeRange]| code.iter().map(|range| range.address).collect::<Vec<_>>();
    let same = match program.build_id() {
        Some(id) => image.build_id() == Some(id),
        None => addresses(&image.code) == addresses(&program.code),
    };
    same.then(|| image.add_to(rows)).filter(|gap| *gap != Some(Gap::Nothing))
}
