//! Runs a program under `strace -c` and reads its table: the truth that syscall figures are held against. Knows
//! strace's table, not which syscalls there are.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, Result};

use crate::process::{self, Process};

/// What strace counted of one syscall, over all threads and children.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counted {
    /// Calls that returned.
    pub calls: u64,
    /// Of those, the ones that failed.
    pub errors: u64,
    /// Wall time spent in them, in seconds, with strace's own work included.
    pub seconds: f64,
}

/// A program's output and strace's table of it.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What the program said.
    pub said: String,
    /// By the name of the syscall.
    pub syscalls: BTreeMap<String, Counted>,
}

/// Runs a program to its successful end under strace.
///
/// # Errors
/// If strace or the program fails, or strace's table cannot be read.
pub fn run(program: &Path, arguments: &[&str]) -> Result<Trace> {
    let folder = tempfile::Builder::new().prefix("steth-strace-").tempdir()?;
    let table = folder.path().join("table");
    let mut strace = process::command("strace", None);
    // -w: wall time; without it strace counts only CPU time spent in the kernel.
    strace.args(["-c", "-w", "-f", "-U", "name,calls,errors,total-time", "-o"]).arg(&table).arg(program);
    strace.args(arguments);
    let said = Process::start("strace", strace)?.finish(Duration::from_secs(120))?;
    Ok(Trace { said, syscalls: parse(&std::fs::read_to_string(table)?)? })
}

/// Reads lines of name, calls, errors if any, seconds; between two lines of dashes.
fn parse(table: &str) -> Result<BTreeMap<String, Counted>> {
    let lines = table.lines().skip_while(|line| !line.starts_with('-')).skip(1);
    let row = |line: &str| -> Result<(String, Counted)> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (name, calls, errors, seconds) = match fields[..] {
            [name, calls, seconds] => (name, calls, "0", seconds),
            [name, calls, errors, seconds] => (name, calls, errors, seconds),
            _ => anyhow::bail!("{} fields", fields.len()),
        };
        let counted = Counted { calls: calls.parse()?, errors: errors.parse()?, seconds: seconds.parse()? };
        Ok((name.to_owned(), counted))
    };
    lines
        .take_while(|line| !line.starts_with('-'))
        .map(|line| row(line).with_context(|| format!("not a row of strace's table: {line}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::{Program, SYSCALL_MIX, said_number};

    #[test]
    fn the_table_is_read() {
        let table = "syscall              calls    errors     seconds\n\
                     ---------------- --------- --------- -----------\n\
                     execve                   1              0.000189\n\
                     close                    3         1    0.000016\n\
                     ---------------- --------- --------- -----------\n\
                     total                    4         1    0.000205\n";
        let syscalls = parse(table).unwrap();
        assert_eq!(syscalls.len(), 2);
        assert_eq!(syscalls["execve"], Counted { calls: 1, errors: 0, seconds: 0.000189 });
        assert_eq!(syscalls["close"], Counted { calls: 3, errors: 1, seconds: 0.000016 });
        parse("---\nclose one 0.1\n").unwrap_err();
    }

    #[test]
    fn a_known_mix_is_counted_as_known() {
        need_program!("gcc", "strace");
        let program = Program::build("mix", SYSCALL_MIX).unwrap();
        let trace = run(&program.path, &["101", "50", "7", "3", "5"]).unwrap();
        let calls = |name: &str| trace.syscalls.get(name).copied().unwrap_or_default();
        assert_eq!(calls("getppid").calls, 101);
        assert_eq!(calls("nanosleep").calls, 3);
        assert_eq!(calls("openat").errors, 7);
        assert_eq!(calls("close").errors, 5);
        // A static program without input reads and writes nothing else but its last words.
        assert_eq!((calls("read").calls, calls("write").calls), (50, 51));
        // The program measures around the syscall, strace inside of its own stops, which are inside of that.
        let sleep_seconds = said_number(&trace.said, "sleep_ns").unwrap() as f64 / 1e9;
        assert!((0.003..=sleep_seconds).contains(&calls("nanosleep").seconds), "{trace:?}");
        // The clock must not be a syscall, or it would be counted too.
        assert!(!trace.syscalls.contains_key("clock_gettime"), "{trace:?}");
    }
}
