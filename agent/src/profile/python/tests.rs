//! Real interpreters, held in known functions. Debian's `python3` is there; `STETH_PYTHONS` names more, parted by colons.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};

use super::*;
use crate::profile::{code::CodeTable, symbols::Runtime};

/// Each thread says its stack as Python sees it, a line of `function line …`, the innermost first, and then waits in the
/// line after that, in a system call.
const PROGRAM: &str = r#"
import os, sys, threading

def stop(pipe):
    frame, said = sys._getframe(), []
    while frame:
        said.append(f"{frame.f_code.co_name} {frame.f_lineno}")
        frame = frame.f_back
    said[0] = f"stop {WAIT}"
    print(threading.get_native_id(), "|", "|".join(said), flush=True)
    os.read(pipe, 1)
WAIT = stop.__code__.co_firstlineno + 7

class Service:
    def handle(self, pipe):
        for _ in self.numbers(pipe):
            pass

    def numbers(self, pipe):
        yield from [next(iter(sorted([pipe], key=lambda pipe: self.größe(pipe))))]

    def größe(self, pipe):
        stop(pipe)

def deep(depth, pipe):
    return deep(depth - 1, pipe) if depth else Service().handle(pipe)

def main():
    reading, writing = os.pipe()
    thread = threading.Thread(target=lambda: stop(reading))
    thread.daemon = True
    thread.start()
    deep(3, reading)

main()
"#;

struct Python(Child);

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What each of two threads said: its number, and functions with lines.
fn start(python: &str) -> (Python, Vec<(u32, Vec<String>)>) {
    let mut command = Command::new(python);
    let child = command.args(["-I", "-c", PROGRAM]).stdout(Stdio::piped()).spawn().unwrap();
    let mut running = Python(child);
    let lines = BufReader::new(running.0.stdout.take().unwrap()).lines().take(2);
    let said = lines.map(|line| {
        let line = line.unwrap();
        let (tid, frames) = line.split_once(" | ").or_else(|| line.split_once(" |")).unwrap();
        (tid.trim().parse().unwrap(), frames.trim().split('|').map(|frame| frame.trim().to_owned()).collect())
    });
    let said = said.collect();
    (running, said)
}

/// Waits until a thread stands in `read`, the system call 0.
fn await_read(pid: u32, tid: u32) {
    let path = format!("/proc/{pid}/task/{tid}/syscall");
    while !fs::read_to_string(&path).unwrap().starts_with("0 ") {
        thread::sleep(Duration::from_millis(1));
    }
}

fn pythons() -> Vec<String> {
    let more = env::var("STETH_PYTHONS").unwrap_or_default();
    let more = more.split(':').filter(|path| !path.is_empty()).map(str::to_owned);
    ["/usr/bin/python3".to_owned()].into_iter().chain(more).collect()
}

#[test]
fn frames_are_those_that_python_tells_of_itself() {
    for python in pythons() {
        let (running, said) = start(&python);
        let pid = running.0.id();
        let table = Mutex::new(CodeTable::new(64));
        let mappings = Mappings::read(Path::new("/proc"), pid, &table).unwrap();
        assert_eq!(mappings.process().runtime, Some(Runtime::Python), "{python}");
        let mut memory = ProcessMemory::open(Path::new("/proc"), pid).unwrap();
        let Found::Supported(interpreter) = Interpreter::find(&mappings, &mut memory) else { panic!("{python}") };
        let mut descriptions = Descriptions::default();
        assert_eq!(said.len(), 2);
        for (tid, expected) in said {
            await_read(pid, tid);
            let places = interpreter.frames(&mut memory, tid).unwrap();
            for _ in 0..2 {
                let frames = descriptions.describe(pid, &interpreter, &mut memory, &places);
                let named: Vec<_> = frames.iter().filter_map(|frame| frame.frame.as_ref()).collect();
                let found: Vec<String> = named
                    .iter()
                    .map(|frame| {
                        let name = frame.function.rsplit([':', '.']).next().unwrap();
                        format!("{name} {}", frame.line)
                    })
                    .collect();
                assert_eq!(found, expected, "{python}, thread {tid}");
                assert!(named.iter().all(|frame| frame.function.starts_with(&format!("{}:", frame.module))));
            }
            if tid == pid {
                let is_qualified = interpreter.version.minor > 10;
                let frames = descriptions.describe(pid, &interpreter, &mut memory, &places);
                let method = if is_qualified { "<string>:Service.größe" } else { "<string>:größe" };
                let frames: Vec<_> = frames.iter().filter_map(|frame| frame.frame.as_ref()).collect();
                assert!(frames.iter().any(|frame| &*frame.function == method), "{python}");
                // `sorted` calls from C, generators too.
                let runs = places.iter().filter(|place| place.ends_run).count();
                let functions = places.iter().filter(|place| place.code != 0).count();
                assert!(
                    if is_qualified { (2..functions).contains(&runs) } else { runs == functions },
                    "{python}: {runs}"
                );
            }
        }
        assert_eq!(interpreter.frames(&mut memory, 1), None, "{python}: a thread that it does not have");
    }
}

#[test]
fn a_process_without_python_has_none() {
    let own = std::process::id();
    let table = Mutex::new(CodeTable::new(64));
    let mappings = Mappings::read(Path::new("/proc"), own, &table).unwrap();
    let mut memory = ProcessMemory::open(Path::new("/proc"), own).unwrap();
    assert!(matches!(Interpreter::find(&mappings, &mut memory), Found::Nothing));
}

#[test]
fn memory_that_is_gone_makes_frames_in_words() {
    let (running, said) = start("/usr/bin/python3");
    let pid = running.0.id();
    let table = Mutex::new(CodeTable::new(64));
    let mappings = Mappings::read(Path::new("/proc"), pid, &table).unwrap();
    let mut memory = ProcessMemory::open(Path::new("/proc"), pid).unwrap();
    let Found::Supported(interpreter) = Interpreter::find(&mappings, &mut memory) else { panic!() };
    let (tid, _) = said.first().unwrap();
    await_read(pid, *tid);
    let places = interpreter.frames(&mut memory, *tid).unwrap();
    drop(running);
    let frames = Descriptions::default().describe(pid, &interpreter, &mut memory, &places);
    let named: Vec<_> = frames.iter().filter_map(|frame| frame.frame.as_ref()).collect();
    assert!(!named.is_empty() && named.iter().all(|frame| &*frame.function == "[python function]"));
    assert_eq!(interpreter.frames(&mut memory, *tid), None);
}

#[test]
fn releases_are_told_by_number_or_name() {
    assert_eq!(of_number(0x030b_02f0), Some(Version { minor: 11 }));
    assert_eq!(of_number(0), None);
    assert_eq!(of_name("python3.10"), Some(Version { minor: 10 }));
    assert_eq!(of_name("libpython3.13.so.1.0"), Some(Version { minor: 13 }));
    assert_eq!(of_name("python2.7"), None);
}
