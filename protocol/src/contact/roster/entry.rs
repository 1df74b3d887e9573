//! One person: what all of a user's devices know of them, which merges as a join.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};

use super::super::statement::{Attested, ContactStatement, Stance};
use super::super::{PassOn, PresenceKey, REQUEST_NAME_BYTES_MAX, REQUEST_TEXT_BYTES_MAX, Secret32};
use super::Standing;
use crate::capability::{Capability, Issuer, Service};
use crate::directory::DEVICES_MAX;
use crate::identity::UserId;
use crate::key::{DeviceKey, IdentityKey, PublicKey, SecretKey};
use crate::profile::Profile;
use crate::time::UnixTime;
use crate::wire::{self, DecodeError, Extensions, Signed};

/// Presence keys kept of one person: the newest, and those that their other devices may not have replaced yet.
const PRESENCE_KEYS_MAX: usize = 4;

/// Capabilities kept of one person: four services of every device.
const CAPABILITIES_KEPT_MAX: usize = 4 * DEVICES_MAX;

/// Former identity keys remembered.
const FORMERS_MAX: usize = 4;

/// Identity keys whose statements are kept.
const OWNERS_MAX: usize = 8;

/// The identity key that is taken for somebody's. Changes only when the old key signs the new one over, or the person says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(crate) struct Pin {
    /// Grows with every change.
    number: u64,
    /// The key.
    pub(super) identity: IdentityKey,
}

/// What a request said.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(crate) struct Intro {
    /// Of the statement it came with.
    pub(super) sequence: u64,
    pub(super) display_name: String,
    pub(super) text: String,
}

/// One person in a roster.
///
/// [`RosterEntry::join`] is commutative, associative and idempotent: devices that tell each other what they know, in any order and any number of
/// times, know the same in the end.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RosterEntry {
    /// Who.
    pub user: UserId,
    pub(super) pin: Option<Pin>,
    formers: BTreeSet<(u64, IdentityKey)>,
    /// The newest certificate seen under another key than the pinned one.
    seen: Option<(u64, IdentityKey)>,
    pub(super) mine: Option<Attested>,
    theirs: BTreeMap<IdentityKey, Attested>,
    /// Requests up to this sequence aren't shown.
    pub(super) hidden: u64,
    /// Until when requests aren't shown.
    pub(super) quiet: UnixTime,
    pub(super) intro: Option<Intro>,
    /// Version and state.
    pub(super) blocked: (u64, bool),
    /// What the own key for this pair is made from.
    pub(super) seed: Option<Secret32>,
    /// Their key for this pair, by the sequence of the statement it came with.
    pub(super) pairwise: Option<(u64, PublicKey)>,
    pub(super) presence: BTreeSet<PresenceKey>,
    pub(super) capabilities: BTreeMap<(Issuer, Service), Signed<Capability>>,
    pub(super) profile: Option<Signed<Profile>>,
    extensions: Extensions,
}

impl RosterEntry {
    pub(super) const fn new(user: UserId) -> Self {
        Self {
            user,
            pin: None,
            formers: BTreeSet::new(),
            seen: None,
            mine: None,
            theirs: BTreeMap::new(),
            hidden: 0,
            quiet: UnixTime(0),
            intro: None,
            blocked: (0, false),
            seed: None,
            pairwise: None,
            presence: BTreeSet::new(),
            capabilities: BTreeMap::new(),
            profile: None,
            extensions: Extensions::none(),
        }
    }

    /// Checks counts and lengths after decoding.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for the field out of range.
    pub fn check(&self) -> Result<(), DecodeError> {
        let counts = [
            ("formers", self.formers.len(), FORMERS_MAX),
            ("theirs", self.theirs.len(), OWNERS_MAX),
            ("presence", self.presence.len(), PRESENCE_KEYS_MAX),
            ("capabilities", self.capabilities.len(), CAPABILITIES_KEPT_MAX),
            ("text", self.intro.as_ref().map_or(0, |intro| intro.text.len()), REQUEST_TEXT_BYTES_MAX),
            ("display_name", self.intro.as_ref().map_or(0, |intro| intro.display_name.len()), REQUEST_NAME_BYTES_MAX),
        ];
        match counts.into_iter().find(|(_, count, limit)| count > limit) {
            Some((field, count, limit)) => Err(DecodeError::invalid(field, format!("{count}, at most {limit}"))),
            None => Ok(()),
        }
    }

    /// What they are.
    #[must_use]
    pub fn standing(&self) -> Standing {
        if self.is_blocked() {
            return Standing::Blocked;
        }
        let (mine, theirs) = (self.my_statement().map(Attested::said), self.their_statement().map(Attested::said));
        let i_say_yes = mine.is_some_and(|mine| mine.is_yes() && !theirs.is_some_and(|theirs| mine.is_ended_by(theirs)));
        let they_say_yes = theirs.is_some_and(|theirs| theirs.is_yes() && !mine.is_some_and(|mine| theirs.is_ended_by(mine)));
        let has_asked = mine.is_some_and(|mine| mine.stance == Stance::Asked);
        let is_shown = theirs.is_some_and(|theirs| theirs.stance == Stance::Asked && theirs.sequence > self.hidden);
        match (i_say_yes, they_say_yes) {
            (true, true) if self.changed().is_some() => Standing::Changed,
            (true, true) => Standing::Contact,
            (true, false) if has_asked => Standing::Asked,
            (false, true) if is_shown => Standing::Requested,
            // Whoever has given a key has said yes before: that was the end of something.
            (false, false) if has_asked && self.presence.is_empty() => Standing::Declined,
            _ => Standing::Removed,
        }
    }

    /// True if their newest word is a request that hasn't been ended, shown or not.
    pub(super) fn is_asked_for(&self) -> bool {
        let mine = self.my_statement().map(Attested::said);
        let theirs = self.their_statement().map(Attested::said);
        let is_live = theirs.is_some_and(|theirs| theirs.is_yes() && !mine.is_some_and(|mine| theirs.is_ended_by(mine)));
        is_live && theirs.is_some_and(|theirs| theirs.stance == Stance::Asked)
    }

    /// The identity key taken for theirs.
    #[must_use]
    pub fn identity(&self) -> Option<IdentityKey> {
        self.pin.map(|pin| pin.identity)
    }

    /// Another identity key that the name has come with, and nobody has accepted.
    #[must_use]
    pub fn changed(&self) -> Option<IdentityKey> {
        let seen = self.seen?.1;
        let pinned = self.identity()?;
        (seen != pinned && !self.has_former(&seen)).then_some(seen)
    }

    /// True if the user has blocked them.
    #[must_use]
    pub const fn is_blocked(&self) -> bool {
        self.blocked.1
    }

    /// The presence keys to try for this epoch, or for all.
    pub fn presence_keys(&self, epoch: Option<u32>) -> impl Iterator<Item = &PresenceKey> {
        self.presence.iter().rev().filter(move |key| epoch.is_none_or(|epoch| key.epoch == epoch))
    }

    /// Their newest epoch; 0 before they have given any key.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.presence.last().map_or(0, |key| key.epoch)
    }

    /// Leave to use a service of one of their devices.
    #[must_use]
    pub fn capability(&self, device: &DeviceKey, service: Service) -> Option<&Signed<Capability>> {
        let by_device = self.capabilities.get(&(Issuer::Device(*device), service));
        by_device.or_else(|| self.capabilities.get(&(Issuer::Identity(self.identity()?), service)))
    }

    /// Their key for this pair, by which helpers of this user know them.
    #[must_use]
    pub fn their_pairwise(&self) -> Option<PublicKey> {
        self.pairwise.map(|(_, key)| key)
    }

    /// The own key for this pair, by which their helpers know this user.
    #[must_use]
    pub fn own_pairwise(&self) -> Option<SecretKey> {
        self.seed.as_ref().map(|seed| SecretKey::from_bytes(*seed.as_bytes()))
    }

    /// Their profile, signed by a device of theirs; that was checked when it was taken.
    #[must_use]
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref().map(Signed::unverified)
    }

    /// The name they gave with their request.
    #[must_use]
    pub fn asked_name(&self) -> Option<&str> {
        self.intro.as_ref().map(|intro| intro.display_name.as_str())
    }

    /// The words of their request.
    #[must_use]
    pub fn asked_text(&self) -> Option<&str> {
        self.intro.as_ref().map(|intro| intro.text.as_str())
    }

    /// What this user has said about them last.
    #[must_use]
    pub const fn own_statement(&self) -> Option<&Attested> {
        self.mine.as_ref()
    }

    /// What they have said about this user last.
    #[must_use]
    pub fn their_statement(&self) -> Option<&Attested> {
        let pinned = self.identity()?;
        let of_formers = || {
            let statements = self.formers.iter().filter_map(|(_, former)| self.theirs.get(former));
            statements.max_by_key(|statement| statement.rank())
        };
        self.theirs.get(&pinned).or_else(of_formers)
    }

    /// When the last statement was made.
    #[must_use]
    pub fn heard_at(&self) -> UnixTime {
        let statements = self.mine.iter().chain(self.theirs.values());
        statements.map(|statement| statement.said().issued_at).max().unwrap_or_default()
    }

    fn my_statement(&self) -> Option<&Attested> {
        let is_about = |identity: &IdentityKey| self.identity() == Some(*identity) || self.has_former(identity);
        self.mine.as_ref().filter(|mine| is_about(&mine.said().other))
    }

    pub(super) fn has_former(&self, identity: &IdentityKey) -> bool {
        self.formers.iter().any(|(_, former)| former == identity)
    }

    pub(super) fn pin_if_new(&mut self, identity: IdentityKey) {
        self.pin.get_or_insert(Pin { number: 1, identity });
    }

    /// Another key from now on. With `is_successor` the old one has said so, and what it has said goes on counting.
    pub(super) fn repin(&mut self, identity: IdentityKey, is_successor: bool) {
        let old = self.pin;
        let number = old.map_or(1, |pin| pin.number.saturating_add(1));
        if let (true, Some(old)) = (is_successor, old) {
            self.formers.insert((old.number, old.identity));
            keep_last(&mut self.formers, FORMERS_MAX);
        }
        self.pin = Some(Pin { number, identity });
    }

    pub(super) fn note_seen(&mut self, serial: u64, identity: IdentityKey) {
        self.seen = self.seen.max(Some((serial, identity)));
    }

    /// Takes a verified statement of theirs. True if it says something newer than what is known of this key: the same statement under another
    /// device's signature is no news.
    pub(super) fn take_statement(&mut self, statement: Attested) -> bool {
        let owner = statement.said().owner;
        let known = self.theirs.get(&owner);
        if known.is_some_and(|known| known.rank() >= statement.rank()) {
            return false;
        }
        let is_news = known.is_none_or(|known| known.said() != statement.said());
        self.theirs.insert(owner, statement);
        self.trim_owners();
        is_news
    }

    /// Takes a verified statement of theirs, with the key it came with. True if it says something newer.
    pub(super) fn take_word(&mut self, statement: Attested, pairwise: Option<PublicKey>, now: UnixTime) -> bool {
        let said = statement.said().clone();
        let is_news = self.take_statement(statement);
        if let Some(pairwise) = pairwise {
            self.pairwise = self.pairwise.max(Some((said.sequence, pairwise)));
        }
        if is_news && said.stance == Stance::Asked && !self.says_yes() && now < self.quiet {
            self.hidden = self.hidden.max(said.sequence);
        }
        is_news
    }

    /// True if this is what the owner of the key has said last.
    pub(super) fn is_newest(&self, said: &ContactStatement) -> bool {
        self.theirs.get(&said.owner).is_some_and(|known| known.said() == said)
    }

    /// True if the user's own newest word is yes, whatever the other says.
    pub(super) fn says_yes(&self) -> bool {
        self.my_statement().is_some_and(|mine| mine.said().is_yes())
    }

    /// Whatever they have asked so far isn't shown.
    pub(super) fn hide_requests(&mut self) {
        let newest = self.their_statement().map_or(0, |theirs| theirs.said().sequence);
        self.hidden = self.hidden.max(newest);
    }

    pub(super) fn take_presence(&mut self, key: PresenceKey) {
        self.presence.insert(key);
        keep_last(&mut self.presence, PRESENCE_KEYS_MAX);
    }

    /// Whether they let contacts pass their presence on.
    #[must_use]
    pub fn pass_on(&self) -> PassOn {
        PassOn::of(&self.extensions)
    }

    pub(super) fn take_pass_on(&mut self, said: PassOn) {
        if said > self.pass_on() {
            self.extensions = said.within(&self.extensions);
        }
    }

    pub(super) fn take_capability(&mut self, capability: Signed<Capability>) {
        let claims = capability.unverified();
        let key = (claims.issuer, claims.service);
        if self.capabilities.get(&key).is_none_or(|known| rank(&capability) > rank(known)) {
            self.capabilities.insert(key, capability);
        }
        while self.capabilities.len() > CAPABILITIES_KEPT_MAX {
            let Some(key) = self.capabilities.iter().min_by_key(|(_, kept)| rank(kept)).map(|(key, _)| *key) else { return };
            self.capabilities.remove(&key);
        }
    }

    /// Takes a profile whose signature was checked. True if it is newer.
    pub(super) fn take_profile(&mut self, profile: Signed<Profile>) -> bool {
        let rank = |profile: &Signed<Profile>| (profile.unverified().sequence, wire::encode(profile));
        let is_newer = self.profile.as_ref().is_none_or(|known| rank(&profile) > rank(known));
        if is_newer {
            self.profile = Some(profile);
        }
        is_newer
    }

    /// Takes in what another device of the same user knows. Nothing in `other` is verified here.
    pub fn join(&mut self, other: Self) {
        if other.has_newer_seed(self) {
            self.seed.clone_from(&other.seed);
        }
        self.pin = self.pin.max(other.pin);
        self.formers.extend(other.formers);
        keep_last(&mut self.formers, FORMERS_MAX);
        self.seen = self.seen.max(other.seen);
        if let Some(mine) = other.mine
            && self.mine.as_ref().is_none_or(|known| mine.rank() > known.rank())
        {
            self.mine = Some(mine);
        }
        for statement in other.theirs.into_values() {
            self.take_statement(statement);
        }
        self.hidden = self.hidden.max(other.hidden);
        self.quiet = self.quiet.max(other.quiet);
        self.intro = self.intro.take().max(other.intro);
        self.blocked = self.blocked.max(other.blocked);
        self.pairwise = self.pairwise.max(other.pairwise);
        self.presence.extend(other.presence);
        keep_last(&mut self.presence, PRESENCE_KEYS_MAX);
        for capability in other.capabilities.into_values() {
            self.take_capability(capability);
        }
        if let Some(profile) = other.profile {
            self.take_profile(profile);
        }
        if wire::encode(&other.extensions) > wire::encode(&self.extensions) {
            self.extensions = other.extensions;
        }
    }

    /// The entry without statements whose signatures don't hold; `None` if it is malformed. `me` is the user's identity key.
    pub(super) fn believed(mut self, me: &IdentityKey) -> Option<Self> {
        self.check().ok()?;
        let holds = |statement: &Attested, owner: &IdentityKey| {
            let other = statement.said().other;
            let verify = if owner == me { Attested::verify } else { Attested::verify_of_other };
            verify(statement.statement.clone(), statement.certificate.clone(), owner, &other).is_ok()
        };
        self.mine = self.mine.filter(|mine| holds(mine, me));
        self.theirs.retain(|owner, statement| statement.said().owner == *owner && holds(statement, owner));
        self.capabilities.retain(|key, capability| {
            let claims = capability.unverified();
            *key == (claims.issuer, claims.service) && capability.verify(&claims.issuer.key()).is_ok()
        });
        Some(self)
    }

    /// True if this entry's seed counts: that of the newer own statement, for its key went along with it. Of equally new ones it is that with the greater
    /// key, as where it is received ([`RosterEntry::pairwise`]).
    fn has_newer_seed(&self, other: &Self) -> bool {
        if self.seed == other.seed || self.seed.is_none() || other.seed.is_none() {
            return other.seed.is_none();
        }
        let sequence = |entry: &Self| entry.mine.as_ref().map(|mine| mine.said().sequence);
        let key = |entry: &Self| entry.own_pairwise().map(|key| key.public());
        sequence(self).cmp(&sequence(other)).then_with(|| key(self).cmp(&key(other))).is_gt()
    }

    fn trim_owners(&mut self) {
        while self.theirs.len() > OWNERS_MAX {
            let Some(owner) = self.theirs.iter().min_by_key(|(_, kept)| kept.rank()).map(|(owner, _)| *owner) else { return };
            self.theirs.remove(&owner);
        }
    }
}

/// The newer capability ranks higher.
fn rank(capability: &Signed<Capability>) -> (u32, UnixTime, Vec<u8>) {
    let claims = capability.unverified();
    (claims.epoch, claims.not_after, wire::encode(capability))
}

fn keep_last<T: Ord>(set: &mut BTreeSet<T>, count: usize) {
    while set.len() > count {
        set.pop_first();
    }
}
