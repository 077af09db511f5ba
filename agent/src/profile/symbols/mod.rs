//! From addresses to names. A [`Symbolizer`] has a thread of its own; it is asked for many [`Location`]s at once and
//! gives for each the frames that stand there. What an address means is found while its process lives
//! ([`super::mappings`]); names are found later, from files that are held open.
//!
//! A name is never a number. Where a file has no symbol, all its places without one are one function,
//! `[unknown in libfoo.so]`: the ranges of `.eh_frame` could tell them apart, but not by a name that says anything, and
//! a graph full of boxes that differ in an address alone hides what they have in common.

mod debug_file;
pub mod elf;
mod excerpt;
mod kallsyms;
mod loaded;
mod names;
mod perf_map;
mod resolver;
#[cfg(test)]
mod tests;
mod unpack;
mod words;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
};

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::{
    code::{Code, CodeTable},
    mappings::Process,
};
use crate::model::profile::Frame;

pub use resolver::Resolver;
pub use words::Runtime;

/// A place in code. For a return address give that of the call, which is one less: the function that is returned to may
/// end with the call, and the line is the call's.
#[derive(Clone, Debug)]
pub enum Location {
    /// An address in the kernel.
    Kernel {
        /// Absolute.
        address: u64,
    },
    /// An offset in a file of code.
    Code {
        /// The file.
        code: Arc<Code>,
        /// From the file's first byte.
        offset: u64,
    },
    /// An offset in the vDSO.
    Vdso {
        /// From its first byte.
        offset: u64,
    },
    /// An address in memory that is no file's.
    Memory {
        /// Whose.
        process: Arc<Process>,
        /// In that process.
        address: u64,
    },
    /// In a file that could not be opened.
    Closed {
        /// Its name.
        name: Arc<str>,
    },
    /// An address in a process whose mappings were not looked at; they are when names are asked for, if it lives still.
    Address {
        /// The process.
        pid: u32,
        /// In that process.
        address: u64,
    },
}

/// What a symbolizer may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of files' symbols and debug information that are kept for the next request.
    pub loaded_bytes: u64,
    /// Files that are kept so, a descriptor or two each.
    pub loaded_files: usize,
    /// Bytes of debug information that is read of one file, for as long as a request lasts; of a file with more only the
    /// symbols are read, and its inlined functions and lines are not told.
    pub debug_bytes: u64,
    /// Bytes of names that were found.
    pub names_bytes: usize,
    /// Where procfs is.
    pub proc: PathBuf,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            loaded_bytes: 8 << 20,
            loaded_files: 256,
            debug_bytes: 192 << 20,
            names_bytes: 6 << 20,
            proc: PathBuf::from("/proc"),
        }
    }
}

/// Requests that may wait.
const WAITING: usize = 16;

/// Finds names, on a thread of its own. Clones ask the same thread; it ends with the last of them.
#[derive(Clone, Debug)]
pub struct Symbolizer {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
struct Request {
    locations: Vec<Location>,
    reply: oneshot::Sender<Vec<Arc<[Frame]>>>,
}

/// The symbolizer's thread is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the thread that finds names is gone")]
pub struct SymbolizerGone;

impl Symbolizer {
    /// Starts the thread. The table is that which the locations' files come from.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn start(limits: Limits, table: Arc<Mutex<CodeTable>>) -> io::Result<Self> {
        let (requests, mut waiting) = mpsc::channel::<Request>(WAITING);
        thread::Builder::new().name("steth-symbols".to_owned()).spawn(move || {
            let mut resolver = Resolver::new(limits, table);
            while let Some(request) = waiting.blocking_recv() {
                // Whoever asked may have gone.
                let _ = request.reply.send(resolver.resolve(&request.locations));
            }
        })?;
        Ok(Self { requests })
    }

    /// The frames at each location, in their order, each from the outermost function to the innermost: one, or more where
    /// the compiler put functions into others. Give all locations of a profile at once.
    ///
    /// # Errors
    /// If the thread is gone.
    pub async fn resolve(&self, locations: Vec<Location>) -> Result<Vec<Arc<[Frame]>>, SymbolizerGone> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request { locations, reply }).await.map_err(|_| SymbolizerGone)?;
        answer.await.map_err(|_| SymbolizerGone)
    }

    /// As [`Self::resolve`], for a thread that may wait; not within an asynchronous task.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn resolve_blocking(&self, locations: Vec<Location>) -> Result<Vec<Arc<[Frame]>>, SymbolizerGone> {
        let (reply, answer) = oneshot::channel();
        self.requests.blocking_send(Request { locations, reply }).map_err(|_| SymbolizerGone)?;
        answer.blocking_recv().map_err(|_| SymbolizerGone)
    }
}
