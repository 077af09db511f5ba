//! How long the agent takes to start and to end.

use std::time::Instant;

use anyhow::Result;

use super::{
    Context,
    agent::Agent,
    report::{Compare, Findings},
    rounds::{Variant, alternate},
};

pub const WHAT: &str = "\
    From the start of the process until it says `ready`: kernel programs loaded, verified and attached, the first \
    snapshot taken, the endpoint open. And from SIGTERM to its end.";

const SUBJECTS: &[&str] = &["start to ready", "SIGTERM to end"];

pub fn run(context: &Context, findings: &mut Findings) -> Result<()> {
    let steth = Variant::new("steth", || {
        let agent = Agent::start(&context.steth, "")?;
        let start = agent.start;
        let asked = Instant::now();
        drop(agent);
        Ok([start, asked.elapsed()].map(|time| time.as_secs_f64() * 1e3).to_vec())
    });
    for rounds in &alternate(context.rounds, SUBJECTS, vec![steth])? {
        findings.comparison(rounds, "ms", Compare::Ratio);
    }
    Ok(())
}
