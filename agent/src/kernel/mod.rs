//! What this kernel can do: its type information, loading and attaching the programs, reading their maps.

pub mod ability;
pub mod btf;
mod lacks;
pub mod load;
mod missed;
pub mod tables;

pub use load::{Kernel, LoadError, Options, Tables};
