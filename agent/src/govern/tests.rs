//! Scripted costs.

use super::*;

const BOUNDS: Bounds = Bounds { soft: 0.01, hard: 0.02, memory_bytes: 1 << 20 };

fn all() -> Vec<Feature> {
    FEATURES.iter().map(|(feature, _)| *feature).collect()
}

fn governor() -> Governor {
    Governor::new(BOUNDS, all(), 19)
}

fn cost(kernel: &[(Feature, f64)], own: f64) -> Cost {
    Cost { kernel: kernel.to_vec(), own, memory_bytes: 0 }
}

/// Looks until there is a step; how many looks that took.
fn steps(governor: &mut Governor, cost: &Cost, most: u32) -> Option<(u32, Step)> {
    (1..=most).find_map(|looks| governor.look(cost).map(|step| (looks, step)))
}

#[test]
fn what_is_within_the_budget_is_left_alone() {
    let mut governor = governor();
    assert_eq!(steps(&mut governor, &cost(&[(Feature::Wall, 0.004)], 0.0055), 1_000), None);
    // A single peak, however high, is no reason.
    let mut governor = self::governor();
    for look in 0..1_000 {
        let own = if look % 100 == 0 { 0.05 } else { 0.001 };
        assert_eq!(governor.look(&cost(&[], own)), None, "{look}");
    }
}

#[test]
fn beyond_soft_samples_are_taken_less_often_before_the_dearest_feature_goes() {
    let mut governor = governor();
    let dear = cost(&[(Feature::Syscalls, 0.004), (Feature::Wall, 0.006), (Feature::Profiles, 0.001)], 0.002);
    let looks = SETTLE_LOOKS + SOFT_LOOKS as u32;
    assert_eq!(steps(&mut governor, &dear, 100), Some((looks, Step::Fewer(9))));
    assert_eq!(steps(&mut governor, &dear, 100), Some((looks, Step::Fewer(5))));
    assert_eq!(steps(&mut governor, &dear, 100), Some((looks, Step::Off(Feature::Wall))));
    assert_eq!(governor.held(), [Feature::Wall]);
    assert!(governor.is_lowered());
    // It helped: what is left is within the budget, but not calm, so it stays as it is.
    assert_eq!(steps(&mut governor, &cost(&[(Feature::Syscalls, 0.004)], 0.002), 1_000), None);
}

#[test]
fn beyond_hard_two_looks_are_enough_and_samples_go_down_at_once() {
    let mut governor = governor();
    let dear = cost(&[(Feature::Syscalls, 0.5)], 0.01);
    let looks = SETTLE_LOOKS + HARD_LOOKS as u32;
    assert_eq!(steps(&mut governor, &dear, 100), Some((looks, Step::Fewer(LEAST_HERTZ))));
    assert_eq!(steps(&mut governor, &dear, 100), Some((looks, Step::Off(Feature::Syscalls))));
}

#[test]
fn everything_can_go_and_that_nothing_is_left_is_said_once() {
    let mut governor = governor();
    let dear = cost(&[], 0.5);
    let mut gone = Vec::new();
    let mut exhausted = 0;
    for _ in 0..1_000 {
        match governor.look(&dear) {
            Some(Step::Off(feature)) => gone.push(feature),
            Some(Step::Exhausted) => exhausted += 1,
            Some(Step::Fewer(_)) | None => {}
            Some(up) => panic!("{up:?}"),
        }
    }
    assert_eq!((gone, exhausted), (all(), 1));
}

#[test]
fn what_was_held_comes_back_in_reverse_when_it_has_been_calm() {
    let mut governor = governor();
    let dear = cost(&[(Feature::Syscalls, 0.3), (Feature::Wall, 0.2)], 0.0);
    for expected in [Step::Fewer(5), Step::Off(Feature::Syscalls)] {
        assert_eq!(steps(&mut governor, &dear, 100).unwrap().1, expected);
    }
    assert_eq!(steps(&mut governor, &cost(&[(Feature::Wall, 0.2)], 0.0), 100).unwrap().1, Step::Off(Feature::Wall));
    let calm = cost(&[], 0.001);
    let back = [Step::On(Feature::Wall), Step::On(Feature::Syscalls), Step::More(10), Step::More(19)];
    for expected in back {
        assert_eq!(steps(&mut governor, &calm, 1_000), Some((SETTLE_LOOKS + CALM_LOOKS, expected)));
    }
    assert_eq!(steps(&mut governor, &calm, 1_000), None);
    assert!(governor.held().is_empty() && !governor.is_lowered());
}

#[test]
fn what_comes_back_too_early_stays_away_for_longer_each_time() {
    let mut governor = Governor::new(BOUNDS, vec![Feature::Wall], 0);
    let (dear, calm) = (cost(&[(Feature::Wall, 0.1)], 0.0), cost(&[], 0.0));
    let mut waited = Vec::new();
    for _ in 0..6 {
        assert_eq!(steps(&mut governor, &dear, 100).unwrap().1, Step::Off(Feature::Wall));
        let (looks, step) = steps(&mut governor, &calm, 1_000).unwrap();
        assert_eq!(step, Step::On(Feature::Wall));
        waited.push(looks - SETTLE_LOOKS);
    }
    assert_eq!(waited, [30, 60, 120, 240, 360, 360]);
}

#[test]
fn the_agents_own_time_and_memory_are_answered_with_what_takes_most_of_them() {
    let mut governor = Governor::new(BOUNDS, all(), 5);
    let dear = cost(&[(Feature::Wall, 0.004)], 0.5);
    assert_eq!(steps(&mut governor, &dear, 100).unwrap().1, Step::Off(Feature::Profiles));
    let mut governor = self::governor();
    let large = Cost { memory_bytes: 2 << 20, ..cost(&[(Feature::Wall, 0.004)], 0.0) };
    assert_eq!(steps(&mut governor, &large, 100), Some((SETTLE_LOOKS + 1, Step::Off(Feature::Profiles))));
}

#[test]
fn what_is_not_wanted_is_neither_switched_off_nor_on() {
    let mut governor = Governor::new(BOUNDS, vec![Feature::Tcp], 19);
    let dear = cost(&[(Feature::Tcp, 0.1)], 0.0);
    assert_eq!(steps(&mut governor, &dear, 100).unwrap().1, Step::Off(Feature::Tcp));
    assert_eq!(steps(&mut governor, &dear, 100).unwrap().1, Step::Exhausted);
}

#[test]
fn what_people_ask_for_is_excused_for_a_tenth_of_the_time_and_memory_never() {
    let mut governor = governor();
    let dear = cost(&[(Feature::Wall, 0.1)], 0.0);
    let excused = (0..1_000).take_while(|_| governor.look_away(&dear).is_none()).count();
    // The first look that counts is no step yet, and neither is what settles.
    assert!((30..=30 + SOFT_LOOKS).contains(&excused), "{excused}");
    // Who asks all the time is held to the budget.
    while governor.look_away(&dear) != Some(Step::Exhausted) {}
    let calm = cost(&[], 0.0);
    (0..=10 * EXCUSED_LOOKS).for_each(|_| _ = governor.look(&calm));
    assert_eq!(governor.excused, EXCUSED_LOOKS);

    let mut governor = self::governor();
    let large = Cost { memory_bytes: 2 << 20, ..calm };
    let steps = (1..=100).find_map(|looks| governor.look_away(&large).map(|step| (looks, step)));
    assert_eq!(steps, Some((SETTLE_LOOKS + 1, Step::Off(Feature::Profiles))));
}

#[test]
fn nothing_comes_back_while_people_ask_for_something() {
    let mut governor = governor();
    let dear = cost(&[(Feature::Wall, 0.1)], 0.0);
    while governor.look(&dear) != Some(Step::Off(Feature::Wall)) {}
    let calm = cost(&[], 0.0);
    // Longer than what is excused: programs that are loaded anew end what people ask for.
    assert!((0..20 * EXCUSED_LOOKS).all(|_| governor.look_away(&calm).is_none()));
    assert!((0..100).any(|_| governor.look(&calm) == Some(Step::On(Feature::Wall))));
}
