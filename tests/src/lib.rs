//! What the integration tests share: a running agent, a PostgreSQL of their own, workloads.

pub mod exposition;
