//! Figures as people read them. Knows units, not what is measured.

/// A figure with its unit, to three digits.
pub fn figure(value: f64, unit: &str) -> String {
    let scaled = |steps: &[(f64, &str)]| {
        let step = steps.iter().find(|(size, _)| value.abs() >= *size).or(steps.last());
        let (size, name) = step.copied().unwrap_or((1.0, ""));
        format!("{} {name}", digits(value / size))
    };
    match unit {
        "s" => scaled(&[(86_400.0, "days"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs")]),
        "B" => scaled(&BYTES),
        "B/s" => format!("{}/s", scaled(&BYTES)),
        "ratio" => format!("{} %", digits(value * 100.0)),
        "s/s" => format!("{} s a second", digits(value)),
        "/s" => format!("{} a second", digits(value)),
        _ => format!("{} {unit}", digits(value)),
    }
}

const BYTES: [(f64, &str); 4] = [(1_073_741_824.0, "GiB"), (1_048_576.0, "MiB"), (1_024.0, "KiB"), (1.0, "B")];

fn digits(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// Names with commas, and an "and" before the last.
pub fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_unit_that_fits_and_no_more_digits_than_are_read() {
        for (value, unit, text) in [
            (0.0123, "s", "12.3 ms"),
            (0.000_000_5, "s", "0.5 µs"),
            (0.0, "s", "0 µs"),
            (7_200.0, "s", "2 h"),
            (1_500_000.0, "B", "1.43 MiB"),
            (2_048.0, "B/s", "2 KiB/s"),
            (0.987, "ratio", "98.7 %"),
            (0.25, "s/s", "0.25 s a second"),
            (1_234.5, "/s", "1234 a second"),
            (100.0, "/s", "100 a second"),
            (0.97, "cores", "0.97 cores"),
        ] {
            assert_eq!(figure(value, unit), text);
        }
        assert_eq!(listed(&["a".into(), "b".into(), "c".into()]), "a, b and c");
    }
}
