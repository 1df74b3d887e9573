//! Attackers: honest nodes that say something else. Any machine that speaks the directory's messages can meet them.

use std::sync::Arc;

use halloo_protocol::directory::UnverifiedRecord;
use halloo_protocol::directory::{Place, RecordKey};
use halloo_protocol::kademlia::{
    Answer, CLOSER_MAX, Nodes, RecordAnswer, RecordOutcome, Reply, Request, StoreAnswer, StoreOutcome,
};
use halloo_protocol::key::{DeviceKey, PublicKey, hash};
use halloo_protocol::node::{Address, Descriptor, LoadClass, Roles, Transport};
use halloo_protocol::time::Now;
use halloo_protocol::wire::{self, Extensions};

use super::world::{World, secret};
use crate::machine::NodeId;

/// What a liar answers to a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The owner's newest entry with a higher number, signed by another key.
    Forged,
    /// An entry of the owner's that has expired.
    Expired,
    /// A true older entry of the owner's.
    Superseded,
    /// Another user's record.
    Foreign,
    /// "No such record", whatever it holds.
    Denies,
    /// "No such record", and sixteen nodes beside the key that don't exist.
    Invents,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Forged, Self::Expired, Self::Superseded, Self::Foreign, Self::Denies, Self::Invents];
}

/// Nodes that work together against whoever asks them.
#[derive(Debug, Default)]
pub struct Ring {
    /// Its members, in no order.
    pub members: Vec<NodeId>,
    /// Whose record must not be found; `None` for everybody's.
    pub victim: Option<RecordKey>,
    /// True if they answer with an old record where there is one, instead of denying.
    pub ages: bool,
}

/// What a node does to others.
#[derive(Clone, Debug, Default)]
pub enum Behaviour {
    /// What it should.
    #[default]
    Honest,
    /// Takes everything in and answers nothing.
    Silent,
    /// Answers look-ups with a lie.
    Liar(Lie),
    /// Names only other members of its ring, acknowledges stores and drops them, denies records or answers with old ones.
    Colluder(Arc<Ring>),
}

impl Behaviour {
    /// True if the node's own directory mustn't see the request.
    pub(super) const fn swallows(&self, request: &Request) -> bool {
        match self {
            Self::Silent => true,
            Self::Colluder(_) => matches!(request, Request::Store(_)),
            _ => false,
        }
    }

    /// True if answers are changed.
    pub(super) const fn is_lying(&self) -> bool {
        !matches!(self, Self::Honest)
    }

    /// What is answered instead of `honest`. `None` is silence.
    #[must_use]
    pub fn lie(&self, world: &World, now: Now, me: NodeId, request: &Request, honest: Option<Reply>) -> Option<Reply> {
        match (self, request) {
            (Self::Silent, _) => None,
            (Self::Liar(lie), Request::FindRecord(find)) => {
                let owner = world.owner_of(&find.key);
                match (lie, owner) {
                    (Lie::Denies, _) => Some(record_reply(RecordOutcome::Absent, Vec::new())),
                    (Lie::Invents, _) => Some(record_reply(RecordOutcome::Absent, invented(&Place(find.key.0)))),
                    (_, Some(owner)) => {
                        Some(record_reply(RecordOutcome::Found(false_record(world, now, owner, *lie)), Vec::new()))
                    }
                    (_, None) => honest,
                }
            }
            (Self::Liar(Lie::Invents), Request::FindNode(find)) => Some(nodes_reply(invented(&Place(find.target)))),
            (Self::Colluder(ring), Request::FindNode(find)) => Some(nodes_reply(ring.closest(world, me, &Place(find.target)))),
            (Self::Colluder(ring), Request::FindRecord(find)) if ring.victim.is_none_or(|victim| victim == find.key) => {
                let closer = ring.closest(world, me, &Place(find.key.0));
                match world.owner_of(&find.key).filter(|_| ring.ages) {
                    Some(owner) => {
                        Some(record_reply(RecordOutcome::Found(false_record(world, now, owner, Lie::Superseded)), Vec::new()))
                    }
                    None => Some(record_reply(RecordOutcome::Absent, closer)),
                }
            }
            (Self::Colluder(_), Request::Store(store)) => Some(acknowledged(&store.record, world, now)),
            _ => honest,
        }
    }
}

impl Ring {
    /// The members closest to a point: what its nodes name.
    fn closest(&self, world: &World, me: NodeId, target: &Place) -> Vec<Arc<Descriptor>> {
        let mut members: Vec<_> = self.members.iter().filter(|member| **member != me).copied().collect();
        let distance = |member: &NodeId| target.distance(&world.identity(*member).descriptor.place);
        if members.len() > CLOSER_MAX {
            members.select_nth_unstable_by_key(CLOSER_MAX, distance);
            members.truncate(CLOSER_MAX);
        }
        members.sort_by_key(distance);
        members.into_iter().map(|member| Arc::clone(&world.identity(member).descriptor)).collect()
    }
}

/// A record of `owner` as a liar gives it out.
fn false_record(world: &World, now: Now, owner: NodeId, lie: Lie) -> Vec<u8> {
    let number = u64::from(owner.0);
    let sequence = world.newest_sequence(owner).max(1);
    let valid = (now.unix, now.unix.plus_secs(86_400));
    let record = match lie {
        Lie::Forged => world.unverified(owner, world.sign_entry(owner, sequence + 1, valid, &secret("thief", number)), None),
        Lie::Expired => {
            let past = (now.unix.minus_secs(9_000), now.unix.minus_secs(1));
            world.unverified(owner, world.sign_entry(owner, sequence + 1, past, &secret("simulated device", number)), None)
        }
        Lie::Foreign => {
            let other = NodeId(if owner.0 == 0 { 1 } else { owner.0 - 1 });
            let signer = secret("simulated device", u64::from(other.0));
            world.unverified(other, world.sign_entry(other, 1, valid, &signer), None)
        }
        Lie::Superseded | Lie::Denies | Lie::Invents => {
            let older = (now.unix.minus_secs(3_000), now.unix.plus_secs(86_400));
            let signer = secret("simulated device", number);
            world.unverified(owner, world.sign_entry(owner, sequence.saturating_sub(1), older, &signer), None)
        }
    };
    wire::encode(&record)
}

/// "I have it now."
fn acknowledged(bytes: &[u8], world: &World, now: Now) -> Reply {
    let record = UnverifiedRecord::from_bytes(bytes).ok().and_then(|record| record.verify(now.unix, &world.trust).ok());
    Reply::Answer(Answer::Store(StoreAnswer {
        outcome: StoreOutcome::Accepted,
        holds: record.map(|record| record.content_hash()),
        record: None,
        closer: Vec::new(),
        extensions: Extensions::none(),
    }))
}

fn record_reply(outcome: RecordOutcome, closer: Vec<Arc<Descriptor>>) -> Reply {
    Reply::Answer(Answer::Record(RecordAnswer { outcome, closer, extensions: Extensions::none() }))
}

fn nodes_reply(closer: Vec<Arc<Descriptor>>) -> Reply {
    Reply::Answer(Answer::Nodes(Nodes { closer, extensions: Extensions::none() }))
}

/// Sixteen nodes beside a point that nobody has enrolled.
#[must_use]
pub(super) fn invented(target: &Place) -> Vec<Arc<Descriptor>> {
    let near = |number: u8| {
        let mut place = target.0;
        place[31] ^= number;
        Arc::new(Descriptor {
            device: DeviceKey(PublicKey(hash("invented", &[&target.0, &[number]]))),
            place: Place(place),
            roles: Roles::DIRECTORY,
            load: LoadClass(0),
            addresses: vec![Address::V4 { ip: [200, number, 1, 1], port: 1, transport: Transport::Quic }],
        })
    };
    (1..=16).map(near).collect()
}
