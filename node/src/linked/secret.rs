//! Passwords of linked accounts at rest: sealed under a key that follows from the device's, so that the database alone gives none away.

use std::fmt::Display;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use halloo_protocol::key::SecretKey;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

const NONCE_BYTES: usize = 12;

fn cipher(device: &SecretKey) -> Option<ChaCha20Poly1305> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, device.to_bytes().as_slice()).expand(b"halloo linked credentials 1", key.as_mut_slice()).ok()?;
    Some(ChaCha20Poly1305::new(&Key::from(*key)))
}

/// Seals the password of an account, or of whatever prints as nothing else does; `nonce` is random.
pub(super) fn seal(device: &SecretKey, account: &impl Display, password: &str, nonce: [u8; NONCE_BYTES]) -> Option<Vec<u8>> {
    let account = account.to_string();
    let payload = Payload { msg: password.as_bytes(), aad: account.as_bytes() };
    let sealed = cipher(device)?.encrypt(&Nonce::from(nonce), payload).ok()?;
    Some([&nonce[..], &sealed].concat())
}

/// Opens it; `None` if it is of another device or account, or damaged.
pub(super) fn open(device: &SecretKey, account: &impl Display, sealed: &[u8]) -> Option<Zeroizing<String>> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    let account = account.to_string();
    let payload = Payload { msg: sealed, aad: account.as_bytes() };
    let plain = Zeroizing::new(cipher(device)?.decrypt(&Nonce::from(*nonce), payload).ok()?);
    std::str::from_utf8(&plain).ok().map(|text| Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use halloo_protocol::linked::LinkedId;

    use super::*;

    #[test]
    fn a_password_opens_on_its_device_for_its_account_alone() {
        let (mine, other) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
        let account: LinkedId = "xmpp:alice@there.example".parse().unwrap();
        let sealed = seal(&mine, &account, "pencil", [7; 12]).unwrap();
        assert!(!sealed.windows(6).any(|bytes| bytes == b"pencil"));
        assert_eq!(open(&mine, &account, &sealed).as_deref().map(String::as_str), Some("pencil"));
        assert!(open(&other, &account, &sealed).is_none());
        assert!(open(&mine, &"xmpp:bob@there.example", &sealed).is_none());
        assert!(open(&mine, &account, &sealed[..20]).is_none());
    }
}
