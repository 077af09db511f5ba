//! The wire walker on the host: real captures, made-up conversations, and bytes that are neither.
//! Knows nothing of the kernel; what the kernel program adds stands in `conversation.rs` in its simplest form.

mod capture;
mod conversation;
mod messages;
mod noted;
mod server;

mod captures;
mod copy;
mod deep;
mod detection;
mod extended;
mod fuzz;
mod hostile;
mod prepared;
mod records;
mod simple;
mod transactions;
