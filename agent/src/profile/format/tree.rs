//! One or two profiles as a tree of calls in columns of numbers, small enough for a page: what the viewer reads.
//!
//! Frames that differ by their line only are one function, with its heaviest lines. Nodes stand callers first, each
//! before what it calls, so that how many levels one goes up before the next is all that has to be told of its place.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::{numbers::Numbers, text};
use crate::model::profile::{Frame, Origin, Profile, Stack, State};

/// Lines that are kept of each function, those with the most time.
const LINES: usize = 3;

/// The columns. Strings are named by number, 0 is the empty one.
#[derive(Debug, Default, Serialize)]
pub struct Tree {
    pub strings: Vec<String>,
    pub functions: Functions,
    pub lines: Lines,
    pub nodes: Nodes,
    pub groups: Groups,
    pub weights: Weights,
}

/// Functions, ordered by module and name.
#[derive(Debug, Default, Serialize)]
pub struct Functions {
    pub name: Vec<usize>,
    pub module: Vec<usize>,
    /// See [`kind`].
    pub kind: Vec<u8>,
}

/// Lines of functions; by function, then by weight.
#[derive(Debug, Default, Serialize)]
pub struct Lines {
    /// How many each function has.
    pub count: Vec<usize>,
    pub file: Vec<usize>,
    pub line: Vec<u32>,
    pub ns: Vec<u64>,
}

/// Nodes, callers first.
#[derive(Debug, Default, Serialize)]
pub struct Nodes {
    /// How many levels above the node before it the caller of this one stands: 0 if that is its caller.
    pub up: Vec<u32>,
    pub function: Vec<usize>,
}

/// Whose stacks are.
#[derive(Debug, Default, Serialize)]
pub struct Groups {
    pub service: Vec<usize>,
    pub thread: Vec<usize>,
    pub pid: Vec<u32>,
    pub tid: Vec<u32>,
    pub query: Vec<usize>,
}

/// What nodes weigh themselves, without what they call; in the order of nodes.
#[derive(Debug, Default, Serialize)]
pub struct Weights {
    /// How many places its node stands behind that of the weight before it. The root has place 0, the first node 1.
    pub ahead: Vec<usize>,
    pub group: Vec<usize>,
    /// Bit 0: waiting; bit 1: of the baseline.
    pub flags: Vec<u8>,
    pub ns: Vec<u64>,
    pub samples: Vec<u64>,
}

impl Tree {
    /// Of a profile, and of a baseline.
    pub fn of(profile: &Profile, baseline: Option<&Profile>) -> Self {
        let mut growing = Growing::default();
        growing.add(profile, 0);
        if let Some(baseline) = baseline {
            growing.add(baseline, 2);
        }
        growing.grown()
    }
}

/// What kind of code a function is, by number: user, inlined, kernel, interpreted, JIT, note.
fn kind(frame: &Frame) -> u8 {
    match frame.origin {
        Origin::User => u8::from(frame.inlined),
        Origin::Kernel => 2,
        Origin::Interpreted => 3,
        Origin::Jit => 4,
        Origin::Note => 5,
    }
}

/// Module, name, kind.
type FunctionKey = (String, String, u8);

type GroupKey = (String, String, u32, u32, String);

/// A tree under construction. Node 0 is the root, which no frame is.
#[derive(Default)]
struct Growing {
    functions: BTreeMap<FunctionKey, usize>,
    /// By function, then file and line.
    lines: HashMap<usize, BTreeMap<(String, u32), u64>>,
    /// By caller and function.
    nodes: HashMap<(usize, usize), usize>,
    /// Of each node but the root its caller and function.
    in_order: Vec<(usize, usize)>,
    groups: BTreeMap<GroupKey, usize>,
    /// By node, group and flags.
    weights: HashMap<(usize, usize, u8), (u64, u64)>,
}

impl Growing {
    fn add(&mut self, profile: &Profile, side: u8) {
        let mut known: HashMap<u32, usize> = HashMap::new();
        for stack in &profile.stacks {
            let mut node = 0;
            for (index, frame) in text::frames(profile, stack) {
                let function = *known.entry(index).or_insert_with(|| {
                    let key = (displayed(&frame.module), text::shown(&frame.function).into_owned(), kind(frame));
                    let next = self.functions.len();
                    *self.functions.entry(key).or_insert(next)
                });
                if side == 0 && (frame.line != 0 || !frame.file.is_empty()) {
                    let lines = self.lines.entry(function).or_default();
                    let place = (displayed(&frame.file), frame.line);
                    let ns = lines.entry(place).or_default();
                    *ns = ns.saturating_add(stack.ns);
                }
                let next = self.in_order.len() + 1;
                let child = *self.nodes.entry((node, function)).or_insert(next);
                if child == next {
                    self.in_order.push((node, function));
                }
                node = child;
            }
            let group = self.group(stack);
            let flags = side | u8::from(stack.state == State::OffCpu);
            let (ns, samples) = self.weights.entry((node, group, flags)).or_default();
            *ns = ns.saturating_add(stack.ns);
            *samples = samples.saturating_add(stack.samples);
        }
    }

    fn group(&mut self, stack: &Stack) -> usize {
        let query = displayed(stack.query.as_deref().unwrap_or_default());
        let key = (displayed(&stack.service), displayed(&stack.thread), stack.pid, stack.tid, query);
        let next = self.groups.len();
        *self.groups.entry(key).or_insert(next)
    }

    fn grown(self) -> Tree {
        let mut tree = Tree::default();
        let mut strings: Numbers<String> = Numbers::default();
        strings.of(String::new());

        // Like names stand together, which packs well.
        let mut functions: Vec<usize> = vec![0; self.functions.len()];
        for (place, ((module, name, kind), number)) in self.functions.iter().enumerate() {
            tree.functions.module.push(strings.of(module.clone()));
            tree.functions.name.push(strings.of(name.clone()));
            tree.functions.kind.push(*kind);
            put(&mut functions, *number, place);
            let mut lines: Vec<_> = self.lines.get(number).into_iter().flatten().collect();
            lines.sort_by_key(|(_, ns)| std::cmp::Reverse(**ns));
            lines.truncate(LINES);
            tree.lines.count.push(lines.len());
            for ((file, line), ns) in lines {
                tree.lines.file.push(strings.of(file.clone()));
                tree.lines.line.push(*line);
                tree.lines.ns.push(*ns);
            }
        }
        let mut groups: Vec<usize> = vec![0; self.groups.len()];
        for (place, ((service, thread, pid, tid, query), number)) in self.groups.iter().enumerate() {
            tree.groups.service.push(strings.of(service.clone()));
            tree.groups.thread.push(strings.of(thread.clone()));
            tree.groups.pid.push(*pid);
            tree.groups.tid.push(*tid);
            tree.groups.query.push(strings.of(query.clone()));
            put(&mut groups, *number, place);
        }

        let places = self.walk(&functions, &mut tree.nodes);
        let place_of = |places: &[usize], number: usize| places.get(number).copied().unwrap_or_default();
        let mut weights: Vec<_> = self
            .weights
            .iter()
            .map(|((node, group, flags), weight)| {
                (place_of(&places, *node), place_of(&groups, *group), *flags, *weight)
            })
            .collect();
        weights.sort_unstable();
        let mut before = 0;
        for (node, group, flags, (ns, samples)) in weights {
            tree.weights.ahead.push(node - before);
            before = node;
            tree.weights.group.push(group);
            tree.weights.flags.push(flags);
            tree.weights.ns.push(ns);
            tree.weights.samples.push(samples);
        }
        tree.strings = strings.into_all();
        tree
    }

    /// Writes the nodes callers first; returns the place of each, counted from 1 as the root has place 0.
    fn walk(&self, functions: &[usize], nodes: &mut Nodes) -> Vec<usize> {
        let count = self.in_order.len() + 1;
        let (mut first, mut next) = (vec![0; count], vec![0; count]);
        // Backwards, so that children stand in the order in which they came.
        for (&(caller, _), node) in self.in_order.iter().zip(1..count).rev() {
            let sibling = first.get(caller).copied().unwrap_or_default();
            put(&mut next, node, sibling);
            put(&mut first, caller, node);
        }
        let mut places = vec![0; count];
        let mut waiting: Vec<(usize, u32)> = vec![(first.first().copied().unwrap_or_default(), 0)];
        let mut last_depth = 0;
        while let Some((node, depth)) = waiting.pop() {
            let Some((_, function)) = node.checked_sub(1).and_then(|at| self.in_order.get(at)) else { continue };
            nodes.up.push(last_depth - depth);
            nodes.function.push(functions.get(*function).copied().unwrap_or_default());
            put(&mut places, node, nodes.up.len());
            last_depth = depth + 1;
            waiting.push((next.get(node).copied().unwrap_or_default(), depth));
            waiting.push((first.get(node).copied().unwrap_or_default(), depth + 1));
        }
        places
    }
}

fn displayed(name: &str) -> String {
    if name.is_empty() { String::new() } else { text::shown(name).into_owned() }
}

fn put(column: &mut [usize], at: usize, value: usize) {
    if let Some(place) = column.get_mut(at) {
        *place = value;
    }
}
