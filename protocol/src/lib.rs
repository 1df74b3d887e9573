//! What Halloo nodes say to each other, and how they decide.
//!
//! Everything here is pure: values go in, values come out. The crate never opens a socket, reads a clock,
//! spawns a thread or draws randomness of its own ([`session`] excepted, which says why); callers pass `now`, keys and random generators in. That is what lets the
//! same state machines run in a daemon, in a test and in a simulation.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`wire`] | the one codec: bincode with limits, frames, extensions, signed objects |
//! | [`time`], [`clock`] | wall-clock time on the wire; the estimate of a node's clock offset |
//! | [`key`] | Ed25519 keys by role, domain-separated signatures |
//! | [`identity`] | usernames, certificates, the chain from authority to device, revocation, recovery phrase |
//! | [`linked`] | contacts in other systems: who somebody is there, by signature and by what is seen there; whether that lets them call |
//! | [`linking`] | how a new device becomes one of its user's: a short code, a key exchange, a grant |
//! | [`own_device`] | what devices of one user say to each other |
//! | [`authority`] | enrolment, renewal, invite codes, the authority's list of bootstrap nodes |
//! | [`directory`] | the directory record: signed device entries, leases, merge, record key |
//! | [`kademlia`] | who keeps which record: routing table, look-up, publishing, replicas, repair |
//! | [`node`] | node descriptors, roles, the hello |
//! | [`id`], [`event`] | ids of calls, messages, conversations; kinds of events |
//! | [`call`] | the sealed invite, signals, the caller's and the callee's state machine |
//! | [`message`] | envelopes, receipts, the outbox, what own devices tell each other |
//! | [`session`] | end-to-end encryption with forward secrecy, device to device |
//! | [`group`] | who is in a group, by signed statements that converge; what members say |
//! | [`mailbox`] | letters kept for devices that aren't there: sealing, who may leave how many |
//! | [`vault`] | what a user's devices have in common, sealed, at mailboxes |
//! | [`contact`], [`profile`] | who knows whom, by signature of both; who may do what; what contacts see |
//! | [`file`] | files: offers, chunks and their hashes, what the receiver asks for next |
//! | [`phone`] | media of ordinary phones: SDP, RTP and SRTP, and what is decided on them |
//! | [`simple`] | what phones say of presence and messages: PIDF, RLMI, is-composing, the profile over INFO |
//! | [`sip`] | the Session Initiation Protocol for ordinary phones: messages, transactions, credentials, the registrar's table |
//! | [`trunk`] | the telephone network: numbers, who may dial them, by which trunk, and what it may cost |
//! | [`xmpp`] | as much XMPP as linking an account takes: the stream, logging in, the contact list, personal eventing |
//! | [`voicemail`] | what callers say to those who don't answer: a recording in parts, and the reader that takes none that is broken |
//! | [`presence`] | sealed presence documents, blinded topics, the broadcast trees that carry them, what is shown |
//! | [`push`] | the gateway's messages, the push payload, who is registered and who may push |
//! | [`choice`] | which of a user's devices an event goes to: reports, the policy, the decision |
//! | [`carddav`] | what is asked of an address book's server, and how its answers are read |
//! | [`capability`], [`rate`] | tokens for helpers' services; how often somebody may ask |
//!
//! Byte layouts are specified in `docs/wire.md`.

#![forbid(unsafe_code)]

pub mod authority;
pub mod call;
pub mod capability;
pub mod carddav;
pub mod choice;
pub mod clock;
pub mod contact;
pub mod directory;
pub mod event;
pub mod file;
pub mod group;
pub mod id;
pub mod identity;
pub mod kademlia;
pub mod key;
pub mod language;
pub mod linked;
pub mod linking;
pub mod mail;
pub mod mailbox;
pub mod message;
pub mod node;
pub mod own_device;
pub mod phone;
pub mod presence;
pub mod profile;
pub mod push;
pub mod rate;
pub mod redact;
pub mod relay;
pub mod session;
pub mod simple;
pub mod sip;
#[cfg(test)]
mod test_identity;
pub mod time;
pub mod trunk;
pub mod vault;
pub mod voicemail;
pub mod wire;
#[cfg(test)]
mod wire_samples;
pub mod xmpp;
