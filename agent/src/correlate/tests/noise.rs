//! How often chance alone makes a finding: days of values in which nothing happens.

use super::*;

const DAY: usize = 8_640;
const SERVICES: usize = 8;

/// How many findings are made while each service's value of a window is what `next` says.
fn made_in(days: usize, mut next: impl FnMut(&mut World, usize, usize) -> f64) -> usize {
    let mut world = World::new();
    let names: Vec<String> = (0..SERVICES).map(|number| format!("quiet-{number}.service")).collect();
    for window in 0..days * DAY {
        for (number, name) in names.iter().enumerate() {
            let value = next(&mut world, number, window);
            world.set(&kernel::POSTGRES_CONNECTIONS, &[name, "server", "shop", "active"], value);
        }
        world.tick();
    }
    world.correlator.ledger.made().map(|(_, made)| made as usize).sum()
}

#[test]
fn noise_of_any_shape_makes_no_finding_in_days() {
    assert_eq!(made_in(1, |world, _, _| 100.0 + 10.0 * world.normal()), 0, "normal");
    assert_eq!(made_in(1, |world, _, _| 100.0 * (world.normal() / 2.0).exp()), 0, "log-normal");
    assert_eq!(made_in(1, |world, _, _| 100.0 * world.normal().exp()), 0, "log-normal, wider");
    assert_eq!(made_in(1, |world, _, _| 10.0 * world.even().max(1e-9).powf(-1.0 / 1.5)), 0, "Pareto, without variance");
    assert_eq!(made_in(1, |world, _, _| f64::from(u8::from(world.even() < 0.02)) * 500.0), 0, "rare single bursts");
}

#[test]
fn values_that_hang_together_make_at_most_a_finding_a_day() {
    let mut last = [0.0; SERVICES];
    let made = made_in(2, |world, number, _| {
        last[number] = 0.9 * last[number] + world.normal();
        100.0 + 10.0 * last[number]
    });
    assert!(made <= 2, "{made} in two days");
}

#[test]
fn a_load_that_comes_and_goes_with_the_day_makes_no_finding() {
    let made = made_in(2, |world, _, window| {
        let hour = std::f64::consts::TAU * window as f64 / DAY as f64;
        (100.0 - 80.0 * hour.cos()) * world.about()
    });
    assert_eq!(made, 0);
}

#[test]
fn what_comes_every_night_is_found_once() {
    // A quarter of an hour at three in the morning, not to the minute.
    let made = made_in(4, |world, number, window| {
        let (day, of_day) = (window / DAY, window % DAY);
        let begin = 3 * 360 + day * 7;
        let busy = number == 0 && (begin..begin + 90).contains(&of_day);
        world.about() * if busy { 80.0 } else { 5.0 }
    });
    assert_eq!(made, 1);
}

#[test]
fn what_comes_every_ten_minutes_is_found_at_most_once() {
    let made = made_in(1, |world, number, window| {
        let busy = number == 0 && window % 60 < 12;
        world.about() * if busy { 80.0 } else { 5.0 }
    });
    assert!(made <= 1, "{made}");
}

/// The test that all of the above could fail: a real change is found in the same noise.
#[test]
fn a_change_is_found_in_noise_that_makes_no_finding() {
    let at = DAY / 2;
    let made = made_in(1, |world, number, window| {
        let factor = if number == 3 && (at..at + 60).contains(&window) { 60.0 } else { 1.0 };
        factor * 100.0 * (world.normal() / 2.0).exp()
    });
    assert_eq!(made, 1);
}
