//! A running agent that is asked for something. Knows HTTP, not what is asked for.

use std::pin::Pin;

use hyper::{
    HeaderMap, Request, StatusCode,
    body::{Body as _, Bytes, Frame, Incoming},
    client::conn::http1,
    header::{self, HeaderValue},
    http::request::Builder,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinHandle};

use super::reach::{Target, Wire};
use crate::{
    cli::{Failure, Outcome},
    model::query::NOTE,
};

/// A connection to an agent.
pub struct Agent {
    stream: Box<dyn Wire>,
    address: String,
    authority: String,
    token: Option<HeaderValue>,
}

/// An answer that has begun.
pub struct Answer {
    body: Incoming,
    address: String,
    connection: JoinHandle<hyper::Result<()>>,
    headers: HeaderMap,
}

/// Asks an agent for what stands at a path, or posts something to it, and reads its JSON. `why` says what only it has.
///
/// # Errors
/// When no agent answers, or it refuses.
pub fn json(target: &Target, why: &str, path: &str, order: Option<&Value>) -> Result<Value, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    let answer = runtime.block_on(async {
        let agent = Agent::connect(target).await?;
        let agent = agent.ok_or_else(|| Failure::failed(format!("no agent answers at {target}; {why}: steth run")))?;
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
    ///
    /// # Errors
    /// When who listens is not who is meant.
    pub async fn connect(target: &Target) -> Result<Option<Self>, Failure> {
        let token = target.token().map(|token| HeaderValue::try_from(format!("Bearer {token}"))).transpose();
        let mut token = token.map_err(|_| Failure::usage("the token cannot be sent: it is none"))?;
        token.iter_mut().for_each(|token| token.set_sensitive(true));
        let stream = target.connect().await?;
        let (address, authority) = (target.to_string(), target.authority());
        Ok(stream.map(|stream| Self { stream, address, authority, token }))
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
        let Self { stream, address, authority, token } = self;
        let failed = |error| no_answer(&address, &error);
        let (mut sender, connection) = http1::handshake::<_, Whole>(TokioIo::new(stream)).await.map_err(failed)?;
        let connection = tokio::spawn(connection);
        let mut request = request.header(header::HOST, authority).body(body).map_err(Failure::failed)?;
        if let Some(token) = token {
            request.headers_mut().insert(header::AUTHORIZATION, token);
        }
        let answer = sender.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        let (parts, mut body) = answer.into_parts();
        if status != StatusCode::OK {
            let mut whole = Vec::new();
            while let Some(piece) = next(&mut body).await.transpose().map_err(failed)? {
                whole.extend(piece);
            }
            return Err(refused(&address, status, &whole));
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
        let failed = |error| no_answer(&self.address, &error);
        while let Some(piece) = next(&mut self.body).await.transpose().map_err(failed)? {
            whole.extend(piece);
        }
        self.connection.abort();
        Ok(whole)
    }

    /// Hands on the pieces until it ends.
    pub async fn hand_on(mut self, lines: mpsc::Sender<Vec<u8>>) -> Outcome {
        while let Some(piece) =
            next(&mut self.body).await.transpose().map_err(|error| no_answer(&self.address, &error))?
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

fn no_answer(address: &str, error: &hyper::Error) -> Failure {
    Failure::failed(format!("no whole answer from the agent at {address}: {error}"))
}

/// What the agent said instead of what was asked for.
fn refused(address: &str, status: StatusCode, body: &[u8]) -> Failure {
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
