//! Names of system calls.

use std::borrow::Cow;

use steth_probes::syscalls;

/// Calls through the 32-bit entry.
const COMPAT_NAME: &str = "compat_32bit";
/// Calls with numbers beyond those that are told apart.
const OTHER_NAME: &str = "other";

/// Whether system calls are shown under this name.
pub fn is_syscall(name: &str) -> bool {
    name.parse::<::syscalls::Sysno>().is_ok() || [COMPAT_NAME, OTHER_NAME].contains(&name)
}

/// The name of a system call by the number that the kernel programs have for it.
pub fn syscall_name(number: u32) -> Cow<'static, str> {
    match number {
        syscalls::COMPAT => COMPAT_NAME.into(),
        syscalls::OTHER => OTHER_NAME.into(),
        _ => match ::syscalls::Sysno::new(number as usize) {
            Some(call) => call.name().into(),
            None => format!("syscall_{number}").into(),
        },
    }
}
