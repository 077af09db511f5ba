//! A Postgres session that sends exactly the messages it is told to, in one write for each request. Knows protocol 3.0
//! (PostgreSQL manual, "Message Formats"), not SQL.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::postgres::{Postgres, USER};

/// An open session over TCP; closed when dropped.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
}

const ANSWER: Duration = Duration::from_secs(30);

impl Session {
    /// Opens a session on a database.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses.
    pub fn open(postgres: &Postgres, database: &str) -> Result<Self> {
        Self::open_at(postgres.port, database)
    }

    /// As [`open`](Self::open), through whatever takes connections at a port.
    ///
    /// # Errors
    /// As there.
    pub fn open_at(port: u16, database: &str) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_nodelay(true)?;
        let mut session = Self { stream };
        let body = [&196_608_i32.to_be_bytes()[..], &strings(&["user", USER, "database", database]), b"\0"].concat();
        let length = i32::try_from(body.len() + 4)?.to_be_bytes();
        session.stream.write_all(&[&length[..], &body].concat())?;
        session.until_ready()?;
        Ok(session)
    }

    /// A session that is open already, over another descriptor of its socket.
    pub fn over(stream: TcpStream) -> Self {
        Self { stream }
    }

    /// Its socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends a simple query, without waiting for its answer.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn send(&mut self, statements: &str) -> Result<()> {
        self.request(&[(b'Q', strings(&[statements]))])
    }

    /// Sends several simple queries in one write, without waiting for their answers.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn send_together(&mut self, queries: &[&str]) -> Result<()> {
        let messages: Vec<_> = queries.iter().map(|query| (b'Q', strings(&[*query]))).collect();
        self.request(&messages)
    }

    /// Runs a simple query to its end; returns the SQLSTATE of its error, if any.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn query(&mut self, statements: &str) -> Result<Option<String>> {
        self.send(statements)?;
        self.until_ready()
    }

    /// As [`query`](Self::query), sent in two writes, with so many bytes of the text in the first.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn query_in_two(&mut self, statements: &str, first: usize) -> Result<Option<String>> {
        let text = strings(&[statements]);
        let length = u32::try_from(text.len() + 4)?.to_be_bytes();
        let whole = [b"Q", &length[..], &text].concat();
        let (begin, end) = whole.split_at((5 + first).min(whole.len()));
        for part in [begin, end] {
            self.stream.write_all(part)?;
        }
        self.until_ready()
    }

    /// Prepares a statement in a cycle of its own.
    ///
    /// # Errors
    /// If the server is gone or does not like the statement.
    pub fn prepare(&mut self, name: &str, statement: &str) -> Result<()> {
        let parse = [strings(&[name, statement]), vec![0, 0]].concat();
        self.request(&[(b'P', parse), (b'S', vec![])])?;
        match self.until_ready()? {
            Some(sqlstate) => bail!("{sqlstate} for {statement}"),
            None => Ok(()),
        }
    }

    /// Executes a prepared statement with text parameters; returns the SQLSTATE of its error, if any.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn execute(&mut self, name: &str, parameters: &[&str]) -> Result<Option<String>> {
        let mut bind = [strings(&["", name]), vec![0, 0]].concat();
        bind.extend(u16::try_from(parameters.len())?.to_be_bytes());
        for parameter in parameters {
            bind.extend(u32::try_from(parameter.len())?.to_be_bytes());
            bind.extend(parameter.as_bytes());
        }
        bind.extend([0, 0]);
        self.request(&[(b'B', bind), (b'E', vec![0; 5]), (b'S', vec![])])?;
        self.until_ready()
    }

    /// Begins `copy … from stdin`, sends this data and then that the client gives up; returns the SQLSTATE of the error that
    /// follows.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn copy_and_fail(&mut self, statement: &str, data: &[&str]) -> Result<Option<String>> {
        let mut messages = vec![(b'Q', strings(&[statement]))];
        messages.extend(data.iter().map(|line| (b'd', line.as_bytes().to_vec())));
        messages.push((b'f', strings(&["the client gives up"])));
        self.request(&messages)?;
        self.until_ready()
    }

    /// Reads to the next ReadyForQuery; returns the SQLSTATE of an error on the way.
    ///
    /// # Errors
    /// If the server is gone, or silent for half a minute.
    pub fn until_ready(&mut self) -> Result<Option<String>> {
        let mut sqlstate = None;
        loop {
            let mut header = [0; 5];
            self.stream.read_exact(&mut header).context("the server does not answer")?;
            let [tag, length @ ..] = header;
            let length = u32::from_be_bytes(length).checked_sub(4).context("a length below 4")?;
            let mut body = vec![0; length as usize];
            self.stream.read_exact(&mut body)?;
            match tag {
                b'Z' => return Ok(sqlstate),
                // Fields, each a letter and a string.
                b'E' => {
                    let code = body.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"));
                    sqlstate = code.map(|code| String::from_utf8_lossy(code).into_owned());
                }
                _ => {}
            }
        }
    }

    fn request(&mut self, messages: &[(u8, Vec<u8>)]) -> Result<()> {
        let mut bytes = Vec::new();
        for (tag, body) in messages {
            bytes.push(*tag);
            bytes.extend(u32::try_from(body.len() + 4)?.to_be_bytes());
            bytes.extend(body);
        }
        Ok(self.stream.write_all(&bytes)?)
    }
}

/// Each string with its final zero.
fn strings(all: &[&str]) -> Vec<u8> {
    all.iter().flat_map(|one| one.bytes().chain([0])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_queries_prepares_and_fails() {
        if let Some(why) = Postgres::missing() {
            skipped!("{why}");
        }
        let postgres = Postgres::start().unwrap();
        let database = postgres.create_database().unwrap();
        let mut session = Session::open(&postgres, &database).unwrap();
        assert_eq!(session.query("create table t (n int)").unwrap(), None);
        session.prepare("add", "insert into t values ($1)").unwrap();
        for n in ["1", "22"] {
            assert_eq!(session.execute("add", &[n]).unwrap(), None);
        }
        assert_eq!(session.execute("add", &["x"]).unwrap().as_deref(), Some("22P02"));
        assert_eq!(session.query("select 1 / 0").unwrap().as_deref(), Some("22012"));
        assert_eq!(postgres.psql(&database, "select sum(n) from t").unwrap(), "23");
    }
}
