//! Tables of files that are everywhere, held against what gimli makes of the same files at every row; and of files that are
//! broken.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, Encoding, EvaluationResult, Format, LittleEndian, Register,
    RegisterRule, UnwindContext, UnwindExpression, UnwindSection as _, UnwindTableRow, Value, X86_64,
};
use object::{Object as _, ObjectSection as _};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use steth_probes::unwind::{Mapping, MappingKind, Packed, Row, Rule, Stop, Walk, World};

use super::{
    CodeRange, FileTable, Gap, Identity,
    elf::{CodeFile, table_of_bytes},
    host::{self, Code, Content, ProcessMemory, Registers},
    rules::Bytes,
};

const ENCODING: Encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };
/// A file that is on any machine, and short.
const SHORT: &str = "/bin/true";

fn table_of(path: &Path) -> FileTable {
    CodeFile::open(path).unwrap().table(Some(path), Path::new("/nowhere")).unwrap()
}

/// Registers and memory without sense, but the same for both: whatever rule is followed wrongly gives other numbers.
#[derive(Clone, Copy)]
struct Made {
    registers: [u64; 17],
}

impl Made {
    fn new(ip: u64) -> Self {
        let mut registers = std::array::from_fn(|number| 0x7fff_1000_0000 + number as u64 * 0x10_0000);
        // Below all others, so that a stack rises whatever it is found by.
        registers[7] = 0x7fff_0000_0000;
        registers[16] = ip;
        Self { registers }
    }

    fn sp(&self) -> u64 {
        self.registers[7]
    }

    fn bp(&self) -> u64 {
        self.registers[6]
    }

    /// Addresses above the stack pointer, different ones for each address.
    fn word(address: u64) -> u64 {
        0x7fff_8000_0000 + (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 << 3)
    }

    /// The caller's RIP, RSP and RBP, as gimli has it; what stands for [`Stop`] where there is none.
    fn by_gimli(&self, row: &UnwindTableRow<usize>, section: &EhFrame<Bytes<'_>>) -> Option<(u64, u64, u64)> {
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                self.registers[usize::from(register.0)].wrapping_add_signed(*offset)
            }
            CfaRule::Expression(expression) => self.evaluate(expression, section, None),
        };
        let value = |register: Register, unsaid| {
            Some(match row.register(register) {
                None => unsaid,
                Some(RegisterRule::SameValue) => self.registers[usize::from(register.0)],
                Some(RegisterRule::Offset(offset)) => Self::word(cfa.wrapping_add_signed(offset)),
                Some(RegisterRule::ValOffset(offset)) => cfa.wrapping_add_signed(offset),
                Some(RegisterRule::Register(other)) => self.registers[usize::from(other.0)],
                Some(RegisterRule::Expression(expression)) => {
                    Self::word(self.evaluate(&expression, section, Some(cfa)))
                }
                Some(RegisterRule::ValExpression(expression)) => self.evaluate(&expression, section, Some(cfa)),
                Some(_) => return None,
            })
        };
        Some((value(X86_64::RA, 0)?, cfa, value(X86_64::RBP, self.bp()).unwrap_or(0)))
    }

    fn evaluate(&self, expression: &UnwindExpression<usize>, section: &EhFrame<Bytes<'_>>, cfa: Option<u64>) -> u64 {
        let mut evaluation = expression.get(section).unwrap().evaluation(ENCODING);
        if let Some(cfa) = cfa {
            evaluation.set_initial_value(cfa);
        }
        let mut result = evaluation.evaluate().unwrap();
        loop {
            result = match result {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(Value::Generic(self.registers[usize::from(register.0)])).unwrap()
                }
                EvaluationResult::RequiresMemory { address, .. } => {
                    evaluation.resume_with_memory(Value::Generic(Self::word(address))).unwrap()
                }
                other => panic!("{other:?}"),
            };
        }
        match evaluation.result().as_slice() {
            [piece] => match piece.location {
                gimli::Location::Address { address } => address,
                ref other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

/// One file, mapped so that addresses are offsets.
struct OneFile<'table> {
    table: &'table FileTable,
    made: Made,
}

impl World for OneFile<'_> {
    fn word(&mut self, address: u64) -> Option<u64> {
        Some(Made::word(address))
    }

    fn register(&mut self, number: u32) -> Option<u64> {
        self.made.registers.get(number as usize).copied()
    }

    fn page(&mut self, index: u32) -> Option<u32> {
        self.table.pages.get(index as usize).copied()
    }

    fn row(&mut self, index: u32) -> Option<Row> {
        self.table.rows.get(index as usize).copied()
    }

    fn find(&mut self, _: u64, mapping: &mut Mapping) {
        let kind = MappingKind::Table as u32;
        *mapping = Mapping { start: 0, end: 1 << 32, file_offset: 0, kind, slot: 1, table: self.table.placed(0, 0) };
    }
}

/// The table and what it was compared at.
struct Compared {
    same: usize,
    unsupported: usize,
}

/// Holds a file's table against gimli at the first and the last byte of each of gimli's rows, found by way of the file's own
/// search table, which ours does not use.
fn compare(path: &Path) -> Compared {
    let bytes = fs::read(path).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let section = |name| file.section_by_name(name).unwrap();
    let (frame, header) = (section(".eh_frame"), section(".eh_frame_hdr"));
    let bases = BaseAddresses::default()
        .set_eh_frame(frame.address())
        .set_eh_frame_hdr(header.address())
        .set_text(section(".text").address());
    let eh_frame = EhFrame::new(frame.data().unwrap(), LittleEndian);
    let header = EhFrameHdr::new(header.data().unwrap(), LittleEndian).parse(&bases, 8).unwrap();
    let search = header.table().unwrap();

    let code = CodeFile::open(path).unwrap();
    let table = code.table(Some(path), Path::new("/nowhere")).unwrap();
    assert_eq!(table.gaps, []);
    let mut context = UnwindContext::new();
    let mut compared = Compared { same: 0, unsupported: 0 };
    let mut entries = search.iter(&bases);
    while let Some((pointer, _)) = entries.next().unwrap() {
        let gimli::Pointer::Direct(begin) = pointer else { panic!("{pointer:?}") };
        let fde = search.fde_for_address(&eh_frame, &bases, begin, EhFrame::cie_from_offset).unwrap();
        let mut at = begin;
        while at < fde.end_address() {
            let cie = EhFrame::cie_from_offset;
            let row = search.unwind_info_for_address(&eh_frame, &bases, &mut context, at, cie).unwrap();
            for address in [at, row.end_address() - 1] {
                let holds = |range: &&CodeRange| (range.address..range.address + range.size).contains(&address);
                let range = code.code().iter().find(holds).unwrap();
                compare_at(address - range.address + range.offset, row, &eh_frame, &table, &mut compared);
            }
            at = row.end_address();
        }
        assert!(at > begin, "{begin:x} of {}", path.display());
    }
    assert!(compared.same > 0);
    compared
}

fn compare_at(
    offset: u64,
    row: &UnwindTableRow<usize>,
    section: &EhFrame<Bytes<'_>>,
    table: &FileTable,
    compared: &mut Compared,
) {
    let made = Made::new(offset);
    let mut walk = Walk::zeroed();
    walk.begin(offset, made.sp(), Some(made.bp()));
    let outcome = walk.step(&mut OneFile { table, made });
    let expected = made.by_gimli(row, section);
    match outcome.stop {
        None if walk.bp_lost != 0 => {
            assert_eq!(expected.map(|(ip, sp, _)| (ip, sp)), Some((walk.ip, walk.sp)), "{offset:x}")
        }
        None => assert_eq!(expected, Some((walk.ip, walk.sp, walk.bp)), "{offset:x}: {row:?}"),
        Some(Stop::End) => assert_eq!(expected, None, "{offset:x}: {row:?}"),
        Some(Stop::Unsupported) => {
            compared.unsupported += 1;
            return;
        }
        other => panic!("{offset:x}: {other:?}, {row:?}"),
    }
    compared.same += 1;
}

/// At most one place in so many may be one that a table has no room for.
fn compare_all(paths: &[&str], one_in: usize) {
    for path in paths.iter().map(Path::new) {
        if !path.exists() {
            println!("skipped: {}: it is not there", path.display());
            continue;
        }
        let Compared { same, unsupported } = compare(path);
        println!("{}: {same} places, {unsupported} unsupported", path.display());
        assert!(unsupported * one_in <= same, "{}: {unsupported} of {same}", path.display());
    }
}

#[test]
fn rows_say_what_the_file_says_in_the_c_library_and_what_runs_everywhere() {
    let own = std::env::current_exe().unwrap();
    compare_all(&["/usr/lib/x86_64-linux-gnu/libc.so.6", SHORT, "/usr/bin/bash", own.to_str().unwrap()], 2000);
}

#[test]
fn rows_say_what_the_file_says_in_the_dynamic_linker() {
    compare_all(&["/lib64/ld-linux-x86-64.so.2"], 100);
}

#[test]
fn rows_say_what_the_file_says_where_it_was_written_by_hand() {
    compare_all(&["/usr/lib/x86_64-linux-gnu/libcrypto.so.3", "/usr/lib/x86_64-linux-gnu/libgmp.so.10"], 1000);
}

#[test]
fn rows_say_what_the_file_says_in_servers() {
    compare_all(&["/usr/lib/postgresql/15/bin/postgres", "/usr/bin/python3.11"], 2000);
}

#[test]
fn code_of_which_nothing_is_said_goes_by_the_frame_pointer() {
    let table = table_of(Path::new(SHORT));
    assert_eq!(table.rows.first().map(|row| row.rule()), Some(Packed::FRAME_POINTER));
    assert_eq!(table.rows.last().map(|row| row.rule()), Some(Packed::FRAME_POINTER));
    assert!(table.rows.iter().any(|row| row.rule().rule() == Some(Rule::End)), "_start has no caller");
    assert!(table.rows.windows(2).all(|pair| pair[0].rule() != pair[1].rule()), "equal neighbours are one");
}

#[test]
fn a_file_in_memory_has_the_same_table_as_on_disk() {
    assert_eq!(table_of_bytes(&fs::read(SHORT).unwrap()).unwrap(), table_of(Path::new(SHORT)));
}

#[test]
fn a_file_without_section_headers_has_the_same_rows() {
    let mut bytes = fs::read(SHORT).unwrap();
    // e_shoff, and e_shnum with e_shstrndx.
    bytes[0x28..0x30].fill(0);
    bytes[0x3c..0x40].fill(0);
    let table = table_of_bytes(&bytes).unwrap();
    let whole = table_of(Path::new(SHORT));
    assert_eq!((table.rows, table.gaps), (whole.rows, whole.gaps));
    assert_eq!(table.identity, whole.identity);
}

#[test]
fn a_file_without_a_build_id_is_known_by_its_code() {
    let bytes = fs::read(SHORT).unwrap();
    let id = match table_of_bytes(&bytes).unwrap().identity {
        Identity::BuildId(id) => id,
        other => panic!("{other}"),
    };
    let at = bytes.windows(id.len()).position(|part| part == id).unwrap();
    let mut other = bytes.clone();
    other[at..at + id.len()].fill(0);
    let identity = |bytes: &[u8]| table_of_bytes(bytes).unwrap().identity;
    let hash = identity(&other);
    assert!(matches!(hash, Identity::Hash(_)), "{hash}");
    assert_eq!(hash.to_string().len(), "hash-".len() + 40);
    // The same file, on disk.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, &other).unwrap();
    assert_eq!(*CodeFile::open(&path).unwrap().identity(), hash);
    let code = object::File::parse(&*other).unwrap().section_by_name(".text").unwrap().file_range().unwrap().0;
    other[code as usize + 5] ^= 1;
    assert_ne!(identity(&other), hash);
}

#[test]
fn what_is_no_code_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let why = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        CodeFile::open(&path).unwrap_err().to_string()
    };
    assert!(why(b"").contains("no ELF file"));
    assert!(why(b"#!/bin/sh\n").contains("no ELF file"));
    let mut other = fs::read(SHORT).unwrap();
    other[0x12] = 183;
    assert_eq!(why(&other), "it is not for x86-64 (machine 183)");
    assert!(CodeFile::open(folder.path()).unwrap_err().to_string().contains("not a regular file"));
    assert!(CodeFile::open(&folder.path().join("none")).unwrap_err().to_string().contains("cannot read"));
}

#[test]
fn a_file_that_ends_early_keeps_what_can_be_read() {
    let bytes = fs::read(SHORT).unwrap();
    let whole = table_of(Path::new(SHORT));
    let frame = object::File::parse(&*bytes).unwrap().section_by_name(".eh_frame").unwrap().file_range().unwrap();
    let mut broken = bytes.clone();
    // An entry that claims to reach beyond the section, half way through.
    let middle = (frame.0 + frame.1 / 2) as usize;
    broken[middle..(frame.0 + frame.1) as usize].fill(0xee);
    let table = table_of_bytes(&broken).unwrap();
    assert!(matches!(table.gaps.as_slice(), [.., Gap::Section(_)]), "{:?}", table.gaps);
    assert!(table.rows.len() > whole.rows.len() / 4, "{} of {}", table.rows.len(), whole.rows.len());
}

#[test]
fn the_vdso_has_a_table() {
    let (proc, pid) = (Path::new("/proc"), std::process::id());
    let regions = host::regions(proc, pid).unwrap();
    let vdso = regions.iter().find(|region| region.content == Content::Vdso).unwrap();
    let bytes = ProcessMemory::open(proc, pid).unwrap().region(vdso).unwrap();
    let table = table_of_bytes(&bytes).unwrap();
    assert!(table.rows.len() > 10 && table.gaps.is_empty(), "{table:?}");
}

fn own_tid() -> u32 {
    let link = fs::read_link("/proc/thread-self").unwrap();
    link.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

#[test]
fn a_waiting_thread_is_walked_from_what_the_kernel_tells_of_it() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        tell.send(own_tid()).unwrap();
        wait.recv().unwrap_err();
    });
    let (proc, pid, tid) = (Path::new("/proc"), std::process::id(), told.recv().unwrap());
    let registers = loop {
        match host::waiting_thread(proc, pid, tid) {
            Ok(registers) => break registers,
            Err(_) => std::thread::yield_now(),
        }
    };
    let code: Vec<_> = host::regions(proc, pid)
        .unwrap()
        .iter()
        .zip(1..)
        .map(|(region, slot)| {
            let table = match &region.content {
                Content::File { path, .. } => Some(table_of(path).into()),
                _ => None,
            };
            Code::new(region, slot, table)
        })
        .collect();
    let (frames, stop) = host::walk(registers, &code, &mut ProcessMemory::open(proc, pid).unwrap());
    drop(go);
    thread.join().unwrap();
    assert!(frames.len() >= 2, "{frames:?}");
    assert!([Stop::End, Stop::FramePointerLost].contains(&stop), "{stop:?}: {frames:?}");
    assert_eq!(host::waiting_thread(proc, pid, u32::MAX).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    let nowhere = Registers { ip: 16, sp: 16, bp: None, others: None };
    assert_eq!(host::walk(nowhere, &code, &mut ProcessMemory::open(proc, pid).unwrap()).1, Stop::NotCode);
}

#[test]
fn fuzz_a_broken_file_has_a_table_or_a_reason() {
    let bytes = fs::read(SHORT).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let ranges: Vec<_> = [".eh_frame", ".eh_frame_hdr", ".note.gnu.build-id"]
        .into_iter()
        .filter_map(|name| file.section_by_name(name)?.file_range())
        .chain([
            (0, 0x400),
            (u64::from_le_bytes(bytes[0x28..0x30].try_into().unwrap()), 30 * 64),
            (0, bytes.len() as u64),
        ])
        .collect();
    let change = (prop::sample::select(ranges), any::<prop::sample::Index>(), any::<[u8; 4]>(), 1..4_usize);
    let strategy = (prop::collection::vec(change, 1..40), prop::option::weighted(0.1, any::<prop::sample::Index>()));
    type Change = ((u64, u64), prop::sample::Index, [u8; 4], usize);
    let check = |(changes, cut): (Vec<Change>, Option<prop::sample::Index>)| {
        let mut broken = bytes.clone();
        for ((begin, length), index, new, count) in changes {
            let at = begin as usize + index.index(length as usize);
            for (byte, new) in broken[at..].iter_mut().zip(&new[..count]) {
                *byte = *new;
            }
        }
        if let Some(cut) = cut {
            broken.truncate(cut.index(bytes.len()));
        }
        if let Ok(table) = table_of_bytes(&broken) {
            prop_assert!(table.rows.is_sorted_by(|one, next| one.offset() < next.offset()));
            prop_assert!(table.rows.iter().all(|row| row.rule().rule().is_some()));
            prop_assert!(table.pages.iter().all(|&row| (row as usize) < table.rows.len()));
            // Some files end inside of their sections; what is asked of the table is answered all the same.
            for row in &table.rows {
                let found = table
                    .placed(0, 0)
                    .rule_at(u64::from(row.offset()), &mut OneFile { table: &table, made: Made::new(0) });
                prop_assert_eq!(found, Some(row.rule()));
            }
        }
        Ok(())
    };
    fuzz(strategy, 400, check);
}

/// Tries `check` on values of a strategy: `cases` of them, or for the seconds of `STETH_FUZZ_SECONDS`.
fn fuzz<S: Strategy>(strategy: S, cases: u32, check: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let seconds = std::env::var("STETH_FUZZ_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let Some(seconds) = seconds else {
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        TestRunner::new_with_rng(config, rng).run(&strategy, check).unwrap_or_else(|error| panic!("{error}"));
        return;
    };
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(seconds) {
        TestRunner::new(config.clone()).run(&strategy, &check).unwrap_or_else(|error| panic!("{error}"));
    }
}
