use std::cell::RefCell;

use super::*;
use crate::{
    alert::{
        book::{ABSENT, Book, Evaluation, Told, key_of},
        silence::Wanted,
    },
    model::{
        alert::{Alert, AlertState, Noted, Suppressed, Surroundings},
        finding::Dependency,
    },
};

const FD: &str = "[[rule]]\nname = \"fd\"\nmetric = \"namedprocess_namegroup_worst_fd_ratio\"\nabove = 0.8\nclear = 0.7\nfor = \"20s\"\n\
                  summary = \"{groupname} on {host} at {value}\"\nimpact = \"{groupname}.\"\n";
const FULL: &str =
    "[[rule]]\nname = \"full\"\nmetric = \"namedprocess_namegroup_worst_fd_ratio\"\nabove = 0.95\nsummary = \"x\"\n";

/// A book that windows are brought to.
pub struct World {
    pub watched: Watched,
    pub book: Book,
}

impl World {
    pub fn new(text: &str) -> Self {
        Self { watched: Watched::new(text), book: Book::default() }
    }

    pub fn now(&self) -> u64 {
        BEGIN_MS + self.watched.windows.saturating_sub(1) * 10_000
    }

    /// A window with these ratios of open files, by service.
    pub fn push(&mut self, ratios: &[(&str, f64)]) -> bool {
        let one = |(name, value): &(&str, f64)| {
            series("namedprocess_namegroup_worst_fd_ratio", &format!("groupname={name}"), *value)
        };
        let figures = self.watched.push(ratios.iter().map(one).collect());
        let rules: Vec<Arc<Rule>> = self.watched.evaluator.rules().cloned().collect();
        let looks = RefCell::new(0);
        let surroundings = |service: Option<&str>| {
            *looks.borrow_mut() += 1;
            let conclusion = format!("found at {}", service.unwrap_or("the host"));
            Surroundings {
                findings: vec![Noted { id: 7, conclusion, evidence: vec!["used 0.9: up".into()] }],
                callers: vec![Dependency {
                    service: "web".into(),
                    callee: "a".into(),
                    is_local: true,
                    bytes_per_second: 1_258_291.2,
                }],
            }
        };
        let (now_unix_ms, elapsed, host) = (self.now(), WINDOW, "h");
        let evaluation = Evaluation { figures, now_unix_ms, elapsed, host, surroundings: &surroundings };
        let changed = self.book.observe(evaluation, &rules);
        assert!(*looks.borrow() <= 16, "few are looked around in a storm");
        changed
    }

    pub fn alert(&self, rule: &str) -> Option<Alert> {
        self.book.entries().map(|entry| &entry.alert).find(|alert| alert.rule == rule).cloned()
    }

    pub fn state(&self) -> Option<AlertState> {
        self.alert("fd").map(|alert| alert.state)
    }
}

#[test]
fn an_alert_is_pending_for_its_time_fires_and_is_over_behind_its_clear_threshold() {
    let mut world = World::new(FD);
    for (ratio, state, changed) in [
        (0.5, None, false),
        (0.9, Some(AlertState::Pending), true),
        (0.9, Some(AlertState::Pending), false),
        (0.9, Some(AlertState::Firing), true),
        (0.75, Some(AlertState::Firing), false),
        (0.7, Some(AlertState::Resolved), true),
        (0.7, Some(AlertState::Resolved), false),
    ] {
        let is_changed = world.push(&[("a", ratio)]);
        assert_eq!((world.state(), is_changed), (state, changed), "{ratio}");
    }
    let alert = world.alert("fd").unwrap();
    let times = [Some(alert.pending_unix_ms), alert.firing_unix_ms, alert.resolved_unix_ms];
    assert_eq!(times.map(|time| time.unwrap() - BEGIN_MS), [10_000, 30_000, 50_000]);
    assert_eq!((alert.summary.as_str(), alert.unit.as_str()), ("a on h at 70 %", "ratio"));
    assert_eq!(alert.impact, "a. It is called by web (1.2 MiB/s).");
    assert_eq!(alert.findings[0].conclusion, "found at a");
    // An hour later nobody asks any more.
    for _ in 0..360 {
        world.push(&[("a", 0.1)]);
    }
    assert_eq!(world.state(), None);
}

#[test]
fn what_is_met_for_too_short_a_time_comes_to_nothing() {
    let mut world = World::new(FD);
    for ratio in [0.9, 0.9, 0.75, 0.9, 0.9, 0.5] {
        world.push(&[("a", ratio)]);
        assert_ne!(world.state(), Some(AlertState::Firing));
    }
    assert_eq!((world.state(), world.book.counts().fired), (None, 0));
}

#[test]
fn what_is_not_measured_any_more_is_over_and_so_is_an_alert_without_its_rule() {
    let fire = || {
        let mut world = World::new(FD);
        for _ in 0..3 {
            world.push(&[("a", 0.9)]);
        }
        world
    };
    let mut world = fire();
    for missing in 1..=ABSENT {
        world.push(&[]);
        let is_over = world.state() == Some(AlertState::Resolved);
        assert_eq!(is_over, missing == ABSENT, "{missing}");
    }
    assert_eq!(world.alert("fd").unwrap().resolved_by.as_deref(), Some("it is not measured any more"));
    let mut world = fire();
    world.watched.evaluator.replace(rules(FULL));
    world.push(&[("a", 0.9)]);
    assert_eq!(world.alert("fd").unwrap().resolved_by.as_deref(), Some("its rule is gone"));
}

#[test]
fn a_restart_ends_nothing_before_the_time_that_is_looked_at_has_passed_and_forgets_nothing() {
    let text = FD.replace("above", "function = \"average\"\nwithin = \"1m\"\nabove");
    let mut world = World::new(&text);
    for _ in 0..3 {
        world.push(&[("a", 0.9)]);
    }
    let id = world.alert("fd").unwrap().id;
    assert_eq!(world.state(), Some(AlertState::Firing));
    world.book.acknowledge(id, "me".into(), String::new(), 1).unwrap();
    for state in [AlertState::Acknowledged] {
        let entries = world.book.entries().cloned().collect();
        let mut again = World::new(&text);
        again.book = Book::restored(entries, world.book.silences.clone(), world.book.last_id());
        for _ in 0..6 {
            again.push(&[("a", 0.1)]);
            assert_eq!(again.state(), Some(state));
        }
        again.push(&[("a", 0.1)]);
        assert_eq!((again.state(), again.alert("fd").unwrap().id), (Some(AlertState::Resolved), id));
        let by = again.alert("fd").unwrap().acknowledged.unwrap().by;
        assert_eq!(by, "me");
    }
}

/// As a disk that will be full: half an hour of windows must come before there is a line through them.
#[test]
fn a_restart_ends_no_alert_whose_figure_takes_time_to_be_there_again() {
    for (text, windows) in [
        (
            FD.replace("above", "function = \"time_to_limit\"\nlimit = 1\nwithin = \"10m\"\nbelow")
                .replace("0.8", "3600"),
            30,
        ),
        (FD.replace("above", "function = \"deviation\"\nof = \"value\"\nabove"), 30),
    ] {
        let text = text.replace("clear = 0.7\n", "");
        let mut world = World::new(&text);
        world.push(&[("a", 0.5)]);
        // It fires, by whatever figure.
        let mut fired = World::new(&FD.replace("clear = 0.7\n", ""));
        for _ in 0..3 {
            fired.push(&[("a", 0.9)]);
        }
        let entries = fired.book.entries().cloned().collect();
        world.book = Book::restored(entries, fired.book.silences.clone(), fired.book.last_id());
        for window in 0..windows {
            world.push(&[]);
            assert_eq!(world.state(), Some(AlertState::Firing), "{text}: window {window}");
        }
        for _ in 0..40 {
            world.push(&[]);
        }
        assert_eq!(world.state(), Some(AlertState::Resolved), "{text}");
    }
}

#[test]
fn what_is_over_is_held_until_everyone_was_told() {
    let mut world = World::new(&format!("{FULL}{}", FULL.replace("full", "also")));
    let names: Vec<String> = (0..400).map(|at| format!("s{at}")).collect();
    let all: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 0.99)).collect();
    world.push(&all);
    world.push(&all);
    let told: Vec<_> = world.book.entries().map(|entry| (key_of(&entry.alert), entry.alert.id)).collect();
    let now = world.now();
    let note = |world: &mut World, is_over| {
        let told: Vec<_> =
            told.iter().map(|(key, id)| (key.clone(), Told { id: *id, is_over, at_unix_ms: now })).collect();
        world.book.note("c", &told);
    };
    note(&mut world, false);
    let calm: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 0.1)).collect();
    world.push(&calm);
    world.push(&calm);
    let held = world.book.entries().count();
    assert!(held > 512 && held == told.len(), "{held} of {}", told.len());
    assert_eq!(world.book.counts().forgotten, 0);
    note(&mut world, true);
    world.push(&calm);
    assert_eq!(world.book.entries().count(), 512);
}

#[test]
fn a_pending_alert_goes_on_after_a_restart_where_it_was() {
    let mut world = World::new(FD);
    for _ in 0..2 {
        world.push(&[("a", 0.9)]);
    }
    let mut again = World::new(FD);
    again.book = Book::restored(world.book.entries().cloned().collect(), world.book.silences.clone(), 5);
    again.push(&[("a", 0.9)]);
    assert_eq!(again.state(), Some(AlertState::Firing));
}

#[test]
fn the_lesser_of_two_alerts_is_silent_while_the_graver_fires_for_the_same() {
    let mut world = World::new(&format!("{FD}inhibited_by = [\"full\"]\n{FULL}"));
    for _ in 0..3 {
        world.push(&[("a", 0.99), ("b", 0.9)]);
    }
    let suppressed = |world: &World, service: &str| {
        let alerts = world.book.entries().map(|entry| &entry.alert);
        let of = |alert: &&Alert| alert.rule == "fd" && alert.labels["groupname"] == service;
        alerts.filter(of).map(|alert| alert.suppressed).next().unwrap()
    };
    assert_eq!(suppressed(&world, "a"), Some(Suppressed::Inhibition));
    assert_eq!(suppressed(&world, "b"), None);
    assert_eq!(world.book.counts().inhibited, 1);
    world.push(&[("a", 0.9), ("b", 0.9)]);
    assert_eq!(suppressed(&world, "a"), None);
}

#[test]
fn a_silence_covers_what_it_names_until_it_expires() {
    let mut world = World::new(FD);
    let wanted = |rule: Option<&str>, label: Option<(&str, &str)>, seconds| Wanted {
        rule: rule.map(str::to_owned),
        labels: label.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        seconds,
        by: "me".into(),
        comment: String::new(),
    };
    for refused in [wanted(None, None, 60), wanted(Some("fd"), None, 0), wanted(Some("fd"), None, u64::MAX)] {
        world.book.silences.begin(refused, BEGIN_MS).unwrap_err();
    }
    world.book.silences.begin(wanted(None, Some(("groupname", "a*")), 45), BEGIN_MS).unwrap();
    for _ in 0..3 {
        world.push(&[("a1", 0.9), ("b", 0.9)]);
    }
    let silenced = |world: &World| {
        let alerts = world.book.entries().filter(|entry| entry.alert.suppressed == Some(Suppressed::Silence));
        alerts.map(|entry| entry.alert.labels["groupname"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((silenced(&world), world.book.counts().silenced), (vec!["a1".to_owned()], 1));
    for _ in 0..3 {
        world.push(&[("a1", 0.9), ("b", 0.9)]);
    }
    assert_eq!((silenced(&world), world.book.silences.all().len()), (vec![], 0));
    let id = world.book.silences.begin(wanted(Some("fd"), None, 60), BEGIN_MS).unwrap().id;
    world.book.silences.end(id).unwrap();
    world.book.silences.end(id).unwrap_err();
}

#[test]
fn only_what_fires_is_acknowledged() {
    let mut world = World::new(FD);
    world.push(&[("a", 0.9)]);
    let acknowledge = |world: &mut World, id| world.book.acknowledge(id, "me".into(), "on it".into(), 5);
    let id = world.alert("fd").unwrap().id;
    assert!(acknowledge(&mut world, id).unwrap_err().to_string().contains("does not fire yet"));
    assert!(acknowledge(&mut world, 99).unwrap_err().to_string().contains("there is no alert 99"));
    for _ in 0..2 {
        world.push(&[("a", 0.9)]);
    }
    assert_eq!(acknowledge(&mut world, id).unwrap().state, AlertState::Acknowledged);
    world.push(&[("a", 0.1)]);
    assert!(acknowledge(&mut world, id).unwrap_err().to_string().contains("is over"));
}

#[test]
fn alerts_are_bounded() {
    let text: String = (0..6).map(|at| FULL.replace("full", &format!("f{at}"))).collect();
    let mut world = World::new(&text);
    let names: Vec<String> = (0..1_000).map(|at| format!("s{at}")).collect();
    let all: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 0.99)).collect();
    world.push(&all);
    world.push(&[]);
    for _ in 0..3 {
        world.push(&[]);
    }
    assert_eq!(world.book.entries().count(), 512, "of those that are over the newest stay");
}

#[test]
fn a_clock_that_is_set_moves_times_and_neither_ends_nor_repeats_anything() {
    const HOUR_MS: u64 = 3_600_000;
    let mut world = World::new(FD);
    for _ in 0..4 {
        world.push(&[("a", 0.9)]);
    }
    let before = world.alert("fd").unwrap();
    assert_eq!(before.state, AlertState::Firing);
    let told = Told { id: before.id, is_over: false, at_unix_ms: world.now() };
    world.book.note("c", &[(key_of(&before), told)]);
    world.book.acknowledge(before.id, "me".into(), String::new(), world.now()).unwrap();
    world.book.shift(-3_600_000);
    let after = world.alert("fd").unwrap();
    assert_eq!(after.pending_unix_ms, before.pending_unix_ms - HOUR_MS);
    assert_eq!(after.firing_unix_ms, before.firing_unix_ms.map(|at| at - HOUR_MS));
    assert_eq!(after.acknowledged.map(|by| by.at_unix_ms), Some(world.now() - HOUR_MS));
    let entry = world.book.entries().next().unwrap();
    assert_eq!(entry.told["c"].at_unix_ms, world.now() - HOUR_MS);
    world.book.shift(3_600_000);
    assert_eq!(world.alert("fd").unwrap().pending_unix_ms, before.pending_unix_ms);
}
