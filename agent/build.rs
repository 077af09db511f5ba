//! Builds the kernel programs and hands the object to the agent as `$OUT_DIR/steth-ebpf.o`, and the name of the
//! compiler as `$STETH_BPF_COMPILER`. How they are compiled is known to `xtask/src/bpf_toolchain.rs`.

#[allow(dead_code, reason = "xtask uses the rest")]
#[path = "../xtask/src/bpf_toolchain.rs"]
mod bpf_toolchain;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Stdio, exit},
};

use bpf_toolchain::{BpfToolchain, CHOICE_VAR, TARGET, target_dir};

/// What the object is made from, relative to the workspace.
const SOURCES: [&str; 7] = [
    "agent-ebpf/Cargo.toml",
    "agent-ebpf/src",
    "probes/Cargo.toml",
    "probes/src",
    "Cargo.toml",
    "Cargo.lock",
    "xtask/src/bpf_toolchain.rs",
];

fn main() {
    if let Err(why) = build() {
        eprintln!("cannot build the kernel programs: {why}");
        exit(1);
    }
}

fn build() -> Result<(), String> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = manifest_dir.parent().ok_or("the agent stands outside its workspace")?;
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo:rerun-if-env-changed={CHOICE_VAR}");

    let toolchain = BpfToolchain::find().map_err(|missing| missing.to_string())?;
    println!("cargo:rerun-if-changed={}", toolchain.compiler.rustc().display());
    println!("cargo:rerun-if-changed={}", toolchain.linker.display());
    println!("cargo:rustc-env=STETH_BPF_COMPILER={toolchain}");

    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    // Debug, release and clippy builds of the agent share one build of the kernel programs. A directory of its own,
    // because the outer cargo holds the lock of the other.
    let bpf_dir = target_dir(&out_dir).unwrap_or(&out_dir).join("bpf");
    let status = toolchain
        .cargo(root, &bpf_dir, &variable("CARGO_CFG_TARGET_ARCH")?)
        .stdout(Stdio::inherit())
        .status()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if !status.success() {
        return Err(format!("the build with {toolchain} failed ({status}); the compiler's words stand above"));
    }
    let built = bpf_dir.join(TARGET).join("release/steth-ebpf");
    place(&built, &out_dir.join("steth-ebpf.o"))
}

fn place(built: &Path, object: &Path) -> Result<(), String> {
    let bytes = fs::read(built).map_err(|error| format!("cannot read {}: {error}", built.display()))?;
    // e_ident and e_machine (ELF 1.2 figure 1-3; EM_BPF = 247).
    if !bytes.starts_with(b"\x7fELF") || bytes.get(18..20) != Some(&[247, 0]) {
        return Err(format!("{} is not a BPF object", built.display()));
    }
    if !bytes.windows(5).any(|name| name == b".BTF\0") {
        println!(
            "cargo:warning={} has no BTF: it holds no program, or bpf-linker was built without it",
            built.display()
        );
    }
    fs::write(object, bytes).map_err(|error| format!("cannot write {}: {error}", object.display()))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("cargo did not set {name}"))
}
