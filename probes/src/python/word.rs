//! A frame of Python in 64 bits, as it crosses from the kernel.

use super::Frame;

const CODE: u64 = (1 << 48) - 1;
const ENDS_RUN: u64 = 1 << 48;
const UNIT_SHIFT: u32 = 49;
/// The instruction, in units of two bytes, has 15 bits; what lies beyond, in a function of 16,000 operations, is told as the
/// last that there is.
const MOST_UNITS: u32 = (1 << 15) - 1;

/// A [`Frame`] in one word. From the lowest bit: 48 of its code object's address, whether it ends a run, the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameWord(pub u64);

impl FrameWord {
    /// The word of a frame.
    #[inline(always)]
    pub const fn of(frame: Frame) -> Self {
        let units = frame.instruction / 2;
        let units = if units > MOST_UNITS { MOST_UNITS } else { units };
        let ends_run = if frame.ends_run { ENDS_RUN } else { 0 };
        Self(frame.code & CODE | ends_run | (units as u64) << UNIT_SHIFT)
    }

    /// The frame.
    pub const fn frame(self) -> Frame {
        let instruction = (self.0 >> UNIT_SHIFT) as u32 * 2;
        Frame { code: self.0 & CODE, instruction, ends_run: self.0 & ENDS_RUN != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_was_put_into_it() {
        for code in [0, 1, CODE] {
            for instruction in [0, 2, 65_534] {
                for ends_run in [false, true] {
                    let frame = Frame { code, instruction, ends_run };
                    assert_eq!(FrameWord::of(frame).frame(), frame);
                }
            }
        }
        let far = Frame { code: 8, instruction: 70_000, ends_run: true };
        assert_eq!(FrameWord::of(far).frame(), Frame { instruction: 65_534, ..far });
    }
}
