//! How many requests one caller may make: a bucket of them for each, which fills with time. Bounded in callers, so that who
//! comes from very many addresses fills no memory. Does not know what a request is.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Who is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    /// Who comes from there; of IPv6, all of a network, whose owner has all of its addresses.
    Peer(IpAddr),
    /// Who has the token of this name.
    Token(String),
    /// All for whom there is no bucket left.
    Others,
}

impl Caller {
    /// Who comes from this address.
    pub fn at(address: IpAddr) -> Self {
        Self::Peer(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            v4 => v4,
        })
    }
}

/// Callers with buckets of their own.
const MOST_CALLERS: usize = 4_096;
/// A bucket holds what comes in so many seconds.
const BURST_SECONDS: f64 = 2.0;

/// All of them are gone over for room this often at most.
const SWEEP: Duration = Duration::from_secs(1);

/// All buckets.
#[derive(Debug, Default)]
pub struct Buckets {
    buckets: HashMap<Caller, Bucket>,
    swept: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Buckets {
    /// Takes so many requests out of a caller's bucket, into which `rate` come each second.
    ///
    /// # Errors
    /// How long the caller has to wait, if there are not so many.
    pub fn take(&mut self, caller: Caller, cost: f64, rate: f64, now: Instant) -> Result<(), Duration> {
        let most = rate * BURST_SECONDS;
        let caller =
            if self.buckets.contains_key(&caller) || self.make_room(rate, now) { caller } else { Caller::Others };
        let bucket = self.buckets.entry(caller).or_insert(Bucket { left: most, at: now });
        bucket.left = bucket.now(rate, now);
        bucket.at = now;
        if bucket.left < 1.0 {
            return Err(Duration::from_secs_f64(((1.0 - bucket.left) / rate).clamp(0.0, 3_600.0)));
        }
        // A debt is paid by waiting, but not for ever.
        bucket.left = (bucket.left - cost).max(-most);
        Ok(())
    }

    /// Whether there is room for one more; full buckets say nothing and go first.
    fn make_room(&mut self, rate: f64, now: Instant) -> bool {
        let is_due = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP);
        if self.buckets.len() >= MOST_CALLERS && is_due {
            self.swept = Some(now);
            self.buckets.retain(|_, bucket| bucket.now(rate, now) < rate * BURST_SECONDS);
        }
        self.buckets.len() < MOST_CALLERS
    }
}

impl Bucket {
    fn now(&self, rate: f64, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + since * rate).min(rate * BURST_SECONDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> Caller {
        Caller::at(IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn a_caller_has_two_seconds_worth_at_once_and_then_the_rate() {
        let (mut buckets, start) = (Buckets::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        let taken = (0..50).take_while(|_| buckets.take(peer(1), 1.0, 10.0, start).is_ok()).count();
        assert_eq!(taken, 20);
        let wait = buckets.take(peer(1), 1.0, 10.0, start).unwrap_err();
        assert!(wait > Duration::from_millis(90) && wait <= Duration::from_millis(100), "{wait:?}");
        // Others are not concerned.
        assert_eq!(buckets.take(peer(2), 1.0, 10.0, start), Ok(()));
        assert_eq!(buckets.take(Caller::Token("a".into()), 1.0, 10.0, start), Ok(()));
        assert_eq!(buckets.take(peer(1), 1.0, 10.0, after(101)), Ok(()));
        assert!(buckets.take(peer(1), 1.0, 10.0, after(102)).is_err());
    }

    #[test]
    fn what_costs_more_leaves_a_debt_that_ends() {
        let (mut buckets, start) = (Buckets::default(), Instant::now());
        assert_eq!(buckets.take(peer(1), 1e9, 10.0, start), Ok(()));
        assert!(buckets.take(peer(1), 1.0, 10.0, start + Duration::from_secs(2)).is_err());
        assert_eq!(buckets.take(peer(1), 1.0, 10.0, start + Duration::from_secs(3)), Ok(()));
    }

    #[test]
    fn callers_without_number_share_one_bucket_and_fill_no_memory() {
        let (mut buckets, start) = (Buckets::default(), Instant::now());
        let admitted = (0..100_000).filter(|number| buckets.take(peer(*number), 1.0, 10.0, start).is_ok()).count();
        assert_eq!(admitted, MOST_CALLERS + 20);
        assert_eq!(buckets.buckets.len(), MOST_CALLERS + 1);
        // When they have rested, there is room again.
        assert_eq!(buckets.take(peer(200_000), 1.0, 10.0, start + Duration::from_secs(9)), Ok(()));
        assert!(buckets.buckets.len() < 3);
    }

    #[test]
    fn an_ipv6_network_is_one_caller_and_a_mapped_address_its_ipv4() {
        let at = |text: &str| Caller::at(text.parse().unwrap());
        assert_eq!(at("2001:db8:1:2::1"), at("2001:db8:1:2:ffff::7"));
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
    }
}
