//! What directory nodes say to each other. Every message ends in [`Extensions`]; an older reader that doesn't know a request answers
//! [`FrameKind::UNSUPPORTED`], which costs the asker one hedge.
//!
//! | request | kind | answer | kind |
//! | --- | --- | --- | --- |
//! | [`FindRecord`] | 0x0010 | [`RecordAnswer`] | 0x8010 |
//! | [`FindNode`] | 0x0011 | [`Nodes`] | 0x8011 |
//! | [`Store`] | 0x0012 | [`StoreAnswer`] | 0x8012 |
//! | [`RenewLease`] | 0x0013 | [`LeaseAnswer`] | 0x8013 |
//! | [`SyncOffer`] | 0x0014 | [`SyncWant`] | 0x8014 |
//! | [`StoreListing`] | 0x0016 | [`ListingStored`] | 0x8016 |
//! | [`FindListings`] | 0x0017 | [`ListingsFound`] | 0x8017 |
//!
//! Records travel as bytes inside messages: who only passes a record on doesn't parse it, and a record that can't be parsed is
//! refused by name instead of failing the frame.

use std::sync::Arc;

use bincode::{Decode, Encode};

use crate::directory::{DeviceEntry, Lease, RECORD_BYTES_MAX, Reachability, RecordKey};
use crate::key::{DeviceKey, Signature};
use crate::linked::LISTING_BYTES_MAX;
use crate::node::Descriptor;
use crate::time::UnixTime;
use crate::wire::{DecodeError, Extensions, FRAME_BODY_BYTES_MAX, Frame, FrameKind, Message, Signed};

/// Most descriptors in one answer: twice a replica set, so that half may be dead and the asker still goes on.
pub const CLOSER_MAX: usize = 16;

/// Most records named in one [`SyncOffer`]; 64 x 66 bytes fit a small frame.
pub const SYNC_ITEMS_MAX: usize = 64;

/// Bytes that say which of the records that a replica holds a [`RenewLease`] is about. To make a key that begins like another's takes 2^64 tries; a lease is then taken for each of the two that has the entry.
pub const LEASED_RECORD_BYTES: usize = 8;

/// Bytes that say which of a record's entries, at most sixteen, a [`RenewLease`] is about. Its signature says so too, with the whole hash.
pub const LEASED_ENTRY_BYTES: usize = 8;

/// Longest text beside a refusal, in bytes. It is for logs, never for decisions.
pub const DETAIL_BYTES_MAX: usize = 160;

/// Extension of a [`RecordAnswer`], empty: what is here may be out of date. It was kept from an earlier run and hasn't been compared with the
/// other replicas yet, or the node isn't one of the replicas any longer, so that publications pass it by. Askers ask on, and take it if nobody
/// else has any.
pub const EXTENSION_DOUBTFUL: u16 = 0x0001;

/// Extension of a [`FindNode`] and a [`FindRecord`]: a salt of 8 bytes, new with each question, and marks of nodes that the asker knows, 4 bytes each, the beginnings of the SHA-256 of the salt
/// and their descriptors, at most [`CLOSER_MAX`]. Of their answers: which of these are among the closest, as numbers of one byte, beside those that are spelled out.
pub const EXTENSION_KNOWN: u16 = 0x0002;

/// Extension of a [`FindNode`]: only those are asked for of whom the other node has known for at most so many seconds that they live. Two bytes, little-endian. Who doesn't know it names all that it
/// would name without.
pub const EXTENSION_NEWS: u16 = 0x0003;

/// Extension of a [`RecordAnswer`]: nodes near the key for which the answerer can't vouch, as others named them: an encoded list of at most eight descriptors. The asker may ask them for this record;
/// they are no one's word for anything else.
pub const EXTENSION_HEARSAY: u16 = 0x0004;

/// Extension of a [`SyncWant`]: which of the offered records are held here neither as offered nor wanted, as this node isn't among their replicas. Eight bytes, little-endian: bit *n* stands for
/// the item with number *n*. Those neither here nor wanted are held.
pub const EXTENSION_PASSED: u16 = 0x0001;

/// Largest answer with descriptors or a record: 16 KiB of record, or 16 descriptors of at most 720 bytes, and room to grow.
const ANSWER_BYTES_MAX: usize = 2 * RECORD_BYTES_MAX;

/// Largest request without a record.
const SMALL_BYTES_MAX: usize = 1_024;

/// Largest sync message.
const SYNC_BYTES_MAX: usize = 8 * 1_024;

/// "What do you hold under `key`?"
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FindRecord {
    /// Whose record.
    pub key: RecordKey,
    /// State hash of what the asker has already ([`crate::directory::DirectoryRecord::state_hash`]: leases count, since they are what
    /// changes most); a holder of the same answers [`RecordOutcome::Same`].
    pub have_hash: Option<[u8; 32]>,
    /// How many closer nodes to name if the record isn't here, at most [`CLOSER_MAX`]; 0 saves their bytes.
    pub want: u8,
    /// Room to grow.
    pub extensions: Extensions,
}

/// What a node holds under a key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RecordOutcome {
    /// The record's bytes; nobody believes them unverified.
    Found(Vec<u8>),
    /// What the asker has.
    Same,
    /// Nothing.
    Absent,
}

/// Answer to [`FindRecord`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RecordAnswer {
    /// What is here.
    pub outcome: RecordOutcome,
    /// Nodes closer to the key; none beside a found record.
    pub closer: Vec<Arc<Descriptor>>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// "Who is closest to `target`?"
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FindNode {
    /// A point of the key space.
    pub target: [u8; 32],
    /// How many, at most [`CLOSER_MAX`].
    pub want: u8,
    /// Room to grow.
    pub extensions: Extensions,
}

/// Answer to [`FindNode`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Nodes {
    /// The closest nodes whose places the answerer has seen proved, closest first.
    pub closer: Vec<Arc<Descriptor>>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// "Keep this." The key follows from the record.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Store {
    /// The record's bytes.
    pub record: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// Why a replica doesn't take a record. A number on the wire, so that new reasons don't break old readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum StoreRefusal {
    /// Malformed, forged, or contradicting itself.
    Invalid,
    /// Its authority isn't trusted by the replica.
    UnknownAuthority,
    /// The authority took the user's certificate back, or the user the device.
    Revoked,
    /// Nothing in it is valid any more.
    Expired,
    /// Dated further ahead than clocks differ.
    Future,
    /// The replica holds something newer and answers with it.
    Stale,
    /// The replica knows enough closer nodes, or is too far off for there not to be; it names those that it knows.
    NotResponsible,
    /// The sender has its share of this replica.
    QuotaPeer,
    /// The sender's network has its share of this replica.
    QuotaNetwork,
    /// The replica is full with records closer to it.
    QuotaTotal,
    /// Larger than [`RECORD_BYTES_MAX`].
    TooLarge,
    /// A reason this reader doesn't know.
    Other(u16),
}

impl StoreRefusal {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Invalid => 1,
            Self::UnknownAuthority => 2,
            Self::Revoked => 3,
            Self::Expired => 4,
            Self::Future => 5,
            Self::Stale => 6,
            Self::NotResponsible => 7,
            Self::QuotaPeer => 8,
            Self::QuotaNetwork => 9,
            Self::QuotaTotal => 10,
            Self::TooLarge => 11,
            Self::Other(code) => code,
        }
    }

    /// The reason with this number.
    #[must_use]
    pub const fn from_code(code: u16) -> Self {
        match code {
            1 => Self::Invalid,
            2 => Self::UnknownAuthority,
            3 => Self::Revoked,
            4 => Self::Expired,
            5 => Self::Future,
            6 => Self::Stale,
            7 => Self::NotResponsible,
            8 => Self::QuotaPeer,
            9 => Self::QuotaNetwork,
            10 => Self::QuotaTotal,
            11 => Self::TooLarge,
            other => Self::Other(other),
        }
    }
}

impl Encode for StoreRefusal {
    fn encode<E: bincode::enc::Encoder>(&self, encoder: &mut E) -> Result<(), bincode::error::EncodeError> {
        self.code().encode(encoder)
    }
}

impl<Context> Decode<Context> for StoreRefusal {
    fn decode<D: bincode::de::Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, bincode::error::DecodeError> {
        u16::decode(decoder).map(Self::from_code)
    }
}
bincode::impl_borrow_decode!(StoreRefusal);

/// What became of a [`Store`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum StoreOutcome {
    /// The replica holds everything that was sent, merged with what it had.
    Accepted,
    /// It doesn't.
    Refused {
        /// Why.
        reason: StoreRefusal,
        /// The same in words, for logs.
        detail: String,
    },
}

/// Answer to [`Store`]: what the replica holds now.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StoreAnswer {
    /// What became of it.
    pub outcome: StoreOutcome,
    /// Content hash of what the replica holds under the key now.
    pub holds: Option<[u8; 32]>,
    /// The bytes of that, when it holds more than was sent.
    pub record: Option<Vec<u8>>,
    /// Nodes closer to the key, with [`StoreRefusal::NotResponsible`].
    pub closer: Vec<Arc<Descriptor>>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// "This entry is still alive": all that a refresh sends.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RenewLease {
    /// Of the record's key the first bytes.
    pub record: [u8; LEASED_RECORD_BYTES],
    /// The keeper that signed; the device itself if `None`.
    pub keeper: Option<DeviceKey>,
    /// Of the entry that is alive, the first bytes of [`Lease::entry_hash`]: which of a record's it is.
    pub entry: [u8; LEASED_ENTRY_BYTES],
    /// The lease, without what the replica knows from the entry.
    pub lease: BriefLease,
    /// Room to grow.
    pub extensions: Extensions,
}

impl RenewLease {
    /// Brings a lease for an entry of the record under `key`; `keeper` if not the device itself has signed it.
    #[must_use]
    pub fn new(key: RecordKey, keeper: Option<DeviceKey>, lease: &Signed<Lease>) -> Self {
        let entry = lease.unverified().entry_hash.first_chunk().copied().unwrap_or_default();
        let record = key.0.first_chunk().copied().unwrap_or_default();
        Self { record, keeper, entry, lease: BriefLease::of(lease), extensions: Extensions::none() }
    }

    /// Whether this is about `entry`.
    #[must_use]
    pub fn is_for(&self, entry: &Signed<DeviceEntry>) -> bool {
        entry.body_hash().starts_with(&self.entry)
    }
}

/// A [`Lease`] without its device and its entry's hash, which who holds the entry knows, and its signature.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BriefLease {
    /// [`Lease::number`].
    pub number: u64,
    /// [`Lease::reachability`].
    pub reachability: Reachability,
    /// [`Lease::issued_at`].
    pub issued_at: UnixTime,
    /// [`Lease::until`].
    pub until: UnixTime,
    /// [`Lease::extensions`].
    pub extensions: Extensions,
    /// Over the whole lease.
    pub signature: Signature,
}

impl BriefLease {
    fn of(lease: &Signed<Lease>) -> Self {
        let Lease { number, reachability, issued_at, until, extensions, .. } = lease.unverified();
        Self {
            number: *number,
            reachability: *reachability,
            issued_at: *issued_at,
            until: *until,
            extensions: extensions.clone(),
            signature: *lease.signature(),
        }
    }

    /// The whole lease, if it is for this entry: whether its signature holds is for [`DirectoryRecord::apply_lease`](crate::directory::DirectoryRecord::apply_lease) to say.
    ///
    /// # Errors
    /// [`DecodeError`] for a lease that is too long or ends before it begins.
    pub fn of_entry(self, entry: &Signed<DeviceEntry>) -> Result<Signed<Lease>, DecodeError> {
        let lease = Lease {
            device: entry.unverified().device,
            entry_hash: entry.body_hash(),
            number: self.number,
            reachability: self.reachability,
            issued_at: self.issued_at,
            until: self.until,
            extensions: self.extensions,
        };
        Signed::from_parts(lease, self.signature)
    }
}

/// What became of a [`RenewLease`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum LeaseOutcome {
    /// The replica serves the lease with the entry.
    Renewed,
    /// The replica doesn't hold the record, or not this entry of it: store it.
    NeedRecord,
    /// The lease is forged or dated ahead.
    Refused,
}

/// Answer to [`RenewLease`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LeaseAnswer {
    /// What became of it.
    pub outcome: LeaseOutcome,
    /// Room to grow.
    pub extensions: Extensions,
}

/// One record in a [`SyncOffer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SyncItem {
    /// Whose record.
    pub key: RecordKey,
    /// Content hash of what the offerer holds.
    pub hash: [u8; 32],
}

/// "You should hold these too": a replica to another that has become responsible.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SyncOffer {
    /// At most [`SYNC_ITEMS_MAX`].
    pub items: Vec<SyncItem>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// Answer to [`SyncOffer`]: of which of the offered records other content, or none, is held here.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SyncWant {
    /// Please store these.
    pub keys: Vec<RecordKey>,
    /// [`EXTENSION_PASSED`].
    pub extensions: Extensions,
}

/// Most listings at one place: of users with a name, and of users without.
pub const LISTINGS_MAX: usize = LISTINGS_NAMED_MAX + LISTINGS_UNNAMED_MAX;

/// Most listings of users with a name at one place. Who wants to keep the owner of an identity out has to have as many names, and to be there first.
pub const LISTINGS_NAMED_MAX: usize = 4;

/// Most of users who are known by their key alone: these cost nothing, so they have places of their own.
pub const LISTINGS_UNNAMED_MAX: usize = 2;

/// "Keep this listing." Its place is in it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StoreListing {
    /// A signed [`PlacedListing`](crate::linked::PlacedListing), as bytes: one that can't be read is refused by name.
    pub listing: Vec<u8>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// Answer to [`StoreListing`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ListingStored {
    /// What became of it.
    pub outcome: StoreOutcome,
    /// Room to grow.
    pub extensions: Extensions,
}

/// "Which listings lie at this place?"
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FindListings {
    /// The place.
    pub place: RecordKey,
    /// Room to grow.
    pub extensions: Extensions,
}

/// Answer to [`FindListings`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ListingsFound {
    /// Signed [`PlacedListing`](crate::linked::PlacedListing)s, at most [`LISTINGS_MAX`]; nobody believes them unverified.
    pub listings: Vec<Vec<u8>>,
    /// Room to grow.
    pub extensions: Extensions,
}

macro_rules! message {
    ($name:ident, $kind:expr, $limit:expr) => {
        message!($name, $kind, $limit, |_| Ok(()));
    };
    ($name:ident, $kind:expr, $limit:expr, $check:expr) => {
        impl Message for $name {
            const KIND: FrameKind = FrameKind($kind);
            const LIMIT: usize = $limit;

            fn check(&self) -> Result<(), DecodeError> {
                let check: fn(&Self) -> Result<(), DecodeError> = $check;
                check(self)
            }
        }
    };
}

message!(FindRecord, 0x0010, SMALL_BYTES_MAX);
message!(RecordAnswer, FrameKind::ANSWER | 0x0010, ANSWER_BYTES_MAX, |answer| check_closer(&answer.closer));
message!(FindNode, 0x0011, SMALL_BYTES_MAX);
message!(Nodes, FrameKind::ANSWER | 0x0011, ANSWER_BYTES_MAX, |answer| check_closer(&answer.closer));
// As large as a frame, so that an oversized record is refused by name.
message!(Store, 0x0012, FRAME_BODY_BYTES_MAX);
message!(StoreAnswer, FrameKind::ANSWER | 0x0012, ANSWER_BYTES_MAX, |answer| check_closer(&answer.closer));
message!(RenewLease, 0x0013, SMALL_BYTES_MAX);
message!(LeaseAnswer, FrameKind::ANSWER | 0x0013, SMALL_BYTES_MAX);
message!(SyncOffer, 0x0014, SYNC_BYTES_MAX, |offer| check_count("items", offer.items.len(), SYNC_ITEMS_MAX));
message!(SyncWant, FrameKind::ANSWER | 0x0014, SYNC_BYTES_MAX, |answer| check_count("keys", answer.keys.len(), SYNC_ITEMS_MAX));

// Room for an oversized one, so that it is refused by name.
message!(StoreListing, 0x0016, LISTING_BYTES_MAX + SMALL_BYTES_MAX);
message!(ListingStored, FrameKind::ANSWER | 0x0016, SMALL_BYTES_MAX);
message!(FindListings, 0x0017, SMALL_BYTES_MAX);
message!(ListingsFound, FrameKind::ANSWER | 0x0017, LISTINGS_MAX * (LISTING_BYTES_MAX + 4) + SMALL_BYTES_MAX, |answer| {
    check_count("listings", answer.listings.len(), LISTINGS_MAX)
});

fn check_count(field: &'static str, count: usize, max: usize) -> Result<(), DecodeError> {
    if count > max { Err(DecodeError::invalid(field, format!("{count}, at most {max}"))) } else { Ok(()) }
}

fn check_closer(closer: &[Arc<Descriptor>]) -> Result<(), DecodeError> {
    check_count("closer", closer.len(), CLOSER_MAX)?;
    closer.iter().try_for_each(|descriptor| descriptor.check())
}

/// A question of one directory node to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// See [`FindRecord`].
    FindRecord(FindRecord),
    /// See [`FindNode`].
    FindNode(FindNode),
    /// See [`Store`].
    Store(Store),
    /// See [`RenewLease`].
    RenewLease(Box<RenewLease>),
    /// See [`SyncOffer`].
    SyncOffer(SyncOffer),
    /// See [`StoreListing`].
    StoreListing(StoreListing),
    /// See [`FindListings`].
    FindListings(FindListings),
}

impl Request {
    /// True if a frame of this kind is a question to the directory.
    #[must_use]
    pub fn is_kind(kind: FrameKind) -> bool {
        (FindRecord::KIND.0..=SyncOffer::KIND.0).contains(&kind.0) || kind == StoreListing::KIND || kind == FindListings::KIND
    }

    /// The frame's kind.
    #[must_use]
    pub const fn kind(&self) -> FrameKind {
        match self {
            Self::FindRecord(_) => FindRecord::KIND,
            Self::FindNode(_) => FindNode::KIND,
            Self::Store(_) => Store::KIND,
            Self::RenewLease(_) => RenewLease::KIND,
            Self::SyncOffer(_) => SyncOffer::KIND,
            Self::StoreListing(_) => StoreListing::KIND,
            Self::FindListings(_) => FindListings::KIND,
        }
    }

    /// The request as a frame with number `id`.
    #[must_use]
    pub fn to_frame(&self, id: u32) -> Frame {
        match self {
            Self::FindRecord(message) => Frame::new(id, message),
            Self::FindNode(message) => Frame::new(id, message),
            Self::Store(message) => Frame::new(id, message),
            Self::RenewLease(message) => Frame::new(id, message.as_ref()),
            Self::SyncOffer(message) => Frame::new(id, message),
            Self::StoreListing(message) => Frame::new(id, message),
            Self::FindListings(message) => Frame::new(id, message),
        }
    }

    /// Length of that frame, encoded.
    #[must_use]
    pub fn frame_len(&self, id: u32) -> usize {
        match self {
            Self::FindRecord(message) => Frame::len_of(id, message),
            Self::FindNode(message) => Frame::len_of(id, message),
            Self::Store(message) => Frame::len_of(id, message),
            Self::RenewLease(message) => Frame::len_of(id, message.as_ref()),
            Self::SyncOffer(message) => Frame::len_of(id, message),
            Self::StoreListing(message) => Frame::len_of(id, message),
            Self::FindListings(message) => Frame::len_of(id, message),
        }
    }

    /// Decodes a request and checks its counts and lengths.
    ///
    /// # Errors
    /// [`DecodeError`]; [`DecodeError::WrongKind`] if the frame is no question to the directory.
    pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
        match frame.kind {
            FindRecord::KIND => frame.parse().map(Self::FindRecord),
            FindNode::KIND => frame.parse().map(Self::FindNode),
            Store::KIND => frame.parse().map(Self::Store),
            RenewLease::KIND => frame.parse().map(|message| Self::RenewLease(Box::new(message))),
            SyncOffer::KIND => frame.parse().map(Self::SyncOffer),
            StoreListing::KIND => frame.parse().map(Self::StoreListing),
            FindListings::KIND => frame.parse().map(Self::FindListings),
            other => Err(DecodeError::WrongKind { found: other.0, expected: FindRecord::KIND.0 }),
        }
    }
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`FindRecord`].
    Record(RecordAnswer),
    /// To [`FindNode`].
    Nodes(Nodes),
    /// To [`Store`].
    Store(StoreAnswer),
    /// To [`RenewLease`].
    Lease(LeaseAnswer),
    /// To [`SyncOffer`].
    SyncWant(SyncWant),
    /// To [`StoreListing`].
    ListingStored(ListingStored),
    /// To [`FindListings`].
    Listings(ListingsFound),
}

impl Answer {
    /// True if a frame of this kind answers a question to the directory.
    #[must_use]
    pub fn is_kind(kind: FrameKind) -> bool {
        kind.is_answer() && Request::is_kind(FrameKind(kind.0 & !FrameKind::ANSWER))
    }

    /// The frame's kind.
    #[must_use]
    pub const fn kind(&self) -> FrameKind {
        match self {
            Self::Record(_) => RecordAnswer::KIND,
            Self::Nodes(_) => Nodes::KIND,
            Self::Store(_) => StoreAnswer::KIND,
            Self::Lease(_) => LeaseAnswer::KIND,
            Self::SyncWant(_) => SyncWant::KIND,
            Self::ListingStored(_) => ListingStored::KIND,
            Self::Listings(_) => ListingsFound::KIND,
        }
    }

    /// The answer as a frame to request number `id`.
    #[must_use]
    pub fn to_frame(&self, id: u32) -> Frame {
        match self {
            Self::Record(message) => Frame::new(id, message),
            Self::Nodes(message) => Frame::new(id, message),
            Self::Store(message) => Frame::new(id, message),
            Self::Lease(message) => Frame::new(id, message),
            Self::SyncWant(message) => Frame::new(id, message),
            Self::ListingStored(message) => Frame::new(id, message),
            Self::Listings(message) => Frame::new(id, message),
        }
    }

    /// Length of that frame, encoded.
    #[must_use]
    pub fn frame_len(&self, id: u32) -> usize {
        match self {
            Self::Record(message) => Frame::len_of(id, message),
            Self::Nodes(message) => Frame::len_of(id, message),
            Self::Store(message) => Frame::len_of(id, message),
            Self::Lease(message) => Frame::len_of(id, message),
            Self::SyncWant(message) => Frame::len_of(id, message),
            Self::ListingStored(message) => Frame::len_of(id, message),
            Self::Listings(message) => Frame::len_of(id, message),
        }
    }

    /// Decodes an answer and checks its counts and lengths.
    ///
    /// # Errors
    /// [`DecodeError`]; [`DecodeError::WrongKind`] if the frame is no answer of the directory.
    pub fn from_frame(frame: &Frame) -> Result<Self, DecodeError> {
        match frame.kind {
            RecordAnswer::KIND => frame.parse().map(Self::Record),
            Nodes::KIND => frame.parse().map(Self::Nodes),
            StoreAnswer::KIND => frame.parse().map(Self::Store),
            LeaseAnswer::KIND => frame.parse().map(Self::Lease),
            SyncWant::KIND => frame.parse().map(Self::SyncWant),
            ListingStored::KIND => frame.parse().map(Self::ListingStored),
            ListingsFound::KIND => frame.parse().map(Self::Listings),
            other => Err(DecodeError::WrongKind { found: other.0, expected: RecordAnswer::KIND.0 }),
        }
    }
}
