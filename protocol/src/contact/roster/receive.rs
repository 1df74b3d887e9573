//! What others say.

use super::super::privacy::Relation;
use super::super::statement::{Attested, ContactStatement, Stance};
use super::super::{ContactAnswer, ContactKeys, ContactRequest, ContactSignal, ContactUpdate, PassOn, RosterShare};
use super::{Intro, OwnNews, REQUESTS_MAX, Roster, RosterAction, RosterEvent, Seen, Signer, Standing};
use crate::call::Reason;
use crate::capability::{Holder, Issuer};
use crate::identity::{DeviceCertificate, UserId, VerifiedChain, tombstones_in};
use crate::key::{IdentityKey, PublicKey};
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
        Attested::verify_of_other(statement.clone(), self.certificate.clone(), &self.identity, me).map_err(|_| Reason::INVALID)
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
        if self.relation(sender.user, &sender.identity) == Relation::Blocked {
            self.note_blocked(&sender, &signal, signer);
            return Ok(());
        }
        if !self.is_expected(&sender, signer) {
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

    /// The time in the statement isn't looked at: clocks differ, and a statement that is refused would leave the two at different ends.
    fn receive_request(&mut self, sender: &Sender<'_>, request: ContactRequest, signer: &mut Signer<'_>) -> Result<(), Reason> {
        let statement = sender.attest(&request.statement, &signer.identity)?;
        if statement.said().stance != Stance::Asked {
            return Err(Reason::INVALID);
        }
        let is_blocked = self.relation(sender.user, &sender.identity) == Relation::Blocked;
        if is_blocked {
            self.note_blocked(sender, &ContactSignal::Request(Box::new(request.clone())), signer);
        }
        if sender.chain.user.name().is_none() && (is_blocked || self.entry(sender.user).is_none()) {
            return Err(Reason::NOT_ALLOWED);
        }
        let before = self.standing(sender.user);
        let waits_already = matches!(before, Standing::Contact | Standing::Changed | Standing::Asked | Standing::Requested);
        if !waits_already && self.request_count() >= REQUESTS_MAX {
            // Before anything is said about who it is: those who are blocked get the same answer.
            return Err(Reason::TOO_MANY);
        }
        if is_blocked || !self.admit_identity(sender, before, signer) {
            return Ok(());
        }
        let said = statement.said().clone();
        self.contact_mut(sender.user).entry.pin_if_new(sender.identity);
        let is_news = self.take_word(sender.user, statement, Some(request.pairwise), signer);
        let entry = &mut self.contact_mut(sender.user).entry;
        if entry.is_newest(&said) && entry.intro.as_ref().is_none_or(|intro| intro.sequence < said.sequence) {
            // What was said with it before stays: nobody changes the words that the person has read.
            entry.intro = Some(Intro { sequence: said.sequence, display_name: request.display_name, text: request.text });
            self.persist(sender.user);
        }
        if is_news && self.standing(sender.user) == Standing::Contact {
            // Requests that cross; or they ask for what they had, for their device has lost it; or they haven't heard of a yes. They wait for a word.
            self.send_accept(sender.user, signer);
        }
        self.follow_change(sender.user, before, signer);
        Ok(())
    }

    /// Takes a statement, with the key it came with. True if it says something newer. The same under another signature may be kept as well: own
    /// devices have to keep the same one.
    fn take_word(&mut self, user: &UserId, statement: Attested, pairwise: Option<PublicKey>, signer: &Signer<'_>) -> bool {
        let entry = &mut self.contact_mut(user).entry;
        let known = entry.their_statement().cloned();
        let key = entry.pairwise;
        let is_news = entry.take_word(statement, pairwise, signer.now);
        if entry.their_statement() != known.as_ref() || entry.pairwise != key {
            self.persist(user);
        }
        is_news
    }

    /// Somebody who is blocked learns nothing, and nothing is shown of them. What they say about the user is noted all the same: whoever didn't know their
    /// newest word after unblocking them would take an older one, which comes late, for it.
    fn note_blocked(&mut self, sender: &Sender<'_>, signal: &ContactSignal, signer: &Signer<'_>) {
        if self.entry(sender.user).and_then(|entry| entry.identity()) != Some(sender.identity) {
            return;
        }
        if matches!(signal, ContactSignal::Accept(_) | ContactSignal::Update(_)) {
            // As anybody would who has said no before.
            self.send_removal(sender.user, signer);
        }
        let (statement, pairwise) = match signal {
            ContactSignal::Request(request) => (&request.statement, Some(request.pairwise)),
            ContactSignal::Accept(answer) | ContactSignal::Decline(answer) => (&answer.statement, answer.pairwise),
            ContactSignal::Remove(removal) => (&removal.statement, None),
            ContactSignal::Update(_) | ContactSignal::Share(_) => return,
        };
        let Ok(statement) = sender.attest(statement, &signer.identity) else { return };
        self.take_word(sender.user, statement, pairwise, signer);
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
        self.persist(sender.user);
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
        // The statement counts whatever is thought of them just now: an older no of theirs may have come before it.
        let before = self.standing(sender.user);
        let is_request = statement.said().stance == Stance::Asked && !self.says_yes(sender.user);
        if is_request && before != Standing::Requested && self.request_count() >= REQUESTS_MAX {
            return Err(Reason::TOO_MANY);
        }
        self.take_word(sender.user, statement, answer.pairwise, signer);
        if self.says_yes(sender.user) {
            self.take_parts(sender, answer.keys, answer.profile);
        } else {
            // They take the user for a contact: they haven't heard of the no yet, or it came before they knew the user, and they passed it over.
            self.send_removal(sender.user, signer);
        }
        self.follow_change(sender.user, before, signer);
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
        if self.take_word(sender.user, statement, None, signer) {
            self.follow_change(sender.user, before, signer);
        }
        Ok(())
    }

    fn receive_update(&mut self, sender: &Sender<'_>, update: ContactUpdate, signer: &mut Signer<'_>) -> Result<(), Reason> {
        let tombstones = tombstones_in(&update.extensions, &sender.identity);
        if !tombstones.is_empty() {
            self.actions.push_back(RosterAction::Removed { identity: sender.identity, tombstones });
        }
        // While the user says yes it counts, whatever they are known to say: it may have overtaken their answer.
        if self.says_yes(sender.user) {
            self.take_parts(sender, update.keys, update.profile);
            self.reconcile(sender.user, signer);
        } else {
            self.send_removal(sender.user, signer);
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
        let tombstones = tombstones_in(&extensions, &signer.identity);
        self.merge(entries, Some(OwnNews { presence, profile, tombstones }), signer);
    }
}

impl Sender<'_> {
    const fn seen(&self) -> Seen {
        Seen { identity: self.identity, serial: self.chain.user.serial, is_successor: false }
    }
}
