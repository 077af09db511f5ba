//! Builds the kernel programs and hands the object to the agent.

fn main() {}
