//! What happens, one thing at a time, for those who are told of it elsewhere: alerts, findings and slow queries as they come
//! and go, and profiles when they are finished. Does not know who is told, nor how.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use super::{alert::Alert, finding::Finding, query::QueryRecord};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// What.
    pub what: What,
}

/// What it is.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// An alert began to fire, was acknowledged, or is over.
    Alert(Box<Alert>),
    /// A finding began, or is over.
    Finding(Box<Finding>),
    /// A Postgres query was slow, or failed.
    Query(Box<QueryRecord<'static>>),
}

/// What happened in one window.
pub type Batch = Arc<[News]>;

/// The profile of one service in one stretch of time, written as pprof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenProfile {
    /// Whose; of all that are too small for a profile of their own `other`.
    pub service: String,
    /// When it began.
    pub began: SystemTime,
    /// How long it went on.
    pub lasted: Duration,
    /// Samples in a second and CPU.
    pub hertz: u32,
    /// How many stacks it has.
    pub stacks: u32,
    /// pprof, in gzip.
    pub pprof: Bytes,
}

/// The profiles of one piece.
pub type WrittenPiece = Arc<[WrittenProfile]>;
