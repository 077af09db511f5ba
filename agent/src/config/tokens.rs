//! The file of tokens: who may ask the agent for what. A token itself stands nowhere, only its hash: a token has 256 bits of
//! chance, so one round of SHA-256 is as good as any slow hash. Does not know what may be asked for.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::read::read_file;

/// What somebody may do; each may do what those before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read metrics, profiles and findings, without the text of statements.
    Viewer,
    /// Read statements; acknowledge and silence alerts, tell of deployments.
    Operator,
    /// Change settings.
    Admin,
}

impl Role {
    /// All of them, by their names.
    pub const ALL: &[(&str, Self)] = &[("viewer", Self::Viewer), ("operator", Self::Operator), ("admin", Self::Admin)];

    /// Its name, as in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, role)| *role)
    }
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose it is, for people.
    pub name: String,
    /// What it allows.
    pub role: Role,
    hash: [u8; 32],
}

/// All of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens(Vec<Token>);

/// By this a token is known where it should not stand, such as in a log or in a repository.
const PREFIX: &str = "steth_";
/// What stands before a hash.
const SHA256: &str = "sha256:";
/// Each request is compared with all of them.
const MOST: usize = 1_000;
/// The longest name; it stands in each line of the audit log.
const MOST_NAME_BYTES: usize = 64;

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, everybody may write it, or a line is wrong.
    pub fn load(path: &Path) -> Result<Self, String> {
        let told = |why: String| format!("http.tokens = {:?}: {why}", path.display().to_string());
        let attributes = fs::metadata(path).map_err(|error| told(error.to_string()))?;
        if attributes.permissions().mode() & 0o002 != 0 {
            return Err(told("everybody on this host may write it, and so make tokens; chmod o-w".into()));
        }
        let text = read_file(path).map_err(|error| told(error.to_string()))?;
        Self::parse(&text).map_err(told)
    }

    /// Reads its text: `name role sha256:…` on each line; what begins with `#` is a comment.
    ///
    /// # Errors
    /// Which line is wrong and why. What stands there is not quoted: it may be a token.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens: Vec<Token> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let token = parse_line(line).map_err(|why| format!("line {}: {why}", number + 1))?;
            if tokens.iter().any(|known| known.name == token.name) {
                return Err(format!("line {}: there are two tokens of the name {:?}", number + 1, token.name));
            }
            tokens.push(token);
        }
        if tokens.len() > MOST {
            return Err(format!("there are more than {MOST} tokens"));
        }
        Ok(Self(tokens))
    }

    /// Whose token this is. Takes as long for all that are none.
    pub fn find(&self, presented: &str) -> Option<&Token> {
        let hash = hash(presented);
        let mut found = None;
        for token in &self.0 {
            if bool::from(token.hash.ct_eq(&hash)) {
                found = Some(token);
            }
        }
        found
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

fn parse_line(line: &str) -> Result<Token, String> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(role), Some(hash), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Err("it is not `NAME ROLE sha256:HASH`, as `steth token new` prints it".into());
    };
    check_name(name)?;
    let role = Role::named(role).ok_or("the second word is no role; allowed: viewer, operator, admin")?;
    let hex =
        hash.strip_prefix(SHA256).ok_or("the third word does not begin with sha256:; a token itself is not kept")?;
    let hash = from_hex(hex).ok_or("behind sha256: stand 64 digits of base 16")?;
    Ok(Token { name: name.to_owned(), role, hash })
}

/// Whether somebody's token can be known by this name.
///
/// # Errors
/// What is allowed.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    match !name.is_empty() && name.len() <= MOST_NAME_BYTES && name.bytes().all(is_allowed) {
        true => Ok(()),
        false => Err(format!("a name has up to {MOST_NAME_BYTES} letters, digits and - _ . @")),
    }
}

/// A token that never was before.
///
/// # Errors
/// If the system has no chance to give.
pub fn fresh() -> io::Result<String> {
    let mut bits = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bits)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bits)))
}

/// The line that admits whoever has this token.
pub fn line(name: &str, role: Role, token: &str) -> String {
    let hex: String = hash(token).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name} {} {SHA256}{hex}", role.name())
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn from_hex(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_token_is_known_by_its_line_and_no_other_is() {
        let (token, other) = (fresh().unwrap(), fresh().unwrap());
        assert!(token.starts_with("steth_") && token.len() == 49 && token != other, "{token}");
        let text = format!(
            "# Prometheus\n\n{}\n{}\n",
            line("prometheus", Role::Viewer, &token),
            line("me", Role::Admin, &other)
        );
        assert!(!text.contains(&token));
        let tokens = Tokens::parse(&text).unwrap();
        assert_eq!(tokens.count(), 2);
        let found = tokens.find(&token).unwrap();
        assert_eq!((found.name.as_str(), found.role), ("prometheus", Role::Viewer));
        assert_eq!(tokens.find(&other).unwrap().role, Role::Admin);
        for wrong in ["", "steth_", &token[..48], &format!("{token}x"), "prometheus"] {
            assert_eq!(tokens.find(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_wrong_line_is_named_and_never_quoted() {
        let good = line("a", Role::Viewer, "x");
        for (text, why) in [
            ("a viewer hunter2", "line 1: the third word does not begin with sha256:"),
            ("\na root sha256:00", "line 2: the second word is no role; allowed: viewer, operator, admin"),
            ("a viewer sha256:hunter2", "line 1: behind sha256: stand 64 digits"),
            ("hunter2", "line 1: it is not `NAME ROLE sha256:HASH`"),
            ("a/b viewer sha256:00", "line 1: a name has up to 64 letters"),
            (&format!("{good}\n{good}"), "line 2: there are two tokens of the name \"a\""),
        ] {
            let said = Tokens::parse(text).unwrap_err();
            assert!(said.starts_with(why) && !said.contains("hunter2"), "{said}");
        }
        assert_eq!(Tokens::parse("# nobody\n").unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_everybody_may_write_admits_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        fs::write(&path, line("a", Role::Viewer, "x")).unwrap();
        assert_eq!(Tokens::load(&path).unwrap().count(), 1);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(Tokens::load(&path).unwrap_err().contains("chmod o-w"));
        assert!(Tokens::load(&folder.path().join("none")).unwrap_err().contains("No such file"));
    }
}
