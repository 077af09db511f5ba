//! Whoever is sent mail: a server that takes all of it from anybody (RFC 5321) and counts it. Does not know what it says.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::Result;

/// A server on 127.0.0.1 that ends with the program.
pub struct MailServer {
    address: SocketAddr,
    count: Arc<AtomicUsize>,
}

impl MailServer {
    /// # Errors
    /// If no port can be had.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let count = Arc::new(AtomicUsize::new(0));
        let all = Arc::clone(&count);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let count = Arc::clone(&all);
                thread::spawn(move || serve(stream, &count));
            }
        });
        Ok(Self { address, count })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Mails so far.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

/// Talks until the other side says goodbye or hangs up.
fn serve(stream: TcpStream, count: &AtomicUsize) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    let mut say = |line: &str| writer.write_all(format!("{line}\r\n").as_bytes()).ok();
    say("220 here")?;
    let mut is_mail = false;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_uppercase();
        match line.split(' ').next().unwrap_or_default() {
            "." if is_mail => {
                is_mail = false;
                count.fetch_add(1, Ordering::SeqCst);
                say("250 taken")?;
            }
            _ if is_mail => {}
            "DATA" => {
                is_mail = true;
                say("354 go on")?;
            }
            "QUIT" => return say("221 goodbye"),
            _ => say("250 yes")?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_taken_and_counted() {
        let server = MailServer::start().unwrap();
        let mut stream = TcpStream::connect(server.address).unwrap();
        let told = "EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nSubject: x\r\n\r\nQUIT\r\n.\r\nQUIT\r\n";
        stream.write_all(told.as_bytes()).unwrap();
        let answers: Vec<String> = BufReader::new(stream).lines().map_while(Result::ok).collect();
        let codes: Vec<&str> = answers.iter().map(|answer| &answer[..3]).collect();
        assert_eq!(codes, ["220", "250", "250", "250", "354", "250", "221"]);
        assert_eq!(server.count(), 1);
    }
}
