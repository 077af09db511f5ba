//! Whoever is sent something: an HTTP server that says yes to all of it and remembers what came when. Does not know what
//! the bytes mean.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::Result;
use serde_json::Value;

/// A server on 127.0.0.1 that ends with the program.
pub struct Receiver {
    address: SocketAddr,
    posts: Arc<Mutex<Vec<Post>>>,
}

/// One request that was answered.
#[derive(Clone)]
pub struct Post {
    pub path: String,
    /// When its last byte was there.
    pub at: Instant,
    /// What it says, where that is JSON.
    pub json: Value,
}

impl Receiver {
    /// # Errors
    /// If no port can be had.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let posts = Arc::default();
        let all = Arc::clone(&posts);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let posts = Arc::clone(&all);
                thread::spawn(move || serve(stream, &posts));
            }
        });
        Ok(Self { address, posts })
    }

    /// Where requests to `path` are taken.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// All that came to `path`.
    pub fn posts(&self, path: &str) -> Vec<Post> {
        let posts = self.posts.lock().unwrap_or_else(PoisonError::into_inner);
        posts.iter().filter(|post| post.path == path).cloned().collect()
    }

    /// Whether anything came to `path`.
    pub fn any(&self, path: &str) -> bool {
        let posts = self.posts.lock().unwrap_or_else(PoisonError::into_inner);
        posts.iter().any(|post| post.path.split('?').next() == Some(path))
    }

    /// Forgets what came.
    pub fn clear(&self) {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Answers until the other side hangs up.
fn serve(stream: TcpStream, posts: &Mutex<Vec<Post>>) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut first = String::new();
        reader.read_line(&mut first).ok()?;
        let path = first.split(' ').nth(1)?.to_owned();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let at = Instant::now();
        let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let post = Post { path, at, json };
        posts.lock().unwrap_or_else(PoisonError::into_inner).push(post);
        writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_posted_is_remembered() {
        let receiver = Receiver::start().unwrap();
        let mut stream = TcpStream::connect(receiver.address).unwrap();
        stream.write_all(b"POST /a HTTP/1.1\r\nContent-Length: 7\r\n\r\n{\"b\":1}").unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        let posts = receiver.posts("/a");
        assert_eq!((posts.len(), posts[0].json["b"].as_u64()), (1, Some(1)));
        assert!(receiver.posts("/b").is_empty());
        receiver.clear();
        assert!(receiver.posts("/a").is_empty());
    }
}
