//! Room in an array that many share: who gets which numbers. Knows nothing of what is written there.

use std::collections::BTreeMap;

/// Stretches of numbers that are free.
#[derive(Clone, Debug)]
pub struct Room {
    free: BTreeMap<u32, u32>,
}

impl Room {
    /// All numbers below `end` are free.
    pub fn new(end: u32) -> Self {
        Self { free: BTreeMap::from([(0, end)]) }
    }

    /// Takes a stretch of this length; its first number. `None` if no free stretch is long enough.
    pub fn take(&mut self, length: u32) -> Option<u32> {
        let (&first, &found) = self.free.iter().find(|(_, free)| **free >= length)?;
        self.free.remove(&first);
        if found > length {
            self.free.insert(first + length, found - length);
        }
        Some(first)
    }

    /// Gives a stretch back.
    pub fn give(&mut self, mut first: u32, mut length: u32) {
        if length == 0 {
            return;
        }
        if let Some((&before, &free)) = self.free.range(..first).next_back()
            && before + free == first
        {
            self.free.remove(&before);
            (first, length) = (before, free + length);
        }
        if let Some(behind) = self.free.remove(&(first + length)) {
            length += behind;
        }
        self.free.insert(first, length);
    }

    /// How many numbers are free.
    pub fn free(&self) -> u32 {
        self.free.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_given_back_joins_its_neighbours() {
        let mut room = Room::new(10);
        let taken: Vec<_> = [3, 3, 4].into_iter().map(|length| room.take(length).unwrap()).collect();
        assert_eq!((taken.as_slice(), room.take(1)), (&[0, 3, 6][..], None));
        room.give(0, 3);
        room.give(6, 4);
        assert_eq!((room.free(), room.take(5)), (7, None), "not in one piece");
        room.give(3, 3);
        assert_eq!(room.take(10), Some(0));
    }

    proptest! {
        #[test]
        fn nobody_gets_what_another_has(steps in prop::collection::vec((0..2u8, 1u32..40), 1..200)) {
            let mut room = Room::new(200);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (what, length) in steps {
                if what == 0 {
                    if let Some(first) = room.take(length) {
                        prop_assert!(first + length <= 200);
                        prop_assert!(held.iter().all(|(other, long)| first + length <= *other || other + long <= first));
                        held.push((first, length));
                    }
                } else if !held.is_empty() {
                    let (first, length) = held.swap_remove(length as usize % held.len());
                    room.give(first, length);
                }
                prop_assert_eq!(room.free() + held.iter().map(|(_, long)| long).sum::<u32>(), 200);
            }
        }
    }
}
