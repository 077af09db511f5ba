//! What kernel, user and machine allow, without loading anything.

use std::path::Path;

use procfs::process::Process;

use crate::model::probe::{Btf, HostAbility, Lockdown, Privileges};

/// Looks at /proc and /sys.
pub fn ability(btf: &Path) -> HostAbility {
    let word = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_string());
    HostAbility {
        kernel_release: word("/proc/sys/kernel/osrelease").unwrap_or_default(),
        architecture: std::env::consts::ARCH.into(),
        machine: machine(),
        btf: match std::fs::File::open(btf).and_then(|file| file.metadata()) {
            Ok(attributes) => Btf::Found { path: btf.into(), size_bytes: attributes.len() },
            Err(error) => Btf::Missing { path: btf.into(), reason: error.to_string() },
        },
        privileges: privileges(),
        lockdown: match word("/sys/kernel/security/lockdown") {
            Ok(modes) if modes.contains("[confidentiality]") => Lockdown::Confidentiality,
            Ok(modes) if modes.contains("[integrity]") => Lockdown::Integrity,
            _ => Lockdown::Off,
        },
        bpf_stats: word("/proc/sys/kernel/bpf_stats_enabled").ok().map(|value| value != "0"),
    }
}

fn machine() -> String {
    let system = sysinfo::System::new_with_specifics(
        sysinfo::RefreshKind::nothing()
            .with_cpu(sysinfo::CpuRefreshKind::nothing())
            .with_memory(sysinfo::MemoryRefreshKind::nothing().with_ram()),
    );
    let Ok(system) = system else { return "unknown".into() };
    let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default();
    format!("{} × {brand}, {} MiB", system.cpus().len(), system.total_memory() >> 20)
}

fn privileges() -> Privileges {
    // include/uapi/linux/capability.h. CAP_SYS_ADMIN stands for both of the others, which are of Linux 5.8.
    const SYS_ADMIN: u64 = 1 << 21;
    /// Bit, name, and what is lost without it. The kernel asks for CAP_SYS_ADMIN where a program is to be stopped at a function.
    const CURTAILED: [(u64, &str, &str); 4] = [
        (1 << 19, "CAP_SYS_PTRACE", "names and files of other users' processes"),
        (1 << 2, "CAP_DAC_READ_SEARCH", "symbols and settings in files that this user may not read"),
        (1 << 34, "CAP_SYSLOG", "names of kernel functions, unless kernel.perf_event_paranoid is 1 or less"),
        (SYS_ADMIN, "CAP_SYS_ADMIN", "Postgres behind TLS, and what kernel programs cost ([budget])"),
    ];
    const NEEDED: [(u64, &str); 2] = [(1 << 38, "CAP_PERFMON"), (1 << 39, "CAP_BPF")];
    let status = Process::myself().and_then(|process| process.status());
    let (uid, held) = status.map_or((u32::MAX, 0), |status| (status.euid, status.capeff));
    let missing = NEEDED.iter().filter(|(bit, _)| held & (bit | SYS_ADMIN) == 0);
    let curtailed = CURTAILED.iter().filter(|(bit, ..)| held & bit == 0).map(|(_, name, lost)| (*name, *lost));
    Privileges { uid, missing_capabilities: missing.map(|(_, name)| *name).collect(), curtailed: curtailed.collect() }
}
