//! Tokens for the agent's endpoint, made as its users make them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use crate::agent::steth;

/// Tokens of all roles, as `steth token new` makes them, and the file that admits them.
#[derive(Debug)]
pub struct Tokens {
    folder: tempfile::TempDir,
}

impl Tokens {
    /// One of each role.
    ///
    /// # Errors
    /// The agent's program does not make them.
    pub fn make() -> Result<Self> {
        let tokens = Self { folder: tempfile::tempdir()? };
        let lines = ["viewer", "operator", "admin"].map(|role| tokens.add(role));
        let lines: Vec<String> = lines.into_iter().collect::<Result<_>>()?;
        fs::write(tokens.file(), lines.join("\n"))?;
        Ok(tokens)
    }

    /// Makes a token and gives the line that admits it.
    ///
    /// # Errors
    /// The agent's program does not make it, or shows it in that line.
    pub fn add(&self, role: &str) -> Result<String> {
        let (code, token, line) = steth(&["token", "new", "--role", role])?;
        ensure!(code == Some(0) && !line.contains(token.trim()), "{line}");
        fs::write(self.path(role), token)?;
        Ok(line.trim().to_owned())
    }

    /// A file of this name beside them; that of a role holds its token.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }

    /// What admits them.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.path("tokens")
    }

    /// The token of a role.
    ///
    /// # Errors
    /// If its file was taken away.
    pub fn token(&self, role: &str) -> Result<String> {
        Ok(fs::read_to_string(self.path(role))?.trim().to_owned())
    }
}
