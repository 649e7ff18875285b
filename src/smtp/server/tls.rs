//! Certificates for listeners.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why a certificate cannot be used; reads well behind the file's name.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("no certificate in PEM form: {0}")]
    Certificate(rustls_pki_types::pem::Error),
    #[error("the file holds no certificate")]
    NoCertificate,
    #[error("no private key in PEM form: {0}")]
    Key(rustls_pki_types::pem::Error),
    #[error("certificate and key cannot be used: {0}")]
    Unusable(rustls::Error),
}

/// TLS 1.2 and 1.3 with the library's choice of cipher suites (RFC 8996 and RFC 8314 want no less), no client certificates.
pub fn server_config(
    certificate_pem: &[u8],
    key_pem: &[u8],
) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(certificate_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(TlsError::Certificate)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(TlsError::Key)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Unusable)?;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_needs_its_own_key() {
        let ours = rcgen::generate_simple_self_signed(["mta.example".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["mta.example".to_owned()]).unwrap();
        let (pem, key) = (ours.cert.pem(), ours.signing_key.serialize_pem());
        assert!(server_config(pem.as_bytes(), key.as_bytes()).is_ok());
        let other = other.signing_key.serialize_pem();
        assert!(server_config(pem.as_bytes(), other.as_bytes()).is_err());
        assert!(server_config(b"", key.as_bytes()).is_err());
        assert!(server_config(pem.as_bytes(), b"").is_err());
    }
}
