//! What the syscall benchmark observes: loops of syscalls, in a process of their own, so that they are a service of
//! their own. Knows nothing of who observes it.

use std::{
    fs::File,
    hint::black_box,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{net::UnixStream, process::parent_id},
    time::Instant,
};

use anyhow::{Result, ensure};

/// The loops, in the order in which [`run`] prints their results.
pub const SUBJECTS: &[&str] = &["getppid", "read /dev/zero", "unix socket", "loopback TCP"];

/// How often all loops together call getppid, at least.
pub const GETPPID_CALLS: u32 = 200_000 * SLICES;

/// Each loop runs in slices and the middle one counts: an interrupt or a neighbour spoils a few, not the result.
const SLICES: u32 = 15;

/// Waits for a line on standard input, so that an agent can be let name this service before it is measured; then runs
/// all loops, or a part of their length, and prints the nanoseconds that one turn takes, a line for each.
///
/// # Errors
/// A system call fails, or nobody says when to begin.
pub fn run(part: u32) -> Result<()> {
    let mut line = String::new();
    ensure!(io::stdin().read_line(&mut line)? > 0, "nobody says when to begin");
    measure(GETPPID_CALLS / SLICES / part, || {
        black_box(parent_id());
        Ok(())
    })?;

    let mut byte = [0];
    let mut zero = File::open("/dev/zero")?;
    measure(200_000 / part, || Ok(zero.read_exact(&mut byte)?))?;

    let (mut near, mut far) = UnixStream::pair()?;
    measure(50_000 / part, || {
        near.write_all(&[1])?;
        Ok(far.read_exact(&mut byte)?)
    })?;

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    measure(20_000 / part, || {
        near.write_all(&[1])?;
        Ok(far.read_exact(&mut byte)?)
    })
}

fn measure(calls: u32, mut turn: impl FnMut() -> Result<()>) -> Result<()> {
    let mut slice = || -> Result<f64> {
        let started = Instant::now();
        for _ in 0..calls {
            turn()?;
        }
        Ok(started.elapsed().as_nanos() as f64 / f64::from(calls))
    };
    slice()?;
    let mut slices = (0..SLICES).map(|_| slice()).collect::<Result<Vec<f64>>>()?;
    slices.sort_by(f64::total_cmp);
    println!("{:.2}", slices[slices.len() / 2]);
    Ok(())
}
