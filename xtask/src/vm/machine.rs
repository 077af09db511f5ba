//! One machine, from its start to its end. It ends in time, whatever runs in it.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::report::Shown;

pub struct Machine {
    /// What it is called where several run at once.
    pub name: String,
    pub image: PathBuf,
    pub initramfs: PathBuf,
    pub root: PathBuf,
    pub payload: PathBuf,
    /// Where what it says is kept.
    pub console: PathBuf,
    pub within: Duration,
    /// Whether its first process is systemd.
    pub systemd: bool,
}

impl Machine {
    /// Runs it and reads what it says.
    ///
    /// # Errors
    /// QEMU cannot be started.
    pub fn run(&self, shown: &mut Shown) -> Result<()> {
        eprintln!("== Linux {}", self.name);
        let began = Instant::now();
        let mut child = Ended(self.command().spawn().context("cannot start qemu-system-x86_64")?);
        let output = child.0.stdout.take().context("QEMU has no output")?;
        let mut console = File::create(&self.console)?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    break;
                }
            }
        });
        let why = loop {
            match lines.recv_timeout(self.within.saturating_sub(began.elapsed())) {
                Ok(line) => {
                    writeln!(console, "{:8.1} {line}", began.elapsed().as_secs_f64())?;
                    if line.starts_with("@@ begin") || line.starts_with("test ") {
                        eprintln!("  {:<12} {:6.1} s  {line}", self.name, began.elapsed().as_secs_f64());
                    }
                    shown.line(&line);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => break format!("ended after {} s", self.within.as_secs()),
                Err(mpsc::RecvTimeoutError::Disconnected) => break "the machine ended before".to_owned(),
            }
        };
        drop(child);
        shown.finish(&why, began.elapsed());
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        // One thread for all CPUs: with one each, QEMU 7.2 may go on with a breakpoint that the kernel has taken out of its code
        // again, and the CPU with it (docs/kernels.md).
        // Emulated, `rep stosb` sets one byte at a time, so the kernel is not told of it; nor is memory cleared twice.
        command.args(["-accel", "tcg,thread=single,tb-size=512", "-cpu", "max,-erms", "-smp", "2", "-m", "3G"]);
        command.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot", "-nic", "none"]);
        command.arg("-kernel").arg(&self.image).arg("-initrd").arg(&self.initramfs);
        // The console is the tests'.
        let first = if self.systemd { " first=systemd systemd.mask=serial-getty@ttyS0.service" } else { "" };
        command.arg("-append");
        command.arg(format!("console=ttyS0 quiet panic=-1 mitigations=off init_on_alloc=0 no_timer_check{first}"));
        // What is written to the root is forgotten.
        for (file, end) in [(&self.root, "snapshot=on"), (&self.payload, "readonly=on")] {
            command.args(["-drive", &format!("file={},format=raw,if=virtio,{end}", file.display())]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }
}

/// A child that is gone when this is.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
