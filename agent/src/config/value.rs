//! What one value may look like, in both directions: durations, sizes, addresses, words and lists. Does not know
//! which keys there are.

use std::{borrow::Cow, collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use toml::de::DeValue;

use super::{Config, Destinations, destination};

/// The type of a key, its range, and its place in [`Config`].
pub enum Shape {
    /// `true` or `false`.
    Switch(fn(&mut Config) -> &mut bool),
    /// A whole number.
    Count(RangeInclusive<usize>, fn(&mut Config) -> &mut usize),
    /// A time with a unit, such as `250ms`.
    Duration(RangeInclusive<Duration>, fn(&mut Config) -> &mut Duration),
    /// A number of bytes with a unit, such as `64MiB`.
    Size(RangeInclusive<u64>, fn(&mut Config) -> &mut u64),
    /// An absolute path.
    Path(fn(&mut Config) -> &mut PathBuf),
    /// An absolute path, or none.
    MaybePath(fn(&mut Config) -> &mut Option<PathBuf>),
    /// A share of the host, such as `1%`, in millionths.
    Share(RangeInclusive<u32>, fn(&mut Config) -> &mut u32),
    /// An IP address and a port.
    Address(fn(&mut Config) -> &mut SocketAddr),
    /// Names that are not known beforehand.
    Names(fn(&mut Config) -> &mut Vec<String>),
    /// Some of the names listed here.
    Subset(&'static [&'static str], fn(&mut Config) -> &mut Vec<String>),
    /// A number for each of some names that are not known beforehand.
    Sizes(RangeInclusive<usize>, fn(&mut Config) -> &mut BTreeMap<String, usize>),
    /// Tables of places that something is sent to, by name; only in a file.
    Destinations(fn(&mut Config) -> &mut Destinations),
    /// One of the words listed here. The setter gets the word's position.
    Word(&'static [&'static str], fn(&mut Config, usize), fn(&Config) -> usize),
}

/// A value as someone typed it.
#[derive(Clone, Copy)]
pub enum Typed<'a> {
    /// In a file, with its TOML type.
    Toml(&'a DeValue<'a>),
    /// In an environment variable or a flag, where everything is text; lists are separated by commas.
    Text(&'a str),
}

impl Shape {
    /// Stores the value if it is valid.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn store(&self, config: &mut Config, typed: Typed) -> Result<(), String> {
        match self {
            Self::Switch(place) => *place(config) = switch(typed)?,
            Self::Count(range, place) => {
                let number = count(typed)?;
                within(&number, range)?;
                *place(config) = number;
            }
            Self::Duration(range, place) => {
                let duration = parse_duration(&text(typed, "a duration")?)?;
                within(&duration, range)?;
                *place(config) = duration;
            }
            Self::Size(range, place) => {
                let bytes = parse_size(&text(typed, "a size")?)?;
                within(&bytes, range)?;
                *place(config) = bytes;
            }
            Self::Path(place) => {
                let path = PathBuf::from(text(typed, "a path")?);
                if !path.is_absolute() {
                    return Err("it is not an absolute path".into());
                }
                *place(config) = path;
            }
            Self::MaybePath(place) => {
                let path = PathBuf::from(text(typed, "a path")?);
                if !path.as_os_str().is_empty() && !path.is_absolute() {
                    return Err("it is not an absolute path".into());
                }
                *place(config) = Some(path).filter(|path| !path.as_os_str().is_empty());
            }
            Self::Share(range, place) => {
                let share = parse_share(&text(typed, "a share")?)?;
                within(&share, range)?;
                *place(config) = share;
            }
            Self::Address(place) => {
                let typed = text(typed, "an address")?;
                *place(config) = typed.parse().map_err(|_| "it is not an IP address with a port".to_string())?;
            }
            Self::Names(place) => *place(config) = list(typed)?,
            Self::Subset(words, place) => {
                let names = list(typed)?;
                if let Some(unknown) = names.iter().find(|name| !words.contains(&name.as_str())) {
                    return Err(format!("there is no {unknown:?}{}", did_you_mean(unknown, words.iter().copied())));
                }
                *place(config) = names;
            }
            Self::Sizes(range, place) => {
                let sizes = sizes(typed)?;
                for (name, size) in &sizes {
                    within(size, range).map_err(|why| format!("{name:?}: {why}"))?;
                }
                *place(config) = sizes;
            }
            Self::Destinations(place) => match typed {
                Typed::Toml(value) => {
                    let (valid, wrong) = destination::read(value, &Default::default());
                    if let Some(first) = wrong.into_iter().next() {
                        return Err(first.why);
                    }
                    *place(config) = valid;
                }
                Typed::Text(_) => return Err("it can only be said in the file".into()),
            },
            Self::Word(words, set, _) => {
                let word = text(typed, "a word")?;
                let position = words
                    .iter()
                    .position(|known| *known == word)
                    .ok_or_else(|| format!("there is no {word:?}{}", did_you_mean(&word, words.iter().copied())))?;
                set(config, position);
            }
        }
        Ok(())
    }

    /// The value that `config` has here, as it is written in TOML.
    pub fn show(&self, config: &Config) -> String {
        let mut config = config.clone();
        match self {
            Self::Switch(place) => place(&mut config).to_string(),
            Self::Count(_, place) => place(&mut config).to_string(),
            Self::Duration(_, place) => quoted(&show_duration(*place(&mut config))),
            Self::Size(_, place) => quoted(&show_size(*place(&mut config))),
            Self::Path(place) => quoted(&place(&mut config).to_string_lossy()),
            Self::MaybePath(place) => {
                let path = place(&mut config).as_ref().map(|path| path.to_string_lossy().into_owned());
                quoted(&path.unwrap_or_default())
            }
            Self::Share(_, place) => quoted(&show_share(*place(&mut config))),
            Self::Address(place) => quoted(&place(&mut config).to_string()),
            Self::Names(place) | Self::Subset(_, place) => {
                let names: Vec<_> = place(&mut config).iter().map(|name| quoted(name)).collect();
                format!("[{}]", names.join(", "))
            }
            Self::Sizes(_, place) => {
                let sizes = place(&mut config).iter().map(|(name, size)| format!("{} = {size}", quoted(name)));
                let sizes: Vec<_> = sizes.collect();
                if sizes.is_empty() { "{}".into() } else { format!("{{ {} }}", sizes.join(", ")) }
            }
            Self::Destinations(place) => match place(&mut config) {
                none if none.is_empty() => "{}".into(),
                // Long, and for nobody to read: only whether it has changed.
                some => format!("{some:?}"),
            },
            Self::Word(words, _, get) => quoted(words.get(get(&config)).copied().unwrap_or_default()),
        }
    }

    /// What is allowed here, for people.
    pub fn allowed(&self) -> String {
        match self {
            Self::Switch(_) => "true or false".into(),
            Self::Count(range, _) => format!("a whole number from {} to {}", range.start(), range.end()),
            Self::Duration(range, _) => {
                let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
                format!(r#"a duration from {least} to {most}, written "250ms", "10s", "5m" or "1h""#)
            }
            Self::Size(range, _) => {
                let (least, most) = (show_size(*range.start()), show_size(*range.end()));
                format!(r#"a size from {least} to {most}, written "512B", "256KiB", "64MiB" or "1GiB""#)
            }
            Self::Path(_) => "an absolute path".into(),
            Self::MaybePath(_) => r#"an absolute path, or "" for none"#.into(),
            Self::Share(range, _) => {
                format!(
                    r#"a share from {} to {}, such as "0.5%""#,
                    show_share(*range.start()),
                    show_share(*range.end())
                )
            }
            Self::Address(_) => r#"an IP address and a port, such as "127.0.0.1:9464" or "[::1]:9464""#.into(),
            Self::Names(_) => r#"a list of names, such as ["one", "two"]"#.into(),
            Self::Subset(words, _) => format!("a list of some of {}", words.join(", ")),
            Self::Sizes(range, _) => {
                let (least, most) = (range.start(), range.end());
                format!(r#"numbers from {least} to {most} by name, such as {{ "one.service" = 20 }}"#)
            }
            Self::Destinations(_) => destination::ALLOWED.into(),
            Self::Word(words, ..) => words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", "),
        }
    }
}

/// `; did you mean …?` when one of `known` is close to what was typed, else nothing.
pub fn did_you_mean<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> String {
    // A third of the letters wrong is the most that still reads as a slip.
    let most = (typed.chars().count() / 3).max(1);
    known
        .map(|candidate| (strsim::damerau_levenshtein(typed, candidate), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, candidate)| format!("; did you mean `{candidate}`?"))
        .unwrap_or_default()
}

/// Reads `250ms`, `10s`, `5m`, `1h`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_duration(typed: &str) -> Result<Duration, String> {
    let (number, unit) = number_and_unit(typed, "a duration")?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        other => return Err(format!("`{other}` is not a unit of time")),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(|| "it is too large".into())
}

/// Reads `512B`, `256KiB`, `64MiB`, `1GiB`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_size(typed: &str) -> Result<u64, String> {
    let (number, unit) = number_and_unit(typed, "a size")?;
    let unit_bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        other => return Err(format!("`{other}` is not a unit of size")),
    };
    number.checked_mul(unit_bytes).ok_or_else(|| "it is too large".into())
}

/// Reads `1%`, `0.5%` as millionths.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse_share(typed: &str) -> Result<u32, String> {
    let number = typed.strip_suffix('%').ok_or("a share is written with %")?.trim_end();
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return Err("it is not a share".into());
    }
    if fraction.len() > 4 {
        return Err("it has more than four digits behind the point".into());
    }
    let too_large = |_| "it is too large".to_string();
    let whole: u32 = whole.parse().map_err(too_large)?;
    let fraction: u32 = format!("{fraction:0<4}").parse().map_err(too_large)?;
    whole.checked_mul(10_000).and_then(|whole| whole.checked_add(fraction)).ok_or_else(|| "it is too large".into())
}

/// The shortest exact way to write a share in millionths.
pub fn show_share(millionths: u32) -> String {
    let (whole, fraction) = (millionths / 10_000, millionths % 10_000);
    match fraction {
        0 => format!("{whole}%"),
        _ => format!("{whole}.{}%", format!("{fraction:04}").trim_end_matches('0')),
    }
}

/// The shortest exact way to write a duration.
pub fn show_duration(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0s".into(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

/// The shortest exact way to write a size.
pub fn show_size(bytes: u64) -> String {
    match bytes {
        0 => "0B".into(),
        b if b % (1 << 30) == 0 => format!("{}GiB", b >> 30),
        b if b % (1 << 20) == 0 => format!("{}MiB", b >> 20),
        b if b % (1 << 10) == 0 => format!("{}KiB", b >> 10),
        b => format!("{b}B"),
    }
}

fn number_and_unit<'a>(typed: &'a str, what: &str) -> Result<(u64, &'a str), String> {
    let digits = typed.find(|c: char| !c.is_ascii_digit()).unwrap_or(typed.len());
    let (number, unit) = typed.split_at(digits);
    if number.is_empty() {
        return Err(format!("it is not {what}"));
    }
    let number = number.parse().map_err(|_| "it is too large".to_string())?;
    match unit.trim_start() {
        "" => Err(format!("{what} needs a unit")),
        unit => Ok((number, unit)),
    }
}

fn within<T: PartialOrd>(value: &T, range: &RangeInclusive<T>) -> Result<(), String> {
    if value < range.start() {
        Err("it is too small".into())
    } else if value > range.end() {
        Err("it is too large".into())
    } else {
        Ok(())
    }
}

fn switch(typed: Typed) -> Result<bool, String> {
    match typed {
        Typed::Toml(value) => value.as_bool().ok_or_else(|| wrong_type(value, "true or false")),
        Typed::Text("true") => Ok(true),
        Typed::Text("false") => Ok(false),
        Typed::Text(_) => Err("it is neither true nor false".into()),
    }
}

fn count(typed: Typed) -> Result<usize, String> {
    let not_a_count = || "it is not a whole number that a count can be".to_string();
    match typed {
        Typed::Toml(value) => {
            let integer = value.as_integer().ok_or_else(|| wrong_type(value, "a whole number"))?;
            usize::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| not_a_count())
        }
        Typed::Text(text) => text.parse().map_err(|_| not_a_count()),
    }
}

fn text(typed: Typed, what: &str) -> Result<String, String> {
    match typed {
        Typed::Toml(value) => match value.as_str() {
            Some(text) => Ok(text.to_string()),
            None if value.is_integer() && matches!(what, "a duration" | "a size" | "a share") => {
                Err(format!("{what} needs a unit and quotes"))
            }
            None => Err(wrong_type(value, &format!("{what}, in quotes,"))),
        },
        Typed::Text(text) => Ok(text.to_string()),
    }
}

fn list(typed: Typed) -> Result<Vec<String>, String> {
    let names: Vec<String> = match typed {
        Typed::Toml(value) => {
            let values = value.as_array().ok_or_else(|| wrong_type(value, "a list"))?;
            values.iter().map(|one| text(Typed::Toml(one.get_ref()), "a name")).collect::<Result<_, _>>()?
        }
        Typed::Text("") => Vec::new(),
        Typed::Text(text) => text.split(',').map(|name| name.trim().to_string()).collect(),
    };
    if names.iter().any(String::is_empty) { Err("a name in the list is empty".into()) } else { Ok(names) }
}

fn sizes(typed: Typed) -> Result<BTreeMap<String, usize>, String> {
    match typed {
        Typed::Toml(value) => {
            let table = value.as_table().ok_or_else(|| wrong_type(value, "a table"))?;
            let size = |(name, value): (&toml::Spanned<Cow<str>>, &toml::Spanned<DeValue>)| {
                let size = count(Typed::Toml(value.get_ref())).map_err(|why| format!("{:?}: {why}", name.get_ref()))?;
                Ok((name.get_ref().to_string(), size))
            };
            table.iter().map(size).collect()
        }
        Typed::Text("") => Ok(BTreeMap::new()),
        Typed::Text(text) => text
            .split(',')
            .map(|one| {
                let (name, size) = one.split_once('=').ok_or_else(|| format!("{one:?} is no name=number"))?;
                Ok((name.trim().to_string(), count(Typed::Text(size.trim()))?))
            })
            .collect(),
    }
}

fn wrong_type(value: &DeValue, wanted: &str) -> String {
    format!("{wanted} is needed here, not a value of type {}", value.type_str())
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_and_size_that_is_shown_can_be_read_back() {
        for ms in [1, 250, 1_000, 1_500, 60_000, 90_000, 3_600_000, 86_400_000] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
        for bytes in [1, 512, 1 << 10, 1_500, 1 << 20, 3 << 20, 1 << 30] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
        for (millionths, shown) in [(10_000, "1%"), (5_000, "0.5%"), (1, "0.0001%"), (120_500, "12.05%"), (0, "0%")] {
            assert_eq!((show_share(millionths).as_str(), parse_share(shown)), (shown, Ok(millionths)));
        }
    }

    #[test]
    fn what_is_not_a_duration_or_a_size_says_why() {
        assert_eq!(parse_duration("10"), Err("a duration needs a unit".into()));
        assert_eq!(parse_duration("10sec"), Err("`sec` is not a unit of time".into()));
        assert_eq!(parse_duration("soon"), Err("it is not a duration".into()));
        assert_eq!(parse_duration("-5s"), Err("it is not a duration".into()));
        assert_eq!(parse_duration("99999999999999999999s"), Err("it is too large".into()));
        assert_eq!(parse_duration("18446744073709551615h"), Err("it is too large".into()));
        assert_eq!(parse_size("64MB"), Err("`MB` is not a unit of size".into()));
        assert_eq!(parse_size(""), Err("it is not a size".into()));
        assert_eq!(parse_share("1"), Err("a share is written with %".into()));
        assert_eq!(parse_share("x%"), Err("it is not a share".into()));
        assert_eq!(parse_share("0.12345%"), Err("it has more than four digits behind the point".into()));
        assert_eq!(parse_share("999999999999%"), Err("it is too large".into()));
    }
}
