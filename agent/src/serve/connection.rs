//! Accepts connections, speaks TLS where that is asked for, and keeps each within its bounds. Knows no path.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_io_timeout::TimeoutStream;

use super::{Bounds, Guard, guard::Peer, seats::Seats};

/// Request line and headers together; more is answered with 431. Prometheus sends about 300 bytes.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// Most headers of one request; more is answered with 431.
const MAX_HEADERS: usize = 64;
/// Pause after a failed accept, such as when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection to a TLS port begins with: a handshake record (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
/// What somebody is told who speaks HTTP to it.
const NOT_TLS: &str = r#"{"error":"this port speaks HTTPS","hint":"begin the URL with https://"}"#;

/// Serves until told to stop; returns when the last connection has ended.
pub async fn accept(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    guard: Arc<Guard>,
    mut stopped: watch::Receiver<bool>,
) {
    let free = Arc::new(Semaphore::new(bounds.connections));
    let seats = Seats::new(bounds.connections);
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
            (Ok(permit), Ok((stream, address))) => {
                failing = false;
                let Some(seat) = seats.take(address.ip()) else {
                    guard.refuse_crowd();
                    continue;
                };
                let (router, stopped, guard) = (router.clone(), stopped.clone(), Arc::clone(&guard));
                connections.spawn(async move {
                    begin(stream, address, router, bounds.timeout, &guard, stopped).await;
                    drop((seat, permit));
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

/// Comes to an understanding about TLS, and serves.
async fn begin(
    stream: TcpStream,
    address: SocketAddr,
    router: Router,
    timeout: Duration,
    guard: &Guard,
    stopped: watch::Receiver<bool>,
) {
    let Some(acceptor) = guard.acceptor() else {
        return serve(bounded(stream, timeout), Peer { address, encrypted: false }, router, timeout, stopped).await;
    };
    // All of it in the time of a request: who says nothing holds no place.
    let handshake = async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first != [HANDSHAKE] {
            return refuse(stream).await;
        }
        acceptor.accept(bounded(stream, timeout)).await
    };
    let failed = match tokio::time::timeout(timeout, handshake).await {
        Ok(Ok(stream)) => {
            let peer = Peer { address, encrypted: true };
            return serve(Box::pin(stream), peer, router, timeout, stopped).await;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    guard.refuse_connection();
    tracing::debug!(%address, failed, "no TLS was agreed on");
}

/// Says in the open what is wrong, in the only words that are said in the open.
async fn refuse<T>(mut stream: TcpStream) -> io::Result<T> {
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ";
    stream.write_all(format!("{head}{}\r\n\r\n{NOT_TLS}", NOT_TLS.len()).as_bytes()).await?;
    stream.shutdown().await?;
    // What was sent and not read would reset the connection before the answer is there.
    let mut rest = [0; 1_024];
    for _ in 0..64 {
        stream.readable().await?;
        match stream.try_read(&mut rest) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    Err(io::Error::other("HTTP in the open"))
}

/// hyper bounds the time for headers; this bounds a client that does not take its answer.
fn bounded(stream: TcpStream, timeout: Duration) -> std::pin::Pin<Box<TimeoutStream<TcpStream>>> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(timeout));
    Box::pin(stream)
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    peer: Peer,
    router: Router,
    timeout: Duration,
    mut stopped: watch::Receiver<bool>,
) {
    let service = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(peer);
        service.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeout)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
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
