//! Walks over stacks and tables made up for the purpose: each rule, each reason to stop.

use super::{
    DEPTH, FrameWord, Lack, Mapping, MappingKind, Row, Rule, SavedBp, Stop, VDSO_SLOT, WORD, Walk, World,
    pt_regs_index, table::tests::Tables,
};

/// Where the file is mapped, from its page 1 on.
const CODE: u64 = 0x55_0000_0000;
/// Where memory that may be executed and is no file's lies.
const JIT: u64 = 0x7e_0000_0000;
const NO_TABLE: u64 = 0x7d_0000_0000;
const UNKNOWN: u64 = 0x7c_0000_0000;
const STACK: u64 = 0x7fff_0000_0000;
const UNCHANGED: SavedBp = SavedBp::Unchanged;

/// A file with one rule for each 16 bytes, and a stack.
struct Process {
    tables: Tables,
    stack: Vec<u64>,
    finds: usize,
}

impl Process {
    fn new(rules: &[Rule], stack: &[u64]) -> Self {
        let rows: Vec<_> = rules.iter().zip(0..).map(|(rule, at)| Row::new(0x1000 + at * 16, rule.pack())).collect();
        Self { tables: Tables::new(&rows), stack: stack.to_vec(), finds: 0 }
    }

    /// Goes through the whole stack.
    fn walk(&mut self, ip: u64, sp: u64, bp: Option<u64>) -> (Vec<FrameWord>, Stop) {
        let mut walk = Walk { ip: 1, sp: 2, bp: 3, frames: 4, called: 1, bp_lost: 1, guessed: 1, ..Walk::zeroed() };
        walk.begin(ip, sp, bp);
        let mut frames = Vec::new();
        loop {
            let outcome = walk.step(self);
            frames.extend(Some(outcome.frame).filter(|&frame| frame != FrameWord::NONE));
            if let Some(stop) = outcome.stop {
                return (frames, stop);
            }
        }
    }
}

impl World for Process {
    fn word(&mut self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(STACK)? / WORD).ok()?;
        self.stack.get(at).copied()
    }

    fn register(&mut self, number: u32) -> Option<u64> {
        (number == 10).then_some(STACK + WORD)
    }

    fn page(&mut self, index: u32) -> Option<u32> {
        self.tables.page(index)
    }

    fn row(&mut self, index: u32) -> Option<Row> {
        self.tables.row(index)
    }

    fn find(&mut self, address: u64, mapping: &mut Mapping) {
        self.finds += 1;
        let all = [
            (CODE, MappingKind::Table, 7),
            (JIT, MappingKind::Anonymous, 0),
            (NO_TABLE, MappingKind::NoTable, VDSO_SLOT),
            (UNKNOWN, MappingKind::Unknown, 0),
        ];
        let length = 0x10_0000;
        if let Some((start, kind, slot)) =
            all.into_iter().find(|(start, ..)| (*start..start + length).contains(&address))
        {
            let (kind, table) = (kind as u32, self.tables.table);
            *mapping = Mapping { start, end: start + length, file_offset: 0x1000, kind, slot, table };
        }
    }
}

/// Address of code that the rule of this number holds for.
fn code(rule: u64) -> u64 {
    CODE + rule * 16 + 8
}

/// What a frame there is told as; a caller's is the byte before.
fn told(rule: u64, is_caller: bool) -> FrameWord {
    FrameWord::file(7, 0x1000 + rule * 16 + 8 - u64::from(is_caller))
}

#[test]
fn by_stack_pointer_and_by_frame_pointer_to_the_end() {
    let rules = [
        Rule::Sp { words: 2, bp: UNCHANGED },
        Rule::Bp { words: 2, bp: SavedBp::BelowCfa(2) },
        Rule::Sp { words: 4, bp: SavedBp::BelowCfa(4) },
        Rule::End,
    ];
    let stack = [0, code(1), 0, STACK + 99, code(2), 4711, 0, 0, code(3)];
    let mut process = Process::new(&rules, &stack);
    let (frames, stop) = process.walk(code(0), STACK, Some(STACK + 3 * WORD));
    assert_eq!(frames, [told(0, false), told(1, true), told(2, true), told(3, true)]);
    assert_eq!(stop, Stop::End);
    assert_eq!(process.finds, 1, "frames of one file need one look");
}

#[test]
fn a_call_at_a_functions_end_is_the_callers() {
    // The return address is where the next function begins, and that has no caller.
    let rules = [Rule::Sp { words: 1, bp: UNCHANGED }, Rule::Sp { words: 1, bp: UNCHANGED }, Rule::End];
    let (frames, stop) = Process::new(&rules, &[CODE + 32, code(2)]).walk(code(0), STACK, Some(0));
    assert_eq!(frames, [told(0, false), FrameWord::file(7, 0x101f), told(2, true)]);
    assert_eq!(stop, Stop::End);
}

#[test]
fn an_interrupted_frame_is_taken_at_its_very_address() {
    // The signal came at the first byte of a function, before its first push.
    let mut stack = vec![0; 30];
    let (signal_bp, sp) = (STACK + 27 * WORD, STACK + 25 * WORD);
    stack[0] = code(1);
    stack[1 + 15] = signal_bp;
    stack[1 + 20] = sp;
    stack[1 + 21] = CODE + 32;
    stack[25] = code(3);
    stack[28] = code(4);
    let rules = [
        Rule::Sp { words: 1, bp: UNCHANGED },
        Rule::Signal,
        Rule::Sp { words: 1, bp: UNCHANGED },
        Rule::Bp { words: 2, bp: SavedBp::BelowCfa(2) },
        Rule::End,
    ];
    let (frames, stop) = Process::new(&rules, &stack).walk(code(0), STACK, Some(1));
    assert_eq!(frames, [told(0, false), told(1, true), FrameWord::file(7, 0x1020), told(3, true), told(4, true)]);
    assert_eq!(stop, Stop::End);
}

#[test]
fn a_signal_may_lead_down_to_another_stack() {
    let mut stack = vec![0; 60];
    stack[31 + 20] = STACK;
    stack[31 + 21] = code(1);
    stack[30] = code(0);
    stack[0] = code(2);
    let rules = [Rule::Signal, Rule::Sp { words: 1, bp: UNCHANGED }, Rule::End];
    let (frames, stop) = Process::new(&rules, &stack).walk(code(1), STACK + 30 * WORD, Some(0));
    assert_eq!(frames, [told(1, false), told(0, true), told(1, false), told(2, true)]);
    assert_eq!(stop, Stop::End);
}

#[test]
fn an_entry_of_a_linkage_table_has_pushed_from_its_threshold_on() {
    for (at, pushed) in [(0, 0), (10, 0), (11, 1), (15, 1)] {
        let mut stack = [0; 2];
        stack[pushed] = code(1);
        let rules = [Rule::Plt(11), Rule::End];
        let (frames, stop) = Process::new(&rules, &stack).walk(CODE + at, STACK, Some(0));
        assert_eq!(frames, [FrameWord::file(7, 0x1000 + at), told(1, true)], "{at}");
        assert_eq!(stop, Stop::End);
    }
}

#[test]
fn a_realigned_frame_keeps_the_callers_stack_in_a_word_of_its_own() {
    // *(RBP - 8) is the CFA, RBP is saved where it points to.
    let stack = [0, STACK + 6 * WORD, 4711, 0, 0, code(1), 0, code(2)];
    let bp = SavedBp::Lost;
    let rules = [Rule::Realigned { a: -1, b: 0, bp: 0 }, Rule::Sp { words: 2, bp }, Rule::Bp { words: 1, bp }];
    let (frames, stop) = Process::new(&rules, &stack).walk(code(0), STACK, Some(STACK + 2 * WORD));
    assert_eq!(frames, [told(0, false), told(1, true), told(2, true)]);
    assert_eq!(stop, Stop::FramePointerLost);
}

#[test]
fn the_cfa_may_stand_in_a_word_of_the_stack() {
    let stack = [0, 0, STACK + 5 * WORD, 0, STACK + 8 * WORD, code(1), 0, 0, code(2)];
    let rules =
        [Rule::SpWord { a: 2, b: 1, bp: SavedBp::BelowCfa(2) }, Rule::Bp { words: 1, bp: UNCHANGED }, Rule::End];
    let (frames, stop) = Process::new(&rules, &stack).walk(code(0), STACK, None);
    assert_eq!(frames, [told(0, false), told(1, true), told(2, true)]);
    assert_eq!(stop, Stop::End);
    let rules = [Rule::BpWord { a: 2, b: 1, bp: UNCHANGED }, Rule::End];
    let (frames, stop) = Process::new(&rules, &stack).walk(code(0), STACK, Some(STACK));
    assert_eq!(frames, [told(0, false), told(1, true)]);
    assert_eq!(stop, Stop::End);
}

#[test]
fn other_registers_are_good_for_the_innermost_frame_only() {
    let rule = |register| Rule::Register { register, words: -1, bp: SavedBp::BelowCfa(1) };
    let stack = [0, 0, code(1), 0];
    let at = |register, words| {
        let rules = [Rule::Register { register, words, bp: UNCHANGED }, rule(10)];
        Process::new(&rules, &stack).walk(code(0), STACK, Some(0))
    };
    assert_eq!(at(10, 2), (vec![told(0, false), told(1, true)], Stop::Unsupported));
    assert_eq!(at(10, -1), (vec![told(0, false)], Stop::NotRising));
    assert_eq!(at(11, 2), (vec![told(0, false)], Stop::Unsupported));
}

#[test]
fn where_nothing_is_known_frame_pointers_lead_on() {
    for (ip, frame, without) in [
        (JIT + 5, FrameWord::address(JIT + 5), Stop::NoFile),
        (NO_TABLE + 5, FrameWord::file(VDSO_SLOT, 0x1005), Stop::NoTable),
        (code(0), told(0, false), Stop::NoRule),
        (CODE + 0x8000, FrameWord::file(7, 0x9000), Stop::NoRule),
    ] {
        let rules = [Rule::FramePointer, Rule::End];
        let stack = [0, STACK + 3 * WORD, JIT + 9, 0, code(1), NO_TABLE + 7];
        let walk = |bp| Process::new(&rules, &stack).walk(ip, STACK, bp);
        let (frames, stop) = walk(Some(STACK + WORD));
        assert_eq!((frames[0], frames[1], stop), (frame, FrameWord::address(JIT + 8), Stop::End));
        // Not aligned, below the stack, far above it, unreadable, leading to no code, none.
        for bp in [STACK + 9, STACK - WORD, STACK + (9 << 20), STACK + 50 * WORD, STACK + 2 * WORD, 0] {
            assert_eq!(walk(Some(bp)), (vec![frame], without), "{bp:x}");
        }
        assert_eq!(walk(None), (vec![frame], without));
    }
}

#[test]
fn a_chain_of_frame_pointers_ends_at_zero() {
    let stack = [0, NO_TABLE + 7];
    let (frames, stop) = Process::new(&[Rule::End], &stack).walk(JIT, STACK, Some(STACK));
    assert_eq!((frames.len(), stop), (2, Stop::End));
}

#[test]
fn a_return_address_of_zero_is_the_end() {
    let rules = [Rule::Sp { words: 1, bp: UNCHANGED }];
    let (frames, stop) = Process::new(&rules, &[0]).walk(code(0), STACK, Some(1));
    assert_eq!((frames.len(), stop), (1, Stop::End));
}

#[test]
fn what_cannot_be_gone_on_with_says_why() {
    let bp = SavedBp::BelowCfa(2);
    let cases = [
        (Rule::Unsupported(Lack::Register), Stop::Unsupported),
        (Rule::Sp { words: 0, bp }, Stop::NotRising),
        (Rule::Bp { words: 0, bp }, Stop::NotRising),
        (Rule::Sp { words: 100, bp }, Stop::Unreadable),
        (Rule::SpWord { a: 100, b: 0, bp }, Stop::Unreadable),
        (Rule::SpWord { a: 0, b: 0, bp }, Stop::NotRising),
        (Rule::Sp { words: 3, bp }, Stop::NotCode),
        (Rule::Sp { words: 4, bp }, Stop::UnknownProcess),
    ];
    for (rule, expected) in cases {
        let stack = [0, 0, 4711, UNKNOWN + 1];
        let (frames, stop) = Process::new(&[rule], &stack).walk(code(0), STACK, Some(STACK - 16));
        assert_eq!((frames, stop), (vec![told(0, false)], expected), "{rule:?}");
    }
    let (frames, stop) = Process::new(&[Rule::End], &[]).walk(0, STACK, Some(STACK));
    assert_eq!((frames, stop), (vec![], Stop::NotCode));
    let (frames, stop) = Process::new(&[Rule::End], &[]).walk(16, STACK, Some(STACK));
    assert_eq!((frames, stop), (vec![FrameWord::address(16)], Stop::NotCode));
}

#[test]
fn as_many_frames_are_told_as_are_kept() {
    let rules = [Rule::Sp { words: 1, bp: UNCHANGED }];
    let (frames, stop) = Process::new(&rules, &[code(0); 1000]).walk(code(0), STACK, Some(0));
    assert_eq!((frames.len(), stop), (DEPTH as usize, Stop::TooDeep));
}

#[test]
fn a_broken_table_ends_the_walk() {
    let mut process = Process::new(&[Rule::End], &[]);
    process.tables.rows.clear();
    assert_eq!(process.walk(code(0), STACK, None), (vec![told(0, false)], Stop::BrokenTable));
}

#[test]
fn registers_stand_in_the_kernels_order() {
    // RAX RDX RCX RBX RSI RDI RBP and, after RSP, R8 to R15.
    let before = [10, 12, 11, 5, 13, 14, 4];
    let behind = [9, 8, 7, 6, 3, 2, 1, 0];
    assert_eq!(std::array::from_fn(|register| pt_regs_index(register as u32)), before);
    assert_eq!(std::array::from_fn(|register| pt_regs_index(register as u32 + 8)), behind);
}
