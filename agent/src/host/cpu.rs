//! CPU time by core and mode, and thermal throttling. Clock frequencies are left out on purpose: see the module
//! above.

use std::path::PathBuf;

use procfs::ticks_per_second;

use super::{
    Files, push,
    stat::{CpuTicks, MODES},
};
use crate::model::{catalog::host, snapshot::Series};

/// Position of the idle time in [`MODES`].
const IDLE: usize = 3;

/// Modes from this position on are contained in the first ones and have a metric of their own.
const FIRST_GUEST: usize = 8;

/// Idle time that falls back by this much means that the CPU was taken out and put back; less is the kernel's
/// own arithmetic (idle and iowait are computed anew for each reader). node_exporter's figure.
const JUMP_BACK_SECONDS: u64 = 3;

/// Keeps the highest reading of each CPU, so that its counters never fall.
#[derive(Default)]
pub(super) struct Cpu {
    highest: Vec<CpuTicks>,
    throttles: Option<Throttles>,
}

impl Cpu {
    /// Adds the series of all CPUs that are online.
    pub(super) fn push(&mut self, cpus: &[CpuTicks], files: &mut Files, out: &mut Vec<Series>) {
        let ticks_per_second = ticks_per_second();
        self.keep_highest(cpus, JUMP_BACK_SECONDS * ticks_per_second);
        for CpuTicks { cpu, ticks } in &self.highest {
            let cpu = cpu.to_string();
            for (position, (mode, ticks)) in MODES.iter().zip(ticks).enumerate() {
                let seconds = *ticks as f64 / ticks_per_second as f64;
                if position < FIRST_GUEST {
                    push(out, &host::CPU_SECONDS, &[&cpu, mode], seconds);
                } else {
                    push(out, &host::CPU_GUEST_SECONDS, &[&cpu, mode.trim_start_matches("guest_")], seconds);
                }
            }
        }
        if self.throttles.as_ref().is_none_or(|throttles| throttles.cpu_count != cpus.len()) {
            self.throttles = Some(Throttles::find(files, cpus));
        }
        self.throttles.iter().for_each(|throttles| throttles.push(files, out));
    }

    fn keep_highest(&mut self, cpus: &[CpuTicks], jump_back_ticks: u64) {
        self.highest = cpus
            .iter()
            .map(|now| match self.highest.iter().find(|before| before.cpu == now.cpu) {
                Some(before) if before.ticks[IDLE] < now.ticks[IDLE].saturating_add(jump_back_ticks) => {
                    let mut highest = *now;
                    highest.ticks.iter_mut().zip(before.ticks).for_each(|(now, before)| *now = before.max(*now));
                    highest
                }
                _ => *now,
            })
            .collect();
    }
}

/// Where throttling is counted: once for each core and each package, however many CPUs share them. Files are
/// looked for when the number of CPUs changes, not at each reading.
struct Throttles {
    cpu_count: usize,
    cores: Vec<([String; 2], PathBuf)>,
    packages: Vec<(String, PathBuf)>,
}

impl Throttles {
    fn find(files: &mut Files, cpus: &[CpuTicks]) -> Self {
        let (mut cores, mut packages) = (Vec::new(), Vec::new());
        for CpuTicks { cpu, .. } in cpus {
            let folder = files.in_sys(format!("devices/system/cpu/cpu{cpu}"));
            let Some(package) = files.number(&folder.join("topology/physical_package_id")) else { continue };
            let Some(core) = files.number(&folder.join("topology/core_id")) else { continue };
            let (package, core) = (package.to_string(), core.to_string());
            let path = folder.join("thermal_throttle/core_throttle_count");
            let id = [package.clone(), core];
            if path.exists() && !cores.iter().any(|(known, _)| *known == id) {
                cores.push((id, path));
            }
            let path = folder.join("thermal_throttle/package_throttle_count");
            if path.exists() && !packages.iter().any(|(known, _)| *known == package) {
                packages.push((package, path));
            }
        }
        Self { cpu_count: cpus.len(), cores, packages }
    }

    fn push(&self, files: &mut Files, out: &mut Vec<Series>) {
        for ([package, core], path) in &self.cores {
            if let Some(count) = files.number(path) {
                push(out, &host::CPU_CORE_THROTTLES, &[package, core], count as f64);
            }
        }
        for (package, path) in &self.packages {
            if let Some(count) = files.number(path) {
                push(out, &host::CPU_PACKAGE_THROTTLES, &[package], count as f64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::host::tests::values;

    fn ticks(cpu: u32, user: u64, idle: u64) -> CpuTicks {
        CpuTicks { cpu, ticks: [user, 0, 0, idle, 0, 0, 0, 0, 0, 0] }
    }

    #[test]
    fn idle_time_that_falls_a_little_is_held() {
        let mut cpu = Cpu::default();
        cpu.keep_highest(&[ticks(0, 5, 1000)], 300);
        cpu.keep_highest(&[ticks(0, 6, 998)], 300);
        assert_eq!(cpu.highest, [ticks(0, 6, 1000)]);
    }

    #[test]
    fn a_cpu_that_was_taken_out_and_put_back_starts_anew() {
        let mut cpu = Cpu::default();
        cpu.keep_highest(&[ticks(0, 500, 1000), ticks(1, 500, 1000)], 300);
        cpu.keep_highest(&[ticks(0, 501, 1001), ticks(1, 1, 2)], 300);
        assert_eq!(cpu.highest, [ticks(0, 501, 1001), ticks(1, 1, 2)]);
        cpu.keep_highest(&[ticks(1, 1, 2)], 300);
        assert_eq!(cpu.highest, [ticks(1, 1, 2)]);
    }

    #[test]
    fn modes_and_guests_bear_node_exporters_labels_and_seconds() {
        let root = tempfile::tempdir().unwrap();
        let mut files = Files::new(root.path().into(), root.path().into());
        let mut out = Vec::new();
        let hz = ticks_per_second();
        let ticks = std::array::from_fn(|mode| (mode as u64 + 1) * hz / 2);
        Cpu::default().push(&[CpuTicks { cpu: 3, ticks }], &mut files, &mut out);
        let values = values(&out);
        assert_eq!(values[0], r#"node_cpu_seconds_total{cpu="3",mode="user"} 0.5"#);
        assert_eq!(values[7], r#"node_cpu_seconds_total{cpu="3",mode="steal"} 4"#);
        assert_eq!(values[8], r#"node_cpu_guest_seconds_total{cpu="3",mode="user"} 4.5"#);
        assert_eq!(values[9], r#"node_cpu_guest_seconds_total{cpu="3",mode="nice"} 5"#);
        assert_eq!(values.len(), 10);
    }

    #[test]
    fn throttling_is_counted_once_for_each_core_and_package() {
        let root = tempfile::tempdir().unwrap();
        for (cpu, core) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
            let folder = root.path().join(format!("devices/system/cpu/cpu{cpu}"));
            fs::create_dir_all(folder.join("topology")).unwrap();
            fs::create_dir_all(folder.join("thermal_throttle")).unwrap();
            fs::write(folder.join("topology/physical_package_id"), "0\n").unwrap();
            fs::write(folder.join("topology/core_id"), format!("{core}\n")).unwrap();
            fs::write(folder.join("thermal_throttle/core_throttle_count"), format!("{}\n", 10 + core)).unwrap();
            fs::write(folder.join("thermal_throttle/package_throttle_count"), "30\n").unwrap();
        }
        let mut files = Files::new(root.path().into(), root.path().into());
        let cpus: Vec<CpuTicks> = (0..4).map(|cpu| ticks(cpu, 0, 0)).collect();
        let mut out = Vec::new();
        Throttles::find(&mut files, &cpus).push(&mut files, &mut out);
        assert_eq!(
            values(&out),
            [
                r#"node_cpu_core_throttles_total{package="0",core="0"} 10"#,
                r#"node_cpu_core_throttles_total{package="0",core="1"} 11"#,
                r#"node_cpu_package_throttles_total{package="0"} 30"#,
            ]
        );
    }
}
