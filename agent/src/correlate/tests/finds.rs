//! What is found, and what is not although it looks like it: counters that begin anew, windows that are missing, services that
//! end, clocks that are set.

use super::*;

const SHOP: &str = "shop.service";

fn slow_queries(world: &mut World, seconds: f64) {
    let seconds = seconds * world.about();
    world.observe(&kernel::POSTGRES_QUERY, &[SHOP, "client", "shop", "SELECT", "f00"], 50, seconds);
}

fn quiet(world: &mut World, windows: usize) {
    for _ in 0..windows {
        slow_queries(world, 0.004);
        world.tick();
    }
}

#[test]
fn queries_that_take_longer_are_found_with_the_figures_and_where_to_check_them() {
    let mut world = World::new();
    quiet(&mut world, 100);
    assert_eq!(world.made(), [""; 0]);
    let since = world.at_unix_ms;
    for _ in 0..8 {
        slow_queries(&mut world, 0.120);
        world.tick();
    }
    let made = world.made();
    assert_eq!(made.len(), 2, "{made:?}");
    let findings = world.findings();
    let latency = findings.iter().find(|it| it.about == "postgres_latency").unwrap();
    assert_eq!((latency.service.as_deref(), latency.since_unix_ms), (Some(SHOP), since + 10_000));
    let evidence = &latency.evidence[0];
    assert!((evidence.value / 0.120 - 1.0).abs() < 0.1 && (evidence.usual.unwrap() / 0.004 - 1.0).abs() < 0.1);
    assert!(evidence.check.contains("steth_postgres_query_duration_seconds_sum{service=\"shop.service\""));
    assert!(
        latency.conclusion.contains("shop.service: its Postgres queries took 1")
            && latency.conclusion.contains(" ms, usually ")
    );
    assert!(world.explain(SHOP).conclusion.contains("nothing was found that explains it"));
    quiet(&mut world, 9);
    assert!(world.findings().iter().all(|it| it.until_unix_ms.is_some()));
}

#[test]
fn before_there_is_enough_history_nothing_is_found_and_the_answer_says_so() {
    let mut world = World::new();
    quiet(&mut world, 10);
    for _ in 0..8 {
        slow_queries(&mut world, 0.120);
        world.tick();
    }
    assert_eq!(world.made(), [""; 0]);
    let answer = world.explain(SHOP);
    assert_eq!((answer.cause, answer.looked_at.windows), (None, 18));
    assert!(answer.conclusion.starts_with("nothing unusual was found about shop.service"), "{}", answer.conclusion);
    assert!(answer.conclusion.contains("cannot be told from chance yet"), "{}", answer.conclusion);
}

#[test]
fn a_service_that_nobody_knows_is_named_with_one_that_is_like_it() {
    let mut world = World::new();
    quiet(&mut world, 2);
    let period = Period { from: SystemTime::UNIX_EPOCH, to: SystemTime::now() + Duration::from_secs(1_000_000_000) };
    let error = world.correlator.explain(Some("shop"), period).unwrap_err().to_string();
    assert!(error.contains("did you mean \"shop.service\"?"), "{error}");
    let long_ago = Period { from: SystemTime::UNIX_EPOCH, to: SystemTime::UNIX_EPOCH };
    assert!(matches!(world.correlator.explain(Some(SHOP), long_ago), Err(NotExplained::NoWindow { windows: 2, .. })));
}

#[test]
fn a_counter_that_begins_anew_and_a_first_reading_are_no_gain() {
    let mut world = World::new();
    world.add(&kernel::TCP_RETRANSMITS, &[SHOP, "10.0.0.1:80"], 1e9);
    for window in 0..200 {
        if window == 100 {
            world.set(&kernel::TCP_RETRANSMITS, &[SHOP, "10.0.0.1:80"], 0.0);
        }
        world.add(&kernel::TCP_RETRANSMITS, &[SHOP, "10.0.0.1:80"], 3.0);
        world.tick();
    }
    assert_eq!(world.made(), [""; 0]);
    let track = world.correlator.history.track(SHOP, "tcp_retransmits").unwrap();
    let values: Vec<f64> = world.correlator.history.values(track, 0, 999).map(|(_, value)| value).collect();
    assert_eq!(values.len(), 198, "neither the first window nor that of the new beginning");
    assert!(values.iter().all(|value| (value - 0.3).abs() < 1e-6));
}

#[test]
fn retransmits_of_a_service_that_never_had_any_are_found() {
    let mut world = World::new();
    quiet(&mut world, 80);
    for _ in 0..9 {
        world.add(&kernel::TCP_RETRANSMITS, &[SHOP, "10.0.0.1:80"], 50.0);
        quiet(&mut world, 1);
    }
    assert_eq!(world.made(), ["change tcp_retransmits  shop.service"]);
    assert_eq!(world.explain(SHOP).cause, cause("change", "tcp_retransmits", Some(SHOP)));
}

#[test]
fn windows_that_are_missing_stay_empty_and_rates_are_right_after_them() {
    let mut world = World::new();
    quiet(&mut world, 60);
    world.add(&kernel::TCP_RETRANSMITS, &[SHOP, "x"], 60.0);
    slow_queries(&mut world, 0.004);
    // The host slept for two minutes.
    world.tick_after(WINDOW * 12);
    let history = &world.correlator.history;
    let track = history.track(SHOP, "tcp_retransmits").unwrap();
    let last = history.last().unwrap();
    assert_eq!((last, history.value(track, last - 5)), (71, None));
    assert!((history.value(track, last).unwrap() - 0.5).abs() < 1e-6);
    quiet(&mut world, 60);
    assert_eq!(world.made(), [""; 0]);
}

#[test]
fn a_service_that_ends_ends_its_findings_and_is_forgotten_in_time() {
    let mut world = World::keeping(120);
    quiet(&mut world, 100);
    for _ in 0..10 {
        slow_queries(&mut world, 0.120);
        world.tick();
    }
    assert_eq!(world.made().len(), 2);
    world.end(SHOP);
    world.set(&host::PROCESS_COUNT, &["other.service"], 1.0);
    (0..8).for_each(|_| world.tick());
    assert!(world.findings().iter().all(|it| it.until_unix_ms.is_some()));
    (0..120).for_each(|_| world.tick());
    assert_eq!(world.correlator.history.services().map(|name| &**name).collect::<Vec<_>>(), ["other.service"]);
}

#[test]
fn a_clock_that_is_set_changes_no_rate_and_finds_nothing() {
    let mut world = World::new();
    for window in 0..200 {
        match window {
            100 => world.at_unix_ms -= 7_200_000,
            150 => world.at_unix_ms += 86_400_000,
            _ => {}
        }
        world.add(&kernel::TCP_RETRANSMITS, &[SHOP, "x"], 5.0);
        quiet(&mut world, 1);
    }
    assert_eq!(world.made(), [""; 0]);
}

#[test]
fn ten_thousand_services_are_bounded_and_who_uses_cpu_has_a_place() {
    let mut world = World::keeping(30);
    let names: Vec<String> = (0..10_000).map(|number| format!("s{number}.service")).collect();
    for window in 0..4 {
        for (number, name) in names.iter().enumerate() {
            let cpu = if number == 9_999 && window > 0 { 5.0 } else { 0.001 };
            world.add(&host::PROCESS_CPU_SECONDS, &[name, "user"], cpu);
            world.set(&host::PROCESS_MEMORY, &[name, "resident"], number as f64);
        }
        // The greatest of all by memory come first; this one is small and comes later.
        world.set(&host::PROCESS_MEMORY, &["s9999.service", "resident"], 0.0);
        world.tick();
    }
    let history = &world.correlator.history;
    assert!(history.services().count() <= history::MOST_SERVICES);
    assert!(history.track_counts().0 <= history::MOST_TRACKS);
    let track = history.track("s9999.service", "cpu").expect("it uses half a core");
    // Of the time before it had a place nothing is known, and its total is no gain.
    assert!(history.values(track, 0, 99).all(|(_, cores)| cores <= 0.51));
}

#[test]
fn peers_beyond_measure_take_no_place_from_others() {
    let mut world = World::keeping(30);
    for _ in 0..3 {
        for peer in 0..5_000 {
            world.add(&kernel::TCP_BYTES, &[SHOP, &format!("10.0.0.1:{peer}"), "sent"], 1.0);
        }
        world.tick();
    }
    let (kept, refused) = world.correlator.history.track_counts();
    assert!(kept < 20 && refused > 4_000, "{kept} {refused}");
}

fn memory(world: &mut World, bytes: f64) {
    memory_of(world, bytes, 1.0);
}

fn memory_of(world: &mut World, bytes: f64, processes: f64) {
    world.set(&host::PROCESS_COUNT, &[SHOP], processes);
    world.set(&host::PROCESS_MEMORY, &[SHOP, "resident"], bytes);
    for metric in [&host::PROCESS_OPEN_FILES, &host::PROCESS_WORST_FILES_RATIO] {
        world.set(metric, &[SHOP], 0.01);
    }
    let available = host::all().find(|metric| metric.name == "node_memory_MemAvailable_bytes").unwrap();
    let total = host::all().find(|metric| metric.name == "node_memory_MemTotal_bytes").unwrap();
    world.set(available, &[], 4e9);
    world.set(total, &[], 8e9);
    world.tick();
}

/// The kinds of findings made while memory takes this course, a value a window.
fn made_by_memory(course: impl IntoIterator<Item = f64>) -> Vec<String> {
    let mut world = World::new();
    for bytes in course {
        memory(&mut world, bytes);
    }
    world.made()
}

#[test]
fn memory_that_grows_steadily_is_a_leak_with_the_time_that_is_left() {
    let mut world = World::new();
    for window in 0..120 {
        let noise = 2e5 * world.normal();
        memory(&mut world, 1e8 + 1e6 * f64::from(window) + noise);
    }
    assert_eq!(world.made(), ["leak memory  shop.service"]);
    let answer = world.explain(SHOP);
    assert_eq!(answer.cause, cause("leak", "memory", Some(SHOP)));
    // It lies around alerts of the service, and around those of the host that lacks the memory.
    let around = |service| world.correlator.surroundings(service).findings.len();
    assert_eq!([Some(SHOP), None, Some("another.service")].map(around), [1, 1, 0]);
    // 4 GB at 0.1 MB a second: eleven hours.
    assert!(answer.conclusion.contains("the memory of the host is used up in 11") && answer.conclusion.contains(" h"));
}

#[test]
fn memory_that_grows_and_is_given_back_or_comes_to_rest_is_no_leak() {
    let mut noise = World::new();
    let mut next = move || 1e6 * noise.normal();
    assert_eq!(made_by_memory((0..300).map(|_| 1e8)), [""; 0], "flat");
    assert_eq!(made_by_memory((0..600).map(|_| 1e8 + next())), [""; 0], "noise");
    let saw = |window: i32| 1e8 + 1e6 * f64::from(window % 40);
    assert_eq!(made_by_memory((0..600).map(saw)), [""; 0], "garbage that is collected");
    let warm = |window: i32| 3e8 - 2e8 * (-f64::from(window) / 40.0).exp();
    assert_eq!(made_by_memory((0..600).map(warm)), [""; 0], "a start that fills caches");
    let day = |window: i32| 2e8 - 1e8 * (f64::from(window) / 8_640.0 * std::f64::consts::TAU).cos();
    assert_eq!(made_by_memory((0..8_640).map(day)).len(), 0, "a load that comes and goes with the day");
}

#[test]
fn more_processes_are_no_leak() {
    let mut world = World::new();
    for window in 0..120 {
        memory_of(&mut world, 1e8 + 1e6 * f64::from(window), 10.0 + f64::from(window));
    }
    let made = world.made();
    assert!(!made.iter().any(|made| made.starts_with("leak memory")), "{made:?}");
}

#[test]
fn open_files_that_grow_are_a_leak_with_the_time_to_the_limit() {
    let mut world = World::new();
    for window in 0..60 {
        world.set(&host::PROCESS_COUNT, &[SHOP], 1.0);
        world.set(&host::PROCESS_OPEN_FILES, &[SHOP], 20.0 + f64::from(window));
        world.set(&host::PROCESS_WORST_FILES_RATIO, &[SHOP], (20.0 + f64::from(window)) / 1_024.0);
        world.tick();
    }
    assert_eq!(world.made(), ["leak open_files  shop.service"]);
    // Some 950 files at 0.1 a second.
    let conclusion = world.explain(SHOP).conclusion;
    assert!(
        conclusion.contains("grow by 360 files an hour") && conclusion.contains("is reached in 2.6"),
        "{conclusion}"
    );
}
