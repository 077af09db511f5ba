//! From a profile to the formats that people and their tools read. Does not know where profiles come from or go to.

mod firefox;
mod folded;
mod html;
mod numbers;
mod pprof;
mod read;
mod svg;
mod text;
mod tree;

#[cfg(test)]
mod read_tests;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write},
    path::Path,
    str::FromStr,
};

pub use read::{MOST_BYTES, read};
pub use text::{utc, what};

use crate::model::profile::Profile;

/// How a profile is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// A picture that can be zoomed and searched, by the inferno crate.
    Svg,
    /// The viewer: one page without need of a network.
    Html,
    /// Lines of text, `caller;callee nanoseconds`, as flamegraph.pl and inferno read them.
    Folded,
    /// What `go tool pprof` and stores of profiles read: protobuf in gzip.
    Pprof,
    /// What profiler.firefox.com reads.
    Firefox,
}

/// How to write it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// An earlier profile to compare with. Its weights are scaled so that both weigh the same.
    pub baseline: Option<&'a Profile>,
    /// Callers above and what they call below; a picture's choice, ignored by formats that are none.
    pub icicle: bool,
    /// Stacks from the inside out: who waits or runs at the bottom, who called it above. For pictures as well.
    pub reversed: bool,
}

/// Why a profile was not written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This format has no room for two profiles.
    #[error("{0} holds one profile and cannot show a difference; use .svg, .html or .folded, or write two files")]
    OneProfileOnly(&'static str),
    /// The writer failed.
    #[error("cannot write the profile: {0}")]
    Io(#[from] io::Error),
}

/// A name that stands for no format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownFormat {
    /// Of a file.
    #[error("the ending of {0:?} names no format; allowed are {allowed}", allowed = listed(Format::ending))]
    Ending(String),
    /// Of a query parameter.
    #[error("{0:?} is no format; allowed are {allowed}", allowed = listed(Format::name))]
    Name(String),
}

impl Format {
    /// Each of them, in the order of messages.
    pub const ALL: [Self; 5] = [Self::Svg, Self::Html, Self::Folded, Self::Pprof, Self::Firefox];

    /// The format that a file's name asks for by its ending.
    ///
    /// # Errors
    /// [`UnknownFormat::Ending`] names those that there are.
    pub fn of_file(file: &Path) -> Result<Self, UnknownFormat> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let found = Self::ALL.into_iter().find(|format| name.ends_with(format.ending()));
        found.ok_or_else(|| UnknownFormat::Ending(name.into_owned()))
    }

    /// What a file of it ends with, such as `.pb.gz`.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Svg => ".svg",
            Self::Html => ".html",
            Self::Folded => ".folded",
            Self::Pprof => ".pb.gz",
            Self::Firefox => ".json",
        }
    }

    /// What it is called in a query parameter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Html => "html",
            Self::Folded => "folded",
            Self::Pprof => "pprof",
            Self::Firefox => "firefox",
        }
    }

    /// Its media type, for `Content-Type`. A gzipped pprof is one file, not a content encoding.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Svg => "image/svg+xml",
            Self::Html => "text/html; charset=utf-8",
            Self::Folded => "text/plain; charset=utf-8",
            Self::Pprof => "application/octet-stream",
            Self::Firefox => "application/json",
        }
    }

    /// Writes a profile in this format. An empty profile is written as well: pictures say why it is empty, from its
    /// notes.
    ///
    /// # Errors
    /// The writer's, and [`Error::OneProfileOnly`] if there is a baseline and no room for it.
    pub fn write(self, profile: &Profile, options: &Options<'_>, to: &mut dyn Write) -> Result<(), Error> {
        match self {
            Self::Svg => svg::write(profile, options, to)?,
            Self::Html => html::write(profile, options, to)?,
            Self::Folded => folded::write(profile, options.baseline, to)?,
            Self::Pprof | Self::Firefox if options.baseline.is_some() => {
                return Err(Error::OneProfileOnly(self.name()));
            }
            Self::Pprof => pprof::write(profile, to)?,
            Self::Firefox => firefox::write(profile, to)?,
        }
        Ok(())
    }
}

/// By the name that a query parameter has.
impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| UnknownFormat::Name(name.to_owned()))
    }
}

fn listed(called: fn(Format) -> &'static str) -> String {
    Format::ALL.map(called).join(", ")
}
