//! Files of rules and channels for alerts: TOML in, rules that fit the catalog of metrics out, or what is wrong with them, by
//! file and line. Does not know how rules are evaluated nor how notices are sent.

mod channel;
mod rule;
mod template;
#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use serde::Deserialize;
use toml::Spanned;

pub use channel::{Channel, ChannelKind, Email, Encryption};

use self::{channel::TypedChannel, rule::TypedRule};
use super::{Complaint, Place, read::read_file};
use crate::model::rule::Rule;

/// The rules that are built in.
pub const SHIPPED: &str = include_str!("../../../../packaging/alerts.toml");
/// What complaints of them name.
const SHIPPED_NAME: &str = "packaging/alerts.toml";
/// The most rules of all files together.
pub const MOST_RULES: usize = 256;
/// The most channels of all files together.
pub const MOST_CHANNELS: usize = 16;

/// `[alerts]`
#[derive(Clone, Debug, PartialEq)]
pub struct Alerts {
    /// Whether rules are evaluated at all.
    pub enabled: bool,
    /// Files of rules and channels.
    pub files: Vec<String>,
    /// Whether the shipped rules are among them.
    pub defaults: bool,
    /// Names of rules that are left out.
    pub without: Vec<String>,
    /// Where it is kept who was told of what.
    pub folder: PathBuf,
    /// The least time between two notices of one rule on one channel.
    pub throttle: Duration,
    /// How often people are reminded of what nobody has acknowledged.
    pub repeat: Duration,
    /// What the files hold.
    pub book: Arc<AlertFile>,
    /// What is wrong with them. The rules, channels, inhibitions and files that are wrong are not in the book.
    pub left_out: Vec<Complaint>,
}

/// What files of rules and channels hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AlertFile {
    /// The rules.
    pub rules: Vec<Rule>,
    /// Where they are sent.
    pub channels: Vec<Channel>,
}

/// A file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedFile {
    #[serde(default)]
    rule: Vec<Spanned<TypedRule>>,
    #[serde(default)]
    channel: Vec<Spanned<TypedChannel>>,
}

/// A file that is read: where it is, and what is wrong with it.
struct Text<'a> {
    path: &'a Path,
    text: &'a str,
    complaints: Vec<Complaint>,
}

impl Alerts {
    /// Reads the files. A rule replaces a shipped one of its name.
    pub(super) fn load(&mut self) {
        let mut complaints = Vec::new();
        let mut whole = AlertFile::default();
        if self.defaults {
            whole = AlertFile::shipped().clone();
        }
        let shipped = whole.rules.len();
        for file in &self.files {
            let path = Path::new(file);
            let read = read_file(path).map_err(|error| {
                vec![Complaint { place: Place::File(path.into()), text: format!("cannot read the rules: {error}") }]
            });
            match read.map(|text| AlertFile::read(path, &text)) {
                Ok((more, wrong)) => {
                    complaints.extend(wrong);
                    whole.add(more, path, shipped, &mut complaints);
                }
                Err(why) => complaints.extend(why),
            }
        }
        complaints.extend(whole.contradictions(&self.without));
        whole.forget_what_inhibits_nothing();
        whole.rules.retain(|rule| !self.without.contains(&rule.name));
        whole.rules.truncate(MOST_RULES);
        whole.channels.truncate(MOST_CHANNELS);
        self.book = Arc::new(whole);
        self.left_out = complaints;
    }
}

impl AlertFile {
    /// The rules that are built in. A test reads them, so there is nothing to complain of.
    pub fn shipped() -> &'static Self {
        static SHIPPED_FILE: LazyLock<AlertFile> =
            LazyLock::new(|| AlertFile::parse(Path::new(SHIPPED_NAME), SHIPPED).unwrap_or_default());
        &SHIPPED_FILE
    }

    /// Reads one file that is already in memory.
    ///
    /// # Errors
    /// Everything that is wrong with it, as far as it could be read.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Vec<Complaint>> {
        let (file, complaints) = Self::read(path, text);
        if complaints.is_empty() { Ok(file) } else { Err(complaints) }
    }

    /// What is right in a file that is already in memory, and what is wrong. One that cannot be read to its end holds nothing.
    fn read(path: &Path, text: &str) -> (Self, Vec<Complaint>) {
        let mut source = Text { path, text, complaints: Vec::new() };
        let typed: TypedFile = match toml::from_str(text) {
            Ok(typed) => typed,
            Err(error) => {
                source.complain(error.span().unwrap_or_default(), error.message().to_owned());
                return (Self::default(), source.complaints);
            }
        };
        let mut file = Self::default();
        for rule in typed.rule {
            let span = rule.span();
            file.rules.extend(rule.into_inner().checked(&mut source, span));
        }
        for channel in typed.channel {
            let span = channel.span();
            file.channels.extend(channel.into_inner().checked(&mut source, span));
        }
        (file, source.complaints)
    }

    fn add(&mut self, more: Self, path: &Path, shipped: usize, complaints: &mut Vec<Complaint>) {
        let mut complain = |text: String| complaints.push(Complaint { place: Place::File(path.into()), text });
        for rule in more.rules {
            match self.rules.iter().position(|known| known.name == rule.name) {
                Some(at) if at >= shipped => complain(format!("there is a rule {:?} already", rule.name)),
                Some(at) => self.rules.iter_mut().skip(at).take(1).for_each(|known| *known = rule.clone()),
                None => self.rules.push(rule),
            }
        }
        for channel in more.channels {
            match self.channels.iter().any(|known| known.name == channel.name) {
                true => complain(format!("there is a channel {:?} already", channel.name)),
                false => self.channels.push(channel),
            }
        }
    }

    /// A rule that is inhibited by itself would tell nobody.
    fn forget_what_inhibits_nothing(&mut self) {
        let names: Vec<String> = self.rules.iter().map(|rule| rule.name.clone()).collect();
        for rule in &mut self.rules {
            rule.inhibited_by.retain(|name| *name != rule.name && names.contains(name));
        }
    }

    /// What only all files together tell.
    fn contradictions(&self, without: &[String]) -> Vec<Complaint> {
        let known = |name: &String| self.rules.iter().any(|rule| rule.name == *name);
        let mut all: Vec<String> = Vec::new();
        for name in without.iter().filter(|name| !known(name)) {
            all.push(format!("alerts.without names {name:?}, and there is no such rule"));
        }
        for rule in &self.rules {
            for name in rule.inhibited_by.iter().filter(|name| !known(name) || **name == rule.name) {
                all.push(format!("rule {:?} cannot be inhibited by {name:?}, which is no other rule", rule.name));
            }
        }
        for (what, count, most) in
            [("rules", self.rules.len(), MOST_RULES), ("channels", self.channels.len(), MOST_CHANNELS)]
        {
            if count > most {
                all.push(format!("there are {count} {what}; allowed: up to {most}"));
            }
        }
        all.into_iter().map(|text| Complaint { place: Place::Default, text: format!("alerts: {text}") }).collect()
    }
}

impl Text<'_> {
    fn complain(&mut self, span: Range<usize>, text: impl Into<String>) {
        let before = self.text.as_bytes().iter().take(span.start);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        self.complaints.push(Complaint { place: Place::Line(self.path.into(), line), text: text.into() });
    }
}

/// Whether a name can stand in labels, headers and commands.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
}

impl Default for Alerts {
    fn default() -> Self {
        Self {
            enabled: true,
            files: Vec::new(),
            defaults: true,
            without: Vec::new(),
            folder: "/var/lib/steth/alerts".into(),
            throttle: Duration::from_secs(60),
            repeat: Duration::from_secs(4 * 3_600),
            book: Arc::new(AlertFile::shipped().clone()),
            left_out: Vec::new(),
        }
    }
}
