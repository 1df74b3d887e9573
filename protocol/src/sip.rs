//! The Session Initiation Protocol (RFC 3261) as the SIP edge speaks it: messages, transactions, authentication, the registrar's table, guards.
//!
//! Nothing here has sockets or a clock; `halloo::sip` drives it. The order in which a datagram is looked at:
//!
//! | step | module | what it refuses |
//! | --- | --- | --- |
//! | source | [`guard`] | who asks too often, or was banned: nothing is said |
//! | text | [`message`], [`uri`] | what RFC 4475 calls invalid: 400, 416, 420, 505, answered without state |
//! | credentials | [`digest`] | who has none: 401 or 407, answered without state |
//! | transaction | [`transaction`] | what came before: the answer is sent again |
//! | binding | [`registrar`] | too brief (423), too many (403), out of order (500) |
//!
//! What a phone acknowledges of an INVITE's answers is in [`reliable`].
//! Addresses of phones that don't say whose they are: [`gruu`].
//! Which call another is to take the place of is read by [`replaces`].
//! Towards a telephone provider this end is the client: [`client`].
//!
//! The parser is our own because it stands before everything else: it takes any method, bounds what it keeps, and says with which status a message
//! has to be refused.

pub mod client;
pub mod digest;
pub mod gruu;
pub mod guard;
pub mod message;
pub mod push;
pub mod registrar;
pub mod reliable;
pub mod replaces;
pub mod status;
pub mod timer;
pub mod transaction;
pub mod uri;

#[cfg(test)]
mod torture_tests;
