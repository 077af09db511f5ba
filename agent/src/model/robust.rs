//! Statistics that a few wild values do not sway: medians, ranks, and how likely chance alone would do as much. Pure functions
//! on numbers.

/// Makes the median absolute deviation of a normal distribution its standard deviation: 1 / Φ⁻¹(3/4).
const NORMAL: f64 = 1.482_602_218_505_602;

/// The median; of an even number the mean of the middle two. `None` of nothing. Sorts its argument.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*values.get(values.len() / 2 - 1)?, upper))
}

/// Median and spread (median absolute deviation, as a standard deviation). `None` of nothing.
pub fn median_and_spread(values: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = values.to_vec();
    let middle = median(&mut sorted)?;
    sorted.iter_mut().for_each(|value| *value = (*value - middle).abs());
    Some((middle, median(&mut sorted)? * NORMAL))
}

/// How likely chance puts `newest` values, all of them, above all but `above` of `past` ones, if all come in any order alike:
/// C(newest + above, newest) / C(newest + past, newest). It holds for every distribution.
pub fn chance_of_all_above(past: usize, newest: usize, above: usize) -> f64 {
    (1..=newest).map(|at| (above + at) as f64 / (past + at) as f64).product()
}

/// The fewest past values among which such a thing can be as unlikely as `chance`.
pub fn least_past(newest: usize, chance: f64) -> usize {
    (1..).find(|past| chance_of_all_above(*past, newest, 0) <= chance).unwrap_or(usize::MAX)
}

/// Spearman's rank correlation of pairs; `None` below four pairs, or if one side never changes.
pub fn rank_correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 4 {
        return None;
    }
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let (a, b) = (ranks(&a), ranks(&b));
    let middle = (pairs.len() - 1) as f64 / 2.0;
    let (mut product, mut a_square, mut b_square) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        product += (a - middle) * (b - middle);
        a_square += (a - middle).powi(2);
        b_square += (b - middle).powi(2);
    }
    (a_square > 0.0 && b_square > 0.0).then(|| product / (a_square * b_square).sqrt())
}

/// The rank of each value, from 0; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<(usize, f64)> = values.iter().copied().enumerate().collect();
    order.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for equal in order.chunk_by(|(_, a), (_, b)| a == b) {
        let rank = first as f64 + (equal.len() - 1) as f64 / 2.0;
        for (place, _) in equal {
            if let Some(slot) = ranks.get_mut(*place) {
                *slot = rank;
            }
        }
        first += equal.len();
    }
    ranks
}

/// How likely chance alone correlates `pairs` ranks at least so far, either way: Fisher's transformation with the variance that
/// Fieller, Hartley and Pearson found for ranks, 1.06 / (n - 3) (Biometrika 44, 1957).
pub fn chance_of_correlation(correlation: f64, pairs: usize) -> f64 {
    if pairs < 4 {
        return 1.0;
    }
    let z = correlation.abs().min(1.0 - 1e-12).atanh() * ((pairs - 3) as f64 / 1.06).sqrt();
    two_sided(z)
}

/// The part of a normal distribution beyond `z` on either side: erfc(z / √2) by the Chebyshev fit in Numerical Recipes
/// (2nd edition, section 6.2), whose relative error is below 1.2e-7 everywhere.
fn two_sided(z: f64) -> f64 {
    const FIT: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    let sum = FIT.iter().rev().fold(0.0, |sum, term| sum * t + term);
    t * (sum - x * x).exp()
}

/// Which of many tests may be believed, if among those believed a part of at most `false_share` may be wrong (Benjamini and
/// Hochberg, J. R. Statist. Soc. B 57, 1995): the largest chance that passes. `None` if none does.
pub fn largest_believed(mut chances: Vec<f64>, false_share: f64) -> Option<f64> {
    chances.sort_by(f64::total_cmp);
    let tests = chances.len() as f64;
    let passes = |(place, chance): &(usize, f64)| *chance <= (*place + 1) as f64 / tests * false_share;
    chances.into_iter().enumerate().rfind(passes).map(|(_, chance)| chance)
}

/// The slope that half of all pairs of points lie above (Theil and Sen), in units of y for one of x. `None` below two points.
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let after = |at: usize| points.get(at + 1..).unwrap_or_default();
    let pairs = points.iter().enumerate().flat_map(|(at, first)| after(at).iter().map(move |second| (first, second)));
    let mut slopes: Vec<f64> = pairs.filter(|(a, b)| b.0 != a.0).map(|(a, b)| (b.1 - a.1) / (b.0 - a.0)).collect();
    median(&mut slopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_wild_values_move_neither_median_nor_spread_far() {
        let mut values: Vec<f64> = (1..=99).map(f64::from).collect();
        assert_eq!(median_and_spread(&values), Some((50.0, 25.0 * NORMAL)));
        values.iter_mut().take(5).for_each(|value| *value = 1e12);
        let (middle, spread) = median_and_spread(&values).unwrap();
        assert!((50.0..60.0).contains(&middle) && spread < 25.0 * NORMAL * 1.2, "{middle} {spread}");
        assert_eq!(median(&mut [1.0, 2.0]), Some(1.5));
        assert_eq!(median(&mut []), None);
    }

    /// By counting: of all orders of five values, in one of ten the last two are the largest.
    #[test]
    fn the_chance_of_ranks_is_that_of_counting_all_orders() {
        assert!((chance_of_all_above(3, 2, 0) - 0.1).abs() < 1e-12);
        // The two newest among the three largest of five: three of ten.
        assert!((chance_of_all_above(3, 2, 1) - 0.3).abs() < 1e-12);
        assert_eq!(chance_of_all_above(3, 2, 3), 1.0);
        assert_eq!(least_past(2, 0.1), 3);
        assert_eq!(least_past(2, 0.11), 3);
        assert_eq!(least_past(2, 0.09), 4);
    }

    #[test]
    fn ranks_correlate_whatever_the_scale_and_ties_share_theirs() {
        let pairs: Vec<(f64, f64)> = (0..20).map(|x| (f64::from(x), f64::from(x).exp())).collect();
        assert!((rank_correlation(&pairs).unwrap() - 1.0).abs() < 1e-12);
        let down: Vec<(f64, f64)> = pairs.iter().map(|(x, y)| (*x, -y)).collect();
        assert!((rank_correlation(&down).unwrap() + 1.0).abs() < 1e-12);
        // By hand: the squares of the differences of ranks sum to 10, and 1 - 6 * 10 / (5 * 24) is a half.
        let known = [(1.0, 2.0), (2.0, 4.0), (3.0, 1.0), (4.0, 3.0), (5.0, 5.0)];
        assert!((rank_correlation(&known).unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(ranks(&[5.0, 1.0, 5.0]), [1.5, 0.0, 1.5]);
        assert_eq!(rank_correlation(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]), None);
        assert_eq!(rank_correlation(&known[..3]), None);
    }

    #[test]
    fn the_chance_of_a_normal_deviate_is_that_of_tables() {
        for (z, chance) in [(0.0, 1.0), (1.959_964, 0.05), (2.575_829, 0.01), (4.891_638, 1e-6), (6.109_410, 1e-9)] {
            assert!((two_sided(z) / chance - 1.0).abs() < 1e-5, "{z}");
        }
        // Tables of critical values of Spearman's coefficient: n = 30, 0.362 for one in twenty.
        assert!((0.045..0.06).contains(&chance_of_correlation(0.362, 30)));
        assert_eq!(chance_of_correlation(0.9, 3), 1.0);
    }

    #[test]
    fn of_many_tests_those_are_believed_that_benjamini_and_hochberg_believe() {
        // The example of their paper: of fifteen tests the four smallest pass at 0.05.
        let chances = vec![
            0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
            0.7590, 1.0,
        ];
        assert_eq!(largest_believed(chances, 0.05), Some(0.0095));
        assert_eq!(largest_believed(vec![0.5, 0.9], 0.05), None);
        assert_eq!(largest_believed(vec![], 0.05), None);
    }

    #[test]
    fn a_slope_is_found_among_wild_points() {
        let mut points: Vec<(f64, f64)> = (0..30).map(|x| (f64::from(x), 7.0 + 2.0 * f64::from(x))).collect();
        points[3].1 = -1e9;
        points[20].1 = 1e9;
        assert_eq!(slope(&points), Some(2.0));
        assert_eq!(slope(&points[..1]), None);
    }
}
