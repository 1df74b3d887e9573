//! What this user's own devices share of linked accounts (`protocol/src/linked/shared.rs` decides what counts).
//!
//! The device with the login of an account, its *holder*, writes; all keep it in the database and in the vault, and tell connected own devices what is news. So a contact elsewhere is
//! let in, called and written to by every device, with the holder off. What was seen too long ago is asked of the holder ([`asking`](super::asking)).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use halloo_protocol::linked::{
    Association, Carrier, Held, LinkedId, LinkedShare, SharedLinks, SharedPiece, SharedProof, Sighting,
};
use halloo_protocol::wire::{self, Signed};
use libp2p::PeerId;
use tracing::{info, warn};

use super::{Account, commands};
use crate::event_loop::EventLoop;
use crate::network::Target;
use crate::store::StoreError;

/// How long changes are gathered.
const SHARE_AFTER: Duration = Duration::from_millis(200);

/// An own device that is met is told everything if it isn't more than this, else the accounts alone: the vault has the rest.
const TOLD_BYTES_MAX: usize = 256 * 1024;

// Start, and writing.
impl EventLoop {
    /// Takes up what is kept. What came of accounts that other devices hold counts here as there.
    pub(super) fn shared_start(&mut self) {
        match self.store.read::<_, StoreError>(crate::store::View::linked_pieces) {
            Ok(pieces) => {
                drop(self.linked.shared.merge_all(pieces.clone()));
                self.forget_pieces(&pieces);
            }
            Err(error) => warn!(%error, "what own devices share of linked accounts isn't read"),
        }
        let accounts: Vec<LinkedId> = self.linked.shared.live().map(|account| account.id.clone()).collect();
        accounts.iter().for_each(|id| self.take_shared(id));
        self.share_links_soon();
    }

    /// Something of an account that this device holds may have changed.
    pub(super) fn share_links_soon(&mut self) {
        self.tell_contacts_soon();
        self.linked.share_at.get_or_insert(Instant::now() + SHARE_AFTER);
    }

    pub(super) fn shared_tick(&mut self, now: Instant) {
        if self.linked.share_at.is_some_and(|at| at <= now) {
            self.share_now();
        }
    }

    /// Tells own other devices what has changed of the accounts that this one holds.
    pub(super) fn share_now(&mut self) {
        self.linked.share_at = None;
        let (me, now) = (self.identity.device(), self.now().unix);
        let mut news = Vec::new();
        let linked = &mut self.linked;
        for (id, account) in linked.accounts.iter().filter(|(id, account)| is_linked(account, linked.token_only.contains(*id))) {
            // From before accounts were shared.
            if linked.shared.account(id).is_none() {
                news.extend(linked.shared.begin(id, me, linked.token_only.contains(id), now));
            }
            let seen = linked.known.iter().filter(|((over, _), _)| over == id);
            let held = Held {
                id,
                holder: me,
                is_token_only: linked.token_only.contains(id),
                association: account.stored.association.as_ref(),
                proof: linked
                    .proofs
                    .get(id)
                    .map(|proof| SharedProof { proof: proof.clone(), provider: linked.logins.provider_of(id) }),
                list: linked.lists.get(id).filter(|_| account.has_list),
                sightings: seen
                    .map(|(key, sighting)| (&key.1, sighting, linked.seen_by.get(key).copied().unwrap_or(Carrier::Place)))
                    .collect(),
            };
            news.extend(linked.shared.update(&held, now));
        }
        self.spread(&news, None);
    }

    /// This device has the login of an account from now on.
    pub(super) fn begin_link(&mut self, id: &LinkedId) {
        let (me, now) = (self.identity.device(), self.now().unix);
        let is_token_only = self.linked.token_only.contains(id);
        if self.linked.shared.linked(id).is_none_or(|account| account.holder != me) {
            let begun = self.linked.shared.begin(id, me, is_token_only, now);
            self.spread(begun.as_slice(), None);
        }
        self.share_now();
    }

    /// The link of an account has ended, on whichever device.
    pub(super) fn end_link(&mut self, id: &LinkedId) {
        self.tell_contacts_soon();
        let before = pieces_of(&self.linked.shared, id);
        let ended = self.linked.shared.end(id);
        self.forget_pieces(&before);
        self.spread(ended.as_slice(), None);
    }

    /// Keeps what is news, and tells it to connected own devices but for the one that has told it.
    fn spread(&mut self, news: &[SharedPiece], from: Option<PeerId>) {
        if news.is_empty() {
            return;
        }
        let kept = self.store.transaction::<_, StoreError>(|tx| news.iter().try_for_each(|piece| tx.put_linked_piece(piece)));
        if let Err(error) = kept {
            warn!(%error, "what own devices share of linked accounts isn't written");
        }
        if news.iter().all(|piece| matches!(piece, SharedPiece::Sighting(_))) {
            self.vault_states_changed();
        } else {
            self.vault_changed();
        }
        let others: Vec<PeerId> = self.peers.iter().map(|(peer, _)| *peer).filter(|peer| Some(*peer) != from).collect();
        let others: Vec<PeerId> = others.into_iter().filter(|peer| self.is_own_peer(peer)).collect();
        if others.is_empty() {
            return;
        }
        for share in LinkedShare::of(news) {
            others.iter().for_each(|other| self.notify(&Target::connected(*other), &share));
        }
    }

    /// Forgets on disk what doesn't count any more.
    fn forget_pieces(&self, before: &[SharedPiece]) {
        let left: BTreeSet<Vec<u8>> = self.linked.shared.pieces().map(|piece| piece.subject()).collect();
        let gone: Vec<&SharedPiece> = before.iter().filter(|piece| !left.contains(&piece.subject())).collect();
        let kept = self.store.transaction::<_, StoreError>(|tx| gone.iter().try_for_each(|piece| tx.remove_linked_piece(piece)));
        if let Err(error) = kept {
            warn!(%error, "what own devices shared of a linked account isn't forgotten");
        }
    }
}

fn pieces_of(shared: &SharedLinks, id: &LinkedId) -> Vec<SharedPiece> {
    shared.pieces().filter(|piece| piece.account() == id).collect()
}

/// Whether an account is linked, and not about to be.
fn is_linked(account: &Account, is_token_only: bool) -> bool {
    (account.stored.association.is_some() || is_token_only) && !matches!(account.asked, Some(commands::Asked::Add(_)))
}

// Reading.
impl EventLoop {
    /// An own device was met: it is told what this one knows.
    pub(crate) fn linked_own_device_met(&mut self, peer: PeerId) {
        let mut pieces: Vec<SharedPiece> = self.linked.shared.pieces().collect();
        if pieces.iter().map(wire::encoded_len).sum::<usize>() > TOLD_BYTES_MAX {
            pieces.retain(|piece| matches!(piece, SharedPiece::Account(_)));
        }
        for share in LinkedShare::of(&pieces) {
            self.notify(&Target::connected(peer), &share);
        }
    }

    pub(crate) fn handle_linked_share(&mut self, peer: PeerId, share: LinkedShare) {
        if self.is_own_peer(&peer) {
            self.merge_linked(share.pieces, Some(peer));
        }
    }

    /// Joins what other devices of this user say with what is here. The pieces' ranges were checked.
    pub(crate) fn merge_linked(&mut self, mut pieces: Vec<SharedPiece>, from: Option<PeerId>) {
        let now = self.now().unix;
        pieces.retain(|piece| !piece.is_from_the_future(now));
        let accounts: BTreeSet<LinkedId> = pieces.iter().map(|piece| piece.account().clone()).collect();
        let before: BTreeMap<&LinkedId, Vec<SharedPiece>> =
            accounts.iter().map(|id| (id, pieces_of(&self.linked.shared, id))).collect();
        let news = self.linked.shared.merge_all(pieces);
        if news.is_empty() {
            return;
        }
        before.values().for_each(|before| self.forget_pieces(before));
        self.spread(&news, from);
        let changed: BTreeSet<LinkedId> = news.iter().map(|piece| piece.account().clone()).collect();
        changed.iter().for_each(|id| self.take_shared(id));
    }

    /// Everything shared, for the vault.
    pub(crate) fn vault_links(&self) -> impl Iterator<Item = SharedPiece> {
        self.linked.shared.pieces()
    }

    /// What is shared of an account counts here: its list and what was seen, or that it isn't linked, or not on this device, any more.
    pub(super) fn take_shared(&mut self, id: &LinkedId) {
        self.tell_contacts_soon();
        let me = self.identity.device();
        let here = self.linked.accounts.get(id);
        let is_being_linked = here.is_some_and(|account| matches!(account.asked, Some(commands::Asked::Add(_))));
        let is_here = here.is_some() || self.linked.unusable.iter().any(|stored| stored.id == *id);
        let Some(known) = self.linked.shared.account(id) else { return };
        let holder = Some(known.holder).filter(|_| !known.is_removed);
        match holder {
            // Here alone it is known better; after a start, this is what was known.
            Some(holder) if holder == me => {
                if !self.linked.lists.contains_key(id) {
                    self.adopt_account(id);
                }
            }
            // What comes of that is said when it is linked.
            _ if is_being_linked => {}
            Some(_) => {
                if is_here {
                    info!(account = %id, "the login of a linked account is on another device now");
                    self.drop_login(id);
                }
                self.adopt_account(id);
            }
            None if is_here => self.end_here(id),
            None => {
                self.linked.lists.remove(id);
                self.linked.known.retain(|(account, _), _| account != id);
                self.publish_soon();
            }
        }
    }

    fn adopt_account(&mut self, id: &LinkedId) {
        let Some(account) = self.linked.shared.linked(id) else { return };
        let is_token_only = account.is_token_only;
        let provider = account.proof.as_ref().and_then(|shown| shown.provider.clone());
        if let Some(provider) = provider {
            self.trust_provider(&provider.issuer, &provider.client, None);
            self.trust_what_is_linked();
        }
        let list = self.linked.shared.list(id);
        let seen = self.linked.shared.sightings(id).map(|(place, sighting, by)| (place.clone(), sighting.clone(), by));
        let seen: Vec<(LinkedId, Sighting, Carrier)> = seen.collect();
        if is_token_only {
            self.linked.token_only.insert(id.clone());
        } else {
            self.linked.token_only.remove(id);
        }
        let own = self.linked.shared.linked(id).and_then(|account| account.association.clone());
        let shown = seen.iter().filter_map(|(_, sighting, _)| sighting.association.clone());
        let said: Vec<Signed<Association>> = own.into_iter().chain(shown).collect();
        said.iter().for_each(|said| self.learn_merge(said));
        self.linked.known.retain(|(over, place), _| over != id || list.contains_key(place));
        for (place, sighting, by) in seen.into_iter().filter(|(place, ..)| list.contains_key(place)) {
            let key = (id.clone(), place);
            if self.linked.known.get(&key).is_none_or(|known| known.read_at < sighting.read_at) {
                match by {
                    Carrier::Place => self.linked.seen_by.remove(&key),
                    by => self.linked.seen_by.insert(key.clone(), by),
                };
                self.linked.known.insert(key, sighting);
            }
        }
        let is_new = self.linked.lists.insert(id.clone(), list).is_none();
        self.match_told(None);
        if is_new {
            // The entry gains a part for whoever reads its key there.
            self.publish_soon();
        }
    }

    /// What this user says of an own account: here, or by the device that holds it.
    pub(super) fn own_association(&self, account: &LinkedId) -> Option<Signed<Association>> {
        let here = self.linked.accounts.get(account).and_then(|account| account.stored.association.clone());
        let said = here.or_else(|| self.linked.shared.linked(account)?.association.clone());
        // What a former identity of this user has said is said anew first.
        said.filter(|said| said.unverified().user == self.identity.user_id())
    }

    /// Whether this user has linked anything, on whichever device.
    pub(crate) fn has_linked(&self) -> bool {
        !self.linked.accounts.is_empty() || self.linked.shared.live().next().is_some()
    }

    /// Whether an account is linked on this device or another, and its contacts are shown who this user is.
    pub(super) fn shows_association(&self) -> bool {
        let here = self.linked.accounts.keys().any(|id| !self.linked.token_only.contains(id));
        here || self.linked.shared.live().any(|account| !account.is_token_only)
    }
}
