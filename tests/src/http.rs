//! The least HTTP/1.1 client that a test needs: one request, one answer. Knows nothing of what is asked.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// How long each next byte of an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header lines as sent.
    pub headers: Vec<(String, String)>,
    /// The body, unchunked.
    pub body: String,
}

impl Answer {
    /// The value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// GETs `http://host:port/path`.
///
/// # Errors
/// If nobody answers within 10 s, or not in HTTP.
pub fn get(url: &str) -> Result<Answer> {
    get_as(url, "*/*")
}

/// The same, with a header `Accept`.
///
/// # Errors
/// As above.
pub fn get_as(url: &str, accept: &str) -> Result<Answer> {
    let (host, path) = split(url).with_context(|| format!("not an http URL: {url}"))?;
    let mut stream = TcpStream::connect(host).with_context(|| format!("cannot connect to {url}"))?;
    stream.set_read_timeout(Some(crate::wait::patient(ANSWER)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).with_context(|| format!("no whole answer from {url}"))?;
    parse(&bytes).with_context(|| format!("bad answer from {url}"))
}

/// POSTs JSON to `http://host:port/path`.
///
/// # Errors
/// As above.
pub fn post_json(url: &str, body: &str) -> Result<Answer> {
    let (host, path) = split(url).with_context(|| format!("not an http URL: {url}"))?;
    let mut stream = TcpStream::connect(host).with_context(|| format!("cannot connect to {url}"))?;
    stream.set_read_timeout(Some(crate::wait::patient(ANSWER)))?;
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).with_context(|| format!("no whole answer from {url}"))?;
    parse(&bytes).with_context(|| format!("bad answer from {url}"))
}

/// Text as it stands in a URL's query.
pub fn percent_encoded(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn split(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    Some(rest.find('/').map_or((rest, "/"), |at| rest.split_at(at)))
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").context("no end of the headers")?;
    let head = std::str::from_utf8(&bytes[..end])?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, headers, body: String::new() };
    let body = &bytes[end + 4..];
    let body = match answer.header("transfer-encoding") {
        Some("chunked") => unchunk(body)?,
        _ => body.to_vec(),
    };
    if let Some(length) = answer.header("content-length").map(str::parse::<usize>).transpose()?
        && length != body.len()
    {
        bail!("{} bytes of {length}", body.len());
    }
    answer.body = String::from_utf8(body)?;
    Ok(answer)
}

fn unchunk(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n").context("no chunk length")?;
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..end])?.trim(), 16)?;
        let rest = &bytes[end + 2..];
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(rest.get(..length).context("a chunk is cut")?);
        bytes = rest.get(length + 2..).context("a chunk has no end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_chunked_bodies_read_alike() {
        let plain = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap();
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        assert_eq!(plain.body, parse(chunked).unwrap().body);
        assert_eq!((plain.status, plain.header("content-length")), (200, Some("5")));
    }

    #[test]
    fn a_cut_body_is_an_error() {
        parse(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello").unwrap_err();
        parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhel").unwrap_err();
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(percent_encoded("rate(x[1s])"), "rate%28x%5B1s%5D%29");
    }
}
