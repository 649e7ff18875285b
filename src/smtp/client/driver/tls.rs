//! TLS on the way out: what is agreed, and whom we believe.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What protects the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsState {
    /// `TLSv1.3 TLS13_AES_256_GCM_SHA384`.
    pub description: Arc<str>,
}

impl TlsState {
    pub(super) fn of(stream: &TlsStream<TcpStream>) -> Self {
        let (_, session) = stream.get_ref();
        let version = session.protocol_version().and_then(|v| v.as_str());
        let suite = session
            .negotiated_cipher_suite()
            .and_then(|s| s.suite().as_str());
        Self {
            description: format!(
                "{} {}",
                version.unwrap_or("TLS").replace("v1_", "v1."),
                suite.unwrap_or("-")
            )
            .into(),
        }
    }
}

pub(super) fn server_name(host: &str, remote: SocketAddr) -> ServerName<'static> {
    let name = ServerName::try_from(host.trim_end_matches('.').to_owned());
    name.unwrap_or_else(|_| ServerName::IpAddress(remote.ip().into()))
}

/// Opportunistic TLS: encrypts against listeners, and believes every certificate, since the alternative is clear text
/// (RFC 7435). Policies that verify (DANE, MTA-STS) bring their own configuration.
pub fn opportunistic_tls() -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        // The provider supports TLS 1.2 and 1.3: both are compiled in.
        .expect("the default versions are supported by the provider")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
