//! What stands in a frame that has no function's name: words, never numbers, so that all such frames of one kind fold
//! into one. Knows no files.

use std::path::Path;

/// The module of the kernel's own functions.
pub const KERNEL: &str = "[kernel]";
/// The module of the functions that the kernel maps into each process.
pub const VDSO: &str = "[vdso]";
/// A kernel address where nothing is known to be.
pub const KERNEL_UNKNOWN: &str = "[unknown in the kernel]";
/// A kernel address of which nothing may be known.
pub const KERNEL_HIDDEN: &str = "[kernel function, names hidden by kernel.kptr_restrict]";
/// An address of a process that ended before it was looked at.
pub const GONE: &str = "[code of a process that is gone]";
/// An address of a process that may not be looked at.
pub const FORBIDDEN: &str = "[code of a process that may not be looked at]";
/// Memory without a file, in a process without a runtime that is known to make code.
pub const ANONYMOUS: &str = "[anonymous code]";

/// What makes code, or runs what is none, in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// V8 in Node.js.
    Node,
    /// HotSpot or OpenJ9.
    Jvm,
    /// The .NET runtime.
    DotNet,
    /// Ruby, with or without its compiler.
    Ruby,
    /// CPython.
    Python,
    /// PHP.
    Php,
    /// Erlang's machine.
    Beam,
    /// LuaJIT.
    Lua,
    /// V8, `SpiderMonkey` or `JavaScriptCore` in a browser.
    Browser,
}

/// How the file of an executable or library begins, and what that says.
const FILES: &[(&str, Runtime)] = &[
    ("node", Runtime::Node),
    ("libnode.so", Runtime::Node),
    ("libjvm.so", Runtime::Jvm),
    ("libj9vm", Runtime::Jvm),
    ("libcoreclr.so", Runtime::DotNet),
    ("libmono", Runtime::DotNet),
    ("ruby", Runtime::Ruby),
    ("libruby", Runtime::Ruby),
    ("python", Runtime::Python),
    ("libpython", Runtime::Python),
    ("php", Runtime::Php),
    ("libphp", Runtime::Php),
    ("beam.", Runtime::Beam),
    ("luajit", Runtime::Lua),
    ("libluajit", Runtime::Lua),
    ("chrome", Runtime::Browser),
    ("chromium", Runtime::Browser),
    ("firefox", Runtime::Browser),
    ("libxul.so", Runtime::Browser),
];

/// Functions that run what has no addresses of its own, the module they lie in, and what must be said of them.
const INTERPRETERS: &[(&str, Runtime, &str)] = &[
    ("Builtins_InterpreterEntryTrampoline", Runtime::Node, " [interpreted JavaScript, not named]"),
    ("vm_exec_core", Runtime::Ruby, " [Ruby code, not named]"),
    ("execute_ex", Runtime::Php, " [PHP code, not named]"),
];

impl Runtime {
    /// What a file of this name is part of.
    pub fn of_file(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let found = FILES.iter().find(|(beginning, _)| {
            let rest = name.strip_prefix(beginning);
            // `node`, `node18`, `ruby3.1`, but not `node_exporter`.
            rest.is_some_and(|rest| {
                beginning.contains('.')
                    || beginning.starts_with("lib")
                    || rest.chars().all(|letter| letter.is_ascii_digit() || letter == '.')
            })
        });
        found.map(|(_, runtime)| *runtime)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Jvm => "the JVM",
            Self::DotNet => ".NET",
            Self::Ruby => "ruby",
            Self::Python => "python",
            Self::Php => "php",
            Self::Beam => "erlang",
            Self::Lua => "lua",
            Self::Browser => "a browser",
        }
    }
}

/// Code in memory, of a process that writes no list of it.
pub fn without_map(runtime: Option<Runtime>) -> String {
    match runtime {
        Some(runtime) => format!("[jit code of {}, no perf map]", runtime.name()),
        None => ANONYMOUS.to_owned(),
    }
}

/// Code in memory that is not on the list which its process writes.
pub fn not_in_map(runtime: Option<Runtime>) -> String {
    match runtime {
        Some(runtime) => format!("[jit code of {}, not in its perf map]", runtime.name()),
        None => "[jit code, not in its perf map]".to_owned(),
    }
}

/// A function of a file without a symbol for it.
pub fn unknown_in(file: &str) -> String {
    format!("[unknown in {file}]")
}

/// A function of a file whose symbols take more than this many bytes, and were left out.
pub fn too_many_in(file: &str, bytes: u64) -> String {
    format!("[unknown in {file}, whose symbols exceed {} MiB]", bytes >> 20)
}

/// A step from one file into another.
pub fn linkage_of(file: &str) -> String {
    format!("[linkage table of {file}]")
}

/// What is to be said behind the name of a function that runs another language's.
pub fn remark(function: &str, module: &str) -> Option<&'static str> {
    let (_, runtime, remark) = INTERPRETERS.iter().find(|(name, ..)| *name == function)?;
    (Runtime::of_file(Path::new(module)) == Some(*runtime)).then_some(*remark)
}

/// A kernel function's name as people know it: a BPF program's without the hash before it, a trampoline's without its number
/// (`bpf_get_prog_name` in `kernel/bpf/core.c`, `bpf_image_ksym_add` in `trampoline.c`).
pub fn kernel_function(name: &str) -> &str {
    if name.starts_with("bpf_trampoline_") {
        return "bpf trampoline";
    }
    let Some(rest) = name.strip_prefix("bpf_prog_") else { return name };
    let named = rest.split_once('_').filter(|(hash, name)| hash.len() == 16 && !name.is_empty());
    named.map_or("bpf program", |(_, name)| name)
}
