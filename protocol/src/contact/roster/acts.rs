//! What the person does.

use super::super::statement::Stance;
use super::super::{ContactAnswer, ContactSignal, PassOn, REQUEST_TEXT_BYTES_MAX};
use super::{
    Asking, CONTACTS_MAX, QUIET_SECS, Roster, RosterAction, RosterEntry, RosterError, RosterEvent, Signer, Standing, Told,
};
use crate::identity::UserId;
use crate::key::IdentityKey;
use crate::profile::{Avatar, Profile, ProfileCard};
use crate::wire::{Body, DecodeError, Extensions, Signed};

impl Roster {
    /// Asks `user`, whose identity key is `identity`, to be a contact; accepts if they have asked.
    ///
    /// # Errors
    /// [`RosterError`]; nothing is changed then.
    pub fn ask(
        &mut self,
        user: &UserId,
        identity: IdentityKey,
        asking: Asking,
        signer: &mut Signer<'_>,
    ) -> Result<Standing, RosterError> {
        if identity == signer.identity {
            return Err(RosterError::Own);
        }
        if asking.text.len() > REQUEST_TEXT_BYTES_MAX {
            let reason = format!("{} bytes, at most {REQUEST_TEXT_BYTES_MAX}", asking.text.len());
            return Err(DecodeError::invalid("text", reason).into());
        }
        let standing = self.standing(user);
        if standing == Standing::Blocked {
            return Err(RosterError::Blocked);
        }
        self.check_pin(user, identity)?;
        if standing == Standing::Contact {
            return Ok(standing);
        }
        if self.entry(user).is_some_and(RosterEntry::is_asked_for) {
            return self.accept(user, signer);
        }
        self.make_room(standing)?;
        let contact = self.contact_mut(user);
        contact.entry.pin_if_new(identity);
        let is_repeated = standing == Standing::Asked;
        if !is_repeated {
            self.state(user, Stance::Asked, signer);
        }
        self.send_request(user, asking, signer);
        Ok(self.standing(user))
    }

    /// Says yes to a request.
    ///
    /// # Errors
    /// [`RosterError::NoRequest`], [`RosterError::Blocked`], [`RosterError::Full`].
    pub fn accept(&mut self, user: &UserId, signer: &mut Signer<'_>) -> Result<Standing, RosterError> {
        let standing = self.standing(user);
        match standing {
            Standing::Contact => return Ok(standing),
            Standing::Blocked => return Err(RosterError::Blocked),
            _ if !self.entry(user).is_some_and(RosterEntry::is_asked_for) => return Err(RosterError::NoRequest),
            _ => {}
        }
        self.make_room(standing)?;
        self.state(user, Stance::Accepted, signer);
        self.send_accept(user, signer);
        self.tell(RosterEvent::Accepted { user: user.clone() });
        Ok(self.standing(user))
    }

    /// Says no to a request, and hears nothing of them for [`QUIET_SECS`].
    ///
    /// # Errors
    /// [`RosterError::NoRequest`].
    pub fn decline(&mut self, user: &UserId, signer: &mut Signer<'_>) -> Result<Standing, RosterError> {
        if self.standing(user) != Standing::Requested {
            return Err(RosterError::NoRequest);
        }
        self.state(user, Stance::Removed, signer);
        let quiet = signer.now.plus_secs(QUIET_SECS);
        let entry = &mut self.contact_mut(user).entry;
        entry.quiet = entry.quiet.max(quiet);
        if let Some(mine) = &entry.mine {
            let answer = ContactAnswer {
                statement: mine.statement.clone(),
                pairwise: None,
                keys: None,
                profile: None,
                extensions: Extensions::none(),
            };
            self.send(user, ContactSignal::Decline(Box::new(answer)));
        }
        self.forget_traces();
        Ok(self.standing(user))
    }

    /// Ends it with a contact, or takes a request back; a request of theirs is declined.
    ///
    /// # Errors
    /// [`RosterError::Unknown`] if they are nothing to the user.
    pub fn remove(&mut self, user: &UserId, signer: &mut Signer<'_>) -> Result<Standing, RosterError> {
        match self.standing(user) {
            Standing::Requested => return self.decline(user, signer),
            Standing::Blocked => return Err(RosterError::Unknown),
            // Also a yes that came to nothing is taken back, and they are told: it would count if they asked anew.
            _ if self.says_yes(user) => self.end(user, signer),
            _ => return Err(RosterError::Unknown),
        }
        self.forget_traces();
        Ok(self.standing(user))
    }

    /// Wants to hear nothing of them any more. They learn no more than from a removal, and from a declined request nothing at all.
    ///
    /// # Errors
    /// [`RosterError::Full`], [`RosterError::Own`].
    pub fn block(
        &mut self,
        user: &UserId,
        identity: Option<IdentityKey>,
        signer: &mut Signer<'_>,
    ) -> Result<Standing, RosterError> {
        if identity == Some(signer.identity) {
            return Err(RosterError::Own);
        }
        let standing = self.standing(user);
        if standing == Standing::Blocked {
            return Ok(standing);
        }
        self.make_room(standing)?;
        if self.says_yes(user) {
            self.end(user, signer);
        }
        let entry = &mut self.contact_mut(user).entry;
        if let Some(identity) = identity {
            entry.pin_if_new(identity);
        }
        entry.blocked = (entry.blocked.0.saturating_add(1), true);
        self.persist(user);
        Ok(Standing::Blocked)
    }

    /// Ends a block. They are strangers again, whatever they were.
    ///
    /// # Errors
    /// [`RosterError::NotBlocked`].
    pub fn unblock(&mut self, user: &UserId) -> Result<Standing, RosterError> {
        if self.standing(user) != Standing::Blocked {
            return Err(RosterError::NotBlocked);
        }
        let entry = &mut self.contact_mut(user).entry;
        entry.blocked = (entry.blocked.0.saturating_add(1), false);
        // What they have asked before or meanwhile was asked of somebody who doesn't listen: they have to ask anew.
        entry.hide_requests();
        self.persist(user);
        self.forget_traces();
        Ok(self.standing(user))
    }

    /// Takes the key that a contact's name has come with for theirs, after the person has compared fingerprints; asks them anew.
    ///
    /// # Errors
    /// [`RosterError::KeyUnchanged`], [`RosterError::Unknown`].
    pub fn accept_identity(&mut self, user: &UserId, asking: Asking, signer: &mut Signer<'_>) -> Result<Standing, RosterError> {
        let entry = self.entry(user).ok_or(RosterError::Unknown)?;
        let new = entry.changed().ok_or(RosterError::KeyUnchanged)?;
        if entry.standing().is_contact() {
            // Whoever had the old key opens nothing from now on.
            self.raise_epoch(signer);
        }
        let contact = self.contact_mut(user);
        contact.told = Told::default();
        contact.entry.repin(new, false);
        contact.entry.presence.clear();
        contact.entry.capabilities.clear();
        self.persist(user);
        self.reconcile_all(signer);
        self.ask(user, new, asking, signer)
    }

    /// The user says whether contacts may pass the presence on: they are told. An older word than the one known counts for nothing.
    pub fn set_pass_on(&mut self, pass_on: PassOn, signer: &mut Signer<'_>) {
        if pass_on > self.pass_on {
            self.pass_on = pass_on;
            self.reconcile_all(signer);
        }
    }

    /// Contacts are told something else of accounts elsewhere, encoded. The caller has it on disk.
    pub fn set_links(&mut self, links: Vec<u8>, signer: &mut Signer<'_>) {
        if self.links.as_ref() != Some(&links) {
            self.links = Some(links);
            self.reconcile_all(signer);
        }
    }

    /// Sets what contacts see. Returns whether it is another than before.
    ///
    /// # Errors
    /// [`RosterError::Invalid`] for what is too long or malformed.
    pub fn set_profile(
        &mut self,
        mut profile: Profile,
        avatar: Option<Avatar>,
        signer: &mut Signer<'_>,
    ) -> Result<bool, RosterError> {
        let newest = self.own.profile.as_ref().map(|card| card.profile.unverified().clone());
        let last = newest.as_ref().map_or(0, |profile| profile.sequence);
        profile.avatar = avatar.as_ref().map(|avatar| Profile::avatar_hash(avatar.as_bytes()));
        profile.sequence = last;
        if newest.as_ref() == Some(&profile) {
            return Ok(false);
        }
        profile.sequence = last.saturating_add(1).max(signer.now.0);
        profile.check()?;
        let length = crate::wire::encoded_len(&profile);
        if length > Profile::LIMIT {
            return Err(DecodeError::TooLarge { length, limit: Profile::LIMIT }.into());
        }
        let profile = Signed::sign(profile, signer.key);
        self.own.profile = Some(ProfileCard { profile, avatar: avatar.map(Avatar::into_bytes) });
        self.actions.push_back(RosterAction::OwnChanged);
        self.reconcile_all(signer);
        Ok(true)
    }

    fn check_pin(&self, user: &UserId, identity: IdentityKey) -> Result<(), RosterError> {
        let Some(entry) = self.entry(user) else { return Ok(()) };
        let pinned = entry.identity().filter(|pinned| *pinned != identity);
        if let Some(pinned) = pinned {
            return Err(RosterError::KeyChanged { pinned, found: identity });
        }
        match entry.changed() {
            Some(found) if entry.standing().is_contact() => Err(RosterError::KeyChanged { pinned: identity, found }),
            _ => Ok(()),
        }
    }

    /// Room for one more that the person wants.
    fn make_room(&self, standing: Standing) -> Result<(), RosterError> {
        let kept = || self.contacts.values().filter(|contact| contact.entry.standing().is_kept()).count();
        if !standing.is_kept() && kept() >= CONTACTS_MAX { Err(RosterError::Full) } else { Ok(()) }
    }

    /// Ends what there was, and tells them.
    pub(super) fn end(&mut self, user: &UserId, signer: &mut Signer<'_>) {
        let was_contact = self.standing(user).is_contact();
        self.state(user, Stance::Removed, signer);
        self.contact_mut(user).told = Told::default();
        self.send_removal(user, signer);
        if was_contact {
            self.raise_epoch(signer);
            self.reconcile_all(signer);
        }
    }
}
