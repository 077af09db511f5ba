//! What an agent takes at one moment, from /proc. Knows proc(5), not what the agent does.

use std::{collections::BTreeMap, fmt, fs};

use anyhow::{Context, Result};

/// What is looked at, and by how much the straight line through two thirds of the time may rise.
pub const KINDS: [(&str, f64); 5] = [
    ("resident memory, MiB", 6.0),
    ("proportional memory, MiB", 6.0),
    ("open descriptors", 8.0),
    ("threads", 2.0),
    ("memory of kernel maps, MiB", 1.0),
];

/// One look.
#[derive(Clone, Copy, Debug)]
pub struct Sample(pub [f64; KINDS.len()]);

impl Sample {
    /// A look at a process.
    ///
    /// # Errors
    /// If it is gone.
    pub fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let memory = read("smaps_rollup")?;
        let mib = |key: &str| number(&memory, key).map(|kib| kib / 1024.0).with_context(|| format!("no {key}"));
        // One map may be held twice.
        let (mut descriptors, mut maps) = (0.0, BTreeMap::new());
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
            descriptors += 1.0;
            // It may have been closed since.
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            if let Some(id) = number(&text, "map_id:") {
                maps.insert(id.to_bits(), number(&text, "memlock:").unwrap_or(0.0));
            }
        }
        let threads = number(&read("status")?, "Threads:").context("no threads")?;
        Ok(Self([mib("Rss:")?, mib("Pss:")?, descriptors, threads, maps.values().sum::<f64>() / f64::from(1 << 20)]))
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((what, _), value) in KINDS.iter().zip(self.0) {
            write!(formatter, "{what} {value:.1}  ")?;
        }
        Ok(())
    }
}

fn number(text: &str, key: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_looked_at() {
        let [resident, proportional, descriptors, threads, _] = Sample::of(std::process::id()).unwrap().0;
        assert!(resident >= proportional && proportional > 1.0 && descriptors > 2.0 && threads >= 1.0);
    }
}
