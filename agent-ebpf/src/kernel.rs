//! Reading the kernel's own structures and a process' memory. Offsets come from the running kernel's BTF.

use aya_ebpf::helpers::{
    bpf_get_current_task_btf,
    generated::{bpf_probe_read_kernel, bpf_probe_read_user},
};
use steth_probes::offsets::{Offsets, Settings};

#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets::zeroed();
#[unsafe(no_mangle)]
pub static SETTINGS: Settings = Settings::zeroed();

/// The offset of one field; a constant to the verifier, because the agent freezes it before load.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a static that nobody writes after load; volatile because the agent, not the compiler, knows its value.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::OFFSETS.$field) }
    };
}
pub(crate) use offset;

/// One setting; a constant to the verifier.
macro_rules! setting {
    ($field:ident) => {
        // SAFETY: as for offsets.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::SETTINGS.$field) }
    };
}
pub(crate) use setting;

/// A typed pointer that the verifier knows (a tracepoint's argument or what was reached from one): fields are read by plain
/// loads, and a fault reads as zero.
#[derive(Clone, Copy)]
pub struct Known(pub *const u8);

impl Known {
    /// The task that runs now.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: always valid in a tracing program.
        Self(unsafe { bpf_get_current_task_btf() }.cast())
    }

    /// Reads a field.
    #[inline(always)]
    pub fn load<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the verifier checks type and offset against BTF; the load cannot fault.
        unsafe { self.0.add(offset as usize).cast::<T>().read_volatile() }
    }

    /// Follows a pointer field to another known structure; `None` if it is null.
    #[inline(always)]
    pub fn follow(self, offset: u32) -> Option<Self> {
        let pointer: *const u8 = self.load(offset);
        if pointer.is_null() { None } else { Some(Self(pointer)) }
    }

    /// The address as a number, as a key or for [`Address`].
    #[inline(always)]
    pub fn address(self) -> Address {
        Address(self.0 as u64)
    }
}

/// A kernel address without a type: read through a helper.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address(pub u64);

impl Address {
    /// Reads a value at an offset; `None` if it cannot be read.
    #[inline(always)]
    pub fn read<T: Copy>(self, offset: u32) -> Option<T> {
        let mut value = core::mem::MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all of `value` or returns an error.
        let result = unsafe {
            bpf_probe_read_kernel(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                (self.0 + offset as u64) as *const _,
            )
        };
        // SAFETY: written by the helper, and callers only use plain types.
        if result == 0 { Some(unsafe { value.assume_init() }) } else { None }
    }

    /// As [`read`](Self::read), into a place that exists.
    #[inline(always)]
    pub fn read_into<T: Copy>(self, offset: u32, value: &mut T) -> Option<()> {
        let from = (self.0 + offset as u64) as *const _;
        // SAFETY: the helper writes no more than a `T`, and callers only use plain types.
        let result = unsafe { bpf_probe_read_kernel(core::ptr::from_mut(value).cast(), size_of::<T>() as u32, from) };
        if result == 0 { Some(()) } else { None }
    }

    /// As [`read`](Self::read), for pointers; null reads as `None`.
    #[inline(always)]
    pub fn follow(self, offset: u32) -> Option<Self> {
        match self.read::<u64>(offset) {
            None | Some(0) => None,
            Some(address) => Some(Self(address)),
        }
    }
}

/// Reads a value from the current process' memory; `None` if the page is not there.
#[inline(always)]
pub fn read_user<T: Copy>(address: u64) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes all of `value` or returns an error.
    let result = unsafe { bpf_probe_read_user(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _) };
    // SAFETY: written by the helper, and callers only use plain types.
    if result == 0 { Some(unsafe { value.assume_init() }) } else { None }
}

/// Tells the compiler nothing, and so keeps it from merging what the verifier must see apart.
#[inline(always)]
pub fn opaque<T>(value: T) -> T {
    core::hint::black_box(value)
}
