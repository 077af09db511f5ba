//! What a walk hands over: one word for a frame, and why it ended. Knows nothing of how a stack is walked.

use crate::cell::kinds;

/// Highest slot of a file.
pub const MAX_SLOT: u32 = 0xfffb;
/// Slot of the vDSO, which the kernel maps into each process.
pub const VDSO_SLOT: u32 = 0xfffc;
/// Slot of what is no code: why a stack ends.
const STOP_SLOT: u64 = 0xfffe;
/// The upper bits of the kernel's addresses.
const KERNEL_SLOT: u64 = 0xffff;
const SLOT_SHIFT: u32 = 48;
const OFFSET: u64 = (1 << SLOT_SHIFT) - 1;

/// One frame in 64 bits, free of where its process mapped things: a file's slot (16 bits) and an offset in the file (48 bits).
/// The offset is that of the instruction that was interrupted or, in a caller, of the last byte of its call; no one is to be
/// taken off for looking up its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameWord(pub u64);

/// What a [`FrameWord`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Nothing: the end of a list.
    None,
    /// An offset in the file that has this slot, 1 to [`MAX_SLOT`], or [`VDSO_SLOT`].
    File {
        /// The file's slot.
        slot: u32,
        /// Bytes from its beginning.
        offset: u64,
    },
    /// An address of a process, in no file.
    Address(u64),
    /// An address of the kernel.
    Kernel(u64),
    /// No code: the stack ends here, for this reason.
    Stop(Stop),
    /// Nothing that this version knows.
    Unknown,
}

impl FrameWord {
    /// No frame.
    pub const NONE: Self = Self(0);

    /// An offset in a file. A slot that there cannot be gives a word that says [`Origin::Unknown`].
    #[inline(always)]
    pub const fn file(slot: u32, offset: u64) -> Self {
        Self((slot as u64) << SLOT_SHIFT | offset & OFFSET)
    }

    /// An address of a process, in no file; what stands above its 48th bit is cut off.
    #[inline(always)]
    pub const fn address(address: u64) -> Self {
        Self(address & OFFSET)
    }

    /// An address of the kernel, as it is.
    #[inline(always)]
    pub const fn kernel(address: u64) -> Self {
        Self(KERNEL_SLOT << SLOT_SHIFT | address)
    }

    /// Why the stack ends here.
    #[inline(always)]
    pub const fn stop(stop: Stop) -> Self {
        Self(STOP_SLOT << SLOT_SHIFT | stop as u64)
    }

    /// What it says.
    pub const fn origin(self) -> Origin {
        let offset = self.0 & OFFSET;
        match self.0 >> SLOT_SHIFT {
            0 if offset == 0 => Origin::None,
            0 => Origin::Address(offset),
            KERNEL_SLOT => Origin::Kernel(self.0),
            STOP_SLOT if offset < 256 => match Stop::from_u8(offset as u8) {
                Some(stop) => Origin::Stop(stop),
                None => Origin::Unknown,
            },
            slot if slot <= VDSO_SLOT as u64 => Origin::File { slot: slot as u32, offset },
            _ => Origin::Unknown,
        }
    }
}

kinds! {
    /// Why a walk ended.
    pub enum Stop {
        /// The outermost caller was reached: the stack is complete.
        End = 1,
        /// The file has no table (yet), and RBP is no frame pointer.
        NoTable = 2,
        /// The file says nothing of this code, and RBP is no frame pointer.
        NoRule = 3,
        /// The code is in no file, made while the process runs, and RBP is no frame pointer.
        NoFile = 4,
        /// The rule is of a kind that tables have no room for.
        Unsupported = 5,
        /// The stack could not be read.
        Unreadable = 6,
        /// The return address does not lie in code.
        NotCode = 7,
        /// The caller's stack would lie below its callee's.
        NotRising = 8,
        /// There are more frames than are kept.
        TooDeep = 9,
        /// The rule needs RBP, and that was not saved or not known from the beginning.
        FramePointerLost = 10,
        /// The process' mappings are not known (yet).
        UnknownProcess = 11,
        /// The table was replaced during the walk, or is broken.
        BrokenTable = 12,
        /// Another walk was under way on this CPU.
        Busy = 13,
        /// A thread of the kernel, without a user's part.
        NoUserPart = 14,
        /// A part of a wait without its process' stack: it began before anyone looked, or did not end while someone did.
        Untold = 15,
    }
}

impl Stop {
    /// Whether nothing is missing.
    pub const fn is_complete(self) -> bool {
        matches!(self, Self::End | Self::NoUserPart)
    }

    /// For people, in a few words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::End => "end of the stack",
            Self::NoTable => "no unwind table",
            Self::NoRule => "no unwind information",
            Self::NoFile => "generated code without frame pointers",
            Self::Unsupported => "unusual unwind rule",
            Self::Unreadable => "stack unreadable",
            Self::NotCode => "return address outside of code",
            Self::NotRising => "broken stack",
            Self::TooDeep => "too many frames",
            Self::FramePointerLost => "frame pointer unknown",
            Self::UnknownProcess => "process not known yet",
            Self::BrokenTable => "unwind table replaced",
            Self::Busy => "unwinder busy",
            Self::NoUserPart => "kernel thread",
            Self::Untold => "stack of the process not told",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_was_put_into_it() {
        for slot in [1, 77, MAX_SLOT, VDSO_SLOT] {
            for offset in [0, 1, OFFSET] {
                assert_eq!(FrameWord::file(slot, offset).origin(), Origin::File { slot, offset });
            }
        }
        assert_eq!(FrameWord::NONE.origin(), Origin::None);
        assert_eq!(FrameWord::address(0x7fff_ffff_f000).origin(), Origin::Address(0x7fff_ffff_f000));
        for address in [0xffff_8000_0000_0000, 0xffff_ffff_8100_0000, u64::MAX] {
            assert_eq!(FrameWord::kernel(address).origin(), Origin::Kernel(address));
        }
        for &stop in Stop::ALL {
            assert_eq!(FrameWord::stop(stop).origin(), Origin::Stop(stop));
        }
        assert_eq!(FrameWord(STOP_SLOT << SLOT_SHIFT).origin(), Origin::Unknown);
        assert_eq!(FrameWord(0xfffd << SLOT_SHIFT).origin(), Origin::Unknown);
    }

    #[test]
    fn each_reason_has_a_text_of_its_own() {
        let mut texts: Vec<_> = Stop::ALL.iter().map(|stop| stop.text()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Stop::ALL.len());
    }
}
