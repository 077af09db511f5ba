//! Walks over memory made up for the purpose. Real interpreters are walked in the agent's tests.

use std::collections::HashMap;

use super::*;

/// Words by address; what is not there cannot be read.
#[derive(Default)]
struct Made(HashMap<u64, u64>);

impl Memory for Made {
    fn word(&mut self, address: u64) -> Option<u64> {
        self.0.get(&address).copied()
    }
}

impl Made {
    fn put(&mut self, structure: u64, offset: u16, value: u64) {
        self.0.insert(structure + u64::from(offset), value);
    }

    fn frames(&mut self, layout: &Layout, thread: u64) -> (Vec<Frame>, bool) {
        let mut walk = Walk::new(self, layout, thread).unwrap();
        let frames = std::iter::from_fn(|| walk.step(self, layout)).collect();
        (frames, walk.is_done())
    }
}

fn layout(minor: u8) -> Layout {
    Layout::of(Version { minor }).unwrap()
}

#[test]
fn a_thread_is_found_in_any_interpreter() {
    let layout = layout(12);
    let mut memory = Made::default();
    memory.put(0x1000, layout.interpreters, 0x2000);
    for (interpreter, next, threads) in [(0x2000, 0x3000, 0x4000), (0x3000, 0, 0x6000)] {
        memory.put(interpreter, layout.next_interpreter, next);
        memory.put(interpreter, layout.threads, threads);
    }
    for (thread, next, tid) in [(0x4000, 0x5000, 11), (0x5000, 0, 12), (0x6000, 0, 13)] {
        memory.put(thread, layout.next_thread, next);
        memory.put(thread, layout.native_thread_id, tid);
    }
    let mut find = |tid| {
        let mut search = Search::new(&mut memory, &layout, 0x1000).unwrap();
        (0..10).map(|_| search.step(&mut memory, &layout, tid)).find(|step| *step != Searched::GoOn)
    };
    assert_eq!(find(11), Some(Searched::Found(0x4000)));
    assert_eq!(find(12), Some(Searched::Found(0x5000)));
    assert_eq!(find(13), Some(Searched::Found(0x6000)));
    assert_eq!(find(14), Some(Searched::Nowhere));
}

#[test]
fn an_older_thread_is_told_by_its_descriptor() {
    let layout = layout(10);
    let mut memory = Made::default();
    memory.put(0x1000, layout.interpreters, 0x2000);
    memory.put(0x2000, layout.threads, 0x4000);
    memory.put(0x2000, layout.next_interpreter, 0);
    memory.put(0x4000, layout.thread_id, 0x9000);
    memory.put(0x4000, layout.next_thread, 0);
    memory.0.insert(0x9000 + PTHREAD_TID, 0xffff_0000_0000_0007);
    let mut search = Search::new(&mut memory, &layout, 0x1000).unwrap();
    assert_eq!(search.step(&mut memory, &layout, 7), Searched::Found(0x4000));
}

#[test]
fn a_run_ends_where_the_release_says_so() {
    for (minor, marks, expected) in [
        (10, [0, 0, 0], vec![true, true, true]),
        (11, [0, 1, 1], vec![false, true, true]),
        // The middle one stands for no function.
        (12, [0, 3, 1], vec![false, true, false]),
    ] {
        let layout = layout(minor);
        let mut memory = Made::default();
        memory.put(0x100, layout.frame, if layout.cframe_frame == NONE { 0x1000 } else { 0x200 });
        memory.put(0x200, layout.cframe_frame, 0x1000);
        for (index, mark) in marks.into_iter().enumerate() {
            let frame = 0x1000 * (index as u64 + 1);
            let code = 0x10_0000 + frame;
            memory.put(frame, layout.code, code);
            memory.put(frame, layout.previous, if index == 2 { 0 } else { frame + 0x1000 });
            let at = if layout.instructions == NONE { 4 } else { code + u64::from(layout.instructions) + 8 };
            memory.put(frame, layout.instruction, at);
            if layout.mark_at != NONE {
                memory.put(frame, layout.mark_at, mark);
            }
        }
        let (frames, is_done) = memory.frames(&layout, 0x100);
        assert!(is_done);
        assert_eq!(frames.iter().map(|frame| frame.ends_run).collect::<Vec<_>>(), expected, "3.{minor}");
        assert!(frames.iter().all(|frame| frame.code == 0 || frame.instruction == 8), "3.{minor}: {frames:?}");
        assert_eq!(frames[1].code == 0, minor == 12);

        memory.0.remove(&(0x2000 + u64::from(layout.previous)));
        let (frames, is_done) = memory.frames(&layout, 0x100);
        assert_eq!((frames.len(), is_done), (1, false), "what cannot be read is not taken for the end");
    }
}

#[test]
fn what_does_not_say_its_layout_has_none() {
    let mut memory = Made::default();
    assert_eq!(Layout::read(&mut memory, 0x1000), None);
    for at in (0..600).step_by(8) {
        memory.0.insert(0x1000 + at, 16);
    }
    assert_eq!(Layout::read(&mut memory, 0x1000), None);
    memory.0.insert(0x1000, u64::from_le_bytes(*b"xdebugpy"));
    memory.0.insert(0x1008, 0x030d_00f0);
    memory.0.insert(0x1010, 0);
    assert_eq!(Layout::read(&mut memory, 0x1000).unwrap().frame, 16);
    memory.0.insert(0x1010, 1);
    assert_eq!(Layout::read(&mut memory, 0x1000), None, "without the global lock");
    assert_eq!(Layout::of(Version { minor: 9 }), None);
}
