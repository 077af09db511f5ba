//! Things that are written once and named by number from then on.

use std::{collections::HashMap, hash::Hash};

/// Things with numbers given out in order, from 0.
pub struct Numbers<T> {
    known: HashMap<T, usize>,
    in_order: Vec<T>,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self { known: HashMap::new(), in_order: Vec::new() }
    }
}

impl<T: Clone + Eq + Hash> Numbers<T> {
    /// The number of a thing, a new one if it has none.
    pub fn of(&mut self, thing: T) -> usize {
        if let Some(&number) = self.known.get(&thing) {
            return number;
        }
        let number = self.in_order.len();
        self.in_order.push(thing.clone());
        self.known.insert(thing, number);
        number
    }

    /// All that have numbers, in their order.
    pub fn all(&self) -> &[T] {
        &self.in_order
    }

    /// The same, without the numbers.
    pub fn into_all(self) -> Vec<T> {
        self.in_order
    }
}
