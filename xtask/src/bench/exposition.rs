//! What stands in an answer of /metrics, as far as benchmarks ask: how much it is, and sums over labels.

/// A text exposition.
pub struct Exposition {
    text: String,
}

impl Exposition {
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned() }
    }

    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Series as Prometheus counts and stores them: each bucket, `_sum` and `_count` is one.
    pub fn series(&self) -> usize {
        self.lines().count()
    }

    /// Series with each histogram counted once.
    pub fn series_with_whole_histograms(&self) -> usize {
        let histograms: Vec<&str> =
            self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram")).collect();
        let part = |line: &&str| {
            let name = name(line);
            let base = name.strip_suffix("_bucket").or_else(|| name.strip_suffix("_sum"));
            base.is_some_and(|base| histograms.contains(&base))
        };
        self.lines().filter(|line| !part(line)).count()
    }

    /// The sum of all series of this name that have these labels.
    pub fn sum(&self, wanted: &str, labels: &[(&str, &str)]) -> f64 {
        self.values(wanted, labels).sum()
    }

    /// The largest of them; 0 if there is none.
    pub fn most(&self, wanted: &str, labels: &[(&str, &str)]) -> f64 {
        self.values(wanted, labels).fold(0.0, f64::max)
    }

    /// The buckets of a histogram without labels: upper bounds in seconds, and what lies at or below each.
    pub fn buckets(&self, wanted: &str) -> Vec<(f64, f64)> {
        let begin = format!("{wanted}_bucket{{le=\"");
        let bucket = |line: &str| {
            let (bound, _) = line.strip_prefix(&begin)?.split_once('"')?;
            Some((bound.parse().ok()?, value(line)?))
        };
        self.lines().filter_map(bucket).collect()
    }

    fn values<'a>(&'a self, wanted: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = f64> + 'a {
        let has = move |line: &str| {
            labels.iter().all(|(label, value)| {
                let pair = format!("{label}=\"{value}\"");
                line.contains(&format!("{{{pair}")) || line.contains(&format!(",{pair}"))
            })
        };
        self.lines().filter(move |line| name(line) == wanted && has(line)).filter_map(value)
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
    }
}

fn name(line: &str) -> &str {
    line.split(['{', ' ']).next().unwrap_or_default()
}

fn value(line: &str) -> Option<f64> {
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP a_total Things.
# TYPE a_total counter
a_total{service=\"x\",syscall=\"read\"} 3
a_total{service=\"x\",syscall=\"write\"} 4
a_total{service=\"xy\",syscall=\"read\"} 5
# TYPE b_seconds histogram
b_seconds_bucket{service=\"x\",le=\"0.1\"} 1
b_seconds_bucket{service=\"x\",le=\"+Inf\"} 2
b_seconds_sum{service=\"x\"} 0.5
b_seconds_count{service=\"x\"} 2
# TYPE c_sum gauge
c_sum 1
";

    #[test]
    fn series_are_counted_in_both_ways() {
        let exposition = Exposition::new(TEXT);
        assert_eq!((exposition.series(), exposition.series_with_whole_histograms()), (8, 5));
    }

    #[test]
    fn sums_take_the_series_that_have_all_labels() {
        let exposition = Exposition::new(TEXT);
        assert_eq!(exposition.sum("a_total", &[]), 12.0);
        assert_eq!(exposition.sum("a_total", &[("service", "x")]), 7.0);
        assert_eq!(exposition.sum("a_total", &[("syscall", "read"), ("service", "x")]), 3.0);
        assert_eq!(exposition.sum("a", &[]), 0.0);
        assert_eq!(exposition.most("a_total", &[("service", "x")]), 4.0);
        assert_eq!(exposition.most("a", &[]), 0.0);
    }

    #[test]
    fn buckets_have_their_bounds_and_the_last_has_none() {
        let text = "d_seconds_bucket{le=\"0.5\"} 1\nd_seconds_bucket{le=\"+Inf\"} 3\nd_seconds_sum 2\n";
        assert_eq!(Exposition::new(text).buckets("d_seconds"), [(0.5, 1.0), (f64::INFINITY, 3.0)]);
    }
}
