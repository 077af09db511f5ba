//! How points in time are typed and shown: by the clock of this host, with an offset, or counted back from now.

use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp, ToSpan as _, Zoned, civil};

use super::value::parse_duration;
use crate::model::sample::Period;

/// What is allowed, for messages and help.
pub const ALLOWED: &str = "03:10, 03:10:30, 2026-11-21T03:10, 2026-11-21T03:10:00Z, -10m or now";

/// Reads a period. An hour of the day is the last one that has come; that of the end is the first one after the beginning.
/// Without an end the period goes on until now.
///
/// # Errors
/// What is wrong with it, in words.
pub fn period(from: &str, to: Option<&str>) -> Result<Period, String> {
    period_at(&Zoned::now(), from, to)
}

/// Reads a period written as `FROM..TO`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn span(typed: &str) -> Result<Period, String> {
    let (from, to) = typed.split_once("..").ok_or_else(|| format!("{typed:?}: it is written FROM..TO"))?;
    period(from, Some(to))
}

/// As people read it, in this host's time and with its offset; can be typed again.
pub fn shown(moment: SystemTime) -> String {
    match Timestamp::try_from(moment) {
        Ok(moment) => moment.to_zoned(Zoned::now().time_zone().clone()).strftime("%Y-%m-%d %H:%M:%S%:z").to_string(),
        Err(_) => "an unknown time".into(),
    }
}

/// As a program reads it: RFC 3339, in UTC, to the millisecond.
pub fn exact(moment: SystemTime) -> String {
    Timestamp::try_from(moment).map(|moment| format!("{moment:.3}")).unwrap_or_default()
}

fn period_at(now: &Zoned, from: &str, to: Option<&str>) -> Result<Period, String> {
    let begin = match parse(now, from)? {
        Moment::At(moment) => moment,
        Moment::OfDay(time) => {
            let today = on(now, time)?;
            if today.timestamp() <= now.timestamp() { today } else { on(&before(&today)?, time)? }
        }
    };
    let end = match to.map(|to| parse(now, to)).transpose()? {
        None => now.clone(),
        Some(Moment::At(moment)) => moment,
        Some(Moment::OfDay(time)) => {
            let same = on(&begin, time)?;
            if same.timestamp() > begin.timestamp() { same } else { on(&after(&same)?, time)? }
        }
    };
    let (begin, end) = (begin.timestamp(), end.timestamp());
    if end <= begin {
        return Err(format!("{} does not lie after {from}", to.unwrap_or("now")));
    }
    Ok(Period { from: begin.into(), to: end.into() })
}

enum Moment {
    At(Zoned),
    OfDay(civil::Time),
}

fn parse(now: &Zoned, typed: &str) -> Result<Moment, String> {
    let zone = now.time_zone();
    if typed == "now" {
        return Ok(Moment::At(now.clone()));
    }
    if let Some(back) = typed.strip_prefix('-') {
        let back: Duration = parse_duration(back).map_err(|why| wrong(typed, &why))?;
        let back = SignedDuration::try_from(back).map_err(|_| wrong(typed, "it is too large"))?;
        return now.checked_sub(back).map(Moment::At).map_err(|_| wrong(typed, "it is too large"));
    }
    if let Ok(moment) = typed.parse::<Timestamp>() {
        return Ok(Moment::At(moment.to_zoned(zone.clone())));
    }
    // A date without an hour would be midnight, which few mean who type it as an end.
    let has_hour = typed.contains(':');
    if let Some(moment) = typed.parse::<civil::DateTime>().ok().filter(|_| has_hour) {
        return moment.to_zoned(zone.clone()).map(Moment::At).map_err(|error| wrong(typed, &error.to_string()));
    }
    match typed.parse::<civil::Time>().ok().filter(|_| has_hour) {
        Some(time) => Ok(Moment::OfDay(time)),
        None => Err(wrong(typed, "it is no point in time")),
    }
}

fn wrong(typed: &str, why: &str) -> String {
    format!("{typed:?}: {why}; allowed are {ALLOWED}")
}

fn on(day: &Zoned, time: civil::Time) -> Result<Zoned, String> {
    day.date().to_datetime(time).to_zoned(day.time_zone().clone()).map_err(|error| error.to_string())
}

fn before(day: &Zoned) -> Result<Zoned, String> {
    day.checked_sub(1.day()).map_err(|error| error.to_string())
}

fn after(day: &Zoned) -> Result<Zoned, String> {
    day.checked_add(1.day()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use jiff::tz::{TimeZone, offset};

    use super::*;

    /// Four in the morning, one hour east of Greenwich.
    fn now() -> Zoned {
        civil::date(2026, 11, 21).at(4, 0, 0, 0).to_zoned(TimeZone::fixed(offset(1))).unwrap()
    }

    fn read(from: &str, to: Option<&str>) -> Result<(String, String), String> {
        period_at(&now(), from, to).map(|period| (exact(period.from), exact(period.to)))
    }

    fn is(from: &str, to: Option<&str>, begin: &str, end: &str) {
        assert_eq!(read(from, to).unwrap(), (format!("{begin}:00.000Z"), format!("{end}:00.000Z")), "{from} {to:?}");
    }

    #[test]
    fn an_hour_is_the_last_one_that_has_come() {
        is("03:10", Some("03:15"), "2026-11-21T02:10", "2026-11-21T02:15");
        is("04:10", Some("04:15"), "2026-11-20T03:10", "2026-11-20T03:15");
        is("23:50", Some("00:10"), "2026-11-20T22:50", "2026-11-20T23:10");
        is("03:10", None, "2026-11-21T02:10", "2026-11-21T03:00");
    }

    #[test]
    fn days_offsets_and_what_is_counted_back() {
        is("2026-11-20T03:10", Some("2026-11-20 03:15"), "2026-11-20T02:10", "2026-11-20T02:15");
        is("2026-11-20T03:10:00Z", Some("05:00"), "2026-11-20T03:10", "2026-11-20T04:00");
        is("2026-11-20 03:10:00+05:00", Some("now"), "2026-11-19T22:10", "2026-11-21T03:00");
        is("-1h", Some("-10m"), "2026-11-21T02:00", "2026-11-21T02:50");
    }

    #[test]
    fn what_is_no_time_is_told_with_what_is_allowed() {
        for typed in ["", "soon", "25:00", "-5", "2026-11-21", "--5m"] {
            let told = read(typed, None).unwrap_err();
            assert!(told.starts_with(&format!("{typed:?}: ")) && told.ends_with(ALLOWED), "{told}");
        }
        assert_eq!(read("-10m", Some("-20m")).unwrap_err(), "-20m does not lie after -10m");
    }

    #[test]
    fn what_is_shown_can_be_typed_again() {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let again = span(&format!("{}..{}", shown(moment), exact(moment + Duration::from_millis(1500)))).unwrap();
        assert_eq!(again, Period { from: moment, to: moment + Duration::from_millis(1500) });
        assert!(span("03:10").is_err());
    }
}
