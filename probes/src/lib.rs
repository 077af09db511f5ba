//! The contract between steth's kernel programs and its agent, and every decision that needs no
//! kernel helper. Both sides compile this crate; it knows neither.
#![cfg_attr(not(test), no_std)]

pub mod catalog;
pub mod cell;
pub mod histogram;
pub mod identity;
pub mod limits;
pub mod message;
pub mod offsets;
pub mod postgres;
pub mod profile;
pub mod python;
pub mod record;
pub mod shape;
pub mod socket;
pub mod syscalls;
pub mod tls;
pub mod unwind;
pub mod wall;
pub mod watch;
