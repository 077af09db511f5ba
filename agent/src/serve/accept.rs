//! Which of several media types a client wants (RFC 9110, section 12.5.1). Knows no type by name.

/// The place of the type that the `Accept` header likes best, the first of those that it likes as well. A client that likes
/// none gets the first all the same: it can still refuse the answer, and most only failed to say what they take.
pub fn best(accept: &str, offered: &[&str]) -> usize {
    let mut best = (0, 0.0);
    for (place, media_type) in offered.iter().enumerate() {
        let quality = quality(accept, media_type);
        if quality > best.1 {
            best = (place, quality);
        }
    }
    best.0
}

/// How much a type is liked: as the most specific range says that includes it.
fn quality(accept: &str, media_type: &str) -> f64 {
    let matches = accept.split(',').filter_map(|range| matched(range, media_type));
    // Of two that are as specific the last, which is the greater.
    let most = matches.max_by(|(a, a_quality), (b, b_quality)| a.cmp(b).then(a_quality.total_cmp(b_quality)));
    most.map_or(0.0, |(_, quality)| quality)
}

/// How specific the range is, and how much it is liked; `None` if it does not include the type.
fn matched(range: &str, offered: &str) -> Option<(usize, f64)> {
    let (range, parameters) = split(range);
    let (media_type, offered_parameters) = split(offered);
    let (kind, _) = media_type.split_once('/')?;
    let specific = match range.split_once('/')? {
        ("*", "*") => 0,
        (wanted, "*") if wanted.eq_ignore_ascii_case(kind) => 1,
        _ if range.eq_ignore_ascii_case(media_type) => 2,
        _ => return None,
    };
    let mut quality = 1.0;
    let mut asked = 0;
    for (name, value) in parameters {
        if name.eq_ignore_ascii_case("q") {
            quality = value.parse().unwrap_or(0.0);
            continue;
        }
        asked += 1;
        // What the type says nothing of, such as how names are to be escaped, is no reason to refuse it.
        let other = |(known, offered): &(&str, &str)| known.eq_ignore_ascii_case(name) && *offered != value;
        if offered_parameters.clone().any(|parameter| other(&parameter)) {
            return None;
        }
    }
    Some((specific + asked, quality))
}

/// A type and its parameters.
fn split(text: &str) -> (&str, impl Iterator<Item = (&str, &str)> + Clone) {
    let mut parts = text.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default();
    (media_type, parts.filter_map(|part| part.split_once('=')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: &[&str] =
        &["text/plain; version=0.0.4; charset=utf-8", "application/openmetrics-text; version=1.0.0; charset=utf-8"];

    #[test]
    fn who_asks_for_openmetrics_gets_it_and_all_others_text() {
        for (accept, place) in [
            // Prometheus 2.42 and 3.1.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                 text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                1,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                1,
            ),
            ("application/openmetrics-text", 1),
            ("Application/OpenMetrics-Text; Version=1.0.0", 1),
            ("application/openmetrics-text;version=0.0.1,text/plain", 0),
            ("application/openmetrics-text;q=0.3,text/plain;q=0.4", 0),
            ("application/openmetrics-text;q=0,*/*", 0),
            ("application/*, text/plain;q=0.5", 1),
            // curl, a browser, and who says nothing or nonsense.
            ("*/*", 0),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", 0),
            ("image/png", 0),
            ("", 0),
            (";;,=/;q=x,*/*;q=nan", 0),
        ] {
            assert_eq!(best(accept, OFFERED), place, "{accept}");
        }
    }
}
