//! Where fields lie in the running kernel's structures, from its own type information. Knows BTF, not what the fields mean.

use std::{
    fs,
    path::{Path, PathBuf},
};

use btf_rs::{Btf, BtfType, Type};
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
        // At once: read piece by piece, it would take a system call for each of its hundred thousand types.
        let read = fs::read(path).map_err(btf_rs::Error::from).and_then(|bytes| Btf::from_bytes(&bytes));
        let btf = read.map_err(|source| BtfError::Unreadable { path: path.to_path_buf(), source })?;
        Ok(Self { btf })
    }

    /// The offsets of all fields that the kernel programs read, [`ABSENT`] for those that this kernel does not have.
    pub fn offsets(&self) -> Offsets {
        let offset = |member: &Member| self.offset(member.structure, member.path).unwrap_or(ABSENT);
        let offsets: Vec<u32> = MEMBERS.iter().map(offset).collect();
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
        Some(1 << (self.bits(structure, path)? % 8))
    }

    fn offset(&self, structure: &str, path: &str) -> Option<u32> {
        Some(self.bits(structure, path)? / 8)
    }

    fn bits(&self, structure: &str, path: &str) -> Option<u32> {
        let mut kind = self
            .btf
            .resolve_types_by_name(structure)
            .ok()?
            .into_iter()
            .find(|kind| matches!(kind, Type::Struct(_) | Type::Union(_)))?;
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
