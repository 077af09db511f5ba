//! Sinks against receivers that fail in all ways.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    config::{
        Destinations, Endpoint,
        destination::{Destination, Protocol},
    },
    model::{
        metric::Metric,
        snapshot::{Snapshot, SnapshotHandle, handle_and_publisher},
    },
};

static GAUGE: Metric = Metric::gauge("test_gauge", "A test.", &[]);

/// Answers every request with the status that is set, and remembers the bodies of those that were taken.
struct Receiver {
    url: String,
    status: Arc<Mutex<u16>>,
    taken: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/write", listener.local_addr().unwrap());
        let (status, taken) = (Arc::new(Mutex::new(200)), Arc::default());
        let (its_status, its_taken) = (Arc::clone(&status), Arc::clone(&taken));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (status, taken) = (Arc::clone(&its_status), Arc::clone(&its_taken));
                thread::spawn(move || while answer(stream.as_ref().unwrap(), &status, &taken).is_some() {});
            }
        });
        Self { url, status, taken }
    }

    fn answer_with(&self, status: u16) {
        *self.status.lock().unwrap() = status;
    }

    fn taken(&self) -> Vec<Vec<u8>> {
        self.taken.lock().unwrap().clone()
    }
}

/// One request and its answer; `None` when the connection ends.
fn answer(mut stream: &TcpStream, status: &Mutex<u16>, taken: &Mutex<Vec<Vec<u8>>>) -> Option<()> {
    let mut request = Vec::new();
    let body = loop {
        let mut piece = [0; 4096];
        match stream.read(&mut piece).ok()? {
            0 => return None,
            read => request.extend_from_slice(&piece[..read]),
        }
        let Some(end) = request.windows(4).position(|it| it == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
        let length: usize = head.split("content-length: ").nth(1)?.lines().next()?.parse().ok()?;
        if request.len() >= end + 4 + length {
            break request[end + 4..].to_vec();
        }
    };
    let status = *status.lock().unwrap();
    match status {
        // Hangs.
        0 => thread::sleep(Duration::from_secs(600)),
        200 => taken.lock().unwrap().push(body),
        _ => {}
    }
    stream.write_all(format!("HTTP/1.1 {status} Status\r\ncontent-length: 0\r\n\r\n").as_bytes()).ok()
}

fn destination(url: &str) -> Destination {
    let endpoint = Endpoint { timeout: Duration::from_millis(200), ..Endpoint::at(url) };
    Destination {
        protocol: Protocol::RemoteWrite,
        endpoint,
        every: Duration::from_millis(20),
        spool: 1 << 20,
        longest_pause: Duration::from_millis(50),
        labels: Default::default(),
    }
}

fn config(folder: &Path, url: &str) -> config::Send {
    config::Send { folder: folder.into(), to: Destinations::from([("it".into(), destination(url))]) }
}

/// A pipeline that answers at once, each time with a new snapshot: number and time are the same.
fn pipeline() -> SnapshotHandle {
    let (handle, mut publisher) = handle_and_publisher();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            // Two bytes each, so that none is taken for a tag.
            let mut number = 1_000;
            while let Some(request) = publisher.requested().await {
                number += 1;
                let series = vec![Series::number(&GAUGE, vec![], number as f64)];
                request.answer(Arc::new(Snapshot { at_unix_ms: number, series, ..Snapshot::default() }));
            }
        });
    });
    handle
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let late = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < late, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn figure(senders: &Senders, name: &str, label: Option<&str>) -> f64 {
    let found = senders.series().into_iter().find(|series| {
        series.metric.name == name && label.is_none_or(|label| series.labels.iter().any(|it| it == label))
    });
    match found.map(|series| series.value) {
        Some(crate::model::snapshot::Value::Number(number)) => number,
        _ => 0.0,
    }
}

/// The numbers of the snapshots in these requests: the sample's time, the last varint of the message.
fn numbers(requests: &[Vec<u8>]) -> Vec<u64> {
    let number = |packed: &Vec<u8>| {
        let plain = snap::raw::Decoder::new().decompress_vec(packed).unwrap();
        let start = plain.len() - plain.iter().rev().position(|byte| *byte == 0x10).unwrap();
        plain[start..].iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f))
    };
    requests.iter().map(number).collect()
}

#[test]
fn an_outage_and_an_end_of_the_agent_lose_nothing_and_keep_the_order() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let (config, snapshots) = (config(folder.path(), &receiver.url), pipeline());
    let senders = Senders::start(&config, &snapshots);
    wait_until("some arrive", || receiver.taken().len() >= 3);
    receiver.answer_with(503);
    wait_until("it fails", || figure(&senders, "steth_send_failed_total", Some("server_error")) >= 2.0);
    wait_until("they wait", || figure(&senders, "steth_send_spool_bytes", None) > 1_000.0);
    assert!(figure(&senders, "steth_send_oldest_seconds", None) > 0.0);
    senders.stop(Instant::now() + Duration::from_secs(5));
    let before = receiver.taken().len();
    receiver.answer_with(200);
    let senders = Senders::start(&config, &snapshots);
    wait_until("all arrive", || receiver.taken().len() > before + 20);
    wait_until("nothing waits", || figure(&senders, "steth_send_spool_bytes", None) == 0.0);
    senders.stop(Instant::now() + Duration::from_secs(5));
    let numbers = numbers(&receiver.taken());
    // The one that was on its way at the end may have come twice.
    let mut each = numbers.clone();
    each.dedup();
    assert!(each.iter().zip(&each[1..]).all(|(a, b)| a + 1 == *b), "{numbers:?}");
    assert!(numbers.len() - each.len() <= 1, "{numbers:?}");
}

#[test]
fn what_is_refused_for_good_is_dropped_counted_and_holds_up_nothing() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    receiver.answer_with(400);
    let senders = Senders::start(&config(folder.path(), &receiver.url), &pipeline());
    wait_until("three are refused", || figure(&senders, "steth_send_dropped_total", Some("refused")) >= 3.0);
    receiver.answer_with(200);
    wait_until("the next arrive", || receiver.taken().len() >= 3);
    senders.stop(Instant::now() + Duration::from_secs(5));
}

#[test]
fn a_receiver_that_hangs_moves_no_window_and_no_end() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    receiver.answer_with(0);
    let senders = Senders::start(&config(folder.path(), &receiver.url), &pipeline());
    wait_until("it is too late", || figure(&senders, "steth_send_failed_total", Some("timeout")) >= 2.0);
    // Windows went on being taken: at 20 ms, twice the timeout is twenty of them.
    let waiting = spool::Spool::open(&folder.path().join("it"), 1 << 20).len();
    assert!(waiting >= 15, "{waiting}");
    let begun = Instant::now();
    senders.stop(Instant::now() + Duration::from_secs(5));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn a_certificate_that_is_missing_is_counted_and_used_once_it_is_there() {
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start());
    let token = folder.path().join("token");
    let mut config = config(&folder.path().join("spool"), &receiver.url);
    let destination = config.to.get_mut("it").unwrap();
    destination.endpoint.bearer_token_file = Some(token.clone());
    destination.endpoint.ca_file = Some(folder.path().join("ca.pem"));
    let senders = Senders::start(&config, &pipeline());
    wait_until("no certificate", || figure(&senders, "steth_send_failed_total", Some("setup")) >= 2.0);
    senders.stop(Instant::now() + Duration::from_secs(5));
    config.to.get_mut("it").unwrap().endpoint.ca_file = None;
    let senders = Senders::start(&config, &pipeline());
    wait_until("no token", || figure(&senders, "steth_send_failed_total", Some("secret")) >= 2.0);
    std::fs::write(&token, "secret").unwrap();
    wait_until("they arrive", || receiver.taken().len() >= 3);
    senders.stop(Instant::now() + Duration::from_secs(5));
}
