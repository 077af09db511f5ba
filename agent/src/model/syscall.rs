//! Names of system calls.

use std::borrow::Cow;

use steth_probes::syscalls;

/// Whether a system call has this name.
pub fn is_syscall(name: &str) -> bool {
    name.parse::<::syscalls::Sysno>().is_ok()
}

/// The name of a system call by the number that the kernel programs have for it.
pub fn syscall_name(number: u32) -> Cow<'static, str> {
    match number {
        syscalls::COMPAT => "compat_32bit".into(),
        syscalls::OTHER => "other".into(),
        _ => match ::syscalls::Sysno::new(number as usize) {
            Some(call) => call.name().into(),
            None => format!("syscall_{number}").into(),
        },
    }
}
