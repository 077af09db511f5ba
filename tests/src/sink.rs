//! A server that takes whatever JSON is posted to it and keeps it. Knows the least of HTTP/1.1, not what is posted.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::wait;

/// What is posted, with when it came.
type Posts = Arc<Mutex<Vec<(Instant, Value)>>>;

/// How it answers what is posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// With success.
    Takes,
    /// With these bytes, and by hanging up.
    Says(&'static str),
    /// Never.
    Hangs,
}

/// A server on a free port of 127.0.0.1. Its threads end with the test.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    posts: Posts,
    is_away: Arc<AtomicBool>,
    manner: Arc<Mutex<Manner>>,
}

impl Sink {
    /// Starts one that answers each post with success.
    ///
    /// # Errors
    /// If there is no port.
    pub fn start() -> Result<Self> {
        Self::start_at(0)
    }

    /// One on this port of 127.0.0.1.
    ///
    /// # Errors
    /// If somebody else has it.
    pub fn start_at(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let address = listener.local_addr()?;
        let (posts, is_away) = (Posts::default(), Arc::new(AtomicBool::new(false)));
        let manner = Arc::new(Mutex::new(Manner::Takes));
        let (kept, away, how) = (Arc::clone(&posts), Arc::clone(&is_away), Arc::clone(&manner));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if away.load(Ordering::SeqCst) {
                    break;
                }
                let (posts, away, how) = (Arc::clone(&kept), Arc::clone(&away), Arc::clone(&how));
                std::thread::spawn(move || serve(stream, &posts, &away, &how));
            }
        });
        Ok(Self { address, posts, is_away, manner })
    }

    /// How it answers from now on. What it does not answer with success is not kept.
    pub fn set_manner(&self, manner: Manner) {
        *self.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// Goes away: nobody listens there any more, and who is connected gets no answer. Returns what came.
    pub fn leave(self) -> Vec<(Instant, Value)> {
        self.is_away.store(true, Ordering::SeqCst);
        // Wakes who listens.
        drop(TcpStream::connect(self.address));
        while TcpStream::connect(self.address).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.posts()
    }

    /// Where to post.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// All that came so far, the oldest first.
    pub fn posts(&self) -> Vec<(Instant, Value)> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a post for which `find` has an answer.
    ///
    /// # Errors
    /// If none comes in time.
    pub fn wait_for<T>(&self, what: &str, within: Duration, find: impl Fn(&Value) -> Option<T>) -> Result<T> {
        wait::poll(what, within, || Ok(self.posts().iter().find_map(|(_, post)| find(post)))).with_context(|| {
            format!("these came: {:#?}", self.posts().iter().map(|(_, post)| post).collect::<Vec<_>>())
        })
    }
}

/// Answers one request after the other until the other side hangs up, or has said that it is the last.
fn serve(stream: TcpStream, posts: &Posts, is_away: &AtomicBool, manner: &Mutex<Manner>) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let (mut length, mut is_last) = (0, false);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            is_last |= line == "connection: close";
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        if is_away.load(Ordering::SeqCst) {
            return None;
        }
        let manner = *manner.lock().unwrap_or_else(PoisonError::into_inner);
        match manner {
            Manner::Takes => {}
            Manner::Says(bytes) => return writer.write_all(bytes.as_bytes()).ok(),
            // Until the other side hangs up.
            Manner::Hangs => return reader.read(&mut [0]).map(drop).ok(),
        }
        let post = serde_json::from_slice(&body).unwrap_or(Value::Null);
        posts.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), post));
        writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").ok()?;
        if is_last {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_posted_is_kept() {
        let sink = Sink::start().unwrap();
        assert_eq!(crate::http::post_json(&sink.url(), "{\"a\":1}").unwrap().status, 200);
        let found = sink.wait_for("a post", Duration::from_secs(5), |post| post["a"].as_u64());
        assert_eq!((found.unwrap(), sink.posts().len()), (1, 1));
        let (url, port) = (sink.url(), sink.address.port());
        assert_eq!(sink.leave().len(), 1);
        assert!(crate::http::post_json(&url, "{}").is_err());
        assert!(Sink::start_at(port).unwrap().posts().is_empty());
    }
}
