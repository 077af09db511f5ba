//! Where fields lie in the running kernel's structures, from its own type information. Knows BTF, not what the fields mean.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use btf_rs::{Backend, Btf, BtfType, Type};
use rustix::fs::MemfdFlags;
use steth_probes::offsets::{ABSENT, MEMBERS, Member, Offsets};
use thiserror::Error;

/// Why offsets could not be had.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The kernel's type information cannot be read.
    #[error("cannot read the kernel's type information at {path}: {source} (CONFIG_DEBUG_INFO_BTF)")]
    Unreadable {
        /// Where it was looked for.
        path: PathBuf,
        /// What went wrong.
        source: btf_rs::Error,
    },
}

/// The running kernel's type information.
pub struct KernelTypes {
    btf: Btf,
}

impl KernelTypes {
    /// Reads the type information.
    ///
    /// # Errors
    /// If the file is missing or broken.
    pub fn read(path: &Path) -> Result<Self, BtfError> {
        let read = fs::read(path).map_err(btf_rs::Error::from).and_then(|bytes| {
            let mapped = copy(&bytes).map_err(btf_rs::Error::from).and_then(|copy| {
                let copied = format!("/proc/self/fd/{}", copy.as_raw_fd());
                Btf::from_file_with_backend(copied, Backend::Mmap)
            });
            // A host may refuse such files.
            mapped.or_else(|_| Btf::from_bytes(&bytes))
        });
        let btf = read.map_err(|source| BtfError::Unreadable { path: path.to_path_buf(), source })?;
        Ok(Self { btf })
    }

    /// The offsets of all fields that the kernel programs read, [`ABSENT`] for those that this kernel does not have.
    pub fn offsets(&self) -> Offsets {
        // To find a name takes a look at all of them.
        let mut known: HashMap<&str, Option<Type>> = HashMap::new();
        let mut offset = |member: &Member| {
            let structure = known.entry(member.structure).or_insert_with(|| self.structure(member.structure));
            Some(self.bits(structure.clone()?, member.path)? / 8)
        };
        let offsets: Vec<u32> = MEMBERS.iter().map(|member| offset(member).unwrap_or(ABSENT)).collect();
        Offsets::from_slice(&offsets).unwrap_or_else(|| unreachable!("one offset for each member"))
    }

    /// The value of an enumerator.
    pub fn enumerator(&self, enumeration: &str, name: &str) -> Option<u32> {
        self.btf.resolve_types_by_name(enumeration).ok()?.into_iter().find_map(|kind| match kind {
            Type::Enum(kind) => kind
                .members
                .iter()
                .find(|member| self.btf.resolve_name(*member).is_ok_and(|found| found == name))
                .map(|member| member.val()),
            _ => None,
        })
    }

    /// The bit that a field is, in the byte at its offset.
    pub fn bit(&self, structure: &str, path: &str) -> Option<u32> {
        Some(1 << (self.bits(self.structure(structure)?, path)? % 8))
    }

    fn structure(&self, name: &str) -> Option<Type> {
        let named = self.btf.resolve_types_by_name(name).ok()?;
        named.into_iter().find(|kind| matches!(kind, Type::Struct(_) | Type::Union(_)))
    }

    fn bits(&self, mut kind: Type, path: &str) -> Option<u32> {
        let mut bits = 0;
        for name in path.split('.') {
            let (member_bits, member_kind) = self.member(&kind, name)?;
            bits += member_bits;
            kind = member_kind;
        }
        Some(bits)
    }

    /// Bit offset and type of a member, looked for also in unnamed structures and unions within.
    fn member(&self, kind: &Type, name: &str) -> Option<(u32, Type)> {
        let (Type::Struct(structure) | Type::Union(structure)) = kind else { return None };
        structure.members.iter().find_map(|member| {
            let found = self.btf.resolve_name(member).ok()?;
            let member_kind = self.composite(member)?;
            if found == name {
                return Some((member.bit_offset(), member_kind));
            }
            if !found.is_empty() {
                return None;
            }
            let (bits, inner) = self.member(&member_kind, name)?;
            Some((member.bit_offset() + bits, inner))
        })
    }

    /// The type of a member, without type definitions and qualifiers around it.
    fn composite(&self, member: &dyn BtfType) -> Option<Type> {
        let mut kind = self.btf.resolve_chained_type(member).ok()?;
        while let Type::Typedef(_) | Type::Const(_) | Type::Volatile(_) | Type::TypeTag(_) = kind {
            kind = self.btf.resolve_chained_type(kind.as_btf_type()?).ok()?;
        }
        Some(kind)
    }
}

/// A file in memory with these bytes. Types are looked up where they stand, some dozens of a hundred thousand; to read all of them
/// takes longer than to verify most programs. The kernel's own file can be mapped from Linux 6.16 on only.
fn copy(bytes: &[u8]) -> io::Result<File> {
    let mut copy = File::from(rustix::fs::memfd_create(c"steth-btf", MemfdFlags::CLOEXEC)?);
    copy.write_all(bytes)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named_with_the_kernel_option_that_makes_it() {
        let error = KernelTypes::read(Path::new("/nonexistent/btf")).err().map(|error| error.to_string());
        let error = error.unwrap_or_default();
        assert!(error.contains("/nonexistent/btf") && error.contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    }
}
