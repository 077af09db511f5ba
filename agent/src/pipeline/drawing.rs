//! Profiles for those who must not know how they are written: the command line and the HTTP server.

use std::{fs::File, io::Read as _, path::Path, time::SystemTime};

use crate::{
    model::profile::{Drawing, Drawn, Profile},
    profile::format::{Format, MOST_BYTES, Options, UnknownFormat, read, utc, what},
};

/// Draws a profile, or how it differs from an earlier one.
///
/// # Errors
/// For an unknown format, with those that there are, and for one that cannot show a difference.
pub fn draw(profile: &Profile, baseline: Option<&Profile>, drawing: &Drawing) -> Result<Drawn, String> {
    let format: Format = drawing.format.parse().map_err(|error: UnknownFormat| error.to_string())?;
    let mut bytes = Vec::new();
    let options = Options { baseline, icicle: drawing.icicle, reversed: drawing.reversed };
    format.write(profile, &options, &mut bytes).map_err(|error| error.to_string())?;
    Ok(Drawn { media_type: format.content_type(), bytes })
}

/// A profile as it was written, in pprof or folded.
///
/// # Errors
/// Which tell why it cannot be read.
pub fn read_profile(bytes: &[u8]) -> Result<Profile, String> {
    read(bytes).map_err(|error| error.to_string())
}

/// The same from a file.
///
/// # Errors
/// The file's, and as above.
pub fn read_profile_file(path: &Path) -> Result<Profile, String> {
    let wrong = |why: String| format!("cannot read {}: {why}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(|error| wrong(error.to_string()))?;
    let readable = ".pb.gz and .folded can be read again";
    let mut profile = read(&bytes).map_err(|error| wrong(format!("{error}; {readable}")))?;
    if profile.lasted.is_zero() {
        // Nothing in it says what it is of.
        profile.target = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    }
    Ok(profile)
}

/// Whether two profiles can be compared.
///
/// # Errors
/// If they tell of different things.
pub fn comparable(profile: &Profile, baseline: &Profile) -> Result<(), String> {
    if profile.kind == baseline.kind {
        return Ok(());
    }
    let [this, other] = [profile, baseline].map(|it| what(it.kind).to_lowercase());
    Err(format!("the one profile tells of {this}, the other of {other}: they cannot be compared"))
}

/// A format's name, if it is one.
///
/// # Errors
/// With those that there are.
pub fn format_named(name: &str) -> Result<String, String> {
    let format: Format = name.parse().map_err(|error: UnknownFormat| error.to_string())?;
    Ok(format.name().into())
}

/// The name of the format that a file's ending asks for.
///
/// # Errors
/// With those that there are.
pub fn format_of_file(path: &Path) -> Result<String, String> {
    Format::of_file(path).map(|format| format.name().to_owned()).map_err(|error| error.to_string())
}

/// What a file of that format ends with.
pub fn ending(format: &str) -> &'static str {
    format.parse().map_or(".svg", Format::ending)
}

/// A time for a file's name, such as `20261121T070000Z`.
pub fn stamp(moment: SystemTime) -> String {
    let mut text: String = utc(moment).chars().filter(char::is_ascii_digit).collect();
    text.insert(8, 'T');
    text + "Z"
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_told_in_a_files_name() {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(951_827_696);
        assert_eq!(stamp(moment), "20000229T123456Z");
    }
}
