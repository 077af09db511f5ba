//! What is open: a pass over all open files of all processes. The first finds the services and sockets that were there
//! before the agent, later ones mark the sockets that are still there: of most the kernel does not tell the end.

use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_sock_from_file};

use crate::{
    cells::{Numbers, last_number},
    identity,
    kernel::{Known, offset},
    socket::{self, Origin},
};

/// `struct bpf_iter__task_file` of the kernel's `kernel/bpf/task_iter.c`.
#[repr(C)]
pub struct TaskFile {
    meta: u64,
    task: *const u8,
    descriptor: u64,
    file: *const u8,
}

/// Runs once for each open file of each process in each pass (Linux 5.8).
#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
pub extern "C" fn seed(ctx: *const TaskFile) -> i32 {
    try_seed(ctx);
    0
}

#[inline(always)]
fn try_seed(ctx: *const TaskFile) -> Option<()> {
    // SAFETY: the kernel hands over this context; both pointers may be null.
    let (task, file) = unsafe { ((*ctx).task, (*ctx).file) };
    if task.is_null() || file.is_null() {
        return None;
    }
    // Whether it has sockets or not: a service must be met before it can be left out.
    let service = identity::stamp(Known(task))?.service;
    // SAFETY: the verifier checks that this is a file.
    let socket: *const u8 = unsafe { bpf_sock_from_file(file.cast_mut().cast()) }.cast_const().cast();
    if socket.is_null() {
        return None;
    }
    let sock = Known(socket).follow(offset!(socket_sock))?.address();
    let inode: u64 = Known(file).follow(offset!(file_inode))?.load(offset!(inode_number));
    let pass = last_number(Numbers::Pass);
    if let Some(connection) = socket::known(sock) {
        if connection.inode == 0 || connection.inode == inode {
            connection.pass = pass;
        }
        return None;
    }
    if pass != 0 {
        // Its first use is early enough, and on a host with more sockets than there is room for they would take turns.
        return None;
    }
    // SAFETY: a helper without arguments.
    socket::create(sock, inode, service, unsafe { bpf_ktime_get_ns() }, Origin::Met)?;
    None
}
