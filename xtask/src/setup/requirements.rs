//! What building and testing steth need, why, how it is recognised and where it comes from. A row is all that a new
//! need takes.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::bpf_linker;
use crate::{
    bpf_toolchain::{Compiler, find_linker},
    workspace,
};

/// One thing that must be on this machine.
pub struct Requirement {
    pub name: &'static str,
    pub why: &'static str,
    pub purpose: Purpose,
    pub source: Source,
    /// Looks for the thing itself, not for the package that it came in.
    pub is_there: fn() -> bool,
}

/// What a requirement is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Building and running the agent.
    Build,
    /// Building bpf-linker; needed only where that is missing.
    BpfLinker,
    /// Testing and measuring.
    Test,
    /// Others to compare with where they are to be had.
    Compare,
    /// Booting other kernels.
    Machine,
}

/// Where a requirement comes from.
pub enum Source {
    /// These packages of Debian 12.
    Debian(&'static [&'static str]),
    /// This component of the active rustup toolchain.
    Rustup(&'static str),
    /// `cargo install`.
    BpfLinker,
}

/// In the order of installation.
pub const REQUIREMENTS: &[Requirement] = &[
    Requirement {
        name: "C compiler",
        why: "links Rust programs, builds test programs",
        purpose: Purpose::Build,
        source: Source::Debian(&["gcc", "libc6-dev"]),
        is_there: || command("cc") && Path::new("/usr/include/stdio.h").exists(),
    },
    Requirement {
        name: "make",
        why: "builds the heap that the agent allocates from (jemalloc)",
        purpose: Purpose::Build,
        source: Source::Debian(&["make"]),
        is_there: || command("make"),
    },
    Requirement {
        name: "compiler for BPF",
        why: "builds the kernel programs",
        purpose: Purpose::Build,
        source: Source::Debian(&["rustc-web", "libstd-rust-web-dev-bpf"]),
        is_there: || Compiler::find().is_ok(),
    },
    Requirement {
        name: "LLVM 22",
        why: "bpf-linker is built with it",
        purpose: Purpose::BpfLinker,
        source: Source::Debian(&["llvm-22-dev"]),
        is_there: || find_linker().is_some() && bpf_linker::is_there() || command("llvm-config-22"),
    },
    Requirement {
        name: "bpf-linker",
        why: "links the kernel programs and writes their BTF",
        purpose: Purpose::Build,
        source: Source::BpfLinker,
        is_there: bpf_linker::is_there,
    },
    Requirement {
        name: "rustfmt",
        why: "checks the format",
        purpose: Purpose::Test,
        source: Source::Rustup("rustfmt"),
        is_there: || cargo_has("fmt"),
    },
    Requirement {
        name: "clippy",
        why: "lints",
        purpose: Purpose::Test,
        source: Source::Rustup("clippy"),
        is_there: || cargo_has("clippy"),
    },
    Requirement {
        name: "C++ compiler",
        why: "builds test programs that throw",
        purpose: Purpose::Test,
        source: Source::Debian(&["g++"]),
        is_there: || command("g++"),
    },
    Requirement {
        name: "PostgreSQL 15",
        why: "test servers, pgbench, pg_stat_statements",
        purpose: Purpose::Test,
        source: Source::Debian(&["postgresql-15"]),
        is_there: || {
            let bin = Path::new("/usr/lib/postgresql/15/bin");
            let statements = Path::new("/usr/share/postgresql/15/extension/pg_stat_statements.control");
            ["initdb", "postgres", "pgbench", "psql"].iter().all(|program| bin.join(program).exists())
                && statements.exists()
        },
    },
    Requirement {
        name: "PgBouncer",
        why: "queries through a pooler",
        purpose: Purpose::Test,
        source: Source::Debian(&["pgbouncer"]),
        is_there: || command("pgbouncer"),
    },
    Requirement {
        name: "OpenSSL",
        why: "certificates, TLS that is not Postgres, test programs that call it",
        purpose: Purpose::Test,
        source: Source::Debian(&["openssl", "libssl-dev"]),
        is_there: || command("openssl") && Path::new("/usr/include/openssl/ssl.h").exists(),
    },
    Requirement {
        name: "strace",
        why: "syscall counts to compare with",
        purpose: Purpose::Test,
        source: Source::Debian(&["strace"]),
        is_there: || command("strace"),
    },
    Requirement {
        name: "Prometheus",
        why: "scrapes and checks the exposition (promtool)",
        purpose: Purpose::Test,
        source: Source::Debian(&["prometheus"]),
        is_there: || command("prometheus") && command("promtool"),
    },
    Requirement {
        name: "Alertmanager",
        why: "takes alerts and tells what it makes of them",
        purpose: Purpose::Test,
        source: Source::Debian(&["prometheus-alertmanager"]),
        is_there: || command("prometheus-alertmanager"),
    },
    Requirement {
        name: "libfaketime",
        why: "sets the clock of one agent",
        purpose: Purpose::Test,
        source: Source::Debian(&["faketime"]),
        is_there: || command("faketime"),
    },
    Requirement {
        name: "Go",
        why: "reads profiles (go tool pprof), TLS that is not OpenSSL's",
        purpose: Purpose::Test,
        source: Source::Debian(&["golang-go"]),
        is_there: || command("go"),
    },
    Requirement {
        name: "node_exporter",
        why: "host metrics to compare with",
        purpose: Purpose::Test,
        source: Source::Debian(&["prometheus-node-exporter"]),
        is_there: || command("prometheus-node-exporter"),
    },
    Requirement {
        name: "iproute2",
        why: "network namespaces, socket listings (ip, ss, tc)",
        purpose: Purpose::Test,
        source: Source::Debian(&["iproute2"]),
        is_there: || command("ip") && command("ss") && command("tc"),
    },
    Requirement {
        name: "bpftool",
        why: "shows what is loaded and attached",
        purpose: Purpose::Test,
        source: Source::Debian(&["bpftool"]),
        is_there: || command("bpftool"),
    },
    Requirement {
        name: "curl",
        why: "HTTP requests as users make them",
        purpose: Purpose::Test,
        source: Source::Debian(&["curl"]),
        is_there: || command("curl"),
    },
    Requirement {
        name: "Python 3",
        why: "test clients and servers",
        purpose: Purpose::Test,
        source: Source::Debian(&["python3"]),
        is_there: || command("python3"),
    },
    Requirement {
        name: "Python's venv",
        why: "installs the Postgres drivers of Python",
        purpose: Purpose::Test,
        source: Source::Debian(&["python3-venv"]),
        is_there: || workspace::output_of(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_some(),
    },
    Requirement {
        name: "Node.js",
        why: "runs and installs the Postgres drivers of JavaScript",
        purpose: Purpose::Test,
        source: Source::Debian(&["nodejs", "npm"]),
        is_there: || command("node") && command("npm"),
    },
    Requirement {
        name: "Java and its Postgres driver",
        why: "compiles and runs a program that uses JDBC",
        purpose: Purpose::Test,
        source: Source::Debian(&["default-jdk-headless", "libpostgresql-jdbc-java"]),
        is_there: || command("java") && command("javac") && Path::new("/usr/share/java/postgresql.jar").exists(),
    },
    Requirement {
        name: "Chromium",
        why: "opens the viewer of flame graphs as people do",
        purpose: Purpose::Test,
        source: Source::Debian(&["chromium"]),
        is_there: || command("chromium"),
    },
    Requirement {
        name: "perf",
        why: "takes profiles to compare with",
        purpose: Purpose::Compare,
        source: Source::Debian(&["linux-perf"]),
        is_there: || command("perf"),
    },
    Requirement {
        name: "BCC's tools",
        why: "take profiles to compare with",
        purpose: Purpose::Compare,
        source: Source::Debian(&["bpfcc-tools"]),
        is_there: || command("profile-bpfcc"),
    },
    Requirement {
        name: "BCC's tools, compiled",
        why: "watch system calls, switches and connections to compare with",
        purpose: Purpose::Compare,
        source: Source::Debian(&["libbpf-tools"]),
        is_there: || command("syscount"),
    },
    Requirement {
        name: "QEMU",
        why: "boots other kernels, emulated",
        purpose: Purpose::Machine,
        source: Source::Debian(&["qemu-system-x86"]),
        is_there: || command("qemu-system-x86_64"),
    },
    Requirement {
        name: "mmdebstrap",
        why: "makes the root file system of those machines",
        purpose: Purpose::Machine,
        source: Source::Debian(&["mmdebstrap"]),
        is_there: || command("mmdebstrap"),
    },
    Requirement {
        name: "e2fsprogs",
        why: "puts it into an image",
        purpose: Purpose::Machine,
        source: Source::Debian(&["e2fsprogs"]),
        is_there: || command("mke2fs"),
    },
    Requirement {
        name: "busybox",
        why: "starts those machines",
        purpose: Purpose::Machine,
        source: Source::Debian(&["busybox-static"]),
        is_there: || Path::new("/bin/busybox").exists(),
    },
    Requirement {
        name: "cpio",
        why: "packs what they start with",
        purpose: Purpose::Machine,
        source: Source::Debian(&["cpio"]),
        is_there: || command("cpio"),
    },
    Requirement {
        name: "xz",
        why: "unpacks their drivers",
        purpose: Purpose::Machine,
        source: Source::Debian(&["xz-utils"]),
        is_there: || command("xz"),
    },
];

impl Source {
    /// The Debian packages, if it is these.
    pub fn packages(&self) -> &'static [&'static str] {
        match self {
            Self::Debian(packages) => packages,
            Self::Rustup(_) | Self::BpfLinker => &[],
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian(packages) => write!(f, "apt-get: {}", packages.join(" ")),
            Self::Rustup(component) => write!(f, "rustup component add {component}"),
            Self::BpfLinker => write!(f, "cargo install, about a minute"),
        }
    }
}

/// Whether a program of this name can be called; root's directories count, as not every shell has them in `PATH`.
pub fn command(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).any(|dir| fs::metadata(dir.join(name)).is_ok_and(|file| file.is_file()))
}

fn cargo_has(subcommand: &str) -> bool {
    workspace::output_of(workspace::cargo().args([subcommand, "--version"])).is_some()
}
