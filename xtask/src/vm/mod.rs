//! `cargo xtask vm-test`: the agent and its tests on kernels that this machine does not run. Knows the order of steps: where
//! kernels come from stands in `kernels`, what is booted in `root`, `payload` and `initramfs`, how in `machine`, what it must show
//! in `features`, what it showed in `report`.

mod features;
mod initramfs;
mod kernels;
mod machine;
mod payload;
mod report;
mod root;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    build::{self, Profile},
    setup::{self, Purpose},
    workspace,
};
use kernels::{KERNELS, Kernel};
use machine::Machine;
use report::{Outcome, Shown};

/// Which kernels, and what of the tests.
#[derive(Args)]
#[command(
    after_help = "Boots Debian's kernels in QEMU without hardware acceleration. What was downloaded and made once is kept in \
                  target/vm; remove that folder for newer packages. As many machines run at once as there are CPUs, four at most, \
                  of 3 GiB each.\n\nExamples:\n  cargo xtask vm-test\n  cargo xtask vm-test \
                  --kernel 6.1\n  cargo xtask vm-test --kernel 6.1 --only wall --keep\n  cargo xtask vm-test --write"
)]
pub struct Arguments {
    /// Only this kernel: 6.1 or 6.12; may be given several times
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<String>,
    /// Only features with this in their name; `probes` only loads and attaches
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Another agent than the release build, such as target/debug/steth
    #[arg(long, value_name = "FILE")]
    steth: Option<PathBuf>,
    /// Minutes that each machine may run
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=240))]
    minutes: u64,
    /// Keeps what the machines were given, in target/vm
    #[arg(long)]
    keep: bool,
    /// Writes docs/kernels.md and the table in README.md; needs all kernels and features
    #[arg(long)]
    write: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let kernels = chosen(&arguments.kernel)?;
    if arguments.write && (kernels.len() < KERNELS.len() || arguments.only.is_some()) {
        bail!("--write needs all kernels and features: leave --kernel and --only out");
    }
    let plan = features::plan(arguments.only.as_deref())?;
    setup::install_missing(Purpose::Build)?;
    setup::install_missing(Purpose::Machine)?;
    let folder = folder()?;
    let steth = arguments.steth.clone().map_or_else(|| build::steth(Profile::Release), Ok)?;
    let root = root::image(&folder)?;
    let payload = payload::image(&folder, &steth, &plan)?;

    let mut machines = Vec::new();
    for systemd in [false, true].into_iter().filter(|kind| plan.iter().any(|feature| feature.systemd == *kind)) {
        for kernel in &kernels {
            let within = Duration::from_secs(arguments.minutes * 60);
            machines.push((*kernel, machine(kernel, systemd, &folder, [&root, &payload], within)));
        }
    }
    let outcomes = run_all(&kernels, machines);
    if !arguments.keep {
        fs::remove_file(&payload).with_context(|| format!("cannot remove {}", payload.display()))?;
    }
    let text = report::table(&plan, &outcomes);
    println!("\n{text}");
    for line in report::failures(&plan, &outcomes) {
        println!("{line}");
    }
    if arguments.write {
        report::write(&plan, &outcomes)?;
    }
    match report::failures(&plan, &outcomes).iter().filter(|line| line.starts_with("failed")).count() {
        0 => Ok(()),
        failed => bail!("{failed} failed; the consoles are kept in {}", folder.display()),
    }
}

fn machine(
    kernel: &Kernel,
    systemd: bool,
    folder: &Path,
    [root, payload]: [&Path; 2],
    within: Duration,
) -> Result<Machine> {
    let files = kernels::get(kernel, folder)?;
    let initramfs = initramfs::make(&files, folder, kernel.version)?;
    let name = format!("{}{}", kernel.version, if systemd { "-systemd" } else { "" });
    let console = folder.join(format!("console-{name}.log"));
    let (root, payload) = (root.to_owned(), payload.to_owned());
    Ok(Machine { name, image: files.image, initramfs, root, payload, console, within, systemd })
}

/// As many at once as there are CPUs: each takes one, whatever it emulates.
fn run_all(kernels: &[&'static Kernel], machines: Vec<(&'static Kernel, Result<Machine>)>) -> Vec<Outcome> {
    let outcomes = kernels.iter().map(|kernel| Outcome { kernel: kernel.version, shown: Shown::default() });
    let outcomes = Mutex::new(outcomes.collect::<Vec<_>>());
    let waiting = Mutex::new(machines.into_iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let runner = || {
        while let Some((kernel, machine)) = next() {
            let mut shown = Shown::default();
            if let Err(error) = machine.and_then(|machine| machine.run(&mut shown)) {
                shown.not_booted(format!("{error:#}"));
            }
            let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            let of_kernel = outcomes.iter_mut().find(|outcome| outcome.kernel == kernel.version);
            of_kernel.into_iter().for_each(|outcome| outcome.shown.add(std::mem::take(&mut shown)));
        }
    };
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(runner);
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn chosen(wanted: &[String]) -> Result<Vec<&'static Kernel>> {
    if let Some(unknown) = wanted.iter().find(|version| !KERNELS.iter().any(|kernel| kernel.version == **version)) {
        let known: Vec<&str> = KERNELS.iter().map(|kernel| kernel.version).collect();
        bail!("--kernel {unknown}: there is no such kernel; allowed: {}", known.join(", "));
    }
    Ok(KERNELS.iter().filter(|kernel| wanted.is_empty() || wanted.iter().any(|one| one == kernel.version)).collect())
}

/// Where all of it is kept.
fn folder() -> Result<PathBuf> {
    let folder = workspace::target()?.join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::chosen;

    #[test]
    fn an_unknown_kernel_is_named_with_those_that_are_there() {
        let error = chosen(&["5.10".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "--kernel 5.10: there is no such kernel; allowed: 6.1, 6.12");
        assert_eq!(chosen(&[]).unwrap().len(), 2);
        assert_eq!(chosen(&["6.12".to_owned()]).unwrap()[0].version, "6.12");
    }
}
