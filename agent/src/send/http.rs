//! The client that everything which leaves the host goes through: one POST, with the endpoint's TLS and proof of who we are,
//! and in words what came of it. Does not try again and does not know what is sent.

use std::{
    error::Error as _,
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::{
    Certificate, Identity, RequestBuilder, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, RETRY_AFTER},
    redirect::Policy,
};

use crate::config::Endpoint;

/// What is read of an answer; receivers of metrics and alerts have little to say.
const MAX_ANSWER_BYTES: usize = 16 << 10;
/// What is told of an answer that refuses.
const MAX_TOLD_CHARS: usize = 300;
/// A file with a secret is no longer than this.
const MAX_SECRET_BYTES: usize = 64 << 10;
/// A receiver that asks for a longer pause gets this one.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Sends to one endpoint; keeps its connection open between requests.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
    http: reqwest::Client,
    /// What its certificates were read from.
    files: Vec<(PathBuf, Option<Stamp>)>,
}

/// What changes when a file is written or exchanged: device, inode, size, and when it was changed.
type Stamp = (u64, u64, u64, i64, i64);

/// What is posted.
#[derive(Clone, Debug)]
pub struct Request {
    /// What stands behind the address.
    pub query: String,
    /// What the body is.
    pub content_type: String,
    /// How it is compressed.
    pub encoding: Option<&'static str>,
    /// What else is said of it.
    pub headers: &'static [(&'static str, &'static str)],
    /// The body.
    pub body: Bytes,
}

/// An answer that is a success.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// What is said of it.
    pub headers: HeaderMap,
    /// The beginning of its body.
    pub body: Bytes,
}

impl Request {
    /// One with a body and what that is.
    pub fn new(content_type: impl Into<String>, body: Bytes) -> Self {
        Self { query: String::new(), content_type: content_type.into(), encoding: None, headers: &[], body }
    }
}

/// Why there is no client for an endpoint.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file that the endpoint names.
    #[error("cannot read {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is in such a file, or the host's own list of authorities.
    #[error("cannot set up TLS for {url}: {why}")]
    Tls {
        /// The endpoint.
        url: String,
        /// What is wrong.
        why: String,
    },
}

/// Why something did not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure it is.
    pub reason: Reason,
    /// What happened, in words, with the endpoint.
    pub what: String,
    /// How long the receiver wants to be left alone.
    pub retry_after: Option<Duration>,
}

/// The kinds of [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No connection: no such name, nobody listens, a network that does not answer, a connection that broke.
    Connection,
    /// The other side, or we, could not prove who they are.
    Tls,
    /// It took longer than the endpoint's timeout.
    Timeout,
    /// An answer with this status that is no success.
    Status(u16),
    /// A file with a secret cannot be read.
    Secret,
}

impl Failure {
    /// Whether the same request may succeed later: anything but an answer that says that the request itself is wrong.
    pub fn is_worth_another_try(&self) -> bool {
        match self.reason {
            Reason::Status(status) => status == 429 || status >= 500,
            Reason::Connection | Reason::Tls | Reason::Timeout | Reason::Secret => true,
        }
    }
}

impl Reason {
    /// As the label of a metric.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Status(429) => "throttled",
            Self::Status(500..) => "server_error",
            Self::Status(_) => "refused",
            Self::Secret => "secret",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

impl Client {
    /// A client for this endpoint. Reads its certificates; opens no connection.
    ///
    /// # Errors
    /// When a file of the endpoint cannot be read or is not what it should be, or the host has no list of authorities.
    pub fn new(endpoint: &Endpoint) -> Result<Self, ClientError> {
        static PROVIDER: OnceLock<()> = OnceLock::new();
        // Fails only where the process has one already.
        PROVIDER.get_or_init(|| drop(rustls::crypto::ring::default_provider().install_default()));
        // Before they are read: what changes meanwhile is read again.
        let own = endpoint.certificate.iter().flat_map(|it| [&it.file, &it.key_file]);
        let files = endpoint.ca_file.iter().chain(own).map(|path| (path.clone(), stamp(path))).collect();
        let tls = |error: reqwest::Error| ClientError::Tls { url: endpoint.url.clone(), why: chain(&error) };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("steth/", env!("CARGO_PKG_VERSION")))
            .timeout(endpoint.timeout)
            // A token must not be shown to whom the receiver points at.
            .redirect(Policy::none());
        if let Some(path) = &endpoint.ca_file {
            let authorities = Certificate::from_pem_bundle(&read(path)?).map_err(tls)?;
            if authorities.is_empty() {
                let why = format!("{} holds no certificate (PEM)", path.display());
                return Err(ClientError::Tls { url: endpoint.url.clone(), why });
            }
            builder = builder.tls_certs_only(authorities);
        }
        if let Some(certificate) = &endpoint.certificate {
            let mut pem = read(&certificate.file)?;
            pem.push(b'\n');
            pem.extend(read(&certificate.key_file)?);
            builder = builder.identity(Identity::from_pem(&pem).map_err(tls)?);
        }
        let http = builder.build().map_err(tls)?;
        Ok(Self { endpoint: endpoint.clone(), http, files })
    }

    /// Whether its certificates are still those that stand in the files; if not, it is time for a new one.
    pub fn is_current(&self) -> bool {
        self.files.iter().all(|(path, stamp)| self::stamp(path) == *stamp)
    }

    /// Where it sends to.
    pub fn url(&self) -> &str {
        &self.endpoint.url
    }

    /// Sends it, and returns the answer if that is a success.
    ///
    /// # Errors
    /// What happened, and whether another try is worth it.
    pub async fn post(&self, posted: Request) -> Result<Answer, Failure> {
        let Request { query, content_type, encoding, headers, body } = posted;
        let url = match query.as_str() {
            "" => self.url().to_owned(),
            query if self.url().contains('?') => format!("{}&{query}", self.url()),
            query => format!("{}?{query}", self.url()),
        };
        let mut request = self.http.post(url).header(CONTENT_TYPE, content_type).body(body);
        if let Some(encoding) = encoding {
            request = request.header(CONTENT_ENCODING, encoding);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = self.with_proof(request)?;
        let mut response = request.send().await.map_err(|error| self.failure(&error))?;
        let answer = beginning(&mut response).await;
        let status = response.status();
        match status.is_success() {
            // What arrived counts, however the answer ends.
            true => Ok(Answer { headers: response.headers().clone(), body: answer.unwrap_or_default() }),
            false => Err(self.refusal(status, response.headers(), &answer.unwrap_or_default())),
        }
    }

    fn with_proof(&self, request: RequestBuilder) -> Result<RequestBuilder, Failure> {
        let secret = |path: &Path| {
            let reason = Reason::Secret;
            secret(path).map_err(|error| Failure {
                reason,
                what: format!("{}: cannot read {}: {error}", self.url(), path.display()),
                retry_after: None,
            })
        };
        if let Some(path) = &self.endpoint.bearer_token_file {
            return Ok(request.bearer_auth(secret(path)?));
        }
        match &self.endpoint.basic_auth {
            Some(basic) => Ok(request.basic_auth(&basic.username, Some(secret(&basic.password_file)?))),
            None => Ok(request),
        }
    }

    fn failure(&self, error: &reqwest::Error) -> Failure {
        let reason = match () {
            () if error.is_timeout() => Reason::Timeout,
            () if is_of_tls(error) => Reason::Tls,
            () => Reason::Connection,
        };
        let what = match reason {
            Reason::Timeout => format!("{}: no answer within {:?}", self.url(), self.endpoint.timeout),
            _ => format!("{}: {}", self.url(), chain(error)),
        };
        Failure { reason, what, retry_after: None }
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap, answer: &[u8]) -> Failure {
        let said: String = String::from_utf8_lossy(answer).trim().chars().take(MAX_TOLD_CHARS).collect();
        let said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let what = match said.is_empty() {
            true => format!("{}: answered {status}", self.url()),
            false => format!("{}: answered {status}: {said}", self.url()),
        };
        let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = after.and_then(|after| pause(after, SystemTime::now()));
        Failure { reason: Reason::Status(status.as_u16()), what, retry_after }
    }
}

/// The value of `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date.
fn pause(after: &str, now: SystemTime) -> Option<Duration> {
    let after = after.trim();
    let pause = match after.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(after).ok()?;
            SystemTime::from(date.timestamp()).duration_since(now).unwrap_or_default()
        }
    };
    Some(pause.min(LONGEST_RETRY_AFTER))
}

async fn beginning(response: &mut Response) -> Result<Bytes, reqwest::Error> {
    let mut read = Vec::new();
    while let Some(piece) = response.chunk().await? {
        let room = MAX_ANSWER_BYTES - read.len();
        read.extend_from_slice(piece.get(..room).unwrap_or(&piece));
        if read.len() == MAX_ANSWER_BYTES {
            break;
        }
    }
    Ok(read.into())
}

/// The first line of a small file.
fn secret(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().next().unwrap_or_default().trim();
    match line {
        "" => Err(io::Error::other("its first line is empty")),
        line if line.len() > MAX_SECRET_BYTES => Err(io::Error::other("its first line is too long for a secret")),
        line if line.contains(|c: char| c.is_control()) => {
            Err(io::Error::other("its first line holds a control character"))
        }
        line => Ok(line.to_owned()),
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let it = fs::metadata(path).ok()?;
    Some((it.dev(), it.ino(), it.len(), it.mtime(), it.mtime_nsec()))
}

fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    fs::read(path).map_err(|source| ClientError::File { path: path.into(), source })
}

/// An I/O error shows what is within it only when it is asked for that, not as its source.
fn is_of_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    error.is::<rustls::Error>() || inner.is_some_and(|inner| is_of_tls(inner)) || error.source().is_some_and(is_of_tls)
}

/// The reasons beneath an error of the HTTP client, each once: it says by itself only that something failed.
fn chain(error: &reqwest::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut source = error.source();
    while let Some(error) = source {
        let word = error.to_string();
        if words.last().is_none_or(|last| !last.contains(&word)) {
            words.push(word);
        }
        source = error.source();
    }
    if words.is_empty() { error.to_string() } else { words.join(": ") }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread::{self, JoinHandle},
    };

    use super::*;
    use crate::config::endpoint::BasicAuth;

    /// Answers one request with `answer` and returns what was asked.
    fn server(answer: &'static str) -> (Endpoint, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/push", listener.local_addr().unwrap());
        let asked = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"the body") {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).unwrap();
                assert!(read > 0, "the request ended early");
                asked.extend_from_slice(&piece[..read]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        (Endpoint::at(&url), asked)
    }

    fn post(endpoint: &Endpoint) -> Result<Bytes, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = Client::new(endpoint).unwrap();
        let body = Bytes::from_static(b"the body");
        let posted = client.post(Request {
            query: "b=c".into(),
            encoding: Some("snappy"),
            headers: &[("x-version", "0.1.0")],
            ..Request::new("text/x-test", body)
        });
        runtime.block_on(posted).map(|answer| answer.body)
    }

    fn refused(answer: &'static str) -> Failure {
        let (endpoint, asked) = server(answer);
        let failure = post(&endpoint).expect_err(answer);
        asked.join().unwrap();
        failure
    }

    #[test]
    fn a_success_returns_the_answer_and_the_request_has_all_headers() {
        let (endpoint, asked) = server("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone");
        assert_eq!(post(&endpoint), Ok(Bytes::from_static(b"done")));
        let asked = asked.join().unwrap().to_lowercase();
        for header in
            ["content-type: text/x-test", "content-encoding: snappy", "x-version: 0.1.0", "user-agent: steth/"]
        {
            assert!(asked.contains(&format!("\r\n{header}")), "{asked}");
        }
        assert!(asked.starts_with("post /push?b=c http/1.1\r\n") && asked.ends_with("\r\n\r\nthe body"), "{asked}");
    }

    #[test]
    fn refusals_say_what_was_answered_and_whether_to_come_again() {
        let wrong = refused("HTTP/1.1 400 Bad Request\r\ncontent-length: 20\r\n\r\nout of order\nsample\n");
        assert!(!wrong.is_worth_another_try());
        assert!(wrong.to_string().ends_with(": answered 400 Bad Request: out of order sample"), "{wrong}");
        let busy = refused("HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n");
        assert!(busy.is_worth_another_try());
        assert_eq!(busy.retry_after, Some(Duration::from_secs(7)));
        let down = refused("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
        assert!(down.is_worth_another_try() && down.retry_after.is_none());
        let elsewhere = refused("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\n\r\n");
        assert_eq!(elsewhere.reason, Reason::Status(307));
    }

    #[test]
    fn garbage_silence_and_nobody_are_failures_that_are_tried_again() {
        let garbage = refused("SSH-2.0-OpenSSH_9.2\r\n\r\n");
        assert!(garbage.reason == Reason::Connection && garbage.is_worth_another_try(), "{garbage:?}");
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let timeout = Duration::from_millis(100);
        let late = post(&Endpoint { timeout, ..Endpoint::at(&url) }).expect_err("nobody answers");
        assert!(late.reason == Reason::Timeout && late.to_string().ends_with("no answer within 100ms"), "{late:?}");
        drop(silent);
        let nobody = post(&Endpoint::at(&url)).expect_err("nobody listens");
        assert!(nobody.reason == Reason::Connection && nobody.to_string().contains("refused"), "{nobody:?}");
        let plain = post(&Endpoint::at(&url.replace("http:", "https:"))).expect_err("nobody listens");
        assert_eq!(plain.reason, Reason::Connection, "{plain:?}");
    }

    #[test]
    fn what_is_no_tls_is_told_as_such() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let answering = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 512]);
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        });
        let failure = post(&Endpoint::at(&url)).expect_err("no TLS");
        answering.join().unwrap();
        assert_eq!(failure.reason, Reason::Tls, "{failure:?}");
    }

    #[test]
    fn secrets_are_read_for_each_request_and_never_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let with_token = |endpoint| Endpoint { bearer_token_file: Some(path.clone()), ..endpoint };
        for token in ["hunter2", "hunter3"] {
            fs::write(&path, format!("{token}\n")).unwrap();
            let (endpoint, asked) = server("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n");
            let failure = post(&with_token(endpoint)).expect_err("unauthorized");
            assert!(!format!("{failure:?}").contains(token));
            assert!(asked.join().unwrap().contains(&format!("authorization: Bearer {token}\r\n")));
        }
        let (endpoint, asked) = server("HTTP/1.1 204 No Content\r\n\r\n");
        let basic_auth = Some(BasicAuth { username: "me".into(), password_file: path.clone() });
        assert_eq!(post(&Endpoint { basic_auth, ..endpoint }), Ok(Bytes::new()));
        // me:hunter3
        assert!(asked.join().unwrap().contains("authorization: Basic bWU6aHVudGVyMw==\r\n"));
        fs::write(&path, "").unwrap();
        let failure = post(&with_token(Endpoint::at("http://127.0.0.1:1"))).expect_err("an empty file");
        assert_eq!(failure.reason, Reason::Secret);
        assert!(failure.is_worth_another_try(), "somebody may be writing it");
    }

    #[test]
    fn certificates_that_are_none_are_refused_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let endpoint = Endpoint { ca_file: Some(path.clone()), ..Endpoint::at("https://a") };
        let missing = Client::new(&endpoint).expect_err("no file").to_string();
        assert!(missing.contains("ca.pem: No such file"), "{missing}");
        fs::write(&path, "nonsense").unwrap();
        let nonsense = Client::new(&endpoint).expect_err("no certificate").to_string();
        assert!(nonsense.contains("holds no certificate"), "{nonsense}");
        let certificate = crate::config::endpoint::Certificate { file: path.clone(), key_file: path };
        let endpoint = Endpoint { certificate: Some(certificate), ..Endpoint::at("https://a") };
        assert!(matches!(Client::new(&endpoint), Err(ClientError::Tls { .. })));
    }

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_until_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(pause("120", now), Some(Duration::from_secs(120)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:50:07 GMT", now), Some(Duration::from_secs(30)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(pause("99999999", now), Some(LONGEST_RETRY_AFTER));
        assert_eq!(pause("soon", now), None);
    }
}
