//! Whole incidents: the first cause that an answer names.

use super::*;

const SHOP: &str = "shop.service";
const DATABASE: &str = "postgres:15/main";

/// A shop that asks a database, and a neighbour; each window's figures.
#[derive(Clone, Copy)]
struct Figures {
    query_seconds: f64,
    pickup_seconds: f64,
    neighbour_cores: f64,
    neighbour_bytes: f64,
    sync_seconds: f64,
    shop_cores: f64,
    waited: f64,
    disk_busy: f64,
    retransmits: f64,
    oldest_wait: f64,
    active: f64,
}

const QUIET: Figures = Figures {
    query_seconds: 0.002,
    pickup_seconds: 0.000_1,
    neighbour_cores: 0.02,
    neighbour_bytes: 1e4,
    sync_seconds: 0.001,
    shop_cores: 0.3,
    waited: 0.01,
    disk_busy: 0.05,
    retransmits: 0.0,
    oldest_wait: 0.0,
    active: 1.0,
};

fn window(world: &mut World, figures: Figures) {
    let mut about = |value: f64| value * world.about();
    let Figures { query_seconds, pickup_seconds, sync_seconds, .. } = figures;
    let (query, pickup, sync) = (about(query_seconds), about(pickup_seconds), about(sync_seconds));
    let (neighbour, shop, bytes) =
        (about(figures.neighbour_cores), about(figures.shop_cores), about(figures.neighbour_bytes));
    let sent = about(1e6);
    for (service, role) in [(SHOP, "client"), (DATABASE, "server")] {
        world.observe(&kernel::POSTGRES_QUERY, &[service, role, "shop", "SELECT", "f00"], 30, query);
        world.set(&kernel::POSTGRES_CONNECTIONS, &[service, role, "shop", "active"], figures.active);
        world.set(&kernel::POSTGRES_WAITING, &[service, role, "shop"], figures.oldest_wait);
    }
    world.observe(&kernel::SOCKET_PICKUP, &[SHOP, "inet"], 30, pickup);
    world.observe(&kernel::SYSCALL_DURATION, &[DATABASE, "fdatasync", "work"], 10, sync);
    world.add(&kernel::TCP_BYTES, &[SHOP, DATABASE, "sent"], sent);
    world.add(&kernel::TCP_RETRANSMITS, &[SHOP, DATABASE], figures.retransmits * 10.0);
    for (service, cores) in [(SHOP, shop), (DATABASE, 0.2), ("noisy", neighbour)] {
        world.add(&host::PROCESS_CPU_SECONDS, &[service, "user"], cores * 10.0);
        world.set(&host::PROCESS_COUNT, &[service], 1.0);
    }
    world.add(&host::PROCESS_WRITE_BYTES, &["noisy"], bytes * 10.0);
    let busy = (0.3 + figures.neighbour_cores).min(1.0);
    world.add(&host::CPU_SECONDS, &["0", "idle"], 9.0);
    world.add(&host::CPU_SECONDS, &["1", "idle"], 10.0 * (1.0 - busy));
    world.add(&host::PRESSURE_CPU_WAITING, &[], figures.waited * 10.0);
    world.add(&host::DISK_IO_TIME, &["vda"], figures.disk_busy * 10.0);
    world.add(&host::PRESSURE_IO_WAITING, &[], figures.disk_busy * 5.0);
    world.tick();
}

fn quiet() -> World {
    let mut world = World::new();
    (0..90).for_each(|_| window(&mut world, QUIET));
    assert_eq!(world.made(), [""; 0]);
    world
}

fn after(figures: Figures) -> World {
    let mut world = quiet();
    (0..10).for_each(|_| window(&mut world, figures));
    world
}

#[test]
fn a_neighbour_that_takes_the_core_is_the_cause() {
    let busy = Figures { neighbour_cores: 0.9, waited: 0.8, pickup_seconds: 0.01, query_seconds: 0.02, ..QUIET };
    let world = after(busy);
    let answer = world.explain(SHOP);
    assert_eq!(answer.cause, cause("saturation", "cpu", Some("noisy")), "{:?}", world.made());
    let said = &answer.conclusion;
    assert!(
        said.starts_with("shop.service: ") && said.contains("core 1 is busy") && said.contains("the use of noisy (0.9"),
        "{said}"
    );
    assert_eq!(answer.findings[0].about, "cpu");
    assert!(answer.findings[0].contenders[0].usual < 0.1);
}

#[test]
fn a_disk_that_is_full_of_a_neighbours_writes_is_the_cause_beneath_the_database() {
    let busy = Figures { neighbour_bytes: 3e8, disk_busy: 1.0, sync_seconds: 0.3, query_seconds: 0.3, ..QUIET };
    let world = after(busy);
    assert_eq!(world.explain(DATABASE).cause, cause("saturation", "disk", Some("noisy")), "{:?}", world.made());
    assert_eq!(world.explain(SHOP).cause, cause("saturation", "disk", Some("noisy")), "{:?}", world.explain(SHOP));
}

#[test]
fn segments_that_are_sent_again_are_the_cause() {
    let world = after(Figures { retransmits: 20.0, query_seconds: 0.2, ..QUIET });
    assert_eq!(world.explain(SHOP).cause, cause("change", "tcp_retransmits", Some(SHOP)), "{:?}", world.made());
}

#[test]
fn a_transaction_that_is_held_open_is_the_cause_of_queries_that_pile_up() {
    let world = after(Figures { oldest_wait: 30.0, active: 25.0, ..QUIET });
    assert_eq!(
        world.explain(DATABASE).cause,
        cause("lock", "idle_in_transaction", Some(DATABASE)),
        "{:?}",
        world.made()
    );
    // Without such a transaction it is only known that queries pile up.
    let world = after(Figures { active: 25.0, ..QUIET });
    assert_eq!(world.explain(DATABASE).cause, cause("change", "postgres_active", Some(DATABASE)));
}

#[test]
fn a_new_build_that_is_slower_is_the_cause_and_one_long_before_is_not() {
    let slower = Figures { query_seconds: 0.02, shop_cores: 0.9, ..QUIET };
    let event = |at_unix_ms: u64| {
        let text = "it runs another build".to_owned();
        Event { kind: crate::model::finding::EventKind::NewBuild, at_unix_ms, service: Some(SHOP.into()), text }
    };
    for (windows, expected) in [(2, "event"), (80, "change")] {
        let mut world = quiet();
        let at = world.at_unix_ms;
        (0..windows).for_each(|_| window(&mut world, QUIET));
        world.correlator.tell(event(at));
        (0..10).for_each(|_| window(&mut world, slower));
        let cause = world.explain(SHOP).cause.unwrap();
        assert_eq!(cause.kind, expected, "{windows} windows before: {cause:?}");
    }
}

#[test]
fn where_all_is_busy_anyway_who_came_last_is_the_cause() {
    let mut world = World::new();
    let busy = Figures { waited: 0.5, neighbour_cores: 0.7, ..QUIET };
    let step = |world: &mut World, figures: Figures, newcomer: f64| {
        world.add(&host::PROCESS_CPU_SECONDS, &["newcomer", "user"], newcomer * 10.0);
        window(world, figures);
    };
    (0..90).for_each(|_| step(&mut world, busy, 0.01));
    (0..10).for_each(|_| step(&mut world, Figures { query_seconds: 0.02, pickup_seconds: 0.01, ..busy }, 0.9));
    assert_eq!(world.explain(SHOP).cause, cause("saturation", "cpu", Some("newcomer")), "{:?}", world.made());
}

#[test]
fn who_came_last_is_the_cause_before_that_is_a_change_of_its_own() {
    let mut world = World::new();
    let busy = Figures { waited: 0.5, neighbour_cores: 0.7, ..QUIET };
    let step = |world: &mut World, figures: Figures, newcomer: f64| {
        world.add(&host::PROCESS_CPU_SECONDS, &["newcomer", "user"], newcomer * 10.0);
        window(world, figures);
    };
    (0..90).for_each(|_| step(&mut world, busy, 0.01));
    let slow = Figures { query_seconds: 0.02, pickup_seconds: 0.01, ..busy };
    (0..9).for_each(|window| step(&mut world, slow, if window == 5 { 0.01 } else { 0.9 }));
    assert!(!world.made().iter().any(|made| made.starts_with("change cpu")), "{:?}", world.made());
    assert_eq!(world.explain(SHOP).cause, cause("saturation", "cpu", Some("newcomer")));
}

#[test]
fn what_is_busy_and_hurts_nobody_is_not_called_a_cause() {
    let mut world = quiet();
    (0..10).for_each(|_| window(&mut world, Figures { neighbour_cores: 0.9, waited: 0.8, ..QUIET }));
    let answer = world.explain(SHOP);
    assert_eq!(answer.cause, None);
    // But it is told.
    assert!(answer.findings.iter().any(|it| it.about == "cpu"));
    assert_eq!(world.explain("noisy").cause, cause("saturation", "cpu", Some("noisy")));
}

#[test]
fn where_all_is_busy_anyway_who_shows_no_wait_is_not_slow_for_it() {
    let mut world = World::new();
    let step = |world: &mut World, figures: Figures, queued: f64| {
        world.observe(&kernel::TCP_ACCEPT_QUEUE, &[SHOP, "80"], 30, queued);
        window(world, figures);
    };
    // Others begin to wait for the core that somebody has had all along; later connections wait to be accepted, for a reason of
    // their own.
    let busy = Figures { waited: 0.5, neighbour_cores: 0.7, ..QUIET };
    (0..90).for_each(|_| step(&mut world, Figures { waited: 0.01, ..busy }, 0.000_04));
    (0..25).for_each(|_| step(&mut world, busy, 0.000_04));
    (0..10).for_each(|_| step(&mut world, busy, 0.025));
    let answer = world.explain(SHOP);
    assert_eq!(answer.cause, cause("change", "tcp_accept_queue", Some(SHOP)), "{:?}", world.made());
    assert!(answer.findings.iter().any(|it| it.about == "cpu"), "but it is told");
}

#[test]
fn a_callee_that_takes_the_core_is_the_cause_before_that_is_a_change_of_its_own() {
    let mut world = World::new();
    let step = |world: &mut World, wait: f64, cores: f64| {
        let wait = wait * world.about();
        world.observe(&kernel::SOCKET_READ, &["caller", "inet"], 40, wait);
        world.add(&kernel::TCP_BYTES, &["caller", "noisy", "sent"], 1e5);
        window(world, Figures { neighbour_cores: cores, waited: cores, ..QUIET });
    };
    (0..90).for_each(|_| step(&mut world, 0.001, 0.02));
    // In one window others have the core, so that its use is not yet a change.
    (0..9).for_each(|window| step(&mut world, 0.2, if window == 5 { 0.02 } else { 0.9 }));
    assert!(!world.made().iter().any(|made| made.starts_with("change cpu")), "{:?}", world.made());
    assert_eq!(world.explain("caller").cause, cause("saturation", "cpu", Some("noisy")));
}

#[test]
fn a_slow_callee_is_the_cause_of_its_callers_waits() {
    let mut world = World::new();
    let step = |world: &mut World, wait: f64, pickup: f64| {
        let (wait, pickup) = (wait * world.about(), pickup * world.about());
        world.observe(&kernel::SOCKET_READ, &["caller", "inet"], 40, wait);
        world.add(&kernel::TCP_BYTES, &["caller", "callee", "sent"], 1e5);
        world.observe(&kernel::SOCKET_PICKUP, &["callee", "inet"], 40, pickup);
        world.set(&kernel::TCP_CONNECTIONS, &["callee", "listen"], 1.0);
        world.tick();
    };
    (0..90).for_each(|_| step(&mut world, 0.001, 0.000_1));
    (0..10).for_each(|_| step(&mut world, 0.2, 0.05));
    let answer = world.explain("caller");
    assert_eq!(answer.cause, cause("change", "socket_pickup", Some("callee")), "{answer:?}");
    assert_eq!(answer.dependencies[0].callee, "callee");
    assert_eq!(world.explain("callee").dependencies[0].service, "caller");
    // What the callee does meanwhile may show in nothing. An hour later, when the first time is forgotten.
    (0..90).for_each(|_| step(&mut world, 0.001, 0.000_1));
    (0..290).for_each(|_| step(&mut world, 0.001, 0.000_1));
    (0..10).for_each(|_| step(&mut world, 0.2, 0.000_1));
    let since = SystemTime::UNIX_EPOCH + Duration::from_millis(world.at_unix_ms - 60_000);
    let period = Period { from: since, to: since + Duration::from_secs(60) };
    let answer = world.correlator.explain(Some("caller"), period).unwrap();
    assert_eq!(answer.cause, cause("dependency", "slow_answer", Some("callee")), "{answer:?}");
}

#[test]
fn an_answer_that_comes_late_on_the_same_host_is_no_network() {
    let mut world = World::new();
    let step = |world: &mut World, peer: &str, wait: f64| {
        let wait = wait * world.about();
        // The acknowledgement rides on the answer.
        world.observe(&kernel::TCP_RTT, &["caller", peer], 40, wait);
        world.add(&kernel::TCP_BYTES, &["caller", peer, "sent"], 1e5);
        world.set(&host::PROCESS_COUNT, &["callee"], 1.0);
        world.tick();
    };
    (0..90).for_each(|_| step(&mut world, "callee", 0.001));
    (0..10).for_each(|_| step(&mut world, "callee", 0.05));
    assert_eq!(world.explain("caller").cause, cause("dependency", "slow_answer", Some("callee")), "{:?}", world.made());
    // Of another host nobody knows.
    let mut world = World::new();
    (0..90).for_each(|_| step(&mut world, "10.0.0.1:80", 0.001));
    (0..10).for_each(|_| step(&mut world, "10.0.0.1:80", 0.05));
    assert_eq!(world.explain("caller").cause, cause("change", "tcp_round_trip", Some("caller")), "{:?}", world.made());
}

#[test]
fn queries_that_have_not_ended_and_wait_for_a_lock_are_told_by_what_their_processes_wait_for() {
    let mut world = World::new();
    let step = |world: &mut World, active: f64, waited: f64| {
        world.set(&kernel::POSTGRES_CONNECTIONS, &[DATABASE, "server", "shop", "active"], active);
        if waited > 0.0 {
            world.add(&kernel::SERVICE_WALL, &[DATABASE, "lock"], waited * 10.0);
        }
        world.tick();
    };
    (0..90).for_each(|_| step(&mut world, 1.0, 0.0));
    (0..10).for_each(|_| step(&mut world, 12.0, 11.0));
    let answer = world.explain(DATABASE);
    assert_eq!(answer.cause, cause("lock", "postgres_lock_wait", Some(DATABASE)), "{:?}", world.made());
    assert!(
        answer.conclusion.contains("meanwhile its threads waited for locks 11 s a second"),
        "{}",
        answer.conclusion
    );
    // Without it they may wait for anything.
    let mut world = World::new();
    (0..90).for_each(|_| step(&mut world, 1.0, 0.01));
    (0..10).for_each(|_| step(&mut world, 12.0, 0.01));
    assert_eq!(world.explain(DATABASE).cause, cause("change", "postgres_active", Some(DATABASE)));
}

#[test]
fn a_kill_for_lack_of_memory_is_the_cause_for_whom_it_hit_and_for_nobody_else() {
    for (service, expected) in [(SHOP, "event"), ("noisy", "change")] {
        let mut world = quiet();
        let (kind, service, text) = (EventKind::OomKill, Some(service.to_owned()), "killed".to_owned());
        world.correlator.tell(Event { kind, at_unix_ms: world.at_unix_ms, service, text });
        (0..10).for_each(|_| window(&mut world, Figures { query_seconds: 0.05, ..QUIET }));
        assert_eq!(world.explain(SHOP).cause.unwrap().kind, expected);
    }
}

#[test]
fn errors_do_not_come_of_waiting_for_a_core() {
    let mut world = World::new();
    let step = |world: &mut World, errors: f64, waited: f64| {
        let (errors, waited) = (errors * world.about(), waited * world.about());
        world.add(&kernel::POSTGRES_ERRORS, &[DATABASE, "server", "shop", "22012"], errors * 10.0);
        world.add(&kernel::SERVICE_WALL, &[DATABASE, "run_queue"], waited * 10.0);
        world.tick();
    };
    (0..90).for_each(|_| step(&mut world, 0.0, 0.01));
    (0..10).for_each(|_| step(&mut world, 30.0, 0.5));
    let made = world.made();
    assert!(made.iter().any(|made| made.starts_with("change run_queue_wait")), "{made:?}");
    assert_eq!(world.explain(DATABASE).cause, cause("change", "postgres_errors", Some(DATABASE)), "{made:?}");
}

#[test]
fn more_who_connect_are_the_cause_before_the_cores_that_they_take() {
    let mut world = World::new();
    let step = |world: &mut World, count: usize, cores: f64| {
        let (count, cores) = ((count as f64 * world.about()) as usize, cores * world.about());
        world.observe(&kernel::TCP_ACCEPT_QUEUE, &[SHOP, "80"], count, 0.000_1);
        world.add(&host::PROCESS_CPU_SECONDS, &[SHOP, "user"], cores * 10.0);
        world.tick();
    };
    (0..90).for_each(|_| step(&mut world, 20, 0.1));
    (0..10).for_each(|_| step(&mut world, 2_000, 0.8));
    assert_eq!(world.explain(SHOP).cause, cause("change", "tcp_accepts", Some(SHOP)), "{:?}", world.made());
}

#[test]
fn events_that_are_posted_stand_in_the_answer() {
    let mut world = quiet();
    let posted = PostedEvent { service: Some(SHOP.into()), text: "deploy 1.2".into(), at_unix_ms: None };
    world.correlator.post(posted, world.at_unix_ms).unwrap();
    (0..10).for_each(|_| window(&mut world, Figures { query_seconds: 0.05, ..QUIET }));
    let answer = world.explain(SHOP);
    assert_eq!(answer.cause, cause("event", "posted", Some(SHOP)));
    assert!(answer.conclusion.contains("deploy 1.2"));
    assert_eq!(answer.events.len(), 1);
}

#[test]
fn a_restart_and_a_kill_for_lack_of_memory_show_by_themselves() {
    let mut world = World::new();
    let oom = host::all().find(|metric| metric.name == "node_vmstat_oom_kill").unwrap();
    for window in 0..20 {
        let began = if window < 10 { BEGIN_MS - 60_000 } else { BEGIN_MS + 109_000 };
        world.set(&host::PROCESS_OLDEST_START, &[SHOP], began as f64 / 1_000.0);
        // The oldest of several ended, the others are the same: no restart.
        let oldest = BEGIN_MS - 60_000 + if window < 10 { 0 } else { 10_000 };
        world.set(&host::PROCESS_OLDEST_START, &["workers"], oldest as f64 / 1_000.0);
        world.set(oom, &[], if window < 15 { 3.0 } else { 4.0 });
        world.tick();
    }
    let events: Vec<(String, Option<String>)> =
        world.correlator.events().into_iter().map(|event| (format!("{:?}", event.kind), event.service)).collect();
    assert_eq!(events, [("OomKill".into(), None), ("Restart".into(), Some(SHOP.into()))]);
}
