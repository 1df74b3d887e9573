//! What phones say of presence and messages: documents of SIMPLE, the extensions of SIP for them, and a profile of ours over INFO.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`xml`] | as much XML as these documents need, read with bounds |
//! | [`pidf`] | presence (RFC 3863), with what somebody is doing (RFC 4480) |
//! | [`rlmi`] | the presence of a whole list in one notice (RFC 4662) |
//! | [`composing`] | that somebody is writing (RFC 3994) |
//! | [`publication`] | what phones say of their user (RFC 3903), and what that comes to |
//! | [`subscription`] | who is told of whose presence, and when (RFC 6665) |
//! | [`delivery`] | messages on their way to phones |
//! | [`taken`] | messages that phones have taken, to be noted together |
//! | [`info`] | the profile: log-in, configuration, buddies, status and messages in INFO, and when what isn't answered is sent again |
//!
//! The profile is specified in `docs/sip.md`.

pub mod composing;
pub mod delivery;
pub mod info;
pub mod pidf;
pub mod publication;
pub mod rlmi;
pub mod subscription;
pub mod taken;
pub mod xml;
