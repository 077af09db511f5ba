//! What is traced one by one, with names.

use steth_probes::message::TcpEvent;

use super::{Names, queries::seconds, series};
use crate::model::{
    event::{CallSeen, ExecutionSeen, TcpSeen},
    syscall::syscall_name,
    trace::{CallRecord, ExecRecord, TcpRecord},
};

/// Results below 0 and not below this are errors (`MAX_ERRNO` of the kernel's `include/linux/err.h`).
const LAST_ERROR: i64 = -4095;

impl Names {
    /// A system call; `unix_ns` is when the monotonic clock began.
    pub fn call(&self, seen: &CallSeen, unix_ns: u64) -> CallRecord<'_> {
        let error = (LAST_ERROR..0).contains(&seen.result).then(|| u32::try_from(-seen.result).unwrap_or_default());
        let syscall = syscall_name(seen.syscall);
        let thread = seen.thread.split(|byte| *byte == 0).next().unwrap_or_default();
        CallRecord {
            begun_unix_us: seen.ended_ns.saturating_sub(seen.duration_ns).saturating_add(unix_ns) / 1_000,
            duration_seconds: seconds(seen.duration_ns),
            service: self.service(seen.service).into(),
            pid: seen.pid,
            tid: seen.tid,
            thread: String::from_utf8_lossy(thread).into_owned().into(),
            result: (error.is_some() || !returns_address(&syscall)).then_some(seen.result),
            syscall,
            errno: error.map(|error| series::errno_name(error).into()),
        }
    }

    /// What happened to a TCP connection; `peer` is its other end.
    pub fn tcp<'a>(&'a self, seen: &TcpSeen, peer: &'a str, unix_ns: u64) -> TcpRecord<'a> {
        TcpRecord {
            at_unix_us: seen.at_ns.saturating_add(unix_ns) / 1_000,
            event: event_name(seen.event).into(),
            duration_seconds: takes_time(seen.event).then(|| seconds(seen.duration_ns)),
            service: if seen.service == 0 { "" } else { self.service(seen.service) }.into(),
            pid: (seen.pid != 0).then_some(seen.pid),
            peer: peer.into(),
            port: (seen.port != 0).then_some(seen.port),
            family: seen.family.map(|family| series::family(family as u8).into()),
            received_bytes: seen.received_bytes,
            sent_bytes: seen.sent_bytes,
        }
    }

    /// A process that began to run an executable.
    pub fn execution(&self, seen: &ExecutionSeen, unix_ns: u64) -> ExecRecord<'_> {
        ExecRecord {
            at_unix_us: seen.at_ns.saturating_add(unix_ns) / 1_000,
            service: self.service(seen.service).into(),
            pid: seen.pid,
            parent: seen.parent,
            uid: seen.uid,
            command: seen.command.clone(),
            is_cut: seen.is_cut,
        }
    }
}

/// Whether what a call returns is an address of its process, or a register of what a signal interrupted. The kernel keeps them from
/// others, as they tell where to aim.
fn returns_address(syscall: &str) -> bool {
    ["mmap", "mremap", "brk", "shmat", "rt_sigreturn", "compat_32bit"].contains(&syscall)
}

fn event_name(event: TcpEvent) -> &'static str {
    match event {
        TcpEvent::Connected => "connected",
        TcpEvent::Refused => "refused",
        TcpEvent::TimedOut => "timed_out",
        TcpEvent::Unreachable => "unreachable",
        TcpEvent::Aborted => "aborted",
        TcpEvent::Accepted => "accepted",
        TcpEvent::Closed => "closed",
        TcpEvent::Retransmitted => "retransmitted",
        TcpEvent::ResetSent => "reset_sent",
        TcpEvent::ResetReceived => "reset_received",
    }
}

/// Whether what happened is the end of something that took time.
fn takes_time(event: TcpEvent) -> bool {
    !matches!(event, TcpEvent::Retransmitted | TcpEvent::ResetSent | TcpEvent::ResetReceived)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_processes_are_nobodys_business_but_errors_are() {
        let call = |syscall, result| {
            let number = (0..500).find(|number| syscall_name(*number) == syscall).unwrap();
            let seen = CallSeen {
                ended_ns: 2_000,
                duration_ns: 1_000,
                result,
                syscall: number,
                service: 1,
                pid: 7,
                tid: 8,
                thread: *b"worker\0\0\0\0\0\0\0\0\0\0",
            };
            let names = Names::default();
            let record = names.call(&seen, 0);
            assert_eq!((record.begun_unix_us, &*record.thread), (1, "worker"));
            (record.result, record.errno.map(|errno| errno.into_owned()))
        };
        assert_eq!(call("mmap", 0x7F00_0000_0000), (None, None));
        assert_eq!(call("brk", 0x5500_0000_0000), (None, None));
        assert_eq!(call("mmap", -12), (Some(-12), Some("ENOMEM".into())));
        assert_eq!(call("read", 4096), (Some(4096), None));
        assert_eq!(call("lseek", -4096), (Some(-4096), None), "beyond the last error");
    }
}
