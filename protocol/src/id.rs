//! Ids drawn at random by whoever starts a thing: a call, a message, a conversation.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use data_encoding::HEXLOWER;

use crate::identity::UserId;
use crate::key::hash;
use crate::wire;

/// A textual id wasn't one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected 32 hexadecimal digits, got {0:?}")]
pub struct ParseIdError(pub String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A fresh id.
            #[must_use]
            pub fn random(rng: &mut impl rand::CryptoRng) -> Self {
                let mut bytes = [0; 16];
                rng.fill_bytes(&mut bytes);
                Self(bytes)
            }

            /// First eight hexadecimal digits, for logs and people.
            #[must_use]
            pub fn short(&self) -> String {
                HEXLOWER.encode(&self.0[..4])
            }
        }

        /// All 32 digits; `{:#}` prints the short form.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&if f.alternate() { self.short() } else { HEXLOWER.encode(&self.0) })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let refuse = || ParseIdError(text.chars().take(40).collect());
                let bytes = HEXLOWER.decode(text.to_ascii_lowercase().as_bytes()).map_err(|_| refuse())?;
                Ok(Self(bytes.try_into().map_err(|_| refuse())?))
            }
        }
    };
}

id!(
    /// One call, the same for all devices it rings. Drawn by the caller.
    CallId
);
id!(
    /// One request of a gateway to open a session. Drawn by the gateway; a device takes each once.
    SessionNonce
);
id!(
    /// One conference, the same for all who take part. Not drawn: it follows from the call that it began as.
    ConferenceId
);
id!(
    /// One message, the same for all devices it goes to. Drawn by the sending device.
    MessageId
);
id!(
    /// What belongs together for people: messages, calls and recordings between the same parties.
    ConversationId
);
id!(
    /// One group. Not drawn: it names the statement by which the group was founded, so nobody can found it a second time.
    GroupId
);
id!(
    /// One capability; how it is revoked. Drawn by the issuer.
    CapabilityId
);
id!(
    /// One file on offer. Drawn by the sending device.
    FileId
);

impl ConversationId {
    /// The conversation of a group.
    #[must_use]
    pub const fn of_group(group: &GroupId) -> Self {
        Self(group.0)
    }

    /// The conversation of two users, the same from either end and on all their devices, without a word between them.
    #[must_use]
    pub fn of_pair(one: &UserId, other: &UserId) -> Self {
        let (first, second) = if one <= other { (one, other) } else { (other, one) };
        let digest = hash("halloo conversation of two", &[&wire::encode(first), &wire::encode(second)]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{IdentityKey, PublicKey};

    #[test]
    fn ids_print_short_and_long_and_parse() {
        let id = CallId([0xab; 16]);
        assert_eq!(format!("{id:#}"), "abababab");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        for bad in ["", "ab", "zz", &"ab".repeat(17)] {
            assert!(bad.parse::<CallId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_conversation_of_two_is_the_same_from_both_ends() {
        let user = |number| UserId::Key(IdentityKey(PublicKey([number; 32])));
        let (a, b, c) = (user(1), user(2), user(3));
        assert_eq!(ConversationId::of_pair(&a, &b), ConversationId::of_pair(&b, &a));
        assert_ne!(ConversationId::of_pair(&a, &b), ConversationId::of_pair(&a, &c));
    }
}
