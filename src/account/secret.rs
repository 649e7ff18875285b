//! The node key and what it protects: tokens in the account store.
//!
//! A stolen `account.db` without `node.key` reveals no token and cannot test guesses. Both lie in the data directory with
//! mode 0600; a backup that must not hold tokens leaves the key out.

use std::borrow::Cow;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine};

/// Keys derived from `node.key`: one finds tokens, one seals secrets, one signs the links of confirmation mails, one hashes
/// suppressed addresses, one signs bounce addresses.
pub struct NodeKey {
    lookup: hmac::Key,
    sealing: RandomizedNonceKey,
    confirming: hmac::Key,
    suppressing: [u8; 16],
    bouncing: [u8; 32],
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("{0} is not a node key (44 characters of base64); restore it from a backup")]
    Malformed(PathBuf),
    #[error("{0} can be read by others than its owner; run: chmod 600 {0}")]
    Exposed(PathBuf),
    #[error("the cryptographic library refuses: {0}")]
    Library(&'static str),
}

impl NodeKey {
    /// Reads `DATA_DIR/node.key`. `None` when there is none.
    pub fn read(data_dir: &Path) -> Result<Option<Self>, KeyError> {
        let path = data_dir.join(FILE);
        let io = |error| KeyError::Io {
            path: path.clone(),
            error,
        };
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(io)?,
        };
        let mode = fs::metadata(&path).map_err(io)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed(path));
        }
        let bytes = BASE64_STANDARD.decode(text.trim_end()).ok();
        let bytes: Option<[u8; 32]> = bytes.and_then(|b| b.try_into().ok());
        match bytes {
            Some(bytes) => Self::derive(&bytes).map(Some),
            None => Err(KeyError::Malformed(path)),
        }
    }

    /// Draws a key and writes `DATA_DIR/node.key`, durably: what is sealed with it must be readable after a power cut.
    pub fn create(data_dir: &Path) -> Result<Self, KeyError> {
        let path = data_dir.join(FILE);
        let bytes = random::<32>()?;
        let write = || -> io::Result<()> {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            writeln!(file, "{}", BASE64_STANDARD.encode(bytes))?;
            file.sync_all()?;
            fs::File::open(data_dir)?.sync_all()
        };
        write().map_err(|error| KeyError::Io {
            path: path.clone(),
            error,
        })?;
        Self::derive(&bytes)
    }

    /// From the 32 random octets that `node.key` holds.
    pub fn derive(node_key: &[u8; 32]) -> Result<Self, KeyError> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, node_key);
        let lookup = hmac::sign(&root, b"posthaste token lookup 1");
        let sealing = hmac::sign(&root, b"posthaste token sealing 1");
        let sealing = RandomizedNonceKey::new(&AES_256_GCM, sealing.as_ref());
        let confirming = hmac::sign(&root, b"posthaste confirmation 1");
        let mut suppressing = [0; 16];
        let tag = hmac::sign(&root, b"posthaste suppression 1");
        suppressing.copy_from_slice(&tag.as_ref()[..16]);
        let mut bouncing = [0; 32];
        bouncing.copy_from_slice(hmac::sign(&root, b"posthaste bounce 1").as_ref());
        Ok(Self {
            lookup: hmac::Key::new(hmac::HMAC_SHA256, lookup.as_ref()),
            sealing: sealing.map_err(|_| KeyError::Library("AES-256-GCM key"))?,
            confirming: hmac::Key::new(hmac::HMAC_SHA256, confirming.as_ref()),
            suppressing,
            bouncing,
        })
    }

    /// Where a token is found. Equal for equal tokens, useless without the key.
    pub fn lookup(&self, token: &str) -> [u8; 32] {
        let tag = hmac::sign(&self.lookup, token.as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    /// Under which suppressed addresses are hashed.
    pub fn suppressing(&self) -> [u8; 16] {
        self.suppressing
    }

    /// What bounce addresses are signed with where the configuration names no secret.
    pub fn bouncing(&self) -> [u8; 32] {
        self.bouncing
    }

    /// Signs what a confirmation link says.
    pub fn sign_confirmation(&self, said: &[u8]) -> [u8; 32] {
        let mut tag = [0; 32];
        tag.copy_from_slice(hmac::sign(&self.confirming, said).as_ref());
        tag
    }

    /// In constant time.
    pub fn verify_confirmation(&self, said: &[u8], tag: &[u8]) -> bool {
        hmac::verify(&self.confirming, said, tag).is_ok()
    }

    /// Nonce, ciphertext and tag.
    pub fn seal(&self, token: &str) -> Result<Vec<u8>, KeyError> {
        let mut sealed = token.as_bytes().to_vec();
        let nonce = self
            .sealing
            .seal_in_place_append_tag(Aad::empty(), &mut sealed)
            .map_err(|_| KeyError::Library("sealing"))?;
        let mut bytes = nonce.as_ref().to_vec();
        bytes.append(&mut sealed);
        Ok(bytes)
    }

    /// `None` when it was sealed with another key, or changed.
    pub fn open(&self, sealed: &[u8]) -> Option<String> {
        let (nonce, ciphertext) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut bytes = ciphertext.to_vec();
        let token = self
            .sealing
            .open_in_place(nonce, Aad::empty(), &mut bytes)
            .ok()?;
        String::from_utf8(token.to_vec()).ok()
    }
}

/// A new token in Postmark's form: 36 characters, of which 122 bits are random (a version 4 UUID).
pub fn new_token() -> Result<String, KeyError> {
    Ok(uuid::Builder::from_random_bytes(random()?)
        .into_uuid()
        .to_string())
}

/// A new SMTP token: access key and secret key, of characters that no shell, URL or header changes.
pub fn new_smtp_token() -> Result<(String, String), KeyError> {
    let access = format!("PH-{}", BASE64_URL_SAFE_NO_PAD.encode(random::<15>()?));
    Ok((access, BASE64_URL_SAFE_NO_PAD.encode(random::<24>()?)))
}

/// 32 hexadecimal digits: the local-part of a server's inbound address.
pub fn new_inbound_hash() -> Result<String, KeyError> {
    Ok(uuid::Uuid::from_bytes(random()?).simple().to_string())
}

/// Postmark takes its tokens in any case. Whatever has their form is folded, so that the same token is found however it is
/// spelled; a configured token of another form is what it is.
pub(super) fn canonical(token: &str) -> Cow<'_, str> {
    let has_form = token.len() == TOKEN_LEN
        && token.bytes().enumerate().all(|(place, b)| match place {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        });
    match has_form {
        true => Cow::Owned(token.to_ascii_lowercase()),
        false => Cow::Borrowed(token),
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| KeyError::Library("random numbers"))?;
    Ok(bytes)
}

const FILE: &str = "node.key";
const TOKEN_LEN: usize = 36;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_token_is_opened_with_the_same_key_only() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = NodeKey::create(a.path()).unwrap();
        let other = NodeKey::create(b.path()).unwrap();
        let sealed = key.seal("a token").unwrap();
        assert_eq!(key.open(&sealed).as_deref(), Some("a token"));
        assert_ne!(sealed, key.seal("a token").unwrap());
        assert_eq!(other.open(&sealed), None);
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert_eq!(key.open(&changed), None);
        }
        assert_eq!(key.open(&sealed[..5]), None);
        let again = NodeKey::read(a.path()).unwrap().unwrap();
        assert_eq!(again.open(&sealed).as_deref(), Some("a token"));
        assert_eq!(again.lookup("a token"), key.lookup("a token"));
        assert_ne!(other.lookup("a token"), key.lookup("a token"));
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_broken_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(NodeKey::read(dir.path()).unwrap().is_none());
        NodeKey::create(dir.path()).unwrap();
        let path = dir.path().join(FILE);
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        mode(0o644);
        assert!(matches!(
            NodeKey::read(dir.path()),
            Err(KeyError::Exposed(_))
        ));
        mode(0o600);
        fs::write(&path, "short\n").unwrap();
        assert!(matches!(
            NodeKey::read(dir.path()),
            Err(KeyError::Malformed(_))
        ));
        assert!(matches!(
            NodeKey::create(dir.path()),
            Err(KeyError::Io { .. })
        ));
    }

    #[test]
    fn tokens_have_postmark_s_form_and_are_never_the_same() {
        let (a, b) = (new_token().unwrap(), new_token().unwrap());
        assert_eq!(a.len(), TOKEN_LEN);
        assert_ne!(a, b);
        assert_eq!(canonical(&a.to_ascii_uppercase()), a);
        assert_eq!(canonical("App-Secret"), "App-Secret");
        let ((access, secret), (other, _)) = (new_smtp_token().unwrap(), new_smtp_token().unwrap());
        assert_ne!(access, other);
        assert_eq!((access.len(), secret.len()), (23, 32));
        assert_eq!(new_inbound_hash().unwrap().len(), 32);
    }
}
