//! Profiles of processes that are hard to look at: gone, idle, without symbols, with broken tables, in other namespaces,
//! very many. Each is answered by the best result that there is, or in words.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use object::{Object as _, ObjectSection as _};
use steth_tests::{
    agent::{self, steth},
    flame::{Flame, Folded, flame},
    need_bpf, need_program,
    process::{self, Process, User},
    programs::{MEMFD_CODE, Program, SPINS},
    skipped, wait,
};

const SOON: Duration = Duration::from_secs(60);
/// As distributions build: without frame pointers.
const BARE: &[&str] = &["-O2", "-fomit-frame-pointer", "-g"];

fn spins(flags: &[&str]) -> Program {
    Program::build_with("spin", SPINS, flags).unwrap()
}

/// Once it has said that it is ready.
fn started(command: Command) -> Process {
    let process = Process::start("spins", command).unwrap();
    process.wait_for_line("that it is ready", SOON, |line| (line == "ready").then_some(())).unwrap();
    process
}

fn begin(pid: u32, options: &[&str]) -> Flame {
    Flame::begin(&[&["-p", &pid.to_string()], options].concat()).unwrap()
}

/// The part of it that is on the program's path from its beginning to where it spins.
fn on_path(folded: &Folded) -> f64 {
    let path = ["main", "outer", "inner"];
    let is_on = |frames: &[String]| path.iter().all(|wanted| frames.iter().any(|frame| frame == wanted));
    folded.only(|line| is_on(&line.frames)).ns() as f64 / folded.ns() as f64
}

fn assert_full(folded: &Folded) {
    let (path, whole) = (on_path(folded), folded.whole());
    assert!(folded.ns() > 0 && path >= 0.97 && whole >= 0.995, "{path} on the path, {whole} whole: {folded:#?}");
}

/// A number that no process has now: that of a child which has ended.
fn nobody() -> u32 {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    pid
}

#[test]
fn a_process_that_does_not_exist_is_an_error_in_words() {
    need_bpf!();
    let pid = nobody().to_string();
    let (code, out, said) = steth(&["flame", "--config", "/dev/null", "--alone", "-p", &pid, "-o", "-"]).unwrap();
    assert_eq!((code, out.as_str()), (Some(1), ""), "{said}");
    assert!(said.contains(&pid) && said.contains("process"), "{said}");
}

#[test]
fn system_calls_too_short_to_be_told_are_refused_in_words() {
    need_bpf!();
    let arguments = ["flame", "--config", "/dev/null", "--alone", "--all", "--syscalls", "0s", "-o", "-"];
    let (code, out, said) = steth(&arguments).unwrap();
    assert_eq!((code, out.as_str()), (Some(2), ""), "{said}");
    assert!(said.contains("from 1 ms on"), "{said}");
}

#[test]
fn one_that_ends_in_the_middle_keeps_its_samples_and_names() {
    need_bpf!();
    let program = spins(BARE);
    let mut process = started(program.command(&["spin", "700"]));
    let flame = begin(process.id(), &["-d", "60s", "-F", "499"]);
    process.say("go").unwrap();
    assert!(process.wait(SOON).unwrap().success());
    // Nothing is left that could tell where the program was.
    drop(program);
    let folded = flame.end(true).unwrap();
    assert_full(&folded);
    let used = folded.ns() as f64 / 1e6;
    assert!((600.0..850.0).contains(&used), "{used} ms of 700");
}

#[test]
fn one_that_ends_before_any_sample_leaves_a_profile_that_says_so() {
    need_bpf!();
    let program = spins(BARE);
    let process = started(program.command(&["wait"]));
    let flame = begin(process.id(), &["-d", "60s"]);
    drop(process);
    let (folded, said) = flame.end_with_words(true).unwrap();
    assert_eq!(folded.ns(), 0, "{folded:#?}");
    assert!(said.contains("the process ended before a sample was taken"), "{said}");
}

#[test]
fn one_that_only_waits_has_an_empty_profile_that_says_where_to_look() {
    need_bpf!();
    let program = spins(BARE);
    let process = started(program.command(&["wait"]));
    let (folded, said) = begin(process.id(), &["-d", "500ms"]).end_with_words(false).unwrap();
    assert_eq!(folded.ns(), 0, "{folded:#?}");
    assert!(said.contains("no CPU time") && said.contains("--off-cpu") && said.contains("--wall"), "{said}");
}

/// The clock of an idle CPU may stand still; whoever runs after that must not be told to have run all the while.
#[test]
fn one_that_mostly_sleeps_has_the_time_that_it_runs() {
    need_bpf!();
    let program = spins(BARE);
    let process = started(program.command(&["naps", "5"]));
    let folded = begin(process.id(), &["-d", "6s", "-F", "99"]).end(false).unwrap();
    // It runs for 75 ms, of which each sample tells a tick or two.
    assert!(folded.ns() < 500_000_000, "{folded:#?}");
}

#[test]
fn a_deleted_program_has_all_its_names() {
    need_bpf!();
    let program = spins(BARE);
    let process = started(program.command(&["spin"]));
    drop(program);
    assert_full(&begin(process.id(), &["-d", "1s", "-F", "499"]).end(false).unwrap());
}

#[test]
fn a_program_that_was_replaced_keeps_the_names_that_it_runs_with() {
    need_bpf!();
    let program = spins(BARE);
    let process = started(program.command(&["spin"]));
    let other = SPINS.replace("inner", "other").replace("outer", "another");
    // As much code, other names at the same places.
    let other = Program::build_with("othr", &other, BARE).unwrap();
    fs::rename(&other.path, &program.path).unwrap();
    assert_full(&begin(process.id(), &["-d", "1s", "-F", "499"]).end(false).unwrap());
    let new = started(program.command(&["spin"]));
    let folded = begin(new.id(), &["-d", "1s", "-F", "499"]).end(false).unwrap();
    assert!(folded.share("other") >= 0.97 && folded.share("inner") == 0.0, "{folded:#?}");
}

/// As a copy over it does, or whoever gets the number of its inode when it is gone. What an agent has seen of it holds no more.
#[test]
fn a_program_that_was_written_over_has_the_names_that_it_has_now() {
    need_bpf!();
    let agent = agent::Agent::start(&agent::Options::default()).unwrap();
    let program = spins(BARE);
    let through = |pid: u32| {
        let options = ["--agent", agent.address(), "-p", &pid.to_string(), "-d", "1s", "-F", "499"];
        flame(&options).unwrap()
    };
    let mut old = started(program.command(&["spin"]));
    assert_full(&through(old.id()));
    old.signal("KILL").unwrap();
    old.wait(SOON).unwrap();
    // Longer frames, so that callers are found by its own rules alone.
    let other = SPINS.replace("inner", "other").replace("outer", "another");
    let other = Program::build_with("othr", &other, &["-O1", "-fomit-frame-pointer", "-g"]).unwrap();
    fs::write(&program.path, fs::read(&other.path).unwrap()).unwrap();
    let new = started(program.command(&["spin"]));
    let folded = through(new.id());
    let (whole, share) = (folded.whole(), folded.share("other"));
    assert!(share >= 0.97 && whole >= 0.995 && folded.share("inner") == 0.0, "{share}, {whole}: {folded:#?}");
}

/// Samples of the first milliseconds come before it is known that the file is none.
#[test]
fn code_made_in_a_file_that_only_memory_holds_has_the_names_of_its_list() {
    need_bpf!();
    need_program!("gcc");
    let flags = ["-O2", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-g"];
    let program = Program::build_with("memf", MEMFD_CODE, &flags).unwrap();
    let mut process = started(program.command(&["made_in_memory"]));
    let folded = begin(process.id(), &["-d", "2s", "-F", "499"]).end(false).unwrap();
    process.say("end").unwrap();
    assert!(process.wait(SOON).unwrap().success());
    let made = folded.only(|line| line.has("made_in_memory_[j]"));
    let named = made.ns() as f64 / folded.ns() as f64;
    let called = made.only(|line| line.has("main") && line.has("calls")).ns() as f64 / made.ns() as f64;
    assert!(named >= 0.9 && called >= 0.99, "{named} named, {called} of it called by main: {folded:#?}");
}

#[test]
fn a_stripped_program_has_whole_stacks_that_name_the_file() {
    need_bpf!();
    let program = spins(&["-O2", "-fomit-frame-pointer", "-s"]);
    let process = started(program.command(&["spin"]));
    let folded = begin(process.id(), &["-d", "1s", "-F", "499"]).end(false).unwrap();
    let whole = folded.whole();
    assert!(folded.ns() > 0 && whole >= 0.995, "{whole} whole: {folded:#?}");
    // Three functions of its own above the C library's start.
    let of_it = |frames: &[String]| frames.iter().filter(|frame| frame.contains(&program.name)).count();
    let named = folded.only(|line| of_it(&line.frames) >= 3).ns() as f64 / folded.ns() as f64;
    assert!(named >= 0.97, "{named} has three frames of {}: {folded:#?}", program.name);
}

/// Writes over the sections of a file.
fn spoil(path: &Path, sections: &[&str], mut byte: impl FnMut(usize) -> Option<u8>) {
    let mut bytes = fs::read(path).unwrap();
    for section in sections {
        let range = {
            let file = object::File::parse(&*bytes).unwrap();
            file.section_by_name(section).unwrap().file_range().unwrap()
        };
        let (start, length) = (usize::try_from(range.0).unwrap(), usize::try_from(range.1).unwrap());
        for at in 0..length {
            if let Some(byte) = byte(at) {
                bytes[start + at] = byte;
            }
        }
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn broken_unwind_sections_cost_callers_and_nothing_else() {
    need_bpf!();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut any = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    type Spoiler<'a> = &'a mut dyn FnMut(usize) -> Option<u8>;
    let mut some = any;
    let cases: [(&str, &[&str], Spoiler<'_>); 4] = [
        ("all ones", &[".eh_frame", ".eh_frame_hdr"], &mut |_| Some(0xff)),
        ("nothing", &[".eh_frame"], &mut |_| Some(0)),
        ("anything", &[".eh_frame"], &mut |_| Some(any() as u8)),
        ("a byte in seven", &[".eh_frame"], &mut |_| (some() % 7 == 0).then(|| some() as u8)),
    ];
    for (case, sections, byte) in cases {
        let program = spins(BARE);
        spoil(&program.path, sections, byte);
        let process = started(program.command(&["spin"]));
        let folded = begin(process.id(), &["-d", "500ms", "-F", "499"]).end(false).unwrap();
        // Where it ran is known in any case; a stack that ends early says why.
        let told = folded.only(|line| line.has("inner")).ns() as f64 / folded.ns() as f64;
        assert!(folded.ns() > 0 && told >= 0.97, "{case}: {folded:#?}");
        let silent = folded.only(|line| !line.has("main")).whole();
        assert!(silent.is_nan() || silent < 0.01, "{case}: cut without a word: {folded:#?}");
    }
}

/// The child of a process that has one.
fn child_of(pid: u32) -> u32 {
    let path = PathBuf::from(format!("/proc/{pid}/task/{pid}/children"));
    let child = || Ok(fs::read_to_string(&path)?.trim().parse().ok());
    wait::poll("a child", SOON, child).unwrap()
}

#[test]
fn other_mount_and_pid_namespaces_make_no_difference() {
    need_bpf!();
    need_program!("unshare", "mount");
    let program = spins(BARE);
    let folder = tempfile::Builder::new().prefix("steth-inside-").tempdir().unwrap();
    // Seen from here the folder is empty.
    let script = "mount -t tmpfs none \"$1\" && cp \"$0\" \"$1/inside\" && exec \"$1/inside\" spin";
    let mut command = process::command("unshare", None);
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]);
    command.args([&program.path, folder.path()]);
    let process = started(command);
    assert!(!folder.path().join("inside").exists());
    assert_full(&begin(child_of(process.id()), &["-d", "1s", "-F", "499"]).end(false).unwrap());
}

#[test]
fn without_the_right_to_it_the_privilege_is_named() {
    need_bpf!();
    let Some(user) = User::named("nobody") else { skipped!("needs the user nobody") };
    let folder = tempfile::Builder::new().prefix("steth-nobody-").tempdir().unwrap();
    let copy = folder.path().join("steth");
    // By another process: while this one had it open for writing, no child of any thread could execute it.
    assert!(Command::new("cp").args([&agent::binary().unwrap(), &copy]).status().unwrap().success());
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), open).unwrap();
    let mut command = process::command(&copy, Some(&user));
    agent::without_settings(&mut command);
    command.args(["flame", "--config", "/dev/null", "--alone", "-p", &std::process::id().to_string(), "-o", "-"]);
    let mut process = Process::start("steth", command).unwrap();
    assert_eq!(process.wait(SOON).unwrap().code(), Some(3), "{}", process.log());
    assert!(process.log().contains("CAP_BPF"), "{}", process.log());
}

#[test]
fn five_thousand_processes_are_all_in_it() {
    need_bpf!();
    const MANY: u64 = 5000;
    let program = spins(BARE);
    let process = started(program.command(&["many", &MANY.to_string()]));
    let flame = Flame::begin(&["--service", &program.name, "-d", "2s", "--off-cpu", "-F", "49"]).unwrap();
    let folded = flame.end(false).unwrap();
    drop(process);
    // The first waits as its children do.
    let (waited, least) = (folded.ns(), (MANY + 1) * 1_960_000_000);
    assert!(waited >= least, "{waited} ns, at least {least} expected");
    let named = folded.share("waits");
    // How many are walked depends on what else the machine has to do; none is left out without a word.
    let busy = folded.share("[unwinder busy]");
    println!("{named:.4} of {MANY} processes were walked in time, {busy:.4} not");
    assert!(named + busy >= 0.995 && named >= 0.4, "{named} named, {busy} not in time: {:.3} whole", folded.whole());
}

/// Moves what is found by name (the table of sections, those of symbols, their names) to behind two gigabytes of nothing.
fn make_large(path: &Path) -> u64 {
    const FAR: u64 = 2 << 30;
    const SYMBOLS: u32 = 2;
    const NAMES: u32 = 3;
    let mut bytes = fs::read(path).unwrap();
    let wide = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let number = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    // `Elf64_Ehdr` and `Elf64_Shdr` of the System V ABI.
    let (table, count) = (wide(&bytes, 0x28) as usize, u16::from_le_bytes([bytes[0x3c], bytes[0x3d]]));
    let mut sections = bytes[table..table + usize::from(count) * 64].to_vec();
    let mut far = FAR;
    let mut moved: Vec<(u64, Vec<u8>)> = Vec::new();
    for section in sections.chunks_mut(64) {
        let is_loaded = wide(section, 8) & 2 != 0;
        if is_loaded || ![SYMBOLS, NAMES].contains(&number(section, 4)) {
            continue;
        }
        let (from, length) = (wide(section, 24) as usize, wide(section, 32) as usize);
        moved.push((far, bytes[from..from + length].to_vec()));
        bytes[from..from + length].fill(0);
        section[24..32].copy_from_slice(&far.to_le_bytes());
        far += (length as u64).next_multiple_of(4096);
    }
    bytes[0x28..0x30].copy_from_slice(&far.to_le_bytes());
    moved.push((far, sections));
    // What runs already keeps its file.
    fs::remove_file(path).unwrap();
    let file = File::options().write(true).create_new(true).mode(0o755).open(path).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    moved.iter().for_each(|(at, part)| file.write_all_at(part, *at).unwrap());
    file.metadata().unwrap().len()
}

#[test]
fn a_binary_of_two_gigabytes_has_whole_stacks_and_names() {
    need_bpf!();
    let program = spins(BARE);
    let bytes = make_large(&program.path);
    assert!(bytes > 2 << 30);
    let process = started(program.command(&["spin"]));
    let begun = Instant::now();
    let flame = Flame::begin(&["-p", &process.id().to_string(), "-d", "1s", "-F", "499"]).unwrap();
    println!("samples of a binary of {bytes} bytes were taken after {:.0?}", begun.elapsed());
    let folded = flame.end(false).unwrap();
    let (named, whole) = (folded.share("inner"), folded.whole());
    assert!(named >= 0.95 && whole >= 0.99, "{named} named, {whole} whole: {folded:#?}");
}
