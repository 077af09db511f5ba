//! Which file code comes from: the kernel's own tree of a process' mappings, so that nobody has to follow what is mapped.
//!
//! The tree is a maple tree (Linux 6.1, `lib/maple_tree.c`). It is read without its lock: what it leads to is checked, and
//! nodes are freed only after all that may read them have ended (RCU).

use core::arch::asm;

use steth_probes::{profile::TREE_PIVOTS, tls::CodeFile};

use crate::kernel::{Address, Known, offset};

/// Levels of the tree: each has at least five ways, so that these do for the 65,530 mappings that a process may have.
const LEVELS: u32 = 7;
/// What a node is, in bits 3 to 6 of what leads to it: `enum maple_type`.
const KIND_SHIFT: u32 = 3;
const KIND_MASK: u64 = 0xF;
/// `maple_leaf_64`.
const LEAF: u64 = 1;
/// `maple_arange_64`.
const GAPS: u64 = 3;
/// Nodes are aligned to this: `MAPLE_NODE_MASK`.
const NODE_MASK: u64 = 0xFF;
/// Set in what leads to the root: `MAPLE_ROOT_NODE`.
const ROOT: u64 = 2;
/// `VM_EXEC`.
const EXECUTABLE: u64 = 4;

/// A stretch of a process' memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stretch {
    pub start: u64,
    pub end: u64,
    /// Where in the file `start` is.
    pub offset: u64,
    pub file: CodeFile,
    /// Not 0: it holds code.
    pub executable: u64,
}

/// What is said of a mapping that the verifier knows.
#[inline(always)]
pub fn of_mapping(mapping: Known, found: &mut Stretch) -> Option<()> {
    found.start = mapping.load(offset!(mapping_start));
    found.end = mapping.load(offset!(mapping_end));
    found.executable = mapping.load::<u64>(offset!(mapping_flags)) & EXECUTABLE;
    found.offset = mapping.load::<u64>(offset!(mapping_offset)) << 12;
    let inode = mapping.follow(offset!(mapping_file))?.follow(offset!(file_inode))?;
    found.file.inode = inode.load(offset!(inode_number));
    found.file.device = inode.follow(offset!(inode_super))?.load::<u32>(offset!(super_device)) as u64;
    Some(())
}

/// Finds the stretch that an address lies in.
#[inline(always)]
pub fn find(mm: Known, address: u64, pivots: &mut [u64; TREE_PIVOTS], found: &mut Stretch) -> Option<()> {
    let mapping = mapping_of(mm, address, pivots)?;
    found.start = mapping.read(offset!(mapping_start))?;
    found.end = mapping.read(offset!(mapping_end))?;
    if address < found.start || address >= found.end {
        return None;
    }
    found.executable = mapping.read::<u64>(offset!(mapping_flags))? & EXECUTABLE;
    found.offset = mapping.read::<u64>(offset!(mapping_offset))? << 12;
    found.file = CodeFile { inode: 0, device: 0 };
    if let Some(file) = mapping.follow(offset!(mapping_file)) {
        let inode = file.follow(offset!(file_inode))?;
        found.file.inode = inode.read(offset!(inode_number))?;
        found.file.device = inode.follow(offset!(inode_super))?.read::<u32>(offset!(super_device))? as u64;
    } else if found.start == mm.address().read::<u64>(offset!(mm_vdso))? {
        found.file.device = steth_probes::profile::VDSO;
    }
    Some(())
}

#[inline(always)]
fn mapping_of(mm: Known, address: u64, pivots: &mut [u64; TREE_PIVOTS]) -> Option<Address> {
    // Through the helper: what the verifier takes for a pointer could not be reckoned with.
    let mut entry = mm.address().read::<u64>(offset!(mm_tree))?;
    if entry & ROOT == 0 {
        return None;
    }
    for _ in 0..LEVELS {
        let node = Address(entry & !NODE_MASK);
        let kind = (entry >> KIND_SHIFT) & KIND_MASK;
        // Of an inner node the first of its ways are read with its pivots: they lead to the kernel's addresses, which are above
        // all that is looked for.
        let inner = is_zero(kind ^ GAPS) as u32;
        let pivots_at = offset!(range_pivots) + inner * (offset!(gaps_pivots) - offset!(range_pivots));
        let slots_at = offset!(range_slots) - inner * (offset!(range_slots) - offset!(gaps_slots));
        node.read_into(pivots_at, pivots)?;
        let mut slot = 0;
        for pivot in pivots.iter() {
            // One by one, or the compiler would load them all at first and put them on the stack.
            // SAFETY: a reference.
            slot += is_below(unsafe { core::ptr::from_ref(pivot).read_volatile() }, address);
        }
        entry = node.read(slots_at + slot as u32 * 8)?;
        if kind <= LEAF {
            return if entry == 0 { None } else { Some(Address(entry)) };
        }
    }
    None
}

/// 1 if it is 0, without a branch, or the verifier would follow every combination.
#[inline(always)]
fn is_zero(value: u64) -> u64 {
    top_bit(!(value | value.wrapping_neg()))
}

/// 1 if `pivot` is not 0 and less than `address`; likewise.
#[inline(always)]
fn is_below(pivot: u64, address: u64) -> u64 {
    let less = (!pivot & address) | ((!pivot | address) & pivot.wrapping_sub(address));
    top_bit(less & (pivot | pivot.wrapping_neg()))
}

/// Bit 63. The compiler would see a comparison in the shift and make a branch of it; Linux 6.1 then followed a million of them.
#[inline(always)]
fn top_bit(mut value: u64) -> u64 {
    // SAFETY: shifts a register.
    unsafe { asm!("{value} >>= 63", value = inout(reg) value, options(nostack)) };
    value
}
