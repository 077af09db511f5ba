//! What this kernel can do: its type information, loading and attaching the programs, reading their maps.

pub mod ability;
pub mod btf;
pub mod functions;
mod lacks;
pub mod load;
mod missed;
mod pass;
pub mod report;
pub mod sampling;
mod sizes;
pub mod tables;
pub mod tls;

pub use load::{Kernel, LoadError, Options, Tables};
pub use report::{Measuring, cpus};
