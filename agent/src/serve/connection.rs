//! Accepts connections and keeps each within its bounds. Knows no path.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_io_timeout::TimeoutStream;

use super::Bounds;

/// Request line and headers together; more is answered with 431. Prometheus sends about 300 bytes.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// Most headers of one request; more is answered with 431.
const MAX_HEADERS: usize = 64;
/// Pause after a failed accept, such as when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until told to stop; returns when the last connection has ended.
pub async fn accept(listener: TcpListener, router: Router, bounds: Bounds, mut stopped: watch::Receiver<bool>) {
    let free = Arc::new(Semaphore::new(bounds.connections));
    let mut connections = JoinSet::new();
    let mut failing = false;
    loop {
        // Connections beyond the bound stay in the listener's backlog until one ends.
        let next = async {
            let permit = Arc::clone(&free).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            Some(_) = connections.join_next() => continue,
            () = until(&mut stopped) => break,
        };
        match (permit, accepted) {
            (Ok(permit), Ok((stream, _))) => {
                failing = false;
                let (router, stopped) = (router.clone(), stopped.clone());
                connections.spawn(async move {
                    serve(stream, router, bounds.timeout, stopped).await;
                    drop(permit);
                });
            }
            (_, Err(error)) => {
                // Said once, until it works again: a host without descriptors must not get a full disk as well.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot accept connections; trying again until it works");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            // The semaphore is never closed.
            (Err(_), _) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve(stream: TcpStream, router: Router, timeout: Duration, mut stopped: watch::Receiver<bool>) {
    let mut stream = TimeoutStream::new(stream);
    // hyper bounds the time for headers; this bounds a client that does not take its answer.
    stream.set_write_timeout(Some(timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = until(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Waits for the word to stop, or for the loss of whoever could give it.
async fn until(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
