//! How one gets from a frame of a stack to its caller's: the same code in the kernel and on the host. Knows neither how memory
//! is read nor where tables lie nor how they are made; [`World`] hands it both.
//!
//! x86-64 only. Rules are those of the System V ABI's call frame information as far as compilers and the usual hand-written
//! code use them; what else there is ends a walk, with its reason.

mod frame;
mod rule;
mod table;
#[cfg(test)]
mod tests;
mod walk;

pub use frame::{FrameWord, MAX_SLOT, Origin, Stop, VDSO_SLOT};
pub use rule::{Lack, Packed, Rule, RuleKind, SavedBp, WORD};
pub use table::{MAX_PAGE_ROWS, PAGE_BITS, Row, Table};
pub use walk::{DEPTH, Mapping, MappingKind, Outcome, Walk};

/// What a walk needs of the world around it. Each call is a memory access or a few, so a walk makes as few as it can.
pub trait World {
    /// The eight bytes at an address of the process; `None` if they cannot be read.
    fn word(&mut self, address: u64) -> Option<u64>;

    /// The sixteen bytes at an address, lower word first; `None` if they cannot be read. For whom one long read is cheaper than
    /// two short ones.
    #[inline(always)]
    fn pair(&mut self, address: u64) -> Option<(u64, u64)> {
        Some((self.word(address)?, self.word(address.wrapping_add(WORD))?))
    }

    /// A register of the innermost frame, by its number in DWARF; never RSP. Asked for at most once in a walk, in few walks; `None`
    /// ends it.
    fn register(&mut self, number: u32) -> Option<u64>;

    /// An entry of the array of pages that all tables share, see [`Table`]; `None` if there is none.
    fn page(&mut self, index: u32) -> Option<u32>;

    /// An entry of the array of rows that all tables share; `None` if there is none.
    fn row(&mut self, index: u32) -> Option<Row>;

    /// Looks up what is mapped at an address. Leaves `mapping` as it was, or with [`Mapping::kind`] set to
    /// [`MappingKind::Unmapped`] or [`MappingKind::Unknown`], if nothing is known to be there.
    fn find(&mut self, address: u64, mapping: &mut Mapping);
}

/// Where a register's value stands in the kernel's `struct pt_regs` (arch/x86/include/asm/ptrace.h), in words; by its number in
/// DWARF, 0 to 15 without RSP.
#[inline(always)]
pub const fn pt_regs_index(register: u32) -> u32 {
    // From 15 down to 0, RSP's place empty: its index takes more than a digit.
    ((0x0123_6789_04ed_5bca_u64 >> ((register & 15) * 4)) & 15) as u32
}
