//! The wall split: what the time of a thread went by with. Decides what a thread waits for that leaves its CPU, and how a wait
//! is parted from the queue for a CPU behind it; does not know how either is measured.

use crate::{
    cell::kinds,
    limits::SYSCALLS,
    record::{clear, copy, record},
    syscalls,
};

kinds! {
    /// Where time went. Those up to `Unknown` are told of every thread, all of them of requests.
    pub enum WallState {
        /// On a CPU.
        OnCpu = 0,
        /// Ready to run, but others had the CPU.
        RunQueue = 1,
        /// For a disk or file system.
        Disk = 2,
        /// For a lock: futex, semaphore, file lock; of Postgres also its own.
        Lock = 3,
        /// For a socket.
        Network = 4,
        /// For any of several descriptors, or a timer: epoll and its kin.
        Poll = 5,
        /// For the time to pass.
        Sleep = 6,
        /// For something else, such as a pipe or a child.
        Other = 7,
        /// It is not known.
        Unknown = 8,
        /// Postgres: for its client.
        Client = 9,
        /// Postgres: for another of its processes.
        Ipc = 10,
        /// Postgres: for the time to pass.
        Timeout = 11,
        /// Postgres: its main loop.
        Activity = 12,
        /// Postgres: for what an extension knows.
        Extension = 13,
        /// Postgres: for a page that others use.
        BufferPin = 14,
        /// Behind earlier requests of the same connection.
        Pipeline = 15,
    }
}

/// States of a request.
pub const STATES: usize = WallState::ALL.len();
/// States of a thread.
pub const THREAD_STATES: usize = WallState::Unknown as usize + 1;

/// A thread keeps what it spent in a state until it is this much: eight milliseconds. So most switches touch nothing but the
/// thread's own state.
pub const PENDING_NS: u64 = 1 << 23;

/// Wait events of a request that are told apart.
pub const EVENTS: usize = 4;

record! {
    /// A wait.
    pub struct Away {
        /// How long it took.
        pub ns: u64,
        /// What of that its service is still to be told.
        pub told_ns: u64,
    }
}

record! {
    /// What is kept of each thread.
    pub struct ThreadWall {
        /// Up to when its time is known; 0 if it was never seen.
        pub at_ns: u64,
        /// Up to when its service was told of it: a wait that lasts is told while it does.
        pub told_ns: u64,
        /// How long the kernel says that it has been in run queues, up to when its waits are told.
        pub queued_ns: u64,
        /// The last wait, of which it is not known yet how much was spent in a run queue behind it.
        pub away: Away,
        /// The wait event of Postgres; 0 if none.
        pub event: u32,
        /// A [`WallState`]: what a request waits for while the thread is off its CPU.
        pub state: u8,
        /// 1: on a CPU.
        pub on_cpu: u8,
        /// 1: it serves a request.
        pub serves: u8,
        /// How often it is still looked whether it is a worker of Postgres.
        pub looks: u8,
        /// What its service is still to be told, in nanoseconds by [`WallState`].
        pub pending: [u32; THREAD_STATES],
        /// Spare.
        pub _pad2: u32,
    }
}

record! {
    /// What is kept of a thread that serves requests, beside [`ThreadWall`].
    pub struct RequestWall {
        /// The socket whose requests it serves; 0 for a worker of Postgres.
        pub sock: u64,
        /// Since when the figures below are counted.
        pub since_ns: u64,
        /// Where the process notes what it waits for: the address of a pointer to it; 0 if unknown.
        pub event_address: u64,
        /// Time by [`WallState`].
        pub ns: [u64; STATES],
        /// Wait events, those with the most time.
        pub events: [u32; EVENTS],
        /// Not 0: it serves several connections at a time, so nothing is known of one.
        pub shared: u32,
        /// Of a parallel worker the process that it works for, by the number that this knows itself by; else 0.
        pub leader: u32,
        /// Time in each of them.
        pub event_ns: [u64; EVENTS],
    }
}

record! {
    /// What the threads of a service spent.
    pub struct ServiceWall {
        /// Nanoseconds by [`WallState`].
        pub ns: [u64; THREAD_STATES],
    }
}

record! {
    /// What requests of one statement spent.
    pub struct StatementWall {
        /// Nanoseconds by [`WallState`].
        pub ns: [u64; STATES],
    }
}

record! {
    /// What one request spent.
    pub struct Split {
        /// Nanoseconds by [`WallState`].
        pub ns: [u64; STATES],
        /// The wait event with the most time.
        pub event_ns: u64,
        /// Which that is; 0 if none.
        pub event: u32,
        /// Spare.
        pub _pad: u32,
    }
}

/// What a thread was told by the kernel as it left its CPU.
#[derive(Clone, Copy, Debug)]
pub struct Leaving {
    /// System call that it is in.
    pub call: Option<u32>,
    /// The call's first two arguments.
    pub arguments: [u64; 2],
    /// Its state: bits of the kernel's `task_struct.__state`.
    pub task_state: u32,
    /// Whether it waits for a device, if the kernel says so.
    pub waits_for_device: Option<bool>,
}

/// Bits of `task_struct.__state` (Linux 6.18, `include/linux/sched.h`).
const UNINTERRUPTIBLE: u32 = 0x2;
const STOPPED_OR_TRACED: u32 = 0x4 | 0x8;
/// The thread has ended.
pub const DEAD: u32 = 0x80;

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// It is known.
    For(WallState),
    /// For what is behind the descriptor that is the call's first argument: [`WallState::Network`] for a socket, else
    /// [`WallState::Other`].
    ForDescriptor,
}

/// What a thread waits for, going by its system call.
#[inline(always)]
pub fn waits_for(leaving: &Leaving) -> Waits {
    let is_deep = leaving.task_state & UNINTERRUPTIBLE != 0;
    if leaving.task_state & STOPPED_OR_TRACED != 0 {
        return Waits::For(WallState::Other);
    }
    if is_deep && leaving.waits_for_device == Some(true) {
        return Waits::For(WallState::Disk);
    }
    let Some(call) = leaving.call else {
        // In a page fault. Those that wait for a device say so, where the kernel can.
        let is_disk = is_deep && leaving.waits_for_device.is_none();
        return Waits::For(if is_disk { WallState::Disk } else { WallState::Other });
    };
    let waits = match CALLS.get(call as usize) {
        Some(waits) => *waits,
        None => UNKNOWN,
    };
    let waits = if is_deep { waits >> 4 } else { waits & 0xF };
    match waits {
        DISK => Waits::For(WallState::Disk),
        LOCK => Waits::For(WallState::Lock),
        NETWORK => Waits::For(WallState::Network),
        POLL if polls_nothing(call, leaving.arguments) => Waits::For(WallState::Sleep),
        POLL => Waits::For(WallState::Poll),
        SLEEP => Waits::For(WallState::Sleep),
        UNKNOWN => Waits::For(WallState::Unknown),
        DESCRIPTOR => Waits::ForDescriptor,
        _ => Waits::For(WallState::Other),
    }
}

/// Whether a call waits for none of no descriptors: programs sleep so, PostgreSQL 15 for one (`pg_usleep`).
#[inline(always)]
fn polls_nothing(call: u32, [first, second]: [u64; 2]) -> bool {
    match call {
        // poll, ppoll
        7 | 271 => second == 0,
        // select, pselect6
        23 | 270 => first == 0,
        _ => false,
    }
}

const OTHER: u8 = 0;
const DISK: u8 = 1;
const LOCK: u8 = 2;
const NETWORK: u8 = 3;
const POLL: u8 = 4;
const SLEEP: u8 = 5;
const UNKNOWN: u8 = 6;
const DESCRIPTOR: u8 = 7;

/// What each call waits for: low four bits if signals may end the wait, high ones if not, which on files means a disk.
static CALLS: [u8; SYSCALLS] = {
    let mut calls = [OTHER; SYSCALLS];
    let rows: &[(u8, &[usize])] = &[
        // read, write, readv, writev
        (DESCRIPTOR | DISK << 4, &[0, 1, 19, 20]),
        // pread64, pwrite64, preadv, pwritev, preadv2, pwritev2
        (DISK << 4, &[17, 18, 295, 296, 327, 328]),
        // open, stat, lstat, lseek, sendfile, fsync, fdatasync, truncate, ftruncate, getdents, rename, mkdir, rmdir, creat, link,
        // unlink, symlink
        (DISK << 4, &[2, 4, 6, 8, 40, 74, 75, 76, 77, 78, 82, 83, 84, 85, 86, 87, 88]),
        // close, msync, sync, readahead, getdents64, fadvise64, openat, mkdirat, newfstatat, unlinkat, renameat, linkat,
        // splice, sync_file_range, fallocate, syncfs, renameat2, execve, execveat, copy_file_range, statx, openat2
        (
            DISK << 4,
            &[3, 26, 162, 187, 217, 221, 257, 258, 262, 263, 264, 265, 275, 277, 285, 306, 316, 59, 322, 326, 332, 437],
        ),
        // io_getevents, io_pgetevents: mostly of files
        (DISK | DISK << 4, &[208, 333]),
        // futex, semop, semtimedop, flock, fcntl, futex_waitv, futex_wait
        (LOCK, &[202, 65, 220, 73, 72, 449, 455]),
        // connect, accept, sendto, recvfrom, sendmsg, recvmsg, accept4, recvmmsg, sendmmsg
        (NETWORK, &[42, 43, 44, 45, 46, 47, 288, 299, 307]),
        // poll, select, epoll_wait, pselect6, ppoll, epoll_pwait, epoll_pwait2
        (POLL, &[7, 23, 232, 270, 271, 281, 441]),
        // pause, nanosleep, rt_sigtimedwait, rt_sigsuspend, clock_nanosleep
        (SLEEP, &[34, 35, 128, 130, 230]),
        (UNKNOWN | UNKNOWN << 4, &[syscalls::COMPAT as usize, syscalls::OTHER as usize]),
    ];
    let mut row = 0;
    while row < rows.len() {
        let (waits, numbers) = rows[row];
        let mut at = 0;
        while at < numbers.len() {
            calls[numbers[at]] = waits;
            at += 1;
        }
        row += 1;
    }
    calls
};

/// So often is a new process of a Postgres cluster looked at, as it leaves its CPU, before it is taken for none that works in the
/// background: it says so before anything else.
pub const LOOKS: u8 = 16;

/// Bytes of a background worker's name that [`leader_of`] looks at.
pub const WORKER_NAME: usize = WORKS_FOR.len() + 12;

/// PostgreSQL 10 to 18, `LaunchParallelWorkers` in `src/backend/access/transam/parallel.c`.
const WORKS_FOR: [u8; 24] = *b"parallel worker for PID ";

/// The process that a background worker of this name works for; 0 if it is no parallel worker.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "for the kernel: bounds that are constant are not checked")]
pub fn leader_of(name: &[u8; WORKER_NAME]) -> u32 {
    let (mut differs, mut leader, mut ended) = (0, 0_u32, 0);
    for at in 0..WORKS_FOR.len() {
        differs |= name[at] ^ WORKS_FOR[at];
    }
    for at in WORKS_FOR.len()..WORKER_NAME {
        let digit = name[at].wrapping_sub(b'0');
        ended |= (digit > 9) as u32;
        leader = if ended != 0 { leader } else { leader.wrapping_mul(10).wrapping_add(digit as u32) };
    }
    if differs != 0 || ended == 0 { 0 } else { leader }
}

/// What a Postgres process waits for that notes this wait event; `None` if it notes none. Classes: PostgreSQL 10 to 18,
/// `src/include/utils/wait_event.h` or `wait_classes.h`.
#[inline(always)]
pub fn of_event(event: u32) -> Option<WallState> {
    Some(match event >> 24 {
        0 => return None,
        0x01 | 0x03 => WallState::Lock,
        0x04 => WallState::BufferPin,
        0x05 => WallState::Activity,
        0x06 => WallState::Client,
        0x07 => WallState::Extension,
        0x08 => WallState::Ipc,
        0x09 => WallState::Timeout,
        0x0A => WallState::Disk,
        _ => WallState::Unknown,
    })
}

/// The same as the thread's service has it, which knows nothing of Postgres.
#[inline(always)]
pub fn of_thread(state: u8) -> u8 {
    const CLIENT: u8 = WallState::Client as u8;
    const TIMEOUT: u8 = WallState::Timeout as u8;
    const BUFFER_PIN: u8 = WallState::BufferPin as u8;
    match state {
        CLIENT => WallState::Network as u8,
        TIMEOUT => WallState::Sleep as u8,
        BUFFER_PIN => WallState::Lock as u8,
        state if state < THREAD_STATES as u8 => state,
        _ => WallState::Other as u8,
    }
}

/// What a wait of a request's thread counts as where neither its call nor its own note tell: a process of Postgres waits for
/// locks and for its client in the same call.
#[inline(always)]
pub fn of_request(state: WallState) -> WallState {
    match state {
        WallState::Poll => WallState::Unknown,
        state => state,
    }
}

/// Parts the time that a thread was away in what it waited for, and what it then spent in a run queue.
#[inline(always)]
pub fn part(away_ns: u64, queued_ns: u64) -> (u64, u64) {
    // The kernel stamps its queues by another clock, which may be off by some microseconds.
    let queue = if queued_ns < away_ns { queued_ns } else { away_ns };
    (away_ns - queue, queue)
}

impl RequestWall {
    /// Begins to count anew.
    #[inline(always)]
    pub fn begin(&mut self, now_ns: u64) {
        self.since_ns = now_ns;
        clear(&mut self.ns);
        // An event without time is none.
        clear(&mut self.event_ns);
    }

    /// The request has waited with this wait event. A new one takes the place of the one with the least time, and its time:
    /// what is told of the largest is never too little (Metwally and others, "Efficient computation of frequent and top-k
    /// elements in data streams", 2005).
    #[inline(always)]
    pub fn waited(&mut self, event: u32, ns: u64) {
        let (mut least, mut least_ns) = (0, u64::MAX);
        for at in 0..EVENTS {
            if self.events[at] == event {
                self.event_ns[at] += ns;
                return;
            }
            if self.event_ns[at] < least_ns {
                (least, least_ns) = (at, self.event_ns[at]);
            }
        }
        // Cut for the verifier; that changes no valid index.
        let least = least & (EVENTS - 1);
        self.events[least] = event;
        self.event_ns[least] += ns;
    }

    /// What a request spent that began and took so long, and has just ended. What was not counted of it was spent behind
    /// earlier ones; if more was counted than it took, nothing is known.
    #[inline(always)]
    pub fn split(&self, begun_ns: u64, duration_ns: u64, split: &mut Split) {
        let before_ns = self.since_ns.saturating_sub(begun_ns);
        let mut known_ns = before_ns;
        copy(&self.ns, &mut split.ns);
        for at in 0..STATES {
            known_ns = known_ns.wrapping_add(self.ns[at]);
        }
        split.ns[WallState::Pipeline as usize] = before_ns;
        split.event = 0;
        split.event_ns = 0;
        for at in 0..EVENTS {
            if self.event_ns[at] > split.event_ns {
                split.event = self.events[at];
                split.event_ns = self.event_ns[at];
            }
        }
        if known_ns > duration_ns || self.shared != 0 || self.since_ns == 0 {
            split.unknown(duration_ns);
        } else {
            split.ns[WallState::Unknown as usize] += duration_ns - known_ns;
        }
    }
}

impl Split {
    /// Nothing is known of so much time.
    #[inline(always)]
    pub fn unknown(&mut self, duration_ns: u64) {
        clear(self);
        self.ns[WallState::Unknown as usize] = duration_ns;
    }
}

#[cfg(test)]
mod tests;
