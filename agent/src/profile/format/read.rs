//! A saved profile is read again: pprof, of ours or of others that measure time, and folded stacks. What a format does not hold
//! (lines in folded stacks, for example) is missing then; what it weighs is the same.

use std::{
    collections::HashMap,
    io::Read as _,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use flate2::read::GzDecoder;
use prost::Message as _;

use super::{folded, pprof::proto, text};
use crate::model::profile::{Frame, Kind, Origin, Profile, Stack, State};

/// The most that an unpacked profile may have; ours have some megabytes.
pub const MOST_BYTES: u64 = 512 << 20;
const GZIP: &[u8] = &[0x1f, 0x8b];

/// Why a profile cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is packed, and does not unpack.
    #[error("it cannot be unpacked: {0}")]
    Packed(#[from] std::io::Error),
    /// It is larger than anything that is looked at.
    #[error("unpacked it has more than {} MiB", MOST_BYTES >> 20)]
    TooLarge,
    /// It is no protobuf.
    #[error("it is no pprof: {0}")]
    NoPprof(#[from] prost::DecodeError),
    /// A line is none.
    #[error("line {line} is no folded stack: {text:?}; a line is `caller;callee 123`")]
    NoStack {
        /// Its number.
        line: usize,
        /// How it begins.
        text: String,
    },
    /// A line has two weights.
    #[error("line {0} has two weights: it is a difference, and not a profile")]
    Difference(usize),
    /// None of its values is time.
    #[error("it does not tell of time, but of {0}")]
    NoTime(String),
}

/// Reads a profile, whatever its file is called.
///
/// # Errors
/// If it is neither pprof nor folded stacks, or tells of something else than time.
pub fn read(bytes: &[u8]) -> Result<Profile, Unreadable> {
    if bytes.starts_with(GZIP) {
        let mut unpacked = Vec::new();
        GzDecoder::new(bytes).take(MOST_BYTES + 1).read_to_end(&mut unpacked)?;
        if unpacked.len() as u64 > MOST_BYTES {
            return Err(Unreadable::TooLarge);
        }
        return of_pprof(&proto::Profile::decode(&*unpacked)?);
    }
    // Protobuf has control characters from its first field on, folded stacks have none.
    match str::from_utf8(bytes) {
        Ok(lines) if !lines.contains(|char: char| char.is_control() && !char.is_whitespace()) => of_folded(lines),
        _ => of_pprof(&proto::Profile::decode(bytes)?),
    }
}

/// A profile of which nothing is known yet.
fn blank(kind: Kind) -> Reading {
    let profile = Profile {
        target: "a saved profile".into(),
        kind,
        began: UNIX_EPOCH,
        lasted: Duration::ZERO,
        hertz: 0,
        frames: Vec::new(),
        stacks: Vec::new(),
        notes: Vec::new(),
    };
    Reading { profile, known: HashMap::new() }
}

struct Reading {
    profile: Profile,
    known: HashMap<Frame, u32>,
}

impl Reading {
    fn frame(&mut self, frame: Frame) -> u32 {
        let next = u32::try_from(self.profile.frames.len()).unwrap_or(u32::MAX);
        *self.known.entry(frame).or_insert_with_key(|frame| {
            self.profile.frames.push(frame.clone());
            next
        })
    }
}

/// Which value of a sample is what, and its unit in nanoseconds.
struct Values {
    count: Option<usize>,
    on: Option<(usize, i64)>,
    off: Option<(usize, i64)>,
    kind: Kind,
}

fn of_pprof(file: &proto::Profile) -> Result<Profile, Unreadable> {
    let string = |at: i64| usize::try_from(at).ok().and_then(|at| file.string_table.get(at)).map_or("", |it| &**it);
    let values = values(file, string)?;
    let mut reading = blank(values.kind);
    let profile = &mut reading.profile;
    profile.began = UNIX_EPOCH + Duration::from_nanos(unsigned(file.time_nanos));
    profile.lasted = Duration::from_nanos(unsigned(file.duration_nanos));
    profile.hertz = match values.on {
        Some(_) => u32::try_from(1_000_000_000_u64.checked_div(unsigned(file.period)).unwrap_or(0)).unwrap_or(0),
        None => 0,
    };
    let mut comments = file.comment.iter().map(|at| string(*at).to_owned()).peekable();
    let title = format!("{} of ", text::what(values.kind));
    if let Some(target) = comments.next_if(|comment| comment.starts_with(&title)) {
        profile.target = target.get(title.len()..).unwrap_or_default().to_owned();
    }
    profile.notes = comments.collect();
    let mappings: HashMap<u64, &proto::Mapping> = file.mapping.iter().map(|it| (it.id, it)).collect();
    let functions: HashMap<u64, &proto::Function> = file.function.iter().map(|it| (it.id, it)).collect();
    let mut locations: HashMap<u64, Vec<u32>> = HashMap::new();
    for location in &file.location {
        let module = mappings.get(&location.mapping_id).map_or("", |mapping| string(mapping.filename));
        let module = module.rsplit_once('/').map_or(module, |(_, name)| name);
        let (origin, module) = origin(module);
        let mut frames = Vec::new();
        // The last one is what the others were inlined into.
        for (nth, line) in location.line.iter().rev().enumerate() {
            let function = functions.get(&line.function_id);
            frames.push(reading.frame(Frame {
                function: Arc::from(function.map_or("[unknown]", |it| string(it.name))),
                module: module.into(),
                file: Arc::from(function.map_or("", |it| string(it.filename))),
                line: u32::try_from(line.line).unwrap_or(0),
                inlined: nth > 0,
                origin,
            }));
        }
        if frames.is_empty() {
            let function = format!("{:#x}", location.address).into();
            frames.push(reading.frame(Frame { function, module: module.into(), origin, ..named("") }));
        }
        locations.insert(location.id, frames);
    }
    for sample in &file.sample {
        let value = |at: Option<(usize, i64)>| {
            at.and_then(|(at, unit)| sample.value.get(at).map(|it| unsigned(it.saturating_mul(unit)))).unwrap_or(0)
        };
        let label = |name: &str| sample.label.iter().find(|label| string(label.key) == name);
        let word = |name: &str| label(name).map_or("", |label| string(label.str));
        let number = |name: &str| label(name).and_then(|label| u32::try_from(label.num).ok()).unwrap_or(0);
        let places = sample.location_id.iter().rev().filter_map(|id| locations.get(id));
        let frames: Vec<u32> = places.flatten().copied().collect();
        let samples = value(values.count.map(|at| (at, 1)));
        for (state, ns) in [(State::OnCpu, value(values.on)), (State::OffCpu, value(values.off))] {
            if ns > 0 {
                reading.profile.stacks.push(Stack {
                    frames: frames.clone(),
                    state,
                    ns,
                    samples,
                    service: word("service").into(),
                    thread: word("thread").into(),
                    pid: number("pid"),
                    tid: number("tid"),
                    query: label("query").map(|label| string(label.str).into()),
                });
            }
        }
    }
    Ok(reading.profile)
}

fn values<'a>(file: &proto::Profile, string: impl Fn(i64) -> &'a str) -> Result<Values, Unreadable> {
    let types: Vec<(&str, &str)> = file.sample_type.iter().map(|it| (string(it.r#type), string(it.unit))).collect();
    let unit = |unit: &str| match unit {
        "nanoseconds" | "ns" => Some(1),
        "microseconds" | "us" => Some(1_000),
        "milliseconds" | "ms" => Some(1_000_000),
        "seconds" | "s" => Some(1_000_000_000),
        _ => None,
    };
    let time = |wanted: &dyn Fn(&str) -> bool| {
        let mut times = types.iter().enumerate().filter_map(|(at, (name, of))| Some((at, *name, unit(of)?)));
        times.find(|(_, name, _)| wanted(name)).map(|(at, _, unit)| (at, unit))
    };
    let off = time(&|name| name == "wait");
    // Others call it what they like.
    let on = time(&|name| name == "cpu").or_else(|| if off.is_none() { time(&|_| true) } else { None });
    let count = types.iter().position(|(_, unit)| *unit == "count");
    let kind = match (types.first().map(|(name, _)| *name), on, off) {
        (Some("calls"), None, Some(_)) => Kind::Syscalls,
        (Some("requests"), None, Some(_)) => Kind::Queries,
        (_, Some(_), Some(_)) => Kind::Wall,
        (_, None, Some(_)) => Kind::OffCpu,
        (_, Some(_), None) => Kind::Cpu,
        (_, None, None) => {
            let names: Vec<String> = types.iter().map(|(name, unit)| format!("{name} in {unit}")).collect();
            let named = if names.is_empty() { "nothing".into() } else { names.join(" and ") };
            return Err(Unreadable::NoTime(text::shown(&named).into_owned()));
        }
    };
    Ok(Values { count, on, off, kind })
}

/// What a mapping's name says of its code.
fn origin(module: &str) -> (Origin, &str) {
    match module {
        "[jit]" => (Origin::Jit, ""),
        "[interpreted]" => (Origin::Interpreted, ""),
        "[note]" => (Origin::Note, ""),
        "[unknown]" => (Origin::User, ""),
        "[kernel]" | "[system call]" => (Origin::Kernel, module),
        _ if module.ends_with(".py") => (Origin::Interpreted, module),
        _ => (Origin::User, module),
    }
}

fn of_folded(lines: &str) -> Result<Profile, Unreadable> {
    let mut reading = blank(Kind::Cpu);
    let mut tells_state = false;
    for (line, text) in (1..).zip(lines.lines()).filter(|(_, text)| !text.trim().is_empty()) {
        let wrong = || Unreadable::NoStack { line, text: text::cut(text, 80).into_owned() };
        let (stack, weight) = text.trim_end().rsplit_once(' ').ok_or_else(wrong)?;
        let ns: u64 = weight.parse().map_err(|_| wrong())?;
        if stack.rsplit_once(' ').is_some_and(|(_, last)| last.parse::<u64>().is_ok()) {
            return Err(Unreadable::Difference(line));
        }
        let (state, rest) = match stack.split_once(';').unwrap_or((stack, "")) {
            (folded::ON_CPU, rest) => (Some(State::OnCpu), rest),
            (folded::OFF_CPU, rest) => (Some(State::OffCpu), rest),
            _ => (None, stack),
        };
        tells_state |= state.is_some();
        let frames = rest.split(';').filter(|name| !name.is_empty()).map(|name| reading.frame(marked(name))).collect();
        reading.profile.stacks.push(Stack {
            frames,
            state: state.unwrap_or(State::OnCpu),
            ns,
            samples: 1,
            service: "".into(),
            thread: "".into(),
            pid: 0,
            tid: 0,
            query: None,
        });
    }
    if tells_state {
        reading.profile.kind = Kind::Wall;
    }
    reading.profile.notes.push("was read from folded stacks, which tell neither when it was taken nor how".into());
    Ok(reading.profile)
}

/// A frame by its name with its mark.
fn marked(name: &str) -> Frame {
    let (name, mark) = match name.rsplit_once("_[") {
        Some((head, mark @ ("k]" | "j]" | "i]"))) => (head, mark),
        _ => (name, ""),
    };
    let origin = match mark {
        "k]" => Origin::Kernel,
        "j]" => Origin::Jit,
        _ if name.starts_with('[') && name.ends_with(']') && !name.starts_with("[unknown") => Origin::Note,
        _ => Origin::User,
    };
    Frame { origin, inlined: mark == "i]", ..named(name) }
}

fn named(function: &str) -> Frame {
    let none = || Arc::from("");
    let function = function.into();
    Frame { function, module: none(), file: none(), line: 0, inlined: false, origin: Origin::User }
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
