//! What is measured on: kernel, processor, memory, and whether it is at rest. Never names or addresses.

use std::{fmt, fs, thread, time::Duration};

use anyhow::{Context, Result};

/// What a reader needs to compare figures.
pub struct Machine {
    kernel: String,
    processor: String,
    cores: usize,
    memory_gib: u64,
}

impl Machine {
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_once(':').map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
        };
        let memory_kib = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
        // The part after the version is a builder's own name.
        let release = read("/proc/sys/kernel/osrelease");
        Self {
            kernel: release.trim().split('-').next().unwrap_or_default().to_owned(),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: thread::available_parallelism().map_or(0, usize::from),
            memory_gib: (memory_kib + (1 << 19)) >> 20,
        }
    }
}

/// The share of the time of all processors that is not idle, over the next second.
///
/// # Errors
/// It cannot be read.
pub fn busy_ratio() -> Result<f64> {
    /// The first line of proc_stat(5): all ticks, and those that were idle or waiting for a disk.
    fn ticks() -> Result<(f64, f64)> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let numbers = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
        let numbers: Vec<f64> = numbers.filter_map(|number| number.parse().ok()).collect();
        // The last two are guests', which stand in the first two as well.
        Ok((numbers.iter().take(8).sum(), numbers.iter().skip(3).take(2).sum()))
    }
    let before = ticks()?;
    thread::sleep(Duration::from_secs(1));
    let after = ticks()?;
    Ok(1.0 - (after.1 - before.1) / (after.0 - before.0).max(1.0))
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, processor, cores, memory_gib } = self;
        write!(f, "Linux {kernel}, {processor}, {cores} cores, {memory_gib} GiB")
    }
}
