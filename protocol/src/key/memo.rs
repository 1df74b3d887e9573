//! Remembers signatures that verified, for simulations of many nodes in one process.
//!
//! A thousand simulated replicas check the same signature a thousand times; one check is enough. Off unless [`remember_verified`] turns it on
//! for the calling thread, which the daemon doesn't. And it can't make anything pass that doesn't verify: a signature is remembered only after
//! it verified, with its key and message, and all three are compared byte by byte.

use std::cell::RefCell;
use std::collections::HashMap;

use super::{PublicKey, Signature};

/// Messages by key and signature. Only looked up: its order is random.
type Verified = HashMap<(PublicKey, Signature), Box<[u8]>>;

struct Memo {
    verified: Verified,
    max: usize,
}

thread_local! {
    static MEMO: RefCell<Option<Memo>> = const { RefCell::new(None) };
}

/// From now on, the calling thread remembers up to `max` signatures that verified (about 500 bytes each), and checks none of them twice. When
/// full it starts over.
pub fn remember_verified(max: usize) {
    MEMO.with_borrow_mut(|memo| *memo = Some(Memo { verified: Verified::new(), max: max.max(1) }));
}

/// True if this signature verified before.
pub(super) fn is_known(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    MEMO.with_borrow(|memo| {
        let known = memo.as_ref().and_then(|memo| memo.verified.get(&(*key, *signature)));
        known.is_some_and(|known| **known == *message)
    })
}

/// Notes a signature that has just verified.
pub(super) fn note(key: &PublicKey, message: &[u8], signature: &Signature) {
    MEMO.with_borrow_mut(|memo| {
        let Some(memo) = memo else { return };
        if memo.verified.len() >= memo.max {
            memo.verified.clear();
        }
        memo.verified.insert((*key, *signature), message.into());
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SecretKey;

    #[test]
    fn what_is_remembered_changes_no_verdict() {
        let (secret, other) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
        let signature = secret.sign(b"message");
        remember_verified(2);
        for _ in 0..3 {
            assert!(secret.public().verify(b"message", &signature).is_ok());
            assert!(secret.public().verify(b"massage", &signature).is_err());
            assert!(other.public().verify(b"message", &signature).is_err());
            assert!(secret.public().verify(b"message", &other.sign(b"message")).is_err());
        }
        assert!(is_known(&secret.public(), b"message", &signature));
        assert!(!is_known(&secret.public(), b"massage", &signature), "failures aren't remembered");
        for number in 0..5 {
            assert!(secret.public().verify(&[number], &secret.sign(&[number])).is_ok(), "also when it is full");
        }
    }
}
