//! Variants that take turns: A, B, A, B, … so that a machine that warms up or slows down does so for all of them.
//! Knows numbers, not what they measure.

use anyhow::{Context, Result};

/// One way to run what is measured; returns one measurement.
pub struct Variant<'a> {
    pub name: &'static str,
    pub measure: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Variant<'a> {
    pub fn new(name: &'static str, measure: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self { name, measure: Box::new(measure) }
    }
}

/// Measurements by variant, in the order of rounds. The first variant is what the others are compared with.
pub struct Rounds {
    pub variants: Vec<Measured>,
}

/// All measurements of one variant.
pub struct Measured {
    pub name: &'static str,
    pub values: Vec<f64>,
}

/// Lets the variants take turns, `rounds` times.
///
/// # Errors
/// A variant fails; half a comparison is none.
pub fn alternate(rounds: usize, mut variants: Vec<Variant<'_>>) -> Result<Rounds> {
    let mut measured: Vec<Measured> =
        variants.iter().map(|variant| Measured { name: variant.name, values: Vec::with_capacity(rounds) }).collect();
    for round in 1..=rounds {
        for (variant, measured) in variants.iter_mut().zip(&mut measured) {
            let value = (variant.measure)()
                .with_context(|| format!("round {round} of {rounds}, variant `{}`", variant.name))?;
            eprintln!("{round}/{rounds} {:<24} {value:.2}", variant.name);
            measured.values.push(value);
        }
    }
    Ok(Rounds { variants: measured })
}

impl Rounds {
    /// The median, over rounds, of a variant's value divided by the first variant's of the same round.
    pub fn ratio(&self, variant: &Measured) -> f64 {
        let base = self.variants.first().map_or(&[][..], |first| &first.values);
        median(&variant.values.iter().zip(base).map(|(value, base)| value / base).collect::<Vec<_>>())
    }
}

impl Measured {
    pub fn median(&self) -> f64 {
        median(&self.values)
    }

    /// The least and the greatest.
    pub fn range(&self) -> (f64, f64) {
        self.values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)))
    }
}

/// The middle value, or the mean of the two; not a number if there is none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn variants_take_turns_and_ratios_pair_values_of_one_round() {
        let order = RefCell::new(String::new());
        let step = |name: char, value: f64| {
            order.borrow_mut().push(name);
            Ok(value * order.borrow().len() as f64)
        };
        let rounds =
            alternate(3, vec![Variant::new("a", || step('a', 1.0)), Variant::new("b", || step('b', 2.0))]).unwrap();
        assert_eq!(*order.borrow(), "ababab");
        assert_eq!(rounds.variants[0].values, [1.0, 3.0, 5.0]);
        assert_eq!(rounds.variants[1].values, [4.0, 8.0, 12.0]);
        assert_eq!(rounds.ratio(&rounds.variants[1]), 8.0 / 3.0);
        assert_eq!(rounds.variants[1].range(), (4.0, 12.0));
    }

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(&[9.0, 1.0, 5.0, 6.0]), 5.5);
        assert!(median(&[]).is_nan());
    }
}
