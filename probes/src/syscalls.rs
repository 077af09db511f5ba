//! System calls of x86-64: which of them wait by nature, which move bytes through a descriptor, and where a 32-bit
//! call is filed. Numbers are those of Linux' `arch/x86/entry/syscalls/syscall_64.tbl`.

use crate::limits::SYSCALLS;

/// The slot for calls through the 32-bit entry, whose numbers mean other calls.
pub const COMPAT: u32 = SYSCALLS as u32 - 1;
/// The slot for numbers that are out of range.
pub const OTHER: u32 = SYSCALLS as u32 - 2;

/// `read(2)`
pub const READ: u32 = 0;
/// `write(2)`
pub const WRITE: u32 = 1;
/// `mmap(2)`
pub const MMAP: u32 = 9;
/// `readv(2)`
pub const READV: u32 = 19;
/// `writev(2)`
pub const WRITEV: u32 = 20;
/// `accept(2)`
pub const ACCEPT: u32 = 43;
/// `sendto(2)`
pub const SENDTO: u32 = 44;
/// `recvfrom(2)`
pub const RECVFROM: u32 = 45;
/// `sendmsg(2)`
pub const SENDMSG: u32 = 46;
/// `recvmsg(2)`
pub const RECVMSG: u32 = 47;
/// `accept4(2)`
pub const ACCEPT4: u32 = 288;
/// `preadv2(2)`, which on a socket takes an offset of -1
pub const PREADV2: u32 = 327;
/// `pwritev2(2)`
pub const PWRITEV2: u32 = 328;

/// What a call does with the socket behind its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketCall {
    /// Reads into one buffer: second argument, third its length.
    Read,
    /// Writes from one buffer.
    Write,
    /// Reads into an array of buffers.
    ReadVector,
    /// Writes from an array of buffers.
    WriteVector,
    /// Reads into the buffers of a `msghdr`.
    ReadMessage,
    /// Writes from the buffers of a `msghdr`.
    WriteMessage,
    /// Returns a new socket.
    Accept,
}

impl SocketCall {
    /// What the call with this number does, if it is one of these.
    #[inline(always)]
    pub fn of(syscall: u32) -> Option<Self> {
        Some(match syscall {
            READ | RECVFROM => Self::Read,
            WRITE | SENDTO => Self::Write,
            READV | PREADV2 => Self::ReadVector,
            WRITEV | PWRITEV2 => Self::WriteVector,
            RECVMSG => Self::ReadMessage,
            SENDMSG => Self::WriteMessage,
            ACCEPT | ACCEPT4 => Self::Accept,
            _ => return None,
        })
    }

    /// Whether bytes come in.
    #[inline(always)]
    pub fn is_read(self) -> bool {
        matches!(self, Self::Read | Self::ReadVector | Self::ReadMessage)
    }
}

/// Whether a call waits by its nature, for as long as nobody has anything to say: its time is not the kernel's.
pub fn is_wait(syscall: u32) -> bool {
    matches!(
        syscall,
        7 // poll
        | 23 // select
        | 34 // pause
        | 35 // nanosleep
        | 43 // accept
        | 61 // wait4
        | 73 // flock
        | 128 // rt_sigtimedwait
        | 130 // rt_sigsuspend
        | 202 // futex
        | 208 // io_getevents
        | 219 // restart_syscall
        | 220 // semtimedop
        | 65 // semop
        | 70 // msgrcv
        | 230 // clock_nanosleep
        | 232 // epoll_wait
        | 243 // mq_timedreceive
        | 247 // waitid
        | 270 // pselect6
        | 271 // ppoll
        | 281 // epoll_pwait
        | 288 // accept4
        | 333 // io_pgetevents
        | 426 // io_uring_enter
        | 441 // epoll_pwait2
        | 449 // futex_waitv
        | 455 // futex_wait
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_slots_are_no_real_calls() {
        assert!(SocketCall::of(COMPAT).is_none() && SocketCall::of(OTHER).is_none());
        assert!(!is_wait(COMPAT) && !is_wait(OTHER));
    }
}
