//! What the integration tests share: a running agent, a PostgreSQL and a Prometheus of their own, programs whose
//! doings are known. Knows the agent only by its command line and its HTTP endpoint.
//!
//! Everything started here dies with the test, passed, failed or killed, and uses its own directories, ports,
//! names and lock, so that any number of tests run at once.

#[macro_use]
mod skip;
pub mod slow;
pub mod soak;

pub mod agent;
pub mod alertmanager;
pub mod browser;
pub mod cgroup;
pub mod confined;
pub mod drivers;
pub mod exposition;
pub mod flame;
pub mod http;
pub mod incidents;
pub mod machine;
pub mod network;
pub mod observed;
pub mod pgbench;
pub mod pgbouncer;
pub mod pgwire;
pub mod postgres;
pub mod process;
pub mod profiles;
pub mod programs;
pub mod prometheus;
pub mod receiver;
pub mod sink;
pub mod stage;
pub mod strace;
pub mod tokens;
pub mod trace;
pub mod trixie;
pub mod truth;
pub mod wait;
pub mod workload;

pub use skip::{bpf_missing, program_missing, report, root_missing};

/// A name that no other test on this machine uses at the same time, of at most 15 characters: what the kernel
/// keeps of an executable's name, so a service can bear it in full. `stem` of at most 4 characters.
pub fn unique_name(stem: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // A process id has at most 22 bits (Linux, include/linux/threads.h), six hexadecimal digits.
    let name = format!("{stem}-{:x}-{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    assert!(name.len() <= 15, "the stem of {name} is too long");
    name
}
