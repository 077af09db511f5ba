//! What was once found, kept within a budget: frames by place, and names so that equal ones are one. The least recently
//! used goes first, by halves: what was not asked for while half the budget was filled is forgotten at once. Knows
//! nothing of where frames come from.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::model::profile::Frame;

/// The number of a file and an offset in it.
pub type Key = (u64, u64);

/// Bytes that an entry of a table takes beside what it points to.
const ENTRY_BYTES: usize = 64;

/// Frames by place.
#[derive(Debug)]
pub struct Known {
    recent: HashMap<Key, Arc<[Frame]>>,
    older: HashMap<Key, Arc<[Frame]>>,
    recent_bytes: usize,
    older_bytes: usize,
    budget_bytes: usize,
}

impl Known {
    /// Keeps at most about so many bytes.
    pub fn new(budget_bytes: usize) -> Self {
        Self { recent: HashMap::new(), older: HashMap::new(), recent_bytes: 0, older_bytes: 0, budget_bytes }
    }

    /// What was found there.
    pub fn get(&mut self, key: Key) -> Option<Arc<[Frame]>> {
        if let Some(frames) = self.recent.get(&key) {
            return Some(Arc::clone(frames));
        }
        let frames = self.older.remove(&key)?;
        self.older_bytes = self.older_bytes.saturating_sub(weight(&frames));
        self.insert(key, Arc::clone(&frames));
        Some(frames)
    }

    /// Keeps what was found there.
    pub fn insert(&mut self, key: Key, frames: Arc<[Frame]>) {
        self.recent_bytes += weight(&frames);
        if let Some(before) = self.recent.insert(key, frames) {
            self.recent_bytes = self.recent_bytes.saturating_sub(weight(&before));
        }
        if self.recent_bytes > self.budget_bytes / 2 {
            self.older = std::mem::take(&mut self.recent);
            self.older_bytes = std::mem::take(&mut self.recent_bytes);
        }
    }

    /// Bytes that are held, with each name counted wherever it stands.
    pub fn bytes(&self) -> usize {
        self.recent_bytes + self.older_bytes
    }
}

fn weight(frames: &[Frame]) -> usize {
    let texts = |frame: &Frame| frame.function.len() + frame.file.len() + size_of::<Frame>();
    ENTRY_BYTES + frames.iter().map(texts).sum::<usize>()
}

/// Names, each once.
#[derive(Debug)]
pub struct Names {
    recent: HashSet<Arc<str>>,
    older: HashSet<Arc<str>>,
    recent_bytes: usize,
    budget_bytes: usize,
}

impl Names {
    /// Keeps at most about so many bytes of them. What is forgotten lives on where it is used.
    pub fn new(budget_bytes: usize) -> Self {
        Self { recent: HashSet::new(), older: HashSet::new(), recent_bytes: 0, budget_bytes }
    }

    /// The one of this text.
    pub fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(name) = self.recent.get(text) {
            return Arc::clone(name);
        }
        let name = self.older.take(text).unwrap_or_else(|| Arc::from(text));
        self.recent_bytes += name.len() + ENTRY_BYTES;
        self.recent.insert(Arc::clone(&name));
        if self.recent_bytes > self.budget_bytes / 2 {
            self.older = std::mem::take(&mut self.recent);
            self.recent_bytes = 0;
        }
        name
    }
}
