//! What others say.

use super::super::privacy::Relation;
use super::super::statement::{Attested, ContactStatement, Stance};
use super::super::{ContactAnswer, ContactKeys, ContactRequest, ContactSignal, ContactUpdate, PassOn, RosterShare};
use super::{Intro, REQUESTS_MAX, Roster, RosterAction, RosterEvent, Seen, Signer, Standing, Told};
use crate::call::Reason;
use crate::capability::{Holder, Issuer};
use crate::identity::{DeviceCertificate, UserId, VerifiedChain, tombstones_in};
use crate::key::IdentityKey;
use crate::profile::{Avatar, ProfileCard};
use crate::wire::Signed;

/// Who says something, and by which device.
struct Sender<'a> {
    user: &'a UserId,
    identity: IdentityKey,
    chain: &'a VerifiedChain,
    certificate: &'a Signed<DeviceCertificate>,
}

impl Sender<'_> {
    fn attest(&self, statement: &Signed<ContactStatement>, me: &IdentityKey) -> Result<Attested, Reason> {
        Attested::verify(statement.clone(), self.certificate.clone(), &self.identity, me).map_err(|_| Reason::INVALID)
    }
}

impl Roster {
    /// Takes a signal of a device whose chain holds; `certificate` is the one in that chain. What it isn't entitled to is passed over in silence:
    /// who is blocked, or not known, learns nothing from the answer.
    ///
    /// # Errors
    /// A [`Reason`] to refuse with: [`Reason::TOO_MANY`] (a request, while too many wait), [`Reason::NOT_ALLOWED`] (a request without a name),
    /// [`Reason::INVALID`].
    pub fn receive(
        &mut self,
        from: &VerifiedChain,
        certificate: &Signed<DeviceCertificate>,
        signal: ContactSignal,
        signer: &mut Signer<'_>,
    ) -> Result<(), Reason> {
        signal.check().map_err(|_| Reason::INVALID)?;
        let sender = Sender { user: &from.user.id, identity: from.user.identity, chain: from, certificate };
        if sender.identity == signer.identity {
            if let ContactSignal::Share(share) = signal {
                self.receive_share(*share, signer);
            }
            return Ok(());
        }
        if let ContactSignal::Request(request) = signal {
            return self.receive_request(&sender, *request, signer);
        }
        if self.relation(sender.user, &sender.identity) == Relation::Blocked || !self.is_expected(&sender, signer) {
            return Ok(());
        }
        match signal {
            ContactSignal::Accept(answer) => self.receive_accept(&sender, *answer, signer),
            ContactSignal::Decline(answer) => self.receive_end(&sender, &answer.statement, signer),
            ContactSignal::Remove(removal) => self.receive_end(&sender, &removal.statement, signer),
            ContactSignal::Update(update) => self.receive_update(&sender, *update, signer),
            ContactSignal::Request(_) | ContactSignal::Share(_) => Ok(()),
        }
    }

    /// True if the sender is in the roster, under the key known. Another key is noted.
    fn is_expected(&mut self, sender: &Sender<'_>, signer: &mut Signer<'_>) -> bool {
        match self.entry(sender.user).and_then(|entry| entry.identity()) {
            Some(pinned) if pinned == sender.identity => true,
            Some(_) => {
                self.see(sender.user, sender.seen(), signer);
                false
            }
            None => false,
        }
    }

    fn receive_request(&mut self, sender: &Sender<'_>, request: ContactRequest, signer: &mut Signer<'_>) -> Result<(), Reason> {
        let statement = sender.attest(&request.statement, &signer.identity)?;
        if statement.said().stance != Stance::Asked || statement.said().issued_at.is_from_the_future(signer.now) {
            return Err(Reason::INVALID);
        }
        if sender.chain.user.name().is_none() && self.entry(sender.user).is_none() {
            return Err(Reason::NOT_ALLOWED);
        }
        let before = self.standing(sender.user);
        let waits_already = matches!(before, Standing::Contact | Standing::Changed | Standing::Asked | Standing::Requested);
        if !waits_already && self.request_count() >= REQUESTS_MAX {
            // Before anything is said about who it is: those who are blocked get the same answer.
            return Err(Reason::TOO_MANY);
        }
        if self.relation(sender.user, &sender.identity) == Relation::Blocked || !self.admit_identity(sender, before, signer) {
            return Ok(());
        }
        let sequence = statement.said().sequence;
        let entry = &mut self.contact_mut(sender.user).entry;
        entry.pin_if_new(sender.identity);
        if !entry.take_statement(statement) {
            return Ok(());
        }
        let intro = Intro { sequence, display_name: request.display_name, text: request.text };
        entry.intro = entry.intro.take().max(Some(intro));
        entry.pairwise = entry.pairwise.max(Some((sequence, request.pairwise)));
        let says_yes = matches!(before, Standing::Contact | Standing::Changed | Standing::Asked);
        if !says_yes && signer.now < entry.quiet {
            entry.hidden = entry.hidden.max(sequence);
        }
        self.persist(sender.user);
        self.tell_change(sender.user, before);
        if matches!(before, Standing::Contact | Standing::Asked) && self.standing(sender.user) == Standing::Contact {
            // Requests that cross; or they ask for what they had, for their device has lost it.
            self.send_accept(sender.user, signer);
        }
        self.reconcile(sender.user, signer);
        Ok(())
    }

    /// True if a request under this key counts. While the user says yes to another key under this name, it doesn't.
    fn admit_identity(&mut self, sender: &Sender<'_>, before: Standing, signer: &mut Signer<'_>) -> bool {
        let pinned = self.entry(sender.user).and_then(|entry| entry.identity());
        if pinned.is_none_or(|pinned| pinned == sender.identity) {
            return true;
        }
        if matches!(before, Standing::Contact | Standing::Changed | Standing::Asked) {
            self.see(sender.user, sender.seen(), signer);
            return false;
        }
        self.contact_mut(sender.user).entry.repin(sender.identity, false);
        if let (Some(old), new) = (pinned, sender.identity) {
            self.tell(RosterEvent::IdentityChanged { user: sender.user.clone(), old, new });
        }
        true
    }

    fn receive_accept(&mut self, sender: &Sender<'_>, answer: ContactAnswer, signer: &mut Signer<'_>) -> Result<(), Reason> {
        let statement = sender.attest(&answer.statement, &signer.identity)?;
        if !statement.said().is_yes() {
            return Err(Reason::INVALID);
        }
        let before = self.standing(sender.user);
        if !matches!(before, Standing::Asked | Standing::Contact | Standing::Changed) {
            return Ok(());
        }
        let sequence = statement.said().sequence;
        let entry = &mut self.contact_mut(sender.user).entry;
        entry.take_statement(statement);
        if let Some(pairwise) = answer.pairwise {
            entry.pairwise = entry.pairwise.max(Some((sequence, pairwise)));
        }
        self.persist(sender.user);
        self.take_parts(sender, answer.keys, answer.profile);
        self.tell_change(sender.user, before);
        self.reconcile(sender.user, signer);
        Ok(())
    }

    /// "No", or "no longer".
    fn receive_end(
        &mut self,
        sender: &Sender<'_>,
        statement: &Signed<ContactStatement>,
        signer: &mut Signer<'_>,
    ) -> Result<(), Reason> {
        let statement = sender.attest(statement, &signer.identity)?;
        if statement.said().is_yes() {
            return Err(Reason::INVALID);
        }
        let before = self.standing(sender.user);
        if !self.contact_mut(sender.user).entry.take_statement(statement) {
            return Ok(());
        }
        self.persist(sender.user);
        self.tell_change(sender.user, before);
        let after = self.standing(sender.user);
        if before.is_contact() && !after.is_contact() {
            self.contact_mut(sender.user).told = Told::default();
            self.raise_epoch(signer);
            self.reconcile_all(signer);
        }
        self.forget_traces();
        Ok(())
    }

    fn receive_update(&mut self, sender: &Sender<'_>, update: ContactUpdate, signer: &mut Signer<'_>) -> Result<(), Reason> {
        let tombstones = tombstones_in(&update.extensions, &sender.identity);
        if !tombstones.is_empty() {
            self.actions.push_back(RosterAction::Removed { identity: sender.identity, tombstones });
        }
        // Of somebody who was asked it counts too: it may have overtaken the answer.
        if matches!(self.standing(sender.user), Standing::Contact | Standing::Changed | Standing::Asked) {
            self.take_parts(sender, update.keys, update.profile);
            self.reconcile(sender.user, signer);
        }
        Ok(())
    }

    fn take_parts(&mut self, sender: &Sender<'_>, keys: Option<ContactKeys>, profile: Option<ProfileCard>) {
        let is_contact = self.standing(sender.user).is_contact();
        let entry = &mut self.contact_mut(sender.user).entry;
        let old = entry.clone();
        let holder = entry.own_pairwise().map(|key| Holder::Key(key.public()));
        if let Some(keys) = keys {
            entry.take_presence(keys.presence);
            entry.take_pass_on(PassOn::of(&keys.extensions));
            for capability in keys.capabilities {
                let claims = capability.unverified();
                let issuers = [Issuer::Device(sender.chain.device), Issuer::Identity(sender.identity)];
                if issuers.contains(&claims.issuer)
                    && Some(claims.holder) == holder
                    && capability.verify(&claims.issuer.key()).is_ok()
                {
                    entry.take_capability(capability);
                }
            }
        }
        let mut picture = None;
        let mut has_new_profile = false;
        if let Some(card) = profile
            && card.profile.verify(&sender.chain.device.0).is_ok()
        {
            let names = card.profile.unverified().avatar;
            has_new_profile = entry.take_profile(card.profile);
            let is_current = entry.profile().is_some_and(|profile| profile.avatar == names);
            picture = card.avatar.filter(|_| is_current).and_then(|avatar| Avatar::received(avatar).ok());
        }
        if *entry != old {
            self.persist(sender.user);
        }
        if let Some(avatar) = picture {
            self.actions.push_back(RosterAction::KeepAvatar { user: sender.user.clone(), avatar });
        }
        if has_new_profile && is_contact {
            self.tell(RosterEvent::ProfileChanged { user: sender.user.clone() });
        }
    }

    fn receive_share(&mut self, share: RosterShare, signer: &mut Signer<'_>) {
        let RosterShare { entries, presence, profile, extensions } = share;
        for entry in entries {
            self.merge(entry, signer);
        }
        let tombstones = tombstones_in(&extensions, &signer.identity);
        self.merge_own(presence, profile, tombstones, signer);
    }
}

impl Sender<'_> {
    const fn seen(&self) -> Seen {
        Seen { identity: self.identity, serial: self.chain.user.serial, is_successor: false }
    }
}
