//! What `/proc/PID/status` says of a process beyond its other files, and what an error says of it: that it has ended. Does
//! not know whose process it is.

use std::{fs, io, path::Path};

use procfs::{ProcError, ProcResult, process::Process};

use super::files::read_all;

/// The lines of `/proc/PID/status` that are in no other file, or, like the resident memory, only nearly right: `stat` and
/// `statm` leave out what each CPU has not yet reported (Linux 6.2, `get_mm_counter_sum` in fs/proc/task_mmu.c).
///
/// By hand: procfs makes a map of all sixty lines, and refuses the file when the process has given itself a name
/// that is not UTF-8.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) resident_bytes: u64,
    pub(super) swapped_bytes: u64,
    pub(super) voluntary_switches: u64,
    pub(super) nonvoluntary_switches: u64,
}

/// The number that a process knows itself by: that in the innermost of its namespaces. `None` if it has ended.
pub fn own_number(proc: &Path, pid: u32) -> Option<u32> {
    let text = fs::read(proc.join(pid.to_string()).join("status")).ok()?;
    let numbers = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"NSpid:"))?;
    str::from_utf8(numbers).ok()?.split_whitespace().next_back()?.parse().ok()
}

impl Status {
    pub(super) fn read(process: &Process, buffer: &mut Vec<u8>) -> ProcResult<Self> {
        let length = read_all(process.open_relative("status")?, buffer)?;
        Ok(Self::parse(buffer.get(..length).unwrap_or_default()))
    }

    fn parse(text: &[u8]) -> Self {
        let mut status = Self::default();
        for line in text.split(|byte| *byte == b'\n') {
            if let Some(rest) = line.strip_prefix(b"VmSwap:") {
                status.swapped_bytes = number(rest) * 1024;
            } else if let Some(rest) = line.strip_prefix(b"VmRSS:") {
                status.resident_bytes = number(rest) * 1024;
            } else if let Some(rest) = line.strip_prefix(b"voluntary_ctxt_switches:") {
                status.voluntary_switches = number(rest);
            } else if let Some(rest) = line.strip_prefix(b"nonvoluntary_ctxt_switches:") {
                status.nonvoluntary_switches = number(rest);
            }
        }
        status
    }
}

fn number(text: &[u8]) -> u64 {
    text.iter()
        .skip_while(|byte| !byte.is_ascii_digit())
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |number, digit| number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
}

/// Whether an error says no more than that the process has ended: its folder is gone (ENOENT), or was open and
/// has nobody behind it any more (ESRCH).
pub(super) fn has_ended(error: &ProcError) -> bool {
    match error {
        ProcError::NotFound(_) => true,
        ProcError::Io(error, _) => {
            error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself_by_its_number_and_one_that_is_not_there_by_none() {
        assert_eq!(own_number(Path::new("/proc"), std::process::id()), Some(std::process::id()));
        assert_eq!(own_number(Path::new("/proc"), u32::MAX), None);
    }

    #[test]
    fn a_status_is_read_whatever_the_process_calls_itself() {
        let text = b"Name:\todd\xff\xfe\nVmRSS:\t     100 kB\nVmSwap:\t      12 kB\nvoluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n";
        let expected = Status {
            resident_bytes: 102_400,
            swapped_bytes: 12288,
            voluntary_switches: 150,
            nonvoluntary_switches: 545,
        };
        assert_eq!(Status::parse(text), expected);
        for length in 0..text.len() {
            Status::parse(&text[..length]);
        }
    }
}
