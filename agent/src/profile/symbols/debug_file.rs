//! Where what was stripped from a file of code is kept: by build id or by `.gnu_debuglink`, in the root of the process
//! that has the file, or in our own if that is gone. Opens files, does not read names from them.

use std::{
    ffi::OsStr,
    fs::File,
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::{super::code::Place, elf::Elf};
use crate::files::open_within;

/// Where distributions put debug information.
const FOLDER: &str = "/usr/lib/debug";
/// Bytes of a link to another file.
const LINK_BYTES: u64 = 8192;

/// A file of debug information, and where it lies in its root.
#[derive(Debug)]
pub struct DebugFile {
    /// It.
    pub file: File,
    root: PathBuf,
    path: PathBuf,
}

/// Finds what was stripped from a file. Only what bears the same build id, or without one has the checksum that the
/// link gives, is taken.
pub fn find(code: &Elf<'_>, place: &Place) -> Option<DebugFile> {
    let id = code.build_id();
    let link = link(code);
    roots(place).find_map(|root| {
        let by_id = id.as_deref().and_then(by_build_id).into_iter().map(|path| (path, None));
        let by_link = link.iter().flat_map(|(name, sum)| link_paths(place, name).map(|path| (path, Some(*sum))));
        by_id.chain(by_link).find_map(|(path, sum)| {
            let file = open_within(root, &path).ok()?;
            let elf = Elf::read(&file).ok()?;
            let belongs = match (&id, elf.build_id(), sum) {
                (Some(own), Some(other), _) => *own == other,
                (_, _, Some(sum)) => checksum(&file) == Some(sum),
                _ => false,
            };
            belongs.then(|| DebugFile { file, root: root.to_owned(), path })
        })
    })
}

/// Finds the file that a file of debug information shares with others (`.gnu_debugaltlink`, as dwz writes it), and its
/// build id.
pub fn find_shared(elf: &Elf<'_>, own: &DebugFile) -> Option<(File, Box<[u8]>)> {
    let link = elf.data(&elf.section(".gnu_debugaltlink")?, LINK_BYTES).ok()?;
    let end = memchr::memchr(0, &link)?;
    let (name, id) = (link.get(..end)?, link.get(end + 1..)?);
    let relative = own.path.parent()?.join(OsStr::from_bytes(name));
    let paths = [Some(relative), by_build_id(id)];
    paths.into_iter().flatten().find_map(|path| {
        let file = open_within(&own.root, &path).ok()?;
        let is_it = Elf::read(&file).ok()?.build_id().as_deref() == Some(id);
        is_it.then(|| (file, Box::from(id)))
    })
}

/// The process' root, and ours. What lies in ours is taken for the process' if its build id says so.
fn roots(place: &Place) -> impl Iterator<Item = &Path> {
    let ours = Path::new("/");
    [Some(place.root.as_path()), (place.root != ours).then_some(ours)].into_iter().flatten()
}

fn by_build_id(id: &[u8]) -> Option<PathBuf> {
    let (first, rest) = id.split_first().filter(|(_, rest)| !rest.is_empty())?;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(Path::new(FOLDER).join(".build-id").join(format!("{first:02x}")).join(format!("{rest}.debug")))
}

/// `.gnu_debuglink`: a file's name, zeros up to a multiple of four, the checksum of the whole file.
fn link(code: &Elf<'_>) -> Option<(PathBuf, u32)> {
    let link = code.data(&code.section(".gnu_debuglink")?, LINK_BYTES).ok()?;
    let end = memchr::memchr(0, &link)?;
    let sum = (end + 1).next_multiple_of(4);
    let sum = u32::from_le_bytes(link.get(sum..sum + 4)?.try_into().ok()?);
    // A name, not a path: nothing but these folders is looked at.
    let name = Path::new(OsStr::from_bytes(link.get(..end)?)).file_name()?;
    Some((PathBuf::from(name), sum))
}

/// Where GDB looks ("Separate Debug Files" in its manual).
fn link_paths<'p>(place: &'p Place, name: &'p Path) -> impl Iterator<Item = PathBuf> + use<'p> {
    let folder = place.path.parent().unwrap_or(Path::new("/"));
    let mirrored = Path::new(FOLDER).join(folder.strip_prefix("/").unwrap_or(folder));
    [folder.to_owned(), folder.join(".debug"), mirrored].into_iter().map(move |folder| folder.join(name))
}

fn checksum(mut file: &File) -> Option<u32> {
    let mut sum = crc32fast::Hasher::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece).ok()? {
            0 => return Some(sum.finalize()),
            length => sum.update(piece.get(..length)?),
        }
    }
}
