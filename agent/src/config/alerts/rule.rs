//! One rule: as it is written, and what is wrong with it.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use serde::Deserialize;
use toml::Spanned;

use super::{Text, is_name, template};
use crate::{
    config::value::{did_you_mean, parse_duration, show_duration},
    model::{
        catalog::CHAPTERS,
        metric::{Kind, Metric},
        rule::{Condition, Function, Matcher, Rule, Selection, Severity, Side, Template},
    },
};

/// The longest that a figure looks back: windows are kept for each series.
pub const LONGEST_WITHIN: Duration = Duration::from_secs(3_600);
/// The longest that a condition may have to hold.
const LONGEST_FOR: Duration = Duration::from_secs(86_400);
/// Of a quantile, average or ratio, unless it is said.
const AT_LEAST: u64 = 20;
/// How far a straight line is drawn through, unless it is said.
const LINE_WITHIN: Duration = Duration::from_secs(1_800);
/// The functions by name.
const FUNCTIONS: &[&str] = &["value", "rate", "average", "quantile", "ratio", "changes", "time_to_limit"];
const DEVIATION: &str = "deviation";
/// Places that every text has, beside the labels.
const PLACES: &[&str] = &["value", "usual", "threshold", "for", "severity", "rule", "host"];

/// A rule as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypedRule {
    name: Spanned<String>,
    metric: Spanned<String>,
    #[serde(default, rename = "match")]
    with: Option<Spanned<Labels>>,
    without: Option<Spanned<Labels>>,
    over: Option<Spanned<String>>,
    over_match: Option<Spanned<Labels>>,
    over_without: Option<Spanned<Labels>>,
    function: Option<Spanned<String>>,
    /// The function whose deviation is meant.
    of: Option<Spanned<String>>,
    quantile: Option<Spanned<f64>>,
    limit: Option<f64>,
    #[serde(default)]
    rest: bool,
    within: Option<Spanned<String>>,
    by: Option<Spanned<Vec<String>>>,
    at_least: Option<u64>,
    above: Option<f64>,
    below: Option<f64>,
    clear: Option<Spanned<f64>>,
    #[serde(rename = "for")]
    held: Option<Spanned<String>>,
    #[serde(default)]
    severity: Severity,
    summary: Spanned<String>,
    impact: Option<Spanned<String>>,
    step: Option<Spanned<String>>,
    #[serde(default)]
    inhibited_by: Vec<String>,
}

type Labels = BTreeMap<String, Patterns>;

/// One value of a label, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Patterns {
    One(String),
    Several(Vec<String>),
}

impl TypedRule {
    /// The rule, if it is one; else what is wrong is complained of.
    pub(super) fn checked(self, text: &mut Text, whole: Range<usize>) -> Option<Rule> {
        let before = text.complaints.len();
        let name = self.name.get_ref().clone();
        if !is_name(&name) {
            text.complain(self.name.span(), format!("{name:?} is no name: letters, digits, _ and - are allowed"));
        }
        let of = selection(text, &self.metric, self.with.as_ref(), self.without.as_ref());
        let over = match &self.over {
            Some(over) => selection(text, over, self.over_match.as_ref(), self.over_without.as_ref()).map(Some),
            None => Some(None),
        };
        if self.over.is_none()
            && let Some(span) = self.over_match.as_ref().or(self.over_without.as_ref()).map(Spanned::span)
        {
            text.complain(span, "over_match and over_without belong to `over`, which is missing");
        }
        let (of, over) = of.zip(over)?;
        let by = self.labels(text, &of, over.as_ref());
        let (function, is_deviation) = self.function(text, &of, over.as_ref())?;
        let within = duration(text, self.within.as_ref(), "within", LONGEST_WITHIN);
        let within = within.unwrap_or(match function {
            Function::TimeToLimit { .. } => LINE_WITHIN,
            _ => Duration::ZERO,
        });
        let held = duration(text, self.held.as_ref(), "for", LONGEST_FOR).unwrap_or_default();
        let condition = self.condition(text, whole);
        let names: Vec<&str> = PLACES.iter().copied().chain(by.iter().copied()).collect();
        let mut read = |typed: Option<&Spanned<String>>| {
            let template = typed.map(|typed| (template::parse(typed.get_ref(), &names), typed.span()));
            match template {
                Some((Ok(template), _)) => template,
                Some((Err(why), span)) => {
                    text.complain(span, format!("rule {name:?}: {why}"));
                    Template::default()
                }
                None => Template::default(),
            }
        };
        let summary = read(Some(&self.summary));
        let (impact, step) = (read(self.impact.as_ref()), read(self.step.as_ref()));
        let condition = condition.filter(|_| text.complaints.len() == before)?;
        let at_least = self.at_least.unwrap_or(AT_LEAST);
        let (severity, inhibited_by) = (self.severity, self.inhibited_by);
        Some(Rule {
            name,
            function,
            of,
            over,
            by,
            within,
            at_least,
            is_deviation,
            condition,
            held,
            severity,
            summary,
            impact,
            step,
            inhibited_by,
        })
    }

    /// The labels that tell alerts apart: those that are named, or else all that every metric of the rule has.
    fn labels(&self, text: &mut Text, of: &Selection, over: Option<&Selection>) -> Vec<&'static str> {
        let both = |label: &&&'static str| over.is_none_or(|over| over.metric.labels.contains(label));
        let there: Vec<&'static str> = of.metric.labels.iter().filter(both).copied().collect();
        let Some(by) = &self.by else { return there };
        let mut chosen = Vec::new();
        for name in by.get_ref() {
            match there.iter().find(|label| *label == name) {
                Some(label) => chosen.push(*label),
                None => text.complain(by.span(), no_label(name, of.metric, &there)),
            }
        }
        chosen
    }

    fn function(&self, text: &mut Text, of: &Selection, over: Option<&Selection>) -> Option<(Function, bool)> {
        let named = self.function.as_ref().map_or("value", |name| name.get_ref().as_str());
        let is_deviation = named == DEVIATION;
        let (name, span) = match (&self.function, &self.of, is_deviation) {
            (_, Some(of), true) => (of.get_ref().as_str(), of.span()),
            (_, Some(of), false) => {
                text.complain(of.span(), "`of` belongs to function = \"deviation\"");
                return None;
            }
            (Some(function), None, true) => {
                text.complain(function.span(), "a deviation needs `of`: the function that is compared with its past");
                return None;
            }
            (Some(function), None, false) => (named, function.span()),
            (None, None, _) => (named, self.metric.span()),
        };
        let mut wrong = |why: String| -> Option<(Function, bool)> {
            text.complain(span.clone(), why);
            None
        };
        let counter = of.metric.kind == Kind::Counter;
        let what = |kind: Kind| match kind {
            Kind::Counter => "a counter",
            Kind::Gauge => "a gauge",
            Kind::Histogram(_) => "a histogram",
        };
        let is = format!("{} is {}", of.metric.name, what(of.metric.kind));
        let function = match name {
            "value" if of.counts() => return wrong(format!("{is}, which has no value of its own: rate is meant?")),
            "value" => Function::Value,
            "rate" if !of.counts() => {
                return wrong(format!("{is}, which has no rate; allowed: value, average, changes"));
            }
            "rate" => Function::Rate,
            "average" | "quantile" if counter => {
                return wrong(format!("{is}, which has no {name}; allowed: rate, ratio"));
            }
            "average" => Function::Average,
            "quantile" => match self.quantile.as_ref().map(|it| *it.get_ref()) {
                Some(share) if share > 0.0 && share < 1.0 => Function::Quantile(share),
                Some(share) => return wrong(format!("quantile = {share} is none; allowed: between 0 and 1")),
                None => return wrong("a quantile needs `quantile`, such as 0.95".into()),
            },
            "ratio" => match over {
                None => return wrong("a ratio needs `over`: the metric that it is divided by".into()),
                Some(over) if over.counts() != of.counts() => {
                    let other = format!("{} is {}", over.metric.name, what(over.metric.kind));
                    return wrong(format!("{is} and {other}: gains are divided by gains, and gauges by gauges"));
                }
                Some(_) => Function::Ratio { is_rest: self.rest },
            },
            "changes" | "time_to_limit" if of.counts() => {
                return wrong(format!("{is}; allowed for {name}: a gauge"));
            }
            "changes" => Function::Changes,
            "time_to_limit" => match (self.limit, over) {
                (Some(_), Some(_)) => return wrong("one of `limit` and `over` says where the limit is".into()),
                (None, None) => return wrong("time_to_limit needs `limit`, a number, or `over`, a metric".into()),
                (_, Some(over)) if over.counts() => return wrong(format!("{} is no gauge", over.metric.name)),
                (limit, _) => Function::TimeToLimit { limit: limit.unwrap_or_default() },
            },
            other => {
                let known = || FUNCTIONS.iter().copied().chain([DEVIATION]);
                let allowed = known().collect::<Vec<_>>().join(", ");
                return wrong(format!(
                    "there is no function {other:?}{}; allowed: {allowed}",
                    did_you_mean(other, known())
                ));
            }
        };
        let takes_over = matches!(function, Function::Ratio { .. } | Function::TimeToLimit { .. });
        if let Some(over) = self.over.as_ref().filter(|_| !takes_over) {
            text.complain(over.span(), format!("`over` belongs to a ratio or a time_to_limit, not to {name}"));
            return None;
        }
        Some((function, is_deviation))
    }

    fn condition(&self, text: &mut Text, whole: Range<usize>) -> Option<Condition> {
        let (side, threshold) = match (self.above, self.below) {
            (Some(above), None) => (Side::Above, above),
            (None, Some(below)) => (Side::Below, below),
            _ => {
                text.complain(whole, format!("rule {:?} needs one of `above` and `below`", self.name.get_ref()));
                return None;
            }
        };
        let clear = self.clear.as_ref().map_or(threshold, |clear| *clear.get_ref());
        let condition = Condition { side, threshold, clear };
        if !threshold.is_finite() || !clear.is_finite() || condition.is_met(clear) {
            let span = self.clear.as_ref().map_or(whole, Spanned::span);
            let word = if side == Side::Above { "above" } else { "below" };
            text.complain(
                span,
                format!("clear = {clear} is never reached: it must not lie {word} the threshold {threshold}"),
            );
            return None;
        }
        Some(condition)
    }
}

fn selection(
    text: &mut Text,
    name: &Spanned<String>,
    with: Option<&Spanned<Labels>>,
    without: Option<&Spanned<Labels>>,
) -> Option<Selection> {
    let all = || CHAPTERS.iter().flat_map(|chapter| (chapter.metrics)());
    let Some(metric) = all().find(|metric| metric.name == name.get_ref()) else {
        let hint = did_you_mean(name.get_ref(), all().map(|metric| metric.name));
        text.complain(name.span(), format!("there is no metric {:?}{hint}; all: docs/metrics.md", name.get_ref()));
        return None;
    };
    let mut matchers = |typed: Option<&Spanned<Labels>>| {
        let mut found = Vec::new();
        for (label, patterns) in typed.into_iter().flat_map(|typed| typed.get_ref()) {
            let span = typed.map(Spanned::span).unwrap_or_default();
            match metric.labels.iter().position(|known| known == label) {
                Some(place) => found.push(Matcher { label: place, patterns: patterns.all() }),
                None => text.complain(span, no_label(label, metric, metric.labels)),
            }
        }
        found
    };
    let (with, without) = (matchers(with), matchers(without));
    Some(Selection { metric, with, without })
}

impl Patterns {
    fn all(&self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::Several(several) => several.clone(),
        }
    }
}

fn no_label(name: &str, metric: &Metric, there: &[&str]) -> String {
    let hint = did_you_mean(name, there.iter().copied());
    let all = if there.is_empty() { "none".into() } else { there.join(", ") };
    format!("{} has no label {name:?}{hint}; allowed: {all}", metric.name)
}

fn duration(text: &mut Text, typed: Option<&Spanned<String>>, key: &str, most: Duration) -> Option<Duration> {
    let typed = typed?;
    match parse_duration(typed.get_ref()) {
        Ok(duration) if duration <= most => Some(duration),
        Ok(_) => {
            let why = format!("{key} = {:?} is too long; allowed: up to {}", typed.get_ref(), show_duration(most));
            text.complain(typed.span(), why);
            None
        }
        Err(why) => {
            text.complain(typed.span(), format!("{key} = {:?}: {why}; allowed: such as 30s, 5m, 1h", typed.get_ref()));
            None
        }
    }
}
