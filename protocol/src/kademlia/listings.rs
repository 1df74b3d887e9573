//! Listings that this node keeps for others, and those it brings to, or seeks at, the replicas of a place.
//!
//! A listing lies at the [`REPLICAS`] nodes closest to its place, as records do, but is found and brought in two plain steps: who is closest, then one question to each of them. What all of them say counts
//! together, so that one that keeps something back, or invents, changes nothing. Replicas that haven't been brought a listing for an hour bring it to those that are closest by then; whoever was brought it meanwhile
//! needn't. So it outlives its writer's being away, and replicas that leave, until its time is over. It is in memory alone: a replica that starts anew is brought it by the others.
//!
//! Limits: per place (of users with a name and without, each), per writer, of users without a name, in all by number and bytes. A place that is full stays as it is; a replica that is full drops the farthest place for a
//! nearer one. What was taken away is remembered as long as it could be brought again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lookup::{Goal, Purpose};
use super::messages::{
    FindListings, LISTINGS_MAX, LISTINGS_NAMED_MAX, LISTINGS_UNNAMED_MAX, ListingStored, ListingsFound, Request, StoreListing,
    StoreOutcome, StoreRefusal,
};
use super::routing_table::REPLICAS;
use super::serve::RANK_SLACK;
use super::store::Refused;
use super::{Directory, Errand, Event, Failure, QueryId};
use crate::directory::{Place, RecordKey};
use crate::identity::{ChainError, TrustStore, UserChain, UserId};
use crate::key::{AuthorityKey, DeviceKey};
use crate::linked::{LISTING_BYTES_MAX, ListingError, PlacedListing};
use crate::node::{Descriptor, Roles};
use crate::time::{Now, UnixTime};
use crate::wire::{self, Extensions, Signed};

/// Listings of one user that a replica keeps: twice the accounts that one can link.
const PER_WRITER_MAX: usize = 16;

/// Listings of users without a name, in all.
const UNNAMED_MAX: usize = 1_024;

/// Listings in all, and their bytes.
const HELD_MAX: usize = 16_384;
const HELD_BYTES_MAX: usize = 32 * 1_024 * 1_024;

/// A replica brings a listing to the others if nobody has brought it for so long.
const PASS_ON_AFTER: Duration = Duration::from_secs(3_600);

/// Listings that a replica begins to bring to others at once.
const PASS_ON_AT_ONCE: usize = 16;

/// Nodes that have to have said who is closest.
const FIND_BREADTH: usize = 2;

/// Different listings that one search keeps: what all replicas may hold at one place if none agree.
const FOUND_MAX: usize = REPLICAS * LISTINGS_MAX;

/// How bringing a listing to its replicas went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListingReport {
    /// Its place.
    pub place: RecordKey,
    /// Replicas that have it, this node included if it is one.
    pub accepted: usize,
    /// Who refused, and why.
    pub refused: Vec<(DeviceKey, StoreRefusal)>,
    /// Nodes that didn't answer, or don't know of listings.
    pub failed: usize,
}

/// What the replicas of a place say that lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListingSearch {
    /// The place.
    pub place: RecordKey,
    /// Signed [`PlacedListing`]s as bytes, each once, whoever had them.
    pub listings: Vec<Vec<u8>>,
    /// Replicas that answered, this node included if it is one.
    pub answered: usize,
    /// Nodes that didn't, or don't know of listings.
    pub failed: usize,
}

#[derive(Clone, Debug)]
struct HeldListing {
    writer: UserId,
    /// The serial of the writer's certificate, under their authority.
    certificate: Option<(AuthorityKey, u64)>,
    serial: u64,
    until: UnixTime,
    bytes: Vec<u8>,
    brought_at: Instant,
}

impl HeldListing {
    const fn is_named(&self) -> bool {
        matches!(self.writer, UserId::Named { .. })
    }
}

/// Listings kept for others.
#[derive(Clone, Debug, Default)]
pub(super) struct ListingStore {
    held: BTreeMap<RecordKey, Vec<HeldListing>>,
    by_writer: BTreeMap<UserId, usize>,
    count: usize,
    unnamed: usize,
    bytes: usize,
}

impl ListingStore {
    fn at(&self, place: &RecordKey) -> &[HeldListing] {
        self.held.get(place).map_or(&[], Vec::as_slice)
    }

    /// Refuses what there is no room for, before any signature is checked.
    fn admit(&self, said: &PlacedListing, origin: &Place, now: UnixTime) -> Result<(), Refused> {
        let writer = said.writer.user.claimed_id();
        let here = self.at(&said.place);
        if let Some(held) = here.iter().find(|held| held.writer == writer) {
            let is_older = said.serial < held.serial;
            return if is_older { Err(Refused::new(StoreRefusal::Stale, "a newer one is held")) } else { Ok(()) };
        }
        let is_named = matches!(writer, UserId::Named { .. });
        let of_kind = here.iter().filter(|held| held.is_named() == is_named && held.until >= now).count();
        if of_kind >= if is_named { LISTINGS_NAMED_MAX } else { LISTINGS_UNNAMED_MAX } {
            return Err(Refused::new(StoreRefusal::QuotaTotal, "the place is full"));
        }
        if self.by_writer.get(&writer).copied().unwrap_or(0) >= PER_WRITER_MAX {
            return Err(Refused::new(StoreRefusal::QuotaPeer, format!("{PER_WRITER_MAX} places of one user")));
        }
        if !is_named && self.unnamed >= UNNAMED_MAX {
            return Err(Refused::new(StoreRefusal::QuotaTotal, "full for users without an authority"));
        }
        let is_nearer = self.farthest(origin).is_some_and(|farthest| farthest.distance(origin) > said.place.distance(origin));
        if (self.count >= HELD_MAX || self.bytes >= HELD_BYTES_MAX) && !is_nearer {
            return Err(Refused::new(StoreRefusal::QuotaTotal, "full with nearer places"));
        }
        Ok(())
    }

    fn farthest(&self, origin: &Place) -> Option<RecordKey> {
        self.held.keys().max_by_key(|place| place.distance(origin)).copied()
    }

    /// Keeps one that was admitted and verified.
    fn put(&mut self, place: RecordKey, listing: HeldListing, origin: &Place) {
        self.remove_where(&place, |held| held.writer == listing.writer);
        self.count += 1;
        self.unnamed += usize::from(!listing.is_named());
        self.bytes += listing.bytes.len();
        *self.by_writer.entry(listing.writer.clone()).or_default() += 1;
        self.held.entry(place).or_default().push(listing);
        while self.count > HELD_MAX || self.bytes > HELD_BYTES_MAX {
            let Some(farthest) = self.farthest(origin) else { break };
            self.remove_where(&farthest, |_| true);
        }
    }

    fn remove_where(&mut self, place: &RecordKey, is_gone: impl Fn(&HeldListing) -> bool) {
        let Some(here) = self.held.get_mut(place) else { return };
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(here).into_iter().partition(is_gone);
        *here = kept;
        if here.is_empty() {
            self.held.remove(place);
        }
        for gone in gone {
            self.count -= 1;
            self.unnamed -= usize::from(!gone.is_named());
            self.bytes -= gone.bytes.len();
            if let Some(count) = self.by_writer.get_mut(&gone.writer) {
                *count -= 1;
                if *count == 0 {
                    self.by_writer.remove(&gone.writer);
                }
            }
        }
    }

    fn retain(&mut self, is_kept: impl Fn(&HeldListing) -> bool) {
        for place in self.held.keys().copied().collect::<Vec<_>>() {
            self.remove_where(&place, |held| !is_kept(held));
        }
    }

    pub(super) fn expire(&mut self, now: UnixTime) {
        self.retain(|held| held.until >= now);
    }

    /// Drops those of users whom their authority took back.
    pub(super) fn revoke(&mut self, trust: &TrustStore) {
        self.retain(|held| {
            held.certificate.is_none_or(|(root, serial)| trust.is_trusted(&root) && !trust.is_user_revoked(&root, serial))
        });
    }

    pub(super) const fn counts(&self) -> (usize, usize) {
        (self.count, self.bytes)
    }

    /// Those that nobody has brought for a while; from now on they count as brought.
    fn take_due(&mut self, now: Instant, count: usize) -> Vec<(RecordKey, Vec<u8>)> {
        let mut due = Vec::new();
        for (place, here) in &mut self.held {
            for held in here.iter_mut().filter(|held| now.saturating_duration_since(held.brought_at) >= PASS_ON_AFTER) {
                if due.len() >= count {
                    return due;
                }
                held.brought_at = now;
                due.push((*place, held.bytes.clone()));
            }
        }
        due
    }
}

#[derive(Clone, Debug)]
enum Aim {
    /// Bring this; `is_own`: somebody waits for how it went.
    Store {
        bytes: Vec<u8>,
        is_own: bool,
    },
    Find,
}

/// A listing on its way to its replicas, or a search for those of a place.
#[derive(Clone, Debug)]
pub(super) struct ListingQuery {
    aim: Aim,
    place: RecordKey,
    candidates: Vec<Arc<Descriptor>>,
    in_flight: BTreeSet<DeviceKey>,
    answered: usize,
    refused: Vec<(DeviceKey, StoreRefusal)>,
    failed: usize,
    found: BTreeSet<Vec<u8>>,
}

impl ListingQuery {
    fn next_targets(&mut self) -> Vec<Arc<Descriptor>> {
        let open = REPLICAS.saturating_sub(self.answered + self.refused.len() + self.in_flight.len());
        let count = open.min(self.candidates.len());
        self.candidates.drain(..count).collect()
    }

    fn take(&mut self, listings: Vec<Vec<u8>>) {
        for listing in listings {
            if self.found.len() < FOUND_MAX && listing.len() <= LISTING_BYTES_MAX {
                self.found.insert(listing);
            }
        }
    }
}

impl From<&ListingError> for Refused {
    fn from(error: &ListingError) -> Self {
        let reason = match error {
            ListingError::Chain(ChainError::UnknownAuthority(_)) => StoreRefusal::UnknownAuthority,
            ListingError::Chain(ChainError::UserRevoked(_) | ChainError::SigningRevoked(_) | ChainError::DeviceRemoved(_)) => {
                StoreRefusal::Revoked
            }
            ListingError::Chain(ChainError::UserExpired(_) | ChainError::DeviceExpired(_)) | ListingError::Expired(_) => {
                StoreRefusal::Expired
            }
            ListingError::FromTheFuture(_) => StoreRefusal::Future,
            _ => StoreRefusal::Invalid,
        };
        Self::new(reason, error.to_string())
    }
}

// Asking others.
impl Directory {
    /// Brings a listing to the replicas of its place; ends in [`Event::ListingStored`]. Once: whoever wants it kept does so again, every hour.
    pub fn store_listing(&mut self, now: Now, trust: &TrustStore, listing: &Signed<PlacedListing>) -> QueryId {
        let (place, bytes) = (listing.unverified().place, wire::encode(listing));
        // If this node is one of the replicas, it stores like any other.
        let is_here = self.is_listing_replica(&place) && self.take_listing(now, trust, &bytes).is_ok();
        self.start_listing_query(now, place, Aim::Store { bytes, is_own: true }, usize::from(is_here))
    }

    /// Asks the replicas of a place what lies there; ends in [`Event::ListingsFound`].
    pub fn find_listings(&mut self, now: Now, place: RecordKey) -> QueryId {
        self.start_listing_query(now, place, Aim::Find, 0)
    }

    fn start_listing_query(&mut self, now: Now, place: RecordKey, aim: Aim, answered: usize) -> QueryId {
        let query = self.next_query();
        let listing = ListingQuery {
            aim,
            place,
            candidates: Vec::new(),
            in_flight: BTreeSet::new(),
            answered,
            refused: Vec::new(),
            failed: 0,
            found: BTreeSet::new(),
        };
        self.listing_queries.insert(query, listing);
        self.start_lookup(now, Goal::Nodes { breadth: FIND_BREADTH }, Place(place.0), Purpose::Listing(query), None);
        query
    }

    pub(super) fn listing_found_replicas(&mut self, now: Now, query: QueryId, found: Vec<Arc<Descriptor>>) {
        let Some(mut listing) = self.listing_queries.remove(&query) else { return };
        listing.candidates = found.into_iter().filter(|node| node.roles.contains(Roles::DIRECTORY)).collect();
        if matches!(listing.aim, Aim::Find) && self.is_listing_replica(&listing.place) {
            listing.answered += 1;
            listing.take(self.listings_at(now, &listing.place));
        }
        self.listing_queries.insert(query, listing);
        self.drive_listing(now, query);
    }

    fn drive_listing(&mut self, now: Now, query: QueryId) {
        let Some(mut listing) = self.listing_queries.remove(&query) else { return };
        for to in listing.next_targets() {
            listing.in_flight.insert(to.device);
            let request = match &listing.aim {
                Aim::Store { bytes, .. } => {
                    Request::StoreListing(StoreListing { listing: bytes.clone(), extensions: Extensions::none() })
                }
                Aim::Find => Request::FindListings(FindListings { place: listing.place, extensions: Extensions::none() }),
            };
            self.send(now, to, request, Errand::Listing(query));
        }
        if !listing.in_flight.is_empty() {
            self.listing_queries.insert(query, listing);
            return;
        }
        let ListingQuery { aim, place, answered, refused, failed, found, .. } = listing;
        match aim {
            Aim::Store { is_own: true, .. } => {
                let report = ListingReport { place, accepted: answered, refused, failed };
                self.event(Event::ListingStored { query, report });
            }
            Aim::Store { is_own: false, .. } => {}
            Aim::Find => {
                let search = ListingSearch { place, listings: found.into_iter().collect(), answered, failed };
                self.event(Event::ListingsFound { query, search });
            }
        }
    }

    pub(super) fn listing_stored(&mut self, now: Now, query: QueryId, from: &DeviceKey, answer: &ListingStored) {
        if let Some(listing) = self.listing_queries.get_mut(&query)
            && listing.in_flight.remove(from)
        {
            match answer.outcome {
                StoreOutcome::Accepted => listing.answered += 1,
                StoreOutcome::Refused { reason, .. } => listing.refused.push((*from, reason)),
            }
        }
        self.drive_listing(now, query);
    }

    pub(super) fn listings_answered(&mut self, now: Now, query: QueryId, from: &DeviceKey, answer: ListingsFound) {
        if let Some(listing) = self.listing_queries.get_mut(&query)
            && listing.in_flight.remove(from)
        {
            listing.answered += 1;
            listing.take(answer.listings);
        }
        self.drive_listing(now, query);
    }

    pub(super) fn listing_failed(&mut self, now: Now, query: QueryId, to: &DeviceKey) {
        if let Some(listing) = self.listing_queries.get_mut(&query)
            && listing.in_flight.remove(to)
        {
            listing.failed += 1;
        }
        self.drive_listing(now, query);
    }

    /// A node that doesn't know of listings is as alive as any.
    pub(super) const fn is_just_older(errand: &Errand, failure: Failure) -> bool {
        matches!((errand, failure), (Errand::Listing(_), Failure::Unsupported))
    }
}

// Keeping those of others.
impl Directory {
    pub(super) fn answer_store_listing(&mut self, now: Now, trust: &TrustStore, request: &StoreListing) -> ListingStored {
        let outcome = match self.take_listing(now, trust, &request.listing) {
            Ok(()) => StoreOutcome::Accepted,
            Err(refused) => {
                *self.counters.refused.entry(refused.reason.code()).or_default() += 1;
                StoreOutcome::Refused { reason: refused.reason, detail: refused.short_detail() }
            }
        };
        ListingStored { outcome, extensions: Extensions::none() }
    }

    pub(super) fn answer_find_listings(&self, now: Now, request: &FindListings) -> ListingsFound {
        ListingsFound { listings: self.listings_at(now, &request.place), extensions: Extensions::none() }
    }

    fn listings_at(&self, now: Now, place: &RecordKey) -> Vec<Vec<u8>> {
        let here = self.listings.at(place).iter().filter(|held| held.until >= now.unix);
        here.take(LISTINGS_MAX).map(|held| held.bytes.clone()).collect()
    }

    /// Whether this node is among those that keep listings of a place. What is far counts here, unlike with records: who brings a listing tries eight nodes and no more.
    fn is_listing_replica(&self, place: &RecordKey) -> bool {
        self.local.is_serving && self.rank_of_self(place) < REPLICAS
    }

    /// All that can be wrong with a listing, cheapest first: size, form, responsibility, room, and only then signatures.
    fn take_listing(&mut self, now: Now, trust: &TrustStore, bytes: &[u8]) -> Result<(), Refused> {
        if bytes.len() > LISTING_BYTES_MAX {
            return Err(Refused::new(StoreRefusal::TooLarge, format!("{} bytes", bytes.len())));
        }
        let signed: Signed<PlacedListing> =
            wire::decode(bytes, LISTING_BYTES_MAX).map_err(|error| Refused::new(StoreRefusal::Invalid, error.to_string()))?;
        let said = signed.unverified();
        if self.rank_of_self(&said.place) >= REPLICAS + RANK_SLACK && self.listings.at(&said.place).is_empty() {
            return Err(Refused::new(StoreRefusal::NotResponsible, "closer nodes are known"));
        }
        let origin = self.local.place.unwrap_or(Place([0; 32]));
        self.listings.admit(said, &origin, now.unix)?;
        let chain = PlacedListing::verify(&signed, now.unix, trust).map_err(|error| Refused::from(&error))?;
        let certificate = match &said.writer.user {
            UserChain::Named { root, .. } => Some((*root, chain.user.serial)),
            UserChain::Key(_) => None,
        };
        let (serial, until, writer) = (said.serial, said.until, chain.user.id);
        let listing = HeldListing { writer, certificate, serial, until, bytes: bytes.to_vec(), brought_at: now.instant };
        self.listings.put(said.place, listing, &origin);
        Ok(())
    }

    /// Brings what nobody has brought for a while to those that are closest now.
    pub(super) fn pass_listings_on(&mut self, now: Now) {
        if !self.local.is_serving {
            return;
        }
        for (place, bytes) in self.listings.take_due(now.instant, PASS_ON_AT_ONCE) {
            let is_replica = self.is_listing_replica(&place);
            self.start_listing_query(now, place, Aim::Store { bytes, is_own: false }, usize::from(is_replica));
        }
    }

    /// Numbers of listings held for others, and their bytes.
    #[must_use]
    pub const fn listing_counts(&self) -> (usize, usize) {
        self.listings.counts()
    }
}
