//! Linked systems: people who are contacts elsewhere, as in XMPP, and don't know each other here.
//!
//! A user's identity in another system is a [`LinkedId`]. In order:
//!
//! 1. *Link.* The user shows that the account elsewhere is theirs, and says under their identity key that it is: the [`Association`]. It is put where only the
//!    owner of the account can write and their contacts there can read ([`ProofMethod::OWN_ITEM`]), so it can be read while its user is away.
//! 2. *Call.* The caller reads what the callee shows at their place ([`Sighting`]), learns whom to call, and puts the own association into the sealed
//!    invite ([`LinkedPart`]).
//! 3. *Judge.* The callee looks at what the caller's place shows, and whether it is in the own contact list of that system: [`decide`], one pure
//!    function. What a caller merely claims authorises nothing.
//!
//! Beside the association stands a [`LinkedLeave`]: with it those who may read it wake the user's devices and leave letters, though they learn nothing else of them.
//!
//! The login of an account is on one of the user's devices; what it brings is shared among all of them ([`SharedLinks`]).
//!
//! A link makes nobody a contact here: keys that contacts have aren't given away, and presence isn't seen.
//!
//! Proofs that stand by themselves (a provider's signed token, an authority's word for an address) have methods of their own and travel with the association;
//! what an association says doesn't change with them, and nothing has to be looked at.

mod address_word;
mod association;
mod carrier;
mod decide;
mod id;
mod leave;
mod list;
mod listing;
mod merge;
mod part;
mod proof;
#[cfg(test)]
mod proof_tests;
mod provider_token;
mod shared;
mod sighting;
mod slow;
#[cfg(test)]
mod tests;
mod token;
mod told;
mod vcard;

pub use address_word::{ADDRESS_WORD_SECS_MAX, AddressProof, AddressWord};
pub use association::{ASSOCIATION_SECS_MAX, Association, AssociationError, AssociationParams, ProofMethod};
pub use carrier::{Carrier, CarrierError, Carriers, decide_by_first};
pub use decide::{Claim, ContactLists, Grounds, Indicated, LinkedContact, NotLinked, TrustDecision, TrustRequest, decide};
pub use id::{LINKED_ADDRESS_BYTES_MAX, LinkedId, LinkedIdError, System};
pub use leave::{LEAVE_BYTES_MAX, LeaveScope, LinkedKey, LinkedLeave};
pub use list::{ListEntry, Readers};
pub use listing::{FoundListing, LISTING_BYTES_MAX, LISTING_SECS_MAX, Listing, ListingError, ListingParams, PlacedListing};
pub use merge::{IdentityMerge, MERGE_EXTENSION};
pub use part::{LINKED_EXTENSION, LinkedPart};
pub use proof::{PROOF_BYTES_MAX, PROOF_EXTENSION, ProofError, Providers, TrustedProofs, verify_proof};
pub use provider_token::{
    KeyMaterial, PROVIDER_KEY_SECS_MAX, PROVIDER_KEYS_MAX, ProviderKey, ProviderToken, TrustedProvider, nonce_for,
};
pub use shared::{
    Held, LinkedAsk, LinkedQuestion, LinkedReply, LinkedShare, LinkedTold, PAGES, SHARE_PIECES_MAX, SHARED_ACCOUNTS_MAX,
    SHARED_SIGHTINGS_MAX, SharedAccount, SharedContacts, SharedLinks, SharedPiece, SharedProof, SharedProvider, SharedSighting,
};
pub use sighting::{
    Heard, KnownAssociations, SEEN_SECS_FRESH, SIGHTING_SECS_FRESH, SIGHTING_SECS_MAX, Shown, Sighting, SightingError,
};
pub use slow::{Indicator, SLOW_MEMORY_KIB, SLOW_PASSES, SlowHashError, SlowId};
pub use token::{TOKEN_BYTES_MAX, TOKEN_EXTENSION, TOKEN_SECS_MAX, TokenPart, is_token};
pub use told::{OpenedLink, TOLD_BYTES_MAX, TOLD_EXTENSION, TOLD_LINKS_MAX, ToldLink, ToldLinks};
pub use vcard::{BOOK_BYTES_MAX, BOOK_ENTRIES_MAX, read_book};
