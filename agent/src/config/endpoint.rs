//! Where something is sent over HTTP: address, patience, and how both sides prove who they are. Secrets stand in files of
//! their own, never in the configuration. Does not know what is sent, nor how.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, de::Error};

use super::value::{parse_duration, show_duration};

/// How long a request may take in all where nothing else is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(300);

/// An HTTP server that something is sent to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// `http://` or `https://`, without user and password.
    #[serde(deserialize_with = "url")]
    pub url: String,
    /// How long a request may take, from looking up the name to the end of the answer.
    #[serde(default = "default_timeout", deserialize_with = "timeout")]
    pub timeout: Duration,
    /// File whose first line is sent as a bearer token; read anew for each request, so that it can be exchanged.
    #[serde(default, deserialize_with = "file")]
    pub bearer_token_file: Option<PathBuf>,
    /// User and password.
    #[serde(default)]
    pub basic_auth: Option<BasicAuth>,
    /// Certificates (PEM) that the server's must be signed by; without it those that the host trusts.
    #[serde(default, deserialize_with = "file")]
    pub ca_file: Option<PathBuf>,
    /// Our own certificate (PEM) and its key, for servers that ask for one.
    #[serde(default)]
    pub certificate: Option<Certificate>,
}

/// User and password of an [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasicAuth {
    /// The user.
    pub username: String,
    /// File whose first line is the password; read anew for each request.
    #[serde(deserialize_with = "needed_file")]
    pub password_file: PathBuf,
}

/// The certificate that we show to an [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The certificate, with those between it and the authority (PEM).
    #[serde(deserialize_with = "needed_file")]
    pub file: PathBuf,
    /// Its private key (PEM).
    #[serde(deserialize_with = "needed_file")]
    pub key_file: PathBuf,
}

impl Endpoint {
    /// One with nothing but an address.
    pub fn at(url: &str) -> Self {
        Self {
            url: url.into(),
            timeout: DEFAULT_TIMEOUT,
            bearer_token_file: None,
            basic_auth: None,
            ca_file: None,
            certificate: None,
        }
    }

    /// What cannot go together, in words.
    pub fn contradiction(&self) -> Option<&'static str> {
        let plain = self.url.starts_with("http:");
        if self.bearer_token_file.is_some() && self.basic_auth.is_some() {
            Some("a request bears one of bearer_token_file and basic_auth")
        } else if plain && (self.ca_file.is_some() || self.certificate.is_some()) {
            Some("ca_file and certificate need a url that begins with https://")
        } else {
            None
        }
    }
}

fn default_timeout() -> Duration {
    DEFAULT_TIMEOUT
}

fn url<'de, D: Deserializer<'de>>(typed: D) -> Result<String, D::Error> {
    let url = String::deserialize(typed)?;
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let rest = rest.ok_or_else(|| D::Error::custom("a url begins with http:// or https://"))?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains('@') {
        // Not quoted: it may hold a password.
        return Err(D::Error::custom("user and password do not belong into a url: basic_auth names a file for them"));
    }
    if host.is_empty() || url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(D::Error::custom("it is not a url: a host and no spaces are needed"));
    }
    Ok(url)
}

fn timeout<'de, D: Deserializer<'de>>(typed: D) -> Result<Duration, D::Error> {
    duration_within(typed, SHORTEST_TIMEOUT, LONGEST_TIMEOUT)
}

/// A duration as it is typed everywhere, within bounds.
///
/// # Errors
/// What is wrong with it and what is allowed.
pub fn duration_within<'de, D: Deserializer<'de>>(
    typed: D,
    least: Duration,
    most: Duration,
) -> Result<Duration, D::Error> {
    let typed = String::deserialize(typed)?;
    let duration = parse_duration(&typed).and_then(|it| match it {
        it if it < least => Err("it is too small".into()),
        it if it > most => Err("it is too large".into()),
        it => Ok(it),
    });
    duration.map_err(|why| {
        let (least, most) = (show_duration(least), show_duration(most));
        D::Error::custom(format!("{typed:?}: {why}; allowed: a duration from {least} to {most}"))
    })
}

fn file<'de, D: Deserializer<'de>>(typed: D) -> Result<Option<PathBuf>, D::Error> {
    needed_file(typed).map(Some)
}

fn needed_file<'de, D: Deserializer<'de>>(typed: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(typed)?;
    match Path::is_absolute(&path) {
        true => Ok(path),
        // Not quoted: someone may have typed the secret itself.
        false => Err(D::Error::custom("it is not an absolute path; allowed: the absolute path of a file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        toml::from_str::<Endpoint>(text).expect_err(text).message().to_owned()
    }

    #[test]
    fn a_url_alone_is_an_endpoint_with_the_default_patience() {
        let endpoint: Endpoint = toml::from_str("url = 'https://push.example.org/api/v1/push'").unwrap();
        assert_eq!(endpoint, Endpoint::at("https://push.example.org/api/v1/push"));
    }

    #[test]
    fn everything_that_can_be_said_is_read() {
        let text = "url = 'https://a'\ntimeout = '3s'\nbearer_token_file = '/t'\nca_file = '/ca'\n\
                    basic_auth = { username = 'u', password_file = '/p' }\ncertificate = { file = '/c', key_file = '/k' }";
        let read: Endpoint = toml::from_str(text).unwrap();
        assert_eq!(read.timeout, Duration::from_secs(3));
        assert_eq!(read.bearer_token_file, Some("/t".into()));
        assert_eq!(read.ca_file, Some("/ca".into()));
        assert_eq!(read.basic_auth, Some(BasicAuth { username: "u".into(), password_file: "/p".into() }));
        assert_eq!(read.certificate, Some(Certificate { file: "/c".into(), key_file: "/k".into() }));
    }

    #[test]
    fn what_is_wrong_is_said_without_quoting_what_may_be_secret() {
        assert!(wrong("url = 'push.example.org'").contains("begins with http:// or https://"));
        let with_password = wrong("url = 'https://me:hunter2@host/'");
        assert!(with_password.contains("basic_auth") && !with_password.contains("hunter2"), "{with_password}");
        let token = wrong("url = 'https://a'\nbearer_token_file = 'hunter2'");
        assert!(token.contains("absolute path") && !token.contains("hunter2"), "{token}");
        assert!(wrong("url = 'https://'").contains("a host"));
        assert!(wrong("url = 'https://a'\ntimeout = '1ms'").contains("from 100ms to 5m"));
        assert!(wrong("url = 'https://a'\ntoken = 'x'").contains("unknown field `token`, expected one of"));
        assert!(wrong("timeout = '1s'").contains("missing field `url`"));
    }

    #[test]
    fn contradictions_are_told() {
        let basic_auth = Some(BasicAuth { username: "u".into(), password_file: "/p".into() });
        let both = Endpoint { bearer_token_file: Some("/t".into()), basic_auth, ..Endpoint::at("https://a") };
        assert!(both.contradiction().is_some());
        assert!(Endpoint { ca_file: Some("/ca".into()), ..Endpoint::at("http://a") }.contradiction().is_some());
        assert_eq!(Endpoint::at("http://a").contradiction(), None);
    }
}
