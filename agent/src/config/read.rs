//! Reads a configuration from what was typed and checks it as a whole. Does not know what the keys are for.

use std::{collections::BTreeMap, fs, io, ops::Range, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Complaint, Complaints, Config, DEFAULT_PATH, Destinations, Limits, Place, destination,
    keys::{KEYS, Key},
    value::{Shape, Typed, did_you_mean},
};

/// Everything that someone typed: later ones override earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Given<'a> {
    /// `--config`; without it the default path is read if there is such a file.
    pub file: Option<&'a Path>,
    /// All environment variables; those that begin with `STETH_` are read.
    pub environment: Vec<(String, String)>,
    /// Flags that stand for keys: flag, key, value.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

/// Variables that begin with `STETH_` but are no keys: `STETH_CONFIG` stands for `--config`.
const OTHER_VARIABLES: &[&str] = &["STETH_CONFIG"];
/// A larger file is no configuration.
const MAX_FILE_BYTES: u64 = 1 << 20;
const NOT_TOML: &str = "not TOML";
/// A value is quoted in a complaint up to this many characters.
const MAX_QUOTED: usize = 40;

impl Config {
    /// Reads file, environment and flags.
    ///
    /// # Errors
    /// Everything that is wrong with them, each with its place and what is allowed.
    pub fn load(given: &Given) -> Result<Self, Complaints> {
        let mut reading = Reading::default();
        let path = given.file.unwrap_or(Path::new(DEFAULT_PATH));
        match read_file(path) {
            Ok(text) => reading.file(path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound && given.file.is_none() => {}
            Err(error) => reading.complain(Place::File(path.into()), format!("cannot read the configuration: {error}")),
        }
        reading.environment(&given.environment);
        reading.flags(&given.flags);
        reading.finish()
    }

    /// Reads one file that is already in memory, and nothing else.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, Complaints> {
        let mut reading = Reading::default();
        reading.file(path, text);
        reading.finish()
    }
}

/// A configuration with one key changed.
pub(super) fn with(config: &Config, path: &str, typed: &str) -> Result<Config, Complaints> {
    let mut reading = Reading { config: config.clone(), ..Reading::default() };
    let place = Place::Variable(path.to_owned());
    match KEYS.iter().find(|key| key.path == path) {
        Some(key) => reading.store(key, place, Typed::Text(typed), typed.chars().take(MAX_QUOTED).collect()),
        None => {
            let hint = or_semicolon(did_you_mean(path, KEYS.iter().map(|key| key.path)));
            reading.complain(place, format!("there is no such key{hint} all keys: docs/configuration.md"));
        }
    }
    reading.finish()
}

/// A configuration while it is being read.
#[derive(Default)]
struct Reading {
    config: Config,
    /// Where each key was typed last.
    places: BTreeMap<&'static str, Place>,
    complaints: Vec<Complaint>,
}

/// A file and its text, for places and quotes.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reading {
    fn file(&mut self, path: &Path, text: &str) {
        let source = Source { path, text };
        let (table, errors) = DeTable::parse_recoverable(text);
        let before = self.complaints.len();
        self.table(&source, "", table.get_ref());
        for error in &errors {
            let place = error.span().map_or(Place::File(path.into()), |span| source.line(&span));
            // What was made of a line that is no TOML is not what was meant.
            self.complaints.retain(|complaint| complaint.place != place || complaint.text.starts_with(NOT_TOML));
            self.complain(place, format!("{NOT_TOML}: {}", error.message()));
        }
        // The table is sorted by key; people read from top to bottom.
        if let Some(found) = self.complaints.get_mut(before..) {
            found.sort_by(|a, b| a.place.cmp(&b.place));
        }
    }

    fn table(&mut self, source: &Source, section: &str, table: &DeTable) {
        for (name, value) in table {
            let path =
                if section.is_empty() { name.get_ref().to_string() } else { format!("{section}.{}", name.get_ref()) };
            let place = source.line(&name.span());
            if let Some(key) = KEYS.iter().find(|key| key.path == path) {
                if let Shape::Destinations(place) = key.shape {
                    self.destinations(source, &path, place, value);
                    continue;
                }
                self.store(key, place, Typed::Toml(value.get_ref()), source.quote(&value.span()));
            } else if section.is_empty() && sections().any(|known| known == path) {
                match value.get_ref() {
                    DeValue::Table(inner) => self.table(source, &path, inner),
                    _ => self.complain(place, format!("`{path}` is a section: write [{path}] and its keys below it")),
                }
            } else {
                self.complain(place, unknown_key(section, name.get_ref(), value.get_ref().is_table()));
            }
        }
    }

    /// What is wrong within them has lines of its own.
    fn destinations(
        &mut self,
        source: &Source,
        path: &str,
        place: fn(&mut Config) -> &mut Destinations,
        value: &Spanned<DeValue>,
    ) {
        let (valid, wrong) = destination::read(value.get_ref(), &value.span());
        *place(&mut self.config) = valid;
        for wrong in wrong {
            self.complain(source.line(&wrong.at), format!("{path}: {}", wrong.why));
        }
    }

    fn environment(&mut self, variables: &[(String, String)]) {
        for (name, value) in variables {
            if !name.starts_with("STETH_") || OTHER_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let place = Place::Variable(name.clone());
            match KEYS.iter().find(|key| key.variable() == *name) {
                Some(key) => self.store(key, place, Typed::Text(value), value.clone()),
                None => {
                    let known: Vec<String> = KEYS.iter().map(Key::variable).collect();
                    let hint = or_semicolon(did_you_mean(name, known.iter().map(String::as_str)));
                    self.complain(place, format!("there is no such key{hint} all keys: steth docs config"));
                }
            }
        }
    }

    fn flags(&mut self, flags: &[(&'static str, &'static str, String)]) {
        for (flag, path, value) in flags {
            if let Some(key) = KEYS.iter().find(|key| key.path == *path) {
                self.store(key, Place::Flag(flag), Typed::Text(value), value.clone());
            }
        }
    }

    fn store(&mut self, key: &Key, place: Place, typed: Typed, quote: String) {
        match key.shape.store(&mut self.config, typed) {
            Ok(()) => {
                self.places.insert(key.path, place);
            }
            Err(why) => {
                let end = if why.ends_with('?') { "" } else { ";" };
                self.complain(place, format!("{} = {quote}: {why}{end} allowed: {}", key.path, key.shape.allowed()));
            }
        }
    }

    /// Checks what only the whole can tell.
    fn finish(mut self) -> Result<Config, Complaints> {
        self.listener();
        let Config { window, kernel, .. } = &self.config;
        let whole_windows = window.kept.as_millis().checked_rem(window.live.as_millis()) == Some(0);
        if window.kept < window.live || !whole_windows {
            self.refuse("window.kept", "a kept window is made of live ones; allowed: a multiple of window.live");
        } else if !kernel.ring_bytes.is_power_of_two() {
            self.refuse("kernel.ring", "the kernel takes only powers of two; allowed: 64KiB, 128KiB, … 64MiB");
        } else if kernel.ring_bytes > kernel.memory_bytes / 4 {
            self.refuse(
                "kernel.ring",
                "the two rings must leave half of kernel.memory to the cells; allowed: up to a quarter of it",
            );
        }
        let Limits { services, peers, queries, shown_services, shown_peers, shown_queries, .. } = self.config.limits;
        for (shown, path, told_apart, other) in [
            (shown_services, "limits.shown_services", services, "limits.services"),
            (shown_peers, "limits.shown_peers", peers, "limits.peers"),
            (shown_queries, "limits.shown_queries", queries, "limits.queries"),
        ] {
            if shown > told_apart {
                self.refuse(
                    path,
                    &format!("more would be shown than are told apart; allowed: up to {other} = {told_apart}"),
                );
            }
        }
        if let Some(file) = self.config.alerts.files.iter().find(|file| !Path::new(file).is_absolute()).cloned() {
            self.refuse("alerts.files", &format!("{file:?} is no absolute path"));
        } else if self.complaints.is_empty() {
            self.config.alerts.load();
        }
        if self.complaints.is_empty() { Ok(self.config) } else { Err(Complaints(self.complaints)) }
    }

    /// Who may come, and how: in the open only within this host.
    fn listener(&mut self) {
        let Config { listen, http, budget, .. } = &self.config;
        let (has_key, has_certificate) = (http.key.is_some(), http.certificate.is_some());
        let (tokens, client_ca) = (http.tokens.is_some(), http.client_ca.is_some());
        let is_safe = listen.ip().is_loopback() || (has_certificate && has_key && tokens);
        let is_upside_down = budget.hard < budget.soft;
        if has_key != has_certificate {
            let lacking = if has_key { "http.certificate" } else { "http.key" };
            self.refuse(lacking, "certificate and key go together: set both in [http], or none");
        } else if client_ca && !has_certificate {
            self.refuse("http.client_ca", "certificates of clients come with TLS: set http.certificate and http.key");
        } else if !is_safe {
            self.refuse(
                "listen",
                "only loopback is served without TLS and tokens; allowed: 127.0.0.1:PORT or [::1]:PORT. To serve other \
                 addresses, set certificate, key and tokens in [http]; `steth token new` makes a token. Or put a proxy with TLS \
                 before it, or use ssh -L",
            );
        }
        if is_upside_down {
            self.refuse("budget.hard", "it is less than budget.soft; allowed: from budget.soft up");
        }
    }

    /// A valid value that does not fit the rest.
    fn refuse(&mut self, path: &'static str, why: &str) {
        let place = self.places.get(path).cloned().unwrap_or(Place::Default);
        let value =
            KEYS.iter().find(|key| key.path == path).map(|key| key.shape.show(&self.config)).unwrap_or_default();
        self.complain(place, format!("{path} = {value}: {why}"));
    }

    fn complain(&mut self, place: Place, text: String) {
        self.complaints.push(Complaint { place, text });
    }
}

impl Source<'_> {
    fn line(&self, span: &Range<usize>) -> Place {
        let before = self.text.as_bytes().iter().take(span.start);
        Place::Line(self.path.into(), 1 + before.filter(|byte| **byte == b'\n').count())
    }

    /// What stands at `span`, shortened to one short line.
    fn quote(&self, span: &Range<usize>) -> String {
        let typed = self.text.get(span.clone()).unwrap_or_default();
        let mut short: String = typed.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_QUOTED).collect();
        if typed.chars().count() > MAX_QUOTED {
            short.push('…');
        }
        short
    }
}

/// Reads a file that is small enough, and no device that never ends.
pub(super) fn read_file(path: &Path) -> io::Result<String> {
    let attributes = fs::metadata(path)?;
    if attributes.is_dir() {
        return Err(io::Error::other("it is a directory"));
    }
    if attributes.len() > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(fs::File::open(path)?, MAX_FILE_BYTES), &mut text)?;
    Ok(text)
}

fn unknown_key(section: &str, name: &str, is_table: bool) -> String {
    let here: Vec<&str> =
        KEYS.iter().map(Key::section_and_name).filter(|(of, _)| *of == section).map(|(_, name)| name).collect();
    let known: Vec<&str> = if section.is_empty() { here.iter().copied().chain(sections()).collect() } else { here };
    let elsewhere = KEYS.iter().find(|key| key.section_and_name().1 == name).map(|key| key.section_and_name().0);
    let hint = match elsewhere {
        Some("") => format!("; `{name}` stands at the top, above all sections;"),
        Some(other) => format!("; `{name}` belongs to [{other}];"),
        None => or_semicolon(did_you_mean(name, known.iter().copied())),
    };
    let (what, at) = match (is_table, section) {
        (true, "") => (format!("unknown section [{name}]"), String::new()),
        (_, "") => (format!("unknown key `{name}`"), String::new()),
        _ => (format!("unknown key `{name}`"), format!(" in [{section}]")),
    };
    format!("{what}{at}{hint} allowed: {}", known.join(", "))
}

fn or_semicolon(hint: String) -> String {
    if hint.is_empty() { ";".into() } else { hint }
}

/// The sections, each once.
fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    KEYS.iter().map(|key| key.section_and_name().0).filter(move |section| {
        let new = *section != last;
        last = section;
        new
    })
}
