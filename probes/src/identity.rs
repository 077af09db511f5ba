//! Who did it: what tells one service from another inside the kernel, and the state that each task bears.
//! Names are given in user space; here are only keys and numbers.

use crate::{limits, record::record, wall::ThreadWall};

record! {
    /// What tells services apart in the kernel. User space turns it into a name.
    #[derive(PartialEq, Eq, Hash)]
    pub struct ServiceKey {
        /// The kernel's number of the control group: of the unified hierarchy, or of the `pids` controller where
        /// the process is in the unified root.
        pub cgroup: u64,
        /// For a Postgres server the process number of its postmaster, so that clusters are told apart; else 0.
        pub cluster_pid: u32,
        /// 1 if `cgroup` belongs to the `pids` controller of a version 1 hierarchy, 0 if to the unified one.
        pub cgroup_v1: u32,
        /// Base name of the executable, cut at 39 bytes, zero-filled.
        pub exe: [u8; limits::EXE_LEN],
    }
}

record! {
    /// What a service key leads to.
    pub struct ServiceEntry {
        /// The number that cells bear; 1 and up.
        pub service: u32,
    }
}

/// About a microsecond, and quick to divide by: durations of more than an hour fit.
pub const CALL_UNIT_NS: u64 = 1024;

record! {
    /// What the kernel programs keep for each thread, in task storage.
    pub struct TaskState {
        /// When the system call under way began, by the monotonic clock; 0 when none is timed.
        pub entered_ns: u64,
        /// Its number.
        pub syscall: u32,
        /// The service that the task belongs to, 0 for "other".
        pub service: u32,
        /// The `struct file` of the socket that the task used last.
        pub file: u64,
        /// The number of its inode, which tells whether it is still that socket.
        pub inode: u64,
        /// Its `struct sock`.
        pub sock: u64,
        /// The `SSL` of the call of OpenSSL that the task is in; 0 if in none.
        pub ssl: u64,
        /// 1: the task's calls of OpenSSL worked on memory and not on a socket.
        pub memory_bio: u32,
        /// How long the system call took that ended last, in units of [`CALL_UNIT_NS`]; 0 once it is known whether that is to be
        /// told.
        pub call_units: u32,
        /// Which sampling of waits the fields below belong to: [`crate::profile::Sampling::epoch_ns`].
        pub away_epoch_ns: u64,
        /// When the task left its CPU; 0 while it is on one.
        pub left_ns: u64,
        /// How far its waits have got in the current [`crate::profile::Sampling::interval_ns`] of them.
        pub waited_ns: u64,
        /// Where in that interval the wait is told which passes by.
        pub point_ns: u64,
        /// How it left, as `sched_switch` has it.
        pub away: u32,
        /// 1: a wait of it was told, and its stack is still to be told.
        pub follows: u32,
        /// Where its time went.
        pub wall: ThreadWall,
    }
}

record! {
    /// What the kernel programs keep for each service, in an array by service number.
    pub struct ServiceRow {
        /// Not 0: this service is left out.
        pub excluded: u32,
        /// Histogram slot of its waits in run queues; 0 is none yet.
        pub run_queue_slot: u32,
        /// Histogram slots of socket reads, writes and pick-up delays by [`crate::cell::Family`]; 0 is none yet.
        pub socket_slots: [[u32; 3]; 3],
        /// Histogram slot of each system call; 0 is none yet.
        pub syscall_slots: [u32; limits::SYSCALLS],
    }
}

/// With what the kernel keeps beside it, 72 bytes in Linux 6.18, a thread's state takes 256: one more and it would be 512.
const _: () = assert!(size_of::<TaskState>() <= 184);

impl TaskState {
    /// The state of a task of this service that has done nothing yet.
    #[inline(always)]
    pub fn new(service: u32) -> Self {
        Self { service, ..Self::zeroed() }
    }
}

/// Index into the first dimension of [`ServiceRow::socket_slots`].
pub const SLOT_READ: usize = 0;
/// As [`SLOT_READ`].
pub const SLOT_WRITE: usize = 1;
/// As [`SLOT_READ`].
pub const SLOT_PICKUP: usize = 2;

/// SIGHUP: whoever handles it reads its configuration again, by custom.
pub const HANGUP: u32 = 1;

/// Whether a process that ends by this signal has not been asked to: it crashed, or was killed. Numbers as on x86-64: SIGILL,
/// SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGSEGV, SIGXCPU, SIGXFSZ, SIGSYS.
#[inline(always)]
pub const fn is_crash(signal: u32) -> bool {
    const CRASHES: u32 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 24 | 1 << 25 | 1 << 31;
    CRASHES >> (signal & 31) & 1 != 0 && signal < 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_to_end_does_not_crash() {
        let crashes = (0..100).filter(|signal| is_crash(*signal));
        assert!(crashes.eq([4, 5, 6, 7, 8, 9, 11, 24, 25, 31]));
    }
}
