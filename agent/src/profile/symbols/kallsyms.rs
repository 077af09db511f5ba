//! The kernel's functions by address, from `/proc/kallsyms`. Of ours and not blazesym's because that keeps each name in an
//! allocation of its own, twice the memory, and never looks again, while modules and BPF programs come and go.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{names::Names, words};
use crate::model::profile::{Frame, Origin};

/// How old the list may be when an address of a module or a BPF program is asked for.
const AGE: Duration = Duration::from_secs(60);
/// No function is longer: what stands further behind the last symbol is not of it.
const FUNCTION_BYTES: u64 = 4 << 20;
/// Bytes of names that are kept; 122,000 functions have 2.6 MB.
const NAME_BYTES: usize = 64 << 20;

/// The kernel's functions.
#[derive(Debug)]
pub struct Kallsyms {
    path: PathBuf,
    /// By address.
    functions: Vec<Function>,
    names: String,
    modules: Vec<Arc<str>>,
    /// First address behind the kernel's own code; modules and BPF programs stand elsewhere.
    own_end: u64,
    read_at: Option<Instant>,
    /// The list is there, but without addresses.
    is_hidden: bool,
    told: bool,
}

#[derive(Clone, Copy, Debug)]
struct Function {
    address: u64,
    name_at: u32,
    name_length: u16,
    /// Index into the modules; 0 is the kernel itself.
    module: u16,
}

impl Kallsyms {
    /// Those that this file lists; it is read when the first address is asked for.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            functions: Vec::new(),
            names: String::new(),
            modules: Vec::new(),
            own_end: 0,
            read_at: None,
            is_hidden: false,
            told: false,
        }
    }

    /// The frame of an address.
    pub fn frame(&mut self, address: u64, names: &mut Names) -> Frame {
        let is_own = address < self.own_end;
        // Reading takes some 30 ms, so a list that lacks one is not read anew at once.
        if self.read_at.is_none_or(|read_at| !is_own && read_at.elapsed() > AGE) {
            self.read();
        }
        let (function, module) = match self.find(address) {
            Some(found) => (self.name(found), self.modules.get(usize::from(found.module))),
            None if self.is_hidden => (words::KERNEL_HIDDEN, None),
            None => (words::KERNEL_UNKNOWN, None),
        };
        Frame {
            function: names.get(function),
            module: module.cloned().unwrap_or_else(|| names.get(words::KERNEL)),
            file: names.get(""),
            line: 0,
            inlined: false,
            origin: Origin::Kernel,
        }
    }

    /// Memory that the list takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.functions.capacity() * size_of::<Function>() + self.names.capacity()
    }

    fn find(&self, address: u64) -> Option<Function> {
        let after = self.functions.partition_point(|function| function.address <= address);
        let found = *self.functions.get(after.checked_sub(1)?)?;
        (address - found.address < FUNCTION_BYTES).then_some(found)
    }

    fn name(&self, function: Function) -> &str {
        let at = function.name_at as usize;
        self.names.get(at..at + usize::from(function.name_length)).unwrap_or_default()
    }

    fn read(&mut self) {
        self.read_at = Some(Instant::now());
        self.functions.clear();
        self.names.clear();
        self.modules = vec![Arc::from(words::KERNEL)];
        self.own_end = 0;
        let Ok(file) = File::open(&self.path) else { return };
        let mut lines = BufReader::with_capacity(64 << 10, file);
        let mut line = Vec::new();
        let mut hidden = 0;
        while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) && self.names.len() < NAME_BYTES {
            if let Ok(text) = str::from_utf8(&line)
                && self.add(text).is_none()
            {
                hidden += 1;
            }
            line.clear();
        }
        self.functions.sort_by_key(|function| function.address);
        self.functions.shrink_to_fit();
        self.names.shrink_to_fit();
        let own = self.functions.iter().rfind(|function| function.module == 0);
        self.own_end = own.map_or(0, |function| function.address);
        self.is_hidden = self.functions.is_empty() && hidden > 0;
        if self.is_hidden && !self.told {
            self.told = true;
            tracing::warn!(
                "kernel functions have no names in profiles: kernel.kptr_restrict hides their addresses from this \
                 user; set it to 1 and give CAP_SYSLOG, or to 0"
            );
        }
    }

    /// Adds a line: address, kind, name, and for a module its name in brackets. None for one whose address is hidden.
    fn add(&mut self, line: &str) -> Option<()> {
        let mut parts = line.split_ascii_whitespace();
        let (Some(address), Some(kind), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Some(());
        };
        if !matches!(kind, "t" | "T" | "w" | "W") {
            return Some(());
        }
        let address = u64::from_str_radix(address, 16).ok().filter(|address| *address != 0)?;
        let module = parts.next().map_or(0, |module| self.module(module));
        let name = words::kernel_function(name);
        let (Ok(name_at), Ok(name_length)) = (u32::try_from(self.names.len()), u16::try_from(name.len())) else {
            return Some(());
        };
        self.names.push_str(name);
        self.functions.push(Function { address, name_at, name_length, module });
        Some(())
    }

    fn module(&mut self, name: &str) -> u16 {
        // The list is in the order of modules.
        let at = match self.modules.last() {
            Some(last) if **last == *name => self.modules.len() - 1,
            _ => self.modules.iter().position(|module| **module == *name).unwrap_or_else(|| {
                self.modules.push(Arc::from(name));
                self.modules.len() - 1
            }),
        };
        u16::try_from(at).unwrap_or(0)
    }
}
