//! Variants that take turns: A, B, A, B, … so that a machine that warms up or slows down does so for all of them.
//! Knows numbers, not what they measure.

use anyhow::{Context, Result, ensure};

use super::interrupt;

/// One way to run what is measured; returns one measurement of each subject.
pub struct Variant<'a> {
    pub name: &'static str,
    pub measure: Box<dyn FnMut() -> Result<Vec<f64>> + 'a>,
}

impl<'a> Variant<'a> {
    pub fn new(name: &'static str, measure: impl FnMut() -> Result<Vec<f64>> + 'a) -> Self {
        Self { name, measure: Box::new(measure) }
    }
}

/// Measurements of one subject by variant, in the order of rounds. The first variant is what the others are compared
/// with.
#[derive(Debug, PartialEq)]
pub struct Rounds {
    pub subject: &'static str,
    pub variants: Vec<Measured>,
}

/// All measurements of one variant.
#[derive(Debug, PartialEq)]
pub struct Measured {
    pub name: &'static str,
    pub values: Vec<f64>,
}

/// The middle of many values, and between what the middle half of them lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quartiles {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

/// Lets the variants take turns, `rounds` times; one result for each subject.
///
/// # Errors
/// A variant fails, or measures fewer or more than the subjects; half a comparison is none.
pub fn alternate(rounds: usize, subjects: &[&'static str], mut variants: Vec<Variant<'_>>) -> Result<Vec<Rounds>> {
    let empty = |variant: &Variant| Measured { name: variant.name, values: Vec::with_capacity(rounds) };
    let all = |subject: &&'static str| Rounds { subject, variants: variants.iter().map(empty).collect() };
    let mut results: Vec<Rounds> = subjects.iter().map(all).collect();
    for round in 1..=rounds {
        for (place, variant) in variants.iter_mut().enumerate() {
            interrupt::check()?;
            let values = (variant.measure)()
                .with_context(|| format!("round {round} of {rounds}, variant `{}`", variant.name))?;
            ensure!(values.len() == subjects.len(), "{}: {} values of {}", variant.name, values.len(), subjects.len());
            let shown: Vec<String> = values.iter().map(|value| format!("{value:.2}")).collect();
            eprintln!("{round}/{rounds} {:<24} {}", variant.name, shown.join("  "));
            for (result, value) in results.iter_mut().zip(values) {
                result.variants[place].values.push(value);
            }
        }
    }
    Ok(results)
}

impl Rounds {
    /// Each round's value divided by the first variant's of the same round.
    pub fn ratio(&self, variant: &Measured) -> Quartiles {
        self.compared(variant, |value, base| value / base)
    }

    /// Each round's value less the first variant's of the same round.
    pub fn added(&self, variant: &Measured) -> Quartiles {
        self.compared(variant, |value, base| value - base)
    }

    /// Each round's value less another variant's of the same round.
    pub fn difference(&self, variant: &Measured, from: &Measured) -> Quartiles {
        Quartiles::of(&variant.values.iter().zip(&from.values).map(|(value, from)| value - from).collect::<Vec<_>>())
    }

    pub fn variant(&self, name: &str) -> Option<&Measured> {
        self.variants.iter().find(|variant| variant.name == name)
    }

    fn compared(&self, variant: &Measured, compare: impl Fn(f64, f64) -> f64) -> Quartiles {
        let base = self.variants.first().map_or(&[][..], |first| &first.values);
        Quartiles::of(&variant.values.iter().zip(base).map(|(value, base)| compare(*value, *base)).collect::<Vec<_>>())
    }
}

impl Measured {
    pub fn quartiles(&self) -> Quartiles {
        Quartiles::of(&self.values)
    }
}

impl Quartiles {
    /// Between two values the line is straight; not a number if there are none.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * sorted.len().saturating_sub(1) as f64;
            let (below, above) = (sorted.get(place.floor() as usize), sorted.get(place.ceil() as usize));
            let (below, above) = (below.unwrap_or(&f64::NAN), above.unwrap_or(&f64::NAN));
            below + (above - below) * place.fract()
        };
        Self { low: at(0.25), median: at(0.5), high: at(0.75) }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn variants_take_turns_and_are_compared_within_a_round() {
        let order = RefCell::new(String::new());
        let step = |name: char, value: f64| {
            order.borrow_mut().push(name);
            Ok(vec![value * order.borrow().len() as f64, 7.0])
        };
        let variants = vec![Variant::new("a", || step('a', 1.0)), Variant::new("b", || step('b', 2.0))];
        let results = alternate(3, &["x", "y"], variants).unwrap();
        assert_eq!(*order.borrow(), "ababab");
        assert_eq!(results.iter().map(|result| result.subject).collect::<Vec<_>>(), ["x", "y"]);
        let [a, b] = &results[0].variants[..] else { panic!("{results:?}") };
        assert_eq!((&a.values[..], &b.values[..]), (&[1.0, 3.0, 5.0][..], &[4.0, 8.0, 12.0][..]));
        assert_eq!(results[0].ratio(b).median, 8.0 / 3.0);
        assert_eq!(results[0].difference(a, b).median, -5.0);
        assert_eq!(results[0].added(b), Quartiles { low: 4.0, median: 5.0, high: 6.0 });
        assert_eq!(results[1].variant("b").unwrap().values, [7.0; 3]);
    }

    #[test]
    fn a_variant_that_measures_too_little_is_an_error() {
        assert!(alternate(1, &["x", "y"], vec![Variant::new("a", || Ok(vec![1.0]))]).is_err());
    }

    #[test]
    fn quartiles_lie_on_values_or_between_two() {
        assert_eq!(Quartiles::of(&[9.0, 1.0, 5.0]), Quartiles { low: 3.0, median: 5.0, high: 7.0 });
        assert_eq!(Quartiles::of(&[9.0, 1.0, 5.0, 6.0]).median, 5.5);
        assert_eq!(Quartiles::of(&[2.0]), Quartiles { low: 2.0, median: 2.0, high: 2.0 });
        assert!(Quartiles::of(&[]).median.is_nan());
    }
}
