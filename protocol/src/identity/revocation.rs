//! Revocation lists: what the authority takes back before its time.
//!
//! A list is whole, numbered and signed; the highest number wins and replaces what was before. Its number rides in every hello, and whoever
//! has a newer list than a peer gets or gives it. A serial falls out of the list when its certificate would have ended anyway.

use bincode::{Decode, Encode};

use super::certificate::SigningCertificate;
use super::chain::ChainError;
use crate::key::AuthorityKey;
use crate::time::UnixTime;
use crate::wire::{self, Body, DecodeError, Extensions, Signed};

/// Largest revocation list, in bytes: about 3,000 revoked users, within one frame.
pub const REVOCATION_LIST_BYTES_MAX: usize = 48 * 1024;

/// A revoked user certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct RevokedSerial {
    /// The certificate's serial.
    pub serial: u64,
    /// When the certificate ends by itself.
    pub until: UnixTime,
}

/// Extension of a [`RevocationList`]: certificates whose hints ([`UserCertificate::indicators`](super::UserCertificate::indicators)) are taken back, and nothing else of them.
const HINTS_EXTENSION: u16 = 0x0001;

/// Everything an authority has taken back, as of `issued_at`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RevocationList {
    /// Whose list.
    pub authority: AuthorityKey,
    /// Grows by one with every list; never above `issued_at` in seconds. So whoever steals a signing key can't use up all
    /// numbers, and the root key can always issue a higher one.
    pub number: u64,
    /// When it was made.
    pub issued_at: UnixTime,
    /// Revoked user certificates, ascending by serial.
    pub users: Vec<RevokedSerial>,
    /// Serials of revoked signing certificates; counts only in lists the root key signed itself.
    pub signing: Vec<u64>,
    /// Room to grow.
    pub extensions: Extensions,
}

impl RevocationList {
    /// User certificates that are good but for what they hint at, ascending by serial; none if that can't be read.
    #[must_use]
    pub fn hints(&self) -> Vec<RevokedSerial> {
        let bytes = self.extensions.find(HINTS_EXTENSION);
        bytes.and_then(|bytes| wire::decode(bytes, REVOCATION_LIST_BYTES_MAX).ok()).unwrap_or_default()
    }

    /// Extensions of a list that takes back the hints in these certificates.
    #[must_use]
    pub fn with_hints(extensions: Extensions, hints: &[RevokedSerial]) -> Extensions {
        if hints.is_empty() { extensions } else { extensions.with(HINTS_EXTENSION, wire::encode(&hints.to_vec())) }
    }
}

impl Body for RevocationList {
    const KIND: u16 = 0x0106;
    const LIMIT: usize = REVOCATION_LIST_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        if self.number > self.issued_at.0 {
            return Err(DecodeError::invalid("number", format!("{}: more lists than seconds since 1970", self.number)));
        }
        if self.users.is_sorted_by(|a, b| a.serial < b.serial) {
            Ok(())
        } else {
            Err(DecodeError::invalid("users", "serials aren't strictly ascending"))
        }
    }
}

/// A list with what is needed to verify it: signed by a signing key, or, without `signing`, by the root key itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SignedRevocationList {
    /// The signing key's certificate, if a signing key signed.
    pub signing: Option<Signed<SigningCertificate>>,
    /// The list.
    pub list: Signed<RevocationList>,
}

impl SignedRevocationList {
    /// Checks that the authority it names made it. Validity of the signing certificate is judged at the time of issue, so that
    /// an old list stays readable.
    ///
    /// # Errors
    /// Which signature or time is wrong.
    pub fn verify(&self) -> Result<&RevocationList, ChainError> {
        let list = self.list.unverified();
        let signer = match &self.signing {
            None => list.authority.0,
            Some(certificate) => {
                let signing = certificate.verify(&list.authority.0).map_err(ChainError::SigningSignature)?;
                if list.issued_at < signing.not_before || list.issued_at > signing.not_after {
                    return Err(ChainError::SigningExpired { not_after: signing.not_after });
                }
                signing.key
            }
        };
        self.list.verify(&signer).map_err(ChainError::ListSignature)?;
        Ok(list)
    }
}
