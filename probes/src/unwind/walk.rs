//! One step of a walk: from a frame to its caller's. Knows neither whose memory it reads nor what is done with the frames.

use super::{
    FrameWord, Stop, Table, WORD, World,
    rule::{Packed, RuleKind},
};
use crate::{cell::kinds, record::record};

/// Frames of one stack that are kept.
pub const DEPTH: u32 = 256;
/// How far a frame pointer may point above the stack pointer: the default limit of a stack.
const FRAME_POINTER_REACH: u64 = 8 << 20;
/// Where a signal handler's return finds the interrupted registers, from RSP: `uc_mcontext` is at 40 (asm/ucontext.h), RBP,
/// RSP and RIP at 80, 120 and 128 in it (asm/sigcontext.h).
const SIGNAL_BP: u64 = 120;
const SIGNAL_SP: u64 = 160;

kinds! {
    /// What is mapped at an address.
    pub enum MappingKind {
        /// Nothing, or nothing that may be executed.
        Unmapped = 0,
        /// A file that there is a table of.
        Table = 1,
        /// A file without a table, or without one yet.
        NoTable = 2,
        /// Memory that is no file's and may be executed.
        Anonymous = 3,
        /// Nobody knows: the process has not been looked at yet.
        Unknown = 4,
    }
}

record! {
    /// A stretch of a process' addresses. The vDSO is a file like others, with the slot [`super::VDSO_SLOT`].
    pub struct Mapping {
        /// Its first address.
        pub start: u64,
        /// The address behind its last.
        pub end: u64,
        /// What stands at `start`, in bytes from the file's beginning.
        pub file_offset: u64,
        /// A [`MappingKind`].
        pub kind: u32,
        /// The file's slot; 0 if there is no file.
        pub slot: u32,
        /// The file's table, if there is one.
        pub table: Table,
    }
}

record! {
    /// Where a walk stands. It lies in a map and not on the stack: what the verifier reads from there it takes for unknown, and
    /// so checks one step once.
    pub struct Walk {
        /// RIP of the frame that comes next.
        pub ip: u64,
        /// Its RSP.
        pub sp: u64,
        /// Its RBP, if that is known.
        pub bp: u64,
        /// What was last found.
        pub mapping: Mapping,
        /// Frames handed over.
        pub frames: u32,
        /// 1: the frame called another one, so `ip` stands behind its call, perhaps already in the next function.
        pub called: u8,
        /// 1: `bp` is not known.
        pub bp_lost: u8,
        /// A [`Stop`]: why there is no better way than by the frame pointer, if the frame was found so; or else 0.
        pub guessed: u8,
        /// Spare.
        pub _pad: u8,
    }
}

/// What one step led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The frame; [`FrameWord::NONE`] if it turned out to be none.
    pub frame: FrameWord,
    /// Why there are no more; `None` while there are.
    pub stop: Option<Stop>,
}

impl Walk {
    /// Sets out from the registers of a thread. What the last walk found is not kept.
    #[inline(always)]
    pub fn begin(&mut self, ip: u64, sp: u64, bp: Option<u64>) {
        self.ip = ip;
        self.sp = sp;
        self.bp = bp.unwrap_or(0);
        self.mapping.start = 0;
        self.mapping.end = 0;
        self.frames = 0;
        self.called = 0;
        self.bp_lost = bp.is_none() as u8;
        self.guessed = 0;
    }

    /// Hands over one frame and goes to its caller. Not to be called again once it said [`Outcome::stop`].
    #[inline(always)]
    pub fn step<W: World>(&mut self, world: &mut W) -> Outcome {
        let at = self.ip.wrapping_sub(self.called as u64);
        if at < self.mapping.start || at >= self.mapping.end {
            self.mapping.kind = MappingKind::Unmapped as u32;
            world.find(at, &mut self.mapping);
        }
        let kind = self.mapping.kind;
        let offset = at.wrapping_sub(self.mapping.start).wrapping_add(self.mapping.file_offset);
        let frame = if kind == MappingKind::Table as u32 || kind == MappingKind::NoTable as u32 {
            FrameWord::file(self.mapping.slot, offset)
        } else if kind == MappingKind::Anonymous as u32 || self.frames == 0 {
            FrameWord::address(at)
        } else {
            FrameWord::NONE
        };
        self.frames = self.frames.wrapping_add(1);
        let went = self.leave(kind, offset, world);
        let stop = if went.is_none() && self.frames >= DEPTH { Some(Stop::TooDeep) } else { went };
        Outcome { frame, stop }
    }

    /// `None` if the registers are now the caller's.
    #[inline(always)]
    fn leave<W: World>(&mut self, kind: u32, offset: u64, world: &mut W) -> Option<Stop> {
        if kind == MappingKind::Table as u32 {
            let Some(rule) = self.mapping.table.rule_at(offset, world) else { return Some(Stop::BrokenTable) };
            self.by_rule(rule, world)
        } else if kind == MappingKind::NoTable as u32 {
            self.by_frame_pointer(Stop::NoTable, world)
        } else if kind == MappingKind::Anonymous as u32 {
            self.by_frame_pointer(Stop::NoFile, world)
        } else if kind == MappingKind::Unknown as u32 {
            Some(Stop::UnknownProcess)
        } else {
            // An address that nothing but a guess led to is no fault of the stack.
            Some(match Stop::from_u8(self.guessed) {
                Some(guessed) => guessed,
                None => Stop::NotCode,
            })
        }
    }

    #[inline(always)]
    fn by_rule<W: World>(&mut self, rule: Packed, world: &mut W) -> Option<Stop> {
        let from_bp = rule.is(RuleKind::Bp) || rule.is(RuleKind::BpWord) || rule.is(RuleKind::Realigned);
        if from_bp && self.bp_lost != 0 {
            return Some(Stop::FramePointerLost);
        }
        let base = if from_bp { self.bp } else { self.sp };
        let mut bp_at = 0;
        let cfa = if rule.is(RuleKind::Sp) || rule.is(RuleKind::Bp) {
            base.wrapping_add(rule.cfa_offset())
        } else if rule.is(RuleKind::FramePointer) {
            return self.by_frame_pointer(Stop::NoRule, world);
        } else if rule.is(RuleKind::SpWord) || rule.is(RuleKind::BpWord) || rule.is(RuleKind::Realigned) {
            if rule.is(RuleKind::Realigned) {
                bp_at = base.wrapping_add(rule.bp_above());
            }
            let Some(word) = world.word(base.wrapping_add(rule.a())) else { return Some(Stop::Unreadable) };
            word.wrapping_add(rule.b())
        } else if rule.is(RuleKind::Plt) {
            let pushed = (self.ip & 15 >= rule.threshold()) as u64;
            base.wrapping_add(WORD + pushed * WORD)
        } else if rule.is(RuleKind::Register) && self.frames == 1 {
            let Some(value) = world.register(rule.register()) else { return Some(Stop::Unsupported) };
            value.wrapping_add(rule.register_offset())
        } else if rule.is(RuleKind::Signal) {
            return self.by_signal(world);
        } else if rule.is(RuleKind::End) {
            return Some(Stop::End);
        } else {
            return Some(Stop::Unsupported);
        };
        if cfa <= self.sp {
            return Some(Stop::NotRising);
        }
        let below = rule.bp_below();
        let ip_at = cfa.wrapping_sub(WORD);
        let read = if rule.is(RuleKind::Realigned) {
            self.read(ip_at, bp_at, world)
        } else if below == 0 || rule.is(RuleKind::Plt) {
            world.word(ip_at).map(|ip| (self.bp, ip))
        } else if below == 2 {
            self.bp_lost = 0;
            world.pair(cfa.wrapping_sub(2 * WORD))
        } else if rule.bp_is_lost() {
            self.bp_lost = 1;
            world.word(ip_at).map(|ip| (0, ip))
        } else {
            self.read(ip_at, cfa.wrapping_sub(below as u64 * WORD), world)
        };
        self.guessed = 0;
        self.arrive(read, cfa)
    }

    /// The caller's RBP and RIP.
    #[inline(always)]
    fn read<W: World>(&mut self, ip_at: u64, bp_at: u64, world: &mut W) -> Option<(u64, u64)> {
        self.bp_lost = 0;
        Some((world.word(bp_at)?, world.word(ip_at)?))
    }

    /// Takes RBP for a frame pointer; `without` is why there is nothing better.
    #[inline(always)]
    fn by_frame_pointer<W: World>(&mut self, without: Stop, world: &mut W) -> Option<Stop> {
        let bp = self.bp;
        if self.bp_lost != 0 {
            return Some(without);
        }
        if bp == 0 {
            // As the ABI asks of the outermost frame (System V ABI for AMD64, section 3.4.1). It says nothing in the innermost one, or
            // behind those that keep no frame pointers: then it is that of the outermost all along.
            return Some(if self.guessed != 0 { Stop::End } else { without });
        }
        // `bp` below `sp` gives a large difference.
        if bp & (WORD - 1) != 0 || bp.wrapping_sub(self.sp) > FRAME_POINTER_REACH {
            return Some(without);
        }
        let read = world.pair(bp);
        if !matches!(read, Some((bp, ip)) if bp == 0 || ip != 0) {
            return Some(without);
        }
        self.guessed = without as u8;
        self.arrive(read, bp.wrapping_add(2 * WORD))
    }

    #[inline(always)]
    fn by_signal<W: World>(&mut self, world: &mut W) -> Option<Stop> {
        let Some(bp) = world.word(self.sp.wrapping_add(SIGNAL_BP)) else { return Some(Stop::Unreadable) };
        let Some((sp, ip)) = world.pair(self.sp.wrapping_add(SIGNAL_SP)) else { return Some(Stop::Unreadable) };
        self.ip = ip;
        self.sp = sp;
        self.bp = bp;
        self.called = 0;
        self.bp_lost = 0;
        self.guessed = 0;
        None
    }

    #[inline(always)]
    fn arrive(&mut self, read: Option<(u64, u64)>, sp: u64) -> Option<Stop> {
        let Some((bp, ip)) = read else { return Some(Stop::Unreadable) };
        if ip == 0 {
            return Some(Stop::End);
        }
        self.ip = ip;
        self.sp = sp;
        self.bp = bp;
        self.called = 1;
        None
    }
}
