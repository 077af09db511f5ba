//! The same questions asked of other tools, in one run: what a host does, what system calls take, what time is waited for, how
//! long connections take to come about. Each question has a file; here stands what other tools are to them.

mod calls;
mod connects;
mod host;
mod switches;

use anyhow::{Context as _, Result, ensure};

use super::{
    Context,
    report::Findings,
    rounds::Variant,
    tool::{self, Sign, Tool},
};

pub const WHAT: &str = "\
    Others on the same machine, taking turns. First the host: `node_exporter` with what it collects by default, steth with all \
    probes off, and steth with everything on; each is started, asked 50 times, eight times a second, and always collects anew. CPU \
    is that of its process, divided by the scrapes, so that steth's is also what it does between them. Then system calls: the \
    loops of *One syscall*, a hundredth as long, watched by steth (all services of the host), by tools that watch all processes \
    (bpftrace, a histogram for each process name and call, which is the nearest to what steth keeps; `syscount`, a count and a sum \
    for each process) and by tools that are told to watch that one process (`strace -c -p`, `perf trace -s -p`). Then the pipes \
    of *One switch*: steth, steth with all probes off but that of wall time, `runqlat` (a histogram of the time in run queues for \
    each process) and `offcputime` (a sum of the time off CPUs for each stack, of which it knows no way to do without). Then TCP \
    connections to a listener on this host, from `connect` until both ends are closed: bpftrace with a histogram of the time to \
    connect for each process name, and `tcpconnlat`, which prints a line for each. Each round checks that the tool told of what it \
    watched. `syscount`, `runqlat`, `offcputime` and `tcpconnlat` are BCC's, of Debian's `libbpf-tools`, which need no headers of \
    the kernel; BCC's `profile` belongs to *Profiles*.";

/// Figures asked for right after a load are of all of it.
const FRESH: &str = "[window]\nlive = \"100ms\"\n";
/// BCC's tools as programs that carry what they load.
const BCC: &str = "libbpf-tools";

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    tool::install();
    host::run(context, findings)?;
    calls::run(context, findings)?;
    switches::run(context, findings)?;
    connects::run(context, findings)
}

/// Another tool that is asked the same.
struct Peer {
    name: &'static str,
    /// Starts it; the process to be watched is for tools that watch one.
    start: fn(u32) -> Result<Tool>,
    /// What it tells if it watched.
    tells: &'static str,
}

impl Peer {
    /// Measures while it watches a process, which is named by who measures.
    ///
    /// # Errors
    /// It does not start or end, or tells nothing of what it should have watched.
    fn watch(&self, measure: impl FnOnce(&mut dyn FnMut(u32) -> Result<()>) -> Result<Vec<f64>>) -> Result<Vec<f64>> {
        let mut running = None;
        let values = measure(&mut |pid| {
            running = Some((self.start)(pid)?);
            Ok(())
        })?;
        let told = running.context("it was not started")?.end()?;
        ensure!(told.contains(self.tells), "it told nothing of `{}`", self.tells);
        Ok(values)
    }

    /// Measures while it watches all processes.
    ///
    /// # Errors
    /// As [`Self::watch`].
    fn watch_all(&self, measure: impl FnOnce() -> Result<Vec<f64>>) -> Result<Vec<f64>> {
        self.watch(|begin| {
            begin(std::process::id())?;
            measure()
        })
    }
}

/// The tools that can watch a process here, and of the others why not.
fn sorted_out(peers: &'static [Peer], pid: u32) -> (Vec<&'static Peer>, Vec<String>) {
    let (mut here, mut left_out) = (Vec::new(), Vec::new());
    for peer in peers {
        match (peer.start)(pid) {
            Ok(_) => here.push(peer),
            Err(error) => left_out.push(format!("Left out: {}: {error:#}.", peer.name)),
        }
    }
    (here, left_out)
}

/// Variants of tools that watch all processes.
fn watching<'a>(peers: &[&'static Peer], measure: impl Fn() -> Result<Vec<f64>> + Copy + 'a) -> Vec<Variant<'a>> {
    peers.iter().map(|&peer| Variant::new(peer.name, move || peer.watch_all(measure))).collect()
}

/// One of BCC's tools, of all processes.
fn bcc(program: &str, arguments: &[&str]) -> Result<Tool> {
    Tool::start(program, BCC, arguments, Sign::Attached)
}
