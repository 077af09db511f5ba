//! The contract between steth's kernel programs and its agent, and every decision that needs no
//! kernel helper. Both sides compile this crate; it knows neither.
#![cfg_attr(not(test), no_std)]

pub mod histogram;
pub mod record;
pub mod shape;
