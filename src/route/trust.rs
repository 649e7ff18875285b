//! Whom we believe: the certificate authorities of the system, and those that `[tls] ca_file` adds.

use std::path::Path;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Reads files: some ten milliseconds, not for the reactor.
pub fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
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
