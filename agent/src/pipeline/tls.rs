//! Which files of code hold OpenSSL, and that they are attached to: at the start all that processes have mapped, then what
//! the kernel tells of.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use steth_probes::tls::{CodeFile, device};

use crate::{
    host::{Patience, code},
    ingest::Cells,
    kernel::{
        Kernel,
        tls::{self, Attached, Looked},
    },
    model::code::FileId,
};

/// How often files that nobody uses any more are let go: an attachment keeps a file, and so its file system, from going.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
const PROC: &str = "/proc";

/// What is known of files of code.
#[derive(Debug)]
pub struct TlsFiles {
    known: HashMap<FileId, Option<Followed>>,
    swept: Instant,
    patience: Patience,
}

/// A file that is attached to.
#[derive(Debug)]
struct Followed {
    attached: Attached,
    /// Where it was when it was found.
    path: PathBuf,
}

impl TlsFiles {
    /// Looks at all code that is in use, and at what is installed to be.
    pub fn start(kernel: &mut Kernel, cells: &Cells) -> Self {
        let mut files = Self { known: HashMap::new(), swept: Instant::now(), patience: Patience::default() };
        if kernel.follows_tls() {
            let installed = files.patience.ask(std::process::id(), || code::libraries("libssl"));
            for (file, path) in installed.unwrap_or_default() {
                files.look(kernel, cells, std::process::id(), file, &path);
            }
            for pid in code::processes(Path::new(PROC)) {
                files.look_at_process(kernel, cells, pid);
            }
        }
        files
    }

    /// From time to time lets go what no process has mapped and what is not installed where it was. Returns what is mapped, then, if
    /// every process could be asked; `others` is whether somebody else wants to know.
    pub fn sweep(&mut self, kernel: &mut Kernel, cells: &Cells, others: bool) -> Option<HashSet<FileId>> {
        if self.swept.elapsed() < SWEEP_INTERVAL || self.known.is_empty() && !others {
            return None;
        }
        self.swept = Instant::now();
        let (mut mapped, mut have_all_answered) = (HashSet::new(), true);
        for pid in code::processes(Path::new(PROC)) {
            // Who does not answer may have mapped anything; it is looked at anew when it does.
            match self.mapped(pid) {
                Some(files) => mapped.extend(files.into_iter().map(|(file, _)| file)),
                None => have_all_answered = false,
            }
        }
        let paths: Vec<_> = self.known.values().flatten().map(|followed| followed.path.clone()).collect();
        let there = move || paths.iter().filter_map(|path| code::file(path)).collect::<HashSet<_>>();
        // What no file system tells of in time is left as it is.
        let installed = self.patience.ask(std::process::id(), there);
        let is_used = |file: &FileId, followed: &mut Option<Followed>| {
            let is_there = || installed.as_ref().is_none_or(|installed| installed.contains(file));
            mapped.contains(file) || followed.is_some() && is_there()
        };
        for (file, followed) in self.known.extract_if(|file, followed| !is_used(file, followed)) {
            // Its number may become another file's.
            let _ = cells.looked_at(&in_kernel(&file), false);
            if let Some(Followed { attached, path }) = followed {
                tracing::info!("leaves OpenSSL in {}: nobody uses it any more", path.display());
                kernel.leave(attached);
            }
        }
        have_all_answered.then_some(mapped)
    }

    /// Looks at processes that run something else now, or have mapped something.
    pub fn changed(&mut self, kernel: &mut Kernel, cells: &Cells, mapped: &HashSet<u32>, run: &HashSet<u32>) {
        if !kernel.follows_tls() {
            return;
        }
        for pid in mapped.iter().copied().chain(self.patience.again()) {
            self.look_at_process(kernel, cells, pid);
        }
        for pid in run.difference(mapped) {
            let of = *pid;
            let executable = self.patience.ask(of, move || code::executable(Path::new(PROC), of)).flatten();
            if executable.is_some_and(|executable| !self.known.contains_key(&executable)) {
                self.look_at_process(kernel, cells, *pid);
            }
        }
    }

    fn look_at_process(&mut self, kernel: &mut Kernel, cells: &Cells, pid: u32) {
        for (file, path) in self.mapped(pid).unwrap_or_default() {
            self.look(kernel, cells, pid, file, &path);
        }
    }

    fn mapped(&mut self, pid: u32) -> Option<Vec<(FileId, PathBuf)>> {
        self.patience.ask(pid, move || code::mapped(Path::new(PROC), pid))
    }

    /// `pid`: who waits meanwhile, should the file not be answered for.
    fn look(&mut self, kernel: &mut Kernel, cells: &Cells, pid: u32, file: FileId, path: &Path) {
        if !self.known.contains_key(&file) {
            let read = path.to_owned();
            let Some(Ok(found)) = self.patience.ask(pid, move || tls::search(&read)) else { return };
            let followed = found.and_then(|found| {
                let path = found.name.clone();
                match kernel.follow(found) {
                    Looked::Attached(attached) => {
                        let slow = if attached.slow { ", slowly: each call takes 10 µs more" } else { "" };
                        tracing::info!("follows OpenSSL in {}{slow}", path.display());
                        Some(Followed { attached, path })
                    }
                    Looked::Failed(reason) => {
                        tracing::warn!("Postgres behind TLS is not seen in users of {}: {reason}", path.display());
                        None
                    }
                }
            });
            self.known.insert(file, followed);
        }
        // Failing means that the kernel tells of it again.
        let _ = cells.looked_at(&in_kernel(&file), true);
    }
}

fn in_kernel(file: &FileId) -> CodeFile {
    CodeFile { inode: file.inode, device: device(file.device.0, file.device.1) }
}
