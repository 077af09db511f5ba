//! Which files of code hold OpenSSL, and that they are attached to: at the start all that processes have mapped, then what
//! the kernel tells of.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use steth_probes::tls::{CodeFile, device};

use crate::{
    host::code,
    ingest::Cells,
    kernel::{
        Kernel,
        tls::{Attached, Looked},
    },
};

/// What is known of files of code.
#[derive(Debug, Default)]
pub struct TlsFiles {
    known: HashMap<code::CodeFile, Option<Attached>>,
}

impl TlsFiles {
    /// Looks at all code that is in use, and at what is installed to be.
    pub fn start(&mut self, kernel: &mut Kernel, cells: &Cells) {
        if !kernel.follows_tls() {
            return;
        }
        for (file, path) in code::libraries("libssl") {
            self.look(kernel, cells, file, &path);
        }
        for pid in code::processes(Path::new("/proc")) {
            self.look_at_process(kernel, cells, pid);
        }
    }

    /// Looks at processes that run something else now, or have mapped something.
    pub fn changed(&mut self, kernel: &mut Kernel, cells: &Cells, mapped: &HashSet<u32>, run: &HashSet<u32>) {
        if !kernel.follows_tls() {
            return;
        }
        for pid in mapped {
            self.look_at_process(kernel, cells, *pid);
        }
        for pid in run.difference(mapped) {
            let executable = code::executable(Path::new("/proc"), *pid);
            if executable.is_some_and(|executable| !self.known.contains_key(&executable)) {
                self.look_at_process(kernel, cells, *pid);
            }
        }
    }

    fn look_at_process(&mut self, kernel: &mut Kernel, cells: &Cells, pid: u32) {
        for (file, path) in code::mapped(Path::new("/proc"), pid) {
            self.look(kernel, cells, file, &path);
        }
    }

    fn look(&mut self, kernel: &mut Kernel, cells: &Cells, file: code::CodeFile, path: &Path) {
        let in_kernel = CodeFile { inode: file.inode, device: device(file.device.0, file.device.1) };
        self.known.entry(file).or_insert_with(|| match kernel.look(path) {
            Looked::Other => None,
            Looked::Attached(attached) => {
                let slow = if attached.slow { ", slowly: each call takes 10 µs more" } else { "" };
                tracing::info!("follows OpenSSL in {}{slow}", name(path));
                Some(attached)
            }
            Looked::Failed(reason) => {
                tracing::warn!("Postgres behind TLS is not seen in users of {}: {reason}", name(path));
                None
            }
        });
        // Failing means that the kernel tells of it again.
        let _ = cells.looked_at(&in_kernel);
    }
}

/// What people know a file by.
fn name(path: &Path) -> String {
    std::fs::read_link(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}
