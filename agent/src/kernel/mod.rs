//! What this kernel can do: its type information, loading and attaching the programs, reading their maps.

pub mod btf;
pub mod tables;
