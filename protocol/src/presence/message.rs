//! What two neighbours say to each other about presence: one frame, many topics.

use bincode::{Decode, Encode};

use super::document::SealedDocument;
use super::topic::{LinkTag, Topic};
use crate::key::{DeviceKey, PublicKey};
use crate::time::UnixTime;
use crate::wire::{Body, DecodeError, Extensions, FRAME_BODY_BYTES_MAX, FrameKind, Message, Signed};

/// Most topics named, dropped, asked for, or told of in one frame.
pub const TOPICS_PER_FRAME_MAX: usize = 1_024;

/// Most documents in one frame: they fill it.
pub const DOCUMENTS_PER_FRAME_MAX: usize = 200;

/// Most hints and appointments each in one frame.
pub const HINTS_PER_FRAME_MAX: usize = 64;

/// Most carriers named with a topic.
pub const CARRIERS_MAX: usize = 3;

/// Where on a connection a topic stands: the asker numbers what it asks for, and both use the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct TopicSlot(pub u16);

/// How a topic is named.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TopicName {
    /// To a contact: nothing to who doesn't know the topic.
    Tag(LinkTag),
    /// To a carrier.
    Topic {
        /// The topic.
        topic: Topic,
        /// Where its owner publishes it, if not here; at most [`CARRIERS_MAX`].
        carriers: Vec<DeviceKey>,
    },
}

/// "I want to hear of this topic, and call it so."
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct NamedTopic {
    /// The asker's number for it; never given to another topic on this connection.
    pub slot: TopicSlot,
    /// Which topic.
    pub name: TopicName,
}

/// How a neighbour wants to hear of a topic's documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Mode {
    /// Only that there is one, whenever something else goes that way.
    #[default]
    Ride,
    /// Only that there is one, within a second.
    Soon,
    /// The document, at once.
    Push,
}

/// "Tell me of this topic so, and know what I have."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TopicWant {
    /// Which topic, in the asker's numbers.
    pub slot: TopicSlot,
    /// How.
    pub mode: Mode,
    /// Sequence of the newest document the asker has; 0 if none.
    pub have: u64,
}

/// Which topic something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TopicPlace {
    /// One that the reader has named, in its numbers.
    Slot(TopicSlot),
    /// By itself: when an owner brings its document to a carrier, and what goes towards the owner.
    Topic(Topic),
}

/// A document on its way.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PassedDocument {
    /// Of which topic.
    pub place: TopicPlace,
    /// How many have passed it on to the sender; 0 from its owner. Nobody signs it: it shapes trees and nothing else.
    pub hops: u8,
    /// The document.
    pub document: SealedDocument,
}

/// "I have this one."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Digest {
    /// Of which topic, in the reader's numbers.
    pub slot: TopicSlot,
    /// The newest document's sequence; 0 says that the sender knows the topic and has none.
    pub sequence: u64,
    /// As in [`PassedDocument::hops`].
    pub hops: u8,
}

/// The owner's leave to say that it has vanished. Signed under the topic.
///
/// Witnesses are numbered: one person gets one number, however many devices they have, so two hints are two persons' words. Who they are stays
/// unsaid.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PresenceWitness {
    /// Under which key the witness speaks.
    pub witness: PublicKey,
    /// The person's number.
    pub number: u16,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for PresenceWitness {
    const KIND: u16 = 0x0703;
    const LIMIT: usize = 128;
}

/// A witness's word that the owner fell silent. Signed with the key of the witness.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PresenceHint {
    /// The newest document it had: a newer one refutes the hint.
    pub sequence: u64,
    /// When it was noticed.
    pub at: UnixTime,
    /// Room to grow.
    pub extensions: Extensions,
}

impl Body for PresenceHint {
    const KIND: u16 = 0x0704;
    const LIMIT: usize = 128;
}

/// An owner makes its neighbour a witness: signs the key, and gives it away.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Appointment {
    /// Of which topic.
    pub place: TopicPlace,
    /// Seed of the witness's key.
    pub seed: [u8; 32],
    /// What to show with each hint.
    pub witness: Signed<PresenceWitness>,
}

/// A hint on its way.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PassedHint {
    /// About which topic.
    pub place: TopicPlace,
    /// Whom the owner appointed.
    pub witness: Signed<PresenceWitness>,
    /// What it says.
    pub hint: Signed<PresenceHint>,
}

/// One kind of thing in a frame.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Part {
    /// Topics the sender wants to hear of.
    Names(Vec<NamedTopic>),
    /// Topics it no longer wants.
    Drops(Vec<TopicSlot>),
    /// How it wants them.
    Wants(Vec<TopicWant>),
    /// Documents.
    Documents(Vec<PassedDocument>),
    /// What the sender has.
    Digests(Vec<Digest>),
    /// Who may witness.
    Appointments(Vec<Appointment>),
    /// Who fell silent.
    Hints(Vec<PassedHint>),
}

/// Everything there is to say to a neighbour at a moment; with no parts it is a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PresenceGossip {
    /// In the order in which they count; at most 7.
    pub parts: Vec<Part>,
    /// Room to grow.
    pub extensions: Extensions,
}

/// Most parts of a frame: one of each.
const PARTS_MAX: usize = 7;

impl Message for PresenceGossip {
    const KIND: FrameKind = FrameKind(FrameKind::NOTICE | 0x0070);
    const LIMIT: usize = FRAME_BODY_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        if self.parts.len() > PARTS_MAX {
            return Err(DecodeError::invalid("parts", format!("{}, at most {PARTS_MAX}", self.parts.len())));
        }
        self.parts.iter().try_for_each(Part::check)
    }
}

impl Part {
    fn check(&self) -> Result<(), DecodeError> {
        let (field, count, most) = match self {
            Self::Names(list) => {
                let carriers = list.iter().map(|named| match &named.name {
                    TopicName::Topic { carriers, .. } => carriers.len(),
                    TopicName::Tag(_) => 0,
                });
                if carriers.max().unwrap_or(0) > CARRIERS_MAX {
                    return Err(DecodeError::invalid("carriers", format!("more than {CARRIERS_MAX}")));
                }
                ("names", list.len(), TOPICS_PER_FRAME_MAX)
            }
            Self::Drops(list) => ("drops", list.len(), TOPICS_PER_FRAME_MAX),
            Self::Wants(list) => ("wants", list.len(), TOPICS_PER_FRAME_MAX),
            Self::Digests(list) => ("digests", list.len(), TOPICS_PER_FRAME_MAX),
            Self::Documents(list) => ("documents", list.len(), DOCUMENTS_PER_FRAME_MAX),
            Self::Appointments(list) => ("appointments", list.len(), HINTS_PER_FRAME_MAX),
            Self::Hints(list) => ("hints", list.len(), HINTS_PER_FRAME_MAX),
        };
        if count > most { Err(DecodeError::invalid(field, format!("{count}, at most {most}"))) } else { Ok(()) }
    }
}
