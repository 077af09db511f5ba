//! Profiles for those who must not know how they are written: the command line and the HTTP server.

use std::{path::Path, time::SystemTime};

use crate::{
    model::profile::{Drawing, Drawn, Profile},
    profile::format::{Format, Options, UnknownFormat, utc},
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
