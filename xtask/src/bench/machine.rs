//! What was measured on: kernel, processor, memory. Never names or addresses.

use std::{fmt, fs, thread};

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

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, processor, cores, memory_gib } = self;
        write!(f, "Linux {kernel}, {processor}, {cores} cores, {memory_gib} GiB")
    }
}
