//! What leaves the host: the HTTP client that it goes through.

pub mod http;
