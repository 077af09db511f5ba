//! Which build of its program each service runs: tells when that is another one than before. Looks at the file that a process
//! runs when it begins to, and at nothing else of it.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{
    host::{Patience, code},
    model::finding::{Event, EventKind},
    profile::unwind::{Identity, elf},
};

/// Programs that are known; what is beyond is not told.
const MOST_KNOWN: usize = 4_096;
/// Events that wait to be taken.
const MOST_WAITING: usize = 256;
/// Digits of a build's number that are shown.
const SHOWN: usize = 8;

/// What runs.
#[derive(Debug)]
pub struct Builds {
    /// By path, what ran at the beginning.
    before: HashMap<PathBuf, File>,
    known: HashMap<(String, PathBuf), Program>,
    waiting: Vec<Event>,
    patience: Patience,
}

/// A file and its state: numbers of inodes are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct File {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

#[derive(Debug)]
struct Program {
    file: File,
    identity: Option<Identity>,
}

impl Builds {
    /// Looks at what runs already.
    pub fn begin(proc: &Path) -> Self {
        let mut patience = Patience::default();
        Self { before: running(&mut patience, proc), known: HashMap::new(), waiting: Vec::new(), patience }
    }

    /// A process of a service began to run a program.
    pub fn executed(&mut self, proc: &Path, pid: u32, service: &str) {
        let exe = proc.join(pid.to_string()).join("exe");
        // It may have ended already.
        let Some((path, file)) = program(&mut self.patience, exe.clone(), pid) else { return };
        let key = (service.to_owned(), path);
        if self.known.get(&key).is_some_and(|known| known.file == file) {
            return;
        }
        let read = move || elf::CodeFile::open(&exe).ok().map(|file| file.identity().clone());
        let Some(identity) = self.patience.ask(pid, read) else { return };
        let changed = match self.known.get(&key) {
            Some(known) => known.identity != identity,
            // Another container may have another file at the same path.
            None => self.before.get(&key.1).is_some_and(|known| *known != file && known.device == file.device),
        };
        if changed && self.waiting.len() < MOST_WAITING {
            let number =
                identity.as_ref().map(|it| it.bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            let build = number.as_deref().and_then(|it| it.get(..SHOWN)).unwrap_or("of unknown number");
            let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            self.waiting.push(Event {
                kind: EventKind::NewBuild,
                at_unix_ms: since_epoch.as_millis().try_into().unwrap_or(u64::MAX),
                service: Some(service.to_owned()),
                text: format!("{service} began to run another build of {} than before, {build}", key.1.display()),
            });
        }
        if self.known.len() < MOST_KNOWN || self.known.contains_key(&key) {
            self.known.insert(key, Program { file, identity });
        }
    }

    /// What was found since this was asked last.
    pub fn told(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.waiting)
    }
}

/// The programs of all processes. The kernel marks those that were replaced since.
fn running(patience: &mut Patience, proc: &Path) -> HashMap<PathBuf, File> {
    let programs = code::processes(proc).into_iter().filter_map(|pid| {
        let (path, file) = program(patience, proc.join(pid.to_string()).join("exe"), pid)?;
        let text = path.to_str()?;
        Some((text.strip_suffix(" (deleted)").unwrap_or(text).into(), file))
    });
    programs.take(MOST_KNOWN).collect()
}

/// Where a process has its program from, and the file itself.
fn program(patience: &mut Patience, exe: PathBuf, pid: u32) -> Option<(PathBuf, File)> {
    patience.ask(pid, move || Some((fs::read_link(&exe).ok()?, file(&exe)?))).flatten()
}

fn file(path: &Path) -> Option<File> {
    let metadata = fs::metadata(path).ok()?;
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    Some(File { device: metadata.dev(), inode: metadata.ino(), changed })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Child, Command, Stdio},
        time::{Duration, Instant},
    };

    use super::*;

    /// A process that runs a copy of a program until its input ends.
    fn run(from: &str, path: &Path) -> Child {
        // The copy is made by another process: while this one had it open for writing no thread could execute it.
        assert!(Command::new("cp").args(["--remove-destination", from]).arg(path).status().unwrap().success());
        Command::new(path).arg("-").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn another_build_at_the_same_path_is_told_and_the_same_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let mut builds = Builds::begin(Path::new("/proc"));
        let mut look = |from: &str| {
            let mut child = run(from, &path);
            builds.executed(Path::new("/proc"), child.id(), "shop.service");
            drop(child.stdin.take());
            child.wait().unwrap();
            builds.told()
        };
        assert_eq!(look("/bin/cat"), []);
        // Another file, the same build.
        assert_eq!(look("/bin/cat"), []);
        let told = look("/usr/bin/tac");
        assert!(matches!(&told[..], [event] if event.kind == EventKind::NewBuild), "{told:?}");
        assert!(told[0].text.starts_with("shop.service began to run another build of "), "{}", told[0].text);
        assert_eq!(look("/usr/bin/tac"), []);
    }

    #[test]
    fn a_process_that_has_ended_tells_nothing() {
        let mut builds = Builds::begin(Path::new("/nonexistent"));
        builds.executed(Path::new("/nonexistent"), 1, "x");
        assert_eq!(builds.told(), []);
    }

    /// As servers do that are upgraded while they serve: nobody else runs the build from before.
    #[test]
    fn a_process_that_replaces_itself_is_told_also_as_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let mut child = {
            assert!(Command::new("cp").arg("/bin/sh").arg(&path).status().unwrap().success());
            let script = format!("read go; exec '{}' -", path.display());
            Command::new(&path).args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
        };
        let exe = PathBuf::from(format!("/proc/{}/exe", child.id()));
        let shell = file(&path).unwrap();
        let runs = |program| {
            let begun = Instant::now();
            while file(&exe) != Some(program) {
                assert!(begun.elapsed() < Duration::from_secs(20), "it does not run it");
                std::thread::yield_now();
            }
        };
        runs(shell);
        let mut builds = Builds::begin(Path::new("/proc"));
        assert!(Command::new("cp").args(["--remove-destination", "/bin/cat"]).arg(&path).status().unwrap().success());
        let cat = file(&path).unwrap();
        child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        runs(cat);
        builds.executed(Path::new("/proc"), child.id(), "shop.service");
        drop(child.stdin.take());
        child.wait().unwrap();
        let told = builds.told();
        assert!(matches!(&told[..], [event] if event.kind == EventKind::NewBuild), "{told:?}");
    }
}
