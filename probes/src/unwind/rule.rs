//! The rules that lead from a frame to its caller's, and how one is packed into 32 bits. Knows nothing of tables.
//!
//! ```text
//!  kind of rule    31 … 21               20 … 4              3 … 0
//!  Sp, Bp          where RBP is saved    CFA offset          kind
//!  SpWord, BpWord  where RBP is saved    20…16 b, 15…4 a     kind
//!  Realigned       where RBP is saved    20…16 b, 15…4 a     kind
//!  Register        where RBP is saved    20…8 CFA offset, 7…4 register    kind
//!  Plt             0                     threshold           kind
//!  Unsupported     0                     a Lack              kind
//!  others          0                     0                   kind
//! ```
//! All offsets count words of eight bytes. Where RBP is saved: `n` words below the CFA; 0 if it is unchanged, [`LOST`] if it is
//! not to be had; in a realigned frame a signed number of words above RBP.

use crate::cell::kinds;

/// Bytes of a word; what offsets count.
pub const WORD: u64 = 8;

/// Highest CFA offset, in words: 1 MiB less one.
const MAX_CFA: u32 = (1 << 17) - 1;
/// In place of how far below the CFA RBP is saved: nobody knows.
const LOST: u32 = (1 << 11) - 1;
/// Highest second offset, in words.
const MAX_B: u32 = (1 << 5) - 1;
const CFA_SHIFT: u32 = 4;
const B_SHIFT: u32 = 16;
const BP_SHIFT: u32 = 21;

kinds! {
    /// What kind of rule it is.
    pub enum RuleKind {
        /// Nothing is known: by the frame pointer, if that is plausible.
        FramePointer = 0,
        /// CFA = RSP + offset.
        Sp = 1,
        /// CFA = RBP + offset.
        Bp = 2,
        /// CFA = RSP + 8, and 8 more from some byte of each 16 on.
        Plt = 3,
        /// The caller's registers stand in a `ucontext_t` at RSP.
        Signal = 4,
        /// CFA = *(RSP + a) + b.
        SpWord = 5,
        /// CFA = *(RBP + a) + b.
        BpWord = 6,
        /// The same, and RBP is saved at an offset from itself.
        Realigned = 7,
        /// There is no caller.
        End = 8,
        /// There is a rule that this form has no room for.
        Unsupported = 9,
        /// CFA = some other register + offset.
        Register = 10,
    }
}

kinds! {
    /// What a table's form has no room for.
    pub enum Lack {
        /// The CFA depends on another register than RSP and RBP, in a way of its own.
        Register = 1,
        /// The CFA is computed in a way of its own.
        Expression = 2,
        /// The return address is not next to the CFA.
        ReturnAddress = 3,
        /// An offset is too large or no multiple of eight.
        Offset = 4,
        /// The file's own information is broken here.
        Broken = 5,
    }
}

impl Lack {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Register => "a rule needs another register than RSP and RBP",
            Self::Expression => "a rule is an expression of its own kind",
            Self::ReturnAddress => "the return address is not where it usually is",
            Self::Offset => "an offset is out of range",
            Self::Broken => "the call frame information is broken",
        }
    }
}

/// Where a function left its caller's RBP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SavedBp {
    /// In RBP.
    Unchanged,
    /// So many words below the CFA.
    BelowCfa(u32),
    /// Somewhere else.
    Lost,
}

/// A rule, in words. The return address always stands in the word below the CFA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Nothing is known: RBP is taken for a frame pointer.
    FramePointer,
    /// CFA = RSP + `words`.
    Sp {
        /// Offset in words.
        words: u32,
        /// The caller's RBP.
        bp: SavedBp,
    },
    /// CFA = RBP + `words`.
    Bp {
        /// Offset in words.
        words: u32,
        /// The caller's RBP.
        bp: SavedBp,
    },
    /// CFA = *(RSP + `a`) + `b`.
    SpWord {
        /// Offset in words, signed.
        a: i32,
        /// Offset in words.
        b: u32,
        /// The caller's RBP.
        bp: SavedBp,
    },
    /// CFA = *(RBP + `a`) + `b`.
    BpWord {
        /// Offset in words, signed.
        a: i32,
        /// Offset in words.
        b: u32,
        /// The caller's RBP.
        bp: SavedBp,
    },
    /// CFA = *(RBP + `a`) + `b`, and the caller's RBP stands at RBP + `bp`: what gcc makes of a function that aligns its stack.
    Realigned {
        /// Offset in words, signed.
        a: i32,
        /// Offset in words.
        b: u32,
        /// Offset in words, signed.
        bp: i32,
    },
    /// CFA = a register + `words`. Registers other than RSP and RBP are known of the innermost frame only, and it is code that
    /// calls nothing that uses them so.
    Register {
        /// Its number in DWARF (System V ABI for AMD64, figure 3.36), up to 15.
        register: u8,
        /// Offset in words, signed.
        words: i32,
        /// The caller's RBP.
        bp: SavedBp,
    },
    /// An entry of a procedure linkage table: CFA = RSP + 8, or + 16 if the last four bits of RIP are not less than this.
    Plt(u8),
    /// Where a signal handler returns to.
    Signal,
    /// There is no caller.
    End,
    /// There is a rule that this form has no room for.
    Unsupported(Lack),
}

/// A rule in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Packed(pub u32);

impl Packed {
    /// That of code of which nothing is known.
    pub const FRAME_POINTER: Self = Self(RuleKind::FramePointer as u32);

    #[inline(always)]
    const fn kind(self) -> u8 {
        (self.0 & 15) as u8
    }

    #[inline(always)]
    pub(super) const fn is(self, kind: RuleKind) -> bool {
        self.kind() == kind as u8
    }

    /// Bytes from the register to the CFA.
    #[inline(always)]
    pub(super) const fn cfa_offset(self) -> u64 {
        (((self.0 >> CFA_SHIFT) & MAX_CFA) as u64) * WORD
    }

    /// Bytes from the register to the word that the CFA is computed from; signed.
    #[inline(always)]
    pub(super) const fn a(self) -> u64 {
        ((((self.0 << 16) as i32) >> 20) as i64 * WORD as i64) as u64
    }

    /// Bytes from that word to the CFA.
    #[inline(always)]
    pub(super) const fn b(self) -> u64 {
        (((self.0 >> B_SHIFT) & MAX_B) as u64) * WORD
    }

    /// Words from the saved RBP up to the CFA; 0 if it is unchanged.
    #[inline(always)]
    pub(super) const fn bp_below(self) -> u32 {
        self.0 >> BP_SHIFT
    }

    /// Bytes from RBP to where it is saved; signed.
    #[inline(always)]
    pub(super) const fn bp_above(self) -> u64 {
        (((self.0 as i32) >> BP_SHIFT) as i64 * WORD as i64) as u64
    }

    /// Whether the caller's RBP is not to be had, of a kind that says where it is.
    #[inline(always)]
    pub(super) const fn bp_is_lost(self) -> bool {
        self.bp_below() == LOST
    }

    /// The register of a [`Rule::Register`].
    #[inline(always)]
    pub(super) const fn register(self) -> u32 {
        (self.0 >> CFA_SHIFT) & 15
    }

    /// Bytes from that register to the CFA; signed.
    #[inline(always)]
    pub(super) const fn register_offset(self) -> u64 {
        ((((self.0 << 11) as i32) >> 19) as i64 * WORD as i64) as u64
    }

    /// The first of the last four bits of RIP at which a procedure linkage table's entry has pushed.
    #[inline(always)]
    pub(super) const fn threshold(self) -> u64 {
        ((self.0 >> CFA_SHIFT) & 15) as u64
    }

    /// In words; `None` if it is no rule.
    pub fn rule(self) -> Option<Rule> {
        let bp = match self.bp_below() {
            0 => SavedBp::Unchanged,
            LOST => SavedBp::Lost,
            words => SavedBp::BelowCfa(words),
        };
        let words = (self.0 >> CFA_SHIFT) & MAX_CFA;
        let a = (self.a() as i64 / WORD as i64) as i32;
        let b = (self.0 >> B_SHIFT) & MAX_B;
        Some(match RuleKind::from_u8(self.kind())? {
            RuleKind::FramePointer => Rule::FramePointer,
            RuleKind::Sp => Rule::Sp { words, bp },
            RuleKind::Bp => Rule::Bp { words, bp },
            RuleKind::Plt => Rule::Plt(self.threshold() as u8),
            RuleKind::Signal => Rule::Signal,
            RuleKind::SpWord => Rule::SpWord { a, b, bp },
            RuleKind::BpWord => Rule::BpWord { a, b, bp },
            RuleKind::Realigned => Rule::Realigned { a, b, bp: (self.bp_above() as i64 / WORD as i64) as i32 },
            RuleKind::Register => {
                let words = (self.register_offset() as i64 / WORD as i64) as i32;
                Rule::Register { register: self.register() as u8, words, bp }
            }
            RuleKind::End => Rule::End,
            RuleKind::Unsupported => Rule::Unsupported(Lack::from_u8((words & 0xff) as u8)?),
        })
    }
}

impl Rule {
    /// In 32 bits. What has no room becomes [`Rule::Unsupported`]; an RBP that is saved too far away becomes [`SavedBp::Lost`].
    pub fn pack(self) -> Packed {
        let packed = match self {
            Self::FramePointer => Some(RuleKind::FramePointer as u32),
            Self::Sp { words, bp } => offset(words).map(|offset| RuleKind::Sp as u32 | offset | below(bp)),
            Self::Bp { words, bp } => offset(words).map(|offset| RuleKind::Bp as u32 | offset | below(bp)),
            Self::SpWord { a, b, bp } => two(a, b).map(|two| RuleKind::SpWord as u32 | two | below(bp)),
            Self::BpWord { a, b, bp } => two(a, b).map(|two| RuleKind::BpWord as u32 | two | below(bp)),
            Self::Realigned { a, b, bp } => two(a, b)
                .filter(|_| (-1024..1024).contains(&bp))
                .map(|two| RuleKind::Realigned as u32 | two | (bp << BP_SHIFT) as u32),
            Self::Register { register, words, bp } => (register < 16 && (-4096..4096).contains(&words)).then(|| {
                RuleKind::Register as u32 | (register as u32) << CFA_SHIFT | ((words << 19) as u32) >> 11 | below(bp)
            }),
            Self::Plt(threshold) => (threshold < 16).then_some(RuleKind::Plt as u32 | (threshold as u32) << CFA_SHIFT),
            Self::Signal => Some(RuleKind::Signal as u32),
            Self::End => Some(RuleKind::End as u32),
            Self::Unsupported(lack) => return Packed(RuleKind::Unsupported as u32 | (lack as u32) << CFA_SHIFT),
        };
        packed.map_or_else(|| Self::Unsupported(Lack::Offset).pack(), Packed)
    }
}

fn offset(words: u32) -> Option<u32> {
    (words <= MAX_CFA).then_some(words << CFA_SHIFT)
}

fn two(a: i32, b: u32) -> Option<u32> {
    ((-2048..2048).contains(&a) && b <= MAX_B).then_some((((a << CFA_SHIFT) & 0xfff0) as u32) | b << B_SHIFT)
}

fn below(bp: SavedBp) -> u32 {
    match bp {
        SavedBp::Unchanged => 0,
        SavedBp::BelowCfa(words) if (1..LOST).contains(&words) => words << BP_SHIFT,
        SavedBp::BelowCfa(_) | SavedBp::Lost => LOST << BP_SHIFT,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn saved_bp() -> impl Strategy<Value = SavedBp> {
        prop_oneof![Just(SavedBp::Unchanged), Just(SavedBp::Lost), (1..LOST).prop_map(SavedBp::BelowCfa)]
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let (a, b) = (-2048..2048, 0..=MAX_B);
        prop_oneof![
            Just(Rule::FramePointer),
            Just(Rule::Signal),
            Just(Rule::End),
            (0u8..16).prop_map(Rule::Plt),
            (0..=MAX_CFA, saved_bp()).prop_map(|(words, bp)| Rule::Sp { words, bp }),
            (0..=MAX_CFA, saved_bp()).prop_map(|(words, bp)| Rule::Bp { words, bp }),
            (a.clone(), b.clone(), saved_bp()).prop_map(|(a, b, bp)| Rule::SpWord { a, b, bp }),
            (a.clone(), b.clone(), saved_bp()).prop_map(|(a, b, bp)| Rule::BpWord { a, b, bp }),
            (a, b, -1024..1024).prop_map(|(a, b, bp)| Rule::Realigned { a, b, bp }),
            (0u8..16, -4096..4096, saved_bp()).prop_map(|(register, words, bp)| Rule::Register { register, words, bp }),
            prop::sample::select(Lack::ALL).prop_map(Rule::Unsupported),
        ]
    }

    proptest! {
        #[test]
        fn a_rule_is_the_same_after_packing(rule in any_rule()) {
            prop_assert_eq!(rule.pack().rule(), Some(rule));
        }

        #[test]
        fn any_bits_are_a_rule_or_none_and_never_a_panic(bits: u32) {
            if let Some(rule) = Packed(bits).rule() {
                prop_assert_eq!(rule.pack().rule(), Some(rule));
            }
        }
    }

    #[test]
    fn what_has_no_room_is_unsupported_and_not_cut() {
        let unsupported = Rule::Unsupported(Lack::Offset).pack();
        let bp = SavedBp::Unchanged;
        assert_eq!(Rule::Sp { words: MAX_CFA + 1, bp }.pack(), unsupported);
        assert_eq!(Rule::Bp { words: u32::MAX, bp }.pack(), unsupported);
        assert_eq!(Rule::SpWord { a: 2048, b: 0, bp }.pack(), unsupported);
        assert_eq!(Rule::BpWord { a: 0, b: MAX_B + 1, bp }.pack(), unsupported);
        assert_eq!(Rule::Realigned { a: 0, b: 0, bp: 1024 }.pack(), unsupported);
        assert_eq!(Rule::Plt(16).pack(), unsupported);
        assert_eq!(Rule::Register { register: 16, words: 0, bp }.pack(), unsupported);
        assert_eq!(Rule::Register { register: 0, words: 4096, bp }.pack(), unsupported);
        let far = Rule::Sp { words: 5000, bp: SavedBp::BelowCfa(LOST) };
        assert_eq!(far.pack().rule(), Some(Rule::Sp { words: 5000, bp: SavedBp::Lost }));
    }
}
