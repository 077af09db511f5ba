//! What a switch from one thread to another takes while someone watches what time is waited for.

use anyhow::Result;

use super::{FRESH, Peer, bcc, sorted_out, watching};
use crate::bench::{
    Context,
    report::{Compare, Findings},
    rounds::{Variant, alternate},
    switch::{SUBJECTS, pipes, traced},
};

/// Nothing else that runs at a switch, or in the system calls around it.
const WALL_ALONE: &str = "[window]\nlive = \"100ms\"\n[probes]\nsyscalls = false\ntcp = false\nsockets = false\n\
                          postgres = false\nprofiles = false\n[profile]\nhertz = 0\n";
/// What perf names the processes of its pipe.
const PIPE: &str = "sched-pipe";

const PEERS: &[Peer] = &[
    Peer { name: "runqlat -P", start: |_| bcc("runqlat", &["-P"]), tells: PIPE },
    Peer { name: "offcputime", start: |_| bcc("offcputime", &[]), tells: PIPE },
];

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let mut variants = vec![
        Variant::new("bare", pipes),
        Variant::new("steth, wall time alone", || traced(context, WALL_ALONE, true)),
        Variant::new("steth", || traced(context, FRESH, true)),
    ];
    let (here, left_out) = sorted_out(PEERS, std::process::id());
    variants.extend(watching(&here, pipes));
    let results = alternate(context.rounds, SUBJECTS, variants)?;
    for rounds in &results {
        findings.comparison(rounds, "ns", Compare::Added);
    }
    left_out.iter().for_each(|why| findings.paragraph(why));
    Ok(())
}
