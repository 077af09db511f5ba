//! pprof: protobuf in gzip, as github.com/google/pprof/proto/profile.proto has it. Addresses are gone by the time that
//! a profile is written, so a location is a line of code with what was inlined there.

use std::{
    io::{self, Write},
    time::UNIX_EPOCH,
};

use flate2::{Compression, write::GzEncoder};
use prost::Message;

use super::{numbers::Numbers, text};
use crate::model::profile::{Frame, Kind, Origin, Profile, Stack, State};

/// Writes a profile.
///
/// # Errors
/// The writer's.
pub fn write(profile: &Profile, to: &mut dyn Write) -> io::Result<()> {
    let mut gzip = GzEncoder::new(to, Compression::default());
    gzip.write_all(&Tables::default().message(profile).encode_to_vec())?;
    gzip.finish()?;
    Ok(())
}

/// What is written once and named by number.
#[derive(Default)]
struct Tables {
    strings: Numbers<String>,
    mappings: Numbers<String>,
    functions: Numbers<(String, String)>,
    /// Lines of code, the innermost first: what was inlined, then where.
    locations: Numbers<Vec<u32>>,
}

impl Tables {
    fn message(mut self, profile: &Profile) -> proto::Profile {
        self.string("");
        let values = values(profile.kind);
        let sample_type = values.iter().map(|(kind, unit)| self.value_type(kind, unit)).collect();
        let sample = profile.stacks.iter().map(|stack| {
            let location_id = self.stack(profile, stack);
            // Each at its place in `values`.
            let value = match (profile.kind, stack.state) {
                (Kind::Wall, State::OnCpu) => vec![signed(stack.samples), signed(stack.ns), 0],
                (Kind::Wall, State::OffCpu) => vec![signed(stack.samples), 0, signed(stack.ns)],
                (Kind::Cpu | Kind::OffCpu | Kind::Syscalls | Kind::Queries, _) => {
                    vec![signed(stack.samples), signed(stack.ns)]
                }
            };
            let mut label = vec![self.label("service", &stack.service), self.label("thread", &stack.thread)];
            label.retain(|label| label.str != 0);
            label.extend(stack.query.as_deref().map(|query| self.label("query", query)));
            for (name, number) in [("pid", stack.pid), ("tid", stack.tid)] {
                if number != 0 {
                    label.push(proto::Label { key: self.string(name), str: 0, num: number.into() });
                }
            }
            proto::Sample { location_id, value, label }
        });
        let sample = sample.collect();
        let period_ns = 1_000_000_000_i64.checked_div(profile.hertz.into()).unwrap_or(0);
        let period_type = match profile.kind {
            Kind::OffCpu | Kind::Syscalls | Kind::Queries => self.value_type("wait", "nanoseconds"),
            Kind::Cpu | Kind::Wall => self.value_type("cpu", "nanoseconds"),
        };
        let mut comment = vec![self.string(&text::title(profile))];
        comment.extend(profile.notes.iter().map(|note| self.string(&text::shown(note))));
        let default_sample_type = values.get(1).map_or(0, |(kind, _)| self.string(kind));
        let location = self.locations(profile);
        let function = self.functions();
        let mapping = self.mappings();
        let began = profile.began.duration_since(UNIX_EPOCH).unwrap_or_default();
        proto::Profile {
            sample_type,
            sample,
            mapping,
            location,
            function,
            string_table: self.strings.into_all(),
            time_nanos: signed_wide(began.as_nanos()),
            duration_nanos: signed_wide(profile.lasted.as_nanos()),
            period_type: Some(period_type),
            period: if matches!(profile.kind, Kind::OffCpu | Kind::Syscalls | Kind::Queries) { 1 } else { period_ns },
            comment,
            default_sample_type,
        }
    }

    fn string(&mut self, text: &str) -> i64 {
        signed(wide(self.strings.of(text.to_owned())))
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> proto::ValueType {
        proto::ValueType { r#type: self.string(kind), unit: self.string(unit) }
    }

    fn label(&mut self, key: &str, value: &str) -> proto::Label {
        let value = if value.is_empty() { "".into() } else { text::shown(value) };
        proto::Label { key: self.string(key), str: self.string(&value), num: 0 }
    }

    /// Numbers of a stack's locations, the innermost first, as pprof wants them.
    fn stack(&mut self, profile: &Profile, stack: &Stack) -> Vec<u64> {
        let mut locations: Vec<Vec<u32>> = Vec::new();
        for (index, frame) in text::frames(profile, stack) {
            match locations.last_mut() {
                // It lies within the code of the one before.
                Some(location) if frame.inlined => location.insert(0, index),
                _ => locations.push(vec![index]),
            }
        }
        locations.into_iter().rev().map(|location| wide(self.locations.of(location)) + 1).collect()
    }

    fn locations(&mut self, profile: &Profile) -> Vec<proto::Location> {
        let frame = |index: u32| profile.frames.get(usize::try_from(index).ok()?);
        let known = std::mem::take(&mut self.locations).into_all();
        let locations = known.iter().zip(1..).map(|(lines, id)| {
            let module = lines.last().and_then(|&index| frame(index)).map_or("", module);
            let mapping_id = wide(self.mappings.of(module.to_owned())) + 1;
            let line = lines.iter().filter_map(|&index| frame(index)).map(|frame| {
                let file = if frame.file.is_empty() { "".into() } else { text::shown(&frame.file) };
                let function = (text::shown(&frame.function).into_owned(), file.into_owned());
                proto::Line { function_id: wide(self.functions.of(function)) + 1, line: frame.line.into() }
            });
            proto::Location { id, mapping_id, address: 0, line: line.collect() }
        });
        locations.collect()
    }

    fn functions(&mut self) -> Vec<proto::Function> {
        let known = std::mem::take(&mut self.functions).into_all();
        let functions = known.iter().zip(1..).map(|((name, file), id)| {
            let name = self.string(name);
            proto::Function { id, name, system_name: name, filename: self.string(file), start_line: 0 }
        });
        functions.collect()
    }

    fn mappings(&mut self) -> Vec<proto::Mapping> {
        let known = std::mem::take(&mut self.mappings).into_all();
        let mappings = known.iter().zip(1..).map(|(module, id)| proto::Mapping {
            id,
            filename: self.string(module),
            // Readers must not look for symbols of their own.
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        });
        mappings.collect()
    }
}

/// What each sample has values for; the second is what readers show first.
fn values(kind: Kind) -> &'static [(&'static str, &'static str)] {
    match kind {
        Kind::Cpu => &[("samples", "count"), ("cpu", "nanoseconds")],
        Kind::OffCpu => &[("samples", "count"), ("wait", "nanoseconds")],
        Kind::Syscalls => &[("calls", "count"), ("wait", "nanoseconds")],
        Kind::Queries => &[("requests", "count"), ("wait", "nanoseconds")],
        Kind::Wall => &[("samples", "count"), ("cpu", "nanoseconds"), ("wait", "nanoseconds")],
    }
}

fn module(frame: &Frame) -> &str {
    match (&*frame.module, frame.origin) {
        ("", Origin::Jit) => "[jit]",
        ("", Origin::Interpreted) => "[interpreted]",
        ("", Origin::Kernel) => "[kernel]",
        ("", Origin::Note) => "[note]",
        ("", Origin::User) => "[unknown]",
        (module, _) => module,
    }
}

fn wide(number: usize) -> u64 {
    number as u64
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn signed_wide(number: u128) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The messages of profile.proto, as far as they are written. Numbers of strings are indices, those of others ids from 1.
pub mod proto {
    /// Message `Profile`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Profile {
        #[prost(message, repeated, tag = "1")]
        pub sample_type: Vec<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub sample: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub mapping: Vec<Mapping>,
        #[prost(message, repeated, tag = "4")]
        pub location: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub function: Vec<Function>,
        #[prost(string, repeated, tag = "6")]
        pub string_table: Vec<String>,
        #[prost(int64, tag = "9")]
        pub time_nanos: i64,
        #[prost(int64, tag = "10")]
        pub duration_nanos: i64,
        #[prost(message, optional, tag = "11")]
        pub period_type: Option<ValueType>,
        #[prost(int64, tag = "12")]
        pub period: i64,
        #[prost(int64, repeated, tag = "13")]
        pub comment: Vec<i64>,
        #[prost(int64, tag = "14")]
        pub default_sample_type: i64,
    }

    /// Message `ValueType`.
    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub struct ValueType {
        #[prost(int64, tag = "1")]
        pub r#type: i64,
        #[prost(int64, tag = "2")]
        pub unit: i64,
    }

    /// Message `Sample`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sample {
        #[prost(uint64, repeated, tag = "1")]
        pub location_id: Vec<u64>,
        #[prost(int64, repeated, tag = "2")]
        pub value: Vec<i64>,
        #[prost(message, repeated, tag = "3")]
        pub label: Vec<Label>,
    }

    /// Message `Label`.
    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub struct Label {
        #[prost(int64, tag = "1")]
        pub key: i64,
        #[prost(int64, tag = "2")]
        pub str: i64,
        #[prost(int64, tag = "3")]
        pub num: i64,
    }

    /// Message `Mapping`.
    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub struct Mapping {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(int64, tag = "5")]
        pub filename: i64,
        #[prost(bool, tag = "7")]
        pub has_functions: bool,
        #[prost(bool, tag = "8")]
        pub has_filenames: bool,
        #[prost(bool, tag = "9")]
        pub has_line_numbers: bool,
        #[prost(bool, tag = "10")]
        pub has_inline_frames: bool,
    }

    /// Message `Location`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Location {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(uint64, tag = "2")]
        pub mapping_id: u64,
        #[prost(uint64, tag = "3")]
        pub address: u64,
        #[prost(message, repeated, tag = "4")]
        pub line: Vec<Line>,
    }

    /// Message `Line`.
    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub struct Line {
        #[prost(uint64, tag = "1")]
        pub function_id: u64,
        #[prost(int64, tag = "2")]
        pub line: i64,
    }

    /// Message `Function`.
    #[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
    pub struct Function {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(int64, tag = "2")]
        pub name: i64,
        #[prost(int64, tag = "3")]
        pub system_name: i64,
        #[prost(int64, tag = "4")]
        pub filename: i64,
        #[prost(int64, tag = "5")]
        pub start_line: i64,
    }
}
