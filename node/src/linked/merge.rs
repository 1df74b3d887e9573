//! Technical identities that have become part of others: other people's, and one that this user was before.
//!
//! Whoever takes one over says so beside the association, where their contacts elsewhere read it ([`IdentityMerge`]). From then on nothing is believed of the old identity, and what was said
//! with it, and a block, is the new one's.

use halloo_protocol::contact::Standing;
use halloo_protocol::directory::RecordKey;
use halloo_protocol::identity::{UserId, VerifiedChain};
use halloo_protocol::key::IdentityKey;
use halloo_protocol::linked::{Association, IdentityMerge, Sighting};
use halloo_protocol::wire::Signed;
use tracing::{info, warn};

use crate::event_loop::EventLoop;
use crate::store::{Store, StoreError, Transaction};

/// Who has become whom.
const MERGED: &str = "merged identities";

/// This user's own word that they were another one, and whom that one had blocked.
const OWN_MERGE: &str = "own identity merge";
const BLOCKS: &str = "blocks of a merged identity";

/// Merged identities that are remembered, of them those that one identity elsewhere may bring in one run, and how many are kept under one name.
const MERGED_MAX: usize = 400;
const MERGED_BY_ONE_MAX: u8 = 4;
const KEPT_AT_ONCE: usize = 100;

/// Merged identities that are known.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn known(store: &Store) -> Result<Vec<(IdentityKey, UserId)>, StoreError> {
    store.read::<_, StoreError>(|view| view.setting_list(MERGED))
}

/// Keeps that this device's user was another one until now.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn keep_own(tx: &Transaction, merge: &Signed<IdentityMerge>) -> Result<(), StoreError> {
    let said = merge.unverified();
    let old = UserId::Key(said.old);
    tx.put_setting_value(OWN_MERGE, merge)?;
    tx.put_setting_list(MERGED, &[(said.old, said.user.clone())], KEPT_AT_ONCE)?;
    // What the old identity has signed of others counts no more. Whom it has blocked is blocked by the one that stays.
    let mut blocked: Vec<(UserId, Option<IdentityKey>)> = Vec::new();
    for contact in tx.contacts()? {
        if contact.entry.is_blocked() {
            blocked.push((contact.entry.user.clone(), contact.entry.identity()));
        }
        tx.remove_contact(&contact.entry.user)?;
    }
    blocked.truncate(MERGED_MAX);
    tx.put_setting_value(BLOCKS, &blocked)?;
    crate::messages::carry_counters(tx, &old, &said.user)
}

impl EventLoop {
    /// Takes up what is kept.
    pub(super) fn read_merges(&mut self) {
        let read = self.store.read::<_, StoreError>(|view| {
            let merged: Vec<(IdentityKey, UserId)> = view.setting_list(MERGED)?;
            let blocked: Vec<(UserId, Option<IdentityKey>)> = view.setting_value(BLOCKS)?.unwrap_or_default();
            Ok((merged, view.setting_value(OWN_MERGE)?, blocked))
        });
        match read {
            Ok((merged, own, blocked)) => {
                self.linked.merged = merged.into_iter().collect();
                self.linked.own_merge = own;
                if !blocked.is_empty() {
                    self.block_again(blocked);
                }
            }
            Err(error) => warn!(%error, "merged identities not read"),
        }
    }

    fn block_again(&mut self, blocked: Vec<(UserId, Option<IdentityKey>)>) {
        for (user, identity) in blocked {
            if let Err(error) = self.run_roster(|roster, signer| roster.block(&user, identity, signer)) {
                return warn!(%error, "whom the former identity had blocked isn't blocked yet");
            }
        }
        let none: Vec<(UserId, Option<IdentityKey>)> = Vec::new();
        if let Err(error) = self.store.transaction::<_, StoreError>(|tx| tx.put_setting_value(BLOCKS, &none)) {
            warn!(%error, "blocks are made again at the next start");
        }
    }

    /// What somebody shows, or this user's other device: they may have taken an identity over.
    pub(super) fn learn_merge(&mut self, shown: &Signed<Association>) {
        let Ok(said) = Association::verify(shown, self.now().unix) else { return };
        let Some(merge) = IdentityMerge::of(said) else { return };
        if merge.old == self.identity.identity() || self.linked.merged.len() >= MERGED_MAX {
            return;
        }
        // Whoever shows it may name anybody as the one who stays, with a key of their own.
        if !self.is_vouched(&merge.user, &merge.identity) || self.linked.merged.contains_key(&merge.old) {
            return;
        }
        let brought = self.linked.merges_brought.entry(said.linked.clone()).or_default();
        if *brought >= MERGED_BY_ONE_MAX {
            return;
        }
        *brought += 1;
        if self.linked.merged.insert(merge.old, merge.user.clone()).is_some() {
            return;
        }
        info!("an identity has become part of another one");
        self.trust.retire(merge.old);
        let merged: Vec<(IdentityKey, UserId)> = self.linked.merged.iter().map(|(old, user)| (*old, user.clone())).collect();
        let (old, new) = (UserId::Key(merge.old), merge.user.clone());
        let me = self.identity.user_id();
        let kept = self.store.transaction::<_, StoreError>(|tx| {
            tx.put_setting_list(MERGED, &merged, KEPT_AT_ONCE)?;
            if new == me {
                return Ok(());
            }
            crate::messages::join_conversations(tx, &me, &old, &new)
        });
        if let Err(error) = kept {
            warn!(%error, "what was said with a merged identity isn't carried over");
        }
        let _gone = self.disbelieve("its identity is part of another one now", |chain: &VerifiedChain, _| chain.user.id == old);
        self.forget_cached(&old);
        if self.contacts.roster().standing(&old) == Standing::Blocked {
            let block = self.run_roster(|roster, signer| roster.block(&new, Some(merge.identity), signer));
            if let Err(error) = block {
                warn!(%error, "a block isn't carried over");
            }
        }
    }

    /// A user's chain was verified: what they show of a former identity counts.
    pub(super) fn learn_merges_of(&mut self, user: &UserId, identity: &IdentityKey) {
        let is_theirs =
            |said: &Association| said.user == *user && said.identity == *identity && IdentityMerge::of(said).is_some();
        let shown = self.linked.known.values().filter_map(|sighting| sighting.association.as_ref());
        let shown: Vec<Signed<Association>> = shown.filter(|shown| is_theirs(shown.unverified())).take(2).cloned().collect();
        if shown.is_empty() {
            return;
        }
        self.linked.verified_merger = Some((user.clone(), *identity));
        shown.iter().for_each(|shown| self.learn_merge(shown));
        self.linked.verified_merger = None;
    }

    /// Whether somebody other than who shows it says that this is the user's key.
    pub(crate) fn is_vouched(&self, user: &UserId, identity: &IdentityKey) -> bool {
        user.is_held_by(identity, self.vouched_identity(user))
    }

    /// The key that a chain, a record or the contact list gives a user.
    fn vouched_identity(&self, user: &UserId) -> Option<IdentityKey> {
        if *user == self.identity.user_id() {
            return Some(self.identity.identity());
        }
        let verified = self.linked.verified_merger.as_ref().filter(|(who, _)| who == user).map(|(_, identity)| *identity);
        let recorded = || Some(self.cached_record(&RecordKey::of(user))?.identity());
        verified.or_else(|| self.contact_identity(user)).or_else(recorded)
    }

    /// Whether what was seen is the word of an identity that is part of another one: a place that was set back shows it.
    pub(super) fn is_of_merged(&self, seen: &Sighting) -> bool {
        seen.association.as_ref().is_some_and(|said| self.linked.merged.contains_key(&said.unverified().identity))
    }

    /// Who somebody is now.
    pub(crate) fn present_user<'a>(&'a self, user: &'a UserId) -> &'a UserId {
        match user {
            UserId::Key(key) => self.linked.merged.get(key).unwrap_or(user),
            UserId::Named { .. } => user,
        }
    }
}
