//! How many connections one peer holds at a time. Does not know what they are for.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use super::rate::Caller;

/// One peer has at most this part of all connections, so that another finds room.
const PART_OF_ONE: usize = 2;

/// Who holds how many.
#[derive(Clone, Debug)]
pub struct Seats {
    most_of_one: usize,
    held: Arc<Mutex<HashMap<Caller, usize>>>,
}

/// One connection, until it is dropped.
#[derive(Debug)]
pub struct Seat {
    held: Arc<Mutex<HashMap<Caller, usize>>>,
    caller: Option<Caller>,
}

impl Seats {
    /// Of so many connections.
    pub fn new(connections: usize) -> Self {
        Self { most_of_one: connections.div_ceil(PART_OF_ONE), held: Arc::default() }
    }

    /// A place for one more; `None` if this peer has as many as it may. All of this host come from one address, so they share all.
    pub fn take(&self, address: IpAddr) -> Option<Seat> {
        if address.to_canonical().is_loopback() {
            return Some(Seat { held: Arc::clone(&self.held), caller: None });
        }
        let caller = Caller::at(address);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(caller.clone()).or_default();
        if *count >= self.most_of_one {
            return None;
        }
        *count += 1;
        Some(Seat { held: Arc::clone(&self.held), caller: Some(caller) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(caller) = &self.caller else { return };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(caller) {
            *count -= 1;
            if *count == 0 {
                held.remove(caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_leaves_half_to_others_and_what_it_leaves_is_free_again() {
        let seats = Seats::new(5);
        let [near, far, other] = ["127.0.0.1", "10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut taken: Vec<Seat> = (0..3).map(|_| seats.take(far).unwrap()).collect();
        assert!(seats.take(far).is_none());
        assert!(seats.take("::ffff:10.0.0.1".parse().unwrap()).is_none());
        taken.extend((0..9).map(|_| seats.take(near).unwrap()));
        taken.extend(seats.take(other));
        taken.remove(0);
        assert!(seats.take(far).is_some());
        taken.clear();
        assert!(seats.held.lock().unwrap().is_empty());
    }
}
