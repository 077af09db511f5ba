//! A running agent that is asked for something. Knows HTTP, not what is asked for.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use hyper::{
    HeaderMap, Request, StatusCode,
    body::{Body as _, Bytes, Frame, Incoming},
    client::conn::http1,
    header,
    http::request::Builder,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle};

use crate::{
    cli::{Failure, Outcome},
    model::query::NOTE,
};

/// A loopback address answers at once or never.
const CONNECT: Duration = Duration::from_secs(2);

/// A connection to an agent.
pub struct Agent {
    stream: TcpStream,
    address: SocketAddr,
}

/// An answer that has begun.
pub struct Answer {
    body: Incoming,
    address: SocketAddr,
    connection: JoinHandle<hyper::Result<()>>,
    headers: HeaderMap,
}

/// Asks an agent for what stands at a path, or posts something to it, and reads its JSON. `why` says what only it has.
///
/// # Errors
/// When no agent answers, or it refuses.
pub fn json(address: SocketAddr, why: &str, path: &str, order: Option<&Value>) -> Result<Value, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    let answer = runtime.block_on(async {
        let agent = Agent::connect(address).await;
        let agent = agent.ok_or_else(|| Failure::failed(format!("no agent answers at {address}; {why}: steth run")))?;
        let answer = match order {
            Some(order) => agent.post(path, order).await?,
            None => agent.ask(path).await?,
        };
        answer.whole().await
    })?;
    serde_json::from_slice(&answer)
        .map_err(|error| Failure::failed(format!("the agent's answer cannot be read: {error}")))
}

impl Agent {
    /// Connects, if somebody listens.
    pub async fn connect(address: SocketAddr) -> Option<Self> {
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await.ok()?.ok()?;
        Some(Self { stream, address })
    }

    /// Asks for what stands at a path.
    pub async fn ask(self, path: &str) -> Result<Answer, Failure> {
        self.send(Request::get(path), Whole(None)).await
    }

    /// Posts JSON to a path.
    pub async fn post(self, path: &str, body: &Value) -> Result<Answer, Failure> {
        let body = Bytes::from(body.to_string());
        let request = Request::post(path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, body.len());
        self.send(request, Whole(Some(body))).await
    }

    async fn send(self, request: Builder, body: Whole) -> Result<Answer, Failure> {
        let Self { stream, address } = self;
        let failed = |error| no_answer(address, &error);
        let (mut sender, connection) = http1::handshake::<_, Whole>(TokioIo::new(stream)).await.map_err(failed)?;
        let connection = tokio::spawn(connection);
        let request = request.header(header::HOST, address.to_string()).body(body).map_err(Failure::failed)?;
        let answer = sender.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        let (parts, mut body) = answer.into_parts();
        if status != StatusCode::OK {
            let mut whole = Vec::new();
            while let Some(piece) = next(&mut body).await.transpose().map_err(failed)? {
                whole.extend(piece);
            }
            return Err(refused(address, status, &whole));
        }
        Ok(Answer { body, address, connection, headers: parts.headers })
    }
}

impl Answer {
    /// What a reader must know beside it.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.headers.get_all(NOTE).iter().filter_map(|note| str::from_utf8(note.as_bytes()).ok())
    }

    /// The whole of it.
    pub async fn whole(mut self) -> Result<Vec<u8>, Failure> {
        let mut whole = Vec::new();
        let failed = |error| no_answer(self.address, &error);
        while let Some(piece) = next(&mut self.body).await.transpose().map_err(failed)? {
            whole.extend(piece);
        }
        self.connection.abort();
        Ok(whole)
    }

    /// Hands on the pieces until it ends.
    pub async fn hand_on(mut self, lines: mpsc::Sender<Vec<u8>>) -> Outcome {
        while let Some(piece) =
            next(&mut self.body).await.transpose().map_err(|error| no_answer(self.address, &error))?
        {
            // The receiver is gone when nobody wants more.
            if lines.send(piece.into()).await.is_err() {
                break;
            }
        }
        self.connection.abort();
        Ok(())
    }
}

fn no_answer(address: SocketAddr, error: &hyper::Error) -> Failure {
    Failure::failed(format!("no whole answer from the agent at {address}: {error}"))
}

/// What the agent said instead of what was asked for.
fn refused(address: SocketAddr, status: StatusCode, body: &[u8]) -> Failure {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let said = |field: &str| problem.get(field).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    match (said("error"), said("hint")) {
        (error, _) if error.is_empty() => Failure::failed(format!(
            "what listens at {address} is no agent that can do this (status {status}); --agent names another, --alone does without"
        )),
        (error, hint) => Failure::failed(format!("the agent at {address} refuses: {error}; {hint}")),
    }
}

async fn next(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    loop {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
        match frame.map(Frame::into_data) {
            Ok(Ok(piece)) => return Some(Ok(piece)),
            // Trailers say nothing here.
            Ok(Err(_)) => {}
            Err(error) => return Some(Err(error)),
        }
    }
}

/// Text as it stands in the query of a URL.
pub fn encoded(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A body that is there as a whole, or none.
struct Whole(Option<Bytes>);

impl hyper::body::Body for Whole {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(self.0.take().map(|body| Ok(Frame::data(body))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}
