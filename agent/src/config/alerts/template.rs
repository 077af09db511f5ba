//! Texts with places, as they are written: `{value}` is a place, `{{` a brace. Checked against the names that there are.

use crate::{
    config::value::did_you_mean,
    model::rule::{Piece, Template},
};

/// Reads a text whose places must be among these names.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(text: &str, names: &[&str]) -> Result<Template, String> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(one) = rest.next() {
        match one {
            '{' if rest.as_str().starts_with('{') => plain.extend(rest.next()),
            '}' if rest.as_str().starts_with('}') => plain.extend(rest.next()),
            '{' => {
                let Some((name, after)) = rest.as_str().split_once('}') else {
                    return Err("a place begins with { and has no end; a brace is written {{".into());
                };
                if !names.contains(&name) {
                    let hint = did_you_mean(name, names.iter().copied());
                    return Err(format!("there is no {{{name}}} here{hint}; there are {}", listed(names)));
                }
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                pieces.push(Piece::Place(name.into()));
                rest = after.chars();
            }
            '}' => return Err("a } without its {; a brace is written }}".into()),
            one if one.is_control() => return Err("it has a control character".into()),
            one => plain.push(one),
        }
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(Template(pieces))
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("{{{name}}}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_and_what_is_none_is_said() {
        let names = ["value", "service"];
        let pieces = parse("{{x}} {service}: {value}", &names).unwrap().0;
        let place = |name: &str| Piece::Place(name.into());
        let text = |text: &str| Piece::Text(text.into());
        assert_eq!(pieces, [text("{x} "), place("service"), text(": "), place("value")]);
        for (wrong, why) in [
            ("{servise}", "there is no {servise} here; did you mean `service`?"),
            ("{mountpoint}", "there are {value}, {service}"),
            ("{value", "has no end"),
            ("value}", "without its {"),
            ("a\nb", "control character"),
        ] {
            let error = parse(wrong, &names).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
