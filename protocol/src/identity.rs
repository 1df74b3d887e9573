//! Who somebody is: authority -> user -> device.
//!
//! An *authority* is its root key, which can stay offline and signs [`SigningCertificate`]s. A signing key signs a
//! [`UserCertificate`], which binds a username to the user's identity key. The identity key signs a [`DeviceCertificate`] for
//! each device. A [`Chain`] holds all of it; [`Chain::verify`] is the only way from bytes to a believed identity, and needs no network.
//!
//! Words end by time (certificates have a validity), by the authority's numbered [`RevocationList`], and, for one device, by the
//! user's own [`Tombstone`].

mod certificate;
mod chain;
mod recovery;
mod removal;
mod revocation;
mod username;

pub use certificate::{
    DEVICE_CERTIFICATE_SECS_MAX, DeviceCertificate, DeviceCertificateParams, INDICATORS_EXTENSION, INDICATORS_MAX, KeySuccession,
    KeySuccessionParams, LinkedIndicator, SLOTS, SigningCertificate, Tombstone, USER_CERTIFICATE_SECS, USER_RENEWAL_AFTER_SECS,
    UserCertificate,
};
pub(crate) use chain::verify_device;
pub use chain::{AUTHORITIES_MAX, Chain, ChainError, RETIRED_MAX, TrustStore, UserChain, VerifiedChain, VerifiedUser};
pub use recovery::{RecoveryError, RecoveryPhrase};
pub use removal::{STRANGERS_REMOVALS_MAX, TOMBSTONES_EXTENSION, tombstones_in, with_tombstones};
pub use revocation::{REVOCATION_LIST_BYTES_MAX, RevocationList, RevokedSerial, SignedRevocationList};
pub use username::{USERNAME_CHARS_MAX, UserId, Username, UsernameError};
