//! What names are found of real files and processes, and of damaged ones.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use object::{Object as _, ObjectSymbol as _};
use tempfile::TempDir;

use super::*;
use crate::{
    model::{code::FileId, profile::Origin},
    profile::{code::Place, mappings::Mappings},
};

mod damaged;
mod memory;
mod processes;

/// A function with two others in it, and one that another file defines.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <unistd.h>
volatile int sink;
static inline __attribute__((always_inline)) void innermost(int n) {
    for (int i = 0; i < n; i++) sink += i;
}
static inline __attribute__((always_inline)) void middle(int n) {
    innermost(n);
}
__attribute__((noinline)) void outermost(int n) {
    middle(n);
}
int main(void) {
    outermost(3);
    puts("ready");
    fflush(stdout);
    char byte;
    return read(0, &byte, 1) != 0;
}
"#;

/// A folder with a program in it.
struct Built {
    folder: TempDir,
    program: PathBuf,
}

fn build(arguments: &[&str]) -> Built {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("program.c"), PROGRAM).unwrap();
    run(Command::new("cc").current_dir(&folder).args(["-O2", "program.c", "-o", "program"]).args(arguments));
    let program = folder.path().join("program");
    Built { folder, program }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Where a function stands in a file, and how long it is. The linker gives programs the same offsets and addresses for
/// code, but for what the segments say.
fn function(program: &Path, name: &str) -> std::ops::Range<u64> {
    use object::ObjectSegment as _;
    let bytes = fs::read(program).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let symbol = file.symbols().chain(file.dynamic_symbols()).find(|symbol| symbol.name() == Ok(name)).unwrap();
    let segment = file
        .segments()
        .find(|segment| (segment.address()..segment.address() + segment.size()).contains(&symbol.address()));
    let segment = segment.unwrap();
    let offset = symbol.address() - segment.address() + segment.file_range().0;
    offset..offset + symbol.size()
}

fn table() -> Arc<Mutex<CodeTable>> {
    Arc::new(Mutex::new(CodeTable::new(64)))
}

fn resolver() -> Resolver {
    Resolver::new(Limits::default(), table())
}

fn names(frames: &[Frame]) -> Vec<&str> {
    frames.iter().map(|frame| &*frame.function).collect()
}

/// The frames at each byte of a function, once each.
fn stacks(resolver: &mut Resolver, code: &Arc<Code>, range: std::ops::Range<u64>) -> Vec<Arc<[Frame]>> {
    let locations: Vec<_> = range.map(|offset| Location::Code { code: Arc::clone(code), offset }).collect();
    let mut stacks = resolver.resolve(&locations);
    stacks.dedup();
    stacks
}

/// A file as a process with that root has it.
fn in_root(root: &Path, path: &str) -> Arc<Code> {
    let metadata = fs::metadata(root.join(path.trim_start_matches('/'))).unwrap();
    let place = Place { root: root.to_owned(), mapping: None, path: PathBuf::from(path) };
    CodeTable::find(&table(), FileId::of(&metadata), || place).unwrap()
}

#[test]
fn functions_that_the_compiler_put_into_others_are_frames_with_lines() {
    let built = build(&["-g"]);
    let code = Code::open(&built.program).unwrap();
    let stacks = stacks(&mut resolver(), &code, function(&built.program, "outermost"));
    let whole = stacks.iter().find(|frames| frames.len() == 3).expect("a stack of three");
    assert_eq!(names(whole), ["outermost", "middle", "innermost"]);
    assert_eq!(whole.iter().map(|frame| frame.inlined).collect::<Vec<_>>(), [false, true, true]);
    // The line of a caller is that of the call.
    assert_eq!(whole.iter().map(|frame| frame.line).collect::<Vec<_>>()[..2], [12, 9]);
    assert!((5..=6).contains(&whole[2].line), "{whole:?}");
    assert!(whole.iter().all(|frame| frame.file.ends_with("program.c") && &*frame.module == "program"));
    assert!(stacks.iter().all(|frames| frames[0].origin == Origin::User));
}

#[test]
fn packed_debug_information_says_the_same() {
    for how in ["zlib", "zstd"] {
        let built = build(&["-g"]);
        run(Command::new("objcopy").arg(format!("--compress-debug-sections={how}")).arg(&built.program));
        let code = Code::open(&built.program).unwrap();
        let stacks = stacks(&mut resolver(), &code, function(&built.program, "outermost"));
        assert!(stacks.iter().any(|frames| names(frames) == ["outermost", "middle", "innermost"]), "{how}: {stacks:?}");
    }
}

#[test]
fn what_was_stripped_is_found_by_build_id_and_by_link_in_the_process_root() {
    for by_id in [true, false] {
        let built = build(if by_id { &["-g", "-Wl,--build-id"] } else { &["-g", "-Wl,--build-id=none"] });
        let range = function(&built.program, "outermost");
        let root = built.folder.path();
        let kept = if by_id {
            let id = Code::open(&built.program).unwrap().build_id().unwrap().to_vec();
            let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            root.join("usr/lib/debug/.build-id").join(&hex[..2]).join(format!("{}.debug", &hex[2..]))
        } else {
            root.join("usr/lib/debug/program.debug")
        };
        fs::create_dir_all(kept.parent().unwrap()).unwrap();
        run(Command::new("objcopy").arg("--only-keep-debug").arg(&built.program).arg(&kept));
        run(Command::new("strip").arg(&built.program));
        if !by_id {
            run(Command::new("objcopy").arg(format!("--add-gnu-debuglink={}", kept.display())).arg(&built.program));
        }
        let code = in_root(root, "/program");
        let frames = stacks(&mut resolver(), &code, range.clone());
        assert!(
            frames.iter().any(|frames| names(frames) == ["outermost", "middle", "innermost"]),
            "{by_id}: {frames:?}"
        );

        // Another build's is not taken for it.
        let other = build(&["-g", "-O1", "-Wl,--build-id"]);
        run(Command::new("objcopy").arg("--only-keep-debug").arg(&other.program).arg(&kept));
        let frames = stacks(&mut resolver(), &in_root(root, "/program"), range);
        assert!(frames.iter().all(|frames| names(frames) == ["[unknown in program]"]), "{by_id}: {frames:?}");
    }
}

#[test]
fn places_without_a_symbol_fold_into_one_frame_in_words() {
    let built = build(&["-Wl,-z,now"]);
    let range = function(&built.program, "outermost");
    run(Command::new("strip").arg(&built.program));
    let code = Code::open(&built.program).unwrap();
    let frames = stacks(&mut resolver(), &code, range);
    assert_eq!(frames.len(), 1);
    assert_eq!(names(&frames[0]), ["[unknown in program]"]);
    assert_eq!(&*frames[0][0].module, "program");
    let linkage = stacks(&mut resolver(), &code, 0x1000..0x2000);
    assert!(linkage.iter().any(|frames| names(frames) == ["[linkage table of program]"]), "{linkage:?}");
}

/// Of this very program, so that demangling of Rust is seen too, however large its debug information has become.
#[test]
fn a_rust_function_bears_its_path() {
    let address = marked as fn() -> u64 as usize as u64;
    let mut resolver = Resolver::new(Limits { debug_bytes: u64::MAX, ..Limits::default() }, table());
    let frames = resolver.resolve(&[Location::Address { pid: std::process::id(), address }]);
    assert!(frames[0][0].function.ends_with("profile::symbols::tests::marked"), "{frames:?}");
    assert!(frames[0][0].file.ends_with("symbols/tests.rs"), "{frames:?}");
    assert!(frames[0][0].line > 0);
}

#[inline(never)]
fn marked() -> u64 {
    std::hint::black_box(7)
}

#[test]
fn the_vdso_has_names() {
    let maps = procfs::process::Process::myself().unwrap().maps().unwrap();
    let vdso = maps.iter().find(|map| map.pathname == procfs::process::MMapPath::Vdso).unwrap().address;
    let locations: Vec<_> = (0..vdso.1 - vdso.0).step_by(16).map(|offset| Location::Vdso { offset }).collect();
    let found = resolver().resolve(&locations);
    assert!(found.iter().any(|frames| frames[0].function.contains("clock_gettime")));
    assert!(found.iter().all(|frames| &*frames[0].module == "[vdso]"));
}

/// A procfs with nothing but this list.
fn kallsyms(text: &str) -> (TempDir, Resolver) {
    let proc = TempDir::new().unwrap();
    fs::write(proc.path().join("kallsyms"), text).unwrap();
    let resolver = Resolver::new(Limits { proc: proc.path().to_owned(), ..Limits::default() }, table());
    (proc, resolver)
}

#[test]
fn kernel_functions_have_names_and_modules() {
    let text = "ffffffff81000000 T _stext\nffffffff81000100 t do_read\nffffffff81000180 d not_code\n\
                ffffffff81000200 T do_write\nffffffffc0000000 t nft_do_chain\t[nf_tables]\n\
                ffffffffc0001000 t bpf_prog_6deef7357e7b4530_sys_enter\t[bpf]\n\
                ffffffffc0002000 t bpf_trampoline_6442478611\t[bpf]\n";
    let (_proc, mut resolver) = kallsyms(text);
    let cases = [
        (0xffff_ffff_8100_0000, "_stext", "[kernel]"),
        (0xffff_ffff_8100_01ff, "do_read", "[kernel]"),
        (0xffff_ffff_c000_0010, "nft_do_chain", "[nf_tables]"),
        (0xffff_ffff_c000_1abc, "sys_enter", "[bpf]"),
        (0xffff_ffff_c000_2001, "bpf trampoline", "[bpf]"),
        (0xffff_ffff_ffff_f000, "[unknown in the kernel]", "[kernel]"),
        (0x1000, "[unknown in the kernel]", "[kernel]"),
    ];
    for (address, function, module) in cases {
        let frames = resolver.resolve(&[Location::Kernel { address }]);
        assert_eq!((&*frames[0][0].function, &*frames[0][0].module), (function, module));
        assert_eq!(frames[0][0].origin, Origin::Kernel);
    }
}

#[test]
fn hidden_kernel_addresses_are_said_in_words() {
    let (_proc, mut resolver) = kallsyms("0000000000000000 T _stext\n0000000000000000 t do_read\n");
    let frames = resolver.resolve(&[Location::Kernel { address: 0xffff_ffff_8100_0000 }]);
    assert!(frames[0][0].function.contains("kptr_restrict"), "{frames:?}");
}

#[test]
fn names_are_found_again_without_the_file() {
    let built = build(&[]);
    let range = function(&built.program, "outermost");
    let code = Code::open(&built.program).unwrap();
    let limits = Limits { loaded_bytes: 0, ..Limits::default() };
    let mut resolver = Resolver::new(limits, table());
    let before = stacks(&mut resolver, &code, range.clone());
    assert_eq!(names(&before[0]), ["outermost"]);
    fs::write(&built.program, b"gone").unwrap();
    assert_eq!(stacks(&mut resolver, &code, range), before);
}

#[tokio::test]
async fn a_symbolizer_answers_many_at_once_and_ends_with_its_last_handle() {
    let symbolizer = Symbolizer::start(Limits::default(), table()).unwrap();
    let own = std::process::id();
    let address = marked as fn() -> u64 as usize as u64;
    let asked = vec![Location::Address { pid: own, address }, Location::Kernel { address: 0 }];
    let other = symbolizer.clone();
    let (one, two) = tokio::join!(symbolizer.resolve(asked.clone()), other.resolve(asked));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one, two);
    assert_eq!(one.len(), 2);
    assert!(one[0][0].function.ends_with("marked"));
}
