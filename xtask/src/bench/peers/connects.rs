//! What a TCP connection takes to come and go while someone watches how long connections take to come about.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{FRESH, Peer, bcc, sorted_out, watching};
use crate::bench::{
    Context,
    agent::Agent,
    bpftrace, interrupt,
    report::{Compare, Findings},
    rounds::{Variant, alternate},
};

const SUBJECT: &str = "TCP connection, loopback";
/// The middle slice counts: a neighbour spoils a few, not the result.
const SLICES: u32 = 15;
const CONNECTIONS: u32 = 200;
/// Longer than `live` in [`FRESH`].
const SETTLE: Duration = Duration::from_millis(300);
/// This process, as tools name it.
const SELF: &str = "xtask";
/// From SYN_SENT (2) to what comes after it, of TCP (6): include/net/tcp_states.h, include/uapi/linux/in.h.
const HISTOGRAM: &str = "tracepoint:sock:inet_sock_set_state /args->protocol == 6 && args->newstate == 2/ \
                         { @start[args->skaddr] = nsecs; } \
                         tracepoint:sock:inet_sock_set_state /args->oldstate == 2 && @start[args->skaddr]/ \
                         { @ns[comm] = hist(nsecs - @start[args->skaddr]); delete(@start[args->skaddr]); }";

const PEERS: &[Peer] = &[
    Peer { name: "bpftrace, by process", start: |_| bpftrace::start(HISTOGRAM), tells: SELF },
    Peer { name: "tcpconnlat", start: |_| bcc("tcpconnlat", &[]), tells: SELF },
];

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let mut variants = vec![Variant::new("bare", connections), Variant::new("steth", || traced(context))];
    let (here, left_out) = sorted_out(PEERS, std::process::id());
    variants.extend(watching(&here, connections));
    for rounds in &alternate(context.rounds, &[SUBJECT], variants)? {
        findings.comparison(rounds, "ns", Compare::Added);
    }
    left_out.iter().for_each(|why| findings.paragraph(why));
    Ok(())
}

/// The same under an agent, which counts them.
fn traced(context: &Context) -> Result<Vec<f64>> {
    let agent = Agent::start(&context.steth, FRESH)?;
    // What it does once at its start is no connection's cost.
    agent.scrape()?;
    interrupt::sleep(SETTLE)?;
    let values = connections()?;
    interrupt::sleep(SETTLE)?;
    let counted =
        agent.scrape()?.exposition.sum("steth_tcp_connect_duration_seconds_count", &[("outcome", "established")]);
    let made = f64::from(SLICES * CONNECTIONS);
    ensure!(counted >= made, "the agent counted {counted} of {made} connections");
    Ok(values)
}

/// Nanoseconds from `connect` until both ends are closed.
fn connections() -> Result<Vec<f64>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let slice = || -> Result<f64> {
        let started = Instant::now();
        for _ in 0..CONNECTIONS {
            let near = TcpStream::connect(address)?;
            drop((listener.accept()?, near));
        }
        Ok(started.elapsed().as_nanos() as f64 / f64::from(CONNECTIONS))
    };
    let mut slices = (0..SLICES).map(|_| slice()).collect::<Result<Vec<f64>>>()?;
    slices.sort_by(f64::total_cmp);
    Ok(vec![slices[slices.len() / 2]])
}
