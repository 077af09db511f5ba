//! How often the kernel left a program out. aya does not pass that count on.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use super::tables::bpf;

/// Command of bpf(2): `enum bpf_cmd` in `linux/bpf.h`.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

/// `union bpf_attr` for that command.
#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The first words of `struct bpf_prog_info`; the kernel writes no more than it is given room for.
type ProgramInfo = [u64; 27];
/// `recursion_misses`, the last of them (Linux 5.12).
const RECURSION_MISSES: usize = 26;

/// How often the program was to run and did not, because it was running on that CPU already.
///
/// # Errors
/// If the kernel does not describe the program.
pub fn runs_missed(program: BorrowedFd) -> io::Result<u64> {
    let mut info: ProgramInfo = [0; 27];
    let mut attr = InfoAttr {
        bpf_fd: program.as_raw_fd() as u32,
        info_len: size_of::<ProgramInfo>() as u32,
        info: info.as_mut_ptr() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info[RECURSION_MISSES])
}
