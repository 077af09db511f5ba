//! Walks over the stacks of a real program without frame pointers, at each of its instructions, held against framehop's.
//! Needs a C compiler and the right to trace a child.

use std::{
    collections::BTreeMap,
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command},
    sync::Arc,
};

use framehop::{
    ExplicitModuleSectionInfo, Module, Unwinder as _,
    x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64},
};
use object::{Object as _, ObjectSection as _};
use steth::profile::unwind::{
    Gap,
    elf::{CodeFile, table_of_bytes},
    host::{self, Code, Content, Memory as _, ProcessMemory, Region, Registers},
};
use steth_probes::unwind::{Origin, Stop, pt_regs_index};

const PROGRAM: &str = include_str!("../programs/depths.c");
/// More instructions than the program takes between its traps.
const MAX_STEPS: usize = 200_000;

/// A child that does one instruction at a time.
struct Traced(Child);

impl Traced {
    fn start(path: &Path) -> io::Result<Self> {
        let mut command = Command::new(path);
        let trace_me = || {
            // SAFETY: it takes no arguments and may be called between fork and exec.
            let result = unsafe { libc::ptrace(libc::PTRACE_TRACEME) };
            if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(trace_me) };
        let traced = Self(command.spawn()?);
        assert_eq!(traced.wait(), libc::SIGTRAP, "stands at its first instruction");
        Ok(traced)
    }

    fn pid(&self) -> libc::pid_t {
        self.0.id().cast_signed()
    }

    /// The signal that it stopped with; 0 if it ended.
    fn wait(&self) -> i32 {
        let mut status = 0;
        // SAFETY: `status` is there to be written to.
        unsafe { libc::waitpid(self.pid(), &raw mut status, 0) };
        if libc::WIFSTOPPED(status) { libc::WSTOPSIG(status) } else { 0 }
    }

    fn go_on(&self, request: libc::c_uint, signal: i32) -> i32 {
        // SAFETY: these requests read no memory of ours.
        unsafe { libc::ptrace(request, self.pid(), 0, signal) };
        self.wait()
    }

    fn registers(&self) -> Registers {
        let mut words = [0_u64; 27];
        // SAFETY: `struct user_regs_struct` has 27 words.
        unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.pid(), 0, words.as_mut_ptr()) };
        // It begins as `struct pt_regs` does: RIP is the 16th word, RSP the 19th.
        let others = std::array::from_fn(|number| words[pt_regs_index(number as u32) as usize]);
        Registers { ip: words[16], sp: words[19], bp: Some(words[4]), others: Some(others) }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The code of a process, for both.
struct Both {
    code: Vec<Code>,
    unwinder: UnwinderX86_64<Vec<u8>>,
    cache: CacheX86_64,
}

impl Both {
    fn new(regions: &[Region], memory: &ProcessMemory) -> Self {
        let mut unwinder = UnwinderX86_64::new();
        let mut code = Vec::new();
        for (region, slot) in regions.iter().zip(1..) {
            let table = match &region.content {
                Content::File { path, name } => {
                    let file = CodeFile::open(path).unwrap();
                    let range = file.code()[0];
                    let base = (region.start - region.file_offset + range.offset).wrapping_sub(range.address);
                    unwinder.add_module(module(&std::fs::read(path).unwrap(), name, region.start..region.end, base));
                    Some(file.table(Some(name), Path::new("/nowhere")).unwrap())
                }
                Content::Vdso => Some(table_of_bytes(&memory.region(region).unwrap()).unwrap()),
                Content::Anonymous => None,
            };
            code.push(Code::new(region, slot, table.map(Arc::new)));
        }
        Self { code, unwinder, cache: CacheX86_64::new() }
    }

    /// Addresses as they are looked up: the interrupted one, and of callers the last byte of the call.
    fn ours(&self, registers: Registers, memory: &mut ProcessMemory) -> (Vec<u64>, Stop) {
        let (frames, stop) = host::walk(registers, &self.code, memory);
        let address = |frame: steth_probes::unwind::FrameWord| match frame.origin() {
            Origin::File { slot, offset } => {
                let code = &self.code[slot as usize - 1];
                code.start - code.file_offset + offset
            }
            Origin::Address(address) => address,
            other => panic!("{other:?}"),
        };
        (frames.into_iter().map(address).collect(), stop)
    }

    fn framehops(&mut self, registers: Registers, memory: &mut ProcessMemory) -> Vec<u64> {
        let start = UnwindRegsX86_64::new(registers.ip, registers.sp, registers.bp.unwrap());
        let mut read = |address| memory.word(address).ok_or(());
        let mut frames = self.unwinder.iter_frames(registers.ip, start, &mut self.cache, &mut read);
        let mut found = Vec::new();
        while let Ok(Some(frame)) = frames.next() {
            found.push(frame.address_for_lookup());
        }
        found
    }
}

fn module(bytes: &[u8], name: &Path, range: std::ops::Range<u64>, base: u64) -> Module<Vec<u8>> {
    let file = object::File::parse(bytes).unwrap();
    let section = |name| file.section_by_name(name);
    let range_of = |name| section(name).map(|section| section.address()..section.address() + section.size());
    let data = |name| Some(section(name)?.data().ok()?.to_vec());
    let sections = ExplicitModuleSectionInfo {
        base_svma: 0,
        text_svma: range_of(".text"),
        text: data(".text"),
        got_svma: range_of(".got"),
        eh_frame_svma: range_of(".eh_frame"),
        eh_frame: data(".eh_frame"),
        eh_frame_hdr_svma: range_of(".eh_frame_hdr"),
        eh_frame_hdr: data(".eh_frame_hdr"),
        ..Default::default()
    };
    Module::new(name.display().to_string(), range, base, sections)
}

/// What was found at the instructions between the program's traps.
#[derive(Debug, Default)]
struct Found {
    steps: usize,
    same: usize,
    deepest: usize,
    stops: BTreeMap<&'static str, usize>,
}

impl Found {
    fn stopped(&self, stop: Stop) -> usize {
        self.stops.get(stop.text()).copied().unwrap_or(0)
    }
}

/// Builds the program with `option` and goes through it, `compared` with framehop; `None` if no child can be traced.
fn go_through(option: &str, compared: bool) -> Option<Found> {
    let folder = tempfile::tempdir().unwrap();
    let (source, path) = (folder.path().join("depths.c"), folder.path().join("depths"));
    std::fs::write(&source, PROGRAM).unwrap();
    let built = Command::new("gcc")
        .args(["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", option, "-o"])
        .args([&path, &source])
        .status();
    assert!(built.unwrap().success());

    let traced = match Traced::start(&path) {
        Ok(traced) => traced,
        Err(why) => {
            steth_tests::report(&format!("cannot trace a child: {why}"));
            return None;
        }
    };
    assert_eq!(traced.go_on(libc::PTRACE_CONT, 0), libc::SIGTRAP, "stands behind its first trap");
    let (proc, pid) = (Path::new("/proc"), traced.0.id());
    let regions = host::regions(proc, pid).unwrap();
    let mut both = Both::new(&regions, &ProcessMemory::open(proc, pid).unwrap());
    let mut found = Found::default();
    let mut signal = 0;
    loop {
        let registers = traced.registers();
        let mut memory = ProcessMemory::open(proc, pid).unwrap();
        let (ours, stop) = both.ours(registers, &mut memory);
        let framehops = both.framehops(registers, &mut memory);
        // It ends at signal frames. Within the dynamic linker's resolver it takes the first instructions for a usual function's.
        assert!(!compared || ours.starts_with(&framehops), "{stop:?}\n{ours:x?}\n{framehops:x?}\n{regions:x?}");
        found.steps += 1;
        found.same += usize::from(ours == framehops);
        found.deepest = found.deepest.max(ours.len());
        *found.stops.entry(stop.text()).or_default() += 1;
        signal = match traced.go_on(libc::PTRACE_SINGLESTEP, signal) {
            libc::SIGTRAP if found.steps > 1000 && is_trap(&traced) => break,
            libc::SIGTRAP => 0,
            0 => panic!("it ended"),
            other => other,
        };
        assert!(found.steps < MAX_STEPS);
    }
    println!("{option}: {found:?}");
    assert!(found.deepest > 200 && found.steps > 5000, "{found:?}");
    Some(found)
}

#[test]
fn stacks_are_complete_and_framehops_at_each_instruction() {
    steth_tests::need_program!("gcc");
    let Some(found) = go_through("-Wl,-z,now", true) else { return };
    assert!(found.stopped(Stop::End) * 1000 >= found.steps * 995, "{found:?}");
    assert!(found.same * 100 >= found.steps * 98, "{found:?}");
}

#[test]
fn stacks_within_the_dynamic_linkers_resolver_end_there_and_say_so() {
    steth_tests::need_program!("gcc");
    let Some(found) = go_through("-Wl,-z,lazy", false) else { return };
    assert!(found.stopped(Stop::Unsupported) > 100, "{found:?}");
    assert_eq!(found.stopped(Stop::End) + found.stopped(Stop::Unsupported), found.steps, "{found:?}");
}

/// Whether the byte before RIP is a trap that the program made itself.
fn is_trap(traced: &Traced) -> bool {
    let mut memory = ProcessMemory::open(Path::new("/proc"), traced.0.id()).unwrap();
    memory.word(traced.registers().ip - 1).is_some_and(|word| word & 0xff == 0xcc)
}

#[test]
fn a_file_without_unwind_information_has_that_of_its_debug_file() {
    steth_tests::need_program!("gcc", "objcopy", "strip");
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        assert!(
            Command::new(program).args(arguments).current_dir(folder.path()).status().unwrap().success(),
            "{program}"
        );
    };
    std::fs::write(folder.path().join("a.c"), "int g(int); int f(int a) { return g(a + 1) + 1; }").unwrap();
    let no_tables = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    run("gcc", &[&["-O2", "-g", "-shared", "-nostdlib", "-fPIC", "a.c", "-o", "a.so"], &no_tables[..]].concat());
    let table = || {
        let path = folder.path().join("a.so");
        CodeFile::open(&path).unwrap().table(Some(&path), &folder.path().join("none")).unwrap()
    };
    let whole = table();
    assert!(whole.rows.len() > 3, "{whole:?}");
    run("objcopy", &["--only-keep-debug", "a.so", "a.debug"]);
    run("strip", &["--strip-all", "a.so"]);
    let stripped = table();
    assert_eq!((stripped.rows.len(), stripped.gaps.as_slice()), (0, [Gap::Nothing].as_slice()));
    run("objcopy", &["--add-gnu-debuglink=a.debug", "a.so"]);
    assert_eq!(table(), whole);
}
