//! What whole-system tests are made of: real processes, real networks, deadlines.
//!
//! - [`Daemon`] runs `halloo run` on a home of its own, reads its events and ends it, politely or not.
//! - [`Network`] starts an authority and users around it, each a process.
//! - [`cli`] runs one command, [`Api`] asks a daemon's local API without starting a process.
//! - [`eventually`] waits for a condition under a deadline; nothing here sleeps for luck.
//! - [`natlab`] builds a small internet of network namespaces: a public network and homes behind NAT.
//! - [`turn`] sends through a relay with credentials that a daemon holds.
//! - [`linking`] links another device to a user's.
//! - [`presence_reader`] reads presence with a key that somebody kept, and no more than that.
//! - [`spy`] is a helper that keeps all it is told.
//! - [`recorder`] keeps every packet at a machine's interface, [`memory`] looks through what a process holds.
//! - [`phone`] is an ordinary SIP phone, [`sip_client`] one that says what it is told to, [`sipp`] a crowd of them, [`sipp_profile`] one client of the INFO profile,
//!   [`linphone`] another that people have; [`rtp_tone`] is the media of one.
//! - [`kamailio`] is a SIP registrar and proxy.
//! - [`oidc`] is a provider, whose contacts can call here.
//! - [`carddav`] is a server of address books.
//! - [`smtp`] is a mail server that shows what it is given, [`sms`] a provider of short messages that does.
//! - [`xmpp`] is another system, whose contacts can call here.
//! - [`webpush`] is a push service, and an app's subscription at it.
//! - [`attacker`] speaks the overlay protocol frame by frame, and says what it likes.
//!
//! A test that fails prints what its daemons wrote to standard error. Every process and every
//! namespace ends with the value that stands for it, also when the test panics.

pub mod api;
pub mod attacker;
pub mod audio;
pub mod binary;
pub mod carddav;
pub mod cli;
pub mod daemon;
pub mod figures;
pub mod kamailio;
pub mod linking;
pub mod linphone;
pub mod memory;
pub mod natlab;
pub mod network;
pub mod oidc;
pub mod phone;
pub mod postgres;
pub mod presence_reader;
pub mod provider;
pub mod raw_stream;
pub mod recorder;
pub mod rtp_tone;
pub mod seed;
pub mod sip_client;
pub mod sipp;
pub mod sipp_profile;
pub mod sms;
pub mod smtp;
pub mod spy;
pub mod turn;
pub mod wait;
pub mod webpush;
pub mod xmpp;

pub use api::Api;
pub use cli::{Output, cli};
pub use daemon::{Daemon, Launch};
pub use network::{Network, Plan, User};
pub use wait::eventually;
