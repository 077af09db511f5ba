//! How what is sent is written for a destination, and how its answers are read: one place for all protocols. Does not know how
//! requests are kept and sent.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    http::{Answer, Failure, Reason, Request},
    logs::Logs,
    otlp::{self, Otlp},
    profiles,
    remote_write::{self, RemoteWrite, Version, v2},
    spool::Entry,
};
use crate::{
    config::destination::Protocol,
    model::{
        news::{Batch, WrittenPiece},
        snapshot::Snapshot,
    },
};

/// What there is to be sent.
#[derive(Clone, Debug)]
pub enum Input {
    /// A window ended.
    Window(Arc<Snapshot>),
    /// Things happened.
    News(Batch),
    /// A piece of the profile is finished.
    Piece(WrittenPiece),
}

/// How it is written for a destination.
pub enum Encoder {
    RemoteWrite(RemoteWrite),
    RemoteWrite2(RemoteWrite),
    Otlp(Otlp),
    Logs(Logs),
    Pyroscope(BTreeMap<String, String>),
    Parca(BTreeMap<String, String>),
}

impl Encoder {
    /// With these labels on everything.
    pub fn new(protocol: Protocol, labels: BTreeMap<String, String>) -> Self {
        match protocol {
            Protocol::RemoteWrite => Self::RemoteWrite(RemoteWrite::new(Version::One, labels)),
            Protocol::RemoteWrite2 => Self::RemoteWrite2(RemoteWrite::new(Version::Two, labels)),
            Protocol::Otlp => Self::Otlp(Otlp::new(labels)),
            Protocol::OtlpLogs => Self::Logs(Logs::new(labels)),
            Protocol::Pyroscope => Self::Pyroscope(labels),
            Protocol::Parca => Self::Parca(labels),
        }
    }

    /// The requests that something comes to, in their order; none of what the destination does not take.
    pub fn encode(&mut self, input: &Input) -> Vec<Entry> {
        match (self, input) {
            (Self::RemoteWrite(encoder) | Self::RemoteWrite2(encoder), Input::Window(snapshot)) => {
                encoder.encode(snapshot)
            }
            (Self::Otlp(encoder), Input::Window(snapshot)) => encoder.encode(snapshot),
            (Self::Logs(encoder), Input::News(batch)) => encoder.encode(batch),
            (Self::Pyroscope(labels), Input::Piece(piece)) => {
                piece.iter().map(|profile| profiles::pyroscope(labels, profile)).collect()
            }
            (Self::Parca(labels), Input::Piece(piece)) => {
                piece.iter().map(|profile| profiles::parca(labels, profile)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// One of these requests as it goes over the wire.
    pub fn request(&self, payload: &Bytes) -> Request {
        let plain = Request::new(remote_write::CONTENT_TYPE, payload.clone());
        match self {
            Self::RemoteWrite(_) => {
                Request { encoding: Some(remote_write::ENCODING), headers: remote_write::HEADERS, ..plain }
            }
            Self::RemoteWrite2(_) => Request {
                content_type: v2::CONTENT_TYPE.into(),
                encoding: Some(remote_write::ENCODING),
                headers: v2::HEADERS,
                ..plain
            },
            Self::Otlp(_) | Self::Logs(_) => {
                Request { content_type: otlp::CONTENT_TYPE.into(), encoding: Some(otlp::ENCODING), ..plain }
            }
            Self::Pyroscope(_) => {
                let (query, body) = profiles::parted(payload);
                Request { query, ..Request::new(profiles::pyroscope_content_type(), body) }
            }
            Self::Parca(_) => Request { content_type: "application/json".into(), ..plain },
        }
    }

    /// Whether the same request may be taken later.
    pub fn is_worth_another_try(&self, failure: &Failure) -> bool {
        match (self, failure.reason) {
            // OTLP 1.5, "Retryable Response Codes".
            (Self::Otlp(_) | Self::Logs(_), Reason::Status(status)) => matches!(status, 429 | 502 | 503 | 504),
            _ => failure.is_worth_another_try(),
        }
    }

    /// How many samples of a request the answer to its success says were not taken, and why.
    pub fn rejected(&self, answer: &Answer, samples: u32) -> Option<(u64, String)> {
        match self {
            Self::Otlp(_) | Self::Logs(_) => otlp::rejected(&answer.body),
            Self::RemoteWrite2(_) => {
                let written = answer.headers.get(v2::WRITTEN).and_then(|value| value.to_str().ok()?.parse().ok());
                let rejected = u64::from(samples).saturating_sub(written.unwrap_or_default());
                let why = match written {
                    Some(_) => "it took the others",
                    None => "it does not say that it understands remote write 2.0; protocol = \"remote-write\" is 1.0",
                };
                (rejected > 0).then(|| (rejected, why.to_owned()))
            }
            Self::RemoteWrite(_) | Self::Pyroscope(_) | Self::Parca(_) => None,
        }
    }
}
