//! The viewer: one page with the profile in it, packed, and nothing to load. What it does is in `viewer/`.

use std::io::{self, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::DeflateEncoder};
use serde::Serialize;

use super::{Options, svg::escaped, text, tree::Tree};
use crate::model::profile::Profile;

const PAGE: &str = include_str!("viewer/page.html");
const STYLE: &str = include_str!("viewer/style.css");
/// In the order in which they use each other.
const SCRIPTS: [&str; 5] = [
    include_str!("viewer/data.js"),
    include_str!("viewer/graph.js"),
    include_str!("viewer/canvas.js"),
    include_str!("viewer/panels.js"),
    include_str!("viewer/main.js"),
];

/// Writes the page.
///
/// # Errors
/// The writer's.
pub fn write(profile: &Profile, options: &Options<'_>, to: &mut dyn Write) -> io::Result<()> {
    let content = Content {
        title: text::title(profile),
        facts: text::facts(profile),
        baseline: options.baseline.map(|baseline| format!("{}, {}", text::title(baseline), text::facts(baseline))),
        kind: profile.kind.name(),
        icicle: options.icicle,
        reversed: options.reversed,
        notes: profile.notes.iter().map(|note| text::shown(note).into_owned()).collect(),
        why_empty: text::why_empty(profile),
        tree: Tree::of(profile, options.baseline),
    };
    let mut packer = DeflateEncoder::new(Vec::new(), Compression::best());
    serde_json::to_writer(&mut packer, &content)?;
    let data = STANDARD.encode(packer.finish()?);
    let title = escaped(&content.title);
    let script = SCRIPTS.concat();
    // Each mark is `{{name}}`; what is put there is not looked at again.
    for piece in PAGE.split("{{") {
        let (mark, rest) = piece.split_once("}}").unwrap_or(("", piece));
        let value = match mark {
            "title" => &title,
            "style" => STYLE,
            "script" => &script,
            "data" => &data,
            _ => "",
        };
        to.write_all(value.as_bytes())?;
        to.write_all(rest.as_bytes())?;
    }
    Ok(())
}

/// What the page is about.
#[derive(Serialize)]
struct Content {
    title: String,
    facts: String,
    baseline: Option<String>,
    kind: &'static str,
    icicle: bool,
    reversed: bool,
    notes: Vec<String>,
    why_empty: Vec<String>,
    tree: Tree,
}
