//! Every map of the kernel programs. Sizes are defaults that the agent may change at load.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
    helpers::generated::bpf_task_storage_get,
    macros::btf_map,
};
use steth_probes::{
    cell::{CellKey, LOSSES},
    histogram::Histogram,
    identity::{ServiceEntry, ServiceKey, ServiceRow, TaskState},
    limits,
    postgres::{Backends, Cycle, PutOffKey, WireEntry},
    profile::{ClockTold, Sampling, Target, UnwindFile},
    python,
    socket::{Connection, PeerKey},
    tls::{CodeFile, SslKey, SslSocket, TlsCall},
    wall::{RequestWall, ServiceWall, StatementWall},
    watch::{ServiceWatch, Watch},
};

use crate::{
    kernel::Known,
    postgres::{PreparedKey, Scratch, TlsScratch},
    profile::{SPACES, Space},
};

/// State of each thread.
#[btf_map]
pub static TASKS: TaskStorage<TaskState> = TaskStorage::new();
/// What threads that serve requests spend on them.
#[btf_map]
pub static REQUEST_WALLS: TaskStorage<RequestWall> = TaskStorage::new();
/// How far the clock of these programs is ahead of that of run queues, in nanoseconds.
#[btf_map]
pub static CLOCK_AHEAD: Array<u64, 1> = Array::new();
/// What the threads of each service spent.
#[btf_map]
pub static SERVICE_WALLS: Array<ServiceWall, { limits::SERVICES as usize }> = Array::new();
/// What requests of each statement spent.
#[btf_map]
pub static STATEMENT_WALLS: PerCpuHashMap<CellKey, StatementWall, { limits::WALLS as usize }> = PerCpuHashMap::new();
/// Who is who.
#[btf_map]
pub static SERVICES: HashMap<ServiceKey, ServiceEntry, { limits::SERVICES as usize }> = HashMap::new();
/// What is kept for each service.
#[btf_map]
pub static SERVICE_ROWS: Array<ServiceRow, { limits::SERVICES as usize }> = Array::new();
/// Which histogram belongs to which cell.
#[btf_map]
pub static HISTOGRAM_SLOTS: HashMap<CellKey, u32, { limits::HISTOGRAMS as usize }> = HashMap::new();
/// Histograms by slot.
#[btf_map]
pub static HISTOGRAMS: PerCpuArray<Histogram, { limits::HISTOGRAMS as usize }> = PerCpuArray::new();
/// Counters by cell.
#[btf_map]
pub static COUNTERS: PerCpuHashMap<CellKey, u64, { limits::COUNTERS as usize }> = PerCpuHashMap::new();
/// What was not counted, by reason.
#[btf_map]
pub static LOSSES_BY_REASON: PerCpuArray<u64, { LOSSES as usize }> = PerCpuArray::new();
/// How many numbers were given out, by [`Numbers`](crate::cells::Numbers).
#[btf_map]
pub static NUMBERS: Array<u32, 16> = Array::new();
/// Sockets by the address of their `struct sock`.
#[btf_map]
pub static CONNECTIONS: LruHashMap<u64, Connection, { limits::CONNECTIONS as usize }> = LruHashMap::new();
/// Peers.
#[btf_map]
pub static PEERS: HashMap<PeerKey, u32, { limits::PEERS as usize }> = HashMap::new();
/// Postgres conversations by the address of their `struct sock`.
#[btf_map]
pub static WIRES: LruHashMap<u64, WireEntry, { limits::WIRES as usize }> = LruHashMap::new();
/// Where the processes of a Postgres cluster note what they run, by service.
#[btf_map]
pub static BACKENDS: HashMap<u32, Backends, { limits::CLUSTERS as usize }> = HashMap::new();
/// Prepared statements and portals.
#[btf_map]
pub static PREPARED: LruHashMap<PreparedKey, u32, { limits::PREPARED as usize }> = LruHashMap::new();
/// Cycles under way that have no place with their connection.
#[btf_map]
pub static CYCLES_PUT_OFF: LruHashMap<PutOffKey, Cycle, { limits::CYCLES_PUT_OFF as usize }> = LruHashMap::new();
/// Statements by the hash of their text, batches by theirs.
#[btf_map]
pub static STATEMENTS: HashMap<u64, u32, { limits::STATEMENTS as usize }> = HashMap::new();
/// Names of databases and users by their hash.
#[btf_map]
pub static DATABASES: HashMap<u64, u32, { limits::DATABASES as usize }> = HashMap::new();
/// Work space.
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
/// Calls of OpenSSL under way.
#[btf_map]
pub static TLS_CALLS: TaskStorage<TlsCall> = TaskStorage::new();
/// Sockets by the `SSL` that uses them.
#[btf_map]
pub static SSLS: LruHashMap<SslKey, SslSocket, { limits::SSLS as usize }> = LruHashMap::new();
/// When a file of code was last reported, or that it was looked at.
#[btf_map]
pub static CODE_FILES: LruHashMap<CodeFile, u64, { limits::CODE_FILES as usize }> = LruHashMap::new();
/// Work space for walks behind TLS.
#[btf_map]
pub static TLS_SCRATCH: PerCpuArray<TlsScratch, { limits::TLS_WALKS as usize }> = PerCpuArray::new();
/// Records for user space.
#[btf_map]
pub static RECORDS: RingBuf<u8, { limits::RING_BYTES as usize }> = RingBuf::new();

/// What is told one by one.
#[btf_map]
pub static WATCH: Array<Watch, 1> = Array::new();
/// What is kept of each service for that.
#[btf_map]
pub static SERVICE_WATCHES: Array<ServiceWatch, { limits::SERVICES as usize }> = Array::new();
/// Cycles for whoever traces; a ring of their own, so that a flood of them cannot keep a statement's text out.
#[btf_map]
pub static TRACE: RingBuf<u8, { limits::TRACE_BYTES as usize }> = RingBuf::new();

/// What is sampled.
#[btf_map]
pub static SAMPLING: Array<Sampling, 1> = Array::new();
/// Whose samples are taken.
#[btf_map]
pub static TARGETS: HashMap<Target, u32, { limits::TARGETS as usize }> = HashMap::new();
/// Processes that run Python.
#[btf_map]
pub static PYTHONS: HashMap<u32, python::Process, { limits::PYTHONS as usize }> = HashMap::new();
/// The agent writes into it as into memory of its own, many entries at once.
const WRITTEN_AT_ONCE: usize = BPF_F_MMAPABLE as usize;
/// Files of code with their unwind tables.
#[btf_map]
pub static UNWIND_FILES: HashMap<CodeFile, UnwindFile, { limits::UNWIND_FILES as usize }> = HashMap::new();
/// The rows of all tables.
#[btf_map]
pub static UNWIND_ROWS: Array<u64, { limits::UNWIND_ROWS as usize }, WRITTEN_AT_ONCE> = Array::new();
/// The pages of all tables.
#[btf_map]
pub static UNWIND_PAGES: Array<u32, { limits::UNWIND_ROWS as usize }, WRITTEN_AT_ONCE> = Array::new();
/// Where samples are put together.
#[btf_map]
pub static PROFILE_SPACES: PerCpuArray<Space, { SPACES as usize }> = PerCpuArray::new();
/// How far the time of each CPU is told, by the clock that always runs and by the one on demand.
#[btf_map]
pub static CLOCKS_TOLD: PerCpuArray<ClockTold, 2> = PerCpuArray::new();
/// Samples; a ring of their own, because they are many and long.
#[btf_map]
pub static SAMPLES: RingBuf<u8, { limits::SAMPLES_BYTES as usize }> = RingBuf::new();

/// A map of values that live and die with a thread. aya-ebpf has no wrapper for this type of map.
#[repr(C)]
pub struct TaskStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_TASK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: the fields are placeholders that the loader replaces; they are never read.
unsafe impl<T> Sync for TaskStorage<T> {}

/// `BPF_LOCAL_STORAGE_GET_F_CREATE`
const CREATE: u64 = 1;

impl<T> TaskStorage<T> {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    /// The value of a task, if it has one.
    #[inline(always)]
    pub fn get(&self, task: Known) -> Option<&mut T> {
        self.lookup(task, core::ptr::null_mut(), 0)
    }

    /// The value of a task; it starts as `value` if it has none.
    #[inline(always)]
    pub fn get_or_insert(&self, task: Known, value: &mut T) -> Option<&mut T> {
        self.lookup(task, core::ptr::from_mut(value), CREATE)
    }

    /// The value of a task; all zero if it has none.
    #[inline(always)]
    pub fn get_or_zero(&self, task: Known) -> Option<&mut T> {
        self.lookup(task, core::ptr::null_mut(), CREATE)
    }

    #[inline(always)]
    fn lookup(&self, task: Known, value: *mut T, flags: u64) -> Option<&mut T> {
        let map = core::ptr::from_ref(self).cast_mut().cast::<c_void>();
        // SAFETY: the verifier checks that `task` is a task; the value lives as long as the program runs.
        unsafe { bpf_task_storage_get(map, task.0.cast_mut().cast(), value.cast(), flags).cast::<T>().as_mut() }
    }
}
