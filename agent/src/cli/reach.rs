//! How a running agent is reached: by its address on this host, or by a URL with TLS and a token. Does not know what is asked for.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::Failure;
use crate::config::Config;

/// Where an agent is, as it is typed.
#[derive(Clone, Debug, Default, Args)]
pub struct Where {
    /// Where the agent listens [default: `listen` of the configuration]
    #[arg(long, value_name = "ADDR", global = true)]
    agent: Option<SocketAddr>,
    /// Where an agent is served that may be elsewhere, such as https://db1.example.org:9464
    #[arg(long, value_name = "URL", conflicts_with = "agent", global = true)]
    url: Option<String>,
    /// File whose first line is the token to ask with
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Authorities (PEM) for the agent's certificate [default: those that this host trusts]
    #[arg(long, value_name = "FILE", global = true)]
    ca_file: Option<PathBuf>,
    /// Our own certificate (PEM), for agents that ask for one
    #[arg(long, value_name = "FILE", global = true)]
    certificate: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", global = true)]
    key: Option<PathBuf>,
}

/// Where an agent is, and what it is shown.
pub struct Target {
    shown: String,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    token: Option<String>,
}

/// A connection, in the open or not.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A loopback address answers at once or never; others may be far away.
const CONNECT: Duration = Duration::from_secs(2);
const CONNECT_ELSEWHERE: Duration = Duration::from_secs(10);

impl Where {
    /// Whether somebody said where it is.
    pub const fn is_given(&self) -> bool {
        self.agent.is_some() || self.url.is_some()
    }

    /// The agent that is meant.
    ///
    /// # Errors
    /// When the URL is none, a file cannot be read, or a token would be sent in the open.
    pub fn target(&self, config: &Config) -> Result<Target, Failure> {
        let token = self.token_file.as_deref().map(token).transpose()?;
        let Some(url) = &self.url else {
            // Not left to clap, which does not see across subcommands.
            if self.ca_file.is_some() || self.certificate.is_some() || self.key.is_some() {
                return Err(Failure::usage(
                    "--ca-file, --certificate and --key are for an agent with TLS: say --url https://…",
                ));
            }
            let address = self.agent.unwrap_or(config.listen);
            let host = address.ip().to_string();
            let target = Target { shown: address.to_string(), host, port: address.port(), tls: None, token };
            return target.checked();
        };
        let (secure, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(Failure::usage(format!("--url {url}: a URL begins with https:// or http://"))),
        };
        let (host, port) = host_and_port(rest.trim_end_matches('/'), if secure { 443 } else { 80 })
            .ok_or_else(|| Failure::usage(format!("--url {url}: what is needed is https://HOST:PORT, and no path")))?;
        let tls = match secure {
            true => {
                let name = ServerName::try_from(host.clone())
                    .map_err(|error| Failure::usage(format!("--url {url}: {error}")))?;
                Some((TlsConnector::from(Arc::new(self.client()?)), name))
            }
            false => None,
        };
        Target { shown: url.trim_end_matches('/').to_owned(), host, port, tls, token }.checked()
    }

    fn client(&self) -> Result<ClientConfig, Failure> {
        let failed = |error: rustls::Error| Failure::failed(format!("TLS cannot be set up: {error}"));
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        let builder = match &self.ca_file {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("--ca-file", path)? {
                    roots.add(certificate).map_err(|error| unusable("--ca-file", path, error))?;
                }
                builder.with_root_certificates(roots)
            }
            None => builder.with_platform_verifier().map_err(failed)?,
        };
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates("--certificate", certificate)?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("--key", key, error))?;
                builder.with_client_auth_cert(chain, key).map_err(failed)
            }
            (None, None) => Ok(builder.with_no_client_auth()),
            _ => Err(Failure::usage("--certificate and --key go together")),
        }
    }
}

impl Target {
    /// Connects, if somebody listens.
    ///
    /// # Errors
    /// When who listens cannot prove to be who is meant.
    pub async fn connect(&self) -> Result<Option<Box<dyn Wire>>, Failure> {
        let patience = if self.is_here() { CONNECT } else { CONNECT_ELSEWHERE };
        let connected = tokio::time::timeout(patience, TcpStream::connect((self.host.as_str(), self.port))).await;
        let Ok(Ok(stream)) = connected else { return Ok(None) };
        let Some((connector, name)) = &self.tls else { return Ok(Some(Box::new(stream))) };
        let failed = |error: io::Error| Failure::failed(format!("no TLS with {self}: {error}"));
        let agreed = tokio::time::timeout(patience, connector.connect(name.clone(), stream)).await;
        Ok(Some(Box::new(agreed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?)))
    }

    /// What is asked with, if anything.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// As it stands in the header `Host`.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn is_here(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    fn checked(self) -> Result<Self, Failure> {
        if self.token.is_some() && self.tls.is_none() && !self.is_here() {
            let why = "without TLS everybody on the way could read the token; ask with --url https://…";
            return Err(Failure::usage(format!("{self}: {why}")));
        }
        Ok(self)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

fn host_and_port(text: &str, usual: u16) -> Option<(String, u16)> {
    let allowed = |host: &str| !host.is_empty() && !host.contains(['/', '?', '#', '@', '[', ']', ' ']);
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = if rest.is_empty() { usual } else { rest.strip_prefix(':')?.parse().ok()? };
        return host.parse::<IpAddr>().ok().map(|address| (address.to_string(), port));
    }
    match text.split_once(':') {
        Some((host, port)) => Some((host.to_owned(), port.parse().ok()?)).filter(|(host, _)| allowed(host)),
        None => allowed(text).then(|| (text.to_owned(), usual)),
    }
}

fn token(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("--token-file {}: {error}", path.display())))?;
    let first = text.lines().next().unwrap_or_default().trim();
    match !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(first.to_owned()),
        // Not quoted.
        false => Err(Failure::usage(format!("--token-file {}: its first line is no token", path.display()))),
    }
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match read {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(unusable(flag, path, "there is no certificate in it (PEM)")),
        Err(error) => Err(unusable(flag, path, error)),
    }
}

fn unusable(flag: &str, path: &Path, why: impl fmt::Display) -> Failure {
    Failure::usage(format!("{flag} {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_a_port_are_read_from_what_people_type() {
        for (text, read) in [
            ("db1:9464", Some(("db1", 9464))),
            ("db1", Some(("db1", 443))),
            ("[::1]:9464", Some(("::1", 9464))),
            ("[::1]", Some(("::1", 443))),
            ("10.0.0.1:1", Some(("10.0.0.1", 1))),
            ("db1:9464/metrics", None),
            ("db1/metrics", None),
            ("me@db1", None),
            (":9464", None),
            ("db1:port", None),
            ("", None),
        ] {
            assert_eq!(host_and_port(text, 443), read.map(|(host, port)| (host.to_owned(), port)), "{text}");
        }
    }

    #[test]
    fn a_token_never_goes_out_in_the_open() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "steth_x\n").unwrap();
        let asked = |url: &str| Where { url: Some(url.into()), token_file: Some(file.clone()), ..Where::default() };
        let config = Config::default();
        let refused = asked("http://db1:9464").target(&config).err().expect("refused");
        assert!(refused.message.contains("could read the token") && !refused.message.contains("steth_x"));
        assert_eq!(asked("http://127.0.0.1:9464").target(&config).ok().unwrap().token(), Some("steth_x"));
        assert_eq!(asked("https://db1").target(&config).ok().unwrap().authority(), "db1:443");
    }
}
