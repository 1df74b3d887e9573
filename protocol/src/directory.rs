//! The directory record: what the network keeps about a user, and how copies of it come together.
//!
//! A record holds the user's chain, tombstones of removed devices, and one entry per device, signed by that device. Anyone may pass it
//! on, nobody but its owner's devices can change it: [`UnverifiedRecord::verify`] is the only way to a [`DirectoryRecord`].
//!
//! Merging two copies is a join (commutative, associative, idempotent): per device the entry with the higher sequence number wins, so devices
//! publish independently and replicas converge in any order. Expired entries and removed devices fall out.

mod entry;
mod record;

pub use entry::{
    DEVICE_LEASE_SECS_MAX, DEVICE_NAME_BYTES_MAX, DeviceEntry, DeviceKind, ENTRY_SECS_MAX, Helper, KEEPER_LEASE_SECS_MAX,
    KEEPER_RENEW_AFTER_SECS, Lease, PrivatePart, PushAddress, Reachability, SealError, SealKey, SealedPart,
};
pub use record::{
    DEVICES_MAX, DirectoryRecord, EntryParts, KeeperLease, RECORD_BYTES_MAX, RecordError, TOMBSTONES_MAX, UnverifiedRecord,
};

use std::fmt;

use bincode::{Decode, Encode};

use crate::identity::UserId;
use crate::key::hash;

/// Distance in the directory's key space: the exclusive or of two points, compared as a big-endian number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Distance(pub [u8; 32]);

impl Ord for Distance {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // Two that aren't equal differ in their first half, unless somebody took great pains: most of what a directory does is to compare these.
        self.prefix().cmp(&other.prefix()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Distance {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Distance {
    /// Number of leading zero bits: how many bits the two points share, 0 to 256.
    #[must_use]
    pub fn leading_zeros(&self) -> u32 {
        let mut zeros = 0;
        for byte in self.0 {
            zeros += byte.leading_zeros();
            if byte != 0 {
                break;
            }
        }
        zeros
    }

    /// Its first sixteen bytes as a number: for proportions.
    #[must_use]
    pub fn prefix(&self) -> u128 {
        self.0.first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes))
    }
}

impl fmt::Debug for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Distance(2^{})", 256 - self.leading_zeros())
    }
}

macro_rules! point {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// Distance to a node's place.
            #[must_use]
            pub fn distance(&self, place: &Place) -> Distance {
                let mut distance = [0; 32];
                for (out, (a, b)) in distance.iter_mut().zip(self.0.iter().zip(&place.0)) {
                    *out = a ^ b;
                }
                Distance(distance)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), data_encoding::HEXLOWER.encode(&self.0[..6]))
            }
        }
    };
}

point!(
    /// Where a record is kept: a point in the directory's 256-bit key space.
    RecordKey
);
point!(
    /// Where a node stands in the directory's key space. Follows from its certificate, so it can't be ground.
    Place
);

impl RecordKey {
    /// The key of a user's record: a hash of authority root key and username, or of the identity key for a user without a name.
    #[must_use]
    pub fn of(user: &UserId) -> Self {
        Self(match user {
            UserId::Named { authority, name } => hash("halloo record key", &[authority.as_bytes(), name.as_str().as_bytes()]),
            UserId::Key(identity) => hash("halloo record key of identity", &[identity.as_bytes()]),
        })
    }
}

impl Place {
    /// The place that belongs to the authority's `placement` and a device certificate's `slot` (0 to 3): a hash of the placement, with the slot in its last two bits.
    ///
    /// So all of a user's places are beside each other, and choosing among slots brings nobody nearer to a record.
    #[must_use]
    pub fn assigned(placement: &[u8; 32], slot: u8) -> Self {
        let mut place = hash("halloo place", &[placement]);
        let [.., last] = &mut place;
        *last = *last & !SLOT_BITS | slot & SLOT_BITS;
        Self(place)
    }

    /// Whose place it is.
    #[must_use]
    pub fn owner(&self) -> PlaceOwner {
        let mut owner = self.0;
        let [.., last] = &mut owner;
        *last &= !SLOT_BITS;
        PlaceOwner(owner)
    }
}

/// The bits of a place's last byte that are the slot.
const SLOT_BITS: u8 = 3;

/// What the places of one user have in common, and those of two users don't.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlaceOwner([u8; 32]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_places_are_beside_each_other_and_nobody_elses() {
        let (one, other) = ([1; 32], [2; 32]);
        let places: Vec<Place> = (0..4).map(|slot| Place::assigned(&one, slot)).collect();
        for (number, place) in places.iter().enumerate() {
            assert_eq!(place.owner(), places[0].owner());
            assert!(place.distance(&places[0]).leading_zeros() >= 254, "no slot is nearer to anything far");
            assert!(places.iter().skip(number + 1).all(|another| another != place), "four places");
        }
        let stranger = Place::assigned(&other, 0);
        assert_ne!(stranger.owner(), places[0].owner());
        assert!(stranger.distance(&places[0]).leading_zeros() < 32);
    }
}
