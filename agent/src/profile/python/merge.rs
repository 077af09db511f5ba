//! Python's frames in the native stack: each call of the interpreter is replaced by the functions that it runs. Knows
//! names, no memory.

use crate::model::profile::Frame;

/// The function that runs Python's.
const INTERPRETER: &str = "_PyEval_EvalFrameDefault";

/// A frame of Python, or the end of a run of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonFrame {
    /// None if this only ends a run.
    pub frame: Option<Frame>,
    /// Whether the next frame is another call's, see [`steth_probes::python::Frame`].
    pub ends_run: bool,
}

/// A native stack.
#[derive(Clone, Copy, Debug)]
pub struct Native<'s> {
    /// The outermost function first.
    pub frames: &'s [Frame],
    /// Whether it reaches the thread's beginning.
    pub is_complete: bool,
    /// Whether it may show more calls of the interpreter than there are runs, because the outermost functions were left out.
    pub is_cut: bool,
}

/// Puts a thread's Python frames, the innermost first, where the interpreter stands in its native stack. The outermost
/// frame comes first.
///
/// A call of the interpreter that runs nothing yet, or nothing any more, keeps its name. Functions whose call is not in
/// the stack, because the walk did not get that far, stand outside of it.
pub fn merge(native: Native<'_>, python: &[PythonFrame]) -> Vec<Frame> {
    let mut runs: Vec<Vec<&Frame>> = Vec::new();
    for run in python.split_inclusive(|frame| frame.ends_run) {
        let frames: Vec<&Frame> = run.iter().rev().filter_map(|frame| frame.frame.as_ref()).collect();
        if !frames.is_empty() {
            runs.push(frames);
        }
    }
    // From here on, as the native frames, from outside.
    runs.reverse();
    let calls: Vec<usize> =
        native.frames.iter().enumerate().filter(|(_, frame)| is_interpreter(frame)).map(|(at, _)| at).collect();
    // A complete stack has all calls: if one has no run, it is the innermost, at its beginning or end. Of one that breaks
    // off the innermost calls are there.
    let outside = if native.is_complete { 0 } else { runs.len().saturating_sub(calls.len()) };
    let mut merged: Vec<Frame> = Vec::with_capacity(native.frames.len() + python.len());
    merged.extend(runs.iter().take(outside).flatten().copied().cloned());
    let mut inside = runs.iter().skip(outside);
    let left_out = if native.is_cut { calls.len().saturating_sub(runs.len()) } else { 0 };
    let mut calls = calls.into_iter().skip(left_out).peekable();
    for (at, frame) in native.frames.iter().enumerate() {
        let run = if calls.next_if_eq(&at).is_some() { inside.next() } else { None };
        match run {
            Some(run) => merged.extend(run.iter().copied().cloned()),
            None => merged.push(frame.clone()),
        }
    }
    // More runs than calls: the stack was read at another moment. Nothing is left out.
    merged.extend(inside.flatten().copied().cloned());
    merged
}

/// Compilers cut it into parts, whose names have something behind a point.
fn is_interpreter(frame: &Frame) -> bool {
    let rest = frame.function.strip_prefix(INTERPRETER);
    !frame.inlined && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::profile::Origin;

    fn frame(name: &str) -> Frame {
        let empty: Arc<str> = Arc::from("");
        let (file, module) = (Arc::clone(&empty), empty);
        Frame { function: Arc::from(name), module, file, line: 0, inlined: false, origin: Origin::User }
    }

    /// Native frames from outside, `E` for the interpreter; Python's from inside, `|` where a run ends, `…` if there were more.
    #[track_caller]
    fn check(native: &str, is_complete: bool, python: &str, expected: &str) {
        let (is_cut, python) = (python.ends_with("…"), python.trim_end_matches("…"));
        let name = |name: &str| frame(if name == "E" { INTERPRETER } else { name });
        let frames: Vec<Frame> = native.split_whitespace().map(name).collect();
        let mut runs: Vec<PythonFrame> = Vec::new();
        for part in python.split_whitespace() {
            match (part, runs.last_mut()) {
                ("|", Some(last)) => last.ends_run = true,
                ("||", _) => runs.push(PythonFrame { frame: None, ends_run: true }),
                _ => runs.push(PythonFrame { frame: Some(frame(part)), ends_run: false }),
            }
        }
        let merged = merge(Native { frames: &frames, is_complete, is_cut }, &runs);
        let merged: Vec<&str> =
            merged.iter().map(|frame| if &*frame.function == INTERPRETER { "E" } else { &*frame.function }).collect();
        assert_eq!(merged.join(" "), expected);
    }

    #[test]
    fn one_call_may_run_several_functions() {
        check("main E sleep", true, "c b a |", "main a b c sleep");
        check("main E sort E sleep", true, "d c | b a |", "main a b sort c d sleep");
        // As 3.12 says it: the end is a frame of its own.
        check("main E sort E sleep", true, "d c || b a ||", "main a b sort c d sleep");
        check("main E call E read", true, "b | a |", "main a call b read");
    }

    #[test]
    fn a_call_that_begins_or_ends_keeps_its_name() {
        check("main E sort E", true, "b a |", "main a b sort E");
        check("main E", true, "", "main E");
    }

    #[test]
    fn the_innermost_calls_run_what_was_kept() {
        check("main E call E sort E sleep", true, "c | b | …", "main E call b sort c sleep");
    }

    #[test]
    fn what_the_walk_did_not_reach_stands_outside() {
        check("sort E sleep", false, "d c | b a |", "a b sort c d sleep");
        check("sleep", false, "b a |", "a b sleep");
    }

    #[test]
    fn nothing_is_left_out_when_the_two_do_not_fit() {
        check("main E sleep", true, "c | b | a |", "main a sleep b c");
        check("main sleep", true, "a |", "main sleep a");
    }

    #[test]
    fn parts_of_the_interpreter_are_it_and_others_are_not() {
        assert!(is_interpreter(&frame("_PyEval_EvalFrameDefault.cold")));
        assert!(!is_interpreter(&frame("_PyEval_EvalFrameDefaultX")));
        assert!(!is_interpreter(&frame("PyEval_EvalCode")));
    }
}
