//! What this host lets steth do: its abilities and the state of every probe. Knows neither how they are found out
//! nor how they are printed.

use std::path::PathBuf;

use serde::Serialize;

/// What kernel, user and machine allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAbility {
    /// `uname -r`.
    pub kernel_release: String,
    /// `uname -m`.
    pub architecture: String,
    /// Processors and memory.
    pub machine: String,
    /// Type information of the running kernel; offsets of its structures are read from it.
    pub btf: Btf,
    /// Who the agent runs as.
    pub privileges: Privileges,
    /// Kernel lockdown: it forbids reading kernel memory at `confidentiality`.
    pub lockdown: Lockdown,
    /// Whether the kernel measures the run time of probes (`kernel.bpf_stats_enabled`); `None` where it cannot be
    /// read.
    pub bpf_stats: Option<bool>,
}

/// Whether the kernel's type information was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Btf {
    /// It can be read.
    Found {
        /// Where.
        path: PathBuf,
        /// Size.
        size_bytes: u64,
    },
    /// It cannot be read.
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

/// Who the agent runs as, and what that user lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privileges {
    /// Effective user id.
    pub uid: u32,
    /// Capabilities that are needed and not held, such as `CAP_BPF`.
    pub missing_capabilities: Vec<&'static str>,
    /// Capabilities without which part is lost, and which part.
    pub curtailed: Vec<(&'static str, &'static str)>,
}

/// The kernel's lockdown mode (`/sys/kernel/security/lockdown`; Linux 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Off, or not built in.
    Off,
    /// The kernel cannot be modified: no limit to steth.
    Integrity,
    /// Kernel memory cannot be read: no probe can run.
    Confidentiality,
}

/// One ability, judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What is lost and what to do, empty when all is well.
    pub advice: String,
}

/// How good an ability is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All there.
    Good,
    /// Something is lost, the rest runs.
    Degraded,
    /// No probe can run.
    Missing,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeStatus {
    /// Its name in the catalog.
    pub name: String,
    /// The hook it is meant for, such as `tp_btf/sys_enter`.
    pub hook: String,
    /// Whether it runs.
    #[serde(flatten)]
    pub state: ProbeState,
    /// What users lose without it.
    pub lost: String,
    /// Memory of the program and of the maps that it alone uses.
    pub memory_bytes: u64,
    /// How often it ran; 0 unless `kernel.bpf_stats_enabled`.
    pub runs: u64,
    /// How long it ran in all, in nanoseconds; 0 unless `kernel.bpf_stats_enabled`.
    pub run_ns: u64,
    /// How often it was left out, because it had interrupted itself.
    pub missed: u64,
}

/// Whether a probe runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ProbeState {
    /// At the hook it is meant for.
    Attached,
    /// Loaded, and attached whenever someone asks for what it does.
    Ready,
    /// At its hook, but without part of its work.
    Partial {
        /// Why.
        reason: String,
    },
    /// It does not run.
    Unavailable {
        /// Why.
        reason: String,
    },
    /// Switched off by the configuration.
    Off,
}

impl HostAbility {
    /// The oldest kernel with all that the probes need: ring buffers and BTF tracepoints (5.8), task storage for
    /// tracing programs (5.11), `bpf_loop` (5.17).
    pub const MIN_KERNEL: (u32, u32) = (5, 17);

    /// Judges each ability.
    pub fn findings(&self) -> Vec<Finding> {
        vec![
            self.kernel(),
            Finding::good("machine", self.machine.clone()),
            self.btf(),
            self.privileges(),
            self.lockdown(),
            self.bpf_stats(),
        ]
    }

    /// Whether any probe can run.
    pub fn probes_can_run(&self) -> bool {
        self.findings().iter().all(|finding| finding.verdict != Verdict::Missing)
    }

    fn kernel(&self) -> Finding {
        let (major, minor) = Self::MIN_KERNEL;
        let found = format!("Linux {} {}", self.kernel_release, self.architecture);
        match version(&self.kernel_release) {
            Some(version) if version < Self::MIN_KERNEL => {
                Finding::missing("kernel", found, format!("probes need Linux {major}.{minor} or newer"))
            }
            _ => Finding::good("kernel", found),
        }
    }

    fn btf(&self) -> Finding {
        match &self.btf {
            Btf::Found { path, size_bytes } => {
                Finding::good("BTF", format!("{} ({} KiB)", path.display(), size_bytes.div_ceil(1024)))
            }
            Btf::Missing { path, reason } => Finding::missing(
                "BTF",
                format!("{}: {reason}", path.display()),
                "the kernel must be built with CONFIG_DEBUG_INFO_BTF: it checks probes against its own type information".into(),
            ),
        }
    }

    fn privileges(&self) -> Finding {
        let who = if self.privileges.uid == 0 { "root".into() } else { format!("user {}", self.privileges.uid) };
        if self.privileges.missing_capabilities.is_empty() {
            if self.privileges.curtailed.is_empty() {
                return Finding::good("privileges", who);
            }
            let (lacking, lost): (Vec<_>, Vec<_>) = self.privileges.curtailed.iter().copied().unzip();
            return Finding::degraded(
                "privileges",
                format!("{who} without {}", lacking.join(", ")),
                format!("lost: {}", lost.join("; ")),
            );
        }
        let lacking = self.privileges.missing_capabilities.join(", ");
        Finding::missing(
            "privileges",
            format!("{who} without {lacking}"),
            "run as root, or through systemd with these as AmbientCapabilities=; until then only host metrics".into(),
        )
    }

    fn lockdown(&self) -> Finding {
        match self.lockdown {
            Lockdown::Off => Finding::good("lockdown", "off".into()),
            Lockdown::Integrity => Finding::good("lockdown", "integrity".into()),
            Lockdown::Confidentiality => Finding::missing(
                "lockdown",
                "confidentiality".into(),
                "it forbids reading kernel memory; start the kernel with lockdown=integrity".into(),
            ),
        }
    }

    fn bpf_stats(&self) -> Finding {
        let advice = "run counts and times of probes are not measured; sysctl -w kernel.bpf_stats_enabled=1";
        match self.bpf_stats {
            Some(true) => Finding::good("bpf_stats", "on".into()),
            Some(false) => Finding::degraded("bpf_stats", "off".into(), advice.into()),
            None => Finding::degraded("bpf_stats", "unknown".into(), advice.into()),
        }
    }
}

impl Finding {
    fn good(name: &'static str, found: String) -> Self {
        Self { name, verdict: Verdict::Good, found, advice: String::new() }
    }

    fn degraded(name: &'static str, found: String, advice: String) -> Self {
        Self { name, verdict: Verdict::Degraded, found, advice }
    }

    fn missing(name: &'static str, found: String, advice: String) -> Self {
        Self { name, verdict: Verdict::Missing, found, advice }
    }
}

/// Major and minor of a release such as `6.1.0-28-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> HostAbility {
        HostAbility {
            kernel_release: "6.1.0-28-amd64".into(),
            architecture: "x86_64".into(),
            machine: "2 × Example CPU, 4096 MiB".into(),
            btf: Btf::Found { path: "/sys/kernel/btf/vmlinux".into(), size_bytes: 5_000_000 },
            privileges: Privileges { uid: 0, missing_capabilities: vec![], curtailed: vec![] },
            lockdown: Lockdown::Integrity,
            bpf_stats: Some(false),
        }
    }

    fn lacking(all: Vec<&'static str>, part: Vec<(&'static str, &'static str)>) -> Privileges {
        Privileges { uid: 1000, missing_capabilities: all, curtailed: part }
    }

    #[test]
    fn a_lack_that_costs_a_part_says_which() {
        let part = vec![("CAP_SYSLOG", "names of kernel functions"), ("CAP_SYS_ADMIN", "TLS")];
        let ability = HostAbility { privileges: lacking(vec![], part), ..good() };
        let finding = ability.findings().into_iter().find(|finding| finding.name == "privileges").unwrap();
        assert_eq!((ability.probes_can_run(), finding.verdict), (true, Verdict::Degraded));
        assert_eq!(finding.found, "user 1000 without CAP_SYSLOG, CAP_SYS_ADMIN");
        assert_eq!(finding.advice, "lost: names of kernel functions; TLS");
    }

    #[test]
    fn each_lack_that_stops_all_probes_is_found_alone() {
        assert!(good().probes_can_run());
        let lacks = [
            HostAbility { kernel_release: "5.4.0".into(), ..good() },
            HostAbility { btf: Btf::Missing { path: "/x".into(), reason: "gone".into() }, ..good() },
            HostAbility { privileges: lacking(vec!["CAP_BPF"], vec![]), ..good() },
            HostAbility { lockdown: Lockdown::Confidentiality, ..good() },
        ];
        for lack in lacks {
            let missing = lack.findings().iter().filter(|finding| finding.verdict == Verdict::Missing).count();
            assert_eq!((lack.probes_can_run(), missing), (false, 1), "{lack:?}");
        }
    }

    #[test]
    fn a_release_that_cannot_be_read_does_not_forbid_to_try() {
        for release in ["", "linux", "7", "6.x"] {
            assert!(HostAbility { kernel_release: release.into(), ..good() }.probes_can_run(), "{release}");
        }
    }
}
