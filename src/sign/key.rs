//! Private keys that sign: made, read from PEM, and what is published of them.
//!
//! A key that is kept is PKCS#8, whatever it came as. RSA below [`BITS_MIN`] is refused (RFC 8301 §3.2).

use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::prelude::{BASE64_STANDARD, Engine};
use rsa::pkcs1::RsaPrivateKeyRef;
use rsa::pkcs1::der::Decode;
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey, PrivateKeyInfoRef};
use rsa::sha2::Sha256;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::mail::Domain;

/// How a key signs, over SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    Rsa,
    /// RFC 8463.
    Ed25519,
}

impl Algorithm {
    pub const ALL: [Self; 2] = [Self::Rsa, Self::Ed25519];

    /// The `k=` of a record (RFC 6376 §3.6.1, RFC 8463 §4).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::Ed25519 => "ed25519",
        }
    }

    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.as_str() == text)
    }

    /// The `a=` of a signature.
    pub(super) fn with_hash(self) -> &'static str {
        match self {
            Self::Rsa => "rsa-sha256",
            Self::Ed25519 => "ed25519-sha256",
        }
    }
}

/// A whole key, on its way to where it is kept.
pub struct WholeKey {
    pub algorithm: Algorithm,
    /// Of the modulus; 256 for Ed25519.
    pub bits: u16,
    /// The `p=` of its record: SubjectPublicKeyInfo in base64 (RFC 6376 §3.6.1), for Ed25519 the 32 octets of the key
    /// (RFC 8463 §4.2).
    pub public: String,
    /// PKCS#8 in base64.
    pub private: Zeroizing<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    #[error("it holds no private key in PEM (PKCS#8, or PKCS#1 for RSA)")]
    NoPem,
    #[error("it is encrypted; write it without a passphrase: openssl pkey -in FILE -out PLAIN.pem")]
    Encrypted,
    #[error("it is neither an RSA nor an Ed25519 key; others cannot sign mail")]
    Kind,
    #[error(
        "its RSA key has {0} bits; verifiers refuse less than 1024 (RFC 8301): make one of 2048"
    )]
    Short(usize),
    #[error("its RSA key has {0} bits; at most 8192 can be used")]
    Long(usize),
    #[error("the cryptographic library cannot make a key")]
    Library,
}

impl WholeKey {
    /// A new one: RSA with 2048 bits (RFC 8301 §3.2), which takes some hundred milliseconds of a processor, or Ed25519.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyFault> {
        match algorithm {
            Algorithm::Rsa => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| KeyFault::Library)?;
                Self::of_rsa(&pair)
            }
            Algorithm::Ed25519 => {
                let pair = Ed25519KeyPair::generate().map_err(|_| KeyFault::Library)?;
                Self::of_ed25519(&pair)
            }
        }
    }

    /// Reads the first private key of a PEM file.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyFault> {
        let has = |needle: &[u8]| memchr::memmem::find(pem, needle).is_some();
        if has(b"ENCRYPTED") {
            return Err(KeyFault::Encrypted);
        }
        match PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyFault::NoPem)? {
            PrivateKeyDer::Pkcs1(der) => Self::from_pkcs1(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                // RFC 8410 §7: OpenSSL writes the private half alone.
                if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
                    return Self::of_ed25519(&pair);
                }
                let info = PrivateKeyInfoRef::from_der(der).map_err(|_| KeyFault::Kind)?;
                Self::from_pkcs1(info.private_key.as_bytes())
            }
            _ => Err(KeyFault::Kind),
        }
    }

    fn from_pkcs1(der: &[u8]) -> Result<Self, KeyFault> {
        if let Ok(pair) = RsaKeyPair::from_der(der) {
            return Self::of_rsa(&pair);
        }
        // Shorter than that library takes, or nothing.
        let parts = RsaPrivateKeyRef::from_der(der).map_err(|_| KeyFault::Kind)?;
        let modulus = parts.modulus.as_bytes();
        let zeros = modulus.first().map_or(0, |first| first.leading_zeros());
        let bits = modulus.len() * 8 - zeros as usize;
        match bits {
            ..BITS_MIN => Err(KeyFault::Short(bits)),
            BITS_MIN..BITS_STRONG => {
                let weak = rsa::PrivateKey::try_from(parts).map_err(|_| KeyFault::Kind)?;
                Self::of_weak_rsa(&weak, bits as u16)
            }
            BITS_STRONG..=BITS_MAX => Err(KeyFault::Kind),
            _ => Err(KeyFault::Long(bits)),
        }
    }

    fn of_rsa(pair: &RsaKeyPair) -> Result<Self, KeyFault> {
        let private: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyFault::Library)?;
        let public = pair.public_key();
        let public: PublicKeyX509Der<'_> = public.as_der().map_err(|_| KeyFault::Library)?;
        Ok(Self {
            algorithm: Algorithm::Rsa,
            bits: (pair.public_modulus_len() * 8) as u16,
            public: BASE64_STANDARD.encode(public.as_ref()),
            private: BASE64_STANDARD.encode(private.as_ref()).into(),
        })
    }

    fn of_weak_rsa(key: &rsa::PrivateKey, bits: u16) -> Result<Self, KeyFault> {
        let private = key.to_pkcs8_der().map_err(|_| KeyFault::Kind)?;
        let public = key.to_public_key().to_public_key_der();
        let public = public.map_err(|_| KeyFault::Kind)?;
        Ok(Self {
            algorithm: Algorithm::Rsa,
            bits,
            public: BASE64_STANDARD.encode(public.as_bytes()),
            private: BASE64_STANDARD.encode(private.as_bytes()).into(),
        })
    }

    fn of_ed25519(pair: &Ed25519KeyPair) -> Result<Self, KeyFault> {
        let private = pair.to_pkcs8v1().map_err(|_| KeyFault::Library)?;
        Ok(Self {
            algorithm: Algorithm::Ed25519,
            bits: 256,
            public: BASE64_STANDARD.encode(pair.public_key().as_ref()),
            private: BASE64_STANDARD.encode(private.as_ref()).into(),
        })
    }

    /// Of RSA: shorter than verifiers should see (RFC 8301 §3.2).
    pub fn is_weak(&self) -> bool {
        is_weak(self.algorithm, self.bits)
    }
}

/// RFC 8301 §3.2: signers SHOULD use 2048 bits.
pub fn is_weak(algorithm: Algorithm, bits: u16) -> bool {
    algorithm == Algorithm::Rsa && usize::from(bits) < BITS_STRONG
}

/// The private half of a domain's key.
pub struct SigningKey {
    pub domain: Domain,
    pub selector: String,
    pub algorithm: Algorithm,
    /// PKCS#8; `None`: it cannot be opened with this node's key.
    private: Option<Zeroizing<Vec<u8>>>,
    /// Read at the first signature: a node with many domains would read for seconds at its start.
    pair: OnceLock<Option<Pair>>,
}

enum Pair {
    Rsa(RsaKeyPair),
    /// Less than 2048 bits, which the other library refuses. It may be worth it to a domain whose records nobody can change.
    WeakRsa(Box<rsa::PrivateKey>),
    Ed25519(Ed25519KeyPair),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error(
        "it cannot be opened with this node's node.key; put the right node.key back, or delete the domain and add it anew"
    )]
    Sealed,
    #[error("it is no key in PKCS#8")]
    Form,
    #[error("the cryptographic library refuses it")]
    Library,
}

impl SigningKey {
    /// `private`: PKCS#8 in base64, where it could be opened.
    pub fn new(
        domain: Domain,
        selector: String,
        algorithm: Algorithm,
        private: Option<Zeroizing<String>>,
    ) -> Self {
        let decoded = private.map(|text| BASE64_STANDARD.decode(&*text).unwrap_or_default());
        Self {
            domain,
            selector,
            algorithm,
            private: decoded.map(Zeroizing::new),
            pair: OnceLock::new(),
        }
    }

    /// Whether what it signs is interchangeable.
    pub fn is_same(&self, other: &Self) -> bool {
        self.domain == other.domain
            && self.selector == other.selector
            && self.private == other.private
    }

    /// Of what RFC 6376 §3.7 has hashed.
    pub(super) fn sign(&self, input: &[u8]) -> Result<Vec<u8>, SignError> {
        match self.pair()? {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    input,
                    &mut signature,
                )
                .map_err(|_| SignError::Library)?;
                Ok(signature)
            }
            Pair::WeakRsa(pair) => {
                let signature = pair.pkcs1v15_sign::<Sha256>(input);
                signature.map_err(|_| SignError::Library)
            }
            // RFC 8463 §3: what is signed is the hash.
            Pair::Ed25519(pair) => {
                let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, input);
                let signature = pair.try_sign(hash.as_ref());
                Ok(signature.map_err(|_| SignError::Library)?.as_ref().to_vec())
            }
        }
    }

    /// Whether it could sign.
    pub fn usable(&self) -> Result<(), SignError> {
        self.pair().map(drop)
    }

    fn pair(&self) -> Result<&Pair, SignError> {
        let private = self.private.as_ref().ok_or(SignError::Sealed)?;
        let pair = self
            .pair
            .get_or_init(|| Pair::read(self.algorithm, private));
        pair.as_ref().ok_or(SignError::Form)
    }
}

impl Pair {
    fn read(algorithm: Algorithm, pkcs8: &[u8]) -> Option<Self> {
        if algorithm == Algorithm::Ed25519 {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8);
            return pair.ok().map(Self::Ed25519);
        }
        if let Ok(pair) = RsaKeyPair::from_pkcs8(pkcs8) {
            return Some(Self::Rsa(pair));
        }
        let weak = rsa::PrivateKey::from_pkcs8_der(pkcs8).ok()?;
        Some(Self::WeakRsa(Box::new(weak)))
    }
}

/// RFC 8301 §3.2: signers MUST use at least 1024 bits.
const BITS_MIN: usize = 1024;
const BITS_STRONG: usize = 2048;
const BITS_MAX: usize = 8192;
