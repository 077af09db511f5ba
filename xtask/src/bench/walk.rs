//! How long one system call is held up at most, by bytes that take the most steps to walk.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    Context,
    agent::Agent,
    interrupt,
    report::{Bound, Compare, Findings},
    rounds::{Variant, alternate},
};

pub const WHAT: &str = "\
    Time of one `write` of 160 KiB to a unix socket on which Postgres is spoken: the most that fits without a reader. \
    The kernel programs walk it message by message, with preemption off, before the call returns; they give up after \
    a bounded number of steps. Nobody sends such bytes but to make trouble: Sync (5 bytes each); queries of no and of \
    one letter; Parse of one letter under a name of one; queries of 4,000 letters.";

/// What is written at a time: more than a walk takes, which ends after 6,144 steps, 96 KiB of a statement's text.
const BYTES: usize = 160 << 10;
const WRITES: usize = 25;
/// Longer than `live`.
const SETTLE: Duration = Duration::from_millis(300);
const CONFIGURATION: &str = "[window]\nlive = \"100ms\"\n";

/// Messages as the manual has them in "Message Formats": type, length with itself, body.
const SUBJECTS: &[&str] = &["Sync", "empty Query", "Query of a letter", "Parse of a letter", "Query of 4,000 letters"];
const MESSAGES: &[&[u8]] = &[b"S\0\0\0\x04", b"Q\0\0\0\x05\0", b"Q\0\0\0\x06a\0", b"P\0\0\0\x0aa\0b\0\0\0"];
/// StartupMessage of protocol 3.0, and what a server answers: AuthenticationOk, ReadyForQuery.
const STARTUP: &[u8] = b"\0\0\0\x22\0\x03\0\0user\0bench\0database\0walk\0\0";
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let mut variants = vec![Variant::new("bare", write_all_kinds)];
    variants.push(Variant::new("steth", || {
        let agent = Agent::start(&context.steth, CONFIGURATION)?;
        let values = write_all_kinds()?;
        interrupt::sleep(SETTLE)?;
        let walked = agent.scrape()?.exposition.sum("steth_records_lost_total", &[("map", "wires")]);
        ensure!(walked > 0.0, "the agent did not walk what was written");
        Ok(values)
    }));
    let results = alternate(context.rounds, SUBJECTS, variants)?;
    let mut longest = 0.0_f64;
    for rounds in &results {
        findings.comparison(rounds, "µs", Compare::Added);
        longest = longest.max(rounds.variants.last().map_or(0.0, |variant| rounds.added(variant).median));
    }
    findings.target("longest walk", longest, "µs", Bound::AtMost(1_000.0));
    Ok(())
}

/// The middle of some writes of each kind, in microseconds.
fn write_all_kinds() -> Result<Vec<f64>> {
    let long = [b"Q\0\0\x0f\xa5".as_slice(), &[b'a'; 4_000], b"\0"].concat();
    let messages = MESSAGES.iter().copied().chain([long.as_slice()]);
    messages.map(|message| middle_of_writes(&message.repeat(BYTES / message.len()))).collect()
}

fn middle_of_writes(bytes: &[u8]) -> Result<f64> {
    let mut times = (0..WRITES).map(|_| write_once(bytes)).collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn write_once(bytes: &[u8]) -> Result<f64> {
    let (mut client, mut server) = UnixStream::pair()?;
    let mut answer = [0; WELCOME.len()];
    client.write_all(STARTUP)?;
    server.read_exact(&mut [0; STARTUP.len()])?;
    server.write_all(WELCOME)?;
    client.read_exact(&mut answer)?;
    client.set_nonblocking(true)?;
    let started = Instant::now();
    let written = client.write(bytes)?;
    let elapsed = started.elapsed();
    ensure!(written == bytes.len(), "only {written} of {} bytes fit", bytes.len());
    Ok(elapsed.as_secs_f64() * 1e6)
}
