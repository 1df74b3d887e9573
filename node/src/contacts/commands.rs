//! What the person does.

use data_encoding::BASE64URL_NOPAD;
use halloo_protocol::contact::PassOn;
use halloo_protocol::contact::privacy::PrivacySettings;
use halloo_protocol::contact::{Asking, CONTACT_LINK_PREFIX, ContactLink, RosterEntry, RosterError, SafetyNumber, Standing};
use halloo_protocol::directory::DirectoryRecord;
use halloo_protocol::identity::UserId;
use halloo_protocol::key::{AuthorityKey, IdentityKey};
use halloo_protocol::profile::{Avatar, Profile};
use halloo_protocol::wire::{self, Extensions};
use tracing::warn;

use super::{PRIVACY, PRIVACY_VERSION, internal};
use crate::directory::Waiter;
use crate::event_loop::EventLoop;
use crate::handle::Reply;
use crate::handle::contacts::{
    AvatarView, ContactBook, ContactChange, ContactCommand, ContactError, ContactImport, ContactInvite, ContactList,
    ContactState, ContactView, Fingerprint, Privacy, PrivacyChange, ProfileChange, ProfileView,
};
use crate::handle::directory::ResolveError;
use crate::handle::problem::{NodeError, UsernameError};
use crate::store::StoreError;
use crate::timestamp::Timestamp;

/// Links in one import: as many as the list may hold.
const IMPORT_MAX: usize = halloo_protocol::contact::CONTACTS_MAX;

const PNG: &str = "image/png";

/// Somebody being added whose key has to be looked up first.
#[derive(Debug)]
pub(crate) struct Adding {
    user: UserId,
    /// The key that the address leads to by which they were named.
    meant: Option<IdentityKey>,
    /// What to do once the key is known.
    way: Way,
    reply: Reply<ContactView, ContactError>,
}

#[derive(Debug)]
enum Way {
    Ask { text: String },
    Block,
}

const fn state(standing: Standing) -> ContactState {
    match standing {
        Standing::Contact => ContactState::Contact,
        Standing::Changed => ContactState::Changed,
        Standing::Asked => ContactState::Asked,
        Standing::Requested => ContactState::Requested,
        Standing::Declined => ContactState::Declined,
        Standing::Blocked => ContactState::Blocked,
        Standing::Removed => ContactState::Removed,
    }
}

impl EventLoop {
    pub(crate) fn handle_contacts(&mut self, command: ContactCommand) {
        match command {
            ContactCommand::Add { user, text, reply } => self.add_contact(&user, text, reply),
            ContactCommand::Change { user, change, reply } => self.change_contact(&user, change, reply),
            ContactCommand::List(reply) => reply.send(Ok(self.contact_list())),
            ContactCommand::Get { user, reply } => {
                reply.send(self.known(&user).map(|user| match self.contacts.roster.entry(&user) {
                    Some(_) => self.contact_view(&user),
                    None => self.linked_view(&user),
                }))
            }
            ContactCommand::Avatar { user, reply } => reply.send(self.contact_avatar(&user)),
            ContactCommand::Invite(reply) => reply.send(self.contact_invite()),
            ContactCommand::Fingerprint { user, reply } => reply.send(self.fingerprint(&user)),
            ContactCommand::Export(reply) => reply.send(Ok(self.export_contacts())),
            ContactCommand::Import { book, reply } => {
                let outcome = self.import_contacts(book);
                reply.send(outcome);
            }
            ContactCommand::Profile(reply) => reply.send(Ok(self.profile_view())),
            ContactCommand::SetProfile { change, reply } => {
                let outcome = self.change_profile(change);
                reply.send(outcome);
            }
            ContactCommand::Privacy(reply) => reply.send(Ok(privacy_view(&self.contacts.privacy))),
            ContactCommand::SetPrivacy { change, reply } => {
                let outcome = self.change_privacy(change);
                reply.send(outcome);
            }
        }
    }

    fn add_contact(&mut self, text: &str, words: String, reply: Reply<ContactView, ContactError>) {
        if self.identity.authority().is_none() {
            // Who has no name is heard by nobody.
            return reply.send(Err(NodeError::NotEnrolled.into()));
        }
        let (user, identity) = match self.parse_user_or_link(text) {
            Ok(parsed) => parsed,
            Err(error) => return reply.send(Err(error)),
        };
        let way = Way::Ask { text: words };
        self.with_identity(text, user, identity, way, reply);
    }

    /// Goes on at once if the key is known, else after a look-up.
    fn with_identity(
        &mut self,
        text: &str,
        user: UserId,
        identity: Option<IdentityKey>,
        way: Way,
        reply: Reply<ContactView, ContactError>,
    ) {
        // Whoever is to be blocked is blocked, whatever has become of their key.
        let meant = self.linked_key(text).filter(|_| !matches!(way, Way::Block));
        let known = identity.or_else(|| self.known_identity(&user));
        match known {
            Some(identity) => {
                let outcome = self.refuse_other_key(&user, meant, |meant| *meant == identity).map_err(Into::into);
                let outcome = outcome.and_then(|()| self.carry_out(&user, identity, way));
                reply.send(outcome);
            }
            None => {
                let adding = Adding { user: user.clone(), meant, way, reply };
                self.resolve_user(&user, Waiter::Contact(Box::new(adding)));
            }
        }
    }

    /// The look-up for somebody who is being added has ended.
    pub(crate) fn contact_resolved(&mut self, adding: Adding, found: Result<&DirectoryRecord, ResolveError>) {
        let Adding { user, meant, way, reply } = adding;
        let outcome = match found {
            Ok(record) => {
                let outcome = self.refuse_other_key(&user, meant, |meant| record.is_successor_of(meant)).map_err(Into::into);
                outcome.and_then(|()| self.carry_out(&user, record.identity(), way))
            }
            // Somebody who can't be found can be blocked all the same.
            Err(_) if matches!(way, Way::Block) => self.act(&user, |roster, signer| roster.block(&user, None, signer)),
            Err(error) => Err(error.into()),
        };
        reply.send(outcome);
    }

    fn carry_out(&mut self, user: &UserId, identity: IdentityKey, way: Way) -> Result<ContactView, ContactError> {
        match way {
            Way::Ask { text } => self.ask_contact(user, identity, text),
            Way::Block => self.act(user, |roster, signer| roster.block(user, Some(identity), signer)),
        }
    }

    fn ask_contact(&mut self, user: &UserId, identity: IdentityKey, text: String) -> Result<ContactView, ContactError> {
        let asking = Asking { text, display_name: self.own_display_name() };
        self.act(user, |roster, signer| roster.ask(user, identity, asking, signer))
    }

    fn change_contact(&mut self, text: &str, change: ContactChange, reply: Reply<ContactView, ContactError>) {
        if change == ContactChange::Block {
            return match self.parse_user_or_link(text) {
                Ok((user, identity)) => self.with_identity(text, user, identity, Way::Block, reply),
                Err(error) => reply.send(Err(error)),
            };
        }
        let asking = Asking { text: String::new(), display_name: self.own_display_name() };
        let outcome = self.known(text).and_then(|user| match change {
            ContactChange::Accept => self.act(&user, |roster, signer| roster.accept(&user, signer)),
            ContactChange::Decline => self.act(&user, |roster, signer| roster.decline(&user, signer)),
            ContactChange::Remove => self.act(&user, |roster, signer| roster.remove(&user, signer)),
            ContactChange::Unblock => self.act(&user, |roster, _| roster.unblock(&user)),
            ContactChange::AcceptIdentity | ContactChange::Block => {
                self.act(&user, |roster, signer| roster.accept_identity(&user, asking, signer))
            }
        });
        reply.send(outcome);
    }

    /// Gives the roster an input of the person's, and shows what has come of it.
    fn act(
        &mut self,
        user: &UserId,
        input: impl FnOnce(
            &mut halloo_protocol::contact::Roster,
            &mut halloo_protocol::contact::Signer<'_>,
        ) -> Result<Standing, RosterError>,
    ) -> Result<ContactView, ContactError> {
        let outcome = self.run_roster(input).map_err(|error| internal(&error))?;
        outcome.map_err(|error| self.refusal(user, error))?;
        Ok(self.contact_view(user))
    }

    fn refusal(&self, user: &UserId, error: RosterError) -> ContactError {
        let username = self.labels.display(user);
        match error {
            RosterError::Unknown => ContactError::Unknown { username },
            RosterError::Full => ContactError::Full,
            RosterError::KeyChanged { .. } => ContactError::KeyChanged { username, reason: error.to_string() },
            RosterError::Invalid(error) => ContactError::Invalid { reason: error.to_string() },
            other => ContactError::State { username, reason: other.to_string() },
        }
    }

    /// `name@authority`, or a link with the key to expect.
    fn parse_user_or_link(&self, text: &str) -> Result<(UserId, Option<IdentityKey>), ContactError> {
        if !text.trim_start().starts_with("halloo:") {
            return Ok((self.parse_user_or_linked(text)?, None));
        }
        let link = ContactLink::parse(text).map_err(|error| ContactError::Link { reason: error.to_string() })?;
        if let UserId::Named { authority, .. } = &link.user
            && !self.trust.is_trusted(authority)
        {
            let authority = if link.label.is_empty() { authority.to_string() } else { format!("{} ({authority})", link.label) };
            return Err(UsernameError::UnknownAuthority { authority }.into());
        }
        Ok((link.user, Some(link.identity)))
    }

    /// A user's key, as far as it is known without asking anybody.
    pub(crate) fn known_identity(&self, user: &UserId) -> Option<IdentityKey> {
        match user {
            UserId::Key(identity) => Some(*identity),
            UserId::Named { .. } => {
                let shown = self.linked_identity(user).filter(|identity| self.is_vouched(user, identity));
                self.contact_identity(user).or(shown)
            }
        }
    }

    fn known(&self, text: &str) -> Result<UserId, ContactError> {
        let user = self.parse_user_or_linked(text)?;
        match self.contacts.roster.entry(&user) {
            Some(_) => Ok(user),
            None if self.linked_identity(&user).is_some() => Ok(user),
            None => Err(ContactError::Unknown { username: self.labels.display(&user) }),
        }
    }

    fn contact_list(&self) -> ContactList {
        let roster = &self.contacts.roster;
        let shown = roster.entries().filter(|entry| entry.standing() != Standing::Removed);
        let mut contacts: Vec<ContactView> = shown.map(|entry| self.contact_view(&entry.user)).collect();
        contacts.sort_by(|one, other| one.username.cmp(&other.username));
        let mut linked = self.linked_only();
        linked.sort_by(|one, other| one.username.cmp(&other.username));
        ContactList { key_epoch: roster.own().presence.epoch(), contacts, linked }
    }

    /// Somebody who is a contact in a linked system and nothing here.
    pub(crate) fn linked_view(&self, user: &UserId) -> ContactView {
        let identity = self.linked_identity(user).map(|identity| identity.to_string());
        ContactView { state: ContactState::Linked, identity, display_name: self.linked_name_of(user), ..self.contact_view(user) }
    }

    fn contact_view(&self, user: &UserId) -> ContactView {
        let entry = self.contacts.roster.entry(user);
        let standing = self.contacts.roster.standing(user);
        // What contacts say is shown while they are contacts.
        let is_contact = matches!(standing, Standing::Contact | Standing::Changed);
        let profile = entry.and_then(RosterEntry::profile).filter(|_| is_contact);
        let asked_name = entry.and_then(RosterEntry::asked_name).map(str::to_owned);
        let display_name = profile.map(|profile| profile.display_name.clone()).or(asked_name);
        let heard_at = entry.map(RosterEntry::heard_at).filter(|at| at.0 > 0);
        ContactView {
            username: self.labels.display(user),
            state: state(standing),
            identity: entry.and_then(RosterEntry::identity).map(|identity| identity.to_string()),
            changed_identity: entry.and_then(RosterEntry::changed).map(|identity| identity.to_string()),
            display_name: display_name.filter(|name| !name.is_empty()),
            mood: profile.map(|profile| profile.mood.clone()).filter(|mood| !mood.is_empty()),
            languages: profile.map(|profile| profile.languages.clone()).unwrap_or_default(),
            avatar: profile.and_then(|profile| profile.avatar).map(|hash| BASE64URL_NOPAD.encode(&hash)),
            text: entry.and_then(RosterEntry::asked_text).map(str::to_owned).filter(|text| !text.is_empty()),
            key_epoch: entry.map_or(0, RosterEntry::epoch),
            changed_at: heard_at.map(|at| Timestamp::from_unix_secs(at.0)),
            linked: self.linked_peers_of(user),
        }
    }

    fn contact_avatar(&self, text: &str) -> Result<AvatarView, ContactError> {
        let user = self.known(text)?;
        let unknown = || ContactError::Unknown { username: format!("a picture of {}", self.labels.display(&user)) };
        let profile = self.contacts.roster.entry(&user).and_then(RosterEntry::profile);
        let named = profile.and_then(|profile| profile.avatar).ok_or_else(unknown)?;
        let stored = self.store.read(|view| view.contact_avatar(&user)).map_err(|error: StoreError| internal(&error))?;
        let avatar = stored.filter(|bytes| Profile::avatar_hash(bytes) == named).ok_or_else(unknown)?;
        Ok(AvatarView { media_type: PNG.to_owned(), data: BASE64URL_NOPAD.encode(&avatar) })
    }

    fn link_of(&self, user: &UserId, identity: IdentityKey) -> Result<String, ContactError> {
        let label = match user {
            UserId::Named { authority, .. } => self.label_for_link(authority),
            UserId::Key(_) => String::new(),
        };
        let link = ContactLink { user: user.clone(), identity, label, extensions: Extensions::none() };
        link.to_text().map_err(|error| ContactError::Link { reason: error.to_string() })
    }

    fn label_for_link(&self, authority: &AuthorityKey) -> String {
        let mut label = self.labels.label_of(authority);
        label.truncate(label.floor_char_boundary(halloo_protocol::authority::LABEL_BYTES_MAX));
        label
    }

    fn contact_invite(&self) -> Result<ContactInvite, ContactError> {
        let (user, identity) = (self.identity.user_id(), self.identity.identity());
        let link = self.link_of(&user, identity)?;
        Ok(ContactInvite { link, username: self.labels.display(&user), identity: identity.to_string() })
    }

    fn fingerprint(&self, text: &str) -> Result<Fingerprint, ContactError> {
        let user = self.parse_user_or_linked(text)?;
        let username = self.labels.display(&user);
        let pinned = || self.store.read::<_, StoreError>(|view| view.pinned(&user)).ok().flatten().map(|pin| pin.identity);
        let identity = self.known_identity(&user).or_else(pinned);
        let identity = identity.ok_or(ContactError::Unknown { username: username.clone() })?;
        let own = self.identity.identity();
        let changed = self.contacts.roster.entry(&user).and_then(RosterEntry::changed);
        Ok(Fingerprint {
            username,
            own_identity: own.to_string(),
            identity: identity.to_string(),
            safety_number: SafetyNumber::of(&own, &identity).to_string(),
            changed_identity: changed.map(|changed| changed.to_string()),
            changed_safety_number: changed.map(|changed| SafetyNumber::of(&own, &changed).to_string()),
        })
    }

    fn export_contacts(&self) -> ContactBook {
        let mut book = ContactBook::default();
        for entry in self.contacts.roster.entries() {
            let Some(Ok(link)) = entry.identity().map(|identity| self.link_of(&entry.user, identity)) else { continue };
            match entry.standing() {
                Standing::Contact | Standing::Changed | Standing::Asked => book.contacts.push(link),
                Standing::Blocked => book.blocked.push(link),
                Standing::Requested | Standing::Declined | Standing::Removed => {}
            }
        }
        book
    }

    fn import_contacts(&mut self, book: ContactBook) -> Result<ContactImport, ContactError> {
        if book.contacts.len() + book.blocked.len() > IMPORT_MAX {
            return Err(ContactError::Invalid { reason: format!("more than {IMPORT_MAX} contacts") });
        }
        let mut outcome = ContactImport::default();
        for (link, is_blocked) in
            book.contacts.iter().map(|link| (link, false)).chain(book.blocked.iter().map(|link| (link, true)))
        {
            let parsed = match link.starts_with(CONTACT_LINK_PREFIX) {
                true => self.parse_user_or_link(link),
                false => Err(ContactError::Link { reason: "not a contact link".to_owned() }),
            };
            match parsed.and_then(|(user, identity)| self.import_contact(&user, identity, is_blocked, &mut outcome)) {
                Ok(()) => {}
                Err(error) => outcome.refused.push(error.to_string()),
            }
        }
        Ok(outcome)
    }

    fn import_contact(
        &mut self,
        user: &UserId,
        identity: Option<IdentityKey>,
        is_blocked: bool,
        outcome: &mut ContactImport,
    ) -> Result<(), ContactError> {
        let Some(identity) = identity else { return Ok(()) };
        let username = self.labels.display(user);
        if is_blocked {
            self.carry_out(user, identity, Way::Block)?;
            outcome.blocked.push(username);
        } else if matches!(self.contacts.roster.standing(user), Standing::Contact | Standing::Asked) {
            outcome.known.push(username);
        } else {
            self.ask_contact(user, identity, String::new())?;
            outcome.asked.push(username);
        }
        Ok(())
    }

    fn profile_view(&self) -> ProfileView {
        let Some(card) = &self.contacts.roster.own().profile else { return ProfileView::default() };
        let profile = card.profile.unverified();
        let avatar = card.avatar.as_ref();
        ProfileView {
            display_name: profile.display_name.clone(),
            mood: profile.mood.clone(),
            languages: profile.languages.clone(),
            avatar: avatar.map(|bytes| AvatarView { media_type: PNG.to_owned(), data: BASE64URL_NOPAD.encode(bytes) }),
        }
    }

    fn change_profile(&mut self, change: ProfileChange) -> Result<ProfileView, ContactError> {
        let invalid = |reason: String| ContactError::Invalid { reason };
        let card = self.contacts.roster.own().profile.clone();
        let old = card.as_ref().map(|card| card.profile.unverified().clone());
        let (name, mood, languages) = old.map(|old| (old.display_name, old.mood, old.languages)).unwrap_or_default();
        let kept = || card.and_then(|card| card.avatar).and_then(|bytes| Avatar::clean(&bytes).ok());
        let avatar = match change.avatar.as_deref() {
            None => kept(),
            Some("") => None,
            Some(text) => {
                let bytes = BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes());
                let bytes = bytes.map_err(|_| invalid("the picture isn't base64url".into()))?;
                Some(Avatar::clean(&bytes).map_err(|error| invalid(error.to_string()))?)
            }
        };
        let profile = Profile {
            sequence: 0,
            display_name: change.display_name.unwrap_or(name),
            mood: change.mood.unwrap_or(mood),
            languages: change.languages.unwrap_or(languages),
            avatar: None,
            extensions: Extensions::none(),
        };
        let outcome = self.run_roster(|roster, signer| roster.set_profile(profile, avatar, signer));
        outcome.map_err(|error| internal(&error))?.map_err(|error| invalid(error.to_string()))?;
        Ok(self.profile_view())
    }

    fn change_privacy(&mut self, change: PrivacyChange) -> Result<Privacy, ContactError> {
        let version = self.contacts.privacy_version.saturating_add(1).max(self.now().unix.0);
        let settings = changed(&self.contacts.privacy, change, version);
        settings.check().map_err(|error| ContactError::Invalid { reason: error.to_string() })?;
        self.set_privacy(version, settings).map_err(|error| internal(&error))?;
        Ok(privacy_view(&self.contacts.privacy))
    }

    /// Takes in the settings of another device of this user: the newer ones stay.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(crate) fn merge_privacy(&mut self, version: u64, settings: PrivacySettings) -> Result<(), StoreError> {
        if settings.check().is_err() {
            warn!("privacy settings of another device can't be used");
            return Ok(());
        }
        let rank = |version: u64, settings: &PrivacySettings| (version, wire::encode(settings));
        let own = rank(self.contacts.privacy_version, &self.contacts.privacy);
        if rank(version, &settings) > own { self.set_privacy(version, settings) } else { Ok(()) }
    }

    fn set_privacy(&mut self, version: u64, settings: PrivacySettings) -> Result<(), StoreError> {
        self.store.transaction::<_, StoreError>(|tx| {
            tx.put_setting_value(PRIVACY_VERSION, &version)?;
            tx.put_setting_value(PRIVACY, &settings)
        })?;
        self.contacts.privacy_version = version;
        let before = std::mem::replace(&mut self.contacts.privacy, settings);
        let (was_open, is_open) = (before.is_open(), self.contacts.privacy.is_open());
        if was_open != is_open {
            // Strangers find a way to wake this device in the entry, or no longer.
            self.publish_soon();
        }
        self.linked_scope_changed(&before);
        self.vault_changed();
        let pass_on = self.contacts.privacy.pass_on();
        self.run_roster(|roster, signer| roster.set_pass_on(pass_on, signer))
    }
}

/// The settings with a change made, which gets this version.
pub(super) fn changed(old: &PrivacySettings, change: PrivacyChange, version: u64) -> PrivacySettings {
    let said = change.pass_on.filter(|is_allowed| *is_allowed != old.pass_on().is_allowed);
    let pass_on = said.map_or(old.pass_on(), |is_allowed| PassOn { version, is_allowed });
    let settings = PrivacySettings {
        call: change.call.map_or(old.call, Into::into),
        video: change.video.map_or(old.video, Into::into),
        message: change.message.map_or(old.message, Into::into),
        file: change.file.map_or(old.file, Into::into),
        presence: change.presence.map_or(old.presence, Into::into),
        group: change.group.map_or(old.group, Into::into),
        receipts: change.receipts.unwrap_or(old.receipts),
        extensions: old.extensions.clone(),
    };
    settings.with_pass_on(pass_on)
}

fn privacy_view(settings: &PrivacySettings) -> Privacy {
    Privacy {
        call: settings.call.into(),
        video: settings.video.into(),
        message: settings.message.into(),
        file: settings.file.into(),
        presence: settings.presence.into(),
        group: settings.group.into(),
        receipts: settings.receipts,
        pass_on: settings.pass_on().is_allowed,
    }
}
