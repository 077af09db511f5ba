//! The Firefox Profiler's JSON: its processed format, version 55, which each newer profiler reads.
//!
//! Weights are milliseconds with fractions. A profile does not keep when each sample was taken, so samples are spread
//! evenly over its length; the profiler's timeline means nothing, its tree and flame graph do.

use std::{
    collections::HashMap,
    io::{self, BufWriter, Write},
    time::UNIX_EPOCH,
};

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{numbers::Numbers, text};
use crate::model::profile::{Frame, Origin, Profile, Stack, State};

/// Kinds of frames with the profiler's colours, by their number in [`category`].
const CATEGORIES: [(&str, &str); 7] = [
    ("User code", "yellow"),
    ("Inlined", "yellow"),
    ("Kernel", "orange"),
    ("Interpreted", "green"),
    ("JIT", "magenta"),
    ("No code", "grey"),
    ("Waiting", "blue"),
];

/// Writes a profile.
///
/// # Errors
/// The writer's.
pub fn write(profile: &Profile, to: &mut dyn Write) -> io::Result<()> {
    let mut libs = Numbers::default();
    let mut threads: Vec<Thread<'_>> = Vec::new();
    let mut known: HashMap<(&str, &str, u32, u32), usize> = HashMap::new();
    for stack in &profile.stacks {
        let key = (&*stack.service, &*stack.thread, stack.pid, stack.tid);
        let next = threads.len();
        let at = *known.entry(key).or_insert(next);
        if at == next {
            threads.push(Thread::of(stack));
        }
        if let Some(thread) = threads.get_mut(at) {
            thread.add(profile, stack, &mut libs);
        }
    }
    let lasted_ms = profile.lasted.as_secs_f64() * 1e3;
    let mut to = BufWriter::new(to);
    let file = File {
        meta: meta(profile),
        libs: libs.all().iter().map(|name| lib(name)).collect(),
        threads: threads.into_iter().map(|thread| Told { thread, lasted_ms }).collect(),
        pages: [],
        profiler_overhead: [],
        counters: [],
    };
    serde_json::to_writer(&mut to, &file)?;
    to.flush()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    meta: Value,
    libs: Vec<Value>,
    threads: Vec<Told<'a>>,
    pages: [(); 0],
    profiler_overhead: [(); 0],
    counters: [(); 0],
}

/// A thread that becomes JSON when its turn comes: all at once would take many times the memory.
struct Told<'a> {
    thread: Thread<'a>,
    lasted_ms: f64,
}

impl Serialize for Told<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.thread.told(self.lasted_ms).serialize(serializer)
    }
}

fn meta(profile: &Profile) -> Value {
    let categories: Vec<Value> = CATEGORIES
        .iter()
        .map(|(name, color)| json!({ "name": name, "color": color, "subcategories": ["Other"] }))
        .collect();
    let told = profile.notes.iter().map(|note| ("Note", text::shown(note).into_owned()));
    let facts =
        [("Profile", text::facts(profile)), ("Timeline", "samples are spread evenly, not in their order".into())];
    let entries: Vec<Value> = facts
        .into_iter()
        .chain(told)
        .map(|(label, value)| json!({ "label": label, "format": "string", "value": value }))
        .collect();
    let began = profile.began.duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "categories": categories,
        "debug": false,
        "extensions": { "length": 0, "baseURL": [], "id": [], "name": [] },
        "extra": [{ "label": "steth", "entries": entries }],
        "interval": 1e3 / f64::from(profile.hertz.max(1)),
        "markerSchema": [],
        "oscpu": "Linux",
        "pausedRanges": [],
        "preprocessedProfileVersion": 55,
        "processType": 0,
        "product": text::title(profile),
        "sampleUnits": { "time": "ms", "eventDelay": "ms", "threadCPUDelta": "µs" },
        "sourceCodeIsNotOnSearchfox": true,
        "startTime": began.as_secs_f64() * 1e3,
        "symbolicated": true,
        "usesOnlyOneStackType": true,
        "version": 24,
    })
}

fn lib(name: &str) -> Value {
    json!({
        "name": name, "path": name, "debugName": name, "debugPath": name,
        "breakpadId": "000000000000000000000000000000000", "codeId": null, "arch": null,
    })
}

/// A thread's tables, each in columns.
struct Thread<'a> {
    whose: &'a Stack,
    strings: Numbers<String>,
    /// Name, file, resource.
    functions: Numbers<(usize, Option<usize>, Option<usize>)>,
    /// Name and number of the library.
    resources: Numbers<(usize, usize)>,
    /// Function, line, category, how many it is inlined into.
    frames: Numbers<(usize, Option<u32>, usize, u32)>,
    /// Caller's stack, frame.
    stacks: Numbers<(Option<usize>, usize)>,
    samples: Vec<(Option<usize>, f64)>,
}

impl<'a> Thread<'a> {
    fn of(stack: &'a Stack) -> Self {
        Self {
            whose: stack,
            strings: Numbers::default(),
            functions: Numbers::default(),
            resources: Numbers::default(),
            frames: Numbers::default(),
            stacks: Numbers::default(),
            samples: Vec::new(),
        }
    }

    fn add(&mut self, profile: &Profile, stack: &Stack, libs: &mut Numbers<String>) {
        let (mut at, mut depth) = (None, 0);
        for (_, frame) in text::frames(profile, stack) {
            depth = if frame.inlined { depth + 1 } else { 0 };
            let frame = self.frame(frame, category(frame, stack.state), depth, libs);
            at = Some(self.stacks.of((at, frame)));
        }
        self.samples.push((at, stack.ns as f64 / 1e6));
    }

    fn frame(&mut self, frame: &Frame, category: usize, depth: u32, libs: &mut Numbers<String>) -> usize {
        let name = self.strings.of(text::shown(&frame.function).into_owned());
        let file = (!frame.file.is_empty()).then(|| self.strings.of(text::shown(&frame.file).into_owned()));
        let resource = (!frame.module.is_empty()).then(|| {
            let module = text::shown(&frame.module).into_owned();
            let name = self.strings.of(module.clone());
            self.resources.of((name, libs.of(module)))
        });
        let function = self.functions.of((name, file, resource));
        self.frames.of((function, (frame.line != 0).then_some(frame.line), category, depth))
    }

    /// As JSON, its samples spread over the length of the profile.
    fn told(&self, lasted_ms: f64) -> Value {
        let (frames, functions) = (self.frames.all(), self.functions.all());
        let (resources, stacks) = (self.resources.all(), self.stacks.all());
        let none = |count: usize| vec![Value::Null; count];
        let apart_ms = lasted_ms / self.samples.len().max(1) as f64;
        let deltas: Vec<f64> = (0..self.samples.len()).map(|at| if at == 0 { 0.0 } else { apart_ms }).collect();
        let Stack { service, thread, pid, tid, .. } = self.whose;
        let name = if thread.is_empty() { service } else { thread };
        json!({
            "name": text::shown(name),
            "processName": text::shown(service),
            "isMainThread": pid == tid,
            "processType": "default",
            "pid": pid.to_string(),
            "tid": tid.to_string(),
            "processStartupTime": 0.0,
            "processShutdownTime": lasted_ms,
            "registerTime": 0.0,
            "unregisterTime": lasted_ms,
            "pausedRanges": [],
            "showMarkersInTimeline": false,
            "stringArray": self.strings.all(),
            "samples": {
                "length": self.samples.len(),
                "weightType": "tracing-ms",
                "stack": self.samples.iter().map(|sample| sample.0).collect::<Vec<_>>(),
                "timeDeltas": deltas,
                "weight": self.samples.iter().map(|sample| sample.1).collect::<Vec<_>>(),
            },
            "stackTable": {
                "length": stacks.len(),
                "prefix": stacks.iter().map(|stack| stack.0).collect::<Vec<_>>(),
                "frame": stacks.iter().map(|stack| stack.1).collect::<Vec<_>>(),
            },
            "frameTable": {
                "length": frames.len(),
                "address": vec![-1; frames.len()],
                "inlineDepth": frames.iter().map(|frame| frame.3).collect::<Vec<_>>(),
                "category": frames.iter().map(|frame| frame.2).collect::<Vec<_>>(),
                "subcategory": vec![0; frames.len()],
                "func": frames.iter().map(|frame| frame.0).collect::<Vec<_>>(),
                "nativeSymbol": none(frames.len()),
                "innerWindowID": vec![0; frames.len()],
                "line": frames.iter().map(|frame| frame.1).collect::<Vec<_>>(),
                "column": none(frames.len()),
            },
            "funcTable": {
                "length": functions.len(),
                "name": functions.iter().map(|function| function.0).collect::<Vec<_>>(),
                "isJS": vec![false; functions.len()],
                "relevantForJS": vec![false; functions.len()],
                "resource": functions.iter().map(|function| function.2.map_or(json!(-1), Value::from)).collect::<Vec<_>>(),
                "fileName": functions.iter().map(|function| function.1).collect::<Vec<_>>(),
                "lineNumber": none(functions.len()),
                "columnNumber": none(functions.len()),
            },
            "resourceTable": {
                "length": resources.len(),
                "lib": resources.iter().map(|resource| resource.1).collect::<Vec<_>>(),
                "name": resources.iter().map(|resource| resource.0).collect::<Vec<_>>(),
                "host": none(resources.len()),
                "type": vec![1; resources.len()],
            },
            "nativeSymbols": { "length": 0, "address": [], "functionSize": [], "libIndex": [], "name": [] },
            "markers": {
                "length": 0, "category": [], "data": [], "endTime": [], "name": [], "phase": [], "startTime": [],
            },
        })
    }
}

/// The number in [`CATEGORIES`].
fn category(frame: &Frame, state: State) -> usize {
    match (state, frame.origin) {
        (_, Origin::Note) => 5,
        (State::OffCpu, _) => 6,
        (State::OnCpu, Origin::User) => usize::from(frame.inlined),
        (State::OnCpu, Origin::Kernel) => 2,
        (State::OnCpu, Origin::Interpreted) => 3,
        (State::OnCpu, Origin::Jit) => 4,
    }
}
