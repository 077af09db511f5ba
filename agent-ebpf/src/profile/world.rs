//! What a walk looks at: the memory of the process that runs now, its mappings, and the tables of the files in them.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_RB_FORCE_WAKEUP},
    helpers::generated::{bpf_ktime_get_ns, bpf_task_pt_regs},
};
use steth_probes::{
    cell::Loss,
    message::Header,
    profile::{KERNEL_SLOTS, NoTable, SampleKind, TREE_PIVOTS, UnwindFile, VDSO},
    tls::CodeFile,
    unwind::{self, Mapping, MappingKind, Row, Table, VDSO_SLOT, pt_regs_index},
};

use super::mappings::{self, Stretch};
use crate::{
    cells::{Numbers, lost, next_number},
    kernel::{Address, Known, offset, read_user},
    maps::{UNWIND_FILES, UNWIND_PAGES, UNWIND_ROWS},
};

/// Mappings that are remembered within a walk: most stacks lie in fewer files.
const REMEMBERED: usize = 4;

/// Work space of a walk.
#[repr(C)]
pub struct World {
    /// What was found on this walk, the newest first.
    remembered: [Mapping; REMEMBERED],
    next: u64,
    stretch: Stretch,
    pivots: [u64; TREE_PIVOTS],
    no_table: NoTable,
}

impl World {
    /// Forgets the last walk.
    #[inline(always)]
    pub fn begin(&mut self) {
        self.next = 0;
        for mapping in &mut self.remembered {
            mapping.start = 0;
            mapping.end = 0;
        }
    }

    #[inline(never)]
    fn look(&mut self, address: u64, mapping: &mut Mapping) -> Option<()> {
        let mm = Known::current().follow(offset!(task_mm))?;
        mappings::find(mm, address, &mut self.pivots, &mut self.stretch)?;
        let stretch = &self.stretch;
        if stretch.executable == 0 {
            return None;
        }
        mapping.start = stretch.start;
        mapping.end = stretch.end;
        mapping.file_offset = stretch.offset;
        mapping.slot = 0;
        mapping.kind = MappingKind::Anonymous as u32;
        if stretch.file.inode == 0 && stretch.file.device != VDSO {
            return None;
        }
        let Some(file) = UNWIND_FILES.get_ptr_mut(&stretch.file) else {
            mapping.slot = self.meet(Known::current());
            if mapping.slot != 0 {
                mapping.kind = MappingKind::NoTable as u32;
            }
            return None;
        };
        // SAFETY: a map value; what is read of one that gives way to another is checked by the walk.
        let file = unsafe { &mut *file };
        // SAFETY: a helper without arguments.
        file.used_ns = unsafe { bpf_ktime_get_ns() };
        mapping.slot = file.slot;
        mapping.table = file.table;
        if file.slot != 0 {
            mapping.kind =
                if file.table.page_count == 0 { MappingKind::NoTable as u32 } else { MappingKind::Table as u32 };
        }
        None
    }

    /// A file that was not met before: it gets a slot, and user space is asked for its table. 0 if there is no room.
    #[inline(never)]
    fn meet(&mut self, task: Known) -> u32 {
        let stretch = &self.stretch;
        let slot = if stretch.file.device == VDSO {
            VDSO_SLOT
        } else {
            let Some(slot) = next_number(Numbers::UnwindFiles, 1, KERNEL_SLOTS) else {
                lost(Loss::UnwindFilesFull);
                return 0;
            };
            slot
        };
        // SAFETY: a helper without arguments.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        let fresh = UnwindFile { used_ns: now_ns, table: Table::zeroed(), slot, _pad: 0 };
        if UNWIND_FILES.insert(&stretch.file, &fresh, BPF_NOEXIST.into()).is_err() {
            let Some(file) = UNWIND_FILES.get_ptr(&stretch.file) else {
                lost(Loss::UnwindFilesFull);
                return 0;
            };
            // Another CPU was faster; the number just taken stays unused.
            // SAFETY: a map value.
            return unsafe { (*file).slot };
        }
        let record = &mut self.no_table;
        record.header = Header { kind: SampleKind::NoTable as u32, text_len: 0, at_ns: now_ns };
        record.file = CodeFile { inode: stretch.file.inode, device: stretch.file.device };
        record.start = stretch.start;
        record.end = stretch.end;
        record.offset = stretch.offset;
        record.pid = task.load(offset!(task_tgid));
        record.slot = slot;
        let size = size_of::<NoTable>() as u64;
        if !super::sample::output(core::ptr::from_mut(record).cast(), size, BPF_RB_FORCE_WAKEUP) {
            // To be asked for again.
            let _ = UNWIND_FILES.remove(&stretch.file);
        }
        slot
    }

    /// A mapping of a process that may be walked later.
    #[inline(always)]
    pub fn meet_mapping(&mut self, task: Known, mapping: Known) -> Option<()> {
        mappings::of_mapping(mapping, &mut self.stretch)?;
        if self.stretch.executable != 0 && UNWIND_FILES.get_ptr(&self.stretch.file).is_none() {
            self.meet(task);
        }
        None
    }
}

impl unwind::World for World {
    #[inline(always)]
    fn word(&mut self, address: u64) -> Option<u64> {
        read_user(address)
    }

    #[inline(always)]
    fn pair(&mut self, address: u64) -> Option<(u64, u64)> {
        read_user::<[u64; 2]>(address).map(|words| (words[0], words[1]))
    }

    #[inline(always)]
    fn register(&mut self, number: u32) -> Option<u64> {
        // SAFETY: the task that runs now is a task.
        let saved = unsafe { bpf_task_pt_regs(Known::current().0.cast_mut().cast()) } as u64;
        Address(saved).read(pt_regs_index(number) * 8)
    }

    #[inline(always)]
    fn page(&mut self, index: u32) -> Option<u32> {
        UNWIND_PAGES.get(index).copied()
    }

    #[inline(always)]
    fn row(&mut self, index: u32) -> Option<Row> {
        UNWIND_ROWS.get(index).map(|row| Row(*row))
    }

    #[inline(always)]
    fn find(&mut self, address: u64, mapping: &mut Mapping) {
        for known in &self.remembered {
            if address >= known.start && address < known.end {
                *mapping = *known;
                return;
            }
        }
        let _ = self.look(address, mapping);
        if mapping.kind == MappingKind::Unmapped as u32 {
            return;
        }
        let at = self.next as usize % REMEMBERED;
        self.next += 1;
        self.remembered[at] = *mapping;
    }
}
