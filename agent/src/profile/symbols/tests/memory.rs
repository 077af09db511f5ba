//! What finding names takes, of memory and of time. The long ones are run by hand:
//! `cargo test --release -p steth --lib symbols::tests::memory -- --ignored --nocapture`.

use std::time::Instant;

use super::*;
use crate::profile::symbols::names::Known;

#[test]
fn what_was_not_asked_for_longest_is_forgotten_first() {
    let frame = |name: &str| -> Arc<[Frame]> {
        let empty: Arc<str> = Arc::from("");
        Arc::from([loaded::plain(Arc::from(name), empty, Origin::User, &mut names::Names::new(0))])
    };
    let mut known = Known::new(10_000);
    for number in 0..1000 {
        known.insert((1, number), frame("some_function"));
        assert!(known.get((1, 0)).is_some(), "asked for all the time, and forgotten after {number}");
        assert!(known.bytes() <= 10_200, "{} bytes", known.bytes());
    }
    assert!(known.get((1, 1)).is_none());
    assert!(known.get((1, 999)).is_some());
}

#[test]
fn files_are_let_go_when_the_budget_is_used_up() {
    let built = build(&["-g"]);
    let range = function(&built.program, "outermost");
    let limits = Limits { loaded_bytes: 150_000, names_bytes: 10_000, ..Limits::default() };
    let mut resolver = Resolver::new(limits, table());
    let held: Vec<u64> = (0..20)
        .map(|_| {
            stacks(&mut resolver, &Code::open(&built.program).unwrap(), range.clone());
            resolver.held_bytes()
        })
        .collect();
    assert!(held.iter().all(|held| *held < 170_000), "{held:?}");
    assert!(held[0] > 10_000, "{held:?}");
}

fn resident_kib() -> u64 {
    let status = procfs::process::Process::myself().unwrap().status().unwrap();
    status.vmrss.unwrap()
}

/// Files of code of this machine, those with the most code first left to chance.
fn files(count: usize) -> Vec<Arc<Code>> {
    let mut folders = vec![PathBuf::from("/usr/bin"), PathBuf::from("/usr/lib")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file()
                && let Ok(code) = Code::open(&entry.path())
                && super::super::elf::Elf::read(&code.file().unwrap()).is_ok_and(|elf| elf.loaded().count() > 1)
                && found.len() < count
            {
                let table = Mutex::new(CodeTable::new(1));
                let place = code.place().clone();
                found.push(CodeTable::find(&table, code.id(), || place).unwrap());
                CodeTable::find(&table, FileId { inode: 0, ..code.id() }, || code.place().clone()).ok();
            }
        }
    }
    found
}

/// Offsets all over the code of a file.
fn spread(code: &Arc<Code>, count: u64) -> Vec<Location> {
    let file = code.file().unwrap();
    let elf = super::super::elf::Elf::read(&file).unwrap();
    let Some(segment) = elf.loaded().find(|segment| segment.is_code) else { return Vec::new() };
    let step = (segment.length / count).max(1);
    let offsets = (segment.offset..segment.offset + segment.length).step_by(usize::try_from(step).unwrap());
    offsets.map(|offset| Location::Code { code: Arc::clone(code), offset }).collect()
}

#[test]
#[ignore = "a measurement"]
fn memory_after_many_files() {
    let before = resident_kib();
    let mut resolver = resolver();
    println!("resident {before} KiB before");
    let began = Instant::now();
    let mut most = 0;
    // Opened anew, each is a file that was not seen yet.
    for (number, code) in (0..3).flat_map(|_| files(1000)).enumerate() {
        resolver.resolve(&spread(&code, 200));
        most = most.max(resident_kib());
        if number + 1 == 100 || (number + 1) % 500 == 0 {
            let (held, resident) = (resolver.held_bytes() >> 10, resident_kib());
            println!("after {}: resident {resident} KiB, most {most}, counted {held}", number + 1);
        }
    }
    println!("{:?}", began.elapsed());
}

#[test]
#[ignore = "a measurement"]
fn time_for_a_profile_of_postgres() {
    let postgres = Code::open(Path::new("/usr/lib/postgresql/15/bin/postgres")).unwrap();
    let own = Code::open(&std::env::current_exe().unwrap()).unwrap();
    let libc = Code::open(Path::new("/lib/x86_64-linux-gnu/libc.so.6")).unwrap();
    for code in [postgres, libc, own] {
        let before = resident_kib();
        let mut resolver = resolver();
        let locations = spread(&code, 5000);
        for round in ["first", "again"] {
            let began = Instant::now();
            let found = resolver.resolve(&locations);
            let frames: usize = found.iter().map(|frames| frames.len()).sum();
            let lines = found.iter().filter(|frames| frames[0].line > 0).count();
            println!(
                "{} {round}: {} places, {frames} frames, {lines} with lines, {:?}, resident +{} KiB, counted {}",
                code.name(),
                locations.len(),
                began.elapsed(),
                resident_kib().saturating_sub(before),
                resolver.held_bytes() >> 10
            );
        }
    }
}
