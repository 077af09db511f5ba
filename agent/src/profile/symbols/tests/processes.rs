//! Processes that are gone, in another root, or make code themselves.

use std::{collections::HashSet, time::Duration};

use super::*;
use crate::profile::mappings::Process;

/// The program, running until it is told to end.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut running = Self(child);
        let mut line = String::new();
        BufReader::new(running.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        running
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn mappings(&self, table: &Mutex<CodeTable>) -> Mappings {
        Mappings::read(Path::new("/proc"), self.pid(), table).unwrap()
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where the program's `outermost` is in the process' memory.
fn address(mappings: &Mappings, offset: u64) -> u64 {
    let area = mappings.areas().iter().find(|area| {
        matches!(&area.backing, super::super::super::mappings::Backing::File(code) if &**code.name() == "program")
    });
    let area = area.unwrap();
    area.start + offset - area.offset
}

#[test]
fn a_program_that_was_deleted_and_replaced_and_ended_has_its_names() {
    let built = build(&["-g"]);
    let range = function(&built.program, "outermost");
    let running = Running::start(&mut Command::new(&built.program));
    fs::remove_file(&built.program).unwrap();
    fs::write(&built.program, "another").unwrap();
    let table = table();
    let mappings = running.mappings(&table);
    let location = mappings.locate(address(&mappings, range.start));
    let Location::Code { code, offset } = &location else { panic!("{location:?}") };
    assert_eq!((&**code.name(), *offset), ("program", range.start));
    running.end();
    let frames = Resolver::new(Limits::default(), table).resolve(&[location]);
    assert_eq!(&*frames[0][0].function, "outermost");
    assert!(frames[0][0].line > 0);
}

#[test]
fn a_process_that_is_gone_is_said_in_words() {
    let built = build(&[]);
    let running = Running::start(&mut Command::new(&built.program));
    let pid = running.pid();
    running.end();
    let frames = resolver().resolve(&[Location::Address { pid, address: 0x1000 }]);
    assert_eq!(names(&frames[0]), ["[code of a process that is gone]"]);
    assert_eq!(frames[0][0].origin, Origin::Note);
}

#[test]
fn a_process_that_may_not_be_looked_at_is_said_in_words() {
    let proc = TempDir::new().unwrap();
    fs::create_dir_all(proc.path().join("7/maps")).unwrap();
    fs::write(proc.path().join("7/stat"), "").unwrap();
    let mut resolver = Resolver::new(Limits { proc: proc.path().to_owned(), ..Limits::default() }, table());
    let frames = resolver.resolve(&[Location::Address { pid: 7, address: 0x1000 }]);
    assert_eq!(names(&frames[0]), ["[code of a process that may not be looked at]"]);
}

/// Needs root, as making a mount namespace does.
#[test]
fn a_program_that_only_another_mount_namespace_has_is_named() {
    use std::os::unix::fs::MetadataExt as _;
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("skipped: needs root");
        return;
    }
    let built = build(&["-g"]);
    let range = function(&built.program, "outermost");
    let inner = built.folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let script = format!(
        "mount -t tmpfs none {inner} && cp {program} {inner}/program && exec {inner}/program",
        inner = inner.display(),
        program = built.program.display()
    );
    let mut command = Command::new("unshare");
    let running = Running::start(command.args(["-m", "sh", "-c", &script]));
    assert!(!inner.join("program").exists());
    let table = table();
    let mappings = running.mappings(&table);
    let pid = running.pid();
    let mut resolver = Resolver::new(Limits::default(), table);
    let frames = resolver.resolve(&[Location::Address { pid, address: address(&mappings, range.start) }]);
    assert_eq!(&*frames[0][0].function, "outermost");
}

#[test]
fn no_more_descriptors_than_allowed_are_held() {
    let built = build(&[]);
    let range = function(&built.program, "outermost");
    let table = Mutex::new(CodeTable::new(3));
    let codes: Vec<Arc<Code>> = (0..10)
        .map(|number| {
            let path = built.folder.path().join(format!("program{number}"));
            fs::copy(&built.program, &path).unwrap();
            let code = Code::open(&path).unwrap();
            let place = code.place().clone();
            CodeTable::find(&table, code.id(), || place).unwrap()
        })
        .collect();
    assert_eq!(table.lock().unwrap().open_count(), 3);
    // What was closed is opened for as long as it takes.
    let mut resolver = resolver();
    for code in &codes {
        let frames = stacks(&mut resolver, code, range.clone());
        assert_eq!(names(&frames[0]), ["outermost"]);
    }
    // Unless it is not there any more.
    fs::write(codes[0].place().path.as_path(), "another").unwrap();
    let mut resolver = super::resolver();
    assert_eq!(names(&stacks(&mut resolver, &codes[0], range)[0]), ["[unknown in program0]"]);
}

#[test]
fn what_nobody_has_mapped_any_more_is_closed_after_a_while() {
    let built = build(&[]);
    let code = Code::open(&built.program).unwrap();
    let table = Mutex::new(CodeTable::new(3));
    CodeTable::find(&table, code.id(), || code.place().clone()).unwrap();
    let (nobody, someone) = (HashSet::new(), HashSet::from([code.id()]));
    let let_go = |mapped, idle| table.lock().unwrap().let_go(mapped, idle);
    let open_count = || table.lock().unwrap().open_count();
    assert_eq!(let_go(&nobody, Duration::MAX), 0);
    assert_eq!(let_go(&someone, Duration::ZERO), 0);
    assert_eq!((let_go(&nobody, Duration::MAX), open_count()), (0, 1));
    assert_eq!((let_go(&nobody, Duration::ZERO), open_count()), (1, 0));
    // Whoever maps it again meets it anew.
    CodeTable::find(&table, code.id(), || code.place().clone()).unwrap();
    assert_eq!(open_count(), 1);
}

#[test]
fn while_a_file_is_opened_others_are_found() {
    let built = build(&[]);
    let code = Code::open(&built.program).unwrap();
    let table = Mutex::new(CodeTable::new(3));
    let place = || {
        // Its file system may take as long as it likes.
        CodeTable::find(&table, code.id(), || code.place().clone()).unwrap();
        code.place().clone()
    };
    let found = CodeTable::find(&table, code.id(), place).unwrap();
    assert_eq!(table.lock().unwrap().open_count(), 1);
    assert_eq!(found.number(), CodeTable::find(&table, code.id(), || unreachable!()).unwrap().number());
}

#[test]
fn no_more_files_are_kept_ready_than_allowed() {
    let built = build(&[]);
    let range = function(&built.program, "outermost");
    let limits = Limits { loaded_files: 2, ..Limits::default() };
    let mut resolver = Resolver::new(limits, table());
    for number in 0..5 {
        let path = built.folder.path().join(format!("copy{number}"));
        fs::copy(&built.program, &path).unwrap();
        let frames = stacks(&mut resolver, &Code::open(&path).unwrap(), range.clone());
        assert_eq!(names(&frames[0]), ["outermost"]);
        assert_eq!(resolver.held_files(), (number + 1).min(2));
    }
}

/// A process that makes code, with a root of its own.
fn maker(root: &Path, runtime: Option<Runtime>) -> Arc<Process> {
    fs::create_dir_all(root.join("tmp")).unwrap();
    let root = rustix::fs::open(root, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    Arc::new(Process { pid: 4_000_000, inner_pid: 7, runtime, root: Some(root) })
}

fn made(resolver: &mut Resolver, process: &Arc<Process>, address: u64) -> Frame {
    let frames = resolver.resolve(&[Location::Memory { process: Arc::clone(process), address }]);
    assert_eq!(frames[0].len(), 1);
    frames[0][0].clone()
}

#[test]
fn code_made_while_running_is_named_by_the_list_that_its_process_writes() {
    let root = TempDir::new().unwrap();
    let process = maker(root.path(), Some(Runtime::Node));
    let mut resolver = resolver();
    assert_eq!(&*made(&mut resolver, &process, 0x1000).function, "[jit code of node, no perf map]");

    let list = root.path().join("tmp/perf-7.map");
    let mut file = File::create(&list).unwrap();
    file.write_all(b"1000 10 LazyCompile:*handler /srv/app.js:12:3\nnonsense\n2000 20 py::main:/srv/app.py\n3000 1")
        .unwrap();
    let frame = made(&mut resolver, &process, 0x100f);
    assert_eq!((&*frame.function, &*frame.file, frame.line), ("handler", "/srv/app.js", 12));
    assert_eq!(frame.origin, Origin::Jit);
    assert_eq!(&*made(&mut resolver, &process, 0x1010).function, "[jit code of node, not in its perf map]");
    let frame = made(&mut resolver, &process, 0x2000);
    assert_eq!((&*frame.function, &*frame.file), ("main", "/srv/app.py"));
    assert_eq!(&*made(&mut resolver, &process, 0x3000).function, "[jit code of node, not in its perf map]");

    // It grows, also in the middle of a line; what is written later holds.
    file.write_all(b"0 Lcom/example/Main;::run\n1008 8 JS:^other file:///srv/b.js:1:2\n").unwrap();
    assert_eq!(&*made(&mut resolver, &process, 0x3000).function, "Lcom/example/Main;::run");
    assert_eq!(&*made(&mut resolver, &process, 0x1008).function, "other");
    assert_eq!(&*made(&mut resolver, &process, 0x1000).function, "[jit code of node, not in its perf map]");

    // Another list in its place.
    fs::remove_file(&list).unwrap();
    fs::write(&list, "1000 8 again\n").unwrap();
    assert_eq!(&*made(&mut resolver, &process, 0x1000).function, "again");
    assert_ne!(&*made(&mut resolver, &process, 0x3000).function, "Lcom/example/Main;::run");
}

#[test]
fn a_list_that_leads_out_of_the_root_or_would_wait_is_not_read() {
    let root = TempDir::new().unwrap();
    let outside = TempDir::new().unwrap();
    fs::write(outside.path().join("list"), "1000 10 secret\n").unwrap();
    let process = maker(root.path(), None);
    let list = root.path().join("tmp/perf-7.map");
    std::os::unix::fs::symlink(outside.path().join("list"), &list).unwrap();
    assert_eq!(&*made(&mut resolver(), &process, 0x1000).function, "[anonymous code]");
    fs::remove_file(&list).unwrap();
    run(Command::new("mkfifo").arg(&list));
    assert_eq!(&*made(&mut resolver(), &process, 0x1000).function, "[anonymous code]");
}

#[test]
fn runtimes_are_known_by_their_files() {
    let of = |path: &str| Runtime::of_file(Path::new(path));
    assert_eq!(of("/usr/bin/node"), Some(Runtime::Node));
    assert_eq!(of("/usr/bin/python3.11"), Some(Runtime::Python));
    assert_eq!(of("/usr/lib/jvm/java-17/lib/server/libjvm.so"), Some(Runtime::Jvm));
    assert_eq!(of("/usr/bin/node_exporter"), None);
    assert_eq!(of("/usr/bin/phpize"), None);
}
