//! Taking a sample: the work space that it is put together in, what is said of the thread, and the walk.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_RB_NO_WAKEUP,
    helpers::generated::{bpf_ktime_get_ns, bpf_loop, bpf_ringbuf_output, bpf_task_pt_regs},
};
use steth_probes::{
    cell::Loss,
    identity::TaskState,
    message::Header,
    profile::{FRAMES, KERNEL_FRAMES, NO_CALL, Sample, SampleKind, is_overdrawn, pay},
    record::clear,
    unwind::{DEPTH, FrameWord, Outcome, Stop, Walk},
};

use super::{python::Python, world::World};
use crate::{
    cells::lost,
    kernel::{Known, offset, setting},
    maps::{PROFILE_SPACES, SAMPLES, WIRES},
};

/// Saved user registers: see `syscalls::regs`.
mod regs {
    pub const BP: u32 = 32;
    pub const ORIG_AX: u32 = 120;
    pub const IP: u32 = 128;
    pub const SP: u32 = 152;
}

/// What is sent.
#[repr(C)]
pub struct Record {
    pub head: Sample,
    pub frames: [u64; FRAMES],
}

/// Where one sample is put together.
#[repr(C)]
pub struct Space {
    pub record: Record,
    pub walk: Walk,
    pub world: World,
    pub python: Python,
    /// See [`is_overdrawn`].
    pub paid_until_ns: u64,
}

/// A sample under way.
pub struct Taking {
    space: *mut Space,
}

/// The system call that a thread is in, told by what its registers were saved for; `None` if it is in none.
#[inline(always)]
pub fn call_of(task: Known) -> Option<u32> {
    // SAFETY: the verifier checks that this is a task; its registers lie at the end of its stack.
    let saved = Known(unsafe { bpf_task_pt_regs(task.0.cast_mut().cast()) } as *const u8);
    let call: i64 = saved.load(regs::ORIG_AX);
    if call < 0 { None } else { Some(call as u32) }
}

impl Taking {
    /// Begins one in the work space of this kind of program.
    #[inline(always)]
    pub fn begin(space: u32, kind: SampleKind, task: Known, service: u32, sock: u64) -> Option<Self> {
        let space = PROFILE_SPACES.get_ptr_mut(space)?;
        // SAFETY: a map value of this CPU, of which programs of one kind have one of their own.
        let head = unsafe { &mut (*space).record.head };
        clear(head);
        // SAFETY: a helper without arguments.
        let at_ns = unsafe { bpf_ktime_get_ns() };
        head.header = Header { kind: kind as u32, text_len: 0, at_ns };
        head.pid = task.load(offset!(task_tgid));
        head.tid = task.load(offset!(task_pid));
        head.service = service;
        head.call = match call_of(task) {
            Some(call) => call,
            None => NO_CALL,
        };
        if let Some(name) = task.address().read::<[u8; 16]>(offset!(task_comm)) {
            head.thread = name;
        }
        if setting!(postgres) != 0
            && let Some(entry) = WIRES.get_ptr_mut(&sock)
        {
            // SAFETY: a map value; what changes meanwhile makes the sample's request unknown at worst.
            let (wire, connection) = unsafe { (&(*entry).wire, (*entry).connection) };
            if let Some(cycle) = wire.serving() {
                head.connection = connection;
                head.request_ns = cycle.begun_ns;
                head.statement = cycle.statement;
                head.role = wire.role;
            }
        }
        Some(Self { space })
    }

    #[inline(always)]
    fn head(&mut self) -> &mut Sample {
        // SAFETY: as above.
        unsafe { &mut (*self.space).record.head }
    }

    /// It tells of a system call that took this long.
    #[inline(always)]
    pub fn set_long_call(&mut self, syscall: u32, ns: u64) {
        let head = self.head();
        head.header.kind = SampleKind::LongCall as u32;
        head.call = syscall;
        head.weight_ns = ns;
    }

    /// It tells of a Postgres request that has ended, and took this long.
    #[inline(always)]
    pub fn set_long_request(&mut self, state: &TaskState, begun_ns: u64, ns: u64) {
        let head = self.head();
        head.header.kind = SampleKind::LongRequest as u32;
        head.weight_ns = ns;
        head.connection = 0;
        if let Some(entry) = WIRES.get_ptr_mut(&state.sock) {
            // SAFETY: as in `begin`.
            let (connection, statement, role) =
                unsafe { ((*entry).connection, (*entry).statement, (*entry).wire.role) };
            head.connection = connection;
            head.request_ns = begun_ns;
            head.statement = statement;
            head.role = role;
        }
    }

    /// What it weighs, in nanoseconds.
    #[inline(always)]
    pub fn set_weight(&mut self, ns: u64) {
        self.head().weight_ns = ns;
    }

    /// Room for the kernel's frames, and its length in bytes.
    #[inline(always)]
    pub fn kernel_frames(&mut self) -> (*mut c_void, u32) {
        // SAFETY: a map value.
        let frames = unsafe { &raw mut (*self.space).record.frames };
        (frames.cast(), (KERNEL_FRAMES * 8) as u32)
    }

    /// How many bytes of it were filled; less than 0 if the kernel has none.
    #[inline(always)]
    pub fn set_kernel_frames(&mut self, bytes: i64) {
        if bytes > 0 && bytes <= (KERNEL_FRAMES * 8) as i64 {
            self.head().kernel_frames = (bytes / 8) as u16;
        }
    }

    /// Walks the stack of the thread that runs now.
    #[inline(always)]
    pub fn walk(&mut self, task: Known) {
        if task.follow(offset!(task_mm)).is_none() {
            self.head().stop = Stop::NoUserPart as u8;
            return;
        }
        // SAFETY: as in `call_of`.
        let saved = Known(unsafe { bpf_task_pt_regs(task.0.cast_mut().cast()) } as *const u8);
        let space = self.space;
        // SAFETY: a map value.
        let (world, walk) = unsafe { (&mut (*space).world, &mut (*space).walk) };
        world.begin();
        walk.begin(saved.load(regs::IP), saved.load(regs::SP), Some(saved.load(regs::BP)));
        // SAFETY: a helper without arguments.
        let begun_ns = unsafe { bpf_ktime_get_ns() };
        let mut context = space;
        // SAFETY: the callback gets a pointer to `context`, which outlives the loop.
        unsafe { bpf_loop(DEPTH, step as *mut c_void, (&raw mut context).cast(), 0) };
        let _ = super::python::walk(space, task);
        // SAFETY: as above.
        let ended_ns = unsafe { bpf_ktime_get_ns() };
        let head = self.head();
        head.walk_ns = (ended_ns - begun_ns) as u32;
    }

    /// Walks it if walks have not had their part of this CPU's time.
    #[inline(always)]
    pub fn walk_or_rest(&mut self, task: Known) {
        // SAFETY: a map value of this CPU, of which programs of one kind have one of their own.
        let paid_until_ns = unsafe { &mut (*self.space).paid_until_ns };
        let now_ns = self.head().header.at_ns;
        if is_overdrawn(now_ns, *paid_until_ns) && task.follow(offset!(task_mm)).is_some() {
            self.head().stop = Stop::Busy as u8;
            return;
        }
        self.walk(task);
        pay(now_ns, self.head().walk_ns as u64, paid_until_ns);
    }

    /// Hands over the registers of a thread in place of its frames.
    #[inline(always)]
    pub fn registers(&mut self, task: Known) {
        // SAFETY: as in `call_of`.
        let saved = Known(unsafe { bpf_task_pt_regs(task.0.cast_mut().cast()) } as *const u8);
        // SAFETY: a map value.
        let record = unsafe { &mut (*self.space).record };
        let at = record.head.kernel_frames as usize;
        if at <= KERNEL_FRAMES {
            record.frames[at] = saved.load(regs::IP);
            record.frames[at + 1] = saved.load(regs::SP);
            record.frames[at + 2] = saved.load(regs::BP);
            record.head.user_frames = 3;
        }
    }

    /// Hands it over.
    #[inline(always)]
    pub fn send(&mut self) {
        let head = self.head();
        let frames = head.kernel_frames as u64 + head.user_frames as u64 + head.python_frames as u64;
        if frames > FRAMES as u64 {
            return; // Never so.
        }
        head.header.text_len = frames as u32 * 8;
        let size = size_of::<Sample>() as u64 + frames * 8;
        output(core::ptr::from_mut(head).cast(), size, BPF_RB_NO_WAKEUP);
    }
}

/// Sends a record to the ring of samples, and wakes who reads it or not; false, and counted, if there was no room.
#[inline(always)]
pub fn output(record: *mut c_void, size: u64, wake: u32) -> bool {
    let ring = (&raw const SAMPLES).cast_mut().cast();
    // SAFETY: the verifier checks that `size` bytes can be read there.
    let sent = unsafe { bpf_ringbuf_output(ring, record, size, wake as u64) } == 0;
    if !sent {
        lost(Loss::SamplesFull);
    }
    sent
}

/// One frame; the loop ends when it returns 1.
extern "C" fn step(_index: u64, context: *mut c_void) -> i64 {
    // SAFETY: `bpf_loop` passes on what `walk` gave it.
    let space = unsafe { *context.cast::<*mut Space>() };
    // SAFETY: a map value.
    let (world, walk, record) = unsafe { (&mut (*space).world, &mut (*space).walk, &mut (*space).record) };
    let Outcome { frame, stop } = walk.step(world);
    if frame != FrameWord::NONE {
        let at = record.head.kernel_frames as usize + record.head.user_frames as usize;
        if at < FRAMES {
            record.frames[at] = frame.0;
            record.head.user_frames += 1;
        }
    }
    match stop {
        Some(stop) => {
            record.head.stop = stop as u8;
            1
        }
        None => 0,
    }
}
