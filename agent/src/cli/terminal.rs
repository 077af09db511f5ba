//! How text reaches people: results on stdout, talk on stderr, colours only on a terminal.

use std::io::{self, IsTerminal, Write};

use super::{Failure, Outcome};

/// Whether what is written may be coloured.
#[derive(Clone, Copy, Debug)]
pub struct Paint(pub bool);

impl Paint {
    /// Colours if stdout is a terminal.
    pub fn stdout() -> Self {
        Self(io::stdout().is_terminal() && colours_wanted())
    }

    /// Colours if stderr is a terminal.
    pub fn stderr() -> Self {
        Self(io::stderr().is_terminal() && colours_wanted())
    }

    pub fn good(self, text: &str) -> String {
        self.coloured("32", text)
    }

    pub fn warn(self, text: &str) -> String {
        self.coloured("33", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.coloured("31", text)
    }

    pub fn title(self, text: &str) -> String {
        self.coloured("1", text)
    }

    fn coloured(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// Writes a result. A reader that has gone away, as `head` does, wants no more and is no failure.
pub fn result(text: &str) -> Outcome {
    wanted(text).map(|_| ())
}

/// Writes a part of a result, and says whether anybody wants more.
pub fn wanted(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::failed(format!("cannot write to stdout: {error}"))),
    }
}

/// Writes a line of talk; there is nobody to tell when that fails.
pub fn talk(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// <https://no-color.org>
fn colours_wanted() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}
