use std::time::Instant;

use super::{book::World, *};
use crate::{
    alert::{
        book::Book,
        channel::{Sender, bodies},
        notice::{MOST_OF_NOTICE, Notice, Now, Pace, Planner},
        silence::Wanted,
    },
    config::{
        Endpoint,
        alerts::{Channel, ChannelKind},
    },
    model::{alert::AlertState, rule::Severity},
};

const FD: &str = "[[rule]]\nname = \"fd\"\nmetric = \"namedprocess_namegroup_worst_fd_ratio\"\nabove = 0.8\nsummary = \"{groupname} at {value}\"\n\
                  impact = \"i\"\nstep = \"s\"\n";

/// A world whose alerts one channel is told of.
struct Told {
    world: World,
    channel: Channel,
    planner: Planner,
    began: Instant,
}

impl Told {
    fn new(kind: fn(Endpoint) -> ChannelKind) -> Self {
        let channel = Channel { name: "c".into(), kind: kind(Endpoint::at("http://x")), least: Severity::Warning };
        let planner = Planner::new(&channel.kind);
        Self { world: World::new(FD), channel, planner, began: Instant::now() }
    }

    fn now(&self) -> Now {
        let unix_ms = self.world.now();
        Now { unix_ms, instant: self.began + Duration::from_millis(unix_ms - BEGIN_MS) }
    }

    fn next(&mut self) -> Option<Notice> {
        let pace = Pace { throttle: Duration::from_secs(60), repeat: Duration::from_secs(3_600) };
        let now = self.now();
        self.planner.next(&self.channel, &self.world.book, pace, now)
    }

    fn window(&mut self, ratios: &[(&str, f64)]) {
        self.world.push(ratios);
        self.planner.count_brief(&self.channel, &self.world.book, self.world.now());
    }

    /// A window, and what comes of it; a notice arrives at once.
    fn push(&mut self, ratios: &[(&str, f64)]) -> Option<Notice> {
        self.window(ratios);
        let notice = self.next()?;
        let now = self.now();
        self.planner.arrived(&notice, now.instant);
        self.world.book.note("c", &notice.told);
        Some(notice)
    }
}

fn said(notice: Option<&Notice>) -> Vec<(String, bool)> {
    let alerts = notice.map(|notice| notice.alerts.as_slice()).unwrap_or_default();
    alerts.iter().map(|alert| (alert.labels["groupname"].clone(), alert.state == AlertState::Resolved)).collect()
}

#[test]
fn people_are_told_once_and_again_when_it_is_over() {
    let mut told = Told::new(ChannelKind::Webhook);
    assert_eq!(told.push(&[("a", 0.1)]), None);
    assert_eq!(said(told.push(&[("a", 0.9)]).as_ref()), [("a".to_owned(), false)]);
    for _ in 0..20 {
        assert_eq!(told.push(&[("a", 0.9)]), None);
    }
    assert_eq!(said(told.push(&[("a", 0.1)]).as_ref()), [("a".to_owned(), true)]);
    for _ in 0..20 {
        assert_eq!(told.push(&[("a", 0.1)]), None);
    }
}

#[test]
fn what_lasts_and_nobody_acknowledged_is_told_again_after_a_while() {
    let mut told = Told::new(ChannelKind::Webhook);
    told.push(&[("a", 0.9)]).unwrap();
    let again = (0..400).filter(|_| told.push(&[("a", 0.9)]).is_some()).count();
    assert_eq!(again, 1);
    let id = told.world.alert("fd").unwrap().id;
    told.world.book.acknowledge(id, "me".into(), String::new(), 1).unwrap();
    assert_eq!((0..400).filter(|_| told.push(&[("a", 0.9)]).is_some()).count(), 0);
    assert!(told.push(&[("a", 0.1)]).is_some(), "that it is over is told also then");
}

#[test]
fn a_storm_is_a_handful_of_notices_and_a_count() {
    let mut told = Told::new(ChannelKind::Webhook);
    let names: Vec<String> = (0..500).map(|at| format!("s{at:03}")).collect();
    let mut notices = Vec::new();
    // A minute in which ever more begin.
    for window in 1..=12_usize {
        let firing: Vec<(&str, f64)> = names.iter().take(window * 50).map(|name| (name.as_str(), 0.9)).collect();
        notices.extend(told.push(&firing));
    }
    assert_eq!(notices.len(), 2, "the first at once, the others together");
    assert_eq!((notices[1].alerts.len(), notices[1].left_out), (MOST_OF_NOTICE, 350 - MOST_OF_NOTICE));
    assert!(told.planner.throttled >= 300, "{}", told.planner.throttled);
}

#[test]
fn what_flaps_within_the_pace_is_not_told_each_time() {
    let mut told = Told::new(ChannelKind::Webhook);
    let count = (0..60).filter(|at| told.push(&[("a", if at % 2 == 0 { 0.9 } else { 0.1 })]).is_some()).count();
    assert!(count <= 11, "{count} notices in ten minutes");
}

#[test]
fn a_channel_that_fails_is_left_alone_and_gets_what_is_then() {
    let mut told = Told::new(ChannelKind::Webhook);
    told.world.push(&[("a", 0.9)]);
    let notice = told.next().unwrap();
    assert_eq!(told.next(), None, "one at a time");
    let now = told.now().instant;
    told.planner.failed(Some(Duration::from_secs(15)), now);
    assert_eq!((told.push(&[("a", 0.9)]), said(Some(&notice)).len()), (None, 1));
    // Two more windows, and both are told together.
    let later = told.push(&[("a", 0.9), ("b", 0.9)]);
    assert_eq!(said(later.as_ref()).len(), 2);
    // What began and ended during an outage is told to nobody.
    let mut told = Told::new(ChannelKind::Webhook);
    told.world.push(&[("a", 0.9)]);
    drop(told.next().unwrap());
    let now = told.now().instant;
    told.planner.failed(None, now);
    assert_eq!((told.push(&[("a", 0.1)]), told.planner.brief), (None, 1), "counted, at least");
}

#[test]
fn what_is_over_while_its_notice_is_on_its_way_or_was_silenced_is_not_brief() {
    let mut told = Told::new(ChannelKind::Webhook);
    told.window(&[("a", 0.9)]);
    let notice = told.next().unwrap();
    told.window(&[("a", 0.1)]);
    let now = told.now().instant;
    told.planner.arrived(&notice, now);
    told.world.book.note("c", &notice.told);
    let wanted = Wanted { rule: Some("fd".into()), seconds: 600, by: "me".into(), ..Wanted::default() };
    told.world.book.silences.begin(wanted, told.world.now()).unwrap();
    told.push(&[("b", 0.9)]);
    told.push(&[("b", 0.1)]);
    assert_eq!(told.planner.brief, 0);
}

#[test]
fn what_is_over_while_a_notice_fails_is_brief_and_what_flaps_behind_one_that_was_told_is_not() {
    let mut told = Told::new(ChannelKind::Webhook);
    told.window(&[("a", 0.9)]);
    told.next().unwrap();
    told.window(&[("a", 0.1)]);
    let now = told.now().instant;
    told.planner.failed(None, now);
    assert_eq!(told.planner.brief, 1);

    let mut told = Told::new(ChannelKind::Webhook);
    told.push(&[("a", 0.9)]).unwrap();
    for ratio in [0.1, 0.9, 0.1] {
        assert_eq!(told.push(&[("a", ratio)]), None, "within the pace");
    }
    assert_eq!(told.planner.brief, 0, "that it is over is told yet");
}

#[test]
fn nobody_is_told_of_what_is_silenced_and_of_what_is_less_grave_than_wanted() {
    let mut told = Told::new(ChannelKind::Webhook);
    let wanted = Wanted { rule: Some("fd".into()), seconds: 25, by: "me".into(), ..Wanted::default() };
    told.world.book.silences.begin(wanted, BEGIN_MS).unwrap();
    assert!((0..3).all(|_| told.push(&[("a", 0.9)]).is_none()));
    assert!(told.push(&[("a", 0.9)]).is_some(), "it has expired");
    told.channel.least = Severity::Critical;
    assert_eq!(told.push(&[("a", 0.9), ("b", 0.9)]), None);
}

#[test]
fn after_a_restart_nothing_is_told_twice_and_nothing_forgotten() {
    let mut told = Told::new(ChannelKind::Webhook);
    told.push(&[("a", 0.9)]).unwrap();
    let restart = |told: &Told| {
        let mut again = Told::new(ChannelKind::Webhook);
        again.world.book = Book::restored(
            told.world.book.entries().cloned().collect(),
            told.world.book.silences.clone(),
            told.world.book.last_id(),
        );
        again
    };
    let mut again = restart(&told);
    assert_eq!(again.push(&[("a", 0.9)]), None);
    assert_eq!(said(again.push(&[("a", 0.1)]).as_ref()), [("a".to_owned(), true)]);
    // It was over while nobody could be told.
    let mut told = restart(&told);
    told.world.push(&[("a", 0.1)]);
    let mut again = restart(&told);
    assert_eq!(said(again.push(&[]).as_ref()), [("a".to_owned(), true)]);
    assert_eq!(restart(&again).push(&[]), None);
}

#[test]
fn alertmanager_is_told_again_and_again_until_it_is_over() {
    let mut told = Told::new(ChannelKind::Alertmanager);
    let sent = (0..30).filter(|_| told.push(&[("a", 0.9)]).is_some()).count();
    assert_eq!(sent, 5, "each minute");
    assert_eq!(said(told.push(&[("a", 0.1), ("b", 0.9)]).as_ref()), [("a".to_owned(), true), ("b".to_owned(), false)]);
    assert_eq!(told.push(&[("a", 0.1), ("b", 0.1)]).map(|notice| notice.alerts.len()), Some(1));
    assert!((0..30).all(|_| told.push(&[]).is_none()));
}

#[test]
fn each_receiver_gets_the_form_that_it_knows() {
    let mut told = Told::new(ChannelKind::Webhook);
    let firing = told.push(&[("a<b>", 0.9)]).unwrap();
    for _ in 0..6 {
        told.push(&[("a<b>", 0.9)]);
    }
    let over = told.push(&[("a<b>", 0.1)]).unwrap();
    let sender = Sender { host: "h".into(), url: "http://127.0.0.1:9464/api/v1/alerts".into() };
    let [alertmanager, webhook, slack] = bodies(&sender, &firing);
    let expected = serde_json::json!({
        "alertname": "fd", "groupname": "a<b>", "instance": "h", "severity": "warning",
    });
    assert_eq!((&alertmanager[0]["labels"], &webhook["alerts"][0]["labels"]), (&expected, &expected));
    assert_eq!(alertmanager[0]["startsAt"], "2023-11-14T22:13:20Z");
    assert_eq!(alertmanager[0]["endsAt"], "2023-11-14T22:17:20Z", "it lasts for four minutes without more");
    let annotations = &webhook["commonAnnotations"];
    assert_eq!((&annotations["summary"], &annotations["step"]), (&"a<b> at 90 %".into(), &"s".into()));
    assert_eq!(annotations["findings"], "found at a<b>\n  used 0.9: up");
    assert_eq!((&webhook["version"], &webhook["status"]), (&"4".into(), &"firing".into()));
    assert_eq!(webhook["alerts"][0]["endsAt"], "0001-01-01T00:00:00Z");
    assert_eq!(webhook["alerts"][0]["fingerprint"].as_str().unwrap().len(), 16);
    let text = slack.to_string();
    for name in ["since", "value"] {
        assert!(text.contains(&format!("_{name}_: ")), "{text}");
    }
    assert!(
        text.contains("fd on h: 1 firing") && text.contains("a&lt;b&gt; at 90 %") && !text.contains("<b>"),
        "{text}"
    );

    let [alertmanager, webhook, slack] = bodies(&sender, &over);
    assert_eq!((&webhook["status"], &webhook["alerts"][0]["status"]), (&"resolved".into(), &"resolved".into()));
    assert_eq!(alertmanager[0]["endsAt"], webhook["alerts"][0]["endsAt"]);
    assert_eq!(alertmanager[0]["startsAt"], "2023-11-14T22:13:20Z");
    assert!(slack.to_string().contains("1 resolved"));
}
