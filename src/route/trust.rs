//! Whom we believe: the certificate authorities of the system, and those that `[tls] ca_file` adds.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// TLS as a client that believes nobody else. The files are read on a thread that may block.
pub async fn client(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let file = ca_file.map(Path::to_owned);
    let reading = tokio::task::spawn_blocking(move || roots(file.as_deref()));
    let roots = reading.await.map_err(|error| error.to_string())??;
    if roots.is_empty() {
        return Err("the system has no certificate authorities: install ca-certificates, or set [tls] ca_file".into());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Reads files: some ten milliseconds, not for the reactor.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let system = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(system.certs);
    if taken == 0 {
        tracing::warn!(errors = ?system.errors, "the system has no certificate authorities that could be used; install its package ca-certificates");
    }
    if let Some(file) = ca_file {
        for certificate in read(file)? {
            let unusable = |error| {
                format!(
                    "the certificate file {} cannot be used: {error}",
                    file.display()
                )
            };
            roots.add(certificate).map_err(unusable)?;
        }
    }
    Ok(roots)
}

fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = file.display();
    let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let certificates: Vec<_> = certificates
        .map_err(|error| format!("the certificate file {shown} cannot be read: {error}"))?;
    match certificates.is_empty() {
        true => Err(format!(
            "the certificate file {shown} holds no certificate in PEM"
        )),
        false => Ok(certificates),
    }
}
