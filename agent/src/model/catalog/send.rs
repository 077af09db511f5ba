//! Metrics of what is sent elsewhere (`steth_send_…`).

use super::Chapter;
use crate::model::metric::Metric;

/// What arrived.
pub static SENT: Metric =
    Metric::counter("steth_send_requests_total", "Requests that a destination has taken.", &["destination"]);
/// What was in it.
pub static SAMPLES: Metric = Metric::counter(
    "steth_send_samples_total",
    "Samples in the requests that a destination has taken.",
    &["destination"],
);
/// How large it was.
pub static BYTES: Metric = Metric::counter(
    "steth_send_bytes_total",
    "Bytes of the requests that a destination has taken, compressed, without headers.",
    &["destination"],
);
/// What did not arrive at first.
pub static FAILED: Metric = Metric::counter(
    "steth_send_failed_total",
    "Tries to send that failed: connection (no connection, or it broke), tls (no trust), timeout, throttled (429), \
     server_error (5xx), refused (any other answer that is no success), secret (a file with a secret cannot be read), setup \
     (a certificate cannot be read). All but what is refused is tried again.",
    &["destination", "reason"],
);
/// What never arrives.
pub static DROPPED: Metric = Metric::counter(
    "steth_send_dropped_total",
    "Requests that are lost: spool_full (the oldest give way at the limit), disk (it cannot be written, and no more fits in \
     memory), damaged (a stretch of the spool), too_large (for the spool), refused (by the destination), \
     behind (a disk held up the destination's thread; \
     or more slow queries came in a window than are kept).",
    &["destination", "reason"],
);
/// Samples that a destination took the request of, but not them.
pub static REJECTED: Metric = Metric::counter(
    "steth_send_rejected_samples_total",
    "Samples that a destination did not want of requests that it has taken (OTLP says how many).",
    &["destination"],
);
/// What waits.
pub static SPOOL_BYTES: Metric =
    Metric::gauge("steth_send_spool_bytes", "Bytes that wait to be sent.", &["destination"]);
/// How long the oldest waits.
pub static OLDEST: Metric = Metric::gauge(
    "steth_send_oldest_seconds",
    "Age of the oldest window that waits to be sent; 0 when none does.",
    &["destination"],
);

/// What is sent elsewhere.
pub static SENDING: Chapter = Chapter {
    title: "Sending",
    source: "the agent's own counts, for each destination in `[send.to]`",
    metrics: || vec![&SENT, &SAMPLES, &BYTES, &FAILED, &DROPPED, &REJECTED, &SPOOL_BYTES, &OLDEST],
};
