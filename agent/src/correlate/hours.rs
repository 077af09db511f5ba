//! What a series reached in each hour of the day before: what comes every night is no change. Knows hours in UTC, not what is
//! measured.

const HOURS: usize = 24;
const DAY_MS: u64 = 86_400_000;
const HOUR_MS: u64 = 3_600_000;

/// How much of what an hour reached is kept for the same hour of the days after: a habit is forgotten within days.
const KEPT: f32 = 0.8;

/// What was reached in each hour of a day.
#[derive(Clone, Debug)]
pub struct Hours([Hour; HOURS]);

#[derive(Clone, Copy, Debug)]
struct Hour {
    day: u64,
    today: f32,
    before: f32,
}

impl Default for Hours {
    fn default() -> Self {
        Self([Hour { day: 0, today: f32::NAN, before: f32::NAN }; HOURS])
    }
}

impl Hours {
    /// Notes what the series has reached and held at this moment.
    pub fn note(&mut self, at_unix_ms: u64, held: f64) {
        let (day, place) = place(at_unix_ms);
        let Some(hour) = self.0.get_mut(place) else { return };
        // `max` takes the number of the two if one is none.
        if hour.day != day {
            *hour = Hour { day, today: f32::NAN, before: hour.today.max(hour.before * KEPT) };
        }
        hour.today = hour.today.max(held as f32);
    }

    /// What the series held in this hour of earlier days, or in the hour before or after it: what comes every day does not come
    /// to the minute. `None` if no such day is known.
    pub fn usual(&self, at_unix_ms: u64) -> Option<f64> {
        let (day, place) = place(at_unix_ms);
        let known = |hour: &Hour| if hour.day == day { hour.before } else { hour.today.max(hour.before) };
        let around = [HOURS - 1, 0, 1].map(|offset| self.0.get((place + offset) % HOURS));
        let highest = around.into_iter().flatten().map(|hour| {
            // An hour that has not come yet today; or has, just before midnight.
            if hour.day + 1 >= day { known(hour) } else { hour.before }
        });
        highest.reduce(f32::max).filter(|value| !value.is_nan()).map(f64::from)
    }
}

fn place(at_unix_ms: u64) -> (u64, usize) {
    (at_unix_ms / DAY_MS + 1, usize::try_from(at_unix_ms % DAY_MS / HOUR_MS).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_at_three_every_night_is_usual_at_three_and_not_at_noon() {
        let mut hours = Hours::default();
        let at = |day: u64, hour: u64| 20_000 * DAY_MS + day * DAY_MS + hour * HOUR_MS;
        for hour in 0..24 {
            assert_eq!(hours.usual(at(0, hour)), None);
            hours.note(at(0, hour), if hour == 3 { 50.0 } else { 1.0 });
        }
        for (hour, usual) in [(1, 1.0), (2, 50.0), (3, 50.0), (4, 50.0), (5, 1.0), (12, 1.0)] {
            assert_eq!(hours.usual(at(1, hour)), Some(usual), "{hour}");
        }
        // What this very hour has reached today says nothing of what is usual.
        hours.note(at(1, 12), 99.0);
        assert_eq!(hours.usual(at(1, 12)), Some(1.0));
        // What does not come again is forgotten.
        for day in 1..30 {
            (0..24).for_each(|hour| hours.note(at(day, hour), 1.0));
        }
        assert!(hours.usual(at(30, 3)).unwrap() < 2.0);
    }
}
