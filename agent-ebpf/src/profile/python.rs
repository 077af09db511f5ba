//! The frames of Python that stand in a stack, of processes that user space found an interpreter in.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use steth_probes::{
    profile::FRAMES,
    python::{DEPTH, FrameWord, Memory, Process, Search, Searched, THREADS, Walk},
};

use super::Space;
use crate::{
    kernel::{Known, offset, read_user},
    maps::PYTHONS,
};

/// Bytes of a `struct upid` (Linux 6.1, `include/linux/pid.h`).
const NUMBER_BYTES: u32 = 16;
/// Namespaces may lie this deep in each other: `MAX_PID_NS_LEVEL`.
const MOST_LEVELS: u32 = 32;

/// Work space of a walk.
#[repr(C)]
pub struct Python {
    process: Process,
    search: Search,
    walk: Walk,
    /// The state of the thread; 0 until it is found.
    thread: u64,
    /// The thread, as its process numbers it.
    tid: u64,
}

/// The memory of the process that runs now.
struct Own;

impl Memory for Own {
    #[inline(always)]
    fn word(&mut self, address: u64) -> Option<u64> {
        read_user(address)
    }
}

/// Puts the frames of the thread that runs now behind those that are there, if it runs Python.
#[inline(always)]
pub fn walk(space: *mut Space, task: Known) -> Option<()> {
    let process = PYTHONS.get_ptr(&task.load::<u32>(offset!(task_tgid)))?;
    // SAFETY: a map value of this CPU.
    let python = unsafe { &mut (*space).python };
    // SAFETY: a map value; one that is being replaced leads nowhere at worst.
    python.process = unsafe { *process };
    python.tid = inner_tid(task)? as u64;
    python.thread = 0;
    python.search = Search::new(&mut Own, &python.process.layout, python.process.runtime)?;
    let mut context = space;
    // SAFETY: the callback gets a pointer to `context`, which outlives the loop.
    unsafe { bpf_loop(THREADS, look as *mut c_void, (&raw mut context).cast(), 0) };
    if python.thread == 0 {
        return None;
    }
    python.walk = Walk::new(&mut Own, &python.process.layout, python.thread)?;
    // SAFETY: as above.
    unsafe { bpf_loop(DEPTH, step as *mut c_void, (&raw mut context).cast(), 0) };
    None
}

/// The thread's number in its own PID namespace.
#[inline(always)]
fn inner_tid(task: Known) -> Option<u32> {
    let pid = task.address().follow(offset!(task_thread_pid))?;
    let level = pid.read::<u32>(offset!(pid_level))?;
    if level > MOST_LEVELS {
        return None;
    }
    pid.read(offset!(pid_numbers) + level * NUMBER_BYTES)
}

/// One thread that may be the one; the loop ends when it returns 1.
extern "C" fn look(_index: u64, context: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` passes on what `walk` gave it.
    let space = unsafe { *context.cast::<*mut Space>() };
    // SAFETY: a map value.
    let python = unsafe { &mut (*space).python };
    match python.search.step(&mut Own, &python.process.layout, python.tid as u32) {
        Searched::GoOn => 0,
        Searched::Nowhere => 1,
        Searched::Found(thread) => {
            python.thread = thread;
            1
        }
    }
}

/// One frame; likewise.
extern "C" fn step(_index: u64, context: *mut c_void) -> i64 {
    // SAFETY: as in `look`.
    let space = unsafe { *context.cast::<*mut Space>() };
    // SAFETY: a map value.
    let (python, record) = unsafe { (&mut (*space).python, &mut (*space).record) };
    let Some(frame) = python.walk.step(&mut Own, &python.process.layout) else { return 1 };
    let head = &mut record.head;
    let at = head.kernel_frames as usize + head.user_frames as usize + head.python_frames as usize;
    if at < FRAMES {
        record.frames[at] = FrameWord::of(frame).0;
        head.python_frames += 1;
    }
    0
}
