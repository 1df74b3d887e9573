//! Linking: how a new device becomes one of its user's.
//!
//! The *holder* is a device that has the identity key; the *joiner* is new and has nothing but a device key of its own. The person carries a
//! [`LinkCode`] from one to the other, typed or within a [`DeviceLink`]. Over one connection, whose two ends are the two device keys:
//!
//! 1. [`LinkStart`] ->, [`LinkStarted`] <-: one SPAKE2 message each way. The code is the password, the two device keys are the identities.
//! 2. [`LinkConfirm`] ->: the joiner proves that it knows the code, and says what it is called. A wrong proof burns the code.
//! 3. [`LinkConfirmed`] <-: the holder proves the same, and gives the [`LinkGrant`]: certificate, authorities, keys. Sealed under the key both have.
//! 4. [`LinkDone`] ->, [`LinkFinished`] <-: the joiner has everything on its disk.
//!
//! One code, one try: who guesses a code of 40 bits has one chance in 10^12, at either end. Who only begins, and proves nothing, learns nothing and
//! burns nothing; how many may begin is bounded. A relay in between has other device keys than the ends, so what it passes on fits neither.
//!
//! [`LinkHolder`] and [`LinkJoiner`] are the two sides. They read no clock and draw no randomness; seeds are passed in.

mod code;
mod grant;
mod holder;
mod joiner;
mod keys;
mod link;
mod messages;
#[cfg(test)]
mod tests;

pub use code::{LINK_CODE_CHARS, LinkCode, LinkCodeError};
pub use grant::{
    GRANT_AUTHORITIES_MAX, GRANT_BOOTSTRAP_MAX, GRANT_BYTES_MAX, LINK_MERGE, LinkGrant, LinkGrantError, LinkRequest,
};
pub use holder::{HolderEvent, LINK_SECS, LinkHolder};
pub use joiner::{JoinError, LinkJoiner};
pub use link::{DEVICE_LINK_CHARS_MAX, DEVICE_LINK_PREFIX, DeviceLink, DeviceLinkError, LINK_ADDRESSES_MAX, LINK_RELAYS_MAX};
pub use messages::{
    ConfirmStatus, LinkConfirm, LinkConfirmed, LinkDone, LinkFinished, LinkReason, LinkStart, LinkStarted, StartStatus,
};
