//! What reading the host costs: CPU time per pass, family by family. Run it with
//! `cargo run --release -p steth --example host_cost`.

use procfs::{process::Process, ticks_per_second};
use steth::host::{Family, Options, ProcServices, Processes, Reader};

/// Enough that one clock tick of error is under a hundredth of a millisecond.
const PASSES: u32 = 1000;

fn main() -> anyhow::Result<()> {
    let mut reader = Reader::new(Options::default());
    let (series, problems) = reader.read();
    println!("{:>9.3} ms  {:>5} series  the whole host", cost_ms(|| drop(reader.read()))?, series.len());
    for family in Family::ALL {
        let mut reader = Reader::new(Options { families: vec![*family], ..Options::default() });
        let count = reader.read().0.len();
        println!("{:>9.3} ms  {count:>5} series    {}", cost_ms(|| drop(reader.read()))?, family.name());
    }
    let mut processes = Processes::new("/proc");
    let mut services = ProcServices::new("/proc");
    let (series, more_problems) = processes.read(&mut services);
    let count = procfs::process::all_processes()?.count();
    let cost = cost_ms(|| drop(processes.read(&mut services)))?;
    println!("{cost:>9.3} ms  {:>5} series  {count} processes", series.len());
    for problem in problems.iter().chain(&more_problems) {
        println!("{problem}");
    }
    Ok(())
}

/// CPU time, user and system, of one of many passes.
fn cost_ms(mut pass: impl FnMut()) -> anyhow::Result<f64> {
    let before = cpu_ticks()?;
    (0..PASSES).for_each(|_| pass());
    Ok((cpu_ticks()? - before) as f64 * 1e3 / ticks_per_second() as f64 / f64::from(PASSES))
}

fn cpu_ticks() -> anyhow::Result<u64> {
    let stat = Process::myself()?.stat()?;
    Ok(stat.utime + stat.stime)
}
