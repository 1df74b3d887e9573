//! As much XMPP as linking an account takes, without I/O (RFC 6120, 6121, XEP-0060, XEP-0163): the client's side of a stream, logging in, the contact
//! list and its changes, and one item in a personal eventing node.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`stream`] | what a server sends, cut into stanzas, with bounds |
//! | [`scram`] | showing that one knows a password without telling it (RFC 5802, RFC 7677) |
//! | [`stanza`] | what is said, and how answers are read |
//!
//! The stream's order: open, features, STARTTLS and open again, log in and open again, bind, then requests. Servers are believed in what they say of their own
//! accounts: whom a stanza is from counts, and a contact list is changed by the own account alone.

pub mod scram;
pub mod stanza;
pub mod stream;
#[cfg(test)]
mod tests;
