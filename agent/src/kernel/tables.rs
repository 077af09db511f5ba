//! Reading whole kernel maps in few system calls. Knows the bpf(2) interface, not what the maps hold.

use std::{
    io,
    ops::Range,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use aya::maps::MapData;
use memmap2::MmapOptions;
use steth_probes::record::{Plain, bytes_of};

/// Where entries of an array begin (`array_map_alloc`), if they have no more bytes than this.
const ENTRY_ALIGN: usize = 8;
/// Entries fetched with one call.
const BATCH: u32 = 1024;
/// Commands of bpf(2): `enum bpf_cmd` in `linux/bpf.h`.
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// A kernel map whose entries are read as bytes.
#[derive(Debug)]
pub struct Table {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
    keys: Vec<u8>,
    values: Vec<u8>,
}

/// An array that is written as memory: a call of bpf(2) takes some 200 ns for each entry, and tables have hundreds of thousands.
#[derive(Debug)]
pub struct Written {
    fd: OwnedFd,
    value_size: usize,
    entries: u32,
}

/// `union bpf_attr` for the batch commands.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `union bpf_attr` for single elements.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Table {
    /// Takes a map of which every entry has `copies` values (1, or one per possible CPU).
    ///
    /// # Errors
    /// If the kernel does not describe the map.
    pub fn new(map: &MapData, copies: usize) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let value_size = info.value_size() as usize;
        Ok(Self {
            fd: map.fd().as_fd().try_clone_to_owned()?,
            key_size: info.key_size() as usize,
            value_size: if copies == 1 { value_size } else { value_size.next_multiple_of(8) * copies },
            keys: Vec::new(),
            values: Vec::new(),
        })
    }

    /// Visits up to `limit` entries: key and value, the value with all its copies. Entries that come or go meanwhile may be
    /// missed or seen, never torn in key or length.
    ///
    /// # Errors
    /// If the kernel refuses (batch reading came with Linux 5.6).
    pub fn visit(&mut self, limit: u32, visit: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        self.visit_after(None, limit, visit)
    }

    /// As [`visit`](Self::visit), those entries of an array whose numbers are in `range`.
    ///
    /// # Errors
    /// As above.
    pub fn visit_range(&mut self, range: Range<u32>, visit: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        self.visit_after(range.start.checked_sub(1), range.len() as u32, visit)
    }

    fn visit_after(&mut self, before: Option<u32>, limit: u32, mut visit: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        // The cursor of a hash is a bucket number, that of an array the last key: both fit into 8 bytes.
        let mut cursor = u64::from(before.unwrap_or_default()).to_ne_bytes();
        let mut first = before.is_none();
        let mut left = limit;
        let mut batch = BATCH;
        while left > 0 {
            let count = left.min(batch);
            self.keys.resize(count as usize * self.key_size, 0);
            self.values.resize(count as usize * self.value_size, 0);
            let mut next = [0u8; 8];
            let mut attr = BatchAttr {
                in_batch: if first { 0 } else { cursor.as_ptr() as u64 },
                out_batch: next.as_mut_ptr() as u64,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count,
                map_fd: self.fd.as_raw_fd() as u32,
                ..Default::default()
            };
            let result = bpf(BPF_MAP_LOOKUP_BATCH, &mut attr);
            let end = match &result {
                Ok(()) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                // One bucket of a hash holds more than was asked for: nothing was read, ask for more.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && batch < limit => {
                    batch = batch.saturating_mul(4);
                    continue;
                }
                Err(_) => return result,
            };
            let entries = self.keys.chunks_exact(self.key_size).zip(self.values.chunks_exact(self.value_size));
            entries.take(attr.count as usize).for_each(|(key, value)| visit(key, value));
            left = left.saturating_sub(attr.count);
            if end || attr.count == 0 {
                break;
            }
            cursor = next;
            first = false;
        }
        Ok(())
    }

    /// Writes one entry.
    ///
    /// # Errors
    /// If the kernel refuses, for example because the map is full.
    pub fn put<K: Plain, V: Plain>(&self, key: &K, value: &V) -> io::Result<()> {
        debug_assert!(size_of::<K>() == self.key_size && size_of::<V>() == self.value_size);
        let mut attr = ElementAttr {
            map_fd: self.fd.as_raw_fd() as u32,
            _pad: 0,
            key: bytes_of(key).as_ptr() as u64,
            value: bytes_of(value).as_ptr() as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &mut attr)
    }

    /// Takes one entry away; false if it was gone already.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove<K: Plain>(&self, key: &K) -> io::Result<bool> {
        debug_assert!(size_of::<K>() == self.key_size);
        let key = bytes_of(key).as_ptr() as u64;
        let mut attr = ElementAttr { map_fd: self.fd.as_raw_fd() as u32, _pad: 0, key, value: 0, flags: 0 };
        match bpf(BPF_MAP_DELETE_ELEM, &mut attr) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Written {
    /// Takes an array that can be mapped (`BPF_F_MMAPABLE`, Linux 5.5).
    ///
    /// # Errors
    /// If the kernel does not describe the map, or its values are larger than [`ENTRY_ALIGN`].
    pub fn new(map: &MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let value_size = info.value_size() as usize;
        if value_size > ENTRY_ALIGN {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Self { fd: map.fd().as_fd().try_clone_to_owned()?, value_size, entries: info.max_entries() })
    }

    /// Writes entries that follow each other, from a number on. They are mapped for no longer than that, so that they are not
    /// counted as the agent's memory and as the kernel's.
    ///
    /// # Errors
    /// If the array is shorter, has other values, or cannot be mapped.
    pub fn put<V: Plain>(&self, first: u32, values: &[V]) -> io::Result<()> {
        if size_of::<V>() != self.value_size || first as usize + values.len() > self.entries as usize {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if values.is_empty() {
            return Ok(());
        }
        let at = first as usize * ENTRY_ALIGN;
        let mut options = MmapOptions::new();
        options.offset(at as u64).len(values.len() * ENTRY_ALIGN);
        // SAFETY: a map of the agent's own; what reads it meanwhile is the kernel, which expects what is half written.
        let mut mapped = unsafe { options.map_mut(&self.fd) }?;
        for (entry, value) in mapped.chunks_exact_mut(ENTRY_ALIGN).zip(values) {
            if let Some(entry) = entry.get_mut(..self.value_size) {
                entry.copy_from_slice(bytes_of(value));
            }
        }
        Ok(())
    }
}

/// One call of bpf(2).
pub(super) fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<()> {
    // SAFETY: `attr` is laid out as the command expects, and the buffers it names outlive the call and are as long as it says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, core::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
