//! Answers others' requests.

use std::sync::Arc;

use super::hearsay::{self, HEARSAY_MAX};
use super::known;
use super::limits::Draw;
use super::messages::{
    Answer, CLOSER_MAX, EXTENSION_DOUBTFUL, EXTENSION_PASSED, FindNode, FindRecord, LeaseAnswer, LeaseOutcome, Nodes,
    RecordAnswer, RecordOutcome, RenewLease, Request, Store, StoreAnswer, StoreOutcome, StoreRefusal, SyncOffer, SyncWant,
};
use super::routing_table::{NetworkGroup, REPLICAS};
use super::sample;
use super::store::{self, Held, Refused, Sender, Stored};
use super::{Directory, Failure, RecordKey};
use crate::directory::{DirectoryRecord, Lease, Place};
use crate::identity::TrustStore;
use crate::key::DeviceKey;
use crate::node::Descriptor;
use crate::time::Now;
use crate::wire::{Extensions, Frame, FrameKind, Signed};

/// Ranks beyond the replicas at which a node still takes a record: publishers' tables differ a little.
pub(super) const RANK_SLACK: usize = 8;

/// Ranks beyond the replicas at which what is offered is wanted: who offers may know of deaths that this node hasn't noticed.
const OFFER_SLACK: usize = 4;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestSource {
    /// The peer's device key, as the transport has checked it.
    pub device: DeviceKey,
    /// The network the connection comes from; `None` over a relay.
    pub network_group: Option<NetworkGroup>,
}

/// What to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This.
    Answer(Answer),
    /// [`crate::wire::FrameKind::BUSY`].
    Busy,
    /// [`crate::wire::FrameKind::UNSUPPORTED`]: this node serves no directory.
    Unsupported,
}

impl Reply {
    /// The reply as a frame to request number `id`.
    #[must_use]
    pub fn to_frame(&self, id: u32) -> Frame {
        match self {
            Self::Answer(answer) => answer.to_frame(id),
            Self::Busy => Frame { kind: FrameKind::BUSY, id, body: Vec::new() },
            Self::Unsupported => Frame { kind: FrameKind::UNSUPPORTED, id, body: Vec::new() },
        }
    }

    /// Kind of that frame, and its encoded length.
    #[must_use]
    pub fn frame_kind_and_len(&self, id: u32) -> (FrameKind, usize) {
        match self {
            Self::Answer(answer) => (answer.kind(), answer.frame_len(id)),
            Self::Busy | Self::Unsupported => {
                let frame = self.to_frame(id);
                (frame.kind, crate::wire::encoded_len(&frame))
            }
        }
    }
}

impl Failure {
    /// Reads the frame that answers a request: what [`Directory::handle_answer`] takes.
    ///
    /// # Errors
    /// [`Failure::Busy`] and [`Failure::Unsupported`] as the other node says, the latter also for what can't be read.
    pub fn or_answer(frame: &Frame) -> Result<Answer, Self> {
        match frame.kind {
            FrameKind::BUSY => Err(Self::Busy),
            _ => Answer::from_frame(frame).map_err(|_| Self::Unsupported),
        }
    }
}

impl Directory {
    /// Answers a request.
    pub fn handle_request(&mut self, now: Now, trust: &TrustStore, from: RequestSource, request: Request) -> Reply {
        *self.counters.received.entry(request.kind().0).or_default() += 1;
        if !self.local.is_serving {
            return Reply::Unsupported;
        }
        let is_server = self.table.is_live(&from.device);
        let draw = match (&request, is_server) {
            (Request::Store(_) | Request::StoreListing(_), true) => Draw::ServerStore,
            (Request::Store(_) | Request::StoreListing(_), false) => Draw::ClientStore,
            _ => Draw::Read,
        };
        if !self.rates.take(from.device, draw, now.instant) {
            self.counters.busy += 1;
            return Reply::Busy;
        }
        let sender = Sender { device: from.device, group: from.network_group, is_server };
        Reply::Answer(match request {
            Request::FindRecord(request) => Answer::Record(self.answer_find_record(now, &request, &from.device)),
            Request::FindNode(request) => Answer::Nodes(self.answer_find_node(now, &request, &from.device)),
            Request::Store(request) => Answer::Store(self.answer_store(now, trust, sender, &request)),
            Request::RenewLease(request) => Answer::Lease(self.answer_lease(now, &request)),
            Request::SyncOffer(request) => Answer::SyncWant(self.answer_offer(&from.device, &request)),
            Request::StoreListing(request) => Answer::ListingStored(self.answer_store_listing(now, trust, &request)),
            Request::FindListings(request) => Answer::Listings(self.answer_find_listings(now, &request)),
        })
    }

    /// The nodes closest to `target`, without the asker, who knows itself.
    fn name_closer(&self, target: &Place, want: u8, asker: &DeviceKey) -> Vec<Arc<Descriptor>> {
        let want = usize::from(want).min(CLOSER_MAX);
        let closest = self.table.closest(target, want + 1);
        closest.into_iter().filter(|descriptor| descriptor.device != *asker).take(want).collect()
    }

    fn answer_find_record(&self, now: Now, request: &FindRecord, asker: &DeviceKey) -> RecordAnswer {
        let held = self.store.get(&request.key);
        let is_doubtful = held.is_some_and(|held| self.is_doubtful(now, &request.key, held));
        let (outcome, closer) = match held {
            Some(held) if request.have_hash == Some(held.state) => (RecordOutcome::Same, Vec::new()),
            Some(held) => (RecordOutcome::Found(held.bytes.clone()), Vec::new()),
            None => (RecordOutcome::Absent, self.name_closer(&Place(request.key.0), request.want, asker)),
        };
        let (closer, extensions) = known::leave_out(&request.extensions, closer, Extensions::none());
        let is_referral = outcome == RecordOutcome::Absent && request.want > 0;
        let extensions = if is_referral { self.with_hearsay(now, request, asker, extensions) } else { extensions };
        let extensions = if is_doubtful { extensions.with(EXTENSION_DOUBTFUL, Vec::new()) } else { extensions };
        RecordAnswer { outcome, closer, extensions }
    }

    /// Of those closest to the key whom this node has never met.
    fn with_hearsay(&self, now: Now, request: &FindRecord, asker: &DeviceKey, extensions: Extensions) -> Extensions {
        let mut nodes = self.table.closest_hearsay(now.instant, &Place(request.key.0), HEARSAY_MAX);
        nodes.retain(|node| node.device != *asker);
        hearsay::with_hearsay(&request.extensions, nodes, extensions)
    }

    /// True of what an earlier run left here or a device brought before the others had time to give what they hold; of an own record
    /// of which the others haven't said yet what more there is; and of what is kept from the time when this node was among the replicas: the
    /// owner publishes at those that are, and nobody hurries to bring it here.
    pub(super) fn is_doubtful(&self, now: Now, key: &RecordKey, held: &Held) -> bool {
        (held.is_unconfirmed() && self.is_new_here(now)) || self.is_published_first(key) || !self.is_own_replica(key)
    }

    /// True until this node has joined and the others have had time to compare what they hold with what it holds.
    fn is_new_here(&self, now: Now) -> bool {
        self.repair.doubt_ends.is_none_or(|end| now.instant < end)
    }

    fn answer_find_node(&self, now: Now, request: &FindNode, asker: &DeviceKey) -> Nodes {
        let closer = match sample::within(&request.extensions) {
            Some(within) => {
                let want = usize::from(request.want).min(CLOSER_MAX);
                let news = self.table.closest_news(now.instant, within, &Place(request.target), want + 1);
                news.into_iter().filter(|descriptor| descriptor.device != *asker).take(want).collect()
            }
            None => self.name_closer(&Place(request.target), request.want, asker),
        };
        let (closer, extensions) = known::leave_out(&request.extensions, closer, Extensions::none());
        Nodes { closer, extensions }
    }

    fn answer_store(&mut self, now: Now, trust: &TrustStore, sender: Sender, request: &Store) -> StoreAnswer {
        let record = match self.judge(now, trust, &sender, &request.record) {
            Ok(record) => record,
            Err((key, refused)) => return self.refusal(key, refused, &sender.device),
        };
        let key = record.key();
        match self.take_record(now, record, sender) {
            Ok(stored) => {
                let held = self.store.get(&key);
                let record = held.filter(|_| stored.is_merged).map(|held| held.bytes.clone());
                let holds = held.map(|held| held.hash);
                StoreAnswer { outcome: StoreOutcome::Accepted, holds, record, closer: Vec::new(), extensions: Extensions::none() }
            }
            Err(refused) => self.refusal(Some(key), refused, &sender.device),
        }
    }

    /// All that can be wrong with a record, cheapest first: size, form, responsibility, quotas, and only then signatures.
    fn judge(
        &self,
        now: Now,
        trust: &TrustStore,
        sender: &Sender,
        bytes: &[u8],
    ) -> Result<DirectoryRecord, (Option<RecordKey>, Refused)> {
        let record = store::parse(bytes).map_err(|refused| (None, refused))?;
        let key = record.claimed_key();
        let refuse = |refused| (Some(key), refused);
        if self.store.get(&key).is_none() && self.is_beside(&key, RANK_SLACK) {
            return Err(refuse(Refused::new(StoreRefusal::NotResponsible, "closer nodes are known")));
        }
        self.store.admit(&key, &record.user, sender).map_err(refuse)?;
        record.verify(now.unix, trust).map_err(|error| refuse(Refused::from(&error)))
    }

    pub(super) fn rank_of_self(&self, key: &RecordKey) -> usize {
        let Some(place) = self.local.place else { return usize::MAX };
        self.table.closer_than(&Place(key.0), &place, REPLICAS + RANK_SLACK)
    }

    /// Joins a verified record with what is held, on disk too.
    pub(super) fn take_record(&mut self, now: Now, record: DirectoryRecord, sender: Sender) -> Result<Stored, Refused> {
        let key = record.key();
        let was_held = self.store.get(&key).is_some();
        let outcome = self.store.put(record, sender, now.unix);
        if was_held && self.store.get(&key).is_none() {
            self.forget_all(vec![key]);
        }
        let (stored, gone) = outcome?;
        self.forget_all(gone);
        if !was_held && self.is_new_here(now) {
            // It may be one device's part of what the others hold already.
            self.store.set_unconfirmed(&key, true);
        }
        if stored.is_news {
            self.persist(&key);
        }
        if stored.is_changed && stored.is_merged {
            // Publishers crossed: nobody but us may hold both halves.
            let jitter = self.repair_jitter();
            self.mark_dirty(now, key, jitter);
        } else if stored.is_changed {
            self.tell_former_replicas(now, key);
        }
        Ok(stored)
    }

    fn refusal(&mut self, key: Option<RecordKey>, refused: Refused, asker: &DeviceKey) -> StoreAnswer {
        *self.counters.refused.entry(refused.reason.code()).or_default() += 1;
        let held = key.and_then(|key| self.store.get(&key));
        let is_stale = refused.reason == StoreRefusal::Stale;
        let closer = match (refused.reason, key) {
            (StoreRefusal::NotResponsible, Some(key)) => self.name_closer(&Place(key.0), u8::MAX, asker),
            _ => Vec::new(),
        };
        let detail = refused.short_detail();
        StoreAnswer {
            outcome: StoreOutcome::Refused { reason: refused.reason, detail },
            holds: held.map(|held| held.hash),
            record: held.filter(|_| is_stale).map(|held| held.bytes.clone()),
            closer,
            extensions: Extensions::none(),
        }
    }

    /// Takes a lease for every record that it may be meant for: all but always one.
    fn answer_lease(&mut self, now: Now, request: &RenewLease) -> LeaseAnswer {
        let keys: Vec<RecordKey> = self.store.beginning_with(request.record).map(|(key, _)| *key).collect();
        let mut outcome = LeaseOutcome::NeedRecord;
        for key in keys {
            let entry = self
                .store
                .get(&key)
                .and_then(|held| held.record.entries().map(|parts| &parts.entry).find(|entry| request.is_for(entry)));
            let Some(lease) = entry.map(|entry| request.lease.clone().of_entry(entry)) else { continue };
            let is_taken = lease.is_ok_and(|lease| self.renew_held(now, &key, request.keeper, lease));
            if is_taken {
                outcome = LeaseOutcome::Renewed;
            } else if outcome == LeaseOutcome::NeedRecord {
                outcome = LeaseOutcome::Refused;
            }
        }
        LeaseAnswer { outcome, extensions: Extensions::none() }
    }

    /// Gives a lease to the record held under a key. True if it has that now, or a newer one; false too if none is held.
    pub(super) fn renew_held(&mut self, now: Now, key: &RecordKey, keeper: Option<DeviceKey>, lease: Signed<Lease>) -> bool {
        let Some(mut record) = self.store.get(key).map(|held| held.record.clone()) else { return false };
        let Ok(is_news) = record.apply_lease(lease, keeper, now.unix) else { return false };
        if is_news {
            self.store.replace(record);
            self.persist(key);
        }
        true
    }

    fn answer_offer(&mut self, from: &DeviceKey, request: &SyncOffer) -> SyncWant {
        let mut keys = Vec::new();
        let mut passed = 0_u64;
        let is_server = self.table.is_live(from);
        for (number, item) in (0..).zip(&request.items) {
            match self.store.get(&item.key) {
                // Only a server's word counts: others could crowd the list out.
                Some(held) if held.hash == item.hash && is_server => self.store.mark_synced(&item.key, *from),
                Some(held) if held.hash == item.hash => {}
                // What is held beside the replicas is doubtful to whoever asks, so that a newer copy would serve nobody.
                _ if self.is_beside(&item.key, OFFER_SLACK) => passed |= 1_u64.checked_shl(number).unwrap_or(0),
                _ => keys.push(item.key),
            }
        }
        let extensions = Extensions::none();
        let extensions = if passed == 0 { extensions } else { extensions.with(EXTENSION_PASSED, passed.to_le_bytes().into()) };
        SyncWant { keys, extensions }
    }

    /// Whether this node isn't among the replicas of a key as far as it can see, and wouldn't be if `slack` of them had died unseen. What is far counts less: of those who know only half as many that
    /// are nearer each keeps it, since where nobody lives near a key all who are nearest to it stand far off, and are each other's dense neighbourhood.
    pub(super) fn is_beside(&self, key: &RecordKey, slack: usize) -> bool {
        let rank = self.rank_of_self(key);
        rank >= REPLICAS + slack || (rank >= (REPLICAS + slack) / 2 && self.table.is_far(&Place(key.0)))
    }
}
