//! An authority made up for a benchmark: it names as many users as are wanted, without a node.

use anyhow::Result;
use halloo::identity::LocalIdentity;
use halloo::store::Store;
use halloo_protocol::identity::{SigningCertificate, USER_CERTIFICATE_SECS, UserCertificate, UserChain, Username};
use halloo_protocol::key::{AuthorityKey, IdentityKey, SecretKey};
use halloo_protocol::time::UnixTime;
use halloo_protocol::wire::{Extensions, Signed};

/// Names users.
#[derive(Debug)]
pub struct Authority {
    root: SecretKey,
    signing: SecretKey,
    certificate: Signed<SigningCertificate>,
    now: UnixTime,
}

fn random_key() -> SecretKey {
    SecretKey::from_bytes(rand::random())
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new one.
    #[must_use]
    pub fn new() -> Self {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let (root, signing, now) = (random_key(), random_key(), UnixTime(unix));
        let certificate = SigningCertificate {
            key: signing.public(),
            serial: 1,
            not_before: now.minus_secs(3_600),
            not_after: now.plus_secs(USER_CERTIFICATE_SECS),
            extensions: Extensions::none(),
        };
        let certificate = Signed::sign(certificate, &root);
        Self { root, signing, certificate, now }
    }

    /// What its nodes trust.
    #[must_use]
    pub fn key(&self) -> AuthorityKey {
        AuthorityKey(self.root.public())
    }

    /// A user with one device, its state in memory: `userNUMBER`.
    ///
    /// # Errors
    /// If the store or the identity can't be made.
    pub fn user(&self, number: usize) -> Result<(Store, LocalIdentity)> {
        let store = Store::in_memory()?;
        let local = self.user_in(number, &store)?;
        Ok((store, local))
    }

    /// The same, with its state in a store of the caller's.
    ///
    /// # Errors
    /// If the identity can't be made.
    pub fn user_in(&self, number: usize, store: &Store) -> Result<LocalIdentity> {
        let identity = random_key();
        let user = UserCertificate {
            name: Username::new(&format!("user{number}"))?,
            identity: IdentityKey(identity.public()),
            placement: rand::random(),
            serial: number as u64 + 1,
            not_before: self.now.minus_secs(3_600),
            not_after: self.now.minus_secs(3_600).plus_secs(USER_CERTIFICATE_SECS),
            linked: Vec::new(),
            extensions: Extensions::none(),
        };
        let mut local = LocalIdentity::in_memory(store, identity, random_key(), self.now)?;
        local.set_user_chain(UserChain::Named {
            root: self.key(),
            signing: self.certificate.clone(),
            user: Signed::sign(user, &self.signing),
        })?;
        Ok(local)
    }
}
