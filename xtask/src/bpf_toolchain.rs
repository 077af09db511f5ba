//! Which compiler and linker build the kernel programs, and how they are called. Shared by source: `xtask` and
//! `agent/build.rs` both include this file, so it needs nothing but std and knows neither.
//!
//! Two compilers will do. Debian's `rustc-web` has a `core` made for BPF, is stable, and its LLVM is the one that
//! bpf-linker is built with; so it goes first. Rustup's nightly with `rust-src` builds `core` itself.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The target of the kernel programs; all hosts that steth runs on are little-endian.
pub const TARGET: &str = "bpfel-unknown-none";
/// Set to `debian` or `nightly` to allow only that compiler.
pub const CHOICE_VAR: &str = "STETH_BPF_TOOLCHAIN";
/// Where Debian puts its compiler. Not looked up in `PATH`: rustup's `rustc` stands first there.
pub const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Instructions up to 32-bit jumps and arithmetic (Linux 5.1).
const CPU: &str = "v3";

/// A compiler and a linker that can build the kernel programs.
#[derive(Debug)]
pub struct BpfToolchain {
    pub compiler: Compiler,
    pub linker: PathBuf,
}

/// A compiler that can build for BPF.
#[derive(Debug)]
pub enum Compiler {
    /// Debian's `rustc-web` with `libstd-rust-web-dev-bpf`.
    Debian { rustc: PathBuf, version: String },
    /// A rustup nightly with the component `rust-src`.
    Nightly { toolchain: String, sysroot: PathBuf, version: String },
}

/// What stands in the way of building the kernel programs.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    Compiler { choice: Option<String> },
    Linker,
    Choice { given: String },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compiler { choice: None } => write!(
                f,
                "no compiler for BPF found: neither {DEBIAN_RUSTC} with a core for {TARGET} (Debian's rustc-web and \
                 libstd-rust-web-dev-bpf) nor a rustup nightly with rust-src. Run: cargo xtask setup"
            ),
            Self::Compiler { choice: Some(choice) } => write!(
                f,
                "no compiler for BPF found: {CHOICE_VAR}={choice} rules out any other. Unset it, or run: cargo xtask setup"
            ),
            Self::Linker => write!(
                f,
                "bpf-linker found neither in PATH nor in cargo's bin directory; the kernel programs need it. \
                 Run: cargo xtask setup"
            ),
            Self::Choice { given } => write!(f, "{CHOICE_VAR}={given} is not known; allowed: debian, nightly"),
        }
    }
}

impl BpfToolchain {
    /// Looks for both.
    ///
    /// # Errors
    /// [`Missing`] says which of them is not there.
    pub fn find() -> Result<Self, Missing> {
        Ok(Self { compiler: Compiler::find()?, linker: find_linker().ok_or(Missing::Linker)? })
    }

    /// The command that builds `steth-ebpf` of the workspace at `root` for kernels on `arch` (as in
    /// `CARGO_CFG_TARGET_ARCH`). Nothing of an outer cargo, clippy or user's flags reaches it.
    pub fn cargo(&self, root: &Path, target_dir: &Path, arch: &str) -> Command {
        let mut command = match &self.compiler {
            Compiler::Debian { rustc, .. } => {
                let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                isolate(&mut command);
                // The compiler is a stable one; the target and some features of `core` are not.
                command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").arg("build");
                command
            }
            Compiler::Nightly { sysroot, .. } => {
                let mut command = Command::new(sysroot.join("bin/cargo"));
                isolate(&mut command);
                command.env("RUSTC", sysroot.join("bin/rustc")).args(["build", "-Zbuild-std=core"]);
                command
            }
        };
        let flags = [
            format!("--cfg=bpf_target_arch=\"{arch}\""),
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            format!("-Clinker={}", self.linker.display()),
            format!("-Ctarget-cpu={CPU}"),
        ];
        command
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .args(["--release", "--locked", "--package", "steth-ebpf", "--target", TARGET, "--target-dir"])
            .arg(target_dir)
            .current_dir(root)
            .stdin(Stdio::null());
        command
    }
}

impl fmt::Display for BpfToolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.compiler.fmt(f)
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian { version, .. } => write!(f, "{version}, Debian rustc-web"),
            Self::Nightly { version, toolchain, .. } => write!(f, "{version}, rustup {toolchain} with build-std"),
        }
    }
}

impl Compiler {
    /// Looks for Debian's compiler, then for a nightly.
    ///
    /// # Errors
    /// [`Missing`] if there is neither, or not the one that [`CHOICE_VAR`] asks for.
    pub fn find() -> Result<Self, Missing> {
        let choice = env::var(CHOICE_VAR).ok().filter(|value| !value.is_empty());
        let found = match choice.as_deref() {
            None => Self::debian().or_else(Self::nightly),
            Some("debian") => Self::debian(),
            Some("nightly") => Self::nightly(),
            Some(other) => return Err(Missing::Choice { given: other.to_owned() }),
        };
        found.ok_or(Missing::Compiler { choice })
    }

    fn debian() -> Option<Self> {
        let rustc = PathBuf::from(DEBIAN_RUSTC);
        let libdir = stdout_of(Command::new(&rustc).args(["--print", "target-libdir", "--target", TARGET]))?;
        let has_core = fs::read_dir(libdir)
            .ok()?
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"));
        let version = stdout_of(Command::new(&rustc).arg("--version"))?;
        has_core.then_some(Self::Debian { rustc, version })
    }

    fn nightly() -> Option<Self> {
        let list = stdout_of(Command::new("rustup").args(["toolchain", "list"]))?;
        list.lines().filter(|line| line.starts_with("nightly")).find_map(|line| {
            let toolchain = line.split_whitespace().next()?.to_owned();
            let rustc = stdout_of(Command::new("rustup").args(["which", "rustc", "--toolchain", &toolchain]))?;
            let sysroot = Path::new(&rustc).parent()?.parent()?.to_owned();
            let version = stdout_of(Command::new(&rustc).arg("--version"))?;
            let core = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
            core.exists().then_some(Self::Nightly { toolchain, sysroot, version })
        })
    }

    /// The file whose change means another compiler.
    pub fn rustc(&self) -> PathBuf {
        match self {
            Self::Debian { rustc, .. } => rustc.clone(),
            Self::Nightly { sysroot, .. } => sysroot.join("bin/rustc"),
        }
    }
}

/// bpf-linker in `PATH`, else in cargo's own bin directory, which need not be in `PATH`.
pub fn find_linker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(cargo_bin()).map(|dir| dir.join("bpf-linker")).find(|file| file.is_file())
}

/// Where `cargo install` puts programs, unless configured otherwise.
pub fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"))).map(|home| home.join("bin"))
}

/// The target directory that `inside` lies in: cargo marks it with a tag.
pub fn target_dir(inside: &Path) -> Option<&Path> {
    inside.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file())
}

/// Takes away what an outer cargo or the user's shell says about compilers, flags and profiles; keeps what says
/// where crates come from.
fn isolate(command: &mut Command) {
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_TERM_"];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let kept = KEPT.iter().any(|kept| text.starts_with(kept));
        if text.starts_with("CARGO") && !kept || text.starts_with("RUSTC") || text == "RUSTFLAGS" || text == "RUSTDOC" {
            command.env_remove(&name);
        }
    }
    command.env_remove("RUSTUP_TOOLCHAIN");
    // Empty beats what a configuration file says.
    command.env("RUSTC_WRAPPER", "").env("RUSTC_WORKSPACE_WRAPPER", "");
}

fn stdout_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
