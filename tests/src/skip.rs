//! How a test says that it cannot run here. Knows what a test may need, not what it tests.
//!
//! Skips are written straight to standard error, past the capture of the test runner, so that they are seen, and once
//! more into it, so that they are counted: `skipped: <test>: <what is missing>`.

use std::{io::Write, path::Path};

/// Says why and returns from the test.
#[macro_export]
macro_rules! skipped {
    ($($why:tt)+) => {{
        $crate::report(&format!($($why)+));
        return;
    }};
}

/// Skips the test unless it runs as root.
#[macro_export]
macro_rules! need_root {
    () => {
        if let Some(why) = $crate::root_missing() {
            $crate::skipped!("{why}");
        }
    };
}

/// Skips the test unless these programs are on the path.
#[macro_export]
macro_rules! need_program {
    ($($program:expr),+ $(,)?) => {
        $(if let Some(why) = $crate::program_missing($program) {
            $crate::skipped!("{why}");
        })+
    };
}

/// Skips the test unless kernel programs with BTF can be loaded (root and the kernel's own BTF), and what it starts
/// can be services of their own.
#[macro_export]
macro_rules! need_bpf {
    () => {
        if let Some(why) = $crate::bpf_missing() {
            $crate::skipped!("{why}");
        }
    };
}

/// Skips the test unless kernel programs can be loaded and a PostgreSQL server is installed.
#[macro_export]
macro_rules! need_postgres {
    () => {
        $crate::need_bpf!();
        if let Some(why) = $crate::postgres::Postgres::missing() {
            $crate::skipped!("{why}");
        }
    };
}

/// Writes the line about a skipped test.
pub fn report(why: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {why}\n", thread.name().unwrap_or("test"));
    // Nobody is left to tell when standard error is closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
    // The runner keeps this and hands it over on standard output, where `cargo xtask test` counts it.
    print!("{line}");
}

/// Why this process may not do what root may.
pub fn root_missing() -> Option<String> {
    let effective = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.to_owned();
        uids.split_whitespace().nth(1)?.parse::<u32>().ok()
    });
    (effective != Some(0)).then(|| "needs root".to_owned())
}

/// Why this program cannot be run.
pub fn program_missing(program: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    (!found).then(|| format!("needs the program {program}"))
}

/// Why kernel programs cannot be loaded, or what this process starts cannot be told apart by name.
pub fn bpf_missing() -> Option<String> {
    if let Some(why) = root_missing() {
        return Some(why);
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("needs a kernel with BTF (CONFIG_DEBUG_INFO_BTF)".to_owned());
    }
    let left = crate::cgroup::leave_unit(std::process::id());
    left.err().map(|error| format!("needs to leave its unit or container: {error:#}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_there_is_not_missing() {
        assert_eq!(super::program_missing("sh"), None);
        assert_eq!(super::program_missing("no-such-program").as_deref(), Some("needs the program no-such-program"));
    }

    #[test]
    fn a_skipped_test_ends_at_the_macro() {
        fn test(reached: &mut bool) {
            need_program!("sh");
            *reached = true;
            if std::hint::black_box(false) {
                skipped!("never");
            }
        }
        let mut reached = false;
        test(&mut reached);
        assert!(reached);
    }
}
