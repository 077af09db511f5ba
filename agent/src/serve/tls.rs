//! TLS of the listener: certificate, key and authorities from files. The provider is ring, as for all that is sent: one library
//! of cryptography is enough. Does not know who is served.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use crate::config::Http;

/// What speaks TLS as the configuration says; `None` where it says nothing of it.
///
/// # Errors
/// Which file is not what it should be. Nothing of what stands in it is quoted.
pub fn acceptor(http: &Http) -> Result<Option<TlsAcceptor>, String> {
    let (Some(certificate), Some(key)) = (&http.certificate, &http.key) else { return Ok(None) };
    let chain = certificates("http.certificate", certificate)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| wrong("http.key", key, format!("no private key can be read: {error}")))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?;
    let builder = match &http.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("http.client_ca", path)? {
                roots.add(certificate).map_err(|error| wrong("http.client_ca", path, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong("http.client_ca", path, error))?)
        }
    };
    let mut config =
        builder.with_single_cert(chain, private).map_err(|error| wrong("http.certificate", certificate, error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let all: Vec<_> = read.map_err(|error| wrong(key, path, format!("no certificate can be read: {error}")))?;
    if all.is_empty() { Err(wrong(key, path, "there is no certificate in it (PEM)")) } else { Ok(all) }
}

fn wrong(key: &str, path: &Path, why: impl std::fmt::Display) -> String {
    format!("{key} = {:?}: {why}", path.display().to_string())
}
